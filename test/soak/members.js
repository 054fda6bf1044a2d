/**
 * Instances that register by themselves, through whichever gateway, and what they were told: what was acknowledged is what every gateway has to
 * have in the end. Each address is one member's, which does one thing after the other and tries again until it has an answer.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { ask } from './client.js'

/** A lease lasts longer than a heartbeat, an outage that counts (less than 3 s), and the way back to Redis after it. */
export const ttlMs = 8_000
const heartbeatMs = 1_500

/** A registration that can't be kept is refused in this time, on a busy machine. */
const refusalMs = 2_500

/** Whoever has no answer by then gets none. */
const hungMs = 10_000

/** A gateway hears of what others were told in less; also one that has just said that it shares the registry. */
const hearsayMs = 2_000

/**
 * Of a member: `state` is `out`, `in`, or `unknown` while it is being changed; `leaves` when it has said goodbye, or fallen silent, at `since`; `unsure` when
 * Redis had lost its data, and nobody who was there knew it: who comes later may bring it back.
 * @param agent the agent's name @param name the instance's, as fleet.js has it
 */
export function newMember (agent, name, { leased = false } = {}) {
  return { agent, name, leased, state: 'out', id: '', weight: 1, renewedAt: 0, lapsedAt: -Infinity, since: 0, isBusy: false }
}

/** Asks a gateway for a change, and judges how it answers. @returns status 0 for none */
async function change ({ ledger }, gateway, method, path, body) {
  const { starts } = gateway
  const begun = performance.now()
  let answer = { status: 0, headers: {}, body: {} }
  let failure = 'no answer'
  try {
    answer = await Promise.race([ask(gateway, method, path, body), delay(hungMs, answer, { ref: false })])
  } catch (error) {
    failure = error.code ?? error.message
  }
  const ms = performance.now() - begun
  const { status, headers } = answer
  const what = `${method} ${path} at ${gateway.name} after ${ms.toFixed(0)} ms: ${status} ${status === 0 ? failure : JSON.stringify(answer.body)}`
  ledger.count('changes asked for')
  if (!gateway.isLive || gateway.starts !== starts) return answer
  if (status === 0) ledger.fault('wrong', what)
  else if (ms > refusalMs) ledger.fault('slow', what)
  if (status === 503) {
    ledger.count('changes refused with 503')
    if (headers['retry-after'] === undefined) ledger.fault('wrong', `${what} (no Retry-After)`)
  } else if (![0, 200, 201, 404].includes(status)) ledger.fault('wrong', what)
  return answer
}

/** Whether the gateway says that it has what the others have. */
async function isSure (gateway) {
  try {
    const { status, body } = await ask(gateway, 'GET', '/health/ready')
    return status === 200 && body.degraded === undefined
  } catch {
    return false
  }
}

/** Asks one gateway after the other until it is done; nobody knows such an instance when two say so who should know, one after the other. @returns 404 then */
async function insist (soak, method, path, body) {
  const { random, gateways } = soak
  let isDoubtful = false
  let unknownSince
  for (let tries = 0; ; tries++) {
    const gateway = random.pick(gateways.live())
    const wasSure = await isSure(gateway)
    const answer = await change(soak, gateway, method, path, body)
    if (answer.status === 200 || answer.status === 201) return { ...answer, isDoubtful, gateway }
    if (answer.status === 404 && wasSure && await isSure(gateway)) {
      if (unknownSince !== undefined && performance.now() - unknownSince > hearsayMs) return { ...answer, isDoubtful, gateway }
      unknownSince ??= performance.now()
    } else if (answer.status !== 404) {
      isDoubtful = true // it may be done, or not
    }
    if (tries === 300) throw new Error(`${method} ${path} was never taken`)
    await delay(random.integer(100, 400))
  }
}

/** Registers the member, or registers it again. */
export async function register (soak, member) {
  const { fleet, ledger, random } = soak
  const { agent, name, leased } = member
  const weight = random.integer(1, 5)
  member.state = 'unknown'
  const { body, gateway } = await insist(soak, 'POST', '/registry/register', { name: agent, host: '127.0.0.1', port: fleet.portOf[name], weight, ...(leased && { ttl: ttlMs / 1_000 }) })
  Object.assign(member, { state: 'in', id: body.instance.id, weight, renewedAt: performance.now() })
  ledger.count('registrations acknowledged')
  soak.note(`${agent} ${name} registered at ${gateway.name}, weight ${weight}`)
}

