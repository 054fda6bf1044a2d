/** `fleet-gateway top` against a real gateway: on a terminal of the test's own, on a real one, and off terminals. */
import { once } from 'node:events'
import type { ServerResponse } from 'node:http'
import { stripVTControlCharacters } from 'node:util'
import t, { type Test } from 'tap'
import { agentLines } from '../../src/cli/fleet-lines.ts'
import { run } from '../../src/cli/program.ts'
import { Screen } from '../../src/cli/screen.ts'
import type { FleetGatewayOptions } from '../../src/gateway.ts'
import { WatchedFleet } from '../../src/watched-fleet.ts'
import type { Snapshot } from '../../plugins/console/wire.ts'
import { agentAt, startGateway, unprobed } from '../helpers/build-gateway.ts'
import { deadPort, fakeAgent } from '../helpers/fake-agent.ts'
import { fakeClock } from '../helpers/fake-clock.ts'
import { fakeIo } from '../helpers/fake-io.ts'
import { noTerminal, startWords } from '../helpers/fleet-runner.ts'
import { runCommand } from '../helpers/run-command.ts'
import { main } from '../helpers/serve-process.ts'

const secret = 'fleet-secret-token'

async function fleet (t: Test, options: FleetGatewayOptions = {}) {
  const agent = await fakeAgent(t, (request, response) => { response.writeHead(request.url === '/bad' ? 500 : 200).end('done') })
  const clock = fakeClock(Date.now())
  const gateway = await startGateway(t, {
    ...unprobed,
    clock,
    auth: { secret },
    retry: { attempts: 0 },
    agents: [agentAt('planner', agent), { name: 'away', instances: [{ host: '127.0.0.1', port: await deadPort() }, { host: '127.0.0.1', port: await deadPort() }] }],
    ...options
  })
  const env = { FLEET_URL: gateway.origin, FLEET_SECRET: secret, NO_COLOR: '1' }
  const ask = async (path: string) => (await fetch(gateway.origin + path, { headers: { authorization: `Bearer ${secret}` } })).arrayBuffer()
  return { agent, gateway, clock, env, ask }
}

const command = (args: readonly string[], env: Record<string, string>, isTTY = false) => runCommand(args, { isTTY, env })

const snapshot = {
  now: 1,
  sample_seconds: 5,
  totals: { uptime_seconds: 1, requests: 1, errors: 0, in_flight: 0, watching: 0 },
  config: { ok: false, error: 'bad \u001b[2J\u202e' },
  agents: { 'a\u001b[2J\nb': { status: 'down', aliases: [], row: [0, 0, 0, 0, 0, 0], facts: { x: { host: '::1\u009b2J', port: 1, state: 'down', why: 'x\u001b]0;title\u0007\r\ny', since: null, until: null, ejections: 0, lease: null } }, rows: { x: [0, 0, 0, 0, 0] } } },
  requests: null
}

/** Has ticks come once a command watches, after what `meanwhile` does. */
async function ticked<T> (running: Promise<T>, { gateway, clock }: Pick<Awaited<ReturnType<typeof fleet>>, 'gateway' | 'clock'>, meanwhile: () => Promise<unknown>): Promise<T> {
  await once(gateway.server, 'request')
  await meanwhile()
  const isOver = running.then(() => true)
  while (!await Promise.race([isOver, new Promise(resolve => setTimeout(resolve, 20))])) clock.advance(1_000)
  return running
}

/** Watches, on a terminal of 100 columns and 40 rows. */
function watch (env: Record<string, string>, ...args: string[]) {
  const terminal = fakeIo({ isTTY: true, env })
  const code = run(['top', ...args], terminal.io)
  /** The lines of the page that was drawn last. */
  const page = () => stripVTControlCharacters(terminal.stdout().split('\u001b[H').at(-1)!).split('\r\n')
  return { ...terminal, code, page, type: (text: string) => { terminal.stdin.write(text) } }
}

