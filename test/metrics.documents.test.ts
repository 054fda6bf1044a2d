/** What is written about `/metrics`, and the files in examples/ that read it, speak of what a real scrape has: names, types and labels. */
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { once } from 'node:events'
import { join } from 'node:path'
import { load } from 'js-yaml'
import t, { type Test } from 'tap'
import WebSocket, { WebSocketServer } from 'ws'
import { agentAt, startGateway, unprobed } from './helpers/build-gateway.ts'
import { dnsServer } from './helpers/dns-server.ts'
import { deadPort, fakeAgent } from './helpers/fake-agent.ts'
import { Scrape } from './helpers/prometheus-text.ts'
import { noPromtool } from './helpers/promtool.ts'

const read = (name: string) => readFileSync(new URL(`../${name}`, import.meta.url), 'utf8')

/** Where every metric has series: retries, a stream, a tunnel, an answer that breaks off, a garbage collection. */
async function fullScrape (t: Test): Promise<Scrape> {
  const agent = await fakeAgent(t, (request, response) => {
    if (request.url === '/events') response.writeHead(200, { 'content-type': 'text/event-stream' }).end('data: 1\n\n')
    else if (request.url === '/breaks') response.writeHead(200, { 'content-length': 10 }).write('half', () => response.destroy())
    else response.writeHead(503).end()
  })
  const sockets = new WebSocketServer({ server: agent.server })
  sockets.on('connection', socket => socket.close())
  t.teardown(() => sockets.close())
  const dns = { name: 'finder.test', port: 9, resolvers: [(await dnsServer(t)).address] }
  const gateway = await startGateway(t, {
    ...unprobed,
    redis: { url: `redis://127.0.0.1:${await deadPort()}` },
    agents: [agentAt('planner', { host: '127.0.0.1', port: await deadPort() }, agent), { name: 'finder', dns }]
  })
  for (const path of ['x', 'events', 'breaks']) await fetch(`${gateway.origin}/api/planner/${path}`).then(response => response.text()).catch(() => {})
  const socket = new WebSocket(`${gateway.origin.replace('http', 'ws')}/api/planner/ws`)
  await once(socket, 'close')
  for (;;) {
    const scrape = new Scrape(await (await fetch(`${gateway.origin}/metrics`)).text())
    const waitsFor = [...scrape.families.values()].filter(({ series }) => series.length === 0).map(({ name }) => name)
    if (waitsFor.length === 0) return scrape
    if (waitsFor.includes('nodejs_gc_duration_seconds')) fill()
  }
}

/** Some garbage, so that it is collected. */
function fill (): void {
  Array.from({ length: 1_000_000 }, (_, index) => ({ index }))
}

const ofHistograms = ['le']
/** What Prometheus adds to each series, or makes of a label that is its own. */
const ofPrometheus = ['job', 'instance', 'exported_instance']

interface Known { type: string, labels: Set<string> }

function knownOf (scrape: Scrape): Map<string, Known> {
  const known = new Map<string, Known>()
  for (const { name, type, series } of scrape.families.values()) {
    for (const one of series) {
      const entry = known.get(one.name) ?? { type, labels: new Set() }
      for (const label of one.labels.keys()) entry.labels.add(label)
      known.set(one.name, entry)
    }
    if (type === 'histogram') known.set(name, { type, labels: new Set([...known.get(`${name}_count`)!.labels]) })
  }
  return known
}

t.test('docs/metrics.md has every metric of a scrape with its type and labels, and no other', async t => {
  const scrape = await fullScrape(t)
  const known = knownOf(scrape)
  const rows = [...read('docs/metrics.md').matchAll(/^\| ((?:`\w+`(?:, )?)+) \| (\w+) \| ([^|]*) \|/gm)]
  const told = new Map(rows.flatMap(([, names = '', type = '', labels = '']) => codesOf(names).map(name => [name, { type, labels: codesOf(labels).sort() }])))

  t.same([...told.keys()].sort(), [...scrape.families.keys()].sort())
  for (const [name, { type, labels }] of told) t.same({ name, type, labels }, { name, type: known.get(name)?.type, labels: [...known.get(name)?.labels ?? []].sort() })
})

function codesOf (text: string): string[] {
  return [...text.matchAll(/`(\w+)`/g)].map(([, code]) => code!)
}

/** Names and labels of an expression that a scrape does not have. */
function strangers (expression: string, known: Map<string, Known>): string[] {
  const withoutValues = expression.replaceAll(/"(?:[^"\\]|\\.)*"/g, '""')
  const problems: string[] = []
  const names: string[] = []
  for (const [, name = '', matchers = ''] of withoutValues.matchAll(/\b((?:fleet|http|process|nodejs)_\w+|up)\b(?:\{([^}]*)\})?/g)) {
    if (name === 'up') continue // Prometheus's own
    names.push(name)
    const metric = known.get(name)
    if (metric === undefined) problems.push(name)
    else for (const [, label = ''] of matchers.matchAll(/(\w+)\s*[=!]/g)) if (![...metric.labels, ...ofPrometheus].includes(label)) problems.push(`${name}{${label}}`)
  }
  const all = new Set(names.flatMap(name => [...known.get(name)?.labels ?? []]))
  for (const [, labels = ''] of withoutValues.matchAll(/\b(?:by|without) \(([^)]*)\)/g)) {
    for (const label of labels.split(',').map(label => label.trim())) if (![...all, ...ofPrometheus, ...ofHistograms].includes(label)) problems.push(`by (${label})`)
  }
  return problems
}

