/**
 * The gateway itself: which configuration runs, since when, and how it fares.
 */
import { agents, beat, config, fleet, totals } from './fleet.ts'
import { formatCount, formatDuration, formatMoment, nothing, redisTrouble } from '../../../src/figures.ts'
import { you } from './gateway.ts'
import { Gateways } from './gateways.tsx'
import { Shape } from './marks.tsx'

declare const __VERSION__: string

export function GatewayView () {
  void beat.value
  const { loaded_at: loadedAt = null, ok = true, error } = config.value ?? {}
  const { uptime_seconds: uptime = 0, requests = 0, errors = 0, proxied = 0, in_flight: inFlight = 0, watching = 0 } = totals.value ?? {}
  const { id, scopes = [], agents: allowed = '*', authenticated } = you.value ?? {}
  const all = [...agents.values()]
  const leases = all.flatMap(({ instances }) => [...instances.values()].flatMap(({ facts }) => facts.lease ?? []))
  const lapsed = leases.filter(lease => lease.lapsed).length
  return (
    <div class='settings'>
      <section aria-labelledby='config-title'>
        <h2 id='config-title'>Configuration</h2>
        <p class='config-state'><Shape of={ok ? 'up' : 'down'} />{loadedAt === null ? 'Given in code.' : ok ? 'What was read last is what runs.' : 'The file on disk is wrong; the one before it runs.'}</p>
        {error !== undefined && <pre class='problem' tabIndex={0} aria-label='What is wrong with the file'>{error}</pre>}
        <Values rows={[['Loaded', loadedAt === null ? nothing : formatMoment(loadedAt)], ['Agents', formatCount(all.length)], ['Routes under /api', formatCount(all.reduce((sum, { aliases }) => sum + 1 + aliases.length, 0))], ['Leases', leases.length === 0 ? 'none' : `${formatCount(leases.length)}, ${lapsed} of them lapsed`]]} />
      </section>
      <section aria-labelledby='gateway-title'>
        <h2 id='gateway-title'>Gateway</h2>
        {fleet.redis !== null && <p class='config-state'><Shape of={fleet.redis === 'ok' ? 'up' : 'down'} />{redisTrouble(fleet.redis) ?? 'Redis, which gateways share, answers'}.</p>}
        <Values rows={[['Version', __VERSION__], ['Up for', formatDuration(uptime * 1_000)], ['Requests', formatCount(requests)], ['Passed on to agents', formatCount(proxied)], ['Errors', formatCount(errors)], ['In flight', formatCount(Math.max(inFlight - watching, 0))], ['Consoles open', formatCount(watching)]]} />
      </section>
      <Gateways />
      <section aria-labelledby='you-title'>
        <h2 id='you-title'>You</h2>
        <Values rows={[['Signed in', authenticated ? id === null ? 'with the fleet secret' : `as ${id}` : 'no: auth is off'], ['May', scopes.length === 0 ? nothing : scopes.join(', ')], ['Agents', allowed === '*' ? 'all' : allowed?.join(', ') ?? nothing]]} />
      </section>
      <section aria-labelledby='more-title'>
        <h2 id='more-title'>More</h2>
        <ul class='links'>
          <li><a href='../health'>/health</a> how the fleet is, for monitors</li>
          <li><a href='licences.txt'>Licences</a> of what this page is built with</li>
        </ul>
      </section>
    </div>
  )
}

function Values ({ rows }: { rows: readonly (readonly [title: string, text: string])[] }) {
  return <dl class='values'>{rows.map(([title, text]) => <div key={title}><dt>{title}</dt><dd>{text}</dd></div>)}</dl>
}
