/** The few figures by which a change is judged, for each build of the gateway in a run, and how the builds compare with each other. */
import { summary } from './figures.js'
import { figureCell, ratioCell } from './table.js'

/**
 * @typedef {object} Measure
 * @property {string} title
 * @property {string} scenario
 * @property {string} figure
 * @property {string} [against] a peer, or another entry of the same build; absent: the figure itself
 * @property {string} [of] the build's entry, when it is not called as the build
 * @property {boolean} [inverse] the peer's figure against ours
 * @property {number} atLeast what is asked for
 * @property {number} aim what would be better
 */

/** @type {readonly Measure[]} where `atLeast` is the larger of the two, less is better */
const measures = [
  { title: 'GET 200 B, requests/s against bare', scenario: 'get-64', figure: 'requestsPerSecond', against: 'bare', atLeast: 1.4, aim: 1.8 },
  { title: 'GET 200 B, CPU per request against bare', scenario: 'get-64', figure: 'cpuMicros', against: 'bare', atLeast: 0.70, aim: 0.55 },
  { title: 'GET 200 B, requests/s against the stock composition', scenario: 'get-64', figure: 'requestsPerSecond', against: 'stock', atLeast: 1.9, aim: 2.4 },
  { title: 'GET 200 B, work per CPU µs against nginx', scenario: 'get-64', figure: 'cpuMicros', against: 'nginx', inverse: true, atLeast: 0.20, aim: 0.28 },
  { title: 'POST 1 KiB, requests/s against bare', scenario: 'post-1k', figure: 'requestsPerSecond', against: 'bare', atLeast: 1.7, aim: 2.2 },
  { title: '256 connections, requests/s against bare', scenario: 'get-256', figure: 'requestsPerSecond', against: 'bare', atLeast: 1.3, aim: 1.7 },
  { title: 'GET 1 MiB, requests/s against bare', scenario: 'get-1m', figure: 'requestsPerSecond', against: 'bare', atLeast: 1.2, aim: 2.0 },
  { title: 'GET 1 MiB, work per CPU µs against bare', scenario: 'get-1m', figure: 'cpuMicros', against: 'bare', inverse: true, atLeast: 1.2, aim: 2.0 },
  { title: 'memory per event stream, KiB', scenario: 'streams', figure: 'kibPerStream', atLeast: 25, aim: 14 },
  { title: 'added p50 at 500/s against bare', scenario: 'latency', figure: 'addedP50', against: 'bare', atLeast: 0.65, aim: 0.5 },
  { title: 'CPU with 10,000 agents against 3', scenario: 'agents-10000', figure: 'cpuMicros', of: 'BUILD, 10,000, 3 asked', against: 'BUILD, 3 agents', atLeast: 1.05, aim: 1.0 },
  { title: 'the same, 100 of them asked', scenario: 'agents-10000', figure: 'cpuMicros', of: 'BUILD, 10,000, 100 asked', against: 'BUILD, 3 agents', atLeast: 1.05, aim: 1.0 }
]

/** A measure of one build as a cell; a dash when it was not measured. */
function cellOf (results, build, { scenario, figure, of = 'BUILD', against, inverse = false }) {
  const entries = results.find(result => result.scenario.name === scenario)?.entries ?? []
  const roundsOf = name => entries.find(entry => entry.name === name.replace('BUILD', build))?.rounds ?? []
  const ours = roundsOf(of)
  if (against === undefined) return figureCell(summary(ours.flatMap(round => round?.[figure] === undefined ? [] : [round[figure]])), 2)
  return inverse ? ratioCell(roundsOf(against), ours, figure) : ratioCell(ours, roundsOf(against), figure)
}

/**
 * One row for each measure that was taken, one column for each build.
 * @param {readonly { scenario: { name: string }, entries: { name: string, rounds: (Record<string, number> | undefined)[] }[] }[]} results
 * @param {readonly string[]} builds
 * @returns {string[][]} the head first; only the head when nothing was measured
 */
export function keyRows (results, builds) {
  const rows = measures.map(measure => [measure, builds.map(build => cellOf(results, build, measure))])
    .filter(([, cells]) => cells.some(cell => cell !== '–'))
    .map(([{ title, atLeast, aim }, cells]) => [title, ...cells, `${atLeast > aim ? '≤' : '≥'} ${atLeast}`, String(aim)])
  return [['', ...builds, 'asked for', 'aim'], ...rows]
}

/**
 * How each other build compares with ours, in every figure that is compared: its figure against ours, pair by pair.
 * @returns {string[][]} the head first; only the head when there is no other build
 */
export function buildRows (results, builds) {
  const [ours, ...others] = builds
  const rows = results.flatMap(({ scenario, entries }) => scenario.figures.filter(({ compared }) => compared).flatMap(({ key, title }) => entries
    .filter(({ name }) => name === ours || name.startsWith(`${ours}, `))
    .map(({ name, rounds }) => [
      `${scenario.name}${name.slice(ours.length)}: ${title}`,
      ...others.map(build => ratioCell(entries.find(entry => entry.name === build + name.slice(ours.length))?.rounds ?? [], rounds, key))
    ])))
  return [['', ...others.map(build => `${build} × ${ours}`)], ...(others.length > 0 ? rows : [])]
}
