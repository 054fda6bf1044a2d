/** Signals on their way through `fleet-gateway run` to its program: from a terminal, npm, a service manager, as the first process of a container. */
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import t, { type Test } from 'tap'
import { startGateway } from '../helpers/build-gateway.ts'
import { listenerCommand, noTerminal, runWords, startRunner, startWords, untilInstances } from '../helpers/fleet-runner.ts'

const secret = 'fleet-secret-token'
const authorization = `Bearer ${secret}`

/** A gateway with auth, and what programs need to find it. */
async function fleet (t: Test) {
  const gateway = await startGateway(t, { auth: { secret } })
  const env = { FLEET_URL: gateway.origin, FLEET_SECRET: secret }
  const ask = (path: string) => fetch(`${gateway.origin}/api/${path}`, { headers: { authorization } })
  return { gateway, env, ask }
}

const has = (program: string, ...args: string[]) => spawnSync(program, args).status === 0
const noPid1 = process.getuid?.() === 0 && has('unshare', '--pid', '--fork', 'true') ? false : 'needs root and unshare'

t.test('signals that ask for something else are passed on at once', async t => {
  const { env } = await fleet(t)
  const runner = startRunner(t, ['web', '--', ...listenerCommand()], { env, covered: true })
  await runner.printed(/registered web/)

  for (const signal of ['SIGHUP', 'SIGUSR1', 'SIGUSR2', 'SIGQUIT'] as const) {
    runner.kill(signal)
    await runner.printed(new RegExp(`got ${signal}\n`))
  }

  runner.kill('SIGTERM')
  t.equal(await runner.ended, 0)
  t.same(runner.output().match(/got \w+/g), ['got SIGHUP', 'got SIGUSR1', 'got SIGUSR2', 'got SIGQUIT', 'got SIGTERM'], 'each of them once')
})

t.test('on SIGTERM nothing new is sent, what is under way finishes, and then the program is told', async t => {
  const { gateway, env, ask } = await fleet(t)
  const runner = startRunner(t, ['web', '--drain-timeout', '60s', '--', ...listenerCommand()], { env })
  await runner.printed(/registered web/)
  const held = ask('web/hold')
  await runner.printed(/holds/)
  const [instance] = gateway.registry.get('web').instances

  runner.kill('SIGTERM')
  await drains(gateway)
  t.equal((await ask('web/')).status, 503)
  t.notMatch(runner.output(), 'got SIGTERM')
  await fetch(`http://127.0.0.1:${instance!.port}/release`)

  t.equal(await (await held).text(), 'released')
  t.equal(await runner.ended, 0)
  t.match(runner.output(), 'got SIGTERM')
  t.same(gateway.registry.get('web').instances, [])
})

/** Resolves when the only instance of `web` takes no new requests. */
async function drains ({ registry }: Awaited<ReturnType<typeof startGateway>>): Promise<void> {
  while (registry.get('web').instances[0]?.runtime.draining !== true) await new Promise(setImmediate)
}

t.test('a drain does not take longer than it may', async t => {
  const { env, ask } = await fleet(t)
  const runner = startRunner(t, ['web', '--drain-timeout', '100ms', '--', ...listenerCommand()], { env })
  await runner.printed(/registered web/)
  const held = ask('web/hold')
  await runner.printed(/holds/)

  runner.kill('SIGTERM')

  t.equal(await runner.ended, 0)
  t.not((await held).status, 200)
})

t.test('who asks twice does not want to wait', async t => {
  const { gateway, env, ask } = await fleet(t)
  const runner = startRunner(t, ['web', '--drain-timeout', '10m', '--', ...listenerCommand()], { env })
  await runner.printed(/registered web/)
  const held = ask('web/hold')
  await runner.printed(/holds/)

  runner.kill('SIGTERM')
  await drains(gateway)
  runner.kill('SIGTERM')
  const again = setInterval(() => runner.kill('SIGTERM'), 100) // only one that comes later counts
  t.teardown(() => clearInterval(again))

  t.equal(await runner.ended, 0)
  await held
})

t.test('an interrupt that comes twice at once, as from npm, is one', async t => {
  const { env } = await fleet(t)
  const runner = startRunner(t, ['web', '--', ...listenerCommand()], { env })
  await runner.printed(/registered web/)

  runner.kill('SIGINT')
  runner.kill('SIGINT')

  t.equal(await runner.ended, 1, 'the program counts')
})

