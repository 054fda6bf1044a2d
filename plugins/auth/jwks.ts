/**
 * The public keys of who signs tokens (a JWK Set, RFC 7517), from a file or from an address. Fetched keys count for a while, are fetched anew
 * before that is over, and once more when a token names one that is not known; never more often than the cooldown allows, whatever tokens say.
 */
import { createPublicKey, type JsonWebKey } from 'node:crypto'
import { isDeepStrictEqual } from 'node:util'
import { Agent, request } from 'undici'
import type { CryptoKey, JSONWebKeySet, JWTHeaderParameters } from 'jose'
import type { Clock } from '../../src/clock.ts'
import { loopbackHost } from '../../src/loopback.ts'
import { readBounded, shownPath } from '../../src/token-file.ts'

/** Finds the key that a token's head names. @throws jose's errors */
type FindKey = (header: JWTHeaderParameters) => Promise<CryptoKey>

/** A key, and which keys it is one of: there may be others before it has verified anything. */
interface Found {
  readonly key: CryptoKey
  readonly generation: number
}

/** Where keys come from. */
export interface KeySource {
  /** Grows when the keys are others than before: what was verified with those has to be verified again. */
  readonly generation: number
  /** Whether what is known counts now, so that what was verified with it does as well. Has keys that grow old fetched, without waiting. */
  isFresh (): boolean
  /** Finds the key that a token's head names. @throws jose's errors, and KeysUnavailable */
  find (header: JWTHeaderParameters): Promise<Found>
  /** Fetches in advance, so that the first request needs not wait and a mistake shows in the log. */
  warm (): void
  close (): void
}

/** Where the keys are can't be asked now, so nobody knows whether the token is good. */
export class KeysUnavailable extends Error {
  /** Sooner it is not tried again. */
  readonly retryAfterMs: number
  constructor (retryAfterMs: number) {
    super('The issuer\'s keys are not available')
    this.retryAfterMs = retryAfterMs
  }
}

/** Told to operators. */
export interface KeyLog {
  info (text: string): void
  warn (text: string): void
}

/** No set is any longer: an issuer has a handful of keys. */
const mostBytes = 256 * 1024
/** One fetch takes no longer, connection and all. */
const mostFetchMs = 5_000
/** After a fetch that failed the next one waits so long, or as long as the cooldown when that is shorter. */
const mostPauseMs = 5_000
/** So many tokens wait for keys; with more nobody waits, so that who sends them to a server that hangs can't fill the memory. */
const mostWaiting = 1_000
/** When to come again who can't wait. */
const fullPauseMs = 1_000

const josesLocal = async () => (await import('jose/jwks/local')).createLocalJWKSet

/** What is wrong with an address for keys; undefined when nothing is. */
export function jwksUrlProblem (text: string): string | undefined {
  if (!URL.canParse(text)) return 'must be a URL such as "https://login.example.com/jwks.json"'
  const url = new URL(text)
  if (url.username !== '' || url.password !== '') return 'must not hold a name or a password'
  if (url.protocol === 'https:' || (url.protocol === 'http:' && loopbackHost.test(url.hostname))) return undefined
  return 'must be https, or http on loopback: who can change the keys on their way can sign tokens'
}

/** Keys of a file. @throws Error that says what is wrong with it, and never quotes it */
export function keysOfFile (path: string, read: (path: string, mostBytes: number) => string = readBounded): KeySource {
  const set = readSet(path, read)
  let resolver: Promise<FindKey> | undefined
  return {
    generation: 0,
    isFresh: () => true,
    find: async header => ({ key: await (await (resolver ??= josesLocal().then(create => create(set))))(header), generation: 0 }),
    warm () {},
    close () {}
  }
}

function readSet (path: string, read: (path: string, mostBytes: number) => string): JSONWebKeySet {
  let text: string
  try {
    text = read(path, mostBytes)
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    throw new Error(code === undefined ? `${message}${shownPath(path)}` : `can not be read: ${code}${shownPath(path)}`, { cause: error })
  }
  const keys = keysIn(text)
  if (keys === undefined) throw new Error(`must hold a JWK Set: {"keys": […]}${shownPath(path)}`)
  if (!keys.every(isPublicKey)) throw new Error(`must hold public keys alone (RSA, EC or OKP)${shownPath(path)}`)
  return { keys } as JSONWebKeySet
}

function keysIn (text: string): object[] | undefined {
  try {
    const { keys } = JSON.parse(text) as { keys?: unknown }
    return Array.isArray(keys) && keys.length > 0 && keys.every(key => typeof key === 'object' && key !== null) ? keys as object[] : undefined
  } catch {
    return undefined
  }
}

function isPublicKey (key: object): boolean {
  if ('d' in key || 'k' in key) return false
  try {
    createPublicKey({ key: key as JsonWebKey, format: 'jwk' })
    return true
  } catch {
    return false
  }
}

/** What is asked for, and how long its answer counts. */
export interface RemoteKeysOptions {
  readonly url: string
  readonly maxAgeMs: number
  readonly cooldownMs: number
}

