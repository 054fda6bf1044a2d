/** `fleet-gateway serve` as a process of its own, in a folder of the test's. */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'

/** As `npm test` has built it. */
export const main = fileURLToPath(new URL('../../dist/src/main.js', import.meta.url))

interface Running {
  readonly child: ChildProcess
  readonly port: number
  /** Standard error so far. */
  readonly said: () => string
  /** Standard output so far. */
  readonly printed: () => string
  readonly exited: Promise<number | null>
}

interface Place { cwd: string, env?: Record<string, string> }

/** Starts a command, whatever comes of it. */
export function launch (t: Test, args: readonly string[], { cwd, env = {} }: Place) {
  const child = spawn(process.execPath, ['--enable-source-maps', main, ...args], { cwd, env: { ...process.env, FLEET_SECRET: '', ...env }, stdio: ['ignore', 'pipe', 'pipe'] })
  t.teardown(() => { child.kill('SIGKILL') })
  let said = ''
  let printed = ''
  child.stderr.on('data', (chunk: Buffer) => { said += chunk.toString() })
  child.stdout.on('data', (chunk: Buffer) => { printed += chunk.toString() })
  const exited = once(child, 'close').then(([code]) => code as number | null)
  return { child, said: () => said, printed: () => printed, exited }
}

/** Starts `serve` on a free port and waits until it says so. */
export async function serve (t: Test, args: readonly string[], place: Place): Promise<Running> {
  const running = launch(t, ['serve', '--port', '0', ...args], place)
  const port = await new Promise<number>((resolve, reject) => {
    running.child.stderr!.on('data', () => {
      const [, found] = /^Fleet Gateway on http:\/\/[^:]+:(\d+)[^]*try /m.exec(running.said()) ?? []
      if (found !== undefined) resolve(Number(found))
    })
    void running.exited.then(code => reject(new Error(`exit ${code}: ${running.said()}`)))
  })
  return { ...running, port }
}
