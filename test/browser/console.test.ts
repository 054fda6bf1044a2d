/** What operators do with the console, in a real browser in front of real agents. */
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import type { ServerResponse } from 'node:http'
import { join } from 'node:path'
import type { AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import { createGateway, type FleetGatewayOptions } from '../../src/gateway.ts'
import { agentAt, startGateway } from '../helpers/build-gateway.ts'
import { browserFor, noBrowser, rowOf, signIn } from '../helpers/browser.ts'
import { deadPort, fakeAgent } from '../helpers/fake-agent.ts'

const secret = 'fleet-secret-token'
const withAuth = { auth: { enabled: true, secret } }
const quickProbes = { health: { interval: '200ms', unhealthyAfter: 1, healthyAfter: 1 } } as const
const { open, complaints } = browserFor(t)
const options = { skip: noBrowser }

async function fleetOf (t: Test, more: FleetGatewayOptions = {}) {
  const agent = await fakeAgent(t)
  const gateway = await startGateway(t, { ...withAuth, ...quickProbes, agents: [agentAt('planner', agent)], ...more })
  return { agent, gateway, url: `${gateway.origin}/console/` }
}

t.test('a wrong token is told so, the right one opens, and it is forgotten with the tab or by signing out', options, async t => {
  const { url } = await fleetOf(t)
  const page = await open(t, url)

  await page.getByLabel('Token').fill('not-the-right-token')
  await page.getByRole('button', { name: 'Sign in' }).click()
  await page.getByText('This token does not open the gateway.').waitFor()

  await signIn(page, secret)
  await rowOf(page, 'planner').waitFor()
  t.equal(await page.evaluate('JSON.stringify(localStorage)'), '{}')
  t.notMatch(page.url(), secret)
  t.notMatch(await page.content(), secret)
  await page.reload()
  await rowOf(page, 'planner').waitFor()

  await page.getByRole('button', { name: 'Sign out' }).click()
  await page.getByLabel('Token').waitFor()
  t.equal(await page.evaluate('sessionStorage.length'), 0)
})

t.test('without auth nobody is asked for a token', options, async t => {
  const agent = await fakeAgent(t)
  const { origin } = await startGateway(t, { agents: [agentAt('planner', agent)] })
  const page = await open(t, `${origin}/console/`)

  await rowOf(page, 'planner').waitFor()

  t.equal(await page.getByRole('button', { name: 'Sign out' }).count(), 0)
})

t.test('an agent that dies and returns is seen to do so, with the reason', options, async t => {
  const { agent, url } = await fleetOf(t)
  const page = await open(t, url)
  await signIn(page, secret)
  await rowOf(page, 'planner').getByText('healthy').waitFor()

  await agent.kill()
  await rowOf(page, 'planner').getByText('down', { exact: true }).waitFor()
  await rowOf(page, 'planner').getByText('probes get no connection').waitFor()
  t.match(await page.getByRole('log').textContent(), 'planner is down')

  await agent.revive()
  await rowOf(page, 'planner').getByText('healthy').waitFor()
})

t.test('an instance is registered, after what was wrong was told beside its field', options, async t => {
  const { gateway, url } = await fleetOf(t)
  const newcomer = await fakeAgent(t)
  const page = await open(t, url)
  await signIn(page, secret)

  await page.getByRole('button', { name: 'Register…' }).click()
  const dialog = page.getByRole('dialog', { name: 'Register an instance' })
  await dialog.getByLabel('Agent').fill('encoder')
  await dialog.getByLabel('Port').fill('70000')
  await dialog.getByRole('button', { name: 'Register' }).click()
  await dialog.locator('#register-port-error').waitFor()
  t.match(await dialog.locator('#register-port-error').textContent(), /must be <= 65535/)
  t.equal(await dialog.getByLabel('Port').getAttribute('aria-invalid'), 'true')
  t.equal(await page.evaluate('document.activeElement.id'), 'register-port')

  await dialog.getByLabel('Host').fill('127.0.0.1')
  await dialog.getByLabel('Port').fill(String(newcomer.port))
  await dialog.getByLabel('Other names').fill('trail, voice')
  await dialog.getByLabel('Lease').fill('5m')
  await dialog.getByLabel('Metadata').fill('{"team": "core"}')
  await dialog.getByRole('button', { name: 'Register' }).click()
  await rowOf(page, 'encoder').getByText('trail, voice').waitFor()

  t.equal(await dialog.count(), 0)
  await page.getByText('Registered encoder.').waitFor()
  t.match(gateway.registry.get('encoder'), { metadata: { team: 'core' }, instances: [{ port: newcomer.port, lease: { ttlMs: 300_000 } }] })
})

t.test('a drained instance finishes what it has, is seen to drain, and leaves', options, async t => {
  let held: ServerResponse | undefined
  const busy = await fakeAgent(t, (_request, response) => { held = response })
  const { gateway, url } = await fleetOf(t, { agents: [agentAt('planner', busy)] })
  const page = await open(t, url)
  await signIn(page, secret)
  const arrived = once(busy.server, 'request')
  const answer = fetch(`${gateway.origin}/api/planner/slow`, { headers: { authorization: `Bearer ${secret}` } })
  await arrived

  await page.getByRole('link', { name: 'planner' }).click()
  await page.getByRole('button', { name: `Drain 127.0.0.1:${busy.port}…` }).click()
  await page.getByRole('dialog').getByRole('button', { name: 'Drain', exact: true }).click()
  await rowOf(page, `127.0.0.1:${busy.port}`).getByText('finishes 1 in flight').waitFor()
  held!.end('done')

  t.equal(await (await answer).text(), 'done')
  await page.getByText('It has no instance at the moment.').waitFor()
})

t.test('an agent is removed when that is confirmed, and not before', options, async t => {
  const { gateway, url } = await fleetOf(t)
  const page = await open(t, `${url}#/agents/planner`)
  await signIn(page, secret)
  const button = page.getByRole('button', { name: 'Remove agent…' })

  await button.click()
  await page.getByRole('dialog').getByRole('button', { name: 'Cancel' }).click()
  t.ok(gateway.registry.find('planner'))
  t.equal(await page.evaluate('document.activeElement.textContent'), 'Remove agent…', 'the focus is back where it was')

  await button.click()
  await page.getByRole('dialog').getByRole('button', { name: 'Remove agent' }).click()
  await page.getByText('There is no agent yet.').waitFor()

  t.equal(gateway.registry.find('planner'), undefined)
  await page.getByText('It is in fleet.yaml, so it stays out').waitFor()
})

t.test('a request is tried, its stream is seen as it arrives, and it can be aborted', options, async t => {
  let stream: ServerResponse | undefined
  const streaming = await fakeAgent(t, (request, response) => {
    stream = response.writeHead(200, { 'content-type': 'text/event-stream', 'x-from': `${request.method} ${request.url} ${request.headers.authorization}` })
    response.write('data: first\n\n')
  })
  const { url } = await fleetOf(t, { ...withAuth, agents: [agentAt('planner', streaming)] })
  const page = await open(t, `${url}#/try?agent=planner`)
  await signIn(page, secret)

  await page.getByLabel('Path and query').fill('/events?run=7')
  await page.getByLabel('Headers').fill('Authorization: Bearer for-the-agent')
  await page.getByRole('button', { name: 'Send' }).click()
  await page.getByText('data: first').waitFor()
  t.equal(await page.getByText('data: second').count(), 0)
  stream!.write('data: second\n\n')
  await page.getByText('data: second').waitFor()
  await page.getByText('200 OK').waitFor()
  await page.getByText(/^\d+ headers$/).click()
  await page.getByText('GET /events?run=7 Bearer for-the-agent').waitFor()

  const gone = once(stream!, 'close')
  await page.getByRole('button', { name: 'Abort' }).click()
  await page.getByText('aborted', { exact: true }).waitFor()
  await gone
})

t.test('finished requests are seen live, are looked for and held, and tell each attempt', options, async t => {
  const dead = await deadPort()
  const agent = await fakeAgent(t, (request, response) => response.writeHead(request.url === '/missing' ? 404 : 200).end())
  const { gateway, url } = await fleetOf(t, { health: { interval: '1h', unhealthyAfter: 100 }, agents: [agentAt('planner', { host: '127.0.0.1', port: dead }, agent), agentAt('encoder', agent)] })
  const page = await open(t, `${url}#/requests`)
  await signIn(page, secret)
  const ask = async (path: string) => (await fetch(`${gateway.origin}/api/${path}`, { headers: { authorization: `Bearer ${secret}` } })).status
  const list = page.getByRole('table', { name: 'Requests, newest first' })
  const row = (text: string) => list.getByRole('row').filter({ hasText: text })

  t.same([await ask('planner/tasks'), await ask('encoder/missing'), await ask('encoder/fine')], [200, 404, 200])
  await row('/api/encoder/fine').waitFor()

  await page.getByRole('button', { name: '4xx' }).click()
  await row('/api/encoder/fine').waitFor({ state: 'detached' })
  await row('/api/encoder/missing').waitFor()
  await page.getByRole('button', { name: '4xx' }).click()
  await page.getByRole('searchbox').fill('TASKS')
  await row('/api/encoder/missing').waitFor({ state: 'detached' })
  await page.getByRole('searchbox').fill('')
  await page.getByLabel('Agent').selectOption('planner')
  await row('/api/encoder/fine').waitFor({ state: 'detached' })

  await row('/api/planner/tasks').getByRole('button').click()
  const detail = page.getByRole('dialog', { name: 'GET /api/planner/tasks' })
  await detail.getByText('2 attempts').waitFor()
  await detail.getByText(`127.0.0.1:${dead}`).waitFor()
  await detail.getByText('refused').waitFor()
  await detail.getByText('answered 200').waitFor()
  await page.keyboard.press('Escape')
  await detail.waitFor({ state: 'detached' })

  await page.getByLabel('Agent').selectOption('')
  await page.getByRole('button', { name: 'Pause' }).click()
  await ask('encoder/while-paused')
  await page.getByRole('button', { name: 'Go on' }).click()
  await row('/api/encoder/while-paused').waitFor()
})

t.test('when the gateway goes and comes back, the console says so and is live again by itself', options, async t => {
  const agent = await fakeAgent(t)
  const settings = { ...withAuth, auditLog: { enabled: false }, agents: [agentAt('planner', agent)] }
  const first = await createGateway(settings)
  await first.listen({ host: '127.0.0.1', port: 0 })
  const { port } = first.server.address() as AddressInfo
  const page = await open(t, `http://127.0.0.1:${port}/console/`)
  await signIn(page, secret)

  await first.close()
  await page.getByText(/The gateway (is shutting down|can't be reached)\./).waitFor()
  await page.getByText(/Again in \d+ s\. Data of \d\d:\d\d:\d\d\./).waitFor()
  await rowOf(page, 'planner').waitFor()

  const second = await createGateway(settings)
  t.teardown(() => second.close())
  await second.listen({ host: '127.0.0.1', port })
  await page.getByText('Live', { exact: true }).waitFor()
})

t.test('a key for some agents sees these, may change nothing without the scope, and is out when it is revoked', options, async t => {
  const agent = await fakeAgent(t)
  const key = { id: 'viewer', token: 'token-of-the-viewer', scopes: ['read'], agents: ['planner'] } as const
  const agents = [agentAt('planner', agent), agentAt('secret-agent', agent)]
  const gateway = await startGateway(t, { auth: { enabled: true, keys: [{ ...key, scopes: [...key.scopes], agents: [...key.agents] }] }, agents })
  const page = await open(t, `${gateway.origin}/console/`)
  await signIn(page, key.token)
  await rowOf(page, 'planner').waitFor()

  t.equal(await rowOf(page, 'secret-agent').count(), 0)
  t.equal(await page.getByRole('button', { name: 'Register…' }).count(), 0)
  await page.getByRole('link', { name: 'planner' }).click()
  await page.getByRole('button', { name: /^Probe/ }).click()
  await page.getByText(/: 200 in/).waitFor()
  t.equal(await page.getByRole('button', { name: /^(Drain|Remove)/ }).count(), 0)

  gateway.auth.reconfigure({ keys: [{ id: 'other', token: 'token-of-somebody-else', scopes: ['admin'] }] })
  await page.getByText('The token that you signed in with is not valid any more.').waitFor()
})

t.test('a configuration file that went wrong is shown, with what is wrong', options, async t => {
  const agent = await fakeAgent(t)
  const yaml = `agents: [{name: planner, host: 127.0.0.1, port: ${agent.port}}]\n`
  const file = join(t.testdir({ 'fleet.yaml': yaml }), 'fleet.yaml')
  const gateway = await startGateway(t, { file, ...withAuth })
  const page = await open(t, `${gateway.origin}/console/#/gateway`)
  await signIn(page, secret)
  await page.getByText('What was read last is what runs.').waitFor()

  await writeFile(file, `${yaml}rateLimit: {burst: -1}\n`)
  await gateway.discovery.reload().catch(() => {})

  await page.getByText('The file on disk is wrong; the one before it runs.').waitFor()
  await page.getByText(/rateLimit\.burst/).waitFor()
})

t.test('no page had anything to complain of, such as what its Content-Security-Policy keeps out', options, async t => {
  t.same(complaints, [])
})
