/**
 * The package as others get it: packed, installed into an empty project beside the lowest Fastify that it allows, imported, required,
 * type-checked, and its examples run there. Without a package registry to install from there is nothing to see: then it says so, but in CI
 * it fails.
 */
import t, { type Test } from 'tap'
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { cp, mkdir, mkdtemp, readdir, realpath, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { WebSocket } from 'ws'
import { unmeasured } from './helpers/unmeasured.ts'

// Packages are fetched, on a machine that may be busy with other tests.
t.setTimeout(300_000)

interface Manifest { version: string, dependencies: Record<string, string>, devDependencies: Record<string, string> }
interface RunError { code?: number | string, stdout?: string, stderr?: string }

const run = promisify(execFile)
const root = fileURLToPath(new URL('..', import.meta.url))
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as Manifest
const lowestFastify = manifest.dependencies['fastify']!.replace('^', '')

/** Of this process without what npm and the test runner put in for their own children. */
const notForOthers = /^(npm_(package|lifecycle|config_(local_prefix|call|package))|NODE_OPTIONS$|NODE_V8_COVERAGE$|_?TAP)/i
const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !notForOthers.test(name)))

const noNetwork = /\b(ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ENETUNREACH|EHOSTUNREACH|ETIMEDOUT|ERR_SOCKET_TIMEOUT|ENOTCACHED)\b/

const folder = await realpath(await mkdtemp(join(tmpdir(), 'fleet-package-')))
t.teardown(() => rm(folder, { recursive: true, force: true }))

/** Installs into an empty project. @returns its folder; undefined without a network */
async function install (name: string, packages: readonly string[], options: readonly string[] = []): Promise<string | undefined> {
  const project = join(folder, name)
  await mkdir(project)
  await writeFile(join(project, 'package.json'), '{ "name": "host", "version": "1.0.0", "private": true, "type": "module" }\n')
  // For each package in turn, so that longer pauses would outlast the test.
  const retries = ['--fetch-retry-mintimeout=500', '--fetch-retry-maxtimeout=2000', `--fetch-retries=${env['CI'] === 'true' ? 2 : 0}`]
  try {
    await run(...unmeasured('npm', 'install', '--prefer-offline', '--no-audit', '--no-fund', ...retries, ...options, ...packages), { cwd: project, env })
    return project
  } catch (error) {
    const { stderr = '' } = error as RunError
    if (env['CI'] !== 'true' && noNetwork.test(stderr)) return undefined
    throw error
  }
}

async function pack (): Promise<string> {
  const { stdout } = await run(...unmeasured('npm', 'pack', '--json', '--ignore-scripts', '--pack-destination', folder), { cwd: root, env, maxBuffer: 16 * 1024 * 1024 })
  return join(folder, (JSON.parse(stdout) as [{ filename: string }])[0].filename)
}

/** `name@version` as this repository has it installed. */
function asHere (name: string): string {
  return `${name}@${(JSON.parse(readFileSync(join(root, 'node_modules', name, 'package.json'), 'utf8')) as Manifest).version}`
}

let tarball = ''
let project: string | undefined

await t.test('it can be installed beside the lowest Fastify that it allows', async t => {
  tarball = await pack()
  project = await install('project', [tarball, `fastify@${lowestFastify}`, asHere('ws'), asHere('@types/node')])
  if (project === undefined) return t.plan(0, 'there is no package registry to install from')
  await cp(join(root, 'examples'), project, { recursive: true, filter: source => !source.includes('agents') })
  await cp(join(root, 'test/fixtures/consumer.ts'), join(project, 'consumer.ts'))
})
if (project !== undefined) testInstalled(project)

