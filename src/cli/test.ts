/**
 * `fleet-gateway test`: asks the gateway, tries the token, lets the gateway ask every instance, and says for each fault what to do.
 */
import type { Command } from 'commander'
import type { HealthReport } from '../../plugins/health/routes.ts'
import type { RedisState } from '../../plugins/registry/registrations.ts'
import type { StatsSnapshot } from '../../plugins/stats/index.ts'
import type { DnsNameView } from '../dns-view.ts'
import { redisTrouble } from '../figures.ts'
import { authorityOf } from '../fleet/authority.ts'
import { adviceFor, redisAdvice, type ProbeAnswer } from './advice.ts'
import { AgentsShape, HealthShape, ProbeShape, StatsShape } from './answers.ts'
import { withClient, type AgentView, type GatewayClient } from './client.ts'
import { clientCommand, fleetOf, jsonOption, withExamples } from './command.ts'
import { dnsFault, dnsInWords, whyEmpty } from './dns-names.ts'
import { colorsFor, CommandError, legible, print, printJson, type CommandIo } from './io.ts'
import type { ClientFlags } from './target.ts'
import { backInWords, count, olderConfiguration, takenOutInWords } from './wording.ts'

/** How many instances are asked at once. */
const concurrency = 8

interface Step {
  ok: boolean
  latency_ms?: number
  /** What is wrong, and what to do about it. */
  problem?: string
  advice?: string
}

interface InstanceResult extends Step {
  id: string
  address: string
  state: string
}

interface NameResult extends Step {
  name: string
}

interface AgentResult extends Step {
  /** Names by which it is looked for in DNS; none that is not. */
  dns?: NameResult[]
  instances: InstanceResult[]
}

interface TestReport {
  ok: boolean
  url: string
  gateway: Step & { status?: string }
  /** Only where gateways share one. */
  redis?: Step
  auth: Step & { token_from: string | null }
  /** Only where what runs is not what the file says. */
  config?: Step
  agents: Record<string, AgentResult>
}

export function testCommand (io: CommandIo): Command {
  const command = clientCommand('test')
    .option(...jsonOption)
    .action((flags: ClientFlags) => test(fleetOf(flags), io))
  return withExamples(command, [['fleet-gateway test'], ['fleet-gateway test --url https://fleet.example.com --json']])
}

async function test (flags: ClientFlags, io: CommandIo): Promise<void> {
  await withClient(flags, io, async client => {
    const show = flags.json ? () => {} : reporter(io)
    const report = await run(client, show, io.self)
    if (flags.json) printJson(io, report)
    if (report.ok) return
    const results = Object.values(report.agents).flatMap(stepsOf)
    const { gateway, redis, auth, config } = report
    const steps = gateway.ok ? [gateway, redis, auth, config, ...results].filter(step => step !== undefined) : [gateway]
    throw new CommandError(flags.json ? '' : `\n${steps.filter(({ ok }) => !ok).length} of ${count(steps.length, 'test')} failed`)
  })
}

function nameResult (view: DnsNameView): NameResult {
  const fault = dnsFault(view)
  return { name: view.name, ok: fault === undefined, ...fault }
}

/** What counts as tested of an agent; that it has no instance is no fault of its own where DNS names none. */
function stepsOf ({ instances, dns = [], ...agent }: AgentResult): Step[] {
  const isOwn = instances.length === 0 ? dns.every(({ ok }) => ok) : agent.problem !== undefined
  return [...dns, ...instances, ...(isOwn ? [agent] : [])]
}

/** Called for each thing that was tested, in the order of the report. */
type Show = (label: string, step: Step, note?: string) => void

