/**
 * One request to an agent through the gateway, with what comes back shown as it comes: an event stream message by message.
 */
import { signal } from '@preact/signals'
import { useEffect } from 'preact/hooks'
import { agents, beat } from './fleet.ts'
import { formatBytes, formatMs } from '../../../src/figures.ts'
import { addressOf, credentials, may } from './gateway.ts'
import { query } from './router.ts'

const methods = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'HEAD', 'OPTIONS'] as const

const form = signal({ method: 'GET', agent: '', path: '/', headers: '', body: '' })

interface Outcome {
  readonly state: 'waiting' | 'receiving' | 'complete' | 'aborted' | 'failed'
  readonly status?: number
  readonly statusText?: string
  readonly headers?: readonly (readonly [string, string])[]
  readonly headMs?: number
  readonly totalMs?: number
  readonly bytes: number
  readonly text: string
  readonly failure?: string
}

const outcome = signal<Outcome | null>(null)
let running: AbortController | null = null

/** So much of an answer is shown: the beginning, and of a longer one the end. */
const mostText = 200_000

function set (change: Partial<Outcome>): void {
  outcome.value = { ...outcome.value!, ...change }
}

async function send (): Promise<void> {
  const { method, agent, path, headers, body } = form.value
  const controller = running = new AbortController()
  const startMark = performance.now()
  outcome.value = { state: 'waiting', bytes: 0, text: '' }
  try {
    const given = new Headers(credentials())
    for (const line of headers.split('\n')) {
      const colon = line.indexOf(':')
      if (colon > 0) given.append(line.slice(0, colon).trim(), line.slice(colon + 1).trim())
    }
    const response = await fetch(addressOf(`api/${encodeURIComponent(agent)}/${path.replace(/^\//, '')}`), {
      method, headers: given, signal: controller.signal, cache: 'no-store', ...(method !== 'GET' && method !== 'HEAD' && body !== '' && { body })
    })
    set({ state: 'receiving', status: response.status, statusText: response.statusText, headers: [...response.headers], headMs: performance.now() - startMark })
    await read(response, controller)
    set({ state: 'complete', totalMs: performance.now() - startMark })
  } catch (error) {
    if (running !== controller) return
    const isAborted = controller.signal.aborted
    set({ state: isAborted ? 'aborted' : 'failed', totalMs: performance.now() - startMark, ...(!isAborted && { failure: (error as Error).message }) })
  } finally {
    if (running === controller) running = null
  }
}

async function read ({ body, headers }: Response, controller: AbortController): Promise<void> {
  if (body === null) return
  const isText = /^(text\/|application\/([\w.+-]*\+)?(json|xml|x-ndjson|javascript|yaml))/.test(headers.get('content-type') ?? 'text/plain')
  const decoder = new TextDecoder()
  const reader = body.getReader()
  for (;;) {
    const { value, done } = await reader.read()
    if (running !== controller) return void reader.cancel()
    if (done) break
    const { bytes, text } = outcome.value!
    const next = text + (isText ? decoder.decode(value, { stream: true }) : hex(value))
    set({ bytes: bytes + value.length, text: next.length > mostText ? `…${next.slice(-mostText)}` : next })
  }
}

function hex (bytes: Uint8Array): string {
  return Array.from(bytes, byte => byte.toString(16).padStart(2, '0')).join(' ') + ' '
}

export function TryView () {
  void beat.value
  const asked = query.value.get('agent')
  useEffect(() => { if (asked !== null) form.value = { ...form.value, agent: asked } }, [asked])
  const names = [...agents.keys()].sort()
  const { method, agent, path, headers, body } = form.value
  const chosen = agent === '' ? names[0] ?? '' : agent
  const change = (part: Partial<typeof form.value>) => { form.value = { ...form.value, ...part } }
  const isRunning = outcome.value?.state === 'waiting' || outcome.value?.state === 'receiving'
  const hasBody = method !== 'GET' && method !== 'HEAD'
  return (
    <div class='try'>
      <form class='try-form' onSubmit={event => { event.preventDefault(); change({ agent: chosen }); void send() }}>
        <div class='try-line'>
          <div class='field'><label for='try-method'>Method</label>
            <select id='try-method' value={method} onChange={event => change({ method: event.currentTarget.value })}>{methods.map(name => <option key={name}>{name}</option>)}</select>
          </div>
          <div class='field'><label for='try-agent'>Agent</label>
            <select id='try-agent' value={chosen} onChange={event => change({ agent: event.currentTarget.value })}>{names.map(name => <option key={name} value={name}>{name}</option>)}</select>
          </div>
          <div class='field grows'><label for='try-path'>Path and query</label>
            <input id='try-path' type='text' spellcheck={false} autoComplete='off' value={path} onInput={event => change({ path: event.currentTarget.value })} />
          </div>
        </div>
        <div class='field'><label for='try-headers'>Headers</label>
          <textarea id='try-headers' rows={3} spellcheck={false} placeholder='Accept: text/event-stream' value={headers} onInput={event => change({ headers: event.currentTarget.value })} aria-describedby='try-headers-hint' />
          <p class='hint' id='try-headers-hint'>One to a line. Your token goes along in a header of its own, so <code>Authorization</code> is the agent's.</p>
        </div>
        <div class='field'><label for='try-body'>Body</label>
          <textarea id='try-body' rows={6} spellcheck={false} disabled={!hasBody} placeholder={hasBody ? '' : `${method} has no body`} value={body} onInput={event => change({ body: event.currentTarget.value })} />
        </div>
        <div class='actions'>
          <button type='submit' class='button is-main' disabled={chosen === '' || isRunning || !may('proxy')}>Send</button>
          <button type='button' class='button' disabled={!isRunning} onClick={() => running?.abort()}>Abort</button>
          {!may('proxy') && <span class='aside'>This key may not use the agents.</span>}
        </div>
      </form>
      <section class='answer' aria-labelledby='answer-title'>
        <h2 id='answer-title'>Answer</h2>
        {outcome.value === null ? <p class='aside'>Nothing was sent yet.</p> : <Answer of={outcome.value} />}
      </section>
    </div>
  )
}

const stateWords = { waiting: 'waiting for the answer', receiving: 'receiving', complete: 'complete', aborted: 'aborted', failed: 'failed' } as const

function Answer ({ of: { state, status, statusText, headers, headMs, totalMs, bytes, text, failure } }: { of: Outcome }) {
  const kind = status === undefined ? '' : status >= 500 ? 'is-down' : status >= 400 ? 'is-degraded' : 'is-up'
  return (
    <>
      <p class='answer-line'>
        {status !== undefined && <b class={`status ${kind}`}>{status} {statusText}</b>}
        <span role='status'>{stateWords[state]}</span>
        {headMs !== undefined && <span>head after {formatMs(headMs)}</span>}
        {totalMs !== undefined && <span>{formatMs(totalMs)} in all</span>}
        <span>{formatBytes(bytes)}</span>
      </p>
      {failure !== undefined && <p class='problem' role='alert'>{failure}</p>}
      {headers !== undefined && (
        <details><summary>{headers.length} headers</summary>
          <dl class='values'>{headers.map(([name, value]) => <div key={name}><dt>{name}</dt><dd>{value}</dd></div>)}</dl>
        </details>
      )}
      <pre class='answer-body' tabIndex={0} aria-label='Body of the answer'>{text}</pre>
    </>
  )
}
