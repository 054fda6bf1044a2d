/**
 * Whatever a registration says, it is taken, or refused with errors that name its fields; what is refused changes nothing, neither in the
 * registry nor on disk. Over real sockets; `npm run soak` tries more of the same.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import fc from 'fast-check'
import t from 'tap'
import { startGateway, type ListeningGateway } from '../helpers/build-gateway.ts'
import { fakeClock } from '../helpers/fake-clock.ts'
import { runs, saySeed } from '../helpers/fuzz-runs.ts'

saySeed(t)

const unhandled: unknown[] = []
process.on('unhandledRejection', error => { unhandled.push(error) })
process.on('uncaughtException', error => { unhandled.push(error) })

const odd = fc.oneof(
  fc.constantFrom<unknown>(null, true, 0, -1, 1.5, 1e308, 2 ** 53, '', ' ', 'a', '*', '1s', '-1s', '/', [], {}, [[]], [null], '__proto__', 'constructor', 'x'.repeat(300), '\0', '\ud800', '\u202e', 'http://user:password@host/'),
  fc.jsonValue({ maxDepth: 2 }),
  fc.string({ unit: 'binary', maxLength: 20 })
)

/** Mostly what is right, so that what is wrong is found deep inside. */
function mostly<T> (good: fc.Arbitrary<T>): fc.Arbitrary<unknown> {
  return fc.oneof({ weight: 12, arbitrary: good }, { weight: 1, arbitrary: odd })
}

const name = fc.constantFrom('a', 'b', 'c', 'constructor', 'toString', 'file-agent', 'alias-of-file')
const duration = fc.constantFrom<unknown>('1s', '500ms', 2, 0.5, '1h')
const timeouts = fc.record({ connect: mostly(duration), response: mostly(duration), idle: mostly(duration), total: mostly(duration) }, { requiredKeys: [] })

/** Nothing is ever connected to: the clock stands still, so nobody probes. */
const host = fc.constantFrom('localhost', '127.0.0.1', '10.1.2.3', '::1', 'fd12::1', 'agent.internal', 'LOCALHOST.', '169.254.169.254', '0.0.0.0', '2130706433', '0x7f.1', '::ffff:7f00:1', 'metadata', 'a b', 'fe80::1%eth0')

const near = fc.record({
  name: mostly(name),
  host: mostly(host),
  port: mostly(fc.integer({ min: 1, max: 5 })),
  protocol: mostly(fc.constantFrom('http', 'https')),
  weight: mostly(fc.integer({ min: 1, max: 1_000 })),
  ttl: mostly(fc.constantFrom<unknown>('10s', 30, '1d')),
  aliases: mostly(fc.array(mostly(name), { maxLength: 3 })),
  friendly_names: mostly(fc.array(mostly(name), { maxLength: 3 })),
  metadata: mostly(fc.dictionary(fc.string({ maxLength: 5 }), fc.jsonValue({ maxDepth: 2 }), { maxKeys: 4 })),
  timeout: mostly(duration),
  timeouts: mostly(timeouts),
  retry: mostly(fc.record({ attempts: mostly(fc.constantFrom(0, 1)), statuses: mostly(fc.array(fc.integer({ min: 500, max: 599 }), { maxLength: 3 })), maxBodyBytes: mostly(fc.constantFrom<unknown>('1KiB', 10)) }, { requiredKeys: [] })),
  health: mostly(fc.record({ path: mostly(fc.constant('/health')), interval: mostly(duration), unhealthyAfter: mostly(fc.constantFrom(1, 3)) }, { requiredKeys: [] })),
  balancer: mostly(fc.record({ policy: mostly(fc.constantFrom('round-robin', 'hash')), hashOn: mostly(fc.constantFrom('address', 'cookie:id')), slowStart: mostly(duration) }, { requiredKeys: [] })),
  concurrency: mostly(fc.record({ max: mostly(fc.integer({ min: 1, max: 9 })), queue: mostly(fc.nat({ max: 9 })) }, { requiredKeys: [] })),
  paths: mostly(fc.array(fc.record({ prefix: mostly(fc.constantFrom('/', '/v1')), timeouts }), { maxLength: 2 })),
  preserveHost: mostly(fc.boolean()),
  rewriteLocation: mostly(fc.boolean())
}, { requiredKeys: ['name', 'port'] })

/** A further field, which JSON.parse() makes an own property whatever its name. */
const extra = fc.oneof({ weight: 6, arbitrary: fc.constant(undefined) }, { weight: 1, arbitrary: fc.tuple(fc.constantFrom('prot', '__proto__', 'constructor', 'prototype', 'toString', 'forwardAuthorization', 'rateLimit', 'trusted', 'source', 'instances', 'ttlMs', 'name', ''), odd) })

const nearText = fc.tuple(near, extra).map(([body, field]) => JSON.stringify(body).replace(/\}$/, field === undefined ? '}' : `,${JSON.stringify(field[0])}:${JSON.stringify(field[1])}}`))

const spoiltText = fc.tuple(nearText, fc.nat(), fc.nat({ max: 20 }), fc.oneof(fc.string({ maxLength: 4 }), fc.constantFrom('"', '{', '}', '[', ']', ',', ':', '\\', '\\u0000', '\\ud800', '1e999', 'null', '\0')))
  .map(([text, at, length, piece]) => text.slice(0, at % text.length) + piece + text.slice(at % text.length + length))

/** So that something is there to be changed. */
const goodText = fc.record({ name, port: fc.integer({ min: 1, max: 3 }), aliases: fc.uniqueArray(name, { maxLength: 2 }), metadata: fc.dictionary(fc.string({ maxLength: 3 }), fc.integer()) }, { requiredKeys: ['name', 'port'] }).map(good => JSON.stringify(good))