t.test('off a terminal, and with --once, it is one picture: how each agent fares, the worst first', async t => {
  const { gateway, env, clock, ask } = await fleet(t)
  for (let count = 0; count < 4; count++) await ask('/api/planner/bad')
  for (let count = 0; count < 8; count++) await ask('/api/away/')
  const [instance] = gateway.registry.get('planner').instances
  instance!.runtime.draining = true
  clock.advance(5_000)
  const more = () => Promise.all([ask('/api/away/'), ask('/api/away/')])

  const piped = await ticked(command(['top'], env), { gateway, clock }, more)
  const { stdout: atTerminal } = await ticked(command(['top', '--once', '--sort', 'name'], env, true), { gateway, clock }, more)

  t.match(piped, { code: 0, stderr: '' })
  const lines = piped.stdout.split('\n')
  t.match(lines[0], new RegExp(`^${gateway.origin}, up for \\d+ s$`))
  t.match(lines[1], /^[\d.]+ requests\/s {3}[\d.]+\s% errors {3}0 in flight {3}2 agents, 3 instances {3}2 down$/, 'what happened in two ticks')
  t.match(lines[3], /^AGENT +STATE +UP +LAST 100 S +REQ\/S +ERRORS +P50 +P99 +IN FLIGHT +WHAT IS WRONG$/)
  t.match(lines[4], /^away +down +0 of 2 .* [\d.]+ +100\s% .* 127\.0\.0\.1:\d+ (?:ejected|down): .*; and 1 more$/)
  t.match(lines[5], /^planner +down +0 of 1 +█ +0 +– .* 127\.0\.0\.1:\d+ draining: takes no new requests$/)
  // eslint-disable-next-line no-control-regex
  t.notMatch(atTerminal, /\u001b/)
  t.match(atTerminal, /\naway [^\n]*\nplanner /)
})

