/** How the soak asks: one exchange with everything that can be known of its end, and the judgement of it. */
import { once } from 'node:events'
import { Agent, request as httpRequest } from 'node:http'
import { Readable } from 'node:stream'
import { setTimeout as pause } from 'node:timers/promises'
import { createComparison, pieces } from './pattern.js'

const idempotent = new Set(['GET', 'HEAD', 'PUT', 'DELETE'])
/** The gateway keeps no more of a body to send it again (`retry.maxBodyBytes`). */
const mostRepeatedBytes = 64 * 1024

export const createPool = () => new Agent({ keepAlive: true, maxSockets: 64 })

/** Asks the gateway itself, on a connection that is over afterwards: what the soak keeps open must not count as the gateway's. */
export async function ask ({ port }, method, path, body) {
  const text = body === undefined ? '' : JSON.stringify(body)
  const outgoing = httpRequest({ port, host: '127.0.0.1', method, path, agent: false, headers: { connection: 'close', ...(text !== '' && { 'content-type': 'application/json' }), 'content-length': Buffer.byteLength(text) } })
  outgoing.end(text)
  const [response] = await once(outgoing, 'response')
  const answer = Buffer.concat(await response.toArray()).toString()
  return { status: response.statusCode, headers: response.headers, body: /json/.test(response.headers['content-type'] ?? '') ? JSON.parse(answer) : answer }
}

/**
 * Sends one request and takes the answer to its end.
 * @returns {Promise<{ status: number, headers: object, complete: boolean, error: string, body: { equal: boolean, bytes: number }, text: string, startedAt: number }>} status 0 without a head
 */
export function exchange ({ gateway, pool }, { id, method = 'GET', path, headers = {}, bytes = 0, chunked = false, gapMs = 0, readGapMs = 0, abortOn, abortAfterMs }) {
  return new Promise(resolve => {
    const result = { id, method, path, status: 0, headers: {}, complete: false, error: '', body: { equal: true, bytes: 0 }, text: '', startedAt: performance.now() }
    const fields = { 'x-soak-id': id, 'x-request-id': id, ...headers, ...(bytes > 0 && !chunked && { 'content-length': bytes }), ...(bytes === 0 && method !== 'GET' && !chunked && { 'content-length': 0 }) }
    const outgoing = httpRequest({ port: gateway.port, host: '127.0.0.1', method, path, headers: fields, agent: pool })
    let over = false
    const end = error => {
      if (over) return
      over = true
      result.error = error
      resolve(result)
    }
    const abort = () => { outgoing.destroy(); end('aborted by us') }
    if (abortOn === 'at once') setImmediate(abort)
    if (abortAfterMs !== undefined) setTimeout(abort, abortAfterMs)
    outgoing.on('error', error => end(error.code ?? error.message))
    outgoing.on('close', () => end('closed'))
    outgoing.on('response', response => {
      result.status = response.statusCode
      result.headers = response.headers
      if (abortOn === 'head') return abort()
      const comparison = createComparison(id)
      result.body = comparison.seen
      response.on('data', chunk => {
        comparison.take(chunk)
        if (result.text.length < 2_000 && result.status >= 400) result.text += chunk
        if (abortOn === 'body') return abort()
        if (readGapMs > 0) {
          response.pause()
          setTimeout(() => response.resume(), readGapMs)
        }
      })
      response.on('end', () => {
        result.complete = response.complete
        end('')
      })
      response.on('error', error => end(error.code ?? error.message))
      response.on('aborted', () => end('aborted'))
    })
    if (bytes === 0) outgoing.end()
    else {
      const body = gapMs === 0 ? pieces(id, bytes) : slowly(pieces(id, bytes), gapMs)
      Readable.from(body, { objectMode: false, highWaterMark: 64 * 1024 }).on('error', () => {}).pipe(outgoing)
    }
  })
}

async function * slowly (chunks, gapMs) {
  for (const chunk of chunks) {
    await pause(gapMs)
    yield chunk
  }
}

/**
 * Says what is wrong with an outcome, if anything is.
 * @param asked what of the answer is known beforehand: `answerBytes`, `bytes` sent, the names of `mortal` instances that may have caused a failure
 */
export function judge ({ ledger, fleet }, result, { mortal = [], answerBytes = 0, bytes = 0, agentMayReset = false }) {
  const { id, method, status, headers, complete, error, body, text } = result
  const what = `${id} ${method} ${result.path}: ${status} ${error} ${text}`.trim()
  const safe = (idempotent.has(method) || id.startsWith('keyed')) && bytes <= mostRepeatedBytes
  const instanceDied = fleet.wasDown(mortal, result.startedAt)
  ledger.count('requests')
  if (status === 0 || (status >= 500 && headers['x-soak-instance'] === undefined)) {
    if (safe) ledger.fault('failed', what)
    else if (instanceDied || agentMayReset) ledger.count('failed, not to be repeated')
    else ledger.fault('wrong', `${what} (nothing was disturbed)`)
    return
  }
  if (headers['x-request-id'] !== id || headers['x-soak-id'] !== id) return ledger.fault(status === 200 ? 'foreign' : 'wrong', `${what} answered for ${headers['x-soak-id']} ${headers['x-request-id']}`)
  if (!body.equal) return ledger.fault('foreign', `${what}: the body is another's`)
  if (!complete) {
    if (instanceDied) ledger.count('cut, instance died')
    else ledger.fault('broken', `${what}: cut after ${body.bytes} of ${answerBytes} bytes`)
    return
  }
  if (method !== 'HEAD' && body.bytes !== answerBytes) return ledger.fault('truncated', `${what}: ${body.bytes} of ${answerBytes} bytes`)
  if (status !== 200) return ledger.fault('wrong', what)
  const received = headers['x-soak-received']
  if (received !== undefined && received !== `${bytes} true`) ledger.fault('truncated', `${what}: the agent got "${received}" of ${bytes} bytes`)
}
