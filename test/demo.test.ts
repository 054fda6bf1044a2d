/** `npm run demo` as a person meets it: the built gateway, the example agents, Ctrl-C. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { unmeasured } from './helpers/unmeasured.ts'

// Six processes start three times over, on a machine that may be busy with other tests.
t.setTimeout(120_000)

const root = fileURLToPath(new URL('..', import.meta.url))

interface Demo {
  /** Waits until all of this was printed. @returns what was printed so far */
  printed (pattern: RegExp): Promise<string>
  /** As a terminal's Ctrl-C does: the signal reaches every process of the demo. */
  interrupt (signal: NodeJS.Signals): void
  /** Waits for the end. @returns the exit code and all that was printed */
  ended (): Promise<{ code: number | null, output: string }>
  /** What it left behind of its temporary files. */
  leftovers (): string[]
}

/** Starts the demo in a process group of its own, with a folder of its own for temporary files; ends it with the test. */
function startDemo (t: Test, args: readonly string[], env: NodeJS.ProcessEnv = {}): Demo {
  const temporary = t.testdir({})
  const child = spawn(...unmeasured(process.execPath, join(root, 'examples/demo.js'), ...args), {
    cwd: root, detached: true, env: { ...process.env, FLEET_SECRET: '', ...env, TMPDIR: temporary }, stdio: ['ignore', 'pipe', 'pipe']
  })
  const closed = once(child, 'close')
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text: string) => { output += text })
  t.teardown(async () => {
    if (child.exitCode === null && child.signalCode === null) child.kill('SIGTERM')
    await closed
  })
  return {
    async printed (pattern) {
      while (!pattern.test(output)) {
        await Promise.race([once(child.stdout, 'data'), closed.then(() => { throw new Error(`the demo ended:\n${output}`) })])
      }
      return output
    },
    interrupt: signal => { process.kill(-(child.pid ?? NaN), signal) },
    async ended () {
      await closed
      return { code: child.exitCode, output }
    },
    leftovers: () => readdirSync(temporary)
  }
}

t.test('every command it prints works, and nothing is left behind', async t => {
  const demo = startDemo(t, ['--check'])

  const { code, output } = await demo.ended()

  t.equal(code, 0, output)
  t.match(output, /^All \d+ examples work\.$/m)
  t.notMatch(output, /^failed/m)
  t.same(demo.leftovers(), [])
})

t.test('it makes way for what is on its ports, goes on when an instance ends, and ends everything on Ctrl-C', async t => {
  const other = createServer()
  t.teardown(() => other.close())
  // Taken already is as good as taken by us.
  await once(other.listen(8501, '127.0.0.1'), 'listening').catch(() => {})
  const demo = startDemo(t, [], { FLEET_SECRET: 'a-secret-of-ours' })

  const output = await demo.printed(/Ctrl-C/)
  const gateway = /http:\/\/127\.0\.0\.1:\d+/.exec(output)?.[0] ?? ''
  const headers = { authorization: 'Bearer a-secret-of-ours' }
  const agents = await (await fetch(`${gateway}/agents`, { headers })).json() as Record<string, { instances: { port: number }[] }>
  const ports = Object.values(agents).flatMap(({ instances }) => instances.map(({ port }) => port))
  process.kill(Number(/^kill (\d+)$/m.exec(output)?.[1]), 'SIGTERM')
  await demo.printed(/^trail-agent \(8511\) ended \(.+\); the gateway goes on without it\.$/m)
  const statuses = await Promise.all(Array.from({ length: 4 }, async () => (await fetch(`${gateway}/api/trail/health`, { headers })).status))
  demo.interrupt('SIGINT')
  const { code } = await demo.ended()

  t.same(statuses, [200, 200, 200, 200])
  t.match(output, /^Port 8501 is taken, so trail-agent is on \d+\.$/m)
  t.match(output, "curl -s -H 'Authorization: Bearer a-secret-of-ours'")
  t.equal(ports.length, 5)
  t.notOk(ports.includes(8501))
  t.equal(code, 0)
  for (const url of [gateway, ...ports.map(port => `http://127.0.0.1:${port}`)]) await t.rejects(fetch(url), { cause: { code: 'ECONNREFUSED' } }, url)
  t.same(demo.leftovers(), [])
})

t.test('it says why when a part of it can\'t start', async t => {
  const demo = startDemo(t, [], { FLEET_SECRET: 'short' })

  const { code, output } = await demo.ended()

  t.equal(code, 1)
  t.match(output, /The demo ends: the gateway ended \(exit code 2\):\n.*secret/)
  t.same(demo.leftovers(), [])
})

t.test('it knows one flag only', async t => {
  const demo = startDemo(t, ['--chekc'])

  t.match(await demo.ended(), { code: 2, output: /usage/ })
})
