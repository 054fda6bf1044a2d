/** What is wrong with options in code: one kind of error, with the path, what is wrong, and the name that was meant. */
import { join } from 'node:path'
import Fastify, { type FastifyInstance } from 'fastify'
import t from 'tap'
import auditLog from '../plugins/audit-log/index.ts'
import cors from '../plugins/cors/index.ts'
import discovery from '../plugins/discovery/index.ts'
import facts from '../plugins/facts/index.ts'
import proxy from '../plugins/proxy/index.ts'
import registry from '../plugins/registry/index.ts'
import upstream from '../plugins/upstream/index.ts'
import { ConfigError, OptionsError, createGateway, fleetGateway, type ConfigProblem } from '../src/index.ts'

/** What is wrong, as an embedder gets it. */
async function problemsOf (options: object): Promise<readonly ConfigProblem[]> {
  const gateway = await createGateway({ auditLog: { enabled: false }, auth: { enabled: false }, ...options }).catch((error: unknown) => error)
  if (!(gateway instanceof ConfigError)) throw gateway instanceof Error ? gateway : new Error('it was taken')
  return gateway.problems
}

t.test('a name that code alone knows is suggested in code, beside those of fleet.yaml', async t => {
  const cases: [options: object, path: string, nearest: string][] = [
    [{ upstreamclient: 'undici' }, 'upstreamclient', 'upstreamClient'],
    [{ timeouts: { idle: '1m' }, auditDestintion: {} }, 'auditDestintion', 'auditDestination'],
    [{ ratelimit: {} }, 'ratelimit', 'rateLimit'],
    [{ onStreamd: () => {} }, 'onStreamd', 'onStreamed'],
    [{ balancer: { pik: () => undefined } }, 'balancer.pik', 'pick'],
    [{ balancer: { polcy: 'hash' } }, 'balancer.polcy', 'policy'],
    [{ rateLimit: { brust: 1 } }, 'rateLimit.brust', 'burst']
  ]
  for (const [options, path, nearest] of cases) {
    t.same(await problemsOf(options), [{ path, message: `unknown key, did you mean "${nearest}"?`, nearest }], path)
  }
})

t.test('everything comes at once, and what is of the file has its place there, what is of code has none', async t => {
  const file = join(t.testdir({ 'fleet.yaml': 'agents:\n  - {name: a, port: 1}\nupstreamclient: own\n' }), 'fleet.yaml')

  t.same(await problemsOf({ file, upstreamclint: 'own', server: { prot: 1 }, rateLimit: { burst: 0 } }), [
    { path: 'upstreamclint', message: 'unknown key, did you mean "upstreamClient"?', nearest: 'upstreamClient' },
    { path: 'server.prot', message: 'unknown key, did you mean "port"?', nearest: 'port' },
    { path: 'rateLimit.burst', message: 'must be >= 1 (got 0)' },
    { file, line: 3, column: 1, path: 'upstreamclient', message: 'unknown key' }
  ])
})

t.test('values that only code gives are looked at', async t => {
  const folder = t.testdir({})
  const cases: [options: object, problem: { path: string, message: RegExp | string }][] = [
    [{ file: '' }, { path: 'file', message: 'must be the name of a file' }],
    [{ file: 7 }, { path: 'file', message: 'must be the name of a file' }],
    [{ env: 'HOME' }, { path: 'env', message: /object with texts/ }],
    [{ notFound: 'yes' }, { path: 'notFound', message: 'must be true or false' }],
    [{ clock: { now: Date.now } }, { path: 'clock', message: /now\(\), after\(\) and every\(\)/ }],
    [{ onStreamed: true }, { path: 'onStreamed', message: 'must be a function' }],
    [{ auditDestination: () => {} }, { path: 'auditDestination', message: 'must have write()' }],
    [{ fallbackSecret: 7 }, { path: 'fallbackSecret', message: 'must be a text' }],
    [{ upstreamClient: 'Undici' }, { path: 'upstreamClient', message: /must be one of own, undici \(got "Undici"\)/ }],
    [{ auth: {} }, { path: 'auth', message: /needs a secret/ }],
    [{ auth: { secretFile: 'nowhere.txt' } }, { path: 'auth.secretFile', message: /can not be read: ENOENT/ }],
    [{ auditLog: { file: folder } }, { path: 'auditLog.file', message: /can't be written/ }]
  ]
  for (const [options, problem] of cases) t.match(await problemsOf(options), [problem], JSON.stringify(options))
  t.match(await problemsOf({ notFound: 1, onStreamed: 1 }), [{ path: 'notFound' }, { path: 'onStreamed' }], 'all at once')
})

t.test('what is undefined is left out', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  const options = { auth: { enabled: false }, auditLog: { enabled: false }, file: undefined, env: undefined, clock: undefined, upstreamClient: undefined, balancer: undefined }

  await t.resolves(async () => { await app.register(fleetGateway, options as object) })
})

t.test('a plugin alone throws the same kind of error, with whole paths, and knows the names of its seams', async t => {
  const cases: [register: (app: FastifyInstance) => PromiseLike<unknown>, problem: ConfigProblem][] = [
    [app => app.register(auditLog, { destinaton: {} } as object), { path: 'auditLog.destinaton', message: 'unknown key, did you mean "destination"?', nearest: 'destination' }],
    [app => app.register(cors, { loopbackonly: true } as object), { path: 'cors.loopbackonly', message: 'unknown key, did you mean "loopbackOnly"?', nearest: 'loopbackOnly' }],
    [app => app.register(discovery, { laod: 1 } as object), { path: 'discovery.laod', message: 'unknown key, did you mean "load"?', nearest: 'load' }],
    [app => app.register(proxy, { upstreamclient: 'own' } as object), { path: 'upstreamclient', message: 'unknown key, did you mean "upstreamClient"?', nearest: 'upstreamClient' }],
    [app => app.register(registry, { maxAgents: 0 }), { path: 'registry.maxAgents', message: 'must be >= 1 (got 0)' }]
  ]
  for (const [register, problem] of cases) {
    const app = Fastify()
    t.teardown(() => app.close())
    for (const needed of problem.path.startsWith('registry') ? [] : [facts, registry, upstream]) await app.register(needed)
    const error = await Promise.resolve().then(() => register(app)).then(() => undefined, (error: unknown) => error)
    t.ok(error instanceof OptionsError && error instanceof ConfigError, problem.path)
    t.same((error as ConfigError).problems, [problem])
    t.equal((error as OptionsError).errors[0]?.path, problem.path.slice(problem.path.indexOf('.') + 1))
    t.equal(String(error), `${problem.path} ${problem.message}`)
  }
})
