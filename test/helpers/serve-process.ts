/** `fleet-gateway serve` as a process of its own, in a folder of the test's. */
import { spawn, type ChildProcessByStdio } from 'node:child_process'
import { once } from 'node:events'
import type { Readable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import { measuredIf } from './unmeasured.ts'

/** As `npm test` has built it. */
export const main = fileURLToPath(new URL('../../dist/src/main.js', import.meta.url))

export interface Launched {
  readonly child: ChildProcessByStdio<null, Readable, Readable>
  /** Standard error so far. */
  readonly said: () => string
  /** Standard output so far. */
  readonly printed: () => string
  readonly exited: Promise<number | null>
  /** Waits until one of both matches. @throws Error when it ends before */
  until (pattern: RegExp): Promise<void>
}

interface Serving extends Launched {
  readonly port: number
}

interface Place {
  cwd: string
  env?: Record<string, string>
  /** Whether what it runs counts as covered. @default false */
  covered?: boolean
}

/** Starts a command, whatever comes of it. */
export function launch (t: Test, args: readonly string[], { cwd, env = {}, covered = false }: Place): Launched {
  const child = spawn(...measuredIf(covered, process.execPath, '--enable-source-maps', main, ...args), { cwd, env: { ...process.env, FLEET_SECRET: '', ...env }, stdio: ['ignore', 'pipe', 'pipe'] })
  t.teardown(() => { child.kill('SIGKILL') })
  let said = ''
  let printed = ''
  child.stderr.on('data', (chunk: Buffer) => { said += chunk.toString() })
  child.stdout.on('data', (chunk: Buffer) => { printed += chunk.toString() })
  const exited = once(child, 'close').then(([code]) => code as number | null)
  return {
    child,
    said: () => said,
    printed: () => printed,
    exited,
    until: pattern => new Promise((resolve, reject) => {
      const look = () => { if (pattern.test(said) || pattern.test(printed)) resolve() }
      child.stderr.on('data', look)
      child.stdout.on('data', look)
      void exited.then(code => reject(new Error(`exit ${code} before ${pattern}: ${printed}${said}`)))
      look()
    })
  }
}

/** What it says when it serves, with its port. */
const started = /^Fleet Gateway on http:\/\/[^:]+:(\d+)[^]*try /m

/** Starts `serve` on a free port and waits until it says so. */
export async function serve (t: Test, args: readonly string[], place: Place): Promise<Serving> {
  const running = launch(t, ['serve', '--port', '0', ...args], place)
  await running.until(started)
  return { ...running, port: Number(started.exec(running.said())![1]) }
}
