/** What the commands say of agents that are looked for in DNS: whom a name leads to, and why it leads to nobody. */
import t from 'tap'
import { startGateway, unprobed } from '../helpers/build-gateway.ts'
import { dnsServer } from '../helpers/dns-server.ts'
import { fakeAgent } from '../helpers/fake-agent.ts'
import { runCommand } from '../helpers/run-command.ts'

t.test('agents, routes, test and explain say what DNS found, and advise nobody to register what it did not find', async t => {
  const names = await dnsServer(t)
  const { port } = await fakeAgent(t)
  for (const name of ['found.test', 'out.test']) names.says(name, 'A', ['127.0.0.1'])
  names.says('ill.test', 'A', 'SERVFAIL')
  const agents = ['found', 'nowhere', 'ill', 'out'].map(name => ({ name, dns: { name: `${name}.test`, type: 'A' as const, port, resolvers: [names.address] } }))
  const gateway = await startGateway(t, { ...unprobed, agents })
  gateway.registry.removeInstance('out', gateway.registry.get('out').instances[0]!.id)
  const run = (...args: string[]) => runCommand(args, { env: { FLEET_URL: gateway.origin } })
  const at = String.raw`\(last answered 20[\d:.TZ-]+\)`
  const said = {
    found: `found.test leads to 1 instance ${at}`,
    nowhere: `nowhere.test leads to nobody: DNS has no usable A records of it ${at}`,
    ill: String.raw`ill.test could not be looked up: SERVFAIL; no instance is known \(never answered\)`
  }

  t.match((await run('agents', 'found')).stdout, new RegExp(`^found: healthy\ndns: ${said.found}\n\nINSTANCE `))
  t.match((await run('agents', 'nowhere')).stdout, new RegExp(`^nowhere: down\ndns: ${said.nowhere}\n\nNo instances: correct dns of the agent in fleet.yaml`))
  t.match((await run('agents', 'ill')).stdout, new RegExp(`\ndns: ${said.ill}\n\nNo instances: see that name servers answer`))
  t.match((await run('agents', 'out')).stdout, /\n\nNo instances: they serve again when DNS has named others meanwhile/)
  const { stdout: routes } = await run('routes')
  t.match(routes, new RegExp(`found: 127\\.0\\.0\\.1:${port} \\(dns: found\\.test\\) +healthy\n`))
  t.match(routes, /nowhere: no instance \(dns: nowhere\.test leads to nobody\) /)
  t.match(routes, /ill: no instance \(dns: ill\.test could not be looked up: SERVFAIL\) /)
  const tested = await run('test')
  t.match(tested.stdout, new RegExp(`\nok {6}found dns {2}${said.found}\n`))
  t.match(tested.stdout, new RegExp(`\nfailed {2}nowhere dns\n {10}${said.nowhere}\n {10}→ correct dns of the agent in fleet.yaml, or the records`))
  t.match(tested.stdout, new RegExp(`\nfailed {2}ill dns\n {10}${said.ill}\n {10}→ see that name servers answer`))
  t.match(tested.stdout, /\nfailed {2}out\n {10}has no instance: those that DNS names were taken out\n/)
  t.match(tested.stderr, '3 of 8 tests failed', 'a name that leads to nobody is one fault')
  t.match(await run('test', '--json'), { stdout: /"problem": "nowhere\.test leads to nobody/ })
  t.match((await run('explain', 'GET', '/api/nowhere/x')).stdout, new RegExp(`refused with 503[^]*\ndns: +${said.nowhere}\n`))
  for (const text of [routes, tested.stdout]) t.notMatch(text, 'register nowhere')
})
