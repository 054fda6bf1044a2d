/**
 * Which view is shown: the part of the address behind `#`, so that the gateway serves one page under whatever prefix.
 */
import { computed, signal } from '@preact/signals'

export type Route =
  | { view: 'fleet' }
  | { view: 'instances' }
  | { view: 'agent', name: string }
  | { view: 'requests' }
  | { view: 'try' }
  | { view: 'gateway' }

const hash = signal(location.hash)
addEventListener('hashchange', () => { hash.value = location.hash })

const [pathSignal, querySignal] = [computed(() => hash.value.replace(/^#\/?/, '').split('?')[0]!), computed(() => new URLSearchParams(hash.value.split('?')[1] ?? ''))]

export const route = computed<Route>(() => {
  const [first = '', second] = pathSignal.value.split('/')
  if (first === 'agents' && second !== undefined) return { view: 'agent', name: decoded(second) }
  if (first === 'instances' || first === 'requests' || first === 'try' || first === 'gateway') return { view: first }
  return { view: 'fleet' }
})

/** What a view is asked to begin with: `#/requests?agent=planner`. */
export const query = querySignal

export function linkToAgent (name: string): string {
  return `#/agents/${encodeURIComponent(name)}`
}

function decoded (text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}
