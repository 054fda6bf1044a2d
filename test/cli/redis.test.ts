/** What the commands say of the Redis that gateways share: that it answers, that it is away, that it can't be written. */
import { setTimeout as wait } from 'node:timers/promises'
import t from 'tap'
import { agentAt, startGateway, unprobed } from '../helpers/build-gateway.ts'
import { fakeAgent } from '../helpers/fake-agent.ts'
import { noRedis, startRedis } from '../helpers/redis-server.ts'
import { runCommand } from '../helpers/run-command.ts'

t.test('health, test and top say when Redis is away or can not be written, and what that means', { skip: noRedis }, async t => {
  const redis = await startRedis(t)
  const gateway = await startGateway(t, { ...unprobed, auth: { secret: 'fleet-secret-token' }, redis: { url: redis.url }, agents: [agentAt('planner', await fakeAgent(t))] })
  const env = { FLEET_URL: gateway.origin, FLEET_SECRET: 'fleet-secret-token' }
  const run = (...args: string[]) => runCommand(args, { env })
  const becomes = async (state: string) => { while (gateway.registrations.redis !== state) await wait(10) }
  const told = async () => await (await fetch(`${gateway.origin}/health`)).json() as Record<string, unknown>

  await becomes('ok')
  t.match(await told(), { status: 'healthy', redis: 'ok' })
  t.match(await run('test'), { code: 0, stdout: /^ok {6}gateway [^\n]*\nok {6}redis\nok {6}auth/ })
  for (const args of [['health'], ['top', '--once']]) t.notMatch((await run(...args)).stdout, /redis/i)

  await redis.ask(client => client.config('SET', 'maxmemory', '1'))
  await becomes('refusing')
  t.match(await told(), { status: 'healthy', redis: 'refusing' })
  t.match(await run('health'), { code: 0, stdout: /\nRedis answers, but no change can be kept there just now: .*registrations are refused/ })

  await redis.kill()
  await becomes('away')
  t.match(await told(), { status: 'healthy', redis: 'away' }, 'nobody needs a token to be told')
  const line = 'Redis does not answer this gateway: the fleet is served as it is known, and registrations are refused until that is over'
  t.match(await run('health'), { code: 0, stdout: new RegExp(`^healthy: 1 agent, up for \\d+ s\n${line}\n\nAGENT `) }, 'all agents can be served')
  t.match(await run('top', '--once'), { code: 0, stdout: new RegExp(`\n${line}\n\nAGENT `) })
  t.match(await run('test'), { code: 1, stdout: new RegExp(`\nfailed {2}redis\n {10}${line}\n {10}→ is it running`), stderr: '\n1 of 4 tests failed\n' })
  t.match(JSON.parse((await run('test', '--json')).stdout), { ok: false, redis: { ok: false, problem: line }, agents: { planner: { ok: true } } })
})
