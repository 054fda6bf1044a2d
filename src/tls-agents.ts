/**
 * TLS towards agents: what `tls` of an agent in fleet.yaml means for connections to its instances. Files are read when the configuration is, so
 * that a bad one is an error of the configuration; connections that are made afterwards use them, and requests use none that was made before.
 */
import { createHash } from 'node:crypto'
import { isIP } from 'node:net'
import { createSecureContext, type ConnectionOptions, type SecureContext } from 'node:tls'
import type { FastifyBaseLogger } from 'fastify'
import type { FileAgent } from './agent-options.ts'
import type { AgentTls } from './fleet/agent.ts'
import type { Instance } from './fleet/instance.ts'
import type { Registry } from './fleet/registry.ts'
import type { OptionError } from './options.ts'
import { readAuthorities, readKeyPair, type FileProblem, type KeyPair, type Read } from './tls-files.ts'

/** How a TLS connection to an instance is opened. @throws Error when files of its agent can't be used */
export type TlsOf = (instance: Instance) => ConnectionOptions

/** Files of agents, read. */
interface Material {
  readonly context: SecureContext
  /** Of what the files hold. */
  readonly digest: string
}

/** What was read for the agents' settings, and the problems with it. */
interface Reading {
  readonly materials: ReadonlyMap<string, Material>
  readonly problems: readonly OptionError[]
}

/** The files that agents' settings name, as they were when the configuration was last read. */
export class AgentTlsFiles {
  #materials = new Map<string, Material>()
  /** What all of the agents' settings and files say. */
  #said = ''

  /**
   * Reads all files that these agents name. Nothing changes before the returned `use` is called, which tells whether anything is different then.
   * @returns what is wrong with the files, at paths of the configuration
   */
  prepare (agents: readonly FileAgent[]): { problems: readonly OptionError[], use: () => boolean } {
    const { materials, problems } = readAll(agents)
    const use = () => {
      const said = JSON.stringify(agents.map(({ name, tls }) => tls === undefined ? [name] : [name, tls, materials.get(keyOf(tls) ?? '')?.digest]))
      const isDifferent = said !== this.#said
      this.#said = said
      this.#materials = new Map(materials)
      return isDifferent
    }
    return { problems, use }
  }

  /** The context for these settings; files that were not prepared are read now. Undefined where the system's authorities alone count. @throws Error */
  contextOf (tls: AgentTls): SecureContext | undefined {
    const key = keyOf(tls)
    if (key === undefined) return undefined
    let material = this.#materials.get(key)
    if (material === undefined) {
      const read = readMaterial(tls)
      if (read.value === null) throw Object.assign(new Error(read.problems.map(problem => `tls.${problem.key} ${problem.message}`).join('; ')), { code: 'FLEET_TLS_FILES' })
      this.#materials.set(key, material = read.value)
    }
    return material.context
  }
}

/** @param files what the agents' files hold @default they are read on first use */
export function createTlsOf (registry: Registry, log: Pick<FastifyBaseLogger, 'warn'>, files = new AgentTlsFiles()): TlsOf {
  /** Agents of which it was said that nobody verifies who they are. */
  const unverified = new Set<string>()

  return instance => {
    const { agent, host } = instance
    const tls = registry.find(agent)?.policy.tls ?? {}
    const { serverName = isIP(host) === 0 ? host : undefined, verify = true } = tls
    const secureContext = files.contextOf(registry.current(instance)?.trusted === true ? tls : authoritiesOf(tls))
    if (verify) unverified.delete(agent)
    else if (!unverified.has(agent)) {
      unverified.add(agent)
      log.warn({ agent }, `Certificates of "${agent}" are NOT verified (tls.verify: false): whoever is on the way to it can read and change everything`)
    }
    return {
      ALPNProtocols: ['http/1.1'],
      // Without a name the certificate has to be for the address.
      ...(serverName !== undefined && { servername: serverName }),
      ...(secureContext !== undefined && { secureContext }),
      rejectUnauthorized: verify
    }
  }
}

/** What is wrong with the files of agents, for a configuration's errors. */
export function agentTlsProblems (agents: readonly FileAgent[]): readonly OptionError[] {
  return readAll(agents).problems
}

function readAll (agents: readonly FileAgent[]): Reading {
  const materials = new Map<string, Material>()
  const problems: OptionError[] = []
  const seen = new Set<string>()
  for (const [index, { name, tls }] of agents.entries()) {
    const key = tls && keyOf(tls)
    if (tls === undefined || key === undefined || seen.has(`${name} ${key}`)) continue
    seen.add(`${name} ${key}`) // another entry of the same agent says the same
    if (materials.has(key)) continue
    const read = readMaterial(tls)
    if (read.value !== null) materials.set(key, read.value)
    if (read.value !== null && tls.certFile !== undefined) addAuthorities(materials, tls)
    problems.push(...read.problems.map(problem => ({ path: `agents[${index}].tls.${problem.key}`, at: 'value' as const, message: problem.message })))
  }
  return { materials, problems }
}

/** For instances that the client certificate is not for. */
function addAuthorities (materials: Map<string, Material>, tls: AgentTls): void {
  const alone = authoritiesOf(tls)
  const key = keyOf(alone)
  const read = key === undefined || materials.has(key) ? null : readMaterial(alone)
  if (read?.value) materials.set(key!, read.value)
}

/** What counts for instances that neither fleet.yaml nor an admin named: a client certificate is a credential of the gateway's, as `headers` are. */
function authoritiesOf ({ caFile }: AgentTls): AgentTls {
  return caFile === undefined ? {} : { caFile }
}

function readMaterial ({ caFile, certFile, keyFile, passphraseFile }: AgentTls): Read<Material> {
  const authorities = caFile === undefined ? nothing : readAuthorities(caFile)
  const pair: Read<KeyPair> | typeof nothing = certFile === undefined || keyFile === undefined ? nothing : readKeyPair({ certFile, keyFile, ...(passphraseFile !== undefined && { passphraseFile }) })
  const problems: FileProblem[] = [...authorities.problems, ...pair.problems]
  if (problems.length > 0) return { value: null, problems }
  const options = { ...(authorities.value !== null && { ca: authorities.value }), ...pair.value }
  return { value: { context: createSecureContext(options), digest: createHash('sha256').update(JSON.stringify(options)).digest('hex') }, problems: [] }
}

const nothing = { value: null, problems: [] } as const

/** Settings with the same files share what was read; undefined when they name none. */
function keyOf ({ caFile, certFile, keyFile, passphraseFile }: AgentTls): string | undefined {
  return caFile === undefined && certFile === undefined ? undefined : JSON.stringify([caFile, certFile, keyFile, passphraseFile])
}