function testInstalled (project: string): void {
  t.test('there is one Fastify in the tree, the host\'s', async t => {
    const { stdout } = await run(...unmeasured('npm', 'ls', '--all', '--parseable', '--long', 'fastify'), { cwd: project, env })

    t.same(stdout.trim().split('\n'), [`${join(project, 'node_modules/fastify')}:fastify@${lowestFastify}`])
  })

  t.test('the program is there', async t => {
    t.equal((await run(...unmeasured('npx', '--no-install', 'fleet-gateway', '--version'), { cwd: project, env })).stdout, `${manifest.version}\n`)
  })

  t.test('the types hold for ES modules, CommonJS and bundlers, those of the libraries they stand on included', async t => {
    await writeFile(join(project, 'required.cts'), `
import Fastify = require('fastify')
import gateway = require('fleet-gateway')
import registry = require('fleet-gateway/plugins/registry')
export async function main (): Promise<string[]> {
  const app = Fastify.fastify(gateway.serverOptions())
  await app.register(gateway.fleetGateway, { prefix: '/fleet' })
  await app.register(registry.default)
  return [...app.registry.names()]
}
`)
    // The second is TypeScript 6, and resolves imports by other rules; what the libraries' declarations say in themselves is the same.
    const node = await compile('typescript-7', project, ['embed.ts', 'consumer.ts', 'required.cts'], ['--module', 'NodeNext', '--outDir', 'compiled'])
    const bundler = await compile('typescript', project, ['embed.ts', 'consumer.ts'], ['--module', 'ESNext', '--moduleResolution', 'bundler', '--noEmit', '--skipLibCheck', 'true'])

    t.same([node.code ?? 0, node.stdout], [0, ''], 'NodeNext')
    t.same([bundler.code ?? 0, bundler.stdout], [0, ''], 'bundler')
  })

  t.test('examples/embed.js: the whole gateway under a prefix', async t => {
    const { url, curl, stop } = await startExample(t, project, ['embed.js'])

    t.equal(await curl(), 'the agent got GET /any/path\n')
    t.same(await get(`${url}/hello`), { status: 200, body: 'the application says hello\n' })
    t.same(await get(`${url}/fails`), { status: 500, body: 'the application failed: a defect\n' })
    t.match(await get(`${url}/nowhere`), { status: 404, body: '"statusCode":404' })
    t.match(await get(`${url}/fleet/api/my-agent/x`), { status: 401, body: 'FLEET_UNAUTHENTICATED' })
    t.match(await get(`${url}/fleet/nowhere`), { status: 404, body: 'FLEET_NOT_FOUND' })
    t.equal(await say(`${url}/echo`, 'hello'), 'the application heard hello')
    t.equal(await say(`${url}/fleet/api/mine/room`, 'hello', curl.token), 'the agent heard hello')
    t.match(await refusal(`${url}/fleet/api/mine/room`), '401')
    t.same(await stop(), { code: 0, errors: '' })
  })

  t.test('examples/embed.cjs: required', async t => {
    const { url, curl, stop } = await startExample(t, project, ['embed.cjs'])

    t.equal(await curl(), 'the agent got GET /any/path\n')
    t.same(await get(`${url}/hello`), { status: 200, body: 'the application says hello\n' })
    const next = [await get(`${url}/printer`), await get(`${url}/printer`)].map(({ body }) => body)
    t.match(next[0], /^next is http:\/\/127\.0\.0\.1:\d+\n$/)
    t.equal(next[1], 'next is http://127.0.0.1:9100\n')
    t.match(await get(`${url}/fleet/api/nobody/x`, curl.token), { status: 404, body: 'FLEET_AGENT_NOT_FOUND' })
    t.match(await get(`${url}/fleet/api/printer/x`, curl.token), { status: 404 }, 'the gateway knows nothing of the application\'s registry')
    t.same(await stop(), { code: 0, errors: '' })
  })

  t.test('examples/embed.ts: compiled', async t => {
    const { url, curl, stop } = await startExample(t, project, ['compiled/embed.js'])

    t.equal(await curl(), 'the agent got GET /any/path\n')
    t.same(await get(`${url}/hello`), { status: 200, body: 'the application says hello\n' })
    t.match(JSON.parse((await get(`${url}/fleet/mine`, curl.token)).body), { asks: null, request: String, served: 1 })
    t.match(await get(`${url}/fleet/api/other/x`, curl.token), { status: 200, body: 'the agent got GET /x\n' })
    t.match(await get(`${url}/fleet/mine`), { status: 401 })
    t.same(await stop(), { code: 0, errors: '' })
  })

  t.test('examples/embed-plugins.js: single plugins', async t => {
    const { url, curl, stop } = await startExample(t, project, ['embed-plugins.js'])

    t.same([await curl(), await curl()], ['one', 'two'].map(name => `${name} got GET /any/path with token undefined\n`))
    t.same(await get(`${url}/hello`), { status: 200, body: 'the application says hello\n' })
    t.same(await get(`${url}/tools/me`, curl.token), { status: 200, body: '{"user":"ann","agents":["tool"]}' })
    t.match(await get(`${url}/tools/me`), { status: 401, body: 'FLEET_UNAUTHENTICATED' })
    t.match(await get(`${url}/tools/call/nobody/x`, curl.token), { status: 404, body: 'FLEET_AGENT_NOT_FOUND' })
    t.match(JSON.parse((await get(`${url}/tools/stats`, curl.token)).body), { agents: { tool: { requests: 2 } } })
    t.equal(await say(`${url}/tools/call/tool/room`, 'hello', curl.token), 'one heard hello')
    t.match(await refusal(`${url}/tools/call/tool/room`), '401')
    t.same(await stop(), { code: 0, errors: '' })
  })

  t.test('the tree that it brings along is what docs/dependencies.md says', async t => {
    const alone = await install('alone', [tarball], ['--omit=dev'])
    if (alone === undefined) return t.plan(0, 'there is no package registry to install from')
    const said = /(\d+) packages, ([\d,]+) KiB/.exec(readFileSync(join(root, 'docs/dependencies.md'), 'utf8')) ?? []
    const [saidPackages = NaN, saidKiB = NaN] = said.slice(1).map(figure => Number(figure.replace(',', '')))
    const { stdout } = await run(...unmeasured('npm', 'ls', '--all', '--parseable'), { cwd: alone, env })
    const packages = stdout.trim().split('\n').length - 1
    const kib = await sizeOf(join(alone, 'node_modules')) / 1024

    // Libraries release; what has grown by a quarter is worth a look.
    t.ok(packages <= saidPackages * 1.25 && packages >= saidPackages * 0.75, `${packages} packages, ${saidPackages} said`)
    t.ok(kib <= saidKiB * 1.25 && kib >= saidKiB * 0.75, `${Math.round(kib)} KiB, ${saidKiB} said`)
  })
}

