/** src/agent-options.ts: what fleet.yaml's entries and registrations ask of the registry. */
import t from 'tap'
import { FileAgentOptions, RegistrationOptions, toAgentDefinitions, toRegistration, type FileAgentInput } from '../src/agent-options.ts'
import { agentProblems } from '../src/agent-rules.ts'
import { Type, parseOptions } from '../src/options.ts'

function definitionsOf (...agents: FileAgentInput[]) {
  return toAgentDefinitions(parseOptions(Type.Array(FileAgentOptions), agents, 'agents'))
}

function registrationOf (body: Record<string, unknown>) {
  return toRegistration(parseOptions(RegistrationOptions, body, ''))
}

t.test('an entry is an agent with one instance, with defaults', async t => {
  t.strictSame(definitionsOf({ name: 'a', port: 1 }), [
    { name: 'a', instances: [{ host: 'localhost', port: 1, protocol: 'http', weight: 1 }] }
  ])
})

t.test('an entry may list instances, and give them what they do not say themselves', async t => {
  t.strictSame(definitionsOf({ name: 'a', protocol: 'https', weight: 2, instances: [{ port: 1 }, { host: 'H.internal', port: 2, protocol: 'http', weight: 3 }] }), [
    { name: 'a', instances: [{ host: 'localhost', port: 1, protocol: 'https', weight: 2 }, { host: 'h.internal', port: 2, protocol: 'http', weight: 3 }] }
  ])
})

t.test('an agent may have no instances at all', async t => {
  t.strictSame(definitionsOf({ name: 'a', instances: [] }), [{ name: 'a', instances: [] }])
})

t.test('entries of one name are one agent, in the order of the first, with the settings of all', async t => {
  const definitions = definitionsOf(
    { name: 'a', port: 1, timeout: '1s', metadata: { x: 1 } },
    { name: 'b', port: 2 },
    { name: 'a', host: '0:0::1', port: 3, aliases: ['c'], timeout: '1s' }
  )

  t.strictSame(definitions, [
    {
      name: 'a',
      metadata: { x: 1 },
      policy: { timeouts: { response: 1_000 } },
      aliases: ['c'],
      instances: [{ host: 'localhost', port: 1, protocol: 'http', weight: 1 }, { host: '::1', port: 3, protocol: 'http', weight: 1 }]
    },
    { name: 'b', instances: [{ host: 'localhost', port: 2, protocol: 'http', weight: 1 }] }
  ])
})

t.test('policies of several entries add up', async t => {
  const [definition] = definitionsOf({ name: 'a', port: 1, preserveHost: true }, { name: 'a', port: 2, retry: { attempts: 0 } })

  t.strictSame(definition?.policy, { preserveHost: true, retry: { attempts: 0 } })
})

t.test('friendly_names are aliases; the own name and repetitions are none', async t => {
  t.strictSame(definitionsOf({ name: 'a', port: 1, friendly_names: ['x', 'a', 'x', 'y'] })[0]?.aliases, ['x', 'y'])
  t.strictSame(definitionsOf({ name: 'a', port: 1, aliases: [] })[0]?.aliases, [])
})

t.test('a policy has exactly what is given', async t => {
  const [definition] = definitionsOf({
    name: 'a',
    port: 1,
    timeout: '2s',
    timeouts: { connect: '1s' },
    retry: { attempts: 0, maxBodyBytes: '1KiB' },
    health: { path: '/h', interval: '1s' },
    rateLimit: { perMinute: 5 },
    forwardAuthorization: false,
    preserveHost: true,
    rewriteLocation: false
  })

  t.strictSame(definition?.policy, {
    timeouts: { connect: 1_000, response: 2_000 },
    retry: { attempts: 0, maxBodyBytes: 1_024 },
    health: { path: '/h', interval: 1_000 },
    rateLimit: { perMinute: 5 },
    forwardAuthorization: false,
    preserveHost: true,
    rewriteLocation: false
  })
})

t.test('names of every object are ordinary names', async t => {
  t.same(definitionsOf({ name: 'constructor', port: 1 }, { name: 'toString', port: 2 }).map(({ name }) => name), ['constructor', 'toString'])
})

t.test('a registration has defaults, and what it does not say is not said', async t => {
  t.strictSame(registrationOf({ name: 'a', port: 1 }), { name: 'a', host: 'localhost', port: 1 })
})

t.test('a registration is read in full', async t => {
  const registration = registrationOf({
    name: 'a', host: 'LOCALHOST', port: 1, protocol: 'https', weight: 3, aliases: ['b'], metadata: { x: [1] }, ttl: 30, timeout: 1.5, timeouts: { idle: '1m' }, health: { path: '/h', interval: 2 }, retry: { statuses: [503] }, preserveHost: true, rewriteLocation: true
  })

  t.strictSame(registration, {
    name: 'a',
    host: 'localhost',
    port: 1,
    protocol: 'https',
    weight: 3,
    aliases: ['b'],
    metadata: { x: [1] },
    policy: { timeouts: { idle: 60_000, response: 1_500 }, retry: { statuses: [503] }, health: { path: '/h', interval: 2_000 }, preserveHost: true, rewriteLocation: true },
    ttlMs: 30_000
  })
})

t.test('durations of a registration are text or seconds', async t => {
  t.equal(registrationOf({ name: 'a', port: 1, ttl: '2m' }).ttlMs, 120_000)
  t.throws(() => registrationOf({ name: 'a', port: 1, ttl: 0.5 }))
})

t.test('fields of a registration that contradict each other are named', async t => {
  t.throws(() => registrationOf({ name: 'a', port: 1, aliases: ['x'], friendly_names: ['y'], timeout: 1, timeouts: { response: 1 } }), {
    code: 'FLEET_INVALID_REGISTRATION',
    statusCode: 400,
    errors: [
      { path: 'friendly_names', message: 'is another word for aliases, and they differ' },
      { path: 'timeout', message: 'is short for timeouts.response, which is given too' }
    ]
  })
})

t.test('the same aliases under both words are no contradiction, in whatever order', async t => {
  t.strictSame(registrationOf({ name: 'a', port: 1, aliases: ['x', 'y'], friendly_names: ['y', 'x'] }).aliases, ['x', 'y'])
})

t.test('what would hand secrets to an agent is not for registrations', async t => {
  t.throws(() => registrationOf({ name: 'a', port: 1, forwardAuthorization: true }), { name: 'OptionsError' })
  t.throws(() => registrationOf({ name: 'a', port: 1, rateLimit: {} }), { name: 'OptionsError' })
})

t.test('entries of one agent that agree are fine', async t => {
  const agents: FileAgentInput[] = [
    { name: 'a', port: 1, timeout: '1s', aliases: ['x', 'y'], metadata: { m: 1 } },
    { name: 'a', port: 2, timeouts: { response: '1s' }, friendly_names: ['y', 'x'] },
    { name: 'a', host: '127.0.0.1', port: 1, metadata: { m: 1 } },
    { name: 'b', port: 1, aliases: ['b'] }
  ]

  t.same(agentProblems(agents, () => true), [])
})

t.test('what is no list of agents is left to the schema', async t => {
  t.same(agentProblems({ a: 1 }, () => true), [])
  t.same(agentProblems([null, 7], () => false), [])
})
