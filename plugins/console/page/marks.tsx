/**
 * States as they are shown: a word, a shape and a colour, so that none of them alone has to tell.
 */
import type { AgentStatus, InstanceState } from '../wire.ts'

export type Mark = InstanceState | AgentStatus | 'lapsed'

/** Each state has a shape of its own; they are drawn on 12 by 12. */
const shapes: Readonly<Record<Mark, string>> = {
  up: 'M6 1a5 5 0 1 1 0 10a5 5 0 1 1 0-10z',
  healthy: 'M6 1a5 5 0 1 1 0 10a5 5 0 1 1 0-10z',
  degraded: 'M6 1l5.4 9.6h-10.8z',
  down: 'M2.6 1.2L6 4.6l3.4-3.4 1.4 1.4L7.4 6l3.4 3.4-1.4 1.4L6 7.4l-3.4 3.4-1.4-1.4L4.6 6 1.2 2.6z',
  ejected: 'M6 .6L11.4 6 6 11.4.6 6z',
  draining: 'M1 1h10v2.4H1zM1 4.8h7v2.4H1zM1 8.6h4V11H1z',
  lapsed: 'M6 1a5 5 0 1 1 0 10a5 5 0 1 1 0-10zm-.9 2v3.5l2.6 1.6.9-1.4-1.8-1.1V3z'
}

/** The shape alone: for where the word is beside it. */
export function Shape ({ of }: { of: Mark }) {
  return <svg class={`shape is-${of}`} viewBox='0 0 12 12' width='12' height='12' aria-hidden='true'><path d={shapes[of]} fill-rule='evenodd' /></svg>
}

/** Shape and word. */
export function State ({ of }: { of: Mark }) {
  return <span class={`state is-${of}`}><Shape of={of} />{of}</span>
}
