/** The Redis of the soak: a real one with a folder of its own, which can be stopped, killed, and started again with its data, with older data, or with none. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { cp, mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'

/** @param {{ folder: string, port: number }} place where its data is, and where it listens */
export async function startRedis ({ folder, port }) {
  const data = join(folder, 'redis')
  const copy = join(folder, 'redis-earlier')
  let child

  async function start () {
    await mkdir(data, { recursive: true })
    child = spawn('redis-server', ['--port', String(port), '--bind', '127.0.0.1', '--dir', data, '--appendonly', 'yes', '--appendfsync', 'always', '--save', ''], { stdio: ['ignore', 'pipe', 'inherit'] })
    for await (const line of createInterface({ input: child.stdout })) if (line.includes('Ready to accept connections')) break
    child.stdout.resume()
  }

  async function kill () {
    if (child.exitCode !== null || child.signalCode !== null) return
    const exited = once(child, 'exit')
    child.kill('SIGKILL')
    await exited
  }

  await start()
  return {
    port,
    start,
    /** At once; its data stays as it was after the last answer. */
    kill,
    /** It takes connections, and answers nothing. */
    stop: () => child.kill('SIGSTOP'),
    goOn: () => child.kill('SIGCONT'),
    /** Of one that was killed. */
    forget: () => rm(data, { recursive: true, force: true }),
    /** Keeps what there is now, for `goBack`. */
    async copy () {
      await rm(copy, { recursive: true, force: true })
      await cp(data, copy, { recursive: true })
    },
    /** One that was killed has the data of the copy. */
    async goBack () {
      await rm(data, { recursive: true, force: true })
      await cp(copy, data, { recursive: true })
    },
    /** For the end of this process. */
    end: () => child.kill('SIGKILL')
  }
}
