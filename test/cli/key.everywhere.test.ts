/** `fleet-gateway key revoke --everywhere`: a gateway first, then the file; and what is said where one of the two can't be done. */
import { createHash } from 'node:crypto'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { FleetGatewayOptions } from '../../src/gateway.ts'
import { startGateway } from '../helpers/build-gateway.ts'
import { deadPort, fakeAgent } from '../helpers/fake-agent.ts'
import { noRedis, startRedis } from '../helpers/redis-server.ts'
import { runCommand } from '../helpers/run-command.ts'

const sha256 = (text: string) => createHash('sha256').update(text).digest('hex')
const secret = 'fleet-secret-token'
const entryOf = (id: string) => `    - {id: ${id}, tokenSha256: ${sha256(`token-of-${id}`)}, scopes: [read]}\n`
const textWith = (...ids: string[]) => `# ours\nauth:\n  keys:\n${ids.map(entryOf).join('')}`

/** A gateway with the keys `bot` and `other`, and a file beside the commands, which need not be the gateway's. */
async function scene (t: Test, text: string, options: FleetGatewayOptions = {}) {
  const gateway = await startGateway(t, { auth: { secret, keys: ['bot', 'other'].map(id => ({ id, token: `token-of-${id}`, scopes: ['read' as const] })) }, ...options })
  const file = join(t.testdir({ 'fleet.yaml': text }), 'fleet.yaml')
  const env = { FLEET_URL: gateway.origin, FLEET_SECRET: secret }
  return {
    gateway,
    file,
    textOf: () => readFile(file, 'utf8'),
    revoke: (id: string, args: string[] = [], more: Record<string, string> = {}) => runCommand(['key', 'revoke', id, '--everywhere', '--fleet', file, ...args], { env: { ...env, ...more } }),
    status: async (id: string) => (await gateway.inject({ url: '/agents', headers: { authorization: `Bearer token-of-${id}` } })).statusCode
  }
}

t.test('the gateway refuses it, and the file has it no more', async t => {
  const { gateway, revoke, status, textOf } = await scene(t, textWith('bot', 'other'))

  const { code, stdout, stderr } = await revoke('bot')

  t.equal(code, 0, stderr)
  t.equal(stdout, '')
  t.equal(stderr.split('\n')[0], `The gateway at ${gateway.origin} refuses the key "bot" from now on; it shares no Redis with others, so no other one was told`)
  t.match(stderr, /fleet\.yaml has no key "bot" any more\. Streams that are open go on\n/)
  t.same([await status('bot'), await status('other')], [401, 200])
  t.equal(await textOf(), textWith('other'))
})

t.test('with Redis, that all gateways on it refuse it', { skip: noRedis }, async t => {
  const redis = await startRedis(t)
  const { gateway, revoke, file } = await scene(t, textWith('bot', 'other'), { redis: { url: redis.url } })

  t.match(await revoke('bot'), { code: 0, stderr: new RegExp(`^All gateways that share a Redis with the one at ${gateway.origin} refuse the key "bot" from now on; where other files have it, take it out there, too\n`) })
  t.same(JSON.parse((await revoke('other', ['--json'])).stdout), { id: 'other', revoked: true, keys: 0, file, shared: true, gateway: gateway.origin })
})

t.test('where the file has no such key, or is missing, the gateway alone is asked', async t => {
  const { gateway, revoke, status, file, textOf } = await scene(t, textWith('other'))

  t.match(await revoke('bot'), { code: 0, stderr: /refuses the key "bot" from now on[^]*fleet\.yaml has no such key, so nothing was to be taken out there\n$/ })
  t.equal(await status('bot'), 401)
  t.equal(await textOf(), textWith('other'))
  const missing = join(t.testdirName, 'none.yaml')
  t.match(await revoke('other', ['--fleet', missing, '--json']), { code: 0, stdout: `{\n  "id": "other",\n  "revoked": true,\n  "keys": 0,\n  "file": ${JSON.stringify(missing)},\n  "gateway": "${gateway.origin}",\n  "shared": false\n}\n` })
  t.equal(await status('other'), 401)
  t.ok(file)
})