async function run (client: GatewayClient, show: Show, self: string): Promise<TestReport> {
  const { url, token } = client.target
  const tokenFrom = token?.from ?? null
  const { step: gateway, redis } = await testGateway(client)
  show(`gateway ${url}`, gateway)
  if (redis !== undefined) show('redis', redis)
  const notTested: TestReport['auth'] = { ok: false, token_from: tokenFrom, problem: 'not tested, since the gateway does not answer' }
  if (!gateway.ok) return { ok: false, url, gateway, auth: notTested, agents: {} }

  const { step: auth, agents } = await testAuth(client)
  show('auth', auth, !auth.ok ? undefined : auth.token_from === null ? 'off: the gateway asks for no token' : `token from ${auth.token_from}`)
  const config = auth.ok ? await testConfig(client, self) : undefined
  if (config !== undefined) show('configuration', config)
  const results: TestReport['agents'] = {}
  for (const [name, { instances, dns }] of Object.entries(agents)) {
    const names = dns?.map(nameResult)
    const isFound = names === undefined || names.every(({ ok }) => ok)
    results[name] = { ok: isFound && instances.length > 0, ...(instances.length === 0 && whyEmpty(name, dns, self)), ...(names && { dns: names }), instances: [] }
    for (const [index, result] of names?.entries() ?? []) show(`${name} dns`, result, result.ok ? dnsInWords(dns![index]!) : undefined)
    if (instances.length === 0 && isFound) show(name, results[name])
  }
  const all = Object.entries(agents).flatMap(([name, { instances }]) => instances.map(instance => ({ name, instance })))
  for (let first = 0; first < all.length; first += concurrency) {
    const some = all.slice(first, first + concurrency)
    const tested = await Promise.all(some.map(({ name, instance }) => testInstance(client, name, instance)))
    for (const [index, result] of tested.entries()) {
      const { name } = some[index]!
      results[name]!.instances.push(result)
      if (!result.ok) results[name]!.ok = false
      show(`${name} ${result.address}`, result, result.state === 'up' ? undefined : `the gateway has it as ${result.state}`)
    }
  }
  for (const [name, result] of Object.entries(results)) {
    if (!result.ok || agents[name]!.status !== 'down') continue
    Object.assign(result, { ok: false, problem: 'no instance takes requests, though all answer', advice: `"${self} agents ${name}" has their states; one that drains is wanted again when it registers` })
    show(name, result)
  }
  const ok = auth.ok && redis?.ok !== false && config === undefined && Object.values(results).every(result => result.ok)
  return { ok, url, gateway, ...(redis && { redis }), auth, ...(config && { config }), agents: results }
}

async function testGateway (client: GatewayClient): Promise<{ step: TestReport['gateway'], redis?: Step }> {
  try {
    const answer = await client.ask('GET', '/health', { anonymous: true })
    const { status, redis } = client.bodyOf<HealthReport>(answer, HealthShape)
    return { step: { ok: true, latency_ms: answer.latencyMs, status }, ...(redis !== undefined && { redis: redisStep(redis) }) }
  } catch (error) {
    return { step: failure(error) }
  }
}

/** It is part of what the gateway has to reach, as instances are. */
function redisStep (state: RedisState): Step {
  const problem = redisTrouble(state)
  return problem === undefined ? { ok: true } : { ok: false, problem, advice: redisAdvice(state) }
}

async function testAuth (client: GatewayClient): Promise<{ step: TestReport['auth'], agents: Record<string, AgentView> }> {
  const { token } = client.target
  const from = token?.from ?? null
  try {
    const open = await client.ask('GET', '/agents', { anonymous: true })
    const answer = open.status === 200 ? open : await client.ask('GET', '/agents')
    const agents = client.bodyOf<Record<string, AgentView>>(answer, AgentsShape)
    return { step: { ok: true, latency_ms: answer.latencyMs, token_from: open.status === 200 ? null : from }, agents }
  } catch (error) {
    return { step: { ...failure(error), token_from: from }, agents: {} }
  }
}

/** That it can be told by whom it serves has been seen. @returns what is wrong; undefined for nothing */
async function testConfig (client: GatewayClient, self: string): Promise<Step | undefined> {
  try {
    const { config: { ok, error, taken_out: takenOut = [] } } = await client.get<StatsSnapshot>('/stats', StatsShape)
    if (ok && takenOut.length === 0) return undefined
    if (ok) return { ok: false, problem: `fleet.yaml has what somebody took out of the fleet: ${takenOutInWords(takenOut)}`, advice: backInWords }
    return { ok, problem: olderConfiguration(error), advice: `correct the file, which is then read at once; "${self} check" tells all that is wrong with it` }
  } catch (error) {
    return failure(error)
  }
}

async function testInstance (client: GatewayClient, name: string, { id, protocol, host, port, state }: AgentView['instances'][number]): Promise<InstanceResult> {
  const address = authorityOf(host, port)
  const known = { id, address: `${protocol}://${address}`, state }
  try {
    const answer = await client.send<ProbeAnswer>('POST', `/registry/${encodeURIComponent(name)}/instances/${encodeURIComponent(id)}/probe`, ProbeShape)
    return { ...known, ok: answer.ok, latency_ms: answer.latency_ms, ...(answer.ok ? {} : adviceFor(answer, address, protocol)) }
  } catch (error) {
    return { ...known, ...failure(error) }
  }
}

function failure (error: unknown): Step {
  if (error instanceof CommandError) return { ok: false, problem: error.message }
  throw error
}

function reporter (io: CommandIo): Show {
  const { green, red, dim } = colorsFor(io.stdout, io.env)
  return (...shown) => {
    const [label, { ok, latency_ms: latencyMs, problem, advice }, note] = legible(shown)
    const figures = [ok && latencyMs !== undefined ? `${latencyMs} ms` : '', note ?? ''].filter(part => part !== '').join(', ')
    print(io, `${ok ? green('ok    ') : red('failed')}  ${label}${figures === '' ? '' : dim(`  ${figures}`)}`)
    if (problem !== undefined) print(io, `          ${problem}`)
    if (advice !== undefined) print(io, `          → ${advice}`)
  }
}
