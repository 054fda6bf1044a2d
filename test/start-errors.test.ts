/** What `check` finds is what stops a start, and nothing else does: configurations at random, each tried on the gateway itself. */
import { join } from 'node:path'
import fc from 'fast-check'
import t from 'tap'
import { ConfigError, parseConfig, type FleetConfig } from '../src/config.ts'
import { createGateway, startErrors } from '../src/gateway.ts'
import { runs } from './helpers/fuzz-runs.ts'

/** As `check` and `serve` find it. */
function foundBefore (input: object): boolean {
  let config: FleetConfig
  try {
    config = parseConfig(input)
  } catch (error) {
    if (error instanceof ConfigError) return true
    throw error
  }
  return startErrors(config).length > 0
}

t.test('whatever is found before the start stops it, and nothing else does', async t => {
  const folder = t.testdir({ token: 'a-token-in-a-file\n', other: 'another-token\n', short: 'abc\n', 'audit.log': '', sub: {} })
  const at = (name: string) => join(folder, name)
  /** Sound nearly always, so that what is wrong is a single thing mostly. */
  const rarely = <T>(sound: readonly T[], wrong: readonly T[]) => fc.oneof({ arbitrary: fc.constantFrom(...sound), weight: 9 }, { arbitrary: fc.constantFrom(...wrong), weight: 1 })
  const optional = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { nil: undefined })
  const file = rarely([at('token'), at('other')], [at('short'), at('missing'), folder])
  const token = rarely(['a-secret-of-its-own', 'a-third-token'], ['a-token-in-a-file', 'short'])
  const key = fc.oneof(
    fc.record({ id: fc.constantFrom('a', 'b', 'c', 'd', 'e'), scopes: rarely([['read'], ['admin']], [[]]), token }),
    fc.record({ id: rarely(['f', 'g', 'h'], ['not an id']), scopes: fc.constant(['read']), tokenFile: file }),
    fc.record({ id: fc.constantFrom('i', 'j', 'k'), scopes: fc.constant(['read']), tokenSha256: rarely(['ab'.repeat(32), 'cd'.repeat(32)], ['cd']) }),
    { arbitrary: fc.record({ id: fc.constant('l'), scopes: fc.constant(['read']), token, tokenFile: file }), weight: 1 }
  )
  const config = fc.record({
    agents: optional(fc.uniqueArray(fc.record({ name: rarely(['a', 'b', 'c'], ['a b']), port: rarely([1, 2, 3], [0]), aliases: rarely([[], ['x']], [['a']]) }), { maxLength: 2, selector: ({ name }) => name })),
    server: optional(fc.record({ host: rarely(['::1', '10.0.0.1'], ['a b']), trustedProxies: rarely([[], ['10.0.0.0/8', '::1'], ['::ffff:10.0.0.0/104']], [['10.0.0.0/33'], ['fe80::1%eth0']]), bodyLimit: rarely<number | string>([1, '1KiB'], [0]) }, { requiredKeys: [] })),
    auth: fc.record({ enabled: fc.boolean(), secret: token, secretFile: file, keys: fc.array(key, { maxLength: 2 }) }, { requiredKeys: ['secret'] }),
    cors: optional(fc.record({ enabled: fc.boolean(), origins: rarely([['https://a.example'], ['null']], [['*'], ['a.example']]), credentials: fc.boolean(), headers: rarely([['X-A']], [['a b'], ['ü']]), maxAge: fc.constantFrom<number | string>('1m', 0) }, { requiredKeys: ['origins'] })),
    rateLimit: optional(fc.record({ enabled: fc.boolean(), burst: rarely([1, 1_000_000], [0]), perMinute: fc.constantFrom(1, 7, 60_000_000) }, { requiredKeys: [] })),
    balancer: optional(fc.record({ policy: rarely(['hash'], ['p2c', 'none']), hashOn: rarely(['address', 'header:X-A'], ['header: ']) })),
    registry: optional(fc.record({ allowedHosts: rarely([['.internal'], ['10.0.0.0/8']], [['*']]), maxAgents: rarely([1], [0]) }, { requiredKeys: [] })),
    health: optional(fc.record({ path: rarely(['/'], ['health']), interval: rarely(['1h'], ['1ms']) }, { requiredKeys: [] })),
    auditLog: fc.record({ enabled: fc.boolean(), file: rarely([at('audit.log'), at('sub/deep/audit.log')], [at('token/audit.log'), folder]) })
  }, { requiredKeys: ['auth', 'auditLog'] })
  let [good, bad] = [0, 0]

  await fc.assert(fc.asyncProperty(config, async input => {
    const isFound = foundBefore(input)
    const gateway = await createGateway(input as object).catch((error: unknown) => error)
    if (gateway instanceof Error) {
      if (!(gateway instanceof ConfigError)) throw gateway
      bad++
      return isFound
    }
    good++
    await (gateway as Awaited<ReturnType<typeof createGateway>>).close()
    return !isFound
  }), runs(300))

  t.ok(good >= 20 && bad >= 20, `${good} good ones, ${bad} bad ones`)
})
