/**
 * What documents talk about, as real processes on free ports: the example agents, `my-agent`, and for each document that needs one a gateway of
 * its own, in a folder that is like a fresh clone. `localized()` puts the real ports in place of those that documents name.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, createWriteStream, mkdirSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import { writeShims } from './command-shims.ts'
import { deadPort } from './fake-agent.ts'
import { unmeasured } from './unmeasured.ts'

export const packageRoot = fileURLToPath(new URL('../..', import.meta.url))

/** As `npm test` has built it. */
const main = join(packageRoot, 'dist/src/main.js')

/** The secret that documents use, so that it also works where they write it out. */
const documentSecret = 'fleet-secret-token'

/** Where the example agents are by fleet.yaml. */
const exampleAgents = [['encoder', 8501], ['encoder', 8511], ['git-reader', 8502], ['clock', 8503], ['chat', 8504]] as const
const myAgentPort = 9000
const gatewayPort = 9001
/** Of applications that embed the gateway. */
const applicationPort = 3000

/** What a clone has that is not in a package, or that a document may change. */
const notLinked = new Set(['.git', '.fleet', '.tap', 'fleet.yaml'])

/** Real ports by the documented ones. */
type Ports = ReadonlyMap<number, number>

export interface DocumentPlace {
  /** The folder in which the document's commands run. */
  readonly folder: string
  /** Where the document's programs listen, in place of 3000. */
  readonly applicationPort: number
  /** The environment of its commands and programs. */
  readonly env: Readonly<Record<string, string>>
  /** The text with the real ports. */
  localized (text: string): string
  /** Resolves when a gateway listens on the documented port: one that was moved there, else the one of `fleet.yaml`, which is started now. */
  gatewayIsUp (): Promise<void>
  /** From now on the gateway is one that is started on this port. */
  moveGateway (port: number): void
}

/** Starts the agents, and ends them with `t`. */
export async function startAgents (t: Test): Promise<Ports> {
  const ports = new Map<number, number>()
  for (const [file, port] of exampleAgents) {
    const child = spawn(...unmeasured(process.execPath, join(packageRoot, 'examples/agents', `${file}.js`)), { env: { ...bareEnvironment(), PORT: '0', HOST: '127.0.0.1', REPO: packageRoot }, stdio: ['ignore', 'pipe', 'inherit'] })
    endWith(t, child)
    ports.set(port, Number((await printed(child, /listening on http:\/\/\S+:(\d+)/))[1]))
  }
  const mine = createServer(answerAnything).listen(0, '127.0.0.1')
  await once(mine, 'listening')
  t.teardown(() => { mine.close(); mine.closeAllConnections() })
  return ports.set(myAgentPort, (mine.address() as AddressInfo).port)
}

/** Whatever a reader's own agent may be asked. */
const answerAnything: RequestListener = ({ method, url }, response) => {
  response.setHeader('content-type', 'application/json')
  response.end(JSON.stringify({ method, url }))
}

/** Makes a folder for a document, which goes with `t`, as does what is started in it. */
export async function openPlace (t: Test, agents: Ports): Promise<DocumentPlace> {
  const folder = makeFolder(t)
  for (const entry of readdirSync(packageRoot)) if (!notLinked.has(entry)) symlinkSync(join(packageRoot, entry), join(folder, entry))
  const ports = new Map([...agents, [gatewayPort, await deadPort()], [applicationPort, await deadPort()]])
  const localized = (text: string) => replacePorts(text, ports)
  const home = join(folder, 'home')
  const env = {
    ...bareEnvironment(),
    HOME: home,
    PATH: `${writeShims(home, main)}:${process.env['PATH']}`,
    FLEET_SECRET: documentSecret,
    FLEET_URL: localized(`http://127.0.0.1:${gatewayPort}`),
    ...npmSettings(home)
  }
  let started: Promise<void> | null = null
  writeFileSync(join(folder, 'fleet.yaml'), localized(readFileSync(join(packageRoot, 'fleet.yaml'), 'utf8')))
  return {
    folder,
    applicationPort: ports.get(applicationPort)!,
    env,
    localized,
    gatewayIsUp () {
      started ??= startGateway(t, folder, env)
      return started
    },
    moveGateway (port) {
      ports.set(gatewayPort, port)
      started = Promise.resolve()
    }
  }
}

/** Inside the package, so that programs find it; and removed last, when nothing runs in it any more: t.testdir() may go before. */
function makeFolder (t: Test): string {
  const parent = join(packageRoot, '.tap')
  mkdirSync(parent, { recursive: true })
  const folder = mkdtempSync(join(parent, 'document-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  mkdirSync(join(folder, 'home'))
  return folder
}

/** Its audit log goes to `audit.log`, what it says to `gateway.log`. */
async function startGateway (t: Test, folder: string, env: Record<string, string>): Promise<void> {
  const auditLog = openSync(join(folder, 'audit.log'), 'a')
  const gateway = spawn(...unmeasured(process.execPath, main, 'serve'), { cwd: folder, env, stdio: ['ignore', auditLog, 'pipe'] })
  closeSync(auditLog)
  endWith(t, gateway)
  gateway.stderr!.pipe(createWriteStream(join(folder, 'gateway.log'), { flags: 'a' }))
  await printed(gateway, /^ +try /m)
}

/** Without what tap gives to its own processes. */
function bareEnvironment (): Record<string, string> {
  return { PATH: process.env['PATH'] ?? '', LANG: 'C.UTF-8', NO_UPDATE_NOTIFIER: '1', NO_COLOR: '1' }
}

/** What is global for npm is in the document's home; nothing is built, as other tests run what is built; and nobody is asked over the network. */
function npmSettings (home: string): Record<string, string> {
  return { npm_config_prefix: join(home, 'npm'), npm_config_ignore_scripts: 'true', npm_config_offline: 'true', npm_config_audit: 'false', npm_config_fund: 'false', npm_config_update_notifier: 'false' }
}

/** Ends a process with `t`: as a service manager does, and if that is not heard, for good. */
export function endWith (t: Test, child: ChildProcess): void {
  const closed = once(child, 'close').catch(() => {})
  t.teardown(async () => {
    if (child.exitCode === null && child.signalCode === null) child.kill('SIGTERM')
    const last = setTimeout(() => child.kill('SIGKILL'), 5_000)
    await closed
    clearTimeout(last)
  })
}

/** Waits until the process has printed this. @throws Error when it ends before */
async function printed (child: ChildProcess, pattern: RegExp): Promise<RegExpExecArray> {
  let output = ''
  return await new Promise((resolve, reject) => {
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on('data', (chunk: Buffer) => {
        output += chunk.toString()
        const match = pattern.exec(output)
        if (match !== null) resolve(match)
      })
    }
    child.once('close', code => reject(new Error(`it ended with ${code} before it printed ${pattern}:\n${output}`)))
    child.once('error', reject)
  })
}

function replacePorts (text: string, ports: Ports): string {
  return text.replaceAll(/(?<![\w.-])\d{4}(?![\w-]|\.\d)/g, port => String(ports.get(Number(port)) ?? port))
}
