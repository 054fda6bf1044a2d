/** The benchmark's arithmetic, what it reads and what it writes; and `npm run bench` itself, as small as it gets: one peer, one round, one second. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { setImmediate } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { unmeasured } from './helpers/unmeasured.ts'

const folder = new URL('../bench/', import.meta.url)
/** The benchmark is plain JavaScript without declarations. */
const load = (name: string) => import(new URL(name, folder).href)

const { countDisturbed, median, pairRatio, percentile, summary } = await load('figures.js')
const { hasProc, parseCpuList, parseCpuTime, parseStat, treeOf, treePids } = await load('proc.js')
const { parseWrk, wrkScript } = await load('wrk.js')
const { createResponseReader } = await load('response-reader.js')
const { markdownTable, scenarioRows, textTable } = await load('table.js')
const { buildRows, keyRows } = await load('key-ratios.js')
const { withConfig } = await load('peers.js')
const { barChart } = await load('chart.js')
const { benchmarksDocument, charts } = await load('document.js')

t.test('a median is the middle, of an even count the mean of the two in the middle', async t => {
  t.equal(median([9, 1, 5]), 5)
  t.equal(median([10, 9, 1, 5]), 7)
  t.same(median([]), NaN)
})

t.test('a percentile is the least value that its share does not exceed', async t => {
  const hundred = Array.from({ length: 100 }, (_, index) => index + 1)

  t.same([0, 0.5, 0.99, 1].map(share => percentile(hundred, share)), [1, 50, 99, 100])
  t.equal(percentile([7], 0.99), 7)
  t.same(percentile([], 0.5), NaN)
})

t.test('a summary leaves out what is no figure, and of none there is none', async t => {
  t.same(summary([3, NaN, 1]), { median: 2, min: 1, max: 3, count: 2 })
  t.equal(summary([NaN]), undefined)
})

t.test('ratios are taken within a round, and a round in which either has no figure gives none', async t => {
  const rounds = [{ x: 10 }, { x: 40 }, undefined, { x: 9 }]
  const base = [{ x: 5 }, { x: 10 }, { x: 1 }, undefined]

  t.same(pairRatio(rounds, base, 'x'), { median: 3, min: 2, max: 4, count: 2 })
  t.equal(pairRatio(rounds, [], 'x'), undefined)
})

t.test('a figure of 0 or less gives no ratio, and the table says in how many rounds it was so', async t => {
  const latency = { name: 'latency', title: 'latency', figures: [{ key: 'addedP50', title: 'added p50 ms', digits: 3, compared: true }] }
  const entries = [{ name: 'ours', rounds: [{ addedP50: 0.1 }, { addedP50: 0.2 }, { addedP50: 0.1 }] }, { name: 'bare', rounds: [{ addedP50: 0.2 }, { addedP50: -0.1 }, undefined] }]

  t.equal(pairRatio(...entries.map(({ rounds }) => rounds), 'addedP50'), undefined)
  t.equal(pairRatio([{ x: 1 }], [{ x: 0 }], 'x'), undefined)
  t.equal(scenarioRows(latency, entries)[1][2], 'no ratio (≤ 0 in 1 of 2)')
  t.match(keyRows([{ scenario: latency, entries }], ['ours']), [[], ['added p50 at 500/s against bare', 'no ratio (≤ 0 in 1 of 2)']])
  t.match(markdownTable(scenarioRows(latency, entries)), '|---|---:|---:|---:|')
})

t.test('rounds in which others took a part of the proxy\'s core are counted', async t => {
  const rounds = [{ othersPercent: 2 }, { othersPercent: 30 }, undefined, { p50: 1 }]

  t.same(countDisturbed([{ entries: [{ rounds }, { rounds }] }]), { rounds: 4, disturbed: 2 })
})

t.test('a process is read from /proc whatever its name is, with the time of children that have ended', async t => {
  const line = '4242 (a) name (x 1 2) S 17 4242 4242 0 -1 4194560 2000 0 0 0 150 25 7 3 20 0 11 0 100 1000 200'

  t.same(parseStat(line), { pid: 4242, parent: 17, ticks: 185 })
})

