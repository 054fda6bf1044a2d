/**
 * `fleet-gateway onboard --scan`: asks whoever listens on loopback what it is. A stranger is asked: each question is one GET without a token,
 * without following where it leads, bounded in time and size, and whatever it answers is only data.
 */
import { Agent, request } from 'undici'
import { authorityOf } from '../fleet/authority.ts'
import type { Listener } from './scan-listeners.ts'
import { proposeNames, type ProposedName } from './scan-names.ts'

/** What an exchange may take. */
interface ScanLimits {
  /** Of one exchange, from the connection to the end of the answer. */
  readonly exchangeMs: number
  /** Of the body of one answer; what is longer counts as not there. */
  readonly bytes: number
  /** Servers that are asked at the same time. */
  readonly atOnce: number
}

const defaultLimits: ScanLimits = { exchangeMs: 2_000, bytes: 2 * 1024 * 1024, atOnce: 8 }

/** A server of HTTP that may become an agent. */
export interface FoundServer extends ProposedNameOf {
  readonly host: string
  readonly port: number
  readonly process?: string
  /** What told something: `/health` when it answered 2xx, and the documents that were of their kind. */
  readonly answers: readonly string[]
  /** For `health.path`, when it answered 2xx. */
  readonly health?: string
}

interface ProposedNameOf {
  readonly name: string
  readonly nameFrom: ProposedName['from']
}

/** Who listens and is no agent to be. */
interface LeftOut {
  readonly host: string
  readonly port: number
  readonly process?: string
  readonly why: string
}

export interface Scan {
  readonly found: FoundServer[]
  readonly leftOut: LeftOut[]
}

const healthPath = '/health'
const cardPath = '/.well-known/agent-card.json'
const openApiPath = '/openapi.json'

interface Answer {
  readonly status: number
  /** What the body is when it is JSON of a bounded length; else undefined. */
  readonly json: unknown
}

/** What a server told of itself, not yet named. */
interface Described {
  readonly host: string
  readonly port: number
  readonly process?: string
  readonly answers: string[]
  readonly card?: string
  readonly title?: string
}

/**
 * Asks each listener, by port.
 * @param taken names that the servers must not get
 */
export async function scan (listeners: readonly Listener[], taken: Iterable<string> = [], limits = defaultLimits): Promise<Scan> {
  const agent = new Agent({ connect: { timeout: limits.exchangeMs }, headersTimeout: limits.exchangeMs, bodyTimeout: limits.exchangeMs, maxHeaderSize: 16 * 1024, pipelining: 0 })
  const outcomes: (Described | LeftOut | undefined)[] = []
  try {
    const queue = listeners.entries()
    await Promise.all(Array.from({ length: limits.atOnce }, async () => {
      for (const [index, listener] of queue) outcomes[index] = await describe(listener, agent, limits)
    }))
  } finally {
    await agent.destroy()
  }
  const described = outcomes.filter(outcome => outcome !== undefined && 'answers' in outcome)
  const names = proposeNames(described, taken)
  return {
    found: described.map(({ host, port, process, answers }, index) => ({
      name: names[index]!.name,
      nameFrom: names[index]!.from,
      host,
      port,
      ...(process !== undefined && { process }),
      answers,
      ...(answers.includes(healthPath) && { health: healthPath })
    })),
    leftOut: outcomes.filter(outcome => outcome !== undefined && 'why' in outcome)
  }
}

/** Undefined when nobody listens after all. */
async function describe ({ port, hosts, process }: Listener, agent: Agent, limits: ScanLimits): Promise<Described | LeftOut | undefined> {
  let refusal: LeftOut | undefined
  for (const host of hosts) {
    const where = { host, port, ...(process !== undefined && { process }) }
    const ask = (path: string) => askFor(`http://${authorityOf(host, port)}${path}`, agent, limits)
    try {
      return await describeAt(where, ask)
    } catch (error) {
      const why = whyNot(error as NodeJS.ErrnoException)
      if (why !== undefined) refusal ??= { ...where, why }
    }
  }
  return refusal
}

/** @throws what the first exchange failed with */
async function describeAt (where: Pick<Described, 'host' | 'port' | 'process'>, ask: (path: string) => Promise<Answer>): Promise<Described | LeftOut> {
  const health = await ask(healthPath)
  if (typeof health.json === 'object' && health.json !== null && 'gateway' in health.json) return { ...where, why: 'a Fleet Gateway' }
  // Who answered once speaks HTTP, whatever becomes of the rest.
  const card = textAt(await ask(cardPath).catch(() => undefined), 'name')
  const openApi = await ask(openApiPath).catch(() => undefined)
  const title = textAt(openApi, 'info', 'title')
  return {
    ...where,
    answers: [...isGood(health) ? [healthPath] : [], ...card === undefined ? [] : [cardPath], ...title === undefined ? [] : [openApiPath]],
    ...(card !== undefined && { card }),
    ...(title !== undefined && { title })
  }
}

function isGood ({ status }: Answer): boolean {
  return status >= 200 && status < 300
}

/** The text under these keys of a good answer's JSON. */
function textAt (answer: Answer | undefined, ...keys: string[]): string | undefined {
  let value = answer !== undefined && isGood(answer) ? answer.json : undefined
  for (const key of keys) value = typeof value === 'object' && value !== null && Object.hasOwn(value, key) ? (value as Record<string, unknown>)[key] : undefined
  return typeof value === 'string' && value.trim() !== '' ? value : undefined
}

/** @throws what undici throws */
async function askFor (url: string, dispatcher: Agent, { exchangeMs, bytes }: ScanLimits): Promise<Answer> {
  const left = new AbortController()
  const timer = setTimeout(() => left.abort(Object.assign(new Error('no answer in time'), { code: 'ETIMEDOUT' })), exchangeMs)
  try {
    const { statusCode, body } = await request(url, { dispatcher, signal: left.signal, headers: { accept: 'application/json', connection: 'close' } })
    return { status: statusCode, json: await jsonOf(body, bytes).catch(() => undefined) }
  } finally {
    clearTimeout(timer)
    left.abort() // of an answer that was too long the rest is not wanted
  }
}

async function jsonOf (body: AsyncIterable<Buffer>, most: number): Promise<unknown> {
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of body) {
    bytes += chunk.length
    if (bytes > most) return undefined
    chunks.push(chunk)
  }
  return JSON.parse(Buffer.concat(chunks).toString())
}

/** What to tell of a listener that could not be asked; undefined when there is none. */
function whyNot ({ code = '', name, message }: NodeJS.ErrnoException): string | undefined {
  if (code === 'ECONNREFUSED' || code === 'EADDRNOTAVAIL' || code === 'EAFNOSUPPORT' || code === 'ENETUNREACH') return undefined
  if (code.includes('TIMEOUT') || code === 'ETIMEDOUT' || name === 'TimeoutError' || name === 'AbortError') return 'no answer in time'
  if (name === 'HTTPParserError' || code === 'UND_ERR_SOCKET' || code === 'ERR_ASSERTION' || code === 'ECONNRESET' || code === 'EPIPE') return 'not HTTP'
  return `not HTTP (${message})`
}
