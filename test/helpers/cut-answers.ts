/**
 * Every way an agent can close its connection in the middle of an answer: each answer below, cut at each byte, with FIN and with RST, under
 * GET and POST, on a connection that is new and on one that was used before; and what the client must get (CONTRACT sections 2 and 3).
 */
import type { ListeningGateway } from './build-gateway.ts'
import type { ScriptedAgent } from './scripted-agent.ts'
import { askStrictly } from './strict-client.ts'

export interface CutAnswer {
  readonly name: string
  readonly bytes: string
  /** Bytes up to the end of the final head. */
  readonly headLength: number
  /** Bytes up to the end of an interim answer that the client gets too. */
  readonly interimLength: number
  /** Its end is the end of the connection. */
  readonly untilClose: boolean
  readonly body: string
}

export interface CutCase {
  readonly answer: CutAnswer
  /** Bytes that are sent before the connection is closed. */
  readonly position: number
  readonly close: 'FIN' | 'RST'
  readonly method: 'GET' | 'POST'
  readonly reused: boolean
}

function answer (name: string, head: string, rest: string, body: string, { interim = '', untilClose = false } = {}): CutAnswer {
  const whole = interim + head
  return { name, bytes: whole + rest, headLength: whole.length, interimLength: interim.length, untilClose, body }
}

export const cutAnswers: readonly CutAnswer[] = [
  answer('a length', 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n', 'hello', 'hello'),
  answer('a length, its connection not kept', 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n', 'hello', 'hello'),
  answer('chunks with trailers', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n', '3\r\nhel\r\n2\r\nlo\r\n0\r\nX-Sum: 5\r\n\r\n', 'hello'),
  answer('chunks, their connection not kept', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n', '3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n', 'hello'),
  answer('no body', 'HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n', '', ''),
  answer('an event stream', 'HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n', 'a\r\ndata: one\n\r\n1\r\n\n\r\n0\r\n\r\n', 'data: one\n\n'),
  answer('until the connection closes', 'HTTP/1.1 200 OK\r\nX-A: b\r\n\r\n', 'hello', 'hello', { untilClose: true }),
  answer('hints before it', 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n', 'hello', 'hello', { interim: 'HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n' })
]

/** All of them. */
export function * cutCases (): Generator<CutCase> {
  for (const one of cutAnswers) {
    for (let position = 0; position <= one.bytes.length; position++) {
      for (const close of ['FIN', 'RST'] as const) {
        for (const method of ['GET', 'POST'] as const) {
          yield { answer: one, position, close, method, reused: false }
          yield { answer: one, position, close, method, reused: true }
        }
      }
    }
  }
}

type Expected = 'whole' | 'cut' | 'elsewhere' | 502

/** What the client gets: the answer whole, cut off, the other instance's, or the gateway's 502. */
function expectedOf ({ answer, position, close, method }: CutCase): Expected {
  const { headLength, interimLength, untilClose, bytes } = answer
  if (position < headLength) {
    const clientHasBytes = interimLength > 0 && position >= interimLength
    return method === 'GET' && !clientHasBytes ? 'elsewhere' : 502
  }
  if (untilClose) return close === 'FIN' ? 'whole' : 'cut'
  return position === bytes.length ? 'whole' : 'cut'
}

/** Sends one request whose answer is cut, and says what is wrong; null when nothing is. */
export async function tryCut (gateway: ListeningGateway, agent: string, one: CutCase, faulty: ScriptedAgent, other: ScriptedAgent, id: string): Promise<string | null> {
  const { answer, position, close, method, reused } = one
  const what = `${answer.name}, ${method}, cut at ${position} of ${answer.bytes.length} with ${close}, on a ${reused ? 'used' : 'new'} connection`
  if (reused) {
    const { answer: warm } = await askStrictly(gateway.port, 'GET', `GET /api/${agent}/warm HTTP/1.1\r\nHost: localhost\r\n\r\n`)
    if (warm?.body !== 'warm') return `${what}: no connection to use again`
  }
  const target = `/api/${agent}/${cutAnswers.indexOf(answer)}/${position}/${close}`
  const body = method === 'POST' ? 'Content-Length: 4\r\n\r\nbody' : '\r\n'
  const got = await askStrictly(gateway.port, method, `${method} ${target} HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: ${id}\r\n${body}`)

  const expected = expectedOf(one)
  const found = got.violation ?? nameOf(got, answer, position)
  // A used connection that ends before any byte of an answer is replayed once, and then it has had its two attempts.
  const most = method === 'POST' ? 1 : reused && position === 0 ? 3 : 2
  const times = (faulty.arrivals.get(id) ?? 0) + (other.arrivals.get(id) ?? 0)
  if (found !== expected) return `${what}: ${found} instead of ${expected}`
  return times > most ? `${what}: sent ${times} times` : null
}

function nameOf ({ answer: got, cut }: Awaited<ReturnType<typeof askStrictly>>, { headLength, bytes, body, untilClose }: CutAnswer, position: number): string | number {
  if (got === null) return cut === null || body.startsWith(cut.body) ? 'cut' : `cut after ${JSON.stringify(cut.body)}`
  if (got.status === 502) return 502
  if (got.body === 'elsewhere') return 'elsewhere'
  const wanted = untilClose ? bytes.slice(headLength, position) : body
  return got.body === wanted ? 'whole' : `${got.status} ${JSON.stringify(got.body)}`
}

/** What the faulty instance does with a target as tryCut() sends it. */
export function cutOf (target: string): { bytes: string, close: string } | undefined {
  const [, index, position, close = ''] = target.split('/')
  const answer = cutAnswers[Number(index)]
  return answer && { bytes: answer.bytes.slice(0, Number(position)), close }
}
