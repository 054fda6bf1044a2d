/**
 * `npm run screenshots`: docs/images/console-*.png, taken of a gateway in front of a small fleet with traffic. Its clock runs ten times
 * as fast for a minute and a half, so that fifteen minutes of history are there; the fleet's troubles are made here, each for one view.
 * `-- --all FOLDER` takes every view in both themes and on a phone, to be looked at.
 */
import { once } from 'node:events'
import { mkdirSync, statSync } from 'node:fs'
import { createServer } from 'node:http'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { chromium } from 'playwright-core'
import { createGateway } from '../dist/src/index.js'

const root = fileURLToPath(new URL('..', import.meta.url))
const [flag, folder] = process.argv.slice(2)
const isAll = flag === '--all'
const target = isAll ? folder : join(root, 'docs/images')
const secret = 'a-secret-for-screenshots'
const historyMs = 15 * 60_000
const warmUpMs = 90_000
/** No image of the documents may be larger. */
const mostBytes = 150 * 1024

/** Begins fifteen minutes ago, and has caught up after the warm-up. */
function hurryingClock () {
  const startedAt = Date.now()
  const speed = () => Date.now() - startedAt < warmUpMs ? historyMs / warmUpMs : 1
  const now = () => {
    const elapsed = Date.now() - startedAt
    return elapsed < warmUpMs ? startedAt + warmUpMs - historyMs + elapsed * historyMs / warmUpMs : Date.now()
  }
  function after (delayMs, fn) {
    const timer = setTimeout(fn, delayMs / speed()).unref()
    return () => clearTimeout(timer)
  }
  function every (intervalMs, fn) {
    let cancel = () => {}
    const next = () => { cancel = after(intervalMs, () => { next(); fn() }) }
    next()
    return () => cancel()
  }
  return { now, after, every, speed }
}

const random = (() => { // the same troubles each time
  let state = 7
  return () => {
    state = (state * 1_664_525 + 1_013_904_223) % 2 ** 32
    return state / 2 ** 32
  }
})()

