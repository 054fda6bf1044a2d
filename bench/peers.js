/** Everything that is compared: how each is started, in front of which upstreams, and what it is. */
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { findProgram } from './stage.js'
import { fillIn, nginxUser } from './upstreams.js'

const here = fileURLToPath(new URL('.', import.meta.url))
export const projectRoot = fileURLToPath(new URL('..', import.meta.url))

/** What opens the gateway and the stock composition; the others pass it on. */
export const token = 'benchmark-secret-token'

/**
 * @typedef {object} Peer
 * @property {string} name
 * @property {string} about what it is and what is switched on, in a few words
 * @property {boolean} [isGateway] a build of this project
 * @property {boolean} [isInstalled] it comes from bench/node_modules
 * @property {string} [missing] why it can't take part here
 * @property {() => string} version
 * @property {(stage: object, at: { ports: number[], fleet?: string }) => Promise<{ running: object, port: number, proof?: () => boolean }>} start
 */

const versionOf = name => JSON.parse(readFileSync(join(here, 'node_modules', name, 'package.json'), 'utf8')).version
const firstLine = (command, ...args) => {
  const { stdout, stderr } = spawnSync(command, args, { encoding: 'utf8' })
  return `${stdout}${stderr}`.trim().split('\n')[0]
}

/** One that runs on Node: `node peers/FILE PORT UPSTREAM…`, which prints where it listens. */
const onNode = (name, about, { file = `${name}.js`, packages, log = false }) => ({
  name,
  about,
  isInstalled: true,
  version: () => packages.map(name => `${name} ${versionOf(name)}`).join(', '),
  async start (stage, { ports }) {
    const folder = stage.makeFolder(name)
    const env = { BENCH_TOKEN: token, ...(log && { BENCH_LOG: join(folder, 'request.log') }) }
    const running = stage.start(process.execPath, [join(here, 'peers', file), '0', ...ports.map(port => `http://127.0.0.1:${port}`)], { cwd: folder, env, proxy: true })
    return { running, port: Number(await stage.prints(running, /^listening on http:\/\/127\.0\.0\.1:(\d+)/m)) }
  }
})

/** No proxy of HTTP, and none that is compared: how much any proxy on Node adds, whatever it does. */
export const relay = onNode('relay', 'passes bytes on and reads none of them', { packages: [] })

/** One that is installed on the machine or not, with a configuration file of its own. */
const onMachine = (name, about, { config, args, version, env }) => {
  const program = findProgram(name)
  return {
    name,
    about,
    ...(program === undefined && { missing: `${name} is not installed` }),
    version: () => firstLine(program, ...version).replace(/^.*?(\d+\.\d+[\w.]*).*$/, `${name} $1`),
    async start (stage, { ports }) {
      const folder = stage.makeFolder(name)
      const [port] = await stage.freePorts(1)
      const file = join(folder, config)
      const [upstream1, upstream2] = ports.map(port => `127.0.0.1:${port}`)
      writeFileSync(file, (name === 'nginx' ? nginxUser() : '') + fillIn(`peers/${config}`, { folder, port, upstream1, upstream2 }))
      const running = stage.start(program, args(file), { cwd: folder, env: { HOME: folder, XDG_DATA_HOME: folder, ...env }, proxy: true })
      await stage.listens(running, port)
      return { running, port }
    }
  }
}

/** The fleet that our own builds serve: one agent in two instances, and every feature on. */
export function fleetFile (ports) {
  return `agents:
  - name: planner
    instances: [${ports.map(port => `{host: 127.0.0.1, port: ${port}}`).join(', ')}]
${commonSettings}`
}

/** Of every fleet.yaml here: a limit that counts and is never reached, and the audit log in a file. */
export const commonSettings = `rateLimit: {perMinute: 60000000, burst: 1000000}
auditLog: {file: audit.log}
`

/** A fleet.yaml with more in it, which takes the place of settings of the same name; those here have a line each. */
export function withConfig (fleet, config) {
  const keys = [...config.matchAll(/^(\w+):/gm)].map(([, key]) => key)
  return fleet.split('\n').filter(line => !keys.includes(line.split(':')[0])).join('\n') + config
}

