/** A real Redis for tests, on a free port of loopback, which can be killed, paused, and started again with what it had or without. */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { Redis } from 'ioredis'
import type { Test } from 'tap'
import { deadPort } from './fake-agent.ts'

/** Why there can be no Redis here; false when there can. Where CI runs there has to be one. */
export const noRedis = spawnSync('redis-server', ['--version']).status !== 0 && process.env['CI'] !== 'true' ? 'redis-server is not installed' : false

export interface RedisServer {
  readonly port: number
  readonly url: string
  /** Asks it something. Fails while it is not there. */
  ask<T> (question: (client: Redis) => Promise<T>): Promise<T>
  /** Ends it at once. Its data stays on the disk, as it was after the last answer. */
  kill (): Promise<void>
  /** Starts it again on the same port. */
  restart (options?: { empty?: boolean }): Promise<void>
  /** It takes connections, and answers nothing. */
  pause (): void
  resume (): void
}

/** Ends with the test. @param flags further ones of redis-server. @param tls whether it speaks TLS, and nothing else; the flags say how */
export async function startRedis (t: Test, flags: readonly string[] = [], { tls = false } = {}): Promise<RedisServer> {
  const dir = mkdtempSync(join(tmpdir(), 'fleet-redis-'))
  const port = await deadPort()
  let child: ChildProcess

  async function start (): Promise<void> {
    child = spawn('redis-server', [...tls ? ['--port', '0', '--tls-port', String(port)] : ['--port', String(port)], '--bind', '127.0.0.1', '--dir', dir, '--appendonly', 'yes', '--appendfsync', 'always', '--save', '', ...flags], { stdio: ['ignore', 'pipe', 'inherit'] })
    for await (const line of createInterface({ input: child.stdout! })) if (line.includes('Ready to accept connections')) break
    child.stdout!.resume()
  }

  async function kill (): Promise<void> {
    if (child.exitCode !== null || child.signalCode !== null) return
    const exited = once(child, 'exit')
    child.kill('SIGKILL')
    await exited
  }

  await start()
  t.teardown(async () => {
    await kill()
    rmSync(dir, { recursive: true })
  })
  return {
    port,
    url: `${tls ? 'rediss' : 'redis'}://127.0.0.1:${port}/0`,
    async ask (question) {
      const client = new Redis(port, '127.0.0.1', { lazyConnect: true, retryStrategy: null })
      await client.connect()
      try {
        return await question(client)
      } finally {
        client.disconnect()
      }
    },
    kill,
    async restart ({ empty = false } = {}) {
      await kill()
      if (empty) for (const name of readdirSync(dir)) rmSync(join(dir, name), { recursive: true })
      await start()
    },
    pause: () => { child.kill('SIGSTOP') },
    resume: () => { child.kill('SIGCONT') }
  }
}
