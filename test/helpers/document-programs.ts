/**
 * JavaScript and TypeScript of documents as complete programs: run in the document's folder, which is inside the package, so that
 * `import 'fleet-gateway'` is the package itself; TypeScript is checked with the project's own strictness before.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { createConnection } from 'node:net'
import { basename, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Test } from 'tap'
import ts from 'typescript'
import { endWith, packageRoot, type DocumentPlace } from './document-fleet.ts'
import type { Block } from './markdown-blocks.ts'
import { unmeasured } from './unmeasured.ts'

/** A program that came as far as it goes: it ended well, it serves, or it has printed something and waits. */
export interface RunningProgram {
  /** Ends it. @throws Error when it ends badly */
  stop (): Promise<void>
}

const patienceMs = 20_000
/** What was printed may have been the last thing to do, or the first. */
const afterPrintMs = 1_000

/** CommonJS is what calls require() and imports nothing. */
function extensionOf ({ language, code }: Block): string {
  if (language === 'ts') return 'mts'
  return language === 'cjs' || (/\brequire\(/.test(code) && !/^\s*import\b/m.test(code)) ? 'cjs' : 'mjs'
}

/** Writes a block's program, with real ports. @returns its file */
export function writeProgram (block: Block, { folder, localized }: DocumentPlace): string {
  const file = join(folder, `line-${block.line}.${extensionOf(block)}`)
  writeFileSync(file, localized(block.code))
  return file
}

/** Runs a program as far as it goes. @throws Error when it ends badly */
export async function runProgram (t: Test, file: string, { folder, env, applicationPort }: DocumentPlace): Promise<RunningProgram> {
  const child = spawn(...unmeasured(process.execPath, runnable(file)), { cwd: folder, env: { ...env, PORT: String(applicationPort) }, stdio: ['ignore', 'pipe', 'pipe'] })
  endWith(t, child)
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => { output += chunk.toString() })
  const ended = once(child, 'close').then(() => {
    if (!endedWell(child)) throw new Error(`it ended with ${child.exitCode ?? child.signalCode}:\n${output}`)
  })
  ended.catch(() => {}) // stop() tells
  const first = new AbortController()
  const { signal } = first
  await Promise.race([
    ended,
    accepts(applicationPort, signal).catch(never),
    once(child.stdout, 'data', { signal }).then(() => delay(afterPrintMs, undefined, { signal })).catch(never),
    delay(patienceMs, undefined, { signal }).then(() => { throw new Error(`it neither ended, nor listened on PORT, nor printed anything:\n${output}`) }, never)
  ]).finally(() => first.abort())
  return {
    async stop () {
      if (child.exitCode === null && child.signalCode === null) child.kill('SIGTERM')
      await ended
    }
  }
}

/** What was read of packages, TypeScript's own files among them, and of this one: the same for all programs. */
const parsed = new Map<string, ts.SourceFile | undefined>()

/** What the compiler has against programs, a line each. */
export function typeErrors (files: readonly string[]): string[] {
  const { config } = ts.readConfigFile(join(packageRoot, 'tsconfig.json'), file => ts.sys.readFile(file)) as { config: { compilerOptions: object } }
  const { options } = ts.convertCompilerOptionsFromJson(config.compilerOptions, packageRoot)
  const host = ts.createCompilerHost({ ...options, noEmit: true })
  const parse = host.getSourceFile.bind(host)
  host.getSourceFile = (name, ...how) => {
    if (!name.includes('/node_modules/') && !name.startsWith(join(packageRoot, 'dist/'))) return parse(name, ...how)
    if (!parsed.has(name)) parsed.set(name, parse(name, ...how))
    return parsed.get(name)
  }
  const program = ts.createProgram([...files], { ...options, noEmit: true }, host)
  // Of these files alone: `npm run typecheck` checks what they import.
  return files.flatMap(name => ts.getPreEmitDiagnostics(program, program.getSourceFile(name))).map(({ file, start = 0, messageText }) => {
    const place = file === undefined ? '' : `${basename(file.fileName)}:${file.getLineAndCharacterOfPosition(start).line + 1} `
    return place + ts.flattenDiagnosticMessageText(messageText, '\n')
  })
}

/** What is wrong with the syntax of a part of a program, a line each. */
export function syntaxErrors (code: string): string[] {
  const source = ts.createSourceFile('fragment.mts', code, ts.ScriptTarget.ESNext, false) as ts.SourceFile & { parseDiagnostics: readonly ts.Diagnostic[] }
  return source.parseDiagnostics.map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, '\n'))
}

/** Node 20 runs no TypeScript by itself. */
function runnable (file: string): string {
  if (!file.endsWith('.mts')) return file
  const { outputText } = ts.transpileModule(ts.sys.readFile(file) ?? '', { compilerOptions: { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2023, verbatimModuleSyntax: true } })
  const compiled = file.replace(/mts$/, 'mjs')
  writeFileSync(compiled, outputText)
  return compiled
}

/** Something else came first. */
function never (): Promise<never> {
  return new Promise(() => {})
}

/** Resolves when somebody listens on the port. */
async function accepts (port: number, signal: AbortSignal): Promise<void> {
  for (;;) {
    const socket = createConnection({ port, host: '127.0.0.1' })
    const connected = await once(socket, 'connect', { signal }).then(() => true, () => false)
    socket.destroy()
    if (connected) return
    await delay(50, undefined, { signal })
  }
}

function endedWell ({ exitCode, signalCode }: ChildProcess): boolean {
  return exitCode === 0 || signalCode === 'SIGTERM'
}