t.test('a tree of processes has children of children, and nobody else', async t => {
  const processes = [{ pid: 5, parent: 3 }, { pid: 2, parent: 1 }, { pid: 3, parent: 2 }, { pid: 4, parent: 1 }]

  t.same(treeOf(2, processes).map(({ pid }: { pid: number }) => pid), [2, 3, 5])
  t.same(treeOf(99, processes), [])
})

t.test('the time of one processor is what processes and the machine around it took', async t => {
  const stat = 'cpu  1 1 1 1 1 1 1 1 0 0\ncpu0 100 20 30 1000 5 7 9 50 0 0\ncpu1 1 2 3 4 5 6 7 8 0 0\ncpu10 9 9 9 9 9 9 9 9 0 0\n'

  t.equal(parseCpuTime(stat, 0), 2)
  t.equal(parseCpuTime(stat, '1'), 0.14)
  t.same(parseCpuTime(stat, undefined), NaN)
})

t.test('a list of processors is read as the kernel writes it', async t => {
  t.same(parseCpuList('0-2,5\n'), [0, 1, 2, 5])
  t.same(parseCpuList('3'), [3])
  t.same(parseCpuList(''), [])
})

const wrkReport = `Running 2s test @ http://127.0.0.1:9001/small
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.28ms  419.57us   9.24ms   92.24%
    Req/Sec    50.60k     2.77k   55.68k    85.00%
  Latency Distribution
     50%  820.00us
     75%    1.45ms
     90%    1.61ms
     99%    1.02s
  100812 requests in 2.01s, 40.19MB read
Requests/sec:  50134.28
Transfer/sec:     19.99MB
`

t.test('what wrk reports is read in seconds and milliseconds', async t => {
  t.same(parseWrk(wrkReport), { requests: 100812, seconds: 2.01, p50: 0.82, p99: 1020, failures: [] })
  t.throws(() => parseWrk('unable to connect to 127.0.0.1:9001 Connection refused'), /unable to connect/)
})

t.test('an answer that is not 2xx, a socket error and a run without an answer are failures', async t => {
  const bad = wrkReport.replace('Requests/sec', '  Socket errors: connect 0, read 3, write 0, timeout 0\n  Non-2xx or 3xx responses: 12\nRequests/sec')

  t.same(parseWrk(bad).failures, ['12 answers were not 2xx', 'socket errors: connect 0, read 3, write 0, timeout 0'])
  t.same(parseWrk('  0 requests in 2.00s, 0.00B read').failures, ['no request was answered'])
})

t.test('wrk is told method, headers and body, and several paths in turn', async t => {
  const post = wrkScript({ method: 'POST', paths: ['/a'], headers: { Authorization: 'Bearer "x"' }, bodyBytes: 1_024 })
  const get = wrkScript({ paths: ['/a', '/b'], headers: {} })

  t.match(post, 'wrk.method = "POST"')
  t.match(post, 'wrk.headers["Authorization"] = "Bearer \\"x\\""')
  t.match(post, 'wrk.body = string.rep("x", 1024)')
  t.notMatch(post, 'request =')
  t.match(get, 'local paths = { "/a", "/b" }')
  t.notMatch(get, 'wrk.body')
})

t.test('answers are read however they are framed and wherever they are cut', async t => {
  const bytes = Buffer.from([
    'HTTP/1.1 100 Continue\r\n\r\n',
    'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello',
    'HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n',
    'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n10;x=y\r\n0123456789abcdef\r\n0\r\nTrailer: x\r\n\r\n',
    'HTTP/1.1 201 OK\r\n\r\nto the end'
  ].join(''))

  for (const size of [1, 2, 3, 7, 1_000]) {
    const seen: [status: number, bytes: number][] = []
    let payload = 0
    const reader = createResponseReader({
      body: (count: number) => { payload += count },
      end (status: number) {
        seen.push([status, payload])
        payload = 0
      }
    })

    for (let at = 0; at < bytes.length; at += size) reader.read(bytes.subarray(at, at + size))

    t.same(seen, [[200, 5], [503, 0], [200, 19]], `${size} bytes at a time`)
    reader.close()
    t.same(seen.at(-1), [201, 10], 'the end of the connection ends it')
  }
})

