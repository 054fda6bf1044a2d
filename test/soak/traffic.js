/** Parts of the soak that only ask: small requests, large bodies, slow clients, clients that leave, requests that nobody should send. */
import { connect } from 'node:net'
import { once } from 'node:events'
import { exchange, judge } from './client.js'
import { mortalOf } from './fleet.js'

const KiB = 1024
const agents = Object.keys(mortalOf)

/** Requests of each kind, whole answers. */
export async function smallRequests (soak) {
  const { random, ledger } = soak
  while (!soak.over()) {
    const agent = random.pick(agents)
    const kind = random.pick(['get', 'get', 'get', 'put', 'delete', 'post', 'post', 'keyed', 'head'])
    const id = ledger.id(kind)
    const bytes = ['put', 'post', 'keyed'].includes(kind) ? random.integer(1, 60 * KiB) : 0
    const answerBytes = random.integer(0, 40 * KiB)
    const failing = agent === 'alpha' && random.chance(0.4) ? `&failing=alpha-${random.integer(0, 2)}&status=${random.pick([0, 502, 503])}` : ''
    const query = `bytes=${answerBytes}${random.chance(0.4) ? '&chunked' : ''}${random.chance(0.3) ? `&delay=${random.integer(1, 200)}` : ''}${failing}`
    const chunked = bytes > 0 && random.chance(0.3)
    const result = await exchange(soak, {
      id,
      method: kind === 'keyed' ? 'POST' : kind.toUpperCase(),
      path: `/api/${agent}/echo?${query}`,
      headers: kind === 'keyed' ? { 'idempotency-key': id } : {},
      bytes,
      chunked
    })
    // One of the two that may be asked was told to fail, and the other killed: nothing is left then. And nobody repeats a POST for us.
    const told = failing !== '' && result.status >= 500
    if (told && (kind === 'post' || soak.fleet.wasDown(mortalOf.alpha, result.startedAt))) ledger.count('requests')
    else judge(soak, result, { mortal: mortalOf[agent], answerBytes: kind === 'head' ? 0 : answerBytes, bytes, agentMayReset: agent === 'stale' || failing !== '' })
    await soak.pause(random.integer(0, 30))
  }
}

/** Up and down by the megabyte, in part slowly; what reads and writes slowly is in `slowClients`. */
export async function largeBodies (soak) {
  const { random, ledger } = soak
  while (!soak.over()) {
    const agent = random.pick(['alpha', 'steady', 'gamma', 'pool'])
    const size = random.integer(100 * KiB, soak.largestBytes)
    const up = random.chance(0.5)
    const id = ledger.id(up ? 'put' : 'get')
    const result = await exchange(soak, {
      id, method: up ? 'PUT' : 'GET', path: `/api/${agent}/large?bytes=${up ? 0 : size}${random.chance(0.5) ? '&chunked' : ''}`, bytes: up ? size : 0, chunked: random.chance(0.5)
    })
    ledger.count('MiB of large bodies', size / 2 ** 20)
    judge(soak, result, { mortal: mortalOf[agent], answerBytes: up ? 0 : size, bytes: up ? size : 0 })
    await soak.pause(random.integer(50, 300))
  }
}

/** A download and an upload that go on for a second or more, from what is never disturbed but by reloads of its settings. */
export async function slowClients (soak) {
  const { random, ledger } = soak
  while (!soak.over()) {
    const size = random.integer(1, 24) * 64 * KiB
    const gap = random.integer(10, 80)
    const kind = random.pick(['reader', 'writer', 'sender', 'taker'])
    const isUpload = kind === 'writer' || kind === 'taker'
    const id = ledger.id(isUpload ? 'put' : 'get')
    const result = await exchange(soak, {
      id,
      method: isUpload ? 'PUT' : 'GET',
      path: `/api/steady/slow?bytes=${isUpload ? 0 : size}${kind === 'sender' ? `&gap=${gap}` : ''}${kind === 'taker' ? `&slow=${gap}` : ''}`,
      bytes: isUpload ? size : 0,
      gapMs: kind === 'writer' ? gap : 0,
      readGapMs: kind === 'reader' ? gap : 0
    })
    judge(soak, result, { answerBytes: isUpload ? 0 : size, bytes: isUpload ? size : 0 })
    await soak.pause(random.integer(0, 100))
  }
}

