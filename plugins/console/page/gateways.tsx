/**
 * All gateways that share a Redis, where there are several: what each of them does, and what they did together for each agent.
 */
import { useEffect, useState } from 'preact/hooks'
import type { AgentStats, StatsSnapshot } from '../../stats/snapshot.ts'
import { formatCount, formatDuration, formatMs } from '../../../src/figures.ts'
import { ask, Refusal } from './gateway.ts'
import { linkToAgent } from './router.ts'

/** How often they are asked while somebody looks. */
const askMs = 2_000
/** The agents that were asked most. */
const mostAgents = 50

export function Gateways () {
  const [stats, setStats] = useState<StatsSnapshot | null>(null)
  const [problem, setProblem] = useState('')
  useEffect(() => {
    let isOver = false
    let isFirst = true
    let timer: ReturnType<typeof setTimeout> | undefined
    const look = async () => {
      try {
        const answer = await ask<StatsSnapshot>('GET', 'stats?gateways=all')
        if (isOver) return
        setStats(answer)
        setProblem('')
        if (isFirst && isAlone(answer)) return // who has no others is not asked again before the view is opened anew
        isFirst = false
      } catch (error) {
        if (!isOver) setProblem(error instanceof Refusal ? error.message : String(error))
      }
      if (!isOver) timer = setTimeout(() => { void look() }, askMs)
    }
    void look()
    return () => {
      isOver = true
      clearTimeout(timer)
    }
  }, [])
  if (stats === null || isAlone(stats)) return null
  const { processes = [], silent = 0 } = stats
  const agents = Object.entries(stats.agents).filter(([, { requests, in_flight: inFlight }]) => requests + inFlight > 0).sort(([, a], [, b]) => b.requests - a.requests)
  return (
    <section aria-labelledby='gateways-title' class='gateways'>
      <h2 id='gateways-title'>All gateways</h2>
      <p>{processes.length === 1 ? 'One process' : `${formatCount(processes.length)} processes`} on one Redis: {formatCount(stats.total_requests)} requests, {formatCount(stats.total_errors)} errors, {formatCount(stats.in_flight)} in flight. The other views show the one that this page came from.</p>
      {silent === null && <p class='is-bad'>Redis does not answer, so the other gateways could not be asked.</p>}
      {silent !== null && silent > 0 && <p class='is-bad'>{formatCount(silent)} more did not answer in time.</p>}
      {problem !== '' && <p class='is-bad'>{problem}</p>}
      <div class='scroller' tabIndex={0} role='region' aria-label='Processes'>
        <table class='plain'>
          <thead><tr><th scope='col'>Gateway</th><th scope='col'>Host</th><th scope='col'>Up for</th><th scope='col'>Requests</th><th scope='col'>Errors</th><th scope='col'>In flight</th></tr></thead>
          <tbody>{processes.map(({ id, host, pid, worker, uptime_seconds: uptime, total_requests: requests, total_errors: errors, in_flight: inFlight }) => (
            <tr key={id}><th scope='row'>{id}</th><td>{host}{worker !== undefined && `, worker ${worker} (process ${pid})`}</td><td>{formatDuration(uptime * 1_000)}</td><td>{formatCount(requests)}</td><td>{formatCount(errors)}</td><td>{formatCount(inFlight)}</td></tr>
          ))}
          </tbody>
        </table>
      </div>
      {agents.length > 0 && <AgentTable agents={agents} />}
    </section>
  )
}

function isAlone ({ processes = [], silent = 0 }: StatsSnapshot): boolean {
  return processes.length < 2 && silent === 0
}

function AgentTable ({ agents }: { agents: readonly (readonly [name: string, stats: AgentStats])[] }) {
  return (
    <>
      <div class='scroller' tabIndex={0} role='region' aria-label='Agents at all gateways'>
        <table class='plain'>
          <thead><tr><th scope='col'>Agent</th><th scope='col'>Requests</th><th scope='col'>Errors</th><th scope='col'>Retries</th><th scope='col'>p50</th><th scope='col'>p99</th><th scope='col'>In flight</th></tr></thead>
          <tbody>{agents.slice(0, mostAgents).map(([name, { requests, errors, retries, latency_ms: { p50, p99 }, in_flight: inFlight }]) => (
            <tr key={name}><th scope='row'><a href={linkToAgent(name)}>{name}</a></th><td>{formatCount(requests)}</td><td>{formatCount(errors)}</td><td>{formatCount(retries)}</td><td>{formatMs(p50)}</td><td>{formatMs(p99)}</td><td>{formatCount(inFlight)}</td></tr>
          ))}
          </tbody>
        </table>
      </div>
      {agents.length > mostAgents && <p class='aside'>and {formatCount(agents.length - mostAgents)} more that were asked less</p>}
    </>
  )
}
