/**
 * The gateway's HTTP API as the client commands use it. What can go wrong is a CommandError that names the cure.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { Agent, request, type Dispatcher } from 'undici'
import type { agentView } from '../../plugins/admin/views.ts'
import type { Problem } from '../problem.ts'
import { CommandError, type CommandIo } from './io.ts'
import { findTarget, type ClientFlags, type Target } from './target.ts'

/** How long the gateway may take to answer. */
const timeoutMs = 10_000

/** A limit that ends sooner than this is waited for, */
const mostPatienceMs = 15_000
/** at least so long before each further try. */
const leastWaitMs = 100

/** An agent as `GET /agents` tells of it. */
export type AgentView = ReturnType<typeof agentView>

type Method = 'GET' | 'POST' | 'PUT' | 'DELETE'

export interface GatewayAnswer<Body> {
  readonly status: number
  readonly body: Body
  readonly latencyMs: number
}

export class GatewayClient {
  readonly target: Target
  readonly #agent = new Agent({ connect: { timeout: timeoutMs }, headersTimeout: timeoutMs, bodyTimeout: timeoutMs })

  readonly #self: string

  constructor (target: Target, self: string) {
    this.target = target
    this.#self = self
  }

  /**
   * The body of a 2xx answer.
   * @param key what every body of this kind has, to tell a gateway's from somebody else's
   * @throws CommandError for every other answer
   */
  async get<Body> (path: string, key?: keyof Body & string): Promise<Body> {
    return this.send<Body>('GET', path, undefined, key)
  }

  /** All agents by name. @throws CommandError when it can't be had */
  async agents (): Promise<Record<string, AgentView>> {
    const agents = await this.get<Record<string, AgentView>>('/agents')
    if (!areAgents(agents)) throw this.#stranger(200)
    return agents
  }

  /** As get(), with another method and a body. */
  async send<Body> (method: Method, path: string, body?: unknown, key?: keyof Body & string): Promise<Body> {
    const answer = await this.ask<Body>(method, path, body === undefined ? {} : { body })
    if (answer.status >= 300) throw this.refusal(answer as GatewayAnswer<Problem>)
    if (key !== undefined && !hasKey(answer.body, key)) throw this.#stranger(answer.status)
    return answer.body
  }

  /**
   * Any answer that is JSON. A rate limit that is over soon is waited for.
   * @param anonymous without the token
   * @throws CommandError when there is none
   */
  async ask<Body> (method: Method, path: string, { body, anonymous = false }: { body?: unknown, anonymous?: boolean } = {}): Promise<GatewayAnswer<Body>> {
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
      return { status: statusCode, body: this.#parse<Body>(text, statusCode), latencyMs }
    }
  }

  async #exchange (path: string, options: { method: Method, headers: Record<string, string>, body?: string }): Promise<Pick<Dispatcher.ResponseData, 'statusCode' | 'headers'> & { text: string }> {
    const { url } = this.target
    try {
      const { statusCode, headers, body } = await request(url + path, { ...options, dispatcher: this.#agent })
      return { statusCode, headers, text: await body.text() }
    } catch (error) {
      throw this.#unreachable(error as NodeJS.ErrnoException)
    }
  }

  #unreachable (error: NodeJS.ErrnoException & { errors?: NodeJS.ErrnoException[] }): CommandError {
    const { url, urlFrom } = this.target
    const code = error.code ?? error.errors?.[0]?.code ?? ''
    const where = `${url} (from ${urlFrom})`
    if (code === 'ECONNREFUSED') return new CommandError(`No gateway listens at ${where}: start one with "${this.#self} serve", or name another with --url or FLEET_URL`)
    if (code === 'ENOTFOUND' || code === 'EAI_AGAIN') return new CommandError(`The host of ${where} has no address: correct --url or FLEET_URL`)
    if (code.includes('TIMEOUT') || code === 'ETIMEDOUT') return new CommandError(`The gateway at ${where} does not answer within ${timeoutMs / 1_000} s: see whether it runs, and what is between you and it`)
    if (error.name === 'HTTPParserError') return new CommandError(`What listens at ${where} does not speak HTTP: correct the port, or begin the address with https://`)
    if (code === 'EPROTO' || code.startsWith('ERR_SSL')) return new CommandError(`What listens at ${where} does not speak TLS: begin the address with http://`)
    return new CommandError(`The gateway at ${where} can't be asked: ${error.message}`)
  }

  #parse<Body> (text: string, status: number): Body {
    try {
      const body: unknown = JSON.parse(text)
      if (typeof body === 'object' && body !== null && !Array.isArray(body)) return body as Body
    } catch {
      // What is no JSON is no gateway's.
    }
    throw this.#stranger(status)
  }

  #stranger (status: number): CommandError {
    return new CommandError(`What answers at ${this.target.url} is no Fleet Gateway, to go by its answer of status ${status}: correct --url or FLEET_URL`)
  }

  /** What to tell of an answer that is no success. */
  refusal ({ status, body }: GatewayAnswer<Problem>): CommandError {
    const { url, token } = this.target
    const { code, detail, title, errors = [], nearest = [] } = body
    if (typeof code !== 'string' || !code.startsWith('FLEET_') || typeof detail !== 'string') return this.#stranger(status)
    if (code === 'FLEET_UNAUTHENTICATED') {
      return new CommandError(token === undefined
        ? `The gateway at ${url} asks for a token, and none was found: give it with --secret, FLEET_SECRET or FLEET_SECRET_FILE, or run this beside the gateway's fleet.yaml`
        : `The gateway at ${url} does not take the token from ${token.from}: give the right one with --secret, FLEET_SECRET or FLEET_SECRET_FILE`)
    }
    if (code === 'FLEET_FORBIDDEN') return new CommandError(`${detail}${token === undefined ? '' : ` (the token is from ${token.from})`}`)
    const hint = nearest.length > 0 && !detail.includes(nearest[0]!) ? `; did you mean ${nearest.map(name => `"${name}"`).join(' or ')}?` : ''
    return new CommandError(errors.length > 1 ? [`${title}:`, ...errors.map(({ path, message }) => `  ${path} ${message}`)].join('\n') : detail + hint)
  }

  /** Ends the connections, so that the process can end. */
  async close (): Promise<void> {
    await this.#agent.destroy()
  }
}

function hasKey (value: unknown, key: string): boolean {
  return typeof value === 'object' && value !== null && key in value
}

function areAgents (value: Record<string, unknown>): boolean {
  return Object.values(value).every(agent => hasKey(agent, 'instances') && hasKey(agent, 'friendly_names') && Array.isArray((agent as AgentView).instances))
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
