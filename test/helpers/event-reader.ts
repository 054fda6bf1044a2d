/** Reads an event stream (text/event-stream) over a real socket, event by event. */
import { once } from 'node:events'
import { request, type IncomingMessage } from 'node:http'
import type { Test } from 'tap'

export interface StreamEvent {
  readonly type: string
  readonly data: string
  readonly id: string
}

export interface EventReader {
  readonly response: IncomingMessage
  /** All that came so far. */
  readonly text: () => string
  readonly events: readonly StreamEvent[]
  /** Resolves with the first event that matches, also one that was there before; rejects when the stream ends without. */
  until (matches: (event: StreamEvent) => boolean): Promise<StreamEvent>
  /** Resolves when the stream is over: true when it ended properly. */
  over (): Promise<boolean>
  close (): void
}

/** Opens the stream; its head has arrived. */
export async function readEvents (t: Test, url: string, headers: Record<string, string> = {}): Promise<EventReader> {
  const asking = request(url, { agent: false, headers: { accept: 'text/event-stream', ...headers } }).end()
  t.teardown(() => asking.destroy())
  const [response] = await once(asking, 'response') as [IncomingMessage]
  const events: StreamEvent[] = []
  const waiting = new Set<() => void>()
  let text = ''
  let parsed = 0
  let isOver = false
  asking.on('error', () => {})
  response.on('error', () => {})
  const wake = () => { for (const look of waiting) look() }
  response.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk
    for (let end = text.indexOf('\n\n', parsed); end !== -1; end = text.indexOf('\n\n', parsed)) {
      const fields = text.slice(parsed, end).split('\n')
      parsed = end + 2
      const valueOf = (name: string) => fields.find(field => field.startsWith(`${name}: `))?.slice(name.length + 2)
      const data = valueOf('data')
      if (data !== undefined) events.push({ type: valueOf('event') ?? 'message', data, id: valueOf('id') ?? '' })
    }
    wake()
  })
  const over = new Promise<boolean>(resolve => response.on('close', () => {
    isOver = true
    wake()
    resolve(response.complete)
  }))
  return {
    response,
    text: () => text,
    events,
    until: matches => new Promise((resolve, reject) => {
      let looked = 0
      const look = () => {
        const found = events.slice(looked).find(matches)
        looked = events.length
        if (found === undefined && !isOver) return
        waiting.delete(look)
        if (found === undefined) reject(new Error(`the stream ended before; it was ${text}`))
        else resolve(found)
      }
      waiting.add(look)
      look()
    }),
    over: () => over,
    close: () => asking.destroy()
  }
}
