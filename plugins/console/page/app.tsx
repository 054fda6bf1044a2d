/**
 * The frame around the views: where one is, whether what is seen is live, and what is said aloud.
 */
import { signal } from '@preact/signals'
import { useEffect, useLayoutEffect, useRef } from 'preact/hooks'
import { AgentView } from './agent-view.tsx'
import { connection, connectNow, heardAt, signOut, staleMs } from './connection.ts'
import { closeDialog, DialogHost, notice } from './dialogs.tsx'
import { config, news } from './fleet.ts'
import { FleetView, InstancesView } from './fleet-view.tsx'
import { formatTime } from '../../../src/figures.ts'
import { GatewayView } from './gateway-view.tsx'
import { token } from './gateway.ts'
import { RequestsView } from './requests-view.tsx'
import { route, type Route } from './router.ts'
import { Logo, SignIn } from './sign-in.tsx'
import { chooseTheme, theme } from './theme.ts'
import { TryView } from './try-view.tsx'

const places: readonly { view: Route['view'], title: string, href: string, also: readonly Route['view'][] }[] = [
  { view: 'fleet', title: 'Fleet', href: '#/', also: ['instances', 'agent'] },
  { view: 'requests', title: 'Requests', href: '#/requests', also: [] },
  { view: 'try', title: 'Try', href: '#/try', also: [] },
  { view: 'gateway', title: 'Gateway', href: '#/gateway', also: [] }
]

const titles: Readonly<Record<Route['view'], string>> = { fleet: 'Fleet', instances: 'Instances', agent: 'Agent', requests: 'Requests', try: 'Try a request', gateway: 'Gateway' }

/** Our clock, so that "in 3 s" counts down. */
const second = signal(Date.now())
setInterval(() => { second.value = Date.now() }, 500)

export function App () {
  const { state } = connection.value
  useLayoutEffect(() => { if (state === 'sign-in') closeDialog() }, [state])
  if (connection.value.state === 'sign-in') return <SignIn reason={connection.value.reason} />
  return (
    <>
      <Header />
      <Main />
      <Notice />
      <DialogHost />
      <div class='unseen' role='log' aria-live='polite' aria-label='Changes of state'>{news.value}</div>
    </>
  )
}

function Header () {
  const { view } = route.value
  return (
    <header class='top'>
      <a class='skip' href='#main' onClick={event => { event.preventDefault(); document.querySelector<HTMLElement>('h1')?.focus() }}>To the content</a>
      <a class='brand' href='#/'><Logo /><span>Fleet Gateway</span></a>
      <nav aria-label='Views' class='places'>
        {places.map(place => <a key={place.view} href={place.href} aria-current={view === place.view ? 'page' : place.also.includes(view) ? 'true' : undefined}>{place.title}{place.view === 'gateway' && config.value?.ok === false && <span class='flag' title='The configuration file is wrong'>!<span class='unseen'> the configuration file is wrong</span></span>}</a>)}
      </nav>
      <div class='top-end'>
        <ConnectionState />
        <label class='unseen' for='theme'>Colours</label>
        <select id='theme' class='theme' value={theme.value} onChange={event => chooseTheme(event.currentTarget.value as 'system')}>
          <option value='system'>System</option>
          <option value='light'>Light</option>
          <option value='dark'>Dark</option>
        </select>
        {token.value !== null && <button type='button' class='small-button' onClick={() => signOut()}>Sign out</button>}
      </div>
    </header>
  )
}

function ConnectionState () {
  const now = second.value
  const current = connection.value
  const heard = heardAt.value
  const isSilent = current.state === 'connected' && heard !== null && now - heard > staleMs
  const staleSince = heard !== null && (current.state !== 'connected' || isSilent) ? ` Data of ${formatTime(heard)}.` : ''
  if (current.state === 'connected') return <p class={`link ${isSilent ? 'is-degraded' : 'is-up'}`}><span class='link-dot' aria-hidden='true' /><span role='status'>{isSilent ? 'Silent.' : 'Live'}</span>{staleSince}</p>
  if (current.state !== 'waiting') return <p class='link is-degraded'><span class='link-dot is-hollow' aria-hidden='true' /><span role='status'>Connecting…</span>{staleSince}</p>
  return (
    <p class='link is-down'>
      <span class='link-dot is-hollow' aria-hidden='true' /><span role='status'>{current.reason}.</span>
      <span> Again in {Math.max(Math.ceil((current.retryAt - now) / 1_000), 0)} s.{staleSince}</span>
      <button type='button' class='small-button' onClick={connectNow}>Now</button>
    </p>
  )
}

function Main () {
  const heading = useRef<HTMLHeadingElement>(null)
  const isFirst = useRef(true)
  const current = route.value
  const title = current.view === 'agent' ? current.name : titles[current.view]
  useEffect(() => {
    document.title = `${title} · Fleet Gateway`
    if (!isFirst.current) {
      scrollTo(0, 0)
      heading.current?.focus()
    }
    isFirst.current = false
  }, [title])
  return (
    <main id='main' class={`main main-${current.view}`}>
      {current.view === 'agent' && <p class='crumbs'><a href='#/'>Fleet</a></p>}
      <h1 ref={heading} tabIndex={-1}>{title}</h1>
      {heardAt.value === null ? <p class='aside'>Waiting for the gateway…</p> : <View route={current} />}
    </main>
  )
}

function View ({ route }: { route: Route }) {
  if (route.view === 'fleet') return <FleetView />
  if (route.view === 'instances') return <InstancesView />
  if (route.view === 'agent') return <AgentView key={route.name} name={route.name} />
  if (route.view === 'requests') return <RequestsView />
  return route.view === 'try' ? <TryView /> : <GatewayView />
}

/** How long what was done is said. */
const noticeMs = 8_000

function Notice () {
  const current = notice.value
  useEffect(() => {
    if (current === null || current.isBad) return
    const timer = setTimeout(() => { notice.value = null }, noticeMs)
    return () => clearTimeout(timer)
  }, [current])
  return (
    <div class='notice-place' role='status'>
      {current !== null && <p class={`notice ${current.isBad ? 'is-bad' : ''}`}><span>{current.text}</span><button type='button' class='small-button' onClick={() => { notice.value = null }}>Close</button></p>}
    </div>
  )
}
