/** `onboard` as it asks, and as it is told: what it writes, and what it never writes over. Finding servers is in scan.test.ts. */
import t from 'tap'
import { spawnSync } from 'node:child_process'
import { lstat, readdir, readFile, readlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fleetFile } from '../../src/cli/fleet-file.ts'
import { run } from '../../src/cli/program.ts'
import { parseConfig, type FleetConfigInput } from '../../src/config.ts'
import { parseYaml } from '../../src/yaml.ts'
import { fakeIo } from '../helpers/fake-io.ts'
import { runCommand } from '../helpers/run-command.ts'

t.test('onboard writes a valid file with comments, and never over one without a yes', async t => {
  const dir = t.testdir({ 'there.yaml': 'agents: []\n' })
  const file = join(dir, 'new.yaml')
  const written = await runCommand(['onboard', '--fleet', file, '--agent', 'planner=8501', '--agent', 'planner=[::1]:8502', '--agent', 'null=10.0.0.7:80'])

  t.match(written, { code: 0, stdout: '', stderr: /new\.yaml is written, with 2 agents;[^]*fleet-gateway serve/ })
  const text = await readFile(file, 'utf8')
  t.match(text, /^# yaml-language-server: \$schema=\S+schema\/fleet\.schema\.json\n/)
  t.match(await runCommand(['check', file]), { code: 0, stdout: /2 agents, 3 instances/ })

  const there = join(dir, 'there.yaml')
  t.match(await runCommand(['onboard', '--fleet', file, '--agent', 'a=1', '--agent', 'a=1', '--yes']), { code: 1, stderr: /is an instance of "a" already/ })
  t.equal(await readFile(file, 'utf8'), text, 'what does not go together is not written')
  for (const [answer, isYes] of [['', false], ['n\n', false], ['\n', false], ['y\n', true]] as const) {
    await writeFile(there, 'agents: []\n')
    const { io, stdin, stderr } = fakeIo()
    stdin.end(answer)
    const code = await run(['onboard', '--fleet', there], io)
    t.match(stderr(), /there\.yaml is there already\. Write over it\? \[y\/N\]/)
    t.equal(code, isYes ? 0 : 1, JSON.stringify(answer))
    if (!isYes) t.match(stderr(), /is left as it is; --yes writes over it, .*"fleet-gateway register NAME PORT" adds an agent/)
    t.equal(await readFile(there, 'utf8') === 'agents: []\n', !isYes)
  }
  t.match(await runCommand(['check', there]), { code: 0, stdout: /0 agents/ })
  t.match(await runCommand(['onboard', '--fleet', join(dir, 'no-folder/x.yaml')]), { code: 1, stderr: /can't be written: there is no folder/ })
})

t.test('what is commented out in the written file is valid without its "# ", and shows defaults', async t => {
  const file = join(t.testdir({ token: 'token-token\n' }), 'fleet.yaml')
  const agents = [[], [{ name: 'coder', port: 80 }], [{ name: 'coder', port: 80 }, { name: 'coder', port: 81 }]]
  for (const given of agents) {
    const uncommented = fleetFile(given, './schema.json').replace(/^#( *(?:- )?[a-zA-Z]+:(?: .*)?)$/gm, (_, line: string) => line.replace(/^ /, ''))
    const { value, problems } = parseYaml(uncommented, {})
    const { agents: entries, auth, auditLog, ...shown } = value as FleetConfigInput

    t.same(problems, [])
    t.match(entries, [{ name: given[0]?.name ?? 'planner', aliases: ['plan', 'p'], timeout: '60s' }])
    t.same([auth, auditLog], [{ secretFile: '/run/secrets/fleet' }, { file: 'audit.log' }], 'names of files are examples')
    t.same(Object.keys(shown), ['server', 'rateLimit', 'cors', 'timeouts', 'health', 'retry'])
    t.same(parseConfig(shown), parseConfig({}))
    await writeFile(file, uncommented.replace('/run/secrets/fleet', join(t.testdirName, 'token')))
    t.match(await runCommand(['check', file]), { code: 0, stderr: '' })
  }
})

t.test('onboard writes through a link, and over nothing that is no file', async t => {
  const dir = t.testdir({ 'real.yaml': 'agents: []\n', folder: {}, 'link.yaml': t.fixture('symlink', 'real.yaml'), 'dangling.yaml': t.fixture('symlink', 'nowhere.yaml'), 'loop.yaml': t.fixture('symlink', 'loop.yaml') })
  const pipe = join(dir, 'pipe.yaml')
  t.equal(spawnSync('mkfifo', [pipe]).status, 0)
  const refused: [file: string, why: RegExp][] = [
    ['folder', /folder can't be written: it is a folder/],
    ['pipe.yaml', /it is no ordinary file/],
    ['dangling.yaml', /it is a link to a file that does not exist; remove it, or name that file/],
    ['none/fleet.yaml', /there is no folder .*none/],
    ['loop.yaml', /ELOOP/],
    ['real.yaml/fleet.yaml', /real\.yaml is no folder/]
  ]

  for (const [name, why] of refused) {
    t.match(await runCommand(['onboard', '--fleet', join(dir, name), '--yes']), { code: 1, stderr: why })
    t.match(await typed(['onboard', '--fleet', join(dir, name)], []), { code: 1, stderr: why }, 'before anything is asked')
  }
  t.match(await runCommand(['onboard', '--fleet', '/dev/null', '--yes']), { code: 1, stderr: /no ordinary file/ })
  t.ok((await lstat(pipe)).isFIFO())
  t.match(await runCommand(['onboard', '--fleet', join(dir, 'link.yaml'), '--agent', 'planner=8501', '--yes']), { code: 0 })
  t.equal(await readlink(join(dir, 'link.yaml')), 'real.yaml')
  t.match(await readFile(join(dir, 'real.yaml'), 'utf8'), 'planner')
  t.same((await readdir(dir)).sort(), ['dangling.yaml', 'folder', 'link.yaml', 'loop.yaml', 'pipe.yaml', 'real.yaml'], 'nothing is left behind')
})

/** Types at a terminal, each answer when its question is there. */
async function typed (args: readonly string[], answers: readonly [question: RegExp, keys: string][]) {
  const terminal = fakeIo({ isTTY: true, env: { TERM: 'xterm' } })
  for (const [question, keys] of answers) terminal.onLine(question, () => terminal.stdin.write(keys))
  const code = await run(args, terminal.io)
  return { code, stdout: terminal.stdout(), stderr: terminal.stderr() }
}

t.test('onboard asks at a terminal for names and addresses, and explains what comes next', async t => {
  const file = join(t.testdir(), 'fleet.yaml')

  const { code, stderr } = await typed(['onboard', '--fleet', file], [
    [/What is your agent called\?/, 'planner\r'],
    [/Where does planner listen\?/, '8501\r'],
    [/One more agent\?/, 'coder\r'],
    [/Where does coder listen\?/, '10.0.0.7:8502\r'],
    [/coder listen\?[^]*One more agent\?/, '\r']
  ])

  t.equal(code, 0, stderr)
  t.match(stderr, /fleet-gateway serve +starts the gateway/)
  t.match(await runCommand(['check', file]), { code: 0, stdout: /2 agents, 2 instances/ })
})

t.test('the same address twice is refused when it is typed', async t => {
  const { code, stderr } = await typed(['onboard', '--fleet', join(t.testdir(), 'fleet.yaml')], [
    [/What is your agent called\?/, 'planner\r'],
    [/Where does planner listen\?/, '8501\r'],
    [/One more agent\?/, 'planner\r'],
    [/One more agent\?[^]*planner listen\?/, 'localhost:8501\r'],
    [/planner is there already/, '\u0003']
  ])

  t.equal(code, 1)
  t.match(stderr, /planner is there already[^]*Nothing was written/)
})

t.test('with --agent nothing is asked at a terminal, but whether to write over a file', async t => {
  const file = join(t.testdir(), 'fleet.yaml')

  t.match(await typed(['onboard', '--fleet', file, '--agent', 'planner=8501'], []), { code: 0 })
  t.match(await typed(['onboard', '--fleet', file, '--agent', 'coder=8502'], [[/Write over it\?/, 'y']]), { code: 0 })
  t.match(await readFile(file, 'utf8'), /name: coder/)
})

t.test('onboard leaves everything as it is when somebody says no, or leaves', async t => {
  const file = join(t.testdir({ 'fleet.yaml': 'agents: []\n' }), 'fleet.yaml')
  const other = join(t.testdirName, 'other.yaml')

  t.match(await typed(['onboard', '--fleet', file], [[/Write over it\?/, '\r']]), { code: 1, stderr: /is left as it is; .*"fleet-gateway register NAME PORT" adds an agent/ })
  t.match(await typed(['onboard', '--fleet', other], [[/called\?/, '\u0004']]), { code: 1, stderr: /Nothing was written; there is no/ }, 'Ctrl-D')
  t.match(await typed(['onboard', '--fleet', other], [[/called\?/, '\u0003']]), { code: 1, stderr: /Nothing was written; there is no/ })
  t.equal(await readFile(file, 'utf8'), 'agents: []\n')
  await t.rejects(readFile(other), { code: 'ENOENT' })
})
