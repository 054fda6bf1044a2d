/**
 * Figures and times as they are shown, in browsers and in a terminal.
 */
import type { InstanceFacts, InstanceRow, RedisState } from '../plugins/console/wire.ts'
import { authorityOf } from './fleet/authority.ts'

/** What stands for a figure that there is none of. */
export const nothing = '–'

/** `0`, `0.4`, `12.3`, `1,204`. */
export function formatRate (perSecond: number): string {
  if (perSecond === 0) return '0'
  return perSecond < 100 ? perSecond.toFixed(1) : formatCount(Math.round(perSecond))
}

export function formatCount (count: number): string {
  return count.toLocaleString('en')
}

/** `0 %`, `0.4 %`, `12 %`; nothing when there is no ratio. */
export function formatRatio (ratio: number | null): string {
  if (ratio === null) return nothing
  const percent = ratio * 100
  return `${percent === 0 || percent >= 10 ? Math.round(percent) : percent < 0.1 ? '<0.1' : percent.toFixed(1)} %`
}

/** `0.8 ms`, `120 ms`, `2.3 s`; nothing for 0. */
export function formatMs (ms: number): string {
  if (ms === 0) return nothing
  if (ms < 10) return `${ms.toFixed(1)}\u00a0ms`
  if (ms < 1_000) return `${Math.round(ms)}\u00a0ms`
  return ms < 60_000 ? `${(ms / 1_000).toFixed(1)}\u00a0s` : formatDuration(ms)
}

/** `12 s`, `4 min`, `3 h 20 min`, `2 d 4 h`. */
export function formatDuration (ms: number): string {
  const seconds = Math.max(Math.round(ms / 1_000), 0)
  if (seconds < 60) return `${seconds}\u00a0s`
  const minutes = Math.floor(seconds / 60)
  if (minutes < 60) return minutes < 5 ? `${minutes}\u00a0min ${seconds % 60}\u00a0s` : `${minutes}\u00a0min`
  const hours = Math.floor(minutes / 60)
  return hours < 24 ? `${hours}\u00a0h ${minutes % 60}\u00a0min` : `${Math.floor(hours / 24)}\u00a0d ${hours % 24}\u00a0h`
}

export function formatBytes (bytes: number): string {
  if (bytes < 1_024) return `${bytes} B`
  return bytes < 1_024 * 1_024 ? `${(bytes / 1_024).toFixed(1)} KiB` : `${(bytes / 1_024 / 1_024).toFixed(1)} MiB`
}

/** Who says that there is an instance. */
export function sourceInWords (source: string): string {
  return source === 'file' ? 'fleet.yaml' : source === 'dns' ? 'DNS' : 'registered'
}

/** What is the matter with the Redis that gateways share, and what that means; undefined when all is well, or nothing is shared. */
export function redisTrouble (state: RedisState | null | undefined): string | undefined {
  if (state === 'ok' || state === null || state === undefined) return undefined
  const trouble = state === 'away' ? 'does not answer this gateway' : 'answers, but no change can be kept there just now'
  return `Redis ${trouble}: the fleet is served as it is known, and registrations are refused until that is over`
}

/** `14:03:59`, by the clock of who looks. */
export function formatTime (at: number | string): string {
  return new Date(at).toLocaleTimeString('en-GB')
}

/** With the date, and the zone. */
export function formatMoment (at: number | string): string {
  return new Date(at).toLocaleString('en-GB', { dateStyle: 'medium', timeStyle: 'medium' })
}

/** Why an instance is in its state. Empty when there is nothing to say. @param now by the gateway's clock */
export function reasonOf ({ state, why, since, until, ejections, lease }: InstanceFacts, [inFlight, , , , probeFailures]: InstanceRow, now: number): string {
  const lapsed = lease?.lapsed ? 'lease ran out; kept, since too many did at once' : ''
  if (state === 'draining') return inFlight > 0 ? `finishes ${inFlight} in flight, takes no more` : 'takes no new requests'
  if (state === 'down') return joined(why ?? 'probes fail', since === null ? '' : `for ${formatDuration(now - since)}`, probeFailures > 0 ? `${probeFailures} failed in a row` : '', lapsed)
  if (state === 'ejected') {
    const rest = until === null ? '' : until > now ? `back on trial in ${formatDuration(until - now)}` : 'the next request is its trial'
    return joined(why ?? 'requests failed', rest, ejections > 1 ? `ejected ${ejections} times` : '', lapsed)
  }
  return joined(probeFailures > 0 ? `${probeFailures} ${probeFailures === 1 ? 'probe' : 'probes'} failed` : '', lapsed)
}

/** `host:port`. */
export function addressOfInstance ({ host, port }: InstanceFacts): string {
  return authorityOf(host, port)
}

function joined (...parts: string[]): string {
  return parts.filter(part => part !== '').join(' · ')
}