/** Makes the member leave, in one of the ways there are. */
export async function leave (soak, member, way) {
  const { fleet, ledger } = soak
  const { agent, name, id } = member
  if (way === 'falls silent') {
    Object.assign(member, { state: 'leaves', since: performance.now() })
    ledger.count('members that fell silent')
    return soak.note(`${agent} ${name} falls silent`)
  }
  const path = {
    removed: `/registry/${agent}/instances/${id}`,
    'removed by address': `/registry/${agent}?host=127.0.0.1&port=${fleet.portOf[name]}`,
    'removed as a whole': `/registry/${agent}`,
    drained: `/registry/${agent}/instances/${id}?drain=true`
  }[way]
  const before = { ...member }
  member.state = 'unknown'
  const { status, isDoubtful, gateway } = await insist(soak, 'DELETE', path)
  soak.note(`${agent} ${name} ${way} at ${gateway.name}: ${status}${isDoubtful ? ' after doubt' : ''}`)
  const isUnsure = status === 404 && soak.lostDataSince(before.renewedAt)
  if (status === 404 && !isDoubtful && !isUnsure && !mayHaveLapsed(soak, before)) ledger.fault('lost', `${agent} ${name} was registered, and is unknown when it is ${way}`)
  Object.assign(member, { state: isUnsure ? 'unsure' : way === 'drained' && status === 200 ? 'leaves' : 'out', since: performance.now() })
  if (isUnsure) ledger.count('members unknown after data was lost')
  ledger.count(`members ${way}`)
}

/** Whether its lease may be over although it did what it could: outages of less than 3 s count, and gateways may have been out of reach one after the other. */
export function mayHaveLapsed ({ awaySince }, { leased, renewedAt }) {
  return leased && performance.now() - renewedAt - awaySince(renewedAt) >= ttlMs
}

/** Renews leases, until the soak is over. */
export async function heartbeats (soak, member) {
  const { ledger } = soak
  while (!soak.isOver()) {
    await delay(heartbeatMs)
    if (!member.leased || member.state !== 'in' || member.isBusy) continue
    member.isBusy = true
    const begun = performance.now()
    const { status } = await insist(soak, 'PUT', `/registry/${member.agent}/instances/${member.id}`)
    if (status === 200) {
      member.renewedAt = begun
      ledger.count('heartbeats acknowledged')
    } else {
      if (soak.lostDataSince(member.renewedAt)) ledger.count('members unknown after data was lost')
      else if (mayHaveLapsed(soak, member)) {
        ledger.count('leases that ran out in outages')
        member.lapsedAt = performance.now()
      } else ledger.fault('lost', `${member.agent} ${member.name} has a lease, and is unknown at a heartbeat`)
      await register(soak, member)
    }
    member.isBusy = false
  }
}

/** Comes and goes, until this part of the soak is over. */
export async function comesAndGoes (soak, member) {
  const { random } = soak
  while (!soak.over()) {
    if (member.state === 'leaves') await soak.pause(random.integer(100, 1_000)) // to be registered again in the middle of it, or after
    await exclusively(soak, member, async () => {
      if (member.state !== 'in' || random.chance(0.2)) return await register(soak, member)
      await leave(soak, member, random.pick(['removed', 'removed', 'removed by address', 'drained', ...(member.leased && random.chance(0.3) ? ['falls silent'] : [])]))
    })
    await soak.pause(random.integer(20, 2_000))
  }
}

/** Agents of a moment, one after the other: each has a name of its own, and is gone for good. */
export async function moments (soak, name) {
  const { random, ledger } = soak
  while (!soak.over()) {
    const member = newMember(`${name}-${ledger.id('x')}`, name)
    soak.members.push(member)
    await register(soak, member)
    await soak.pause(random.integer(0, 1_000))
    if (random.chance(0.1)) break // it stays
    await leave(soak, member, random.pick(['removed', 'removed as a whole', 'removed as a whole', 'drained']))
    await soak.pause(random.integer(20, 500))
  }
}

/** Not while its heartbeat is on its way. */
async function exclusively (soak, member, task) {
  while (member.isBusy) await delay(20)
  member.isBusy = true
  try {
    await task()
  } finally {
    member.isBusy = false
  }
}
