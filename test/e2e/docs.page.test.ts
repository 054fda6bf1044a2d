/** The page at /docs in a real browser: it asks for the token, shows what there is, and no agent's text is a program on it. */
import t, { type Test } from 'tap'
import Fastify from 'fastify'
import { chromium, type Page } from 'playwright-core'
import { fleetGateway } from '../../src/gateway.ts'
import { serverOptions } from '../../src/server.ts'
import { executablePath, noBrowser } from '../helpers/browser.ts'
import { agentAt, startGateway, unprobed } from '../helpers/build-gateway.ts'
import { fakeAgent } from '../helpers/fake-agent.ts'

const withBrowser = { skip: noBrowser }
const secret = 'a-long-secret-token'

async function openPage (t: Test, url: string): Promise<{ page: Page, errors: string[] }> {
  const browser = await chromium.launch({ executablePath: executablePath!, args: ['--no-sandbox'] })
  t.teardown(() => browser.close())
  const page = await browser.newPage()
  const errors: string[] = []
  page.on('pageerror', error => errors.push(error.message))
  await page.goto(url)
  return { page, errors }
}

async function signIn (page: Page, token: string): Promise<void> {
  await page.fill('#token', token)
  await page.click('#sign-in button')
}

t.test('the page asks for the token, says when it is wrong, and shows every route', withBrowser, async t => {
  const gateway = await startGateway(t, { auth: { secret } })
  const { page, errors } = await openPage(t, `${gateway.origin}/docs`)

  await page.waitForSelector('#sign-in:not([hidden])')
  await signIn(page, 'a-wrong-token')
  await page.waitForSelector('#status:has-text("not valid")')
  await signIn(page, secret)
  await page.waitForSelector('[data-path="/stats"]')

  const { paths } = gateway.docs.document() as { paths: Record<string, Record<string, unknown>> }
  t.equal(await page.locator('.opblock').count(), Object.values(paths).reduce((sum, item) => sum + Object.keys(item).length, 0))
  await page.reload()
  await page.waitForSelector('[data-path="/stats"]')
  t.pass('the tab keeps the token')
  await page.click('#leave')
  await page.waitForSelector('#sign-in:not([hidden])')
  t.equal(await page.locator('.opblock').count(), 0)
  t.equal(await page.evaluate('sessionStorage.length'), 0)
  t.same(errors, [])
})

t.test('an agent\'s document is one choice away, "Try it out" goes through the gateway with the token, and its text is no program', withBrowser, async t => {
  const evil = '<img src=x onerror="window.pwned = 1"><script>window.pwned = 1</script><style>body { display: none }</style>[x](javascript:window.pwned=1)'
  const responses = { 200: { description: evil } }
  const agent = await fakeAgent(t, (request, response) => {
    response.setHeader('content-type', 'application/json')
    response.end(request.url !== '/openapi.json'
      ? JSON.stringify({ got: request.url, token: request.headers['x-fleet-token'] ?? 'none' })
      : JSON.stringify({ openapi: '3.0.3', info: { title: evil, version: '1', description: evil }, paths: { '/plans': { get: { summary: evil, description: evil, responses } }, '/{a}/{b}/{c}': { get: { responses, parameters: ['a', 'b', 'c'].map(name => ({ name, in: 'path', required: true, schema: { type: 'string', default: name === 'c' ? 'stats' : '..' } })) } } } }))
  })
  const app = Fastify(serverOptions())
  t.teardown(() => app.close())
  await app.register(fleetGateway, { prefix: '/fleet', auth: { secret }, auditLog: { enabled: false }, agents: [agentAt('planner', agent)], ...unprobed })
  const origin = await app.listen({ port: 0, host: '127.0.0.1' })
  const { page } = await openPage(t, `${origin}/fleet/docs`)
  await signIn(page, secret)
  await page.waitForSelector('[data-path="/api/planner/plans"]')
  const execute = async (path: string) => {
    const block = page.locator(`.opblock:has([data-path="${path}"])`)
    await block.locator('.opblock-summary-control').click()
    await block.locator('.try-out__btn').click()
    await block.locator('.execute').click()
    return block
  }

  await page.selectOption('#document', 'planner')
  await page.waitForSelector('.opblock [data-path="/plans"]')
  const block = await execute('/plans')
  await block.locator('.live-responses-table .response-col_status:has-text("200")').waitFor()

  t.match(await block.locator('.live-responses-table .microlight').first().textContent(), /"got":\s*"\/plans"[^]*"token":\s*"none"/)
  t.notMatch(await page.locator('body').innerText(), secret, 'the token is not shown')
  t.equal(await page.evaluate('window.pwned'), undefined)
  t.equal(await page.locator('#swagger-ui style, #swagger-ui script, #swagger-ui a[href^="javascript"]').count(), 0)

  const before = [...agent.requests]
  const led = await execute('/{a}/{b}/{c}')
  await led.locator('.live-responses-table, .errors, .response-col_status').first().waitFor()
  t.same(agent.requests, before, 'what leads out of the agent is not sent')
  t.notMatch(await led.innerText(), /total_requests/)
})
