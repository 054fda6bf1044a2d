/** `fleet-gateway explain` against a real gateway, in this process and as a process of its own. */
import t, { type Test } from 'tap'
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { agentAt, startGateway, unprobed } from '../helpers/build-gateway.ts'
import { fakeAgent } from '../helpers/fake-agent.ts'
import { runCommand } from '../helpers/run-command.ts'

const main = fileURLToPath(new URL('../../dist/src/main.js', import.meta.url))
const secret = 'fleet-secret-token'

async function fleet (t: Test) {
  const [one, two] = [await fakeAgent(t), await fakeAgent(t)]
  const gateway = await startGateway(t, {
    auth: { secret, keys: [{ id: 'bot', token: 'a-token-of-a-bot', scopes: ['proxy'] }, { id: 'viewer', token: 'a-token-of-a-viewer', scopes: ['read'] }] },
    rateLimit: { enabled: true },
    agents: [{ ...agentAt('planner', one, two), aliases: ['plan'], headers: { 'X-Key': 'very-secret' }, paths: [{ prefix: '/slow', timeouts: { response: '5m' } }] }],
    ...unprobed
  })
  const env = { FLEET_URL: gateway.origin, FLEET_SECRET: secret }
  const ask = (...args: string[]) => runCommand(['explain', ...args], { env })
  return { gateway, env, ask, one, two }
}

t.test('a request that would be forwarded: who gets it, by which rules, and why', async t => {
  const { ask, one, two } = await fleet(t)

  const { code, stdout, stderr } = await ask('get', '/api/plan/slow/1?a=b')

  t.match({ code, stderr }, { code: 0, stderr: '' })
  t.match(stdout, /^GET \/api\/plan\/slow\/1\?a=b would be forwarded to the agent planner\n\nroute: +\/api\/\{agent\}\/\{path\}, needs the scope proxy\nkey: +no named one \(the shared secret, or auth is off\), may read, proxy, register, admin, all agents\n/)
  t.match(stdout, /\nrate limit: +100 at once, 600 a minute, counted for the client's address\nagent: +planner \(asked as plan\), healthy, gets \/slow\/1\?a=b\n/)
  t.match(stdout, /\ntimeouts: +connect 3s, response 5m, idle 5m, total none \(of the path \/slow\)\nretry: +yes, GET is idempotent; on 500, 502/)
  t.match(stdout, /\nbalancer: +round-robin\nconcurrency: +unlimited\nheaders: +X-Key of the gateway's own, for instances that are trusted\ninstance: +[0-9a-f]{12}: it is its turn\n/)
  t.match(stdout, new RegExp(`\n\nINSTANCE +ADDRESS +STATE +AVAILABLE +IN FLIGHT +WHY\n[0-9a-f]{12} +http://127\\.0\\.0\\.1:${one.port} +up +yes +0 +it serves\n`))
  t.notMatch(stdout, 'very-secret')
  t.same([...one.requests, ...two.requests], [])
})

t.test('a request that would be refused says by what, and is no failure of the command', async t => {
  const { ask } = await fleet(t)

  t.match(await ask('GET', '/api/planer/x'), { code: 0, stdout: /^GET \/api\/planer\/x would be refused with 404 FLEET_AGENT_NOT_FOUND: No agent is registered as "planer"; did you mean "planner"/ })
  t.match(await ask('POST', '/agents'), { code: 0, stdout: /refused with 405 FLEET_METHOD_NOT_ALLOWED: POST is not allowed here; allowed: GET, HEAD\n\nroute: +none\n/ })
  t.match(await ask('GET', '/stats', '--key', 'bot'), { code: 0, stdout: /refused with 403 FLEET_FORBIDDEN: This needs the scope "read"\n[^]*\nkey: +bot, may proxy, all agents\n/ })
  t.match(await ask('GET', '/health'), { code: 0, stdout: /would be answered by the gateway itself\n\nroute: +\/health, needs nothing\n[^]*rate limit: +none\n/ })
})

t.test('what can\'t be explained is a failure, and a method that is none is wrong usage', async t => {
  const { ask } = await fleet(t)

  t.match(await ask('GET', '/stats', '--key', 'nobody'), { code: 1, stdout: '', stderr: /There is no key "nobody"/ })
  t.match(await ask('GET', '/stats', '--key', 'bot', '--secret', 'a-token-of-a-viewer'), { code: 1, stderr: /Only a key with the scope "admin" may ask for another key/ })
  t.match(await ask('GET', '/stats', '--secret', 'a-token-of-a-bot'), { code: 1, stderr: /scope "read"/ })
  t.match(await ask('G/T', '/stats'), { code: 2, stderr: /It must be a method/ })
})

t.test('as a process: --json is what the gateway says, and the request that follows goes there', async t => {
  const { env, gateway } = await fleet(t)

  const { stdout } = await promisify(execFile)(process.execPath, [main, 'explain', 'GET', '/api/planner/x', '--json'], { env: { ...process.env, ...env } })
  const { next, instances } = JSON.parse(stdout) as { next: { instance: string }, instances: { id: string, port: number }[] }

  const answer = await fetch(`${gateway.origin}/api/planner/x`, { headers: { authorization: `Bearer ${secret}` } })
  t.equal((await answer.json() as { port: number }).port, instances.find(({ id }) => id === next.instance)?.port)
})