t.test('on a terminal it changes with the fleet, takes keys, and gives the terminal back', async t => {
  const { gateway, env, clock, ask } = await fleet(t)
  const top = watch(env)
  await top.printed(/planner +healthy/)
  t.match(top.page()[2], '')
  t.match(top.page().at(-1), 's: sorted by state, q: quit')

  for (let count = 0; count < 10; count++) await ask(`/api/planner/${count < 5 ? 'bad' : 'good'}`)
  clock.advance(1_000)
  await top.printed(/planner +healthy +1 of 1 +[\d.]+ +50\s% /)
  gateway.registry.removeAgent('planner')
  gateway.registry.register({ name: 'aaa', host: '127.0.0.1', port: 1 })
  clock.advance(1_000)
  await top.printed(/aaa +healthy/)
  t.notMatch(top.page().join('\n'), 'planner')
  top.type('s')
  await top.printed(/sorted by rate/)
  top.type('q')

  t.equal(await top.code, 0)
  // eslint-disable-next-line no-control-regex
  t.match(top.stdout(), /^\u001b\[\?1049h\u001b\[\?25l\u001b\[\?7l[^]*\u001b\[\?7h\u001b\[\?25h\u001b\[\?1049l$/)
  t.equal(top.stderr(), '')
  t.equal(top.stdin.listenerCount('keypress'), 0)
})

t.test('more agents than lines are gone through by keys, and no line is wider than the terminal', async t => {
  const agents = Array.from({ length: 100 }, (_, index) => ({ name: `agent-${String(index).padStart(3, '0')}-${'x'.repeat(50)}`, host: '127.0.0.1', port: 1_000 + index }))
  const { env } = await fleet(t, { agents })
  const top = watch(env, '--sort', 'name')
  await top.printed(/1 to \d+ of 100/)
  const shown = Number(/1 to (\d+) of 100/.exec(top.page().at(-1)!)![1])
  t.equal(top.page().length, 40)
  t.equal(shown, 40 - 6)
  t.ok(top.page().every(line => line.length <= 100))
  // eslint-disable-next-line no-control-regex
  t.notMatch(top.stdout(), /[^\nH]\u001b\[K|[^\n]\u001b\[J/, 'nothing is erased behind a line that may fill the terminal')
  const first = () => /agent-(\d+)/.exec(top.page().find(line => line.startsWith('agent-'))!)![1]

  for (const [key, expected] of [['\u001b[B', '001'], ['\u001b[6~', '021'], ['\u001b[F', '066'], ['\u001b[A', '065'], ['\u001b[5~', '045'], ['\u001b[H', '000'], ['x', '000'], ['\u001b[A', '000']]) {
    const drawn = top.stdout().split('\u001b[H').length
    top.type(key!)
    while (top.stdout().split('\u001b[H').length === drawn) await new Promise(resolve => setImmediate(resolve))
    t.equal(first(), expected, JSON.stringify(key))
  }
  top.type('\u0003')
  t.equal(await top.code, 0, 'Ctrl-C')
})

t.test('where there is little room the columns of least use are left out, and what is wrong is seen', t => {
  const fleet = new WatchedFleet()
  const facts = { ...snapshot.agents['a\u001b[2J\nb'].facts.x, host: '10.0.0.7', why: 'probes get no connection' }
  fleet.takeSnapshot({ ...snapshot, agents: { planner: { ...snapshot.agents['a\u001b[2J\nb'], facts: { x: facts } } } } as unknown as Snapshot)
  const { io } = fakeIo()
  const headAt = (columns?: number) => agentLines([...fleet.agents.values()], fleet.now(), io, columns)[0]!.split(/ {2,}/)

  t.equal(headAt().length, 10)
  t.same(headAt(100), ['AGENT', 'STATE', 'UP', 'REQ/S', 'ERRORS', 'P50', 'P99', 'IN FLIGHT', 'WHAT IS WRONG'])
  t.same(headAt(70), ['AGENT', 'STATE', 'UP', 'REQ/S', 'ERRORS', 'WHAT IS WRONG'])
  t.same(headAt(20), ['AGENT', 'STATE', 'REQ/S', 'ERRORS', 'WHAT IS WRONG'])
  t.end()
})

t.test('a signal is a good end; a gateway that goes away is waited for; a token that is withdrawn ends it', async t => {
  const { gateway, env, clock } = await fleet(t)
  const top = watch(env)
  await top.printed(/planner/)
  top.signal('SIGTERM')
  t.equal(await top.code, 0)

  const cut = watch(env)
  await cut.printed(/planner/)
  gateway.server.closeAllConnections()
  await cut.printed(/has ended the stream; waiting for it[^]*planner +healthy[^]*planner +healthy/)
  t.notMatch(cut.page().join('\n'), 'waiting for it')
  gateway.auth.reconfigure({ secret: 'another-fleet-secret' })
  clock.advance(1_000)
  t.equal(await cut.code, 1)
  t.match(cut.stderr(), /does not take the token any more\n$/)
  // eslint-disable-next-line no-control-regex
  t.match(cut.stdout(), /\u001b\[\?1049l$/)
})

t.test('what is wrong is told in a line', async t => {
  const { env } = await fleet(t)
  const without = await fleet(t, { console: { enabled: false } })

  for (const isTTY of [true, false]) {
    t.match(await command(['top'], { ...env, FLEET_SECRET: 'another-secret' }, isTTY), { code: 1, stdout: '', stderr: /does not take the token from FLEET_SECRET/ })
    t.match(await command(['top'], { ...env, FLEET_URL: 'http://127.0.0.1:1' }, isTTY), { code: 1, stdout: '', stderr: /No gateway listens/ })
    t.match(await command(['top'], without.env, isTTY), { code: 1, stdout: '', stderr: 'This gateway has no console, whose data top shows: see `console` in its fleet.yaml\n' })
  }
  t.match(await command(['top', '--sort', 'size'], env), { code: 2, stdout: '', stderr: /'size' is invalid\. Allowed choices are state, rate, errors, latency, name\./ })
})

t.test('what answers may be hostile: the terminal gets no orders, and what is no gateway is told', async t => {
  let events = (response: ServerResponse) => { response.end() }
  const { origin } = await fakeAgent(t, (_request, response) => { events(response.writeHead(200, { 'content-type': 'text/event-stream' })) })
  const env = { FLEET_URL: origin, FLEET_SECRET: secret, NO_COLOR: '1' }
  const told = (event: string, data: unknown) => `event: ${event}\ndata: ${JSON.stringify(data)}\n\n`

  events = response => { response.write(told('snapshot', snapshot)) }
  const { code, stdout } = await command(['top', '--once'], env, true)
  t.equal(code, 0, 'who tells of no tick is waited for as long as two should take')
  // eslint-disable-next-line no-control-regex
  t.notMatch(stdout, /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u202e]/)
  t.match(stdout, /\na.*b +down +0 of 1 .*x.* y/)
  const top = watch(env)
  await top.printed(/0 of 1/)
  // eslint-disable-next-line no-control-regex
  t.notMatch(stripVTControlCharacters(top.stdout()).replaceAll('\r\n', ''), /[\u0000-\u001f\u007f-\u009f\u202e]/)
  top.signal('SIGINT')
  await top.code

  for (const [event, data] of [['snapshot', { ...snapshot, agents: { a: { status: 'down' } } }], ['snapshot', { ...snapshot, totals: {} }], ['snapshot', []], ['snapshot', 'x'], ['snapshot', { ...snapshot, agents: { a: { ...snapshot.agents['a\u001b[2J\nb'], facts: { x: {} } } } }], ['snapshot', { ...snapshot, requests: 5 }]] as const) {
    events = response => { response.end(told(event, data)) }
    for (const isTTY of [true, false]) t.match(await command(['top'], env, isTTY), { code: 1, stdout: '', stderr: /no Fleet Gateway, to go by its event stream/ }, JSON.stringify(data))
  }
  events = response => { response.write(told('snapshot', snapshot) + told('tick', { now: 1, totals: snapshot.totals, agents: { new: { row: [1] } } })) }
  t.match(await watch(env).code, 1, 'a tick, too')
  for (const data of [{ requests: 5 }, { agents: { new: { ...snapshot.agents['a\u001b[2J\nb'], spark: 'x' } } }]) {
    events = response => { response.write(told('snapshot', snapshot) + told('tick', { now: 1, totals: snapshot.totals, ...data })) }
    const strange = watch(env)
    t.match({ code: await strange.code, stderr: strange.stderr() }, { code: 1, stderr: /no Fleet Gateway, to go by its event stream/ }, JSON.stringify(data))
  }
  const { x } = snapshot.agents['a\u001b[2J\nb'].facts
  events = response => { response.write(told('snapshot', { ...snapshot, agents: { constructor: { ...snapshot.agents['a\u001b[2J\nb'], facts: { constructor: x }, rows: {} } } }) + told('tick', { now: 1, totals: snapshot.totals }).repeat(2)) }
  t.match(await command(['top'], env), { code: 0, stdout: /\nconstructor +down +0 of 1 / }, 'an id may be the name of what every object has')
  events = response => { response.end() }
  t.match(await command(['top'], env), { code: 1, stderr: /has ended the stream/ }, 'who wants one picture does not wait')
})

t.test('an agent of which too little is told is not taken in', t => {
  const fleet = new WatchedFleet()
  fleet.takeSnapshot({ ...snapshot, agents: {} } as unknown as Snapshot)

  t.same(fleet.takeTick({ now: 2, totals: { ...snapshot.totals, proxied: 0 }, agents: { a: { status: 'down' } } }), [])

  t.equal(fleet.agents.size, 0)
  t.end()
})

t.test('what throws at a key gives the terminal back first', t => {
  const { io, stdin, stdout } = fakeIo({ isTTY: true })
  const screen = new Screen(io, { onKey: () => { throw new Error('a mistake') }, onResize: () => {} })
  screen.open()

  t.throws(() => stdin.emit('keypress', 'x', { name: 'x' }), { message: 'a mistake' })

  // eslint-disable-next-line no-control-regex
  t.match(stdout(), /\u001b\[\?1049l$/)
  t.equal(stdin.listenerCount('keypress'), 0)
  t.end()
})

t.test('in a real terminal q and Ctrl-C end it well, and the terminal is as it was', { skip: noTerminal }, async t => {
  const { env } = await fleet(t)
  for (const key of ['q', '\u0003']) {
    const shell = startWords(t, ['script', '-qec', `stty -a > before; '${process.execPath}' '${main}' top; echo "ended with $?"; stty -a > after; cmp before after && echo "as it was"`, '/dev/null'], { env: { ...env, TERM: 'xterm' }, cwd: t.testdir() })
    await shell.printed(/planner +healthy/)

    shell.write(key)

    await shell.printed(/ended with 0[^]*as it was/)
  }
})
