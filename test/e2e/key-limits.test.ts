/** Limits of single keys: each has a bucket of its own, of the size that the key says, and a reload changes that. */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { startGateway, unprobed } from '../helpers/build-gateway.ts'
import { fakeAgent } from '../helpers/fake-agent.ts'
import { fakeClock } from '../helpers/fake-clock.ts'

const limited = '{id: limited, token: token-of-limited, scopes: [proxy], rateLimit: {perMinute: 60, burst: 2}}'
const free = '{id: free, token: token-of-free, scopes: [proxy], rateLimit: {enabled: false}}'
const usual = '{id: usual, token: token-of-usual, scopes: [proxy]}'

async function fleet (t: Test, keys: string, rateLimit = '{perMinute: 60, burst: 3}') {
  const agent = await fakeAgent(t, (_request, response) => response.end('ok'))
  const clock = fakeClock()
  const file = join(t.testdir({ 'fleet.yaml': '' }), 'fleet.yaml')
  const write = (list: string) => writeFile(file, `agents:\n  - {name: planner, host: 127.0.0.1, port: ${agent.port}}\nrateLimit: ${rateLimit}\nauth: {secret: the-shared-secret, keys: [${list}]}\n`)
  await write(keys)
  const gateway = await startGateway(t, { ...unprobed, auth: { enabled: true }, rateLimit: { enabled: true }, file, clock })
  const ask = (token: string) => fetch(`${gateway.origin}/api/planner/x`, { headers: { authorization: `Bearer ${token}` } })
  return {
    gateway,
    clock,
    ask,
    async become (list: string) {
      await write(list)
      t.equal(await gateway.discovery.reload(), true)
    },
    /** How many pass before the first 429, at most eight. */
    async passes (token: string): Promise<number> {
      for (let count = 0; count < 8; count++) {
        if ((await ask(token)).status === 429) return count
      }
      return 8
    }
  }
}

t.test('a key\'s own limit counts for it alone; others have the gateway\'s, or none', async t => {
  const { passes, ask, clock } = await fleet(t, [limited, free, usual].join(', '))

  t.equal(await passes('token-of-limited'), 2)
  t.equal(await passes('token-of-usual'), 3)
  t.equal(await passes('token-of-free'), 8)
  t.equal(await passes('the-shared-secret'), 3, 'by address')
  clock.advance(1_000)
  t.equal(await passes('token-of-limited'), 1, 'one a second comes back')
  const refused = await ask('token-of-limited')
  t.equal(refused.status, 429)
  t.equal(refused.headers.get('retry-after'), '1')
  t.match(refused.headers.get('ratelimit-policy'), '"default";q=2;w=2')
})

t.test('the key is the client, however its token is sent', async t => {
  const { gateway, passes } = await fleet(t, limited)
  t.equal(await passes('token-of-limited'), 2)

  const { status } = await fetch(`${gateway.origin}/api/planner/x`, { headers: { 'x-fleet-token': 'token-of-limited' } })

  t.equal(status, 429)
})

t.test('a reload changes the limit, and empties nobody\'s bucket nor fills it', async t => {
  const { become, passes, clock } = await fleet(t, limited)
  t.equal(await passes('token-of-limited'), 2)

  await become(limited.replace('burst: 2', 'burst: 5'))
  const atOnce = await passes('token-of-limited')
  clock.advance(60_000)

  t.ok(atOnce <= 3, `${atOnce}: what was taken stays taken`)
  t.equal(await passes('token-of-limited'), 5)
  await become(limited.replace(', rateLimit: {perMinute: 60, burst: 2}', ''))
  clock.advance(60_000)
  t.equal(await passes('token-of-limited'), 3, 'the gateway\'s again')
})

t.test('a token that is rotated under one id shares its bucket', async t => {
  const { become, passes } = await fleet(t, limited)
  t.equal(await passes('token-of-limited'), 2)

  await become(limited.replace('token-of-limited', 'token-of-rotated'))

  t.equal(await passes('token-of-rotated'), 0)
})