/** Keys of an address. */
export class RemoteKeys implements KeySource {
  readonly #options: RemoteKeysOptions
  readonly #clock: Clock
  readonly #log: KeyLog
  readonly #closing = new AbortController()
  #set: JSONWebKeySet | null = null
  #find: FindKey | null = null
  #fetchedAt = -Infinity
  #failedAt = -Infinity
  #isFailing = false
  #pending: Promise<void> | null = null
  #waiting = 0
  generation = 0

  constructor (options: RemoteKeysOptions, clock: Clock, log: KeyLog) {
    this.#options = options
    this.#clock = clock
    this.#log = log
  }

  isFresh (): boolean {
    const age = this.#clock.now() - this.#fetchedAt
    if (age >= this.#options.maxAgeMs) return false
    if (age >= this.#options.maxAgeMs / 2 && this.#pauseMs() <= 0) this.warm()
    return true
  }

  async find (header: JWTHeaderParameters): Promise<Found> {
    if (!this.isFresh()) await this.#fetchAgain()
    try {
      return await this.#findNow(header)
    } catch (error) {
      const isUnknown = (error as { code?: unknown }).code === 'ERR_JWKS_NO_MATCHING_KEY'
      if (!isUnknown || this.#clock.now() - this.#fetchedAt < this.#options.cooldownMs) throw error
      await this.#fetchAgain()
      return await this.#findNow(header)
    }
  }

  async #findNow (header: JWTHeaderParameters): Promise<Found> {
    const { generation } = this
    return { key: await this.#find!(header), generation }
  }

  warm (): void {
    this.#fetchAgain().catch(() => {}) // the log has it
  }

  close (): void {
    this.#closing.abort()
  }

  /** How long to wait after a failure. */
  #pauseMs (): number {
    return this.#failedAt + Math.min(this.#options.cooldownMs, mostPauseMs) - this.#clock.now()
  }

  /** Everybody who waits for keys waits for the same answer. @throws KeysUnavailable */
  async #fetchAgain (): Promise<void> {
    const pauseMs = this.#pauseMs()
    if (this.#pending === null && pauseMs > 0) throw new KeysUnavailable(pauseMs)
    if (this.#waiting >= mostWaiting) throw new KeysUnavailable(fullPauseMs)
    this.#pending ??= this.#fetch().finally(() => { this.#pending = null })
    this.#waiting++
    try {
      await this.#pending
    } finally {
      this.#waiting--
    }
  }

  async #fetch (): Promise<void> {
    const { url } = this.#options
    try {
      const [set, createLocal] = await Promise.all([fetchSet(url, this.#closing.signal), josesLocal()])
      if (!isDeepStrictEqual(set, this.#set)) {
        this.#find = createLocal(set)
        this.#set = set
        this.generation++
      }
      this.#fetchedAt = this.#clock.now()
      this.#failedAt = -Infinity
    } catch (error) {
      this.#failedAt = this.#clock.now()
      if (!this.#isFailing && !this.#closing.signal.aborted) this.#log.warn(`The keys of auth.jwt can not be fetched from ${url}: ${reasonOf(error as Error)}. Those that are known count until they are too old`)
      this.#isFailing = true
      throw new KeysUnavailable(this.#pauseMs())
    }
    if (this.#isFailing) this.#log.info(`The keys of auth.jwt are fetched from ${url} again`)
    this.#isFailing = false
  }
}

/** A connection of its own each time: it is rare, and nothing stays open. Redirects are not followed, and certificates are verified whatever the environment says. */
async function fetchSet (url: string, closing: AbortSignal): Promise<JSONWebKeySet> {
  const agent = new Agent({ maxResponseSize: mostBytes, connect: { rejectUnauthorized: true } })
  // By a timer of our own: of AbortSignal.any() with AbortSignal.timeout() Node 20 may collect the latter before it has come.
  const ending = new AbortController()
  const end = () => ending.abort(closing.reason)
  closing.addEventListener('abort', end, { once: true })
  const timer = setTimeout(() => ending.abort(new DOMException('', 'TimeoutError')), mostFetchMs)
  try {
    closing.throwIfAborted()
    const { statusCode, body } = await request(url, { dispatcher: agent, signal: ending.signal, headers: { accept: 'application/jwk-set+json, application/json' } })
    const text = await body.text()
    if (statusCode !== 200) throw new Error(`it answers ${statusCode}`)
    const keys = keysIn(text)
    if (keys === undefined) throw new Error('it answers no JWK Set')
    return { keys } as JSONWebKeySet
  } finally {
    clearTimeout(timer)
    closing.removeEventListener('abort', end)
    await agent.destroy()
  }
}

function reasonOf (error: Error & { code?: string }): string {
  if (error.name === 'TimeoutError') return `there is no whole answer in ${mostFetchMs / 1_000} s`
  if (error.code === 'UND_ERR_RES_EXCEEDED_MAX_SIZE') return `it answers more than ${mostBytes / 1024} KiB`
  return error.code ?? error.message
}
