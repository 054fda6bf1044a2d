/** How the console's views are made: for every eye and keyboard, for a phone, for thousands of instances, and safe to show what strangers write. */
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { request as sendRequest } from 'node:http'
import type { AddressInfo } from 'node:net'
import Fastify from 'fastify'
import type { Page } from 'playwright-core'
import t, { type Test } from 'tap'
import { fleetGateway } from '../../src/gateway.ts'
import { agentAt, startGateway, unprobed } from '../helpers/build-gateway.ts'
import { browserFor, noBrowser, rowOf, signIn } from '../helpers/browser.ts'
import { deadPort, fakeAgent } from '../helpers/fake-agent.ts'
import { noRedis, startRedis } from '../helpers/redis-server.ts'

const secret = 'fleet-secret-token'
const withAuth = { auth: { enabled: true, secret } }
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')
const { open, complaints } = browserFor(t)
const options = { skip: noBrowser }

interface Violation { id: string, nodes: { html: string, failureSummary: string }[] }

/** What axe-core has against the page as it is. */
async function violationsOf (page: Page): Promise<string[]> {
  await page.evaluate(axe)
  const found = await page.evaluate("axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] }).then(({ violations }) => violations)") as Violation[]
  return found.flatMap(({ id, nodes }) => nodes.map(({ html, failureSummary }) => `${id}: ${html}\n${failureSummary}`))
}

/** A fleet with an instance in each state that can be made at once. */
async function motleyFleet (t: Test) {
  const agent = await fakeAgent(t)
  const dead = { host: '127.0.0.1', port: await deadPort() }
  const gateway = await startGateway(t, {
    ...withAuth, health: { interval: '200ms', unhealthyAfter: 1 }, agents: [{ ...agentAt('planner', agent, dead), aliases: ['plan'], metadata: { team: 'core' } }, agentAt('encoder', agent), agentAt('ghost', dead)]
  })
  gateway.registry.register({ name: 'encoder', host: 'localhost', port: agent.port, protocol: 'http', ttlMs: 60_000, trusted: true })
  gateway.registry.drain('encoder', gateway.registry.get('encoder').instances[0]!.id)
  for (const path of ['planner/tasks', 'encoder/run', 'ghost/nothing']) await fetch(`${gateway.origin}/api/${path}`, { headers: { authorization: `Bearer ${secret}` } })
  return gateway
}

/** Each view, and what to wait for. */
const views = {
  '#/': (page: Page) => rowOf(page, 'ghost').getByText('down', { exact: true }).waitFor(),
  '#/instances': (page: Page) => rowOf(page, 'encoder').getByText('draining').waitFor(),
  '#/agents/planner': (page: Page) => page.locator('.chart canvas').nth(2).waitFor(),
  '#/requests': (page: Page) => rowOf(page, '/api/ghost/nothing').waitFor(),
  '#/try?agent=planner': async (page: Page) => {
    await page.getByRole('button', { name: 'Send' }).click()
    await page.getByText('200 OK').waitFor()
  },
  '#/gateway': (page: Page) => page.getByText('with the fleet secret').waitFor()
}

for (const colorScheme of ['light', 'dark'] as const) {
  t.test(`axe-core finds nothing against any view in the ${colorScheme} theme, signed in or not, with a dialog or without`, options, async t => {
    const { origin } = await motleyFleet(t)
    const page = await open(t, `${origin}/console/`, { colorScheme })
    await page.getByLabel('Token').waitFor()
    t.same(await violationsOf(page), [], 'sign-in')
    await signIn(page, secret)

    for (const [view, ready] of Object.entries(views)) {
      await page.goto(`${origin}/console/${view}`)
      await ready(page)
      t.same(await violationsOf(page), [], view)
    }

    await page.goto(`${origin}/console/#/requests`)
    await rowOf(page, '/api/ghost/nothing').getByRole('button').click()
    t.same(await violationsOf(page), [], 'one request')
    await page.keyboard.press('Escape')
    await page.goto(`${origin}/console/#/`)
    await page.getByRole('button', { name: 'Register…' }).click()
    await page.getByRole('dialog').getByRole('button', { name: 'Register' }).click()
    await page.locator('.field-error').first().waitFor()
    t.same(await violationsOf(page), [], 'registration with errors')
  })
}

