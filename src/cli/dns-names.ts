/**
 * The names in DNS by which an agent's instances are found, in words; and why an agent has no instance, and what to do about it.
 */
import type { DnsNameView } from '../dns-view.ts'
import { count } from './wording.ts'

/** Where it leads, in short: `encoder.test`, `encoder.test leads to nobody`. */
export function dnsInShort ({ name, ok, error, instances }: DnsNameView): string {
  if (!ok) return error === undefined ? `${name} is being looked up` : `${name} could not be looked up: ${error}`
  return instances === 0 ? `${name} leads to nobody` : name
}

/** What came of asking for it, and when it was last answered. */
export function dnsInWords (view: DnsNameView): string {
  const { type = 'A or AAAA', ok, answered_at: at, instances } = view
  const known = instances === 0 ? 'no instance is known' : `${count(instances, 'instance')} by what is known`
  const found = !ok ? `; ${known}` : instances === 0 ? `: DNS has no usable ${type} records of it` : ` leads to ${count(instances, 'instance')}`
  return `${dnsInShort(view)}${found} (${at === null ? 'never answered' : `last answered ${at}`})`
}

/** What to do about it; undefined when nothing is wrong with it. */
function dnsAdvice ({ ok, error, instances }: DnsNameView): string | undefined {
  if (!ok) return error === undefined ? 'try again in a few seconds' : 'see that name servers answer where the gateway runs, or name others as dns.resolvers of the agent in fleet.yaml'
  return instances === 0 ? 'correct dns of the agent in fleet.yaml, or the records (search domains and /etc/hosts are not asked)' : undefined
}

export interface Fault {
  problem: string
  advice: string
}

/** What is wrong with a name; undefined when it leads to somebody. */
export function dnsFault (view: DnsNameView): Fault | undefined {
  const advice = dnsAdvice(view)
  return advice === undefined ? undefined : { problem: dnsInWords(view), advice }
}

/** Why an agent has no instance. @param self how this program is called */
export function whyEmpty (agent: string, dns: readonly DnsNameView[] = [], self: string): Fault {
  if (dns.length === 0) return { problem: 'has no instance', advice: `start it and register it: ${self} register ${agent} PORT` }
  return dns.map(dnsFault).find(fault => fault !== undefined) ?? {
    problem: 'has no instance: those that DNS names were taken out',
    advice: 'they serve again when DNS has named others meanwhile, what fleet.yaml says of the agent changes, or the gateway restarts'
  }
}