/**
 * A build of this project, as the real process.
 * @param {string} name
 * @param {string} path a checkout with dist/, or the main.js of one
 * @param {{ env?: Record<string, string>, config?: string }} [variant] environment, and text to add to fleet.yaml
 * @returns {Peer}
 */
export function gateway (name, path, { env = {}, config = '' } = {}) {
  const main = path.endsWith('.js') ? path : join(path, 'dist/src/main.js')
  const differs = [...Object.entries(env).map(([key, value]) => `${key}=${value}`), ...(config === '' ? [] : [config.trim().replaceAll(/\s+/g, ' ')])]
  return {
    name,
    about: `${name === 'ours' ? 'this project' : 'another build of this project'}: auth, rate limit, CORS, audit log to a file (in batches), stats, health and forwarding headers on${differs.length > 0 ? `; ${differs.join(', ')}` : ''}`,
    isGateway: true,
    ...(!existsSync(main) && { missing: `there is no ${main}` }),
    version: () => commitOf(main),
    async start (stage, { ports, fleet = fleetFile(ports) }) {
      const folder = stage.makeFolder(name)
      writeFileSync(join(folder, 'fleet.yaml'), withConfig(fleet, config))
      const running = stage.start(process.execPath, [main, 'serve', '--port', '0', '--secret', token], { cwd: folder, env, proxy: true })
      return {
        running,
        port: Number(await stage.prints(running, /^Fleet Gateway on http:\/\/127\.0\.0\.1:(\d+)/m)),
        /** That the audit log was on: it has lines. */
        proof: () => existsSync(join(folder, 'audit.log')) && statSync(join(folder, 'audit.log')).size > 0
      }
    }
  }
}

/** The commit that a build stands on, as far as one can tell. */
function commitOf (main) {
  const cwd = join(main, '../../..')
  const git = (...args) => spawnSync('git', ['-C', cwd, ...args], { encoding: 'utf8' }).stdout?.trim() ?? ''
  const commit = git('rev-parse', '--short', 'HEAD')
  return commit === '' ? 'no commit' : `commit ${commit}${git('status', '--porcelain', '-uno') === '' ? '' : ' with changes'}`
}

/** How the peers on Fastify log, and what they were given so that they don't wait for connections; see peers/fastify-options.js. */
const requestLog = 'Fastify\'s request log to a file (four lines a request, asynchronously, 4 KiB at a time)'
const manyConnections = 'up to 4,096 connections to an upstream instead of 128'

/** @type {readonly Peer[]} in the order of tables; ratios are against `bare` */
export const others = [
  onNode('bare', `@fastify/http-proxy, one upstream, no features, no log; ${manyConnections}`, { packages: ['@fastify/http-proxy', 'fastify'] }),
  onNode('bare-log', `the same with ${requestLog}`, { file: 'bare.js', packages: ['@fastify/http-proxy', 'fastify'], log: true }),
  onNode('stock', `the official plugins together: reply.from, cors, bearer-auth, rate-limit, round robin, ${requestLog}; ${manyConnections}`, {
    packages: ['@fastify/http-proxy', '@fastify/cors', '@fastify/bearer-auth', '@fastify/rate-limit', 'fastify'], log: true
  }),
  onNode('fast-gateway', 'one upstream, no features, no log', { packages: ['fast-gateway'] }),
  onNode('http-proxy', 'one upstream, no features, no log', { packages: ['http-proxy'] }),
  onNode('http-proxy-middleware', 'on Express, one upstream, no features, no log', { packages: ['http-proxy-middleware', 'express'] }),
  onMachine('nginx', 'one worker, two upstreams, forwarding headers, access log to a file (64 KiB at a time)', {
    config: 'nginx.conf', args: file => ['-c', file, '-e', join(file, '../error.log'), '-g', 'daemon off;'], version: ['-v']
  }),
  onMachine('haproxy', 'one thread, two upstreams, X-Forwarded-For, no log', { config: 'haproxy.cfg', args: file => ['-db', '-f', file], version: ['-v'] }),
  onMachine('caddy', 'one processor, two upstreams, forwarding headers, no access log', {
    config: 'Caddyfile', args: file => ['run', '--adapter', 'caddyfile', '--config', file], version: ['version'], env: { GOMAXPROCS: '1' }
  })
]