/** An agent that takes its time, and fails as often as `trouble` says. */
async function startAgent (slowness, trouble = () => 0) {
  const server = createServer(async (request, response) => {
    if (request.url.startsWith('/events')) {
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      for (let step = 1; step <= 5 && !response.destroyed; step++) {
        response.write(`event: progress\ndata: {"step": ${step}, "of": 12, "file": "src/part-${step}.ts"}\n\n`)
        await sleep(150)
      }
      return
    }
    await sleep(slowness * (0.4 + random() ** 3 * 3))
    const failed = random() < trouble()
    response.writeHead(failed ? 500 : 200, { 'content-type': 'application/json' })
    response.end(failed ? '{"error":"out of memory"}' : '{"ok":true,"items":[1,2,3]}')
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return { server, host: '127.0.0.1', port: server.address().port }
}

const close = ({ server }) => {
  server.close()
  server.closeAllConnections()
}

const clock = hurryingClock()
const wave = (periodMs, low, high) => low + (high - low) * (0.5 + 0.5 * Math.sin(clock.now() / periodMs * 2 * Math.PI))
const started = new Map()
async function agent (name, count, slowness, load, { aliases = [], trouble, ...more } = {}) {
  const instances = await Promise.all(Array.from({ length: count }, () => startAgent(slowness, trouble)))
  started.set(name, { instances, load })
  return { name, aliases, instances: instances.map(({ host, port }) => ({ host, port })), ...more }
}

const agents = [
  await agent('planner', 3, 24, () => wave(400_000, 4, 13), { aliases: ['plan', 'steps'], timeout: '20s', retry: { attempts: 1 }, balancer: { policy: 'least-requests' }, metadata: { team: 'core', region: 'eu-west' } }),
  await agent('encoder', 4, 9, () => wave(170_000, 2, 8), { aliases: ['trail'] }),
  await agent('git-reader', 1, 40, () => wave(190_000, 0.6, 2), { aliases: ['git', 'repo'] }),
  await agent('summariser', 2, 110, () => wave(250_000, 1, 4), { trouble: () => Math.max(wave(300_000, -0.3, 0.16), 0) }),
  await agent('translator', 2, 30, () => wave(230_000, 0, 3)),
  await agent('mailer', 1, 12, () => 0.6),
  await agent('speech', 2, 60, () => 0, { aliases: ['voice'] }),
  await agent('clock', 1, 2, () => 1)
]

const gateway = await createGateway({
  auth: { secret }, rateLimit: { enabled: false }, auditLog: { enabled: false }, agents, clock, health: { interval: '2s', unhealthyAfter: 2 }
}, { logger: false, forceCloseConnections: true })
await gateway.listen({ host: '127.0.0.1', port: 0 })
const origin = `http://127.0.0.1:${gateway.server.address().port}`
const headers = { authorization: `Bearer ${secret}` }

const paths = ['tasks', 'tasks/42', 'search?q=release', 'documents/readme', 'health', 'runs/7/steps', 'files/src/index.ts']
let isOver = false
async function drive (name, load) {
  let before = clock.now()
  let owed = 0
  while (!isOver) { // eslint-disable-line no-unmodified-loop-condition -- the end of the script does
    await sleep(20)
    const now = clock.now()
    owed += load() * (now - before) / 1_000 * (0.5 + random())
    before = now
    for (; owed >= 1; owed--) {
      const method = random() < 0.25 ? 'POST' : 'GET'
      const path = paths[Math.floor(random() * paths.length)]
      fetch(`${origin}/api/${name}/${path}`, { method, headers }).then(response => response.arrayBuffer()).catch(() => {})
    }
  }
}
for (const [name, { load }] of started) drive(name, load)

async function register (body) {
  await fetch(`${origin}/registry/register`, { method: 'POST', headers: { ...headers, 'content-type': 'application/json' }, body: JSON.stringify(body) })
}
const leased = await startAgent(20)
await register({ name: 'planner', host: '127.0.0.1', port: leased.port, ttl: '20m' })

await sleep(warmUpMs - 2_000)
close(started.get('encoder').instances[2])
close(started.get('translator').instances[0])
close(started.get('translator').instances[1])
await sleep(5_000)

const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox', '--force-color-profile=srgb'] })
const wide = { width: 1280, height: 800 }
const phone = { width: 360, height: 740 }

async function signedIn (colorScheme, viewport) {
  const context = await browser.newContext({ colorScheme, viewport, reducedMotion: 'reduce', ...(viewport === phone && { deviceScaleFactor: isAll ? 1 : 2 }) })
  const page = await context.newPage()
  await page.goto(`${origin}/console/`)
  await page.getByLabel('Token').fill(secret)
  await page.getByRole('button', { name: 'Sign in' }).click()
  await page.getByRole('heading', { name: 'Fleet', level: 1 }).waitFor()
  await page.getByRole('table', { name: 'Agents' }).waitFor()
  await sleep(3_000) // rates need some seconds
  return page
}

/** How each view is brought about. */
const views = {
  fleet: async page => { await page.goto(`${origin}/console/#/`) },
  instances: async page => { await page.goto(`${origin}/console/#/instances`) },
  agent: async page => {
    await page.goto(`${origin}/console/#/agents/planner`)
    await page.locator('.chart canvas').nth(2).waitFor()
    await sleep(600)
  },
  requests: async page => { await page.goto(`${origin}/console/#/requests`) },
  request: async page => {
    await page.goto(`${origin}/console/#/requests`)
    await page.locator('.filter', { hasText: '5xx' }).click()
    await page.locator('button.row-link').first().click()
    await page.locator('dialog').waitFor()
  },
  try: async page => {
    await page.goto(`${origin}/console/#/try?agent=planner`)
    await page.getByLabel('Path and query').fill('/events?run=7')
    await page.getByLabel('Headers').fill('Accept: text/event-stream')
    await page.getByRole('button', { name: 'Send' }).click()
    await page.getByText('"step": 5').waitFor()
  },
  register: async page => {
    await page.goto(`${origin}/console/#/`)
    await page.getByRole('button', { name: 'Register…' }).click()
    await page.getByLabel('Agent', { exact: true }).fill('planner')
    await page.getByLabel('Host').fill('169.254.169.254')
    await page.getByLabel('Port').fill('80')
    await page.getByRole('dialog').getByRole('button', { name: 'Register' }).click()
    await page.locator('.field-error').waitFor()
  },
  remove: async page => {
    await page.goto(`${origin}/console/#/agents/mailer`)
    await page.getByRole('button', { name: /^Remove 127/ }).click()
    await page.locator('dialog').waitFor()
  },
  gateway: async page => { await page.goto(`${origin}/console/#/gateway`) }
}

/** What is in docs/console.md and README.md. */
const chosen = [
  ['fleet', 'light', wide], ['fleet', 'dark', wide], ['agent', 'dark', wide], ['instances', 'light', wide], ['request', 'dark', wide],
  ['try', 'light', wide], ['register', 'light', wide], ['gateway', 'dark', wide], ['fleet', 'phone', phone], ['agent', 'phone', phone]
]
const every = Object.keys(views).flatMap(view => [[view, 'light', wide], [view, 'dark', wide], [view, 'phone', phone]])

mkdirSync(target, { recursive: true })
async function shoot (page, name) {
  const path = join(target, `console-${name}.png`)
  await page.screenshot({ path })
  const { size } = statSync(path)
  console.log(`${path}  ${Math.round(size / 1024)} KiB`)
  if (!isAll && size > mostBytes) throw new Error(`${path} is larger than ${mostBytes / 1024} KiB`)
}

const signIn = await (await browser.newContext({ colorScheme: 'light', viewport: wide })).newPage()
await signIn.goto(`${origin}/console/`)
await signIn.getByLabel('Token').waitFor()
await shoot(signIn, 'sign-in')
for (const look of ['light', 'dark', 'phone']) {
  const wanted = (isAll ? every : chosen).filter(([, wantedLook]) => wantedLook === look)
  const page = await signedIn(look === 'dark' ? 'dark' : 'light', look === 'phone' ? phone : wide)
  for (const [view] of wanted) {
    await views[view](page)
    await sleep(1_200)
    await shoot(page, `${view}-${look}`)
    if (await page.locator('dialog').count() > 0) await page.keyboard.press('Escape')
    if (view === 'request') await page.locator('.filter', { hasText: '5xx' }).click()
  }
  await page.context().close()
}

isOver = true
await browser.close()
await gateway.close()
for (const { instances } of started.values()) instances.forEach(close)
close(leased)
