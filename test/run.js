/**
 * What `npm test` runs: tap, told on in short, then the one line that CI counts. Arguments go on to tap
 * (`npm test -- test/fleet/registry.leases.test.ts --grep=heartbeat`). `npm run coverage` is the same with `--coverage`, a fifth slower: what tests
 * run of the sources is shown, and with no other argument held to a bound.
 */
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { inspect } from 'node:util'
import { Parser } from 'tap-parser'
import { filesOfWholeRun } from './groups/members.js'

/** What part of the lines (and statements) of src/ and plugins/ must be run by tests, in per cent. */
const requiredCoverage = 95

const root = fileURLToPath(new URL('..', import.meta.url))
const summaryFile = join(root, '.tap/report/coverage-summary.json')
const measuredFolders = ['src', 'plugins']
const coverageFlag = '--coverage'
const measures = process.argv.includes(coverageFlag)
const argv = process.argv.slice(2).filter(argument => argument !== coverageFlag)
const isWholeRun = argv.length === 0

const print = (text = '') => process.stdout.write(`${text}\n`)

/** The console's page runs in a browser, where coverage is not measured: tests in test/browser use it as people do. */
const pageFolder = 'plugins/console/page/'

/** All that dist/ is made of, relative to the root. */
const built = measuredFolders.flatMap(folder => readdirSync(join(root, folder), { recursive: true }).map(name => join(folder, name)))
/** All .ts files that are measured. */
const sources = built.filter(name => name.endsWith('.ts') && !name.startsWith(pageFolder))

/** Some tests start the built program, so it has to be that of these sources. */
function buildIfStale () {
  const entry = join(root, 'dist/src/main.js')
  const builtAt = existsSync(entry) ? statSync(entry).mtimeMs : -Infinity
  if ([...sources, ...built.filter(name => name.startsWith(pageFolder))].every(file => statSync(join(root, file)).mtimeMs <= builtAt)) return true
  print('dist/ is older than the sources: building')
  return spawnSync('npm', ['run', '-s', 'build'], { cwd: root, stdio: ['ignore', 'inherit', 'inherit'] }).status === 0
}

/**
 * Follows one TAP document. Assertions are counted where they stand; the line that closes a subtest only counts when it says more than
 * they do: a file that crashed, timed out or broke its plan without a failed assertion is one failure, one without any is what it says.
 */
