/** The names in DNS by which instances of an agent are found, as the API shows them. */
import type { DnsNameStatus } from '../plugins/dns/index.ts'

/** One of them, and what came of asking for it. */
export interface DnsNameView {
  name: string
  type?: string
  /** Whether all was answered that was asked last. */
  ok: boolean
  error?: string
  /** When that was last so, in ISO 8601. */
  answered_at: string | null
  /** How many it leads to. */
  instances: number
}

/** `dns` of an agent; no field where it is not looked for in DNS. */
export function dnsView (names: readonly DnsNameStatus[]): { dns?: DnsNameView[] } {
  return names.length === 0 ? {} : { dns: names.map(nameView) }
}

function nameView ({ name, type, ok, error, answeredAt, instances }: DnsNameStatus): DnsNameView {
  return {
    name,
    ...(type !== undefined && { type }),
    ok,
    ...(error !== undefined && { error }),
    answered_at: answeredAt === null ? null : new Date(answeredAt).toISOString(),
    instances
  }
}
