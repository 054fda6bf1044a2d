/** plugins/discovery for tests, in a bare application that watches a real file, and how such a file is written. */
import { rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Writable } from 'node:stream'
import Fastify, { type FastifyInstance } from 'fastify'
import type { Test } from 'tap'
import discovery, { type DiscoveryPluginOptions, type Loaded } from '../../plugins/discovery/index.ts'
import registry from '../../plugins/registry/index.ts'

interface LogLine { level: number, msg: string, err?: { message: string } }

interface Watched {
  app: FastifyInstance
  logged: LogLine[]
  /** The next line from now on whose message matches. */
  line (pattern: RegExp): Promise<LogLine>
  /** The next reload from now on. */
  reloaded (): Promise<Loaded>
  names (): string[]
}

/**
 * The plugin with the registry, ended with the test.
 * @param before what to do while the registry is there and the plugin is not
 * @param level of the log
 */
export async function watched (t: Test, options: DiscoveryPluginOptions, before?: (app: FastifyInstance) => void, level: 'debug' | 'info' = 'info'): Promise<Watched> {
  const logged: LogLine[] = []
  const waiting = new Set<(line: LogLine) => void>()
  const stream = new Writable({
    write (chunk: Buffer, _encoding, done) {
      const line = JSON.parse(chunk.toString()) as LogLine
      logged.push(line)
      for (const tell of waiting) tell(line)
      done()
    }
  })
  const app = Fastify({ logger: { stream, level } })
  t.teardown(() => app.close())
  await app.register(registry)
  before?.(app)
  await app.register(discovery, { intervalMs: 15, ...options })
  await app.listen({ host: '127.0.0.1', port: 0 }) // something must keep the process going: watching does not
  return {
    app,
    logged,
    line: pattern => new Promise(resolve => {
      const tell = (line: LogLine) => {
        if (!pattern.test(line.msg)) return
        waiting.delete(tell)
        resolve(line)
      }
      waiting.add(tell)
    }),
    reloaded: () => new Promise(resolve => {
      const stop = app.discovery.onReload(loaded => {
        stop()
        resolve(loaded)
      })
    }),
    names: () => [...app.registry.agents()].map(({ name }) => name)
  }
}

/** What a file with these agents says. */
export function fleet (...names: string[]): string {
  return `agents:${names.map((name, index) => `\n  - {name: ${name}, port: ${8_501 + index}}`).join('') || ' []'}\n`
}

/** A file of this test. */
export function fleetFile (t: Test, text: string): string {
  return join(t.testdir({ 'fleet.yaml': text }), 'fleet.yaml')
}

/** As an editor or `mv` does it. */
export async function replace (file: string, text: string): Promise<void> {
  await writeFile(`${file}.new`, text)
  await rename(`${file}.new`, file)
}
