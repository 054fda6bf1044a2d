/**
 * What `serve` says when it has started: the fleet and its state, where the secret is from, what to be careful about, what to try.
 */
import { X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { FastifyInstance } from 'fastify'
import type {} from '../../plugins/registry/index.ts'
import type { FleetConfig } from '../config.ts'
import type { Agent } from '../fleet/agent.ts'
import { authorityOf } from '../fleet/authority.ts'
import type { Instance } from '../fleet/instance.ts'
import { loopbackHost } from '../loopback.ts'
import { colorsFor, plain, say, type CommandIo } from './io.ts'
import { reachable } from './listener.ts'
import type { FoundSecret } from './secret.ts'
import { defaultFile, defaultUrl, onboardHint } from './target.ts'
import { count, fleetInWords } from './wording.ts'

export interface Started {
  readonly gateway: FastifyInstance
  readonly config: FleetConfig
  /** Null when auth is off. */
  readonly secret: FoundSecret | null
  /** The fleet's file; null when it is missing. */
  readonly file: string | null
  /** Where it was looked for. */
  readonly wanted: string
  /** Where registrations are kept, */
  readonly stateDir: string
  /** and whether they can be. */
  readonly canKeep: boolean
  /** How many processes serve. */
  readonly workers: number
}

/** So many instances that don't answer are named. */
const mostNamed = 5

export function announce (started: Started, io: CommandIo): void {
  const { gateway, config, file, wanted, stateDir, canKeep, workers } = started
  const { yellow } = colorsFor(io.stderr, io.env)
  const line = (label: string, text: string) => say(io, `  ${label.padEnd(8)}${text}`)
  const agents = [...gateway.registry.agents()]
  const instances = agents.flatMap(agent => agent.instances)
  const silent = instances.filter(({ runtime }) => runtime.health.probeFailures > 0)
  const unheard = instances.filter(({ runtime }) => runtime.health.probeFailures === 0 && runtime.health.probeSuccesses === 0).length

  line('agents', agents.length === 0
    ? file === null ? `none: there is no ${wanted} yet; ${onboardHint(wanted, io.self)}` : `none yet (${file})`
    : `${fleetInWords(agents)} (${origin(agents, file, wanted)})${heard(agents, silent.length, unheard)}`)
  for (const instance of silent.slice(0, mostNamed)) line('', yellow(silence(instance)))
  if (silent.length > mostNamed) line('', yellow(`and ${count(silent.length - mostNamed, 'more instance')} without an answer`))
  sayAuth(started, line, io)
  const { enabled, perMinute, burst } = config.rateLimit
  line('limits', enabled ? `${perMinute} requests a minute per client, ${burst} at once` : 'off')
  if (gateway.redis.enabled) line('redis', gateway.registrations.isAvailable ? 'shared with all gateways that name it: registrations, leases, limits, revoked keys' : yellow('does not answer, or can not be written (the log says why): registrations are refused until it does'))
  if (workers > 1) line('workers', `${workers} processes on this port`)
  if (!canKeep) line('state', yellow(`${stateDir} can't be written: registrations are refused, for they would not survive a restart; registry.stateDir names another folder`))
  if (config.console.enabled) line('console', `${urlOf(started)}/console/`)
  const [first, ...others] = suggestions(started, silent, io)
  line('try', first!)
  for (const text of others) line('', text)
}

/** Who said that there are these agents and instances. */
function origin (agents: readonly Agent[], file: string | null, wanted: string): string {
  if (file === null) return `registered earlier; there is no ${wanted}`
  const instances = agents.flatMap(({ instances }) => instances)
  const registered = instances.filter(({ source }) => source === 'api').length
  if (registered === 0) return file
  const isAll = registered === instances.length && agents.every(({ instances }) => instances.length > 0)
  return isAll ? `registered earlier, and none in ${file}` : `${registered} of them registered earlier, the others in ${file}`
}

/** What is known of the fleet by now. */
function heard (agents: readonly Agent[], silent: number, unheard: number): string {
  if (unheard > 0) return `, ${unheard} not heard from yet`
  const empty = agents.filter(({ instances }) => instances.length === 0)
  if (empty.length > 0) return `, nobody serves ${empty.slice(0, mostNamed).map(({ name }) => name).join(', ')}${empty.length > mostNamed ? ', …' : ''}`
  return silent === 0 ? ', all answer' : ''
}

function silence ({ agent, host, port }: Instance): string {
  return `${agent} at ${authorityOf(host, port)} does not answer`
}

function sayAuth ({ secret, config: { server, auth }, wanted }: Started, line: (label: string, text: string) => void, io: CommandIo): void {
  const { red, bold } = colorsFor(io.stderr, io.env)
  if (secret === null) {
    line('auth', red(bold('OFF: anybody who reaches this port can use and change the fleet')))
    if (!loopbackHost.test(server.host)) line('', red(`and ${server.host} is reached from other machines`))
    return
  }
  line('auth', secret.secret === undefined && hasOnlyJwt(auth) ? `JWTs of ${plain(auth.jwt!.issuer)}` : `secret from ${secret.from === defaultFile ? wanted : secret.from}`)
  // Off a terminal this is a log, where no secret belongs; its file has it.
  if (secret.isNew) line('', io.stderr.isTTY === true ? `it was made now; use it as  Authorization: Bearer ${bold(secret.secret!)}` : 'it was made now and is kept there')
}

function hasOnlyJwt ({ secret, secretFile, keys, jwt }: FleetConfig['auth']): boolean {
  return jwt !== undefined && secret === undefined && secretFile === undefined && keys.length === 0
}

/** Where it can be asked from this machine. */
function urlOf ({ gateway, config: { server: { host, port, tls } } }: Started): string {
  // With port 0 only the listener knows which one it got; with a host that means all of them, a name is needed that answers.
  return `${tls === undefined ? 'http' : 'https'}://${reachable(host)}:${new URL(gateway.listeningOrigin).port || port}`
}

/** What to do next, as it can be copied. */
function suggestions (started: Started, silent: readonly Instance[], { self }: CommandIo): string[] {
  const { gateway, config, secret, wanted } = started
  const url = urlOf(started)
  // As a client command finds this gateway, and none that happens to be where it would look otherwise.
  const target = `${url === defaultUrl ? '' : ` --url ${url}`}${wanted === defaultFile ? '' : ` --fleet ${wanted}`}`
  const trust = config.server.tls !== undefined && isSelfSigned(config.server.tls.certFile) ? `--cacert ${config.server.tls.certFile} ` : ''
  const name = [...gateway.registry.agents()].find(agent => agent.instances.some(instance => !silent.includes(instance)))?.name
  return [
    `curl ${trust}${url}/health`,
    ...name === undefined ? [] : [`curl ${trust}${tokenHeader(secret)}${url}/api/${name}/`],
    silent.length > 0 ? `${self} test${target}     # what is wrong with whom, and what to do` : `${self} ${name === undefined ? 'register my-agent PORT' : 'agents'}${target}`
  ]
}

/** Whether nobody believes the certificate who is not told to. */
function isSelfSigned (certFile: string): boolean {
  try {
    const certificate = new X509Certificate(readFileSync(certFile))
    return certificate.checkIssued(certificate)
  } catch {
    return false // it was good a moment ago, and what is said of it is no reason to fail
  }
}

/** For curl; the secret itself is in nothing that is said. */
function tokenHeader (secret: FoundSecret | null): string {
  if (secret === null) return ''
  const { from } = secret
  const value = from === 'FLEET_SECRET' ? '$FLEET_SECRET' : from.endsWith('/secret') ? `$(cat ${from})` : from.startsWith('FLEET_SECRET_FILE') ? '$(cat $FLEET_SECRET_FILE)' : '$TOKEN'
  return `-H "Authorization: Bearer ${value}" `
}
