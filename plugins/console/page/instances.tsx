/**
 * Instances as rows: their state and why, what they do, and what can be done with them.
 */
import { askToDrain, askToRemove } from './changes.tsx'
import { notice } from './dialogs.tsx'
import { fleet, type FleetInstance } from './fleet.ts'
import { addressOfInstance, formatCount, formatDuration, formatMs, formatTime, nothing, reasonOf, sourceInWords } from '../../../src/figures.ts'
import { byState } from '../../../src/watched-fleet.ts'
import { ask, may, Refusal } from './gateway.ts'
import type { Column } from './long-table.tsx'
import { State } from './marks.tsx'

const byAddress = (a: FleetInstance, b: FleetInstance) => {
  const [one, other] = [addressOfInstance(a.facts), addressOfInstance(b.facts)]
  return one < other ? -1 : one > other ? 1 : 0
}

/** What is told of an instance wherever it is listed. */
export const instanceColumns: readonly Column<FleetInstance>[] = [
  { key: 'state', title: 'State', compare: (a, b) => byState(a, b) || byAddress(a, b), cell: ({ facts }) => <State of={facts.state} /> },
  { key: 'address', title: 'Address', compare: byAddress, cell: ({ facts }) => <><span class='address'>{addressOfInstance(facts)}</span><span class='aside'>{facts.protocol}{facts.weight !== 1 && ` · weight ${facts.weight}`} · {sourceInWords(facts.source)}</span></> },
  { key: 'why', title: 'Why', cell: instance => <Why instance={instance} /> },
  { key: 'lease', title: 'Lease', cell: ({ facts: { lease } }) => lease === null ? <span class='aside'>{nothing}</span> : lease.lapsed ? <State of='lapsed' /> : formatDuration(lease.expires_at - fleet.now()) },
  { key: 'attempts', title: 'Attempts', isFigure: true, compare: (a, b) => a.row[1] - b.row[1], cell: ({ row }) => formatCount(row[1]) },
  { key: 'failed', title: 'Failed', isFigure: true, compare: (a, b) => a.row[2] - b.row[2], cell: ({ row }) => <span class={row[2] > 0 ? 'is-bad' : ''}>{formatCount(row[2])}</span> },
  { key: 'latency', title: 'Latency', isFigure: true, compare: (a, b) => a.row[3] - b.row[3], cell: ({ row }) => formatMs(row[3]) },
  { key: 'inflight', title: 'In flight', isFigure: true, compare: (a, b) => a.row[0] - b.row[0], cell: ({ row }) => formatCount(row[0]) }
]

function Why ({ instance: { facts, row } }: { instance: FleetInstance }) {
  const reason = reasonOf(facts, row, fleet.now())
  if (reason !== '') return <span class='why' title={reason}>{reason}</span>
  return <span class='why aside'>{facts.since === null ? 'nothing has failed' : `${facts.why}, since ${formatTime(facts.since)}`}</span>
}

/** Probe, drain, remove: as far as the key may. */
export function InstanceActions ({ instance }: { instance: FleetInstance }) {
  const address = addressOfInstance(instance.facts)
  return (
    <span class='actions'>
      <button type='button' class='small-button' onClick={() => { void probe(instance) }} aria-label={`Probe ${address} now`}>Probe</button>
      {may('register') && instance.facts.state !== 'draining' && <button type='button' class='small-button' onClick={() => askToDrain(instance)} aria-label={`Drain ${address}…`}>Drain</button>}
      {may('register') && <button type='button' class='small-button' onClick={() => askToRemove(instance)} aria-label={`Remove ${address}…`}>Remove</button>}
    </span>
  )
}

interface ProbeAnswer { ok: boolean, outcome: string, status: number | null, cause: string | null, path: string, latency_ms: number }

async function probe ({ agent, id, facts }: FleetInstance): Promise<void> {
  const address = addressOfInstance(facts)
  notice.value = { text: `Asking ${address}…`, isBad: false }
  try {
    const { ok, outcome, status, cause, path, latency_ms: latencyMs } = await ask<ProbeAnswer>('POST', `registry/${encodeURIComponent(agent)}/instances/${encodeURIComponent(id)}/probe`)
    const found = status === null ? cause ?? outcome : `${status} in ${formatMs(latencyMs)}`
    notice.value = { text: `${address}${path}: ${found}`, isBad: !ok }
  } catch (error) {
    notice.value = { text: error instanceof Refusal ? error.message : String(error), isBad: true }
  }
}