t.test('no view is wider than a phone of 360 pixels', options, async t => {
  const { origin } = await motleyFleet(t)
  const page = await open(t, `${origin}/console/`, { viewport: { width: 360, height: 740 } })
  await signIn(page, secret)

  for (const [view, ready] of Object.entries(views)) {
    await page.goto(`${origin}/console/${view}`)
    await ready(page)
    t.ok(Number(await page.evaluate('document.documentElement.scrollWidth')) <= 360, view)
  }
})

t.test('it is worked by the keyboard: past the navigation, into a view, whose heading is told, into a dialog and out', options, async t => {
  const { origin } = await motleyFleet(t)
  const page = await open(t, `${origin}/console/`)
  await page.getByLabel('Token').waitFor()
  await page.keyboard.type(secret) // the field has the focus
  await page.keyboard.press('Enter')
  await rowOf(page, 'planner').waitFor()
  const focused = () => page.evaluate('document.activeElement.textContent')

  await page.keyboard.press('Tab')
  t.equal(await focused(), 'To the content')
  await page.keyboard.press('Enter')
  t.equal(await focused(), 'Fleet')

  await page.getByRole('link', { name: 'Requests' }).focus()
  await page.keyboard.press('Enter')
  await page.getByRole('heading', { name: 'Requests', level: 1 }).waitFor()
  t.equal(await focused(), 'Requests')
  t.equal(await page.title(), 'Requests · Fleet Gateway')

  await page.getByRole('button', { name: '/api/ghost/nothing' }).focus()
  await page.keyboard.press('Enter')
  await page.getByRole('dialog').waitFor()
  t.equal(await page.evaluate("document.querySelector('dialog').contains(document.activeElement)"), true)
  await page.keyboard.press('Escape')
  await page.getByRole('dialog').waitFor({ state: 'detached' })
  t.equal(await focused(), '/api/ghost/nothing')
})

t.test('light or dark is as the system has it, until somebody chooses', options, async t => {
  const { origin } = await motleyFleet(t)
  const page = await open(t, `${origin}/console/`, { colorScheme: 'dark' })
  await signIn(page, secret)
  const background = () => page.evaluate('getComputedStyle(document.documentElement).backgroundColor')

  t.equal(await background(), 'rgb(14, 18, 22)')
  await page.getByLabel('Colours').selectOption('light')
  t.equal(await background(), 'rgb(244, 246, 248)')
  await page.reload()
  await rowOf(page, 'planner').waitFor()
  t.equal(await background(), 'rgb(244, 246, 248)')
})

t.test('of 3,000 instances only those in sight are drawn, whichever end is in sight, and any is found', options, async t => {
  const agents = Array.from({ length: 1_000 }, (_, index) => ({
    name: `agent-${String(index).padStart(4, '0')}`,
    instances: [0, 1, 2].map(copy => ({ host: `10.0.${index >> 8}.${index & 255}`, port: 8_000 + copy }))
  }))
  const gateway = await startGateway(t, { ...withAuth, ...unprobed, agents })
  const page = await open(t, `${gateway.origin}/console/#/instances`)
  await signIn(page, secret)
  const table = page.getByRole('table', { name: 'Instances' })
  await rowOf(page, '10.0.0.0:8000').waitFor()
  t.equal(await table.getAttribute('aria-rowcount'), '3001')
  t.ok(await table.getByRole('row').count() < 80)

  await page.evaluate('scrollTo(0, document.body.scrollHeight)')
  await rowOf(page, '10.0.3.99:8002').waitFor()
  t.ok(await table.getByRole('row').count() < 80)

  gateway.registry.drain('agent-0700', gateway.registry.get('agent-0700').instances[1]!.id)
  await page.getByRole('button', { name: 'draining 1' }).click()
  await rowOf(page, '10.0.2.188:8001').getByText('draining').waitFor()
  t.equal(await table.getAttribute('aria-rowcount'), '2')
  await page.getByRole('button', { name: 'draining 1' }).click()

  await page.getByRole('searchbox').fill('agent-0999')
  await rowOf(page, '10.0.3.231:8002').waitFor()
  t.equal(await table.getAttribute('aria-rowcount'), '4')
  await page.getByRole('link', { name: 'Agents' }).click()
  await rowOf(page, 'agent-0999').getByText('3 of 3 up').waitFor()
})

