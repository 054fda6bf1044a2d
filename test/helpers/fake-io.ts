/** A terminal, or none, for commands that run in the test's own process. */
import { PassThrough, Writable } from 'node:stream'
import type { CommandIo } from '../../src/cli/io.ts'

export interface FakeIo {
  readonly io: CommandIo
  /** All that was written so far. */
  readonly stdout: () => string
  readonly stderr: () => string
  /** What a person types, or a pipe delivers. */
  readonly stdin: PassThrough
  /** Calls `then`, once, after something that matches was written to standard error. */
  readonly onLine: (pattern: RegExp, then: () => void) => void
  /** Resolves once what was written to standard output, all of it, matches. */
  readonly printed: (pattern: RegExp) => Promise<void>
  /** As if the process had got it. */
  readonly signal: (name: NodeJS.Signals) => void
}

export interface FakeIoOptions {
  /** Whether a person sits there. @default false */
  isTTY?: boolean
  env?: Record<string, string>
}

export function fakeIo ({ isTTY = false, env = {} }: FakeIoOptions = {}): FakeIo {
  const waiting: { pattern: RegExp, then: () => void }[] = []
  const listeners: ((name: NodeJS.Signals) => void)[] = []
  const expected = new Set<{ pattern: RegExp, resolve: () => void }>()
  const stdout = collector(isTTY, text => {
    for (const one of expected) {
      if (!one.pattern.test(text)) continue
      expected.delete(one)
      one.resolve()
    }
  })
  const stderr = collector(isTTY, text => {
    const index = waiting.findIndex(({ pattern }) => pattern.test(text))
    if (index !== -1) setImmediate(waiting.splice(index, 1)[0]!.then)
  })
  const stdin = Object.assign(new PassThrough(), { isTTY, setRawMode: () => {} })
  return {
    io: {
      self: 'fleet-gateway',
      env,
      stdin,
      stdout: stdout.stream,
      stderr: stderr.stream,
      onSignal (listener) {
        listeners.push(listener)
        return () => { listeners.splice(listeners.indexOf(listener), 1) }
      },
      exit: code => { throw new Error(`exit ${code}`) }
    },
    stdout: stdout.text,
    stderr: stderr.text,
    stdin,
    printed: async pattern => {
      if (!pattern.test(stdout.text())) await new Promise<void>(resolve => { expected.add({ pattern, resolve }) })
    },
    onLine: (pattern, then) => { waiting.push({ pattern, then }) },
    signal: name => { for (const listener of listeners) listener(name) }
  }
}

function collector (isTTY: boolean, onWrite: (all: string) => void = () => {}) {
  let all = ''
  const stream = Object.assign(new Writable({
    decodeStrings: false,
    write (chunk: string | Buffer, _encoding, done) {
      all += chunk.toString()
      onWrite(all)
      done()
    }
  }), { isTTY, columns: 100, rows: 40 })
  return { stream, text: () => all }
}
