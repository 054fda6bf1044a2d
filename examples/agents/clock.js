/**
 * An agent that tells the time, once or as server-sent events.
 *
 *   GET /now
 *   GET /events?interval=ms&count=n   a tick a second without an end, unless told otherwise; goes on behind Last-Event-ID
 */
import { HttpError, sendJson, serve } from './serve.js'

/** Open streams; each is ended by its function when the agent stops. */
const streams = new Set()

serve({
  name: 'clock-agent',
  defaultPort: 8503,
  onStop: () => { for (const end of streams) end() },
  routes: {
    'GET /now' ({ response }) {
      sendJson(response, 200, { now: new Date().toISOString() }, { 'cache-control': 'no-store' })
    },
    'GET /events' ({ request, response, url }) {
      const intervalMs = wholeNumber(url, 'interval', 1_000, 10, 60_000)
      const count = wholeNumber(url, 'count', Infinity, 1, 1_000_000)
      streamTicks(request, response, { intervalMs, count, after: lastEventId(request) })
    }
  }
})

function wholeNumber (url, name, fallback, minimum, maximum) {
  const text = url.searchParams.get(name)
  if (text === null) return fallback
  const value = /^\d{1,9}$/.test(text) ? Number(text) : NaN
  if (!(value >= minimum && value <= maximum)) throw new HttpError(400, `${name} must be a whole number from ${minimum} to ${maximum}`)
  return value
}

/** The number of the last tick this client saw: a browser sends it when it connects again. 0 when it never did. */
function lastEventId (request) {
  const text = request.headers['last-event-id'] ?? ''
  return /^\d{1,15}$/.test(text) ? Number(text) : 0
}

function streamTicks (request, response, { intervalMs, count, after }) {
  response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' })
  if (request.method === 'HEAD') return response.end()
  let id = after
  const tick = () => {
    // A reader that is too slow misses ticks; they are not piled up for it.
    if (response.writableNeedDrain) return
    id += 1
    response.write(`id: ${id}\nevent: tick\ndata: ${JSON.stringify({ tick: id, now: new Date().toISOString() })}\n\n`)
    if (id - after >= count) end()
  }
  const end = () => {
    clearInterval(timer)
    streams.delete(end)
    response.end()
  }
  const timer = setInterval(tick, intervalMs)
  streams.add(end)
  response.on('close', end)
  response.write(`retry: ${intervalMs}\n\n`)
  tick()
}