t.test('it works under the prefix of another application, and so do its requests', options, async t => {
  const agent = await fakeAgent(t)
  const app = Fastify({ forceCloseConnections: true })
  t.teardown(() => app.close())
  await app.register(fleetGateway, { prefix: '/inner/fleet', auth: { secret }, auditLog: { enabled: false }, agents: [agentAt('planner', agent)] })
  await app.listen({ host: '127.0.0.1', port: 0 })
  const { port } = app.server.address() as AddressInfo
  const page = await open(t, `http://127.0.0.1:${port}/inner/fleet/console`)

  await signIn(page, secret)
  await page.getByRole('link', { name: 'planner' }).click()
  await page.locator('.chart canvas').first().waitFor()
  await page.getByRole('link', { name: 'Try', exact: true }).click()
  await page.getByRole('button', { name: 'Send' }).click()
  await page.getByText('200 OK').waitFor()

  t.equal(page.url(), `http://127.0.0.1:${port}/inner/fleet/console/#/try`)
  t.ok(agent.requests.includes('GET /'))
})

t.test('what strangers write into paths, hosts and metadata is text, whatever it looks like', options, async t => {
  const agent = await fakeAgent(t, (_request, response) => response.setHeader('content-type', 'text/html').end('<img src=x onerror="document.title=\'taken\'">'))
  const evil = '<img/src=x/onerror=document.title=1>'
  const { origin, port } = await startGateway(t, { ...withAuth, ...unprobed, agents: [{ ...agentAt('planner', agent), metadata: { [evil]: evil } }] })
  const done = new Promise<void>(resolve => {
    // As no browser would send it.
    sendRequest({ host: '127.0.0.1', port, path: `/api/planner/${evil}`, headers: { authorization: `Bearer ${secret}` } }, response => response.resume().once('end', resolve)).end()
  })
  await done
  const page = await open(t, `${origin}/console/#/requests`)
  await signIn(page, secret)

  await page.getByRole('button', { name: `/api/planner/${evil}` }).click()
  await page.getByRole('dialog', { name: evil }).waitFor()
  await page.keyboard.press('Escape')
  await page.goto(`${origin}/console/#/agents/planner`)
  await page.locator('.values').getByText(evil).first().waitFor()
  await page.goto(`${origin}/console/#/try?agent=planner`)
  await page.getByRole('button', { name: 'Send' }).click()
  await page.locator('pre').getByText('<img src=x').waitFor()

  t.equal(await page.locator('img').count(), 0)
  t.equal(await page.title(), 'Try a request · Fleet Gateway')
})

t.test('of several gateways on one Redis the figures of all are there, whoever the page came from', { skip: noBrowser !== false ? noBrowser : noRedis }, async t => {
  const redis = await startRedis(t)
  const agent = await fakeAgent(t)
  const settings = { ...withAuth, ...unprobed, redis: { url: redis.url }, agents: [agentAt('planner', agent)] }
  const [first, second] = await Promise.all([startGateway(t, settings), startGateway(t, settings)])
  for (const { origin } of [first, second, second]) await fetch(`${origin}/api/planner/x`, { headers: { authorization: `Bearer ${secret}` } })
  const page = await open(t, `${first.origin}/console/#/gateway`)
  await signIn(page, secret)

  const all = page.getByRole('region', { name: 'All gateways' })
  await all.getByRole('region', { name: 'Processes' }).getByRole('row', { name: second.peers.self.id }).waitFor()
  await all.getByRole('region', { name: 'Agents at all gateways' }).getByRole('row', { name: /^planner 3 0 0 / }).waitFor()

  t.same(await violationsOf(page), [])
  await page.setViewportSize({ width: 360, height: 740 })
  t.equal(await page.evaluate('document.documentElement.scrollWidth'), 360)
})

t.test('no page had anything to complain of, such as what its Content-Security-Policy keeps out', options, async t => {
  t.same(complaints, [])
})