t.test('where the gateway does not do it, the file stays as it is, and that is said', async t => {
  const text = textWith('bot', 'other', 'unknown')
  const { revoke, status, textOf } = await scene(t, text)
  const cases: [id: string, args: string[], env: Record<string, string>, message: RegExp][] = [
    ['unknown', [], {}, /^No key is configured as "unknown"\n.*fleet\.yaml is as it was, and has the key "unknown"\n$/],
    ['bots', [], {}, /^No key is configured as "bots"; did you mean "bot"\?\n.*fleet\.yaml is as it was\n$/],
    ['bot', [], { FLEET_SECRET: 'a-wrong-secret' }, /does not take the token from FLEET_SECRET[^]*is as it was, and has the key "bot"\n$/],
    ['bot', ['--secret', 'token-of-other'], {}, /This needs the scope "admin"[^]*is as it was, and has the key "bot"\n$/],
    ['bot', ['--url', `http://127.0.0.1:${await deadPort()}`], {}, /No gateway listens at[^]*is as it was, and has the key "bot"\n$/]
  ]

  for (const [id, args, env, message] of cases) t.match(await revoke(id, args, env), { code: 1, stdout: '', stderr: message }, message.source)

  t.equal(await textOf(), text)
  t.equal(await status('bot'), 200)
})

t.test('what the gateway could not tell others yet is no success, and can be asked for again', async t => {
  const text = textWith('bot')
  let answers = 0
  const stub = await fakeAgent(t, (_request, response) => {
    const [status, type, body] = answers++ === 0
      ? [503, 'application/problem+json', { type: '', title: 'The change can not be kept', status: 503, detail: 'The key "bot" is refused here from now on; the other gateways could not be told yet', instance: '', code: 'FLEET_NOT_KEPT', error: '' }] as const
      : [200, 'application/json', { message: 'revoked bot', id: 'bot', shared: true }] as const
    response.writeHead(status, { 'content-type': type }).end(JSON.stringify(body))
  })
  const { revoke, textOf } = await scene(t, text)

  t.match(await revoke('bot', ['--url', stub.origin]), { code: 1, stderr: /^The key "bot" is refused here from now on; the other gateways could not be told yet\n.*is as it was, and has the key "bot"\n$/ })
  t.equal(await textOf(), text)
  t.match(await revoke('bot', ['--url', stub.origin]), { code: 0 })
  t.equal(await textOf(), '# ours\nauth:\n  keys: []\n')
  t.same(stub.requests, ['DELETE /keys/bot', 'DELETE /keys/bot'])
})

t.test('where the file can\'t be changed, it is said what is done and what is left to do', async t => {
  const text = 'auth:\n  keys:\n    - &first {id: bot, token: token-of-bot, scopes: &may [read]}\n    - {id: other, token: token-of-other, scopes: *may}\n'
  const { revoke, status, textOf } = await scene(t, text)

  t.match(await revoke('bot'), { code: 1, stderr: /refuses the key "bot" from now on[^]*fleet\.yaml was not changed: [^]*The key is refused all the same; remove the entry "bot" of auth\.keys by hand\n$/ })

  t.equal(await status('bot'), 401)
  t.equal(await textOf(), text)
})

t.test('a file that is no good is said before anything is done', async t => {
  const { revoke, status, file } = await scene(t, '')
  await writeFile(file, 'agents: [\n')

  t.match(await revoke('bot'), { code: 1, stderr: /is not valid; nothing was changed/ })

  t.equal(await status('bot'), 200)
})

t.test('without the option no gateway is asked; where there is a Redis, that is said', async t => {
  const { file, status } = await scene(t, `redis: {url: 'redis://127.0.0.1'}\n${textWith('bot', 'other', 'third')}`)
  const plain = (id: string, env: Record<string, string> = {}, ...args: string[]) => runCommand(['key', 'revoke', id, '--fleet', file, ...args], { env })

  t.match(await plain('bot'), { code: 0, stderr: /has no key "bot" any more[^]*Other gateways on the same Redis go by files of their own\. Where one has the key still, .*fleet-gateway key revoke bot --everywhere --url ITS-ADDRESS\n$/ })
  t.equal(await status('bot'), 200)
  await writeFile(file, textWith('other', 'third'))
  t.notMatch((await plain('other')).stderr, /--everywhere/)
  t.match((await plain('third', { FLEET_REDIS_URL: 'redis://127.0.0.1' })).stderr, /--everywhere/)
  t.match(await plain('third', {}, '--url', 'http://127.0.0.1:9'), { code: 2, stderr: /--url, --ca and --secret are for --everywhere/ })
})