/** Of all files below a folder, in the blocks of 4 KiB that they take, as `du` counts. */
async function sizeOf (folder: string): Promise<number> {
  let sum = 0
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (entry.isFile()) sum += Math.ceil((await stat(join(entry.parentPath, entry.name))).size / 4096) * 4096
    else if (entry.isDirectory()) sum += 4096
  }
  return sum
}

/** Strictly, declarations of libraries included unless the options say otherwise. */
async function compile (compiler: 'typescript' | 'typescript-7', project: string, files: readonly string[], options: readonly string[]): Promise<{ code?: number, stdout: string }> {
  const program = join(root, 'node_modules', compiler, 'bin/tsc')
  const strictly = ['--strict', '--target', 'ES2023', '--lib', 'ES2023', '--types', 'node', '--skipLibCheck', 'false', '--pretty', 'false']
  return await run(...unmeasured(process.execPath, program, ...strictly, ...options, ...files), { cwd: project, env })
    .catch((error: unknown) => error as { code: number, stdout: string })
}

interface Example {
  readonly url: string
  /** Runs the command that the example printed. */
  readonly curl: { (): Promise<string>, token: string }
  /** Ends it as a service manager would. */
  stop (): Promise<{ code: number | NodeJS.Signals, errors: string }>
}

/** Starts an example on a free port, and ends it with the test. */
async function startExample (t: Test, project: string, args: readonly string[]): Promise<Example> {
  const child = spawn(...unmeasured(process.execPath, ...args), { cwd: project, env: { ...env, PORT: '0', FLEET_SECRET: 'a-secret-of-tests' }, stdio: ['ignore', 'pipe', 'pipe'] })
  const closed = once(child, 'close') as Promise<[number | null, NodeJS.Signals]>
  const errors = text(child.stderr)
  t.teardown(async () => {
    if (child.exitCode === null && child.signalCode === null) child.kill('SIGKILL')
    await closed
  })
  const [line] = await Promise.race([
    once(createInterface(child.stdout), 'line') as Promise<[string]>,
    closed.then(async () => { throw new Error(`${args.join(' ')} ended before it was up: ${await errors}`) })
  ])
  const [, url = '', command = '', token = ''] = /^(http:\/\/\S+) is up; try: (curl .*Bearer ([^']+)'.*)$/.exec(line) ?? []
  if (url === '') throw new Error(`${args.join(' ')} printed: ${line}`)
  return {
    url,
    curl: Object.assign(async () => (await run('sh', ['-c', command.replace('curl', 'curl -s')])).stdout, { token }),
    async stop () {
      child.kill('SIGTERM')
      const [code, signal] = await closed
      return { code: code ?? signal, errors: await errors }
    }
  }
}

async function get (url: string, token?: string): Promise<{ status: number, body: string }> {
  const response = await fetch(url, { headers: token === undefined ? {} : { authorization: `Bearer ${token}` } })
  return { status: response.status, body: await response.text() }
}

function open (url: string, token?: string): WebSocket {
  return new WebSocket(url.replace('http', 'ws'), { headers: token === undefined ? {} : { authorization: `Bearer ${token}` } })
}

/** Says something over a WebSocket. @returns the answer */
async function say (url: string, message: string, token?: string): Promise<string> {
  const socket = open(url, token)
  await once(socket, 'open')
  socket.send(message)
  const [answer] = await once(socket, 'message') as [Buffer]
  socket.close()
  await once(socket, 'close')
  return answer.toString()
}

/** What the client is told that wants a WebSocket and does not get one. */
async function refusal (url: string): Promise<string> {
  const [error] = await once(open(url), 'error') as [Error]
  return error.message
}