const body = fc.oneof(
  { weight: 4, arbitrary: goodText },
  { weight: 6, arbitrary: nearText },
  { weight: 2, arbitrary: spoiltText },
  { weight: 1, arbitrary: fc.json() },
  { weight: 1, arbitrary: fc.uint8Array({ maxLength: 500 }) }
)

const type = fc.oneof({ weight: 12, arbitrary: fc.constant('application/json') }, { weight: 1, arbitrary: fc.constantFrom(undefined, 'application/json; charset=utf-16', 'application/problem+json', 'text/plain', 'x', '; ;', 'application/json, text/plain') })

/** All that a refusal must leave as it is. How instances fare is not of it, and neither does anybody look while the clock stands still. */
async function seen (gateway: ListeningGateway, stateDir: string): Promise<string> {
  const kept = await readFile(join(stateDir, 'registry.json'), 'utf8').catch((error: NodeJS.ErrnoException) => error.code)
  return `${await (await fetch(`${gateway.origin}/registry`)).text()}\n${kept}\n${JSON.stringify(gateway.registry.exportState())}`
}

async function deregister (gateway: ListeningGateway, name: string): Promise<void> {
  await (await fetch(`${gateway.origin}/registry/${name}`, { method: 'DELETE' })).arrayBuffer()
}

interface Refusal { code?: unknown, errors?: { path?: unknown, message?: unknown }[] }

t.test('a registration is taken, or refused by the names of its fields and without a trace', async t => {
  const stateDir = join(t.testdir(), 'state')
  const gateway = await startGateway(t, { clock: fakeClock(), registry: { stateDir }, agents: [{ name: 'file-agent', port: 8_501, aliases: ['alias-of-file'] }] })
  const statuses: Record<string, number> = {}

  await fc.assert(fc.asyncProperty(body, type, fc.constantFrom('a', 'b', 'c', 'none', 'none', 'none'), async (content, contentType, leaving) => {
    await deregister(gateway, leaving)
    const before = await seen(gateway, stateDir)

    const reply = await fetch(`${gateway.origin}/registry/register`, { method: 'POST', ...(contentType !== undefined && { headers: { 'content-type': contentType } }), body: Buffer.from(content) })

    const text = await reply.text()
    statuses[reply.status] = (statuses[reply.status] ?? 0) + 1
    if (reply.status === 200 || reply.status === 201) {
      const { name, instance } = JSON.parse(text) as { name: string, instance: { id: string } }
      const kept = JSON.parse(await readFile(join(stateDir, 'registry.json'), 'utf8')) as { agents: { name: string }[] }
      if (!gateway.registry.get(name).instances.some(({ id }) => id === instance.id) || !kept.agents.some(agent => agent.name === name)) throw new Error(`taken and not there: ${text}`)
      return
    }
    if (![400, 409].includes(reply.status)) throw new Error(`${reply.status} ${text}`)
    const { code, errors } = JSON.parse(text) as Refusal
    if (code === 'FLEET_INVALID_REGISTRATION') {
      // Only what is no object has no field to name.
      const isObject = /^\s*\{/.test(Buffer.from(content).toString())
      if (!errors?.length || !errors.every(({ path, message }) => typeof path === 'string' && (path !== '' || !isObject) && typeof message === 'string' && message !== '')) throw new Error(`no field is named: ${text}`)
    } else if (code !== 'FLEET_BAD_REQUEST' && code !== 'FLEET_NAME_CONFLICT') throw new Error(`${reply.status} ${text}`)
    const after = await seen(gateway, stateDir)
    if (after !== before) throw new Error(`refused with ${text}, and it changed something:\n${before}\n${after}`)
  }), runs(400))

  t.comment(JSON.stringify(statuses))
  for (const status of [200, 201, 400, 409]) t.ok(statuses[status]! > 0, `some were ${status}`)
  t.equal((await fetch(`${gateway.origin}/health`)).status, 200)
  t.same(unhandled, [])
  t.equal(({} as { polluted?: unknown }).polluted, undefined)
})

t.test('names are taken once, whoever claims them at the same moment and in whichever way', async t => {
  const stateDir = join(t.testdir(), 'state')
  const gateway = await startGateway(t, { clock: fakeClock(), registry: { stateDir } })
  const claim = fc.record({ name: fc.constantFrom('a', 'b', 'c', 'd'), aliases: fc.uniqueArray(fc.constantFrom('a', 'b', 'c', 'd', 'x', 'y'), { maxLength: 2 }), port: fc.integer({ min: 1, max: 3 }) })

  await fc.assert(fc.asyncProperty(fc.array(claim, { minLength: 2, maxLength: 8 }), async claims => {
    for (const name of [...gateway.registry.agents()].map(agent => agent.name)) await deregister(gateway, name)

    const replies = await Promise.all(claims.map(each => fetch(`${gateway.origin}/registry/register`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(each) })))

    await Promise.all(replies.map(reply => reply.arrayBuffer()))
    for (const [index, { status }] of replies.entries()) {
      if (![200, 201, 409].includes(status)) throw new Error(`${status} for ${JSON.stringify(claims[index])}`)
      const { name } = claims[index]!
      if (status !== 409 && gateway.registry.find(name)?.name !== name) throw new Error(`${name} was taken and is not there`)
    }
    const claimed = [...gateway.registry.agents()].flatMap(({ name, aliases }) => [name, ...aliases])
    if (new Set(claimed).size !== claimed.length) throw new Error(`a name belongs to two: ${claimed.join()}`)
    const kept = JSON.parse(await readFile(join(stateDir, 'registry.json'), 'utf8')) as unknown
    if (JSON.stringify(kept) !== JSON.stringify(gateway.registry.exportState())) throw new Error('on disk it is another')
  }), runs(60))

  t.pass('no name was taken twice')
})
