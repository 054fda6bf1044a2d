/** How two configurations differ, in words. */
import t from 'tap'
import { FleetOptions, parseConfig, type FleetConfigInput } from '../src/config.ts'
import { settingChanges, waitsForRestart } from '../src/config-changes.ts'
import { withoutPasswords, withoutSecrets } from '../src/secret-fields.ts'

function changes (before: FleetConfigInput, after: FleetConfigInput): string[] {
  return settingChanges(FleetOptions, parseConfig(before), parseConfig(after), ['agents']).map(({ text }) => text)
}

t.test('each setting that differs is named with what it was and what it is', async t => {
  t.same(changes({}, {}), [])
  t.same(changes({}, { agents: [{ name: 'a', port: 1 }] }), [], 'agents are told of elsewhere')
  t.same(changes({ rateLimit: { perMinute: 600 } }, { rateLimit: { perMinute: 300 }, concurrency: { max: 4 }, health: { interval: '90s', path: '/health' } }), [
    'rateLimit.perMinute 600 → 300', 'health.path unset → /health', 'health.interval 10s → 90s', 'concurrency.max unset → 4'
  ])
  t.same(changes({}, { server: { bodyLimit: '1MiB' }, registry: { allowedHosts: ['a.example'] } }), ['server.bodyLimit unset → 1048576', 'registry.allowedHosts unset → ["a.example"]'])
})

t.test('of a list it is told what came, went and changed', async t => {
  const key = (id: string, token: string) => ({ id, token, scopes: ['read' as const] })

  t.same(changes({ auth: { keys: [key('old', 'a-token-1'), key('b', 'a-token-2')] } }, { auth: { keys: [key('b', 'a-token-3'), key('ci', 'a-token-4')] } }), ['auth.keys +ci −old ~b'])
  t.same(changes({ cors: { methods: ['GET', 'PUT'] } }, { cors: { methods: ['PUT', 'GET'] } }), ['cors.methods in another order'])
  t.same(changes({ cors: { origins: ['*'] } }, { cors: { origins: Array.from({ length: 13 }, (_, index) => `https://${index}.example`) } }), [
    'cors.origins +https://0.example +https://1.example +https://2.example +https://3.example +https://4.example +https://5.example +https://6.example +https://7.example +https://8.example +https://9.example and 4 more'
  ])
})

t.test('no secret is told, nor a line feed, nor more than fits', async t => {
  t.same(changes({}, { auth: { secret: 's3cr3t-s3cr3t' } }), ['auth.secret set'])
  t.same(changes({ auth: { secret: 's3cr3t-s3cr3t' } }, { auth: { secret: 's3cr3t-again' } }), ['auth.secret changed'])
  t.same(changes({ auth: { secret: 's3cr3t-s3cr3t' } }, { auth: { secretFile: 'a\nb' } }), ['auth.secret unset', 'auth.secretFile unset → a b'])
  t.same(changes({}, { auditLog: { file: 'x'.repeat(100) } }), [`auditLog.file unset → ${'x'.repeat(60)}…`])
  t.same(changes({}, { cors: { origins: ['https://me:s3cr3t@app.example'] } }), ['cors.origins +https://me:********@app.example −*'])
})

t.test('what waits for a restart', async t => {
  t.same(['server.port', 'server', 'registry.stateDir', 'registry.maxAgents', 'serverless', 'cors.enabled'].map(waitsForRestart), [true, true, true, false, false, false])
})

t.test('secrets are masked wherever they are', async t => {
  t.same(withoutSecrets(FleetOptions, {
    auth: { secret: 's3cr3t-1', keys: [{ id: 'a', token: 's3cr3t-2', tokenFile: 'kept' }, { id: 'b', tokenSha256: 'ab' }] },
    agents: [{ name: 'a', headers: { 'x-key': 's3cr3t-3' }, metadata: { url: 'redis://:s3cr3t-4@host/1', apiKey: 's3cr3t-5', deep: [{ db_password: ['s3cr3t-6'] }], about: 'shown' } }],
    cors: { headers: ['Authorization'] }
  }), {
    auth: { secret: '********', keys: [{ id: 'a', token: '********', tokenFile: 'kept' }, { id: 'b', tokenSha256: '********' }] },
    agents: [{ name: 'a', headers: { 'x-key': '********' }, metadata: { url: 'redis://:********@host/1', apiKey: '********', deep: [{ db_password: ['********'] }], about: 'shown' } }],
    cors: { headers: ['Authorization'] }
  })
  t.equal(withoutPasswords('a https://u:p@h/x?y=http://:q@i b://c/d:e@f'), 'a https://u:********@h/x?y=http://:********@i b://c/d:e@f')
  t.equal(withoutPasswords('https://t0ken@host and redis://u:p@ss@h'), 'https://********@host and redis://u:********@h')
})