function follow (parser, path, counts) {
  let closing
  parser.on('child', child => {
    const before = { ...counts }
    const childPath = [...path, child.name || '(unnamed)']
    closing = { before, childPath }
    follow(child, childPath, counts)
  })
  parser.on('assert', result => {
    const { before, childPath } = closing ?? {}
    closing = undefined
    const silent = before === undefined || total(counts) === total(before)
    const unexplained = !result.ok && !result.todo && !result.skip && counts.failed === (before ?? counts).failed
    if (silent || unexplained) count(counts, result)
    if (unexplained) tellFailure(childPath ?? [...path, result.name || '(unnamed)'], result.diag)
    if (path.length === 0 && before !== undefined) tellFile(result, before, counts)
  })
  parser.on('bailout', reason => {
    if (path.length > 0) return
    counts.failed += 1
    tellFailure(['Bail out!', reason], {})
  })
  // What a test says of itself: t.comment(), and not tap's own notes.
  parser.on('comment', comment => { if (path.length > 0 && !/^# (?:Subtest|time=|skip:|todo:|failed|passed)/.test(comment)) print(`  ${comment.trimEnd()}`) })
  // What a test printed, and tap's coverage table; naming the report's file is of no use to anybody.
  parser.on('extra', line => { if (!line.startsWith('json-summary report:')) process.stdout.write(line) })
}

const total = ({ passed, failed, skipped }) => passed + failed + skipped

function count (counts, { ok, skip, todo }) {
  if (skip || todo) counts.skipped += 1
  else if (ok) counts.passed += 1
  else counts.failed += 1
}

function tellFile ({ ok, name, skip, time }, before, counts) {
  const passed = counts.passed - before.passed
  const failed = counts.failed - before.failed
  const seconds = typeof time === 'number' ? ` (${(time / 1_000).toFixed(1)} s)` : ''
  if (typeof time === 'number') slowest.push({ name, seconds: time / 1_000 })
  print(`${ok ? skip ? '-' : '✓' : '✗'} ${name}: ${passed} passed${failed > 0 ? `, ${failed} failed` : ''}${seconds}`)
}

/** How long each file took. */
const slowest = []

/** What failed, to be told again below the table of coverage: the end of a log is what is read first, and sometimes all that is kept. */
const failures = []
const failuresToldAgain = 5

function tellFailure (path, diag) {
  const lines = failureLines(path, diag)
  failures.push(lines)
  print(['', ...lines, ''].join('\n'))
}

function failureLines (path, diag) {
  const lines = [`✗ ${path.join(' › ')}`]
  for (const [key, value] of Object.entries(diag ?? {})) {
    if (key === 'args' || key === 'stdio' || key === 'command' || key === 'cwd') continue
    const text = typeof value === 'string' ? value.trimEnd() : inspect(value, { depth: 5, breakLength: 120 })
    lines.push(text.includes('\n') ? `  ${key}:\n${text.replaceAll(/^/gm, '    ')}` : `  ${key}: ${text}`)
  }
  return lines
}

/** Covered and all lines and statements, those of files that nothing loaded included. */
async function measuredCoverage () {
  const summary = existsSync(summaryFile) ? JSON.parse(readFileSync(summaryFile, 'utf8')) : {}
  const found = { lines: { covered: 0, total: 0 }, statements: { covered: 0, total: 0 }, unloaded: [] }
  for (const file of sources) {
    const entry = summary[join(root, file)]
    if (entry === undefined && !await hasCode(file)) continue
    if (entry === undefined) found.unloaded.push(file)
    const lines = entry === undefined ? readFileSync(join(root, file), 'utf8').split('\n').length : 0
    for (const kind of ['lines', 'statements']) {
      found[kind].covered += entry?.[kind].covered ?? 0
      found[kind].total += entry?.[kind].total ?? lines
    }
  }
  return found
}

/** Whether anything is left of a file when its types are gone. */
async function hasCode (file) {
  const { default: ts } = await import('typescript')
  const options = { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2023, removeComments: true, verbatimModuleSyntax: true }
  const { outputText } = ts.transpileModule(readFileSync(join(root, file), 'utf8'), { compilerOptions: options })
  return outputText.replace('export {};', '').trim() !== ''
}

/** Says what is covered; true when it is enough. */
async function coverageHolds () {
  const { lines, statements, unloaded } = await measuredCoverage()
  const percent = ({ covered, total }) => total === 0 ? 0 : covered * 100 / total
  for (const file of unloaded) print(`not covered: ${file} (no test loads it)`)
  print(`coverage of ${measuredFolders.join('/ and ')}/: ${percent(lines).toFixed(2)} % of lines, ${percent(statements).toFixed(2)} % of statements; required: ${requiredCoverage} %`)
  const holds = percent(lines) >= requiredCoverage && percent(statements) >= requiredCoverage
  if (!holds) print('coverage is too low')
  return holds
}

async function runTap (counts) {
  const tap = spawn(process.execPath, [
    join(root, 'node_modules/tap/dist/esm/run.mjs'), '--reporter=tap', ...measures ? ['--coverage-report=text', '--coverage-report=json-summary'] : ['--disable-coverage'],
    ...isWholeRun ? filesOfWholeRun().map(file => `test/${file}`) : argv
  ], { cwd: root, stdio: ['ignore', 'pipe', 'inherit'] })
  // Ctrl-C reaches tap by itself, and its word about that is waited for; a SIGTERM only reaches this process.
  process.on('SIGINT', () => {})
  process.on('SIGTERM', () => tap.kill('SIGTERM'))
  const parser = new Parser()
  follow(parser, [], counts)
  tap.stdout.pipe(parser)
  const [[code, signal]] = await Promise.all([once(tap, 'exit'), once(parser, 'complete')])
  if (signal !== null) print(`tap was ended by ${signal}`)
  return code ?? 1
}

const counts = { passed: 0, failed: 0, skipped: 0 }
let exitCode = 1

if (buildIfStale()) {
  rmSync(summaryFile, { force: true })
  exitCode = await runTap(counts)
  if (measures && isWholeRun && !await coverageHolds()) exitCode ||= 1
} else {
  print('the build failed, so no test was run')
}

if (counts.failed > 0) exitCode ||= 1
if (counts.passed + counts.failed === 0) {
  print('no test ran')
  exitCode ||= 1
}
process.exitCode = exitCode
if (isWholeRun) {
  slowest.sort((a, b) => b.seconds - a.seconds)
  print(`slowest: ${slowest.slice(0, 8).map(({ name, seconds }) => `${name} ${seconds.toFixed(0)} s`).join(', ')}`)
}
if (isWholeRun && failures.length > 0) print(['', 'what failed:', ...failures.slice(0, failuresToldAgain).flat()].join('\n'))
if (isWholeRun && failures.length > failuresToldAgain) print(`… and ${failures.length - failuresToldAgain} more, above`)
print(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`)