t.test('before there is a program to tell, a signal ends the command', async t => {
  const server = createServer(() => {}).listen(0, '127.0.0.1') // a gateway that does not answer
  await once(server, 'listening')
  t.teardown(() => server.close())
  const connected = once(server, 'connection')
  const runner = startRunner(t, ['web', '--', ...listenerCommand()], { env: { FLEET_URL: `http://127.0.0.1:${(server.address() as { port: number }).port}`, FLEET_SECRET: secret } })
  const [socket] = await connected as [{ destroy: () => void }]
  t.teardown(() => socket.destroy())

  runner.kill('SIGTERM')

  t.equal(await runner.ended, 143)
  t.equal(runner.output(), '')
})

t.test('a program that does not listen is told to end as well', async t => {
  const { gateway, env } = await fleet(t)
  const runner = startRunner(t, ['web', '--', ...listenerCommand()], { env: { ...env, LISTENS: 'no' } })
  await runner.printed(/pid \d+\n/)

  runner.kill('SIGTERM')

  t.equal(await runner.ended, 0)
  t.match(runner.output(), /got SIGTERM\n$/)
  t.equal(gateway.registry.find('web'), undefined)
})

t.test('when the command itself is killed the program lives on, and its lease runs out', async t => {
  const { gateway, env } = await fleet(t)
  const runner = startRunner(t, ['web', '--ttl', '1s', '--', ...listenerCommand()], { env })
  await runner.printed(/registered web/)
  const [, pid] = await runner.printed(/pid (\d+)/)

  runner.kill('SIGKILL')
  await untilInstances(gateway, 'web', 0)

  t.ok(process.kill(Number(pid), 0))
})

const quoted = (words: readonly string[]) => words.map(word => `'${word.replaceAll('\'', '\'\\\'\'')}'`).join(' ')

t.test('Ctrl-C in a terminal reaches the program once, also through npm', { skip: noTerminal }, async t => {
  const { gateway, env } = await fleet(t)
  const dir = t.testdir({ 'package.json': JSON.stringify({ scripts: { agent: quoted(runWords('web', '--', ...listenerCommand())) } }) })
  // A shell in between would get the Ctrl-C as well: bash gives way to its last command, dash does so when told.
  const script = (command: string) => startWords(t, ['script', '-qec', `exec ${command}`, '/dev/null'], { env: { ...env, TERM: 'xterm' }, cwd: dir })

  const direct = script(quoted(runWords('web', '--', ...listenerCommand())))
  await direct.printed(/registered web/)
  direct.write('\u0003')
  t.equal(await direct.ended, 1, `the program counts: ${direct.output()}`)
  t.same(gateway.registry.get('web').instances, [])

  const throughNpm = script('npm run --silent agent')
  await throughNpm.printed(/registered web/)
  throughNpm.write('\u0003')
  await throughNpm.ended
  t.equal(throughNpm.output().match(/got SIGINT/g)?.length, 1, throughNpm.output())
})

t.test('in the background of a terminal\'s shell, or without a terminal, an interrupt is passed on', { skip: noTerminal }, async t => {
  const { env } = await fleet(t)
  const command = `set -m; ${quoted(runWords('web', '--', ...listenerCommand()))} & echo "runner $!"; wait $!; echo "ended with $?"`
  const shell = startWords(t, ['script', '-qec', `bash -c ${quoted([command])}`, '/dev/null'], { env: { ...env, TERM: 'xterm' } })
  const [, pid] = await shell.printed(/runner (\d+)/)
  await shell.printed(/registered web/)

  process.kill(Number(pid), 'SIGINT')

  await shell.printed(/ended with 1\b/)
})

t.test('as the first process of a container it hears signals', { skip: noPid1 }, async t => {
  const { gateway, env } = await fleet(t)
  const runner = startRunner(t, ['web', '--', ...listenerCommand()], { env, around: ['unshare', '--pid', '--fork', '--kill-child'] })
  await runner.printed(/registered web/)
  const pid = Number(await readFile(`/proc/${runner.pid}/task/${runner.pid}/children`, 'utf8'))
  t.match(await readFile(`/proc/${pid}/status`, 'utf8'), /^NSpid:\t\d+\t1$/m)

  process.kill(pid, 'SIGTERM')

  t.equal(await runner.ended, 0)
  t.match(runner.output(), 'got SIGTERM')
  t.same(gateway.registry.get('web').instances, [])
})
