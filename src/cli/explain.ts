/**
 * `fleet-gateway explain METHOD PATH`: what the running gateway would do with a request, which is not made.
 */
import { InvalidArgumentError, type Command } from 'commander'
import type { Explanation } from '../../plugins/explain/explanation.ts'
import { authorityOf } from '../fleet/authority.ts'
import { ExplanationShape } from './answers.ts'
import { withClient } from './client.ts'
import { clientCommand, fleetOf, jsonOption, withExamples } from './command.ts'
import { dnsInWords } from './dns-names.ts'
import { colorsFor, legible, print, printJson, type CommandIo } from './io.ts'
import { printTable } from './table.ts'
import type { ClientFlags } from './target.ts'

interface Flags extends ClientFlags {
  key?: string
}

export function explainCommand (io: CommandIo): Command {
  const command = clientCommand('explain')
    .argument('<method>', 'the request\'s method', methodName)
    .argument('<path>', 'its path and query, such as /api/encoder/encode?text=hello')
    .option('--key <id>', 'whose request it would be; the token\'s own when left out, and another needs the scope admin')
    .option(...jsonOption)
    .action((method: string, path: string, flags: Flags) => showExplanation(method, path, fleetOf(flags), io))
  return withExamples(command, [
    ['fleet-gateway explain GET /api/encoder/encode'],
    ['fleet-gateway explain POST /api/encoder/jobs --key build-bot', 'may that key, and would it be tried again?'],
    ['fleet-gateway explain GET /api/encoder/ --json | jq -r .next.instance', 'the instance whose turn it is']
  ])
}

function methodName (text: string): string {
  const method = text.toUpperCase()
  if (!/^[A-Z][A-Z-]{0,31}$/.test(method)) throw new InvalidArgumentError('It must be a method, such as GET.')
  return method
}

async function showExplanation (method: string, path: string, { key, ...flags }: Flags, io: CommandIo): Promise<void> {
  await withClient(flags, io, async client => {
    const query = new URLSearchParams({ method, path, ...(key !== undefined && { key }) })
    const explanation = await client.get<Explanation>(`/explain?${query.toString()}`, ExplanationShape)
    if (flags.json) printJson(io, explanation)
    else show(legible(explanation), io)
  })
}

function show (explanation: Explanation, io: CommandIo): void {
  const { method, target, outcome, refusal, route, key, rate_limit: limit, agent, policy, instances, next } = explanation
  const { bold, green, red } = colorsFor(io.stdout, io.env)
  const line = (label: string, text: string) => print(io, `${`${label}:`.padEnd(12)} ${text}`)
  const verdict = refusal === null
    ? green(outcome === 'forwarded' ? `forwarded to the agent ${agent?.name ?? ''}` : 'answered by the gateway itself')
    : red(`refused with ${refusal.status} ${refusal.code}: ${refusal.detail}`)
  print(io, `${bold(`${method} ${target}`)} would be ${verdict}`)
  print(io, '')
  line('route', route === null ? 'none' : `${route.path}, needs ${route.needs === null ? 'nothing' : `the scope ${route.needs}`}`)
  line('key', `${key.id ?? 'no named one (the shared secret, or auth is off)'}, may ${key.scopes.join(', ')}, ${key.agents === '*' ? 'all agents' : `the agents ${key.agents.join(', ')}`}`)
  if (limit !== null) line('rate limit', limit.enabled ? `${limit.burst} at once, ${limit.per_minute} a minute, counted for ${limit.bucket}` : 'none')
  if (agent !== null) line('agent', `${agent.name}${agent.asked_as === agent.name ? '' : ` (asked as ${agent.asked_as})`}, ${agent.status}${agent.path === undefined ? '' : `, gets ${agent.path}`}`)
  for (const view of agent?.dns ?? []) line('dns', dnsInWords(view))
  if (policy !== null) showPolicy(policy, line)
  if (next !== null) line('instance', `${next.instance ?? next.candidates.join(' or ')}: ${next.why}`)
  if (instances.length === 0) return
  print(io, '')
  printTable(io, ['instance', 'address', 'state', 'available', 'in flight', 'why'], instances.map(({ id, protocol, host, port, state, available, in_flight: inFlight, lease, why }) => [
    id, `${protocol}://${authorityOf(host, port)}`, state, available ? 'yes' : 'no', String(inFlight), `${why}${lease === null ? '' : `; its lease ends ${lease.expires_at}`}`
  ]))
}

function showPolicy ({ timeouts, path_prefix: prefix, retry, balancer, concurrency, headers, forward_authorization: forwards }: NonNullable<Explanation['policy']>, line: (label: string, text: string) => void): void {
  const { connect, response, idle, total } = timeouts
  line('timeouts', `connect ${connect}, response ${response}, idle ${idle}, total ${total ?? 'none'}${prefix === null ? '' : ` (of the path ${prefix})`}`)
  line('retry', `${retry.repeatable ? 'yes' : 'no'}, ${retry.why}; on ${retry.statuses.length === 0 ? 'no status' : retry.statuses.join(', ')}, bodies up to ${retry.max_body_bytes} bytes`)
  line('balancer', [balancer.policy, ...('hash_on' in balancer ? [`on ${balancer.hash_on}`] : []), ...('slow_start' in balancer && balancer.slow_start !== '0ms' ? [`slow start ${balancer.slow_start}`] : [])].join(', '))
  const { max, queue, queue_timeout: queueTimeout, waiting } = concurrency
  line('concurrency', max === null ? 'unlimited' : `${max} on an instance, ${queue} may wait for ${queueTimeout}, ${waiting} wait`)
  if (headers.length > 0) line('headers', `${headers.join(', ')} of the gateway's own, for instances that are trusted`)
  if (forwards) line('token', 'passed on to instances that are trusted')
}