const scenario = { name: 'get-64', title: 'GET', figures: [{ key: 'requestsPerSecond', title: 'requests/s', digits: 0, compared: true }, { key: 'cpuMicros', title: 'CPU µs/request', digits: 1, compared: true }, { key: 'p50', title: 'p50 ms', digits: 2 }] }
const entries = [
  { name: 'ours', rounds: [{ requestsPerSecond: 20_000, cpuMicros: 50, p50: 1 }, { requestsPerSecond: 30_000, cpuMicros: 60, p50: 2 }, undefined] },
  { name: 'next', rounds: [{ requestsPerSecond: 22_000, cpuMicros: 40, p50: 1 }, { requestsPerSecond: 33_000, cpuMicros: 48, p50: 2 }, { requestsPerSecond: 1, cpuMicros: 1, p50: 1 }] },
  { name: 'bare', rounds: [{ requestsPerSecond: 10_000, cpuMicros: 100, p50: 3 }, { requestsPerSecond: 20_000, cpuMicros: 100, p50: 3 }, { requestsPerSecond: 10_000, cpuMicros: 100, p50: 3 }] },
  { name: 'broken', rounds: [undefined, undefined, undefined] }
]

t.test('a table has medians, spreads and ratios to bare, and says where rounds were invalid', async t => {
  const rows = scenarioRows(scenario, entries)

  t.same(rows[0], ['', 'requests/s', '× bare', 'CPU µs/request', '× bare', 'p50 ms', 'rounds'])
  t.same(rows[1], ['ours', '25,000 (20,000–30,000)', '1.75 (1.50–2.00)', '55.0 (50.0–60.0)', '0.55 (0.50–0.60)', '1.50', '2 valid of 3'])
  t.same(rows[4], ['broken', '–', '–', '–', '–', '–', '0 valid of 3'])
  t.same(markdownTable([['', 'a', 'c'], ['b', '1', 'two']]), '|  | a | c |\n|---|---:|---|\n| b | 1 | two |')
  t.same(textTable([['', 'aa'], ['bb', '1']]), '    aa\nbb   1')
})

t.test('the key ratios are told for each build, and how builds compare', async t => {
  const results = [{ scenario, entries }]

  t.same(keyRows(results, ['ours', 'next']), [
    ['', 'ours', 'next', 'asked for', 'aim'],
    ['GET 200 B, requests/s against bare', '1.75 (1.50–2.00)', '1.65 (0.00–2.20)', '≥ 1.4', '1.8'],
    ['GET 200 B, CPU per request against bare', '0.55 (0.50–0.60)', '0.40 (0.01–0.48)', '≤ 0.7', '0.55']
  ])
  t.same(buildRows(results, ['ours', 'next']), [
    ['', 'next × ours'],
    ['get-64: requests/s', '1.10 (1.10–1.10)'],
    ['get-64: CPU µs/request', '0.80 (0.80–0.80)']
  ])
  t.equal(buildRows(results, ['ours']).length, 1, 'without another build there is nothing to compare')
})

t.test('a chart is SVG whose bars are as long as their values, on light and on dark', async t => {
  const svg = barChart('a < b', [{ title: 'x & y', bars: [{ name: 'ours', value: 2, label: '2 <', ours: true }, { name: 'bare', value: 1, label: '1' }] }])

  const lengths = [...svg.matchAll(/<rect [^>]*width="([\d.]+)"/g)].map(([, length]) => Number(length))
  t.equal(lengths[0], 2 * (lengths[1] ?? NaN))
  t.match(svg, 'prefers-color-scheme: dark')
  t.match(svg, 'x &amp; y')
  t.notMatch(svg, /a < b|2 </)
})

