/**
 * The fleet at a glance: each agent with how it fares, what is asked of it and what is wrong; or all instances in one list.
 */
import { signal } from '@preact/signals'
import { openRegistration } from './changes.tsx'
import { agents, beat, fleet, overall, totals, type FleetAgent, type FleetInstance } from './fleet.ts'
import { byName, byState, byStatus } from '../../../src/watched-fleet.ts'
import { addressOfInstance, formatCount, formatMs, formatRate, formatRatio, nothing, reasonOf } from '../../../src/figures.ts'
import { may } from './gateway.ts'
import { InstanceActions, instanceColumns } from './instances.tsx'
import { LongTable, ordered, type Column, type Order } from './long-table.tsx'
import { Shape, State, type Mark } from './marks.tsx'
import { linkToAgent } from './router.ts'
import { Spark } from './spark.tsx'

const search = signal('')
const agentFilter = signal<Mark | null>(null)
const instanceFilter = signal<Mark | null>(null)
const agentOrder = signal<Order>({ key: 'state', isDescending: false })
const instanceOrder = signal<Order>({ key: 'state', isDescending: false })

/** So many instances of an agent are drawn one by one. */
const mostDots = 14

const agentColumns: readonly Column<FleetAgent>[] = [
  { key: 'state', title: 'State', compare: byStatus, cell: ({ status }) => <State of={status} /> },
  { key: 'name', title: 'Agent', compare: byName, cell: agent => <AgentName agent={agent} /> },
  { key: 'instances', title: 'Instances', compare: (a, b) => a.instances.size - b.instances.size, cell: agent => <InstancesAtAGlance agent={agent} /> },
  { key: 'spark', title: 'Last five minutes', isTitleHidden: true, cell: ({ spark }) => <Spark values={spark} length={60} /> },
  { key: 'rate', title: 'Requests/s', isFigure: true, compare: (a, b) => a.rate - b.rate, cell: ({ rate }) => formatRate(rate) },
  { key: 'errors', title: 'Errors', isFigure: true, compare: (a, b) => (a.errorRatio ?? -1) - (b.errorRatio ?? -1), cell: ({ errorRatio }) => <span class={errorRatio ? 'is-bad' : ''}>{formatRatio(errorRatio)}</span> },
  { key: 'p50', title: 'p50', isFigure: true, compare: (a, b) => a.row[4] - b.row[4], cell: ({ row }) => formatMs(row[4]) },
  { key: 'p99', title: 'p99', isFigure: true, compare: (a, b) => a.row[5] - b.row[5], cell: ({ row }) => formatMs(row[5]) },
  { key: 'inflight', title: 'In flight', isFigure: true, compare: (a, b) => a.row[0] - b.row[0], cell: ({ row }) => formatCount(row[0]) }
]

function AgentName ({ agent: { name, aliases } }: { agent: FleetAgent }) {
  return (
    <>
      <a class='row-link' href={linkToAgent(name)}>{name}</a>
      {aliases.length > 0 && <span class='aside'>{aliases.join(', ')}</span>}
    </>
  )
}

function InstancesAtAGlance ({ agent }: { agent: FleetAgent }) {
  const instances = [...agent.instances.values()].sort(byState)
  const up = instances.filter(({ facts }) => facts.state === 'up').length
  const [worst] = instances
  const reason = worst === undefined ? 'no instance' : worst.facts.state === 'up' && !worst.facts.lease?.lapsed ? '' : reasonOf(worst.facts, worst.row, fleet.now())
  const shown = instances.length > mostDots ? instances.slice(0, mostDots) : instances
  return (
    <>
      <span class='dots'>
        {shown.map(({ id, facts }) => <Shape key={id} of={facts.state} />)}
        {shown.length < instances.length && <span class='aside' aria-hidden='true'>+{instances.length - shown.length}</span>}
        <span class='count'>{up} of {instances.length} up</span>
      </span>
      {reason !== '' && <span class='aside why' title={reason}>{worst === undefined ? reason : `${addressOfInstance(worst.facts)} ${worst.facts.state === 'up' ? '' : `${worst.facts.state}: `}${reason}`}</span>}
    </>
  )
}

export function FleetView () {
  void beat.value
  const words = search.value.trim().toLowerCase()
  const all = [...agents.values()]
  const found = words === '' ? all : all.filter(({ name, aliases }) => [name, ...aliases].some(known => known.toLowerCase().includes(words)))
  const shown = agentFilter.value === null ? found : found.filter(({ status }) => status === agentFilter.value)
  const counts = (['down', 'degraded', 'healthy'] as const).map(status => [status, found.filter(agent => agent.status === status).length] as const)
  return (
    <>
      <Overview />
      <Tools kind='agents' filter={agentFilter} counts={counts} />
      <LongTable
        label='Agents' kind='agents' heights={[52, 118]} columns={agentColumns} items={ordered(shown, agentColumns, agentOrder.value)} keyOf={({ name }) => name}
        order={agentOrder.value} onOrder={order => { agentOrder.value = order }} empty={<Nobody isFleetEmpty={agents.size === 0} />}
      />
    </>
  )
}

