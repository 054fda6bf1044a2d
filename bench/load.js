/**
 * A small load generator: raw sockets, kept alive, one process. As many requests at once as there are connections, or (`rate`) so many a second
 * whatever comes back, over as many connections as that takes. Stands in for wrk, and measures latency at a constant rate, which wrk can't.
 * Argument: the task as JSON. Prints its result as JSON.
 */
import { once } from 'node:events'
import { connect } from 'node:net'
import { Worker } from 'node:worker_threads'
import { percentile } from './figures.js'
import { createResponseReader } from './response-reader.js'

/** @type {{ port: number, connections?: number, rate?: number, seconds: number, method?: string, paths: string[], headers: Record<string, string>, bodyBytes?: number }} */
const { port, connections = 1, rate, seconds, method = 'GET', paths, headers, bodyBytes = 0 } = JSON.parse(process.argv[2])

/** A clock that all threads share, in milliseconds. */
const now = () => Number(process.hrtime.bigint()) / 1e6

/** How long answers may be waited for when the time is over, and how many connections a rate may take. */
const patienceMs = 5_000
const mostConnections = 1_000

const body = Buffer.alloc(bodyBytes, 'x')
const requests = paths.map(path => Buffer.concat([Buffer.from([
  `${method} ${path} HTTP/1.1`, 'Host: 127.0.0.1', ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`),
  ...(method === 'GET' ? [] : [`Content-Length: ${bodyBytes}`]), '', ''
].join('\r\n'), 'latin1'), body]))

const latencies = []
let sent = 0
let badStatus = 0
let badSocket = 0
let completed = 0
let inFlight = 0
let over = false
let allDone
const done = new Promise(resolve => { allDone = resolve })

/** Opens a connection; `free` is called when it has nothing to do. */
function open (free) {
  const socket = connect({ port, host: '127.0.0.1', noDelay: true })
  /** When the request that is waited for was sent or, at a rate, due. */
  let since
  const reader = createResponseReader({
    end (status) {
      if (status < 200) return
      latencies.push(now() - since)
      since = undefined
      inFlight -= 1
      if (status < 300) completed += 1
      else badStatus += 1
      if (over) finish()
      else free(connection)
    }
  })
  const connection = {
    request (dueAt = now()) {
      inFlight += 1
      since = dueAt
      socket.write(requests[sent++ % requests.length])
    }
  }
  socket.on('data', reader.read)
  socket.on('error', () => {})
  socket.on('close', () => {
    reader.close()
    if (since !== undefined) {
      badSocket += 1
      inFlight -= 1
    }
    connection.closed = true
    if (over) finish()
    else if (rate === undefined) setTimeout(() => { if (!over) open(free).request() }, 10)
  })
  return connection
}

function finish () {
  if (inFlight === 0) allDone()
}

const startedAt = now()
if (rate === undefined) {
  for (let index = 0; index < connections; index++) open(connection => connection.request()).request()
  await new Promise(resolve => setTimeout(resolve, seconds * 1_000))
} else {
  const free = []
  let opened = 0
  const ticks = new Worker(new URL('ticks.js', import.meta.url), { workerData: { count: Math.round(rate * seconds), everyMs: 1_000 / rate } })
  ticks.on('message', dueAt => {
    let connection = free.pop()
    while (connection?.closed) connection = free.pop()
    if (connection === undefined && opened++ >= mostConnections) {
      ticks.terminate()
      return
    }
    connection ??= open(idle => free.push(idle))
    // A request that leaves late has waited since it was due: else the generator's own delays would hide what it should see.
    connection.request(dueAt)
  })
  await once(ticks, 'exit')
}
over = true
const elapsed = (now() - startedAt) / 1_000
const inTime = completed
finish()
await Promise.race([done, new Promise(resolve => setTimeout(resolve, patienceMs).unref())])

latencies.sort((a, b) => a - b)
process.stdout.write(JSON.stringify({
  requests: rate === undefined ? inTime : completed,
  answered: completed,
  seconds: elapsed,
  p50: percentile(latencies, 0.5),
  p99: percentile(latencies, 0.99),
  badStatus,
  badSocket,
  unanswered: inFlight,
  short: rate === undefined ? 0 : Math.round(rate * seconds) - sent
}), () => process.exit(0))
