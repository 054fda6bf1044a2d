/** Writes docs/benchmarks.md and its charts out of one run's results. Pure but for the writing at the end. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { barChart } from './chart.js'
import { countDisturbed, pairRatio, summary, undisturbedPercent } from './figures.js'
import { buildRows, keyRows } from './key-ratios.js'
import { baseOf, markdownTable, number, scenarioRows } from './table.js'

/** Scenarios in the charts. */
const charted = ['get-64', 'post-1k', 'get-1m']

/**
 * @typedef {object} Report
 * @property {string} at
 * @property {string} command
 * @property {Record<string, string | number>} machine
 * @property {number} loadAverage
 * @property {readonly { name: string, about: string, version: string }[]} peers
 * @property {readonly string[]} builds names of the gateway's builds, ours first
 * @property {readonly { scenario: { name: string, title: string, note?: string, figures: import('./scenarios.js').Figure[] }, rounds: number, seconds: number, upstreams: string, entries: object[] }[]} results
 * @property {readonly string[]} skipped
 * @property {readonly string[]} problems
 */

/** Panels of one figure for each charted scenario that was measured. */
function panels ({ results, builds }, key, { title, label, relative }) {
  return results.filter(({ scenario }) => charted.includes(scenario.name)).map(({ scenario, entries }) => ({
    title: `${scenario.title}: ${title}`,
    bars: entries.flatMap(entry => {
      const base = baseOf(entries, entry)
      const found = relative ? pairRatio(entry.rounds, base.rounds, key) : summary(entry.rounds.flatMap(round => round?.[key] === undefined ? [] : [round[key]]))
      return found === undefined ? [] : [{ name: entry.name, value: found.median, label: label(found), ours: builds.includes(entry.name) }]
    })
  })).filter(({ bars }) => bars.length > 0)
}

/** The charts, by the name of their file; those with nothing in them are left out. */
export function charts (report) {
  const requests = panels(report, 'requestsPerSecond', { title: 'requests/s against bare', relative: true, label: ({ median }) => `× ${number(median, 2)}` })
  const cpu = panels(report, 'cpuMicros', { title: 'CPU µs per request', label: ({ median, min, max }) => `${number(median, 0)} (${number(min, 0)}–${number(max, 0)})` })
  return Object.fromEntries(Object.entries({
    'benchmarks-requests.svg': ['Requests a second against bare @fastify/http-proxy; more is better', requests],
    'benchmarks-cpu.svg': ['Processor time per request; less is better', cpu]
  }).filter(([, [, panels]]) => panels.length > 0).map(([file, [title, panels]]) => [file, { title, svg: barChart(title, panels) }]))
}

const list = lines => lines.map(line => `- ${line}`).join('\n')

/** What stands above the table of other builds. */
function aboutBuilds ([ours, ...others]) {
  const names = others.map(name => `\`${name}\``).join(', ')
  return `${names} ${others.length === 1 ? 'is another build' : 'are other builds'} of the gateway, beside \`${ours}\` in the same rounds ([what each is](#who-was-compared)). Each figure is divided by that of
\`${ours}\` within a round: 1 is no difference; above 1 is better in requests/s, and worse in everything else.`
}

/** @param {Report} report */
export function benchmarksDocument (report) {
  const { at, command, machine, loadAverage, peers, builds, results, skipped, problems } = report
  const key = keyRows(results, builds)
  const between = buildRows(results, builds)
  const { rounds, disturbed } = countDisturbed(results)
  return `${[
    '# Benchmarks',
    `Written on ${at.slice(0, 10)} by \`${command}\`, and not by hand.`,
    ...(disturbed > rounds / 10
      ? [`**Not to be quoted**: in ${disturbed} of ${rounds} rounds others took more than ${undisturbedPercent} % of the proxy's core. It has to be written again on a quiet machine.`]
      : []),
    'Figures are this machine\'s and this day\'s; what carries over to others is how they compare with each other.',
    `Real processes on loopback in front of cheap upstreams. Before the first round each has load for three times a round's time, at most 5 s, so that its
code is compiled and its connections are open. Everybody takes a turn in each round (A B C A B C …); figures are medians over rounds, with the
least and the most in parentheses. Ratios (×) are taken within each round, and then their median. CPU is the time of the proxy's process and all its
children in user and kernel mode, by Linux's account. A round in which one answer was not 2xx, or one connection broke, gives no figure. Where a proxy had much
less than all of its core, the load generator, the upstreams or others on the machine were the bound, and its requests/s say nothing; its CPU time does.`,
    markdownTable([['', ''], ...Object.entries({
      machine: `${machine.cpu}, ${machine.cores} processors, ${machine.memoryGiB} GiB`,
      system: machine.kernel,
      Node: machine.node,
      load: machine.load,
      placement: machine.pinned,
      'load average before': loadAverage.toFixed(2),
      'disturbed rounds': `${disturbed} of ${rounds} (others took more than ${undisturbedPercent} % of the proxy's core)`
    })]),
    ...(key.length > 1 ? ['## The key ratios', markdownTable(key)] : []),
    ...Object.entries(charts(report)).map(([file, { title }]) => `![${title}](${file})`),
    ...(between.length > 1 ? ['## Other builds of the gateway', aboutBuilds(builds), markdownTable(between)] : []),
    '## Scenario by scenario',
    ...results.flatMap(({ scenario, rounds, seconds, upstreams, entries }) => [
      `### ${scenario.name}`,
      `${scenario.title}. ${scenario.note === undefined ? '' : `${scenario.note} `}Rounds: ${rounds}, of ${seconds} s; upstreams: ${upstreams}.`,
      markdownTable(scenarioRows(scenario, entries))
    ]),
    '## Who was compared',
    markdownTable([['', 'what is on', 'version'], ...peers.map(({ name, about, version }) => [name, about, version])]),
    ...(skipped.length > 0 ? ['Skipped:', list(skipped)] : []),
    ...(problems.length > 0 ? ['Without a figure:', list(problems)] : []),
    '[CONTRIBUTING.md](../CONTRIBUTING.md#benchmarks) says when to run which part of it.'
  ].join('\n\n')}\n`
}

/** Writes the document and its charts into a folder. */
export function writeDocument (folder, report) {
  writeFileSync(join(folder, 'benchmarks.md'), benchmarksDocument(report))
  for (const [file, { svg }] of Object.entries(charts(report))) writeFileSync(join(folder, file), svg)
}
