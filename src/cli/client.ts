/**
 * The gateway's HTTP API as the client commands use it. What can go wrong is a CommandError that names the cure.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { Agent, request, type Dispatcher } from 'undici'
import type { agentView } from '../../plugins/admin/views.ts'
import type { TSchema } from '../options.ts'
import type { Problem } from '../problem.ts'
import { tlsErrorType, tlsReason } from '../tls-reasons.ts'
import { AgentsShape, hasShape, jsonObjectIn, ProblemShape } from './answers.ts'
import { CommandError, legible, type CommandIo } from './io.ts'
import { findTarget, type ClientFlags, type Target } from './target.ts'
import { createConnector } from './trust.ts'

/** What an answer may take. */
export interface AnswerLimits {
  /** Until it begins. */
  readonly headMs: number
  /** Until its end, however steadily it comes. */
  readonly wholeMs: number
  /** Ten thousand agents are some 5 MiB; what is much longer is no gateway's. */
  readonly bytes: number
}

const defaultLimits: AnswerLimits = { headMs: 10_000, wholeMs: 60_000, bytes: 64 * 1024 * 1024 }

/** Of an event stream. */
const mostSilenceMs = 45_000

/** A limit that ends sooner than this is waited for, */
const mostPatienceMs = 15_000
/** at least so long before each further try. */
const leastWaitMs = 100

/** An agent as `GET /agents` tells of it. */
export type AgentView = ReturnType<typeof agentView>

type Method = 'GET' | 'POST' | 'PUT' | 'DELETE'

export interface GatewayAnswer {
  readonly status: number
  readonly body: object
  readonly latencyMs: number
}

/** Nobody answers, or only that it can't be just now, so it is worth another try. */
export class GatewayAwayError extends CommandError {
  /** Whether a gateway says it. */
  readonly isAnswer: boolean
  constructor (message: string, { isAnswer = false } = {}) {
    super(message)
    this.isAnswer = isAnswer
  }
}

/** The gateway says no, for good. */
export class GatewayRefusal extends CommandError {
  /** The problem's (docs/errors.md). */
  readonly code: string
  constructor (message: string, code: string) {
    super(message)
    this.code = code
  }
}

export class GatewayClient {
  readonly target: Target
  readonly #self: string
  readonly #limits: AnswerLimits
  readonly #agent: Agent

  constructor (target: Target, self: string, limits = defaultLimits) {
    this.target = target
    this.#self = self
    this.#limits = limits
    this.#agent = new Agent({ connect: createConnector(target.trust, limits.headMs), headersTimeout: limits.headMs, bodyTimeout: limits.headMs })
  }

  /**
   * The body of a 2xx answer, as it came: what is shown of it has to be made legible().
   * @param shape what every body of this kind has, to tell a gateway's from somebody else's
   * @throws CommandError for every other answer
   */
  async get<Body> (path: string, shape: TSchema): Promise<Body> {
    return this.send<Body>('GET', path, shape)
  }

  /** All agents by name. @throws CommandError when it can't be had */
  async agents (): Promise<Record<string, AgentView>> {
    return this.get<Record<string, AgentView>>('/agents', AgentsShape)
  }

  /** As get(), with another method and a body. */
  async send<Body> (method: Method, path: string, shape: TSchema, body?: unknown): Promise<Body> {
    return this.bodyOf<Body>(await this.ask(method, path, body === undefined ? {} : { body }), shape)
  }

  /** @throws CommandError when the answer is no success, or its body has another shape */
  bodyOf<Body> (answer: GatewayAnswer, shape: TSchema): Body {
    if (answer.status >= 300) throw this.#refusal(answer)
    if (!hasShape(shape, answer.body)) throw this.#stranger(answer.status)
    return answer.body as Body
  }

  /**
   * Any answer that is a JSON object. A rate limit that is over soon is waited for.
   * @param anonymous without the token
   * @throws CommandError when there is none
   */
  async ask (method: Method, path: string, { body, anonymous = false }: { body?: unknown, anonymous?: boolean } = {}): Promise<GatewayAnswer> {
    const { token } = this.target
    const headers = {
      accept: 'application/json',
      ...(body !== undefined && { 'content-type': 'application/json' }),
      ...(token !== undefined && !anonymous && { authorization: `Bearer ${token.token}` })
    }
    let patienceMs = mostPatienceMs
    for (;;) {
      const startMark = performance.now()
      const { statusCode, headers: { 'retry-after': retryAfter }, text } = await this.#exchange(path, { method, headers, ...(body !== undefined && { body: JSON.stringify(body) }) })
      const latencyMs = Math.round((performance.now() - startMark) * 10) / 10
      const waitMs = statusCode === 429 && retryAfter !== undefined ? Math.max(Number(retryAfter) * 1_000, leastWaitMs) : NaN
      patienceMs -= waitMs
      if (patienceMs >= 0) {
        await sleep(waitMs)
        continue
      }
      const answer = jsonObjectIn(text)
      if (answer === undefined) throw this.#stranger(statusCode)
      return { status: statusCode, body: answer, latencyMs }
    }
  }