interface Target { expr: string, legendFormat: string, datasource: { uid: string } }
interface Panel { id: number, type: string, title: string, datasource?: { uid: string }, targets?: Target[], gridPos: { x: number, y: number, w: number, h: number } }
interface Variable { name: string, type: string, datasource?: { uid: string }, definition?: string }
interface Dashboard { id?: unknown, uid?: unknown, schemaVersion: number, panels: Panel[], templating: { list: Variable[] } }

t.test('the dashboard asks for what there is, of a data source that is chosen', async t => {
  const known = knownOf(await fullScrape(t))
  const dashboard = JSON.parse(read('examples/grafana-dashboard.json')) as Dashboard
  const { panels, templating: { list: variables } } = dashboard
  const source = (from: { uid: string } | undefined) => from?.uid === '${datasource}'

  t.ok(dashboard.schemaVersion >= 38, 'Grafana 10')
  t.same([dashboard.id, dashboard.uid], [undefined, undefined], 'it is nobody\'s')
  t.equal(new Set(panels.map(({ id }) => id)).size, panels.length)
  t.equal(variables[0]?.type, 'datasource')
  for (const { name, type, datasource, definition } of variables.slice(1)) {
    t.ok(type === 'query' && source(datasource), name)
    t.same(strangers(definition!, known), [], name)
  }
  for (const { title, type, datasource, targets, gridPos } of panels) {
    t.ok(gridPos.x + gridPos.w <= 24, title)
    if (type === 'row') continue
    t.ok(source(datasource) && targets!.length > 0, title)
    for (const { expr, legendFormat, datasource } of targets!) {
      t.ok(source(datasource), title)
      t.same(strangers(expr, known), [], title)
      t.same([...expr.matchAll(/\$(\w+)/g)].map(([, name]) => name!).filter(name => !['__rate_interval', ...variables.map(variable => variable.name)].includes(name)), [], title)
      for (const [, label] of legendFormat.matchAll(/\{\{(\w+)\}\}/g)) t.ok(label === 'instance' || expr.includes(label!), `${title}: ${label}`)
    }
  }
  t.same(overlaps(panels), [])
})

/** Panels that lie on one another. */
function overlaps (panels: readonly Panel[]): string[] {
  return panels.flatMap((one, index) => panels.slice(index + 1).filter(({ gridPos: other }) => {
    const { x, y, w, h } = one.gridPos
    return x < other.x + other.w && other.x < x + w && y < other.y + other.h && other.y < y + h
  }).map(({ title }) => `${one.title}, ${title}`))
}

interface Rule { alert: string, expr: string, labels: { severity: string }, annotations: { summary: string } }

t.test('the alert rules ask for what there is, and docs/operations.md says what to do about each', async t => {
  const known = knownOf(await fullScrape(t))
  const { groups } = load(read('examples/alerts.yaml')) as { groups: { rules: Rule[] }[] }
  const rules = groups.flatMap(({ rules }) => rules)
  const told = [...read('docs/operations.md').matchAll(/^\| `(Fleet\w+)` \|/gm)].map(([, name]) => name)

  for (const { alert, expr, labels, annotations } of rules) {
    t.same(strangers(expr, known), [], alert)
    t.match(labels.severity, /^(critical|warning|info)$/, alert)
    for (const [, label] of annotations.summary.matchAll(/\$labels\.(\w+)/g)) t.ok([...ofPrometheus, 'agent'].includes(label!), `${alert} ${label}`)
  }
  t.same(told, rules.map(({ alert }) => alert))
})

t.test('the scrape configuration reads the route with a token from a file', async t => {
  const { scrape_configs: [scrape], rule_files: rules } = load(read('examples/prometheus.yaml')) as { scrape_configs: Record<string, unknown>[], rule_files: string[] }

  t.match(scrape, { job_name: 'fleet-gateway', metrics_path: '/metrics', authorization: { type: 'Bearer', credentials_file: String } })
  t.same(rules, ['alerts.yaml'])
})

t.test('an expression with what there is not is seen', async t => {
  const known = new Map<string, Known>([['fleet_a_total', { type: 'counter', labels: new Set(['agent']) }]])

  t.same(strangers('sum by (agent, job) (rate(fleet_a_total{agent="fleet_b",instance=~"$x"}[5m])) > 0', known), [])
  t.same(strangers('sum by (agnet) (fleet_a_total{code="1"} / fleet_b)', known), ['fleet_a_total{code}', 'fleet_b', 'by (agnet)'])
})

t.test('promtool takes the rules, the scrape configuration, and every expression of the dashboard', { skip: noPromtool }, async t => {
  const examples = new URL('../examples/', import.meta.url)
  for (const args of [['rules', 'alerts.yaml'], ['config', '--syntax-only', 'prometheus.yaml']]) {
    const { status, stdout, stderr } = spawnSync('promtool', ['check', ...args], { cwd: examples, encoding: 'utf8' })
    t.equal(status, 0, stdout + stderr)
  }
  const { panels } = JSON.parse(read('examples/grafana-dashboard.json')) as Dashboard
  const rules = panels.flatMap(({ targets = [] }) => targets).map(({ expr }, index) => ({ record: `expression_${index}`, expr: expr.replaceAll('$__rate_interval', '5m') }))
  const file = join(t.testdir({ 'rules.yaml': JSON.stringify({ groups: [{ name: 'dashboard', rules }] }) }), 'rules.yaml')
  const { status, stdout, stderr } = spawnSync('promtool', ['check', 'rules', file], { encoding: 'utf8' })
  t.equal(status, 0, stdout + stderr)
})
