/** What is measured: for each scenario who takes part in what order, what is put on it, and which figures come out. */
import { request } from 'node:http'
import { commonSettings, fleetFile, relay, token } from './peers.js'
import { eventBytes, largeBytes, small } from './upstream/answers.js'

const prefix = '/api/planner'
/** Everybody is sent the same head; who has no tokens passes it on. */
export const headers = { Authorization: `Bearer ${token}` }

/**
 * @typedef {object} Figure
 * @property {string} key
 * @property {string} title
 * @property {number} digits behind the point
 * @property {boolean} [compared] whether its ratio to the base is shown, and its spread
 */

/** How much of its processor the proxy had, and how much somebody else took: with more than a few per cent, the round was disturbed. */
const coreFigures = [
  { key: 'busyPercent', title: '% of its core', digits: 0 },
  { key: 'othersPercent', title: '% others', digits: 0 }
]

/** @type {readonly Figure[]} */
const loadFigures = [
  { key: 'requestsPerSecond', title: 'requests/s', digits: 0, compared: true },
  { key: 'cpuMicros', title: 'CPU µs/request', digits: 1, compared: true },
  { key: 'p50', title: 'p50 ms', digits: 2 },
  { key: 'p99', title: 'p99 ms', digits: 2 },
  { key: 'memoryMiB', title: 'RSS MiB', digits: 0 },
  ...coreFigures
]

/** One entry for each peer. */
const eachPeer = task => peers => peers.map(peer => ({ name: peer.name, peer, task }))

const withLoad = (name, title, { path, bodyBytes, connections, answerBytes = small.length }) => ({
  name,
  title,
  kind: 'load',
  figures: loadFigures,
  entries: eachPeer({ method: bodyBytes === undefined ? 'GET' : 'POST', paths: [prefix + path], connections, headers, ...(bodyBytes !== undefined && { bodyBytes }), answerBytes })
})

/** Of the scenario with many agents: how many there are, how many of them are asked, and those of the few that are compared with. */
const many = 10_000
const asked = 100
const few = 3

/** A fleet of so many agents on one port, probed once at the start and then not again while it is measured. */
const fleetOf = count => ports => `agents:
${Array.from({ length: count }, (_, index) => `  - {name: agent-${index}, host: 127.0.0.1, port: ${ports[0]}}`).join('\n')}
${commonSettings}health: {interval: 1h}
`

/** So many of them, spread over the whole fleet. */
const pathsOf = (howMany, count) => Array.from({ length: howMany }, (_, index) => `/api/agent-${Math.floor(index * count / howMany)}/small`)