  async #exchange (path: string, options: { method: Method, headers: Record<string, string>, body?: string }): Promise<Pick<Dispatcher.ResponseData, 'statusCode' | 'headers'> & { text: string }> {
    const { url } = this.target
    try {
      const { statusCode, headers, body } = await request(url + path, { ...options, dispatcher: this.#agent, signal: AbortSignal.timeout(this.#limits.wholeMs) })
      return { statusCode, headers, text: await this.#textOf(body) }
    } catch (error) {
      if (error instanceof CommandError) throw error
      throw this.#unreachable(error as NodeJS.ErrnoException)
    }
  }

  async #textOf (body: AsyncIterable<Buffer>): Promise<string> {
    const chunks: Buffer[] = []
    let bytes = 0
    for await (const chunk of body) {
      bytes += chunk.length
      if (bytes > this.#limits.bytes) throw new CommandError(`What answers at ${this.target.url} is no Fleet Gateway, to go by an answer of more than ${this.#limits.bytes} bytes: correct --url or FLEET_URL`)
      chunks.push(chunk)
    }
    return new TextDecoder().decode(Buffer.concat(chunks))
  }

  #unreachable (error: NodeJS.ErrnoException & { errors?: NodeJS.ErrnoException[] }): CommandError {
    const { url, urlFrom } = this.target
    const where = `${url} (from ${urlFrom})`
    if (error.name === 'TimeoutError') return new GatewayAwayError(`The gateway at ${where} does not finish its answer within ${this.#limits.wholeMs / 1_000} s: see what is between you and it`)
    const code = error.code ?? error.errors?.[0]?.code ?? ''
    if (code === 'ECONNREFUSED') return new GatewayAwayError(`No gateway listens at ${where}: start one with "${this.#self} serve", or name another with --url or FLEET_URL`)
    if (code === 'ENOTFOUND' || code === 'EAI_AGAIN') return new GatewayAwayError(`The host of ${where} has no address: correct --url or FLEET_URL`)
    if (code.includes('TIMEOUT') || code === 'ETIMEDOUT') return new GatewayAwayError(`The gateway at ${where} does not answer within ${this.#limits.headMs / 1_000} s: see whether it runs, and what is between you and it`)
    if (error.name === 'HTTPParserError') return new CommandError(`What listens at ${where} does not speak HTTP: correct the port, or begin the address with https://`)
    if (tlsErrorType(error) === 'tls_certificate_error') return new CommandError(`What listens at ${where} is not trusted: ${tlsReason(error)}. Name its authority with --ca or FLEET_CA_FILE, or the host that its certificate is for`)
    if (code === 'EPROTO' || code.startsWith('ERR_SSL')) return new CommandError(`What listens at ${where} does not speak TLS: begin the address with http://`)
    return new GatewayAwayError(`The gateway at ${where} can't be asked: ${error.message}`)
  }

  #stranger (status: number): CommandError {
    const Kind = status >= 500 ? GatewayAwayError : CommandError
    return new Kind(`What answers at ${this.target.url} is no Fleet Gateway, to go by its answer of status ${status}: correct --url or FLEET_URL`)
  }

  /** What to tell of an answer that is no success. */
  #refusal ({ status, body }: GatewayAnswer): CommandError {
    const { url, token } = this.target
    if (!hasShape(ProblemShape, body)) return this.#stranger(status)
    const { code, detail, title, errors = [], nearest = [] } = legible(body as Problem)
    if (code === 'FLEET_UNAUTHENTICATED') {
      return new CommandError(token === undefined
        ? `The gateway at ${url} asks for a token, and none was found: give it with --secret, FLEET_SECRET or FLEET_SECRET_FILE, or run this beside the gateway's fleet.yaml`
        : `The gateway at ${url} does not take the token from ${token.from}: give the right one with --secret, FLEET_SECRET or FLEET_SECRET_FILE`)
    }
    if (code === 'FLEET_FORBIDDEN') return new CommandError(`${detail}${token === undefined ? '' : ` (the token is from ${token.from})`}`)
    const hint = nearest.length > 0 && !detail.includes(nearest[0]!) ? `; did you mean ${nearest.map(name => `"${name}"`).join(' or ')}?` : ''
    const text = errors.length > 1 ? [`${title}:`, ...errors.map(({ path, message }) => `  ${path} ${message}`)].join('\n') : detail + hint
    return status === 429 || status >= 500 ? new GatewayAwayError(text, { isAnswer: true }) : new GatewayRefusal(text, code)
  }

  /**
   * An open event stream: its text as it comes. A gateway says something every 15 s, so three times that without a word is its end, too.
   * @param lastEventId where an earlier stream ended
   * @throws CommandError when there is none, also later; whatever the signal throws
   */
  async * stream (path: string, lastEventId: string | undefined, signal: AbortSignal): AsyncGenerator<string> {
    const { url, token } = this.target
    const headers = {
      accept: 'text/event-stream',
      ...(lastEventId !== undefined && { 'last-event-id': lastEventId }),
      ...(token !== undefined && { authorization: `Bearer ${token.token}` })
    }
    try {
      const { statusCode, headers: { 'content-type': type }, body } = await request(url + path, { headers, dispatcher: this.#agent, signal, bodyTimeout: mostSilenceMs })
      if (statusCode !== 200 || !String(type).startsWith('text/event-stream')) {
        const answer = jsonObjectIn(await this.#textOf(body))
        if (answer === undefined || statusCode < 300) throw this.#stranger(statusCode)
        throw this.#refusal({ status: statusCode, body: answer, latencyMs: 0 })
      }
      yield '' // it is open
      const decoder = new TextDecoder()
      for await (const chunk of body as AsyncIterable<Buffer>) yield decoder.decode(chunk, { stream: true })
    } catch (error) {
      if (error instanceof CommandError || signal.aborted) throw error
      throw this.#unreachable(error as NodeJS.ErrnoException)
    }
  }

  /** Ends the connections, so that the process can end. */
  async close (): Promise<void> {
    await this.#agent.destroy()
  }
}

/** Runs `use` with a client for the gateway that the flags mean. */
export async function withClient<T> (flags: ClientFlags, io: CommandIo, use: (client: GatewayClient) => Promise<T>): Promise<T> {
  const client = new GatewayClient(await findTarget(flags, io), io.self)
  try {
    return await use(client)
  } finally {
    await client.close()
  }
}