/** Clients that leave at every stage; what becomes of them is nobody's failure, and must leave nothing behind. */
export async function aborts (soak) {
  const { random, ledger } = soak
  while (!soak.over()) {
    const agent = random.pick(agents)
    const up = random.chance(0.4)
    const bytes = up ? random.integer(1, 512 * KiB) : 0
    await exchange(soak, {
      id: ledger.id('aborted'),
      method: up ? 'PUT' : 'GET',
      path: `/api/${agent}/${random.chance(0.2) ? 'events?every=20' : `echo?bytes=${random.integer(0, 512 * KiB)}&delay=${random.integer(0, 60)}&gap=${random.integer(0, 20)}`}`,
      bytes,
      gapMs: random.chance(0.5) ? random.integer(1, 20) : 0,
      abortOn: random.pick([undefined, 'at once', 'head', 'body']),
      abortAfterMs: random.integer(1, 150)
    })
    ledger.count('aborted by the client')
    await soak.pause(random.integer(5, 60))
  }
}

const host = 'Host: localhost\r\n'
/** What is sent, and the status that must come back; null for any answer that is none of 2xx, or an end without one. */
const badRequests = [
  ['GET /api/steady/ HTTP/1.1\r\n\r\n', 400],
  [`GET /api/steady/ HTTP/1.1\r\n${host}${host}\r\n`, 400],
  [`GET /api/steady/../x HTTP/1.1\r\n${host}Connection: close\r\n\r\n`, 400],
  [`GET /api/steady/%zz HTTP/1.1\r\n${host}Connection: close\r\n\r\n`, 400],
  [`GET /api/nobody-${'x'.repeat(20)} HTTP/1.1\r\n${host}Connection: close\r\n\r\n`, 404],
  [`TRACE /api/steady/ HTTP/1.1\r\n${host}Connection: close\r\n\r\n`, 405],
  [`POST /api/steady/ HTTP/1.1\r\n${host}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`, 400],
  [`POST /api/steady/ HTTP/1.1\r\n${host}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello`, 400],
  [`POST /api/steady/ HTTP/1.1\r\n${host}Transfer-Encoding: gzip\r\n\r\n`, 501],
  [`GET /api/steady/ HTTP/1.1\r\n${host}X-Long: ${'x'.repeat(40_000)}\r\n\r\n`, 431],
  [`GET /api/steady/ HTTP/1.1\r\n${host}X-Space : y\r\n\r\n`, 400],
  [`POST /api/steady/ HTTP/1.1\r\n${host}Expect: a-miracle\r\n\r\n`, 417],
  [`POST /api/steady/echo HTTP/1.1\r\n${host}Transfer-Encoding: chunked\r\n\r\nnot a length\r\n`, null],
  ['\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03', 400],
  ['GARBAGE\r\n\r\n', 400]
]

/** Whoever has no answer by then gets none: this machine may be busy with others. */
const patienceMs = 60_000

/** Requests that nobody should send, and connections that say nothing. */
export async function badClients (soak) {
  const { random, ledger, gateway } = soak
  while (!soak.over()) {
    const [text, status] = random.pick(badRequests)
    const socket = connect({ port: gateway.port, host: '127.0.0.1' })
    let received = ''
    let failure = ''
    const begun = performance.now()
    socket.on('error', error => { failure = ` ${error.code}` }).on('data', chunk => { received += chunk })
    if (random.chance(0.2)) { // is there, and leaves
      await Promise.race([once(socket, 'connect'), once(socket, 'close')])
      if (random.chance(0.5)) socket.write(text.slice(0, random.integer(1, text.length)))
      await soak.pause(random.integer(0, 50))
      socket.destroy()
    } else {
      const late = setTimeout(() => socket.destroy(), patienceMs)
      socket.write(text, 'latin1')
      await once(socket, 'close')
      clearTimeout(late)
      const got = Number(/^HTTP\/1\.1 (\d+)/.exec(received)?.[1] ?? 0)
      ledger.count('bad requests')
      if (status === null ? got >= 200 && got < 300 : got !== status) ledger.fault('wrong', `${JSON.stringify(text.slice(0, 120))} was answered with ${got} after ${(performance.now() - begun).toFixed(0)} ms${failure}: ${received.slice(0, 300)}`)
    }
    await soak.pause(random.integer(10, 80))
  }
}