const listColumns: readonly Column<FleetInstance>[] = [
  { key: 'agent', title: 'Agent', compare: (a, b) => a.agent < b.agent ? -1 : a.agent > b.agent ? 1 : 0, cell: ({ agent }) => <a class='row-link' href={linkToAgent(agent)}>{agent}</a> },
  ...instanceColumns,
  { key: 'actions', title: 'Actions', isTitleHidden: true, cell: instance => <InstanceActions instance={instance} /> }
]

export function InstancesView () {
  void beat.value
  const words = search.value.trim().toLowerCase()
  const found: FleetInstance[] = []
  for (const agent of agents.values()) {
    const isAgents = words !== '' && agent.name.toLowerCase().includes(words)
    for (const instance of agent.instances.values()) {
      if (words === '' || isAgents || addressOfInstance(instance.facts).toLowerCase().includes(words) || instance.id === words) found.push(instance)
    }
  }
  const filter = instanceFilter.value
  const isState = ({ facts }: FleetInstance, mark: Mark) => mark === 'lapsed' ? facts.lease?.lapsed === true : facts.state === mark
  const shown = filter === null ? found : found.filter(instance => isState(instance, filter))
  const counts = (['down', 'ejected', 'draining', 'lapsed', 'up'] as const).map(mark => [mark, found.filter(instance => isState(instance, mark)).length] as const)
  return (
    <>
      <Overview />
      <Tools kind='instances' filter={instanceFilter} counts={counts} />
      <LongTable
        label='Instances' kind='instances' heights={[52, 118]} columns={listColumns} items={ordered(shown, listColumns, instanceOrder.value)} keyOf={({ agent, id }) => `${agent}/${id}`}
        order={instanceOrder.value} onOrder={order => { instanceOrder.value = order }} empty={<Nobody isFleetEmpty={agents.size === 0} />}
      />
    </>
  )
}

function Overview () {
  const { in_flight: inFlight = 0, watching = 0, requests = 0 } = totals.value ?? {}
  return (
    <dl class='overview'>
      <div><dt>Requests/s</dt><dd>{formatRate(overall.rate)}</dd></div>
      <div><dt>Errors</dt><dd class={overall.errorRatio ? 'is-bad' : ''}>{formatRatio(overall.errorRatio)}</dd></div>
      <div><dt>In flight</dt><dd>{formatCount(Math.max(inFlight - watching, 0))}</dd></div>
      <div><dt>Agents</dt><dd>{formatCount(agents.size)}</dd></div>
      <div><dt>Instances</dt><dd>{formatCount(sumOf(agents.values(), ({ instances }) => instances.size))}</dd></div>
      <div><dt>Requests in all</dt><dd>{requests === 0 ? nothing : formatCount(requests)}</dd></div>
    </dl>
  )
}

function sumOf<Item> (items: Iterable<Item>, value: (item: Item) => number): number {
  let sum = 0
  for (const item of items) sum += value(item)
  return sum
}

function Tools ({ kind, filter, counts }: { kind: 'agents' | 'instances', filter: typeof agentFilter, counts: readonly (readonly [Mark, number])[] }) {
  return (
    <div class='tools'>
      <nav class='segments' aria-label='What to list'>
        <a href='#/' aria-current={kind === 'agents' ? 'page' : undefined}>Agents</a>
        <a href='#/instances' aria-current={kind === 'instances' ? 'page' : undefined}>Instances</a>
      </nav>
      <input type='search' class='search' placeholder={kind === 'agents' ? 'Name' : 'Name or address'} aria-label={`Search ${kind}`} value={search.value} onInput={event => { search.value = event.currentTarget.value }} />
      <div class='filters' role='group' aria-label='Show only'>
        {counts.map(([mark, count]) => (
          <button key={mark} type='button' class='filter' aria-pressed={filter.value === mark} onClick={() => { filter.value = filter.value === mark ? null : mark }}>
            <Shape of={mark} />{mark} <span class='filter-count'>{formatCount(count)}</span>
          </button>
        ))}
      </div>
      {may('register') && <button type='button' class='button is-main push' onClick={() => openRegistration()}>Register…</button>}
    </div>
  )
}

function Nobody ({ isFleetEmpty }: { isFleetEmpty: boolean }) {
  if (!isFleetEmpty) return <p>Nothing here matches.</p>
  return <p>There is no agent yet. Register one, or name it in fleet.yaml.</p>
}
