/**
 * Which test files share a process. A process of its own costs a file that loads the gateway some three seconds of a processor: it is compiled
 * anew, module by module. Files that need the process for themselves (its environment, its signals, its memory, `t.mockImport`) are in no group.
 * One file alone runs as ever: `npm test -- test/fleet/registry.leases.test.ts`.
 */
import { readdirSync } from 'node:fs'
import { posix } from 'node:path'

const testFolder = new URL('..', import.meta.url)

/** By name: a folder below test/, and which of its files, by the beginnings of their names. */
const groups = {
  small: { folder: '.', beginnings: ['agent-', 'config-', 'config.t', 'docs', 'forwarded', 'gateway-', 'guarded', 'kubernetes', 'metrics', 'options', 'route', 'security', 'start-errors', 'token', 'yaml'] },
  fleet: { folder: 'fleet' },
  cli: { folder: 'cli', beginnings: ['commands', 'dns', 'dry-run', 'explain', 'hostile', 'key-edit', 'onboard', 'redis', 'top'] },
  'plugins-a': { folder: 'plugins', beginnings: ['answer', 'audit', 'auth.t', 'balanc', 'c', 'd', 'e', 'f', 'g'] },
  'cli-keys': { folder: 'cli', beginnings: ['file-lock', 'key.e', 'key.t', 'scan', 'run.lease', 'tls'] },
  'cli-serving': { folder: 'cli', beginnings: ['serve.r', 'start', 'state'] },
  'cli-running': { folder: 'cli', beginnings: ['key.s', 'logs', 'process', 'run.s', 'run.t'] },
  'plugins-auth': { folder: 'plugins', beginnings: ['alone', 'auth.j', 'auth.r'] },
  'plugins-h': { folder: 'plugins', beginnings: ['h', 'm', 'p', 'r', 's', 'u'] },
  'e2e-wire': { folder: 'e2e', beginnings: ['wire-f', 'wire-refusals', 'wire-responses', 'wire.', 'forwarding'] },
  'e2e-keys': { folder: 'e2e', beginnings: ['key-', 'jwt', 'browser', 'registry-api', 'rebinding', 'explain', 'embed'] },
  'e2e-upstream': { folder: 'e2e', beginnings: ['client-response', 'timeouts', 'together', 'upstream-', 'wire-requests'] },
  'e2e-plugins': { folder: 'e2e', beginnings: ['agent-headers', 'audit', 'dns', 'docs', 'health', 'metrics', 'tracing'] },
  'e2e-redis': { folder: 'e2e', beginnings: ['peers', 'redis-l'] },
  'e2e-streams': { folder: 'e2e', beginnings: ['streams', 'websocket'] },
  'e2e-tls': { folder: 'e2e', beginnings: ['tls-'] },
  'e2e-running': { folder: 'e2e', beginnings: ['change', 'drain', 'faults-agent', 'reload', 'unread'] },
  'e2e-failover': { folder: 'e2e', beginnings: ['failover', 'faults-client', 'broken', 'balancers', 'concurrency', 'leases'] }
}

/**
 * The files of a group, as paths from test/.
 * @param {string} name
 * @returns {string[]}
 */
export function membersOf (name) {
  const { folder, beginnings = [''] } = groups[name]
  return readdirSync(new URL(`${folder}/`, testFolder)).sort()
    .filter(file => file.endsWith('.test.ts') && beginnings.some(beginning => file.startsWith(beginning)))
    .map(file => posix.join(folder, file))
}

/** What takes longest alone: it begins first, so that it is not what the others wait for. */
const longest = ['secrets', 'docker', 'documents', 'package.installed', 'soak', 'cli/serve'].map(name => `${name}.test.ts`)

/** All files of a whole run, as paths from test/: those that take longest, the groups, and whoever is in none. */
export function filesOfWholeRun () {
  const apart = new Set([...Object.keys(groups).flatMap(membersOf), ...longest])
  const all = readdirSync(testFolder, { recursive: true }).sort().filter(file => file.endsWith('.test.ts'))
  return [...longest, ...Object.keys(groups).map(name => `groups/${name}.test.ts`), ...all.filter(file => !apart.has(file) && !file.startsWith('groups/'))]
}