t.test('the document names the machine, the versions, what was skipped and what was wrong', async t => {
  const report = {
    at: '2026-01-02T03:04:05Z',
    command: 'npm run bench',
    machine: { cpu: 'A processor', cores: 2, memoryGiB: 8, kernel: 'linux 6', node: 'v20', load: 'wrk', pinned: 'the proxy is pinned to processor 0' },
    loadAverage: 0.1,
    peers: [{ name: 'ours', about: 'everything on', version: 'commit abc' }],
    builds: ['ours'],
    results: [{ scenario, rounds: 3, seconds: 5, upstreams: 'one nginx worker', entries }],
    skipped: ['caddy: caddy is not installed'],
    problems: ['get-64, broken: round 1 gives no figure: 3 answers were not 2xx']
  }

  const document = benchmarksDocument(report)

  for (const part of ['2026-01-02', 'A processor, 2 processors', 'commit abc', '- caddy: caddy is not installed', '- get-64, broken: round 1 gives no figure']) t.match(document, part)
  t.notMatch(document, 'Not to be quoted')
  for (const file of Object.keys(charts(report))) t.match(document, `](${file})`)
})

t.test('a build\'s own configuration takes the place of what all have', async t => {
  const fleet = 'agents:\n  - {name: planner}\nrateLimit: {burst: 1}\nauditLog: {file: a}\n'

  t.equal(withConfig(fleet, ''), fleet)
  t.equal(withConfig(fleet, 'rateLimit:\n  burst: 2\n'), 'agents:\n  - {name: planner}\nauditLog: {file: a}\nrateLimit:\n  burst: 2\n')
})

t.test('a document of a disturbed run says that it is one', async t => {
  const disturbed = { name: 'ours', rounds: [{ requestsPerSecond: 1, othersPercent: 40 }, { requestsPerSecond: 1, othersPercent: 1 }] }

  const document = benchmarksDocument({ at: '', command: '', machine: {}, loadAverage: 3, peers: [], builds: [], results: [{ scenario, entries: [disturbed] }], skipped: [], problems: [] })

  t.match(document, 'Not to be quoted**: in 1 of 2 rounds')
})

t.test('a document with another build says which it is and how its figures are to be read', async t => {
  const report = { at: '', command: 'npm run bench -- --rounds 3 --gateway next=../next', machine: {}, loadAverage: 0, peers: [], builds: ['ours', 'next'], results: [{ scenario, rounds: 3, seconds: 3, upstreams: 'nginx', entries }], skipped: [], problems: [] }

  const document = benchmarksDocument(report)

  t.match(document, 'by `npm run bench -- --rounds 3 --gateway next=../next`')
  t.match(document, 'Rounds: 3, of 3 s;')
  t.match(document, /`next` is another build of the gateway[^|]+\| {2}\| next × ours \|/)
  t.notMatch(benchmarksDocument({ ...report, builds: ['ours'] }), 'another build of the gateway')
})

/** Runs the benchmark with the tools of its own, as where nothing is installed; its temporary files have a folder of their own. */
function bench (t: Test, args: readonly string[], files: Record<string, string> = {}) {
  const temporary = join(t.testdir({ ...files, temporary: {} }), 'temporary')
  const child = spawn(...unmeasured(process.execPath, fileURLToPath(new URL('bench.js', folder)), '--own-tools', '--no-build', ...args), {
    env: { ...process.env, TMPDIR: temporary }, stdio: ['ignore', 'pipe', 'pipe']
  })
  t.teardown(() => { child.kill('SIGTERM') })
  return { child, closed: once(child, 'close') as Promise<[number | null]>, leftovers: () => readdirSync(temporary) }
}

t.test('at a constant rate a request counts from when it was due, however late the generator is', async t => {
  let count = 0
  const server = createServer((_request, response) => {
    response.end('x')
    if (++count !== 20) return
    generator.kill('SIGSTOP')
    setTimeout(() => generator.kill('SIGCONT'), 500)
  }).listen(0, '127.0.0.1')
  t.teardown(() => server.close())
  await once(server, 'listening')
  const task = { port: (server.address() as AddressInfo).port, rate: 100, seconds: 1, paths: ['/'], headers: {} }

  const generator = spawn(...unmeasured(process.execPath, fileURLToPath(new URL('load.js', folder)), JSON.stringify(task)), { stdio: ['ignore', 'pipe', 'inherit'] })
  const { answered, p99 } = JSON.parse(await text(generator.stdout))

  t.equal(answered, 100)
  t.ok(p99 > 250, `some forty requests were due while it stood still: ${p99} ms`)
})

const smallest = ['--scenario', 'get-64', '--rounds', '1', '--seconds', '1']