export const scenarios = [
  withLoad('get-64', 'GET of 200 B, 64 connections', { path: '/small', connections: 64 }),
  withLoad('get-256', 'GET of 200 B, 256 connections', { path: '/small', connections: 256 }),
  withLoad('post-1k', 'POST of 1 KiB, 64 connections', { path: '/take', bodyBytes: 1_024, connections: 64 }),
  withLoad('get-1m', 'GET of 1 MiB, 16 connections', { path: '/large', connections: 16, answerBytes: largeBytes }),
  withLoad('post-1m', 'POST of 1 MiB, 16 connections', { path: '/take', bodyBytes: largeBytes, connections: 16 }),
  {
    name: 'streams',
    title: '1,000 open event streams, one event a second each',
    note: 'Each round has a process of its own. Memory is what 1,000 streams added when it had settled (median of a reading a second), after two seconds of GET at 64 connections and a first 50 streams that came and went.',
    kind: 'streams',
    events: true,
    fresh: true,
    rounds: 3,
    seconds: 10,
    figures: [
      { key: 'kibPerStream', title: 'KiB/stream', digits: 1, compared: true },
      { key: 'cpuMicros', title: 'CPU µs/event', digits: 1, compared: true },
      { key: 'memoryMiB', title: 'RSS MiB', digits: 0 },
      ...coreFigures
    ],
    entries: eachPeer({ paths: [`${prefix}/events`], streams: 1_000, warmStreams: 50, warm: { paths: [`${prefix}/small`], connections: 64, headers }, eventBytes, headers })
  },
  {
    name: 'latency',
    title: 'added latency at 500 requests a second',
    note: 'GET of 200 B at a constant rate whatever comes back (open loop), from when it was due to the end of the answer: what the generator sends late has waited, with every proxy and without one alike. Added is what is above the same round\'s figure straight to the upstream; where that is 0 or less in a round, it is smaller than the noise and there is no ratio. `relay` takes part whoever else does, and is no proxy of HTTP: it passes bytes on and reads none of them, and what it adds is in the figure of every other that runs on Node.',
    kind: 'latency',
    figures: [
      { key: 'addedP50', title: 'added p50 ms', digits: 3, compared: true },
      { key: 'addedP99', title: 'added p99 ms', digits: 3 },
      { key: 'p50', title: 'p50 ms', digits: 3 },
      { key: 'p99', title: 'p99 ms', digits: 3 },
      { key: 'cpuMicros', title: 'CPU µs/request', digits: 1, compared: true },
      ...coreFigures
    ],
    entries: peers => [
      { name: 'direct', isDirect: true, task: { paths: ['/small'], rate: 500, headers, answerBytes: small.length } },
      { name: 'relay', peer: relay, task: { paths: ['/small'], rate: 500, headers, answerBytes: small.length } },
      ...eachPeer({ paths: [`${prefix}/small`], rate: 500, headers, answerBytes: small.length })(peers)
    ]
  },
  {
    name: 'agents-10000',
    title: '10,000 registered agents against 3, GET of 200 B, 64 connections',
    note: `Of 10,000 agents, ${few} and then ${asked} are asked in turn. Agents are probed only at the start (health.interval 1h), so that 10,000 probes every 10 s are not counted. Ratios are to the same build with ${few} agents.`,
    kind: 'load',
    figures: loadFigures,
    onlyGateways: true,
    entries: peers => peers.flatMap(peer => {
      const base = `${peer.name}, ${few} agents`
      const task = paths => ({ paths, connections: 64, headers, answerBytes: small.length })
      return [
        { name: base, base, peer, process: base, fleet: fleetOf(few), task: task(pathsOf(few, few)) },
        { name: `${peer.name}, 10,000, ${few} asked`, base, peer, process: `${peer.name} 10,000`, fleet: fleetOf(many), task: task(pathsOf(few, many)) },
        { name: `${peer.name}, 10,000, ${asked} asked`, base, peer, process: `${peer.name} 10,000`, fleet: fleetOf(many), task: task(pathsOf(asked, many)) }
      ]
    })
  },
  {
    name: 'limits-redis',
    title: 'rate limits shared by Redis against limits of its own, GET of 200 B, 64 connections',
    note: 'One gateway and one Redis, which runs beside load and upstreams. Each request takes its token there, and waits for it. Ratios are to the same build without Redis.',
    kind: 'load',
    figures: loadFigures,
    onlyGateways: true,
    needsRedis: true,
    entries: peers => peers.flatMap(peer => {
      const base = `${peer.name}, alone`
      const task = { paths: [`${prefix}/small`], connections: 64, headers, answerBytes: small.length }
      return [
        { name: base, base, peer, task },
        { name: `${peer.name}, Redis`, base, peer, fleet: (ports, { redisUrl }) => `${fleetFile(ports)}redis: {url: '${redisUrl}'}\n`, task }
      ]
    })
  }
]

/**
 * One request, to see that what is measured is what is meant: 200, and every byte of the answer.
 * @throws {Error} when it is something else
 */
export async function checkAnswer (port, { method = 'GET', paths: [path], bodyBytes, answerBytes }, isGateway) {
  const response = await new Promise((resolve, reject) => {
    const outgoing = request({ port, host: '127.0.0.1', method, path, agent: false, timeout: 30_000, headers: { ...headers, Origin: 'http://example.com', ...(bodyBytes !== undefined && { 'Content-Length': bodyBytes }) } }, resolve)
    outgoing.on('error', reject).on('timeout', () => outgoing.destroy(new Error(`${method} ${path} had no answer in 30 s`)))
    outgoing.end(bodyBytes === undefined ? undefined : Buffer.alloc(bodyBytes, 'x'))
  })
  let bytes = 0
  for await (const chunk of response) bytes += chunk.length
  if (response.statusCode !== 200) throw new Error(`${method} ${path} was answered ${response.statusCode}`)
  if (bytes !== answerBytes) throw new Error(`${method} ${path} was answered by ${bytes} bytes instead of ${answerBytes}`)
  const absent = isGateway ? ['access-control-allow-origin', 'ratelimit', 'via', 'x-request-id'].filter(name => response.headers[name] === undefined) : []
  if (absent.length > 0) throw new Error(`the answer has no ${absent.join(', ')}: not everything is on`)
}
