/**
 * Finished requests as they come, what is looked for among them, and each one's attempts.
 */
import { signal } from '@preact/signals'
import { useEffect } from 'preact/hooks'
import type { AuditEntry } from '../wire.ts'
import { Dialog, dialog } from './dialogs.tsx'
import { agents, beat, fleet, skipped } from './fleet.ts'
import { addressOfInstance, formatBytes, formatCount, formatMoment, formatMs, formatTime, nothing } from '../../../src/figures.ts'
import { LongTable, type Column } from './long-table.tsx'
import { Shape } from './marks.tsx'
import { linkToAgent, query } from './router.ts'

const agentFilter = signal('')
const classFilter = signal('')
const search = signal('')
/** What there was when the list was stopped; null while it runs. */
const paused = signal<readonly AuditEntry[] | null>(null)

const classes = ['2xx', '3xx', '4xx', '5xx'] as const

function isBad ({ status, ending }: AuditEntry): boolean {
  return status >= 500 || ending === 'upstream-aborted'
}

/** A shape beside the number: colour alone does not tell. */
function Status ({ entry }: { entry: AuditEntry }) {
  const { status, ending } = entry
  const kind = isBad(entry) ? 'is-down' : status >= 400 ? 'is-degraded' : 'is-up'
  return <span class={`status ${kind}`}><Shape of={isBad(entry) ? 'down' : status >= 400 ? 'degraded' : 'up'} />{status}{ending && <span class='aside'> {ending === 'client-aborted' ? 'left' : 'cut off'}</span>}</span>
}

const columns: readonly Column<AuditEntry>[] = [
  { key: 'time', title: 'Time', cell: ({ time }) => formatTime(time) },
  { key: 'status', title: 'Status', cell: entry => <Status entry={entry} /> },
  { key: 'method', title: 'Method', cell: ({ method }) => method },
  { key: 'path', title: 'Path', cell: entry => <button type='button' class='row-link path' title={entry.path} onClick={() => open(entry)}>{entry.path}</button> },
  { key: 'agent', title: 'Agent', cell: ({ agent }) => agent === null ? <span class='aside'>gateway</span> : <a href={linkToAgent(agent)}>{agent}</a> },
  { key: 'attempts', title: 'Attempts', isFigure: true, cell: ({ attempts }) => attempts > 1 ? <b>{attempts}</b> : attempts },
  { key: 'latency', title: 'Time taken', isFigure: true, cell: ({ latency_ms: ms }) => formatMs(ms) },
  { key: 'bytes', title: 'Sent', isFigure: true, cell: ({ bytes_out: bytes }) => formatBytes(bytes) }
]

export function RequestList ({ label, entries, empty }: { label: string, entries: readonly AuditEntry[], empty: string }) {
  return <LongTable label={label} kind='requests' heights={[34, 64]} columns={columns} items={entries} keyOf={({ id }) => id} empty={<p>{empty}</p>} />
}

export function RequestsView () {
  void beat.value
  const asked = query.value.get('agent')
  useEffect(() => { if (asked !== null) agentFilter.value = asked }, [asked])
  useEffect(() => () => { paused.value = null }, [])
  const all = paused.value ?? fleet.requests
  if (all === null) return <div class='empty'><p>The gateway keeps no audit log: <code>auditLog.enabled</code> is off.</p></div>
  const words = search.value.trim().toLowerCase()
  const shown = all.filter(entry =>
    (agentFilter.value === '' || entry.agent === agentFilter.value) &&
    (classFilter.value === '' || String(entry.status).startsWith(classFilter.value.charAt(0))) &&
    (words === '' || `${entry.method} ${entry.path} ${entry.request_id} ${entry.client} ${entry.key ?? ''} ${entry.code ?? ''}`.toLowerCase().includes(words)))
  const names = [...new Set([...agents.keys(), ...(agentFilter.value === '' ? [] : [agentFilter.value])])].sort()
  return (
    <>
      <div class='tools'>
        <input type='search' class='search' aria-label='Search requests' placeholder='Path, id, client, key or code' value={search.value} onInput={event => { search.value = event.currentTarget.value }} />
        <select aria-label='Agent' value={agentFilter.value} onChange={event => { agentFilter.value = event.currentTarget.value }}>
          <option value=''>All agents</option>
          {names.map(name => <option key={name} value={name}>{name}</option>)}
        </select>
        <div class='filters' role='group' aria-label='Show only'>
          {classes.map(name => <button key={name} type='button' class='filter' aria-pressed={classFilter.value === name} onClick={() => { classFilter.value = classFilter.value === name ? '' : name }}>{name}</button>)}
        </div>
        <button type='button' class='button push' aria-pressed={paused.value !== null} onClick={() => { paused.value = paused.value === null ? [...fleet.requests ?? []] : null }}>{paused.value === null ? 'Pause' : 'Go on'}</button>
      </div>
      <p class='aside list-note'>
        {formatCount(shown.length)} of the last {formatCount(all.length)}{paused.value !== null && ', paused'}
        {skipped.value > 0 && `; ${formatCount(skipped.value)} more came too fast to be shown, failures are shown first`}
      </p>
      <RequestList label='Requests, newest first' entries={shown} empty={all.length === 0 ? 'No request has finished yet.' : 'Nothing here matches.'} />
    </>
  )
}

function open (entry: AuditEntry): void {
  dialog.value = () => <Detail entry={entry} />
}

function Detail ({ entry }: { entry: AuditEntry }) {
  const { tries, agent } = entry
  const address = (id: string) => {
    const instance = agent === null ? undefined : agents.get(agent)?.instances.get(id)
    return instance === undefined ? id : addressOfInstance(instance.facts)
  }
  const longest = Math.max(...tries.map(({ duration_ms: ms }) => ms), 0.001)
  const rows: readonly [string, string][] = [
    ['When', formatMoment(entry.time)],
    ['Agent', agent ?? 'none: the gateway answered'],
    ['Time taken', formatMs(entry.latency_ms)],
    ['Received', formatBytes(entry.bytes_in)],
    ['Sent', formatBytes(entry.bytes_out)],
    ['Client', entry.client],
    ['Key', entry.key ?? nothing],
    ['Request id', entry.request_id],
    ...(entry.code === undefined ? [] : [['Code', entry.code] as [string, string]]),
    ...(entry.ending === undefined ? [] : [['Ended', entry.ending === 'client-aborted' ? 'the client left first' : 'the answer was cut off'] as [string, string]])
  ]
  return (
    <Dialog title={`${entry.method} ${entry.path}`} kind='drawer'>
      <div class='dialog-body'>
        <p><Status entry={entry} /></p>
        <dl class='values'>{rows.map(([title, text]) => <div key={title}><dt>{title}</dt><dd>{text}</dd></div>)}</dl>
        <h3>{tries.length === 0 ? 'No attempt was made' : tries.length === 1 ? 'One attempt' : `${tries.length} attempts`}</h3>
        <ol class='tries'>
          {tries.map(({ instance, outcome, status, duration_ms: ms }, index) => (
            <li key={index}>
              <span class='tries-line'><b>{address(instance)}</b><span class={outcome === 'answered' && (status ?? 0) < 500 ? '' : 'is-bad'}>{outcome}{status === undefined ? '' : ` ${status}`}</span><span class='push'>{formatMs(ms)}</span></span>
              <span class='bar' aria-hidden='true'><i style={{ width: `${Math.max(ms / longest * 100, 1)}%` }} /></span>
            </li>
          ))}
        </ol>
      </div>
    </Dialog>
  )
}