t.test('the gateway is measured with everything on, and nothing is left behind', async t => {
  const file = join(t.testdirName, 'results.json')
  const { child, closed, leftovers } = bench(t, [...smallest, '--scenario', 'latency', '--peer', 'ours', '--json', file])

  const [printed, complaints, [code]] = await Promise.all([text(child.stdout), text(child.stderr), closed])

  t.equal(code, 0, printed)
  t.equal(complaints, '')
  const { results: [{ entries: [{ name, rounds: [figures] }] }, { entries: constantRate }], problems } = JSON.parse(readFileSync(file, 'utf8'))
  t.equal(name, 'ours')
  t.same(problems, [])
  t.ok(figures.requests > 0, `${figures.requests} requests`)
  if (hasProc) t.ok(figures.cpuMicros > 0 && figures.memoryMiB > 10, `${figures.cpuMicros} µs, ${figures.memoryMiB} MiB`)
  t.match(constantRate, [{ name: 'direct', rounds: [{ p50: Number }] }, { name: 'relay', rounds: [{ addedP50: Number }] }, { name: 'ours', rounds: [{ addedP50: Number }] }])
  t.same(leftovers(), [])
})

/** Stands for a gateway: answers its first request as one does, and none after that. */
const brokenGateway = `
import { createServer } from 'node:http'
import { writeFileSync } from 'node:fs'
let count = 0
const server = createServer((request, response) => {
  if (count++ > 0) return response.writeHead(500).end()
  response.writeHead(200, { 'access-control-allow-origin': '*', ratelimit: 'x', via: 'x', 'x-request-id': 'x', 'content-length': 200 }).end('x'.repeat(200))
}).listen(0, '127.0.0.1', () => console.log('Fleet Gateway on http://127.0.0.1:' + server.address().port))
`

t.test('a round in which an answer is not 2xx gives no figure, and the run ends with 1', async t => {
  const { child, closed } = bench(t, [...smallest, '--peer', 'broken', '--gateway', `broken=${join(t.testdirName, 'main.js')}`], { 'main.js': brokenGateway })

  const [printed, [code]] = await Promise.all([text(child.stdout), closed])

  t.equal(code, 1)
  t.match(printed, /^broken +0 valid of 1$/m)
  t.match(printed, /WRONG: get-64, broken: round 1 gives no figure: \d+ answers were not 2xx/)
})

/** Whether a process is there, and not just its exit code. */
function isRunning (pid: number): boolean {
  try {
    return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
  } catch {
    return false
  }
}

t.test('a gateway with something left out is not measured', async t => {
  const { child, closed } = bench(t, [...smallest, '--peer', 'ours', '--gateway-config', `ours=${join(t.testdirName, 'less.yaml')}`], { 'less.yaml': 'auditLog: {enabled: false}\n' })

  const [printed, [code]] = await Promise.all([text(child.stdout), closed])

  t.equal(code, 1)
  t.match(printed, /WRONG: get-64, ours: round 1 gives no figure: it wrote no audit log/)
})

t.test('Ctrl-C ends every process and takes away every file', async t => {
  const { child, closed, leftovers } = bench(t, ['--scenario', 'get-64', '--seconds', '600', '--peer', 'ours'])
  for (let printed = ''; !/upstreams:/.test(printed);) printed += String((await once(child.stdout, 'data'))[0])
  const pids: number[] = treePids(child.pid)

  child.kill('SIGINT')
  const [code] = await closed

  t.equal(code, 1)
  t.same(leftovers(), [])
  if (hasProc) t.ok(pids.length > 1, `${pids.length} processes`)
  for (const pid of pids) while (isRunning(pid)) await setImmediate()
})

t.test('what can\'t be done is refused with the options that there are', async t => {
  for (const args of [['--peer', 'nobody'], ['--scenario', 'nothing'], ['--rounds', '0'], ['--gateway-env', 'nobody=A=b'], ['--gateway', 'plain']]) {
    const { child, closed } = bench(t, args)
    const [complaint, [code]] = await Promise.all([text(child.stderr), closed])

    t.equal(code, 2, args.join(' '))
    t.match(complaint, /--scenario NAME/)
  }
})
