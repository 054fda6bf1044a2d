/**
 * One agent in depth: its history, its instances, its last requests, and the policy it is served by.
 */
import { signal } from '@preact/signals'
import { useEffect, useState } from 'preact/hooks'
import { askToRemoveAgent, openRegistration } from './changes.tsx'
import { Charts } from './charts.tsx'
import { agents, beat, fleet, type FleetInstance } from './fleet.ts'
import { formatCount, formatMs, formatRate, formatRatio } from '../../../src/figures.ts'
import { ask, may } from './gateway.ts'
import { InstanceActions, instanceColumns } from './instances.tsx'
import { LongTable, ordered, type Column, type Order } from './long-table.tsx'
import { State } from './marks.tsx'
import { RequestList } from './requests-view.tsx'

const order = signal<Order>({ key: 'state', isDescending: false })

const columns: readonly Column<FleetInstance>[] = [...instanceColumns, { key: 'actions', title: 'Actions', isTitleHidden: true, cell: instance => <InstanceActions instance={instance} /> }]

/** So many of its last requests are listed. */
const mostRequests = 12

export function AgentView ({ name }: { name: string }) {
  void beat.value
  const agent = agents.get(name)
  if (agent === undefined) return <div class='empty'><p>There is no agent of this name, or the key is not for it. <a href='#/'>All agents</a></p></div>
  const { status, aliases, row, rate, errorRatio, instances } = agent
  const own = (fleet.requests ?? []).filter(entry => entry.agent === name).slice(0, mostRequests)
  return (
    <>
      <div class='agent-head'>
        <State of={status} />
        {aliases.length > 0 && <span class='aside'>also {aliases.join(', ')}</span>}
        <span class='push actions'>
          {may('proxy') && <a class='button' href={`#/try?agent=${encodeURIComponent(name)}`}>Try a request</a>}
          {may('register') && <button type='button' class='button' onClick={() => openRegistration(name)}>Add an instance…</button>}
          {may('register') && <button type='button' class='button is-dangerous' onClick={() => askToRemoveAgent(name)}>Remove agent…</button>}
        </span>
      </div>
      <dl class='overview'>
        <div><dt>Requests/s</dt><dd>{formatRate(rate)}</dd></div>
        <div><dt>Errors</dt><dd class={errorRatio ? 'is-bad' : ''}>{formatRatio(errorRatio)}</dd></div>
        <div><dt>p50</dt><dd>{formatMs(row[4])}</dd></div>
        <div><dt>p99</dt><dd>{formatMs(row[5])}</dd></div>
        <div><dt>In flight</dt><dd>{formatCount(row[0])}</dd></div>
        <div><dt>Retries in all</dt><dd>{formatCount(row[3])}</dd></div>
      </dl>
      <Charts agent={name} />
      <section aria-labelledby='instances-title'>
        <h2 id='instances-title'>Instances <span class='filter-count'>{formatCount(instances.size)}</span></h2>
        <LongTable
          label={`Instances of ${name}`} kind='own' heights={[52, 132]} columns={columns} items={ordered([...instances.values()], columns, order.value)} keyOf={({ id }) => id}
          order={order.value} onOrder={next => { order.value = next }} empty={<p>It has no instance at the moment.</p>}
        />
      </section>
      <section aria-labelledby='last-title'>
        <h2 id='last-title'>Last requests <a class='more' href={`#/requests?agent=${encodeURIComponent(name)}`}>all of them</a></h2>
        <RequestList label={`Last requests to ${name}`} entries={own} empty={fleet.requests === null ? 'The gateway keeps no audit log.' : 'None yet.'} />
      </section>
      <Settings name={name} />
    </>
  )
}

interface RegistryEntry { policy: Record<string, unknown>, metadata: Record<string, unknown> }

function Settings ({ name }: { name: string }) {
  const [entry, setEntry] = useState<RegistryEntry | null>(null)
  useEffect(() => {
    let isOver = false
    ask<Record<string, RegistryEntry>>('GET', 'registry').then(registry => { if (!isOver) setEntry(Object.hasOwn(registry, name) ? registry[name]! : null) }, () => {})
    return () => { isOver = true }
  }, [name])
  if (entry === null) return null
  return (
    <section class='settings'>
      <div>
        <h2>Policy</h2>
        <Values of={entry.policy} empty="As the gateway's defaults are." />
      </div>
      <div>
        <h2>Metadata</h2>
        <Values of={entry.metadata} empty='None.' />
      </div>
    </section>
  )
}

function Values ({ of: values, empty }: { of: Record<string, unknown>, empty: string }) {
  const rows = Object.entries(values).flatMap(([key, value]) => flat(key, value))
  if (rows.length === 0) return <p class='aside'>{empty}</p>
  return <dl class='values'>{rows.map(([key, text]) => <div key={key}><dt>{key}</dt><dd>{text}</dd></div>)}</dl>
}

/** `timeouts.connect` and its value, whatever is inside what. */
function flat (key: string, value: unknown): [key: string, text: string][] {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return [[key, typeof value === 'string' ? value : JSON.stringify(value)]]
  return Object.entries(value).flatMap(([inner, innerValue]) => flat(`${key}.${inner}`, innerValue))
}
