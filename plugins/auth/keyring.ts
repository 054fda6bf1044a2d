/**
 * The tokens that open the gateway, as SHA-256 digests: what is configured is read once, and comparing takes the same time whichever
 * key matches, or none.
 */
import { hash, timingSafeEqual } from 'node:crypto'
import { OptionsError, type OptionError } from '../../src/options.ts'
import { anyone, type Principal } from '../../src/principal.ts'
import { readSmallFile, tokenIn, type ReadFile } from '../../src/token-file.ts'
import { jwtProblems } from './jwt.ts'
import type { AuthOptions, KeyOptions } from './options.ts'

/** A token that opens the gateway, and whose it is. */
interface Entry {
  readonly digest: Buffer
  /** The digest in hexadecimal. */
  readonly name: string
  readonly principal: Principal
}

/** A named key as it is configured. */
export interface ConfiguredKey {
  readonly id: string
  /** SHA-256 of its token, in hexadecimal. */
  readonly digest: string
  readonly principal: Principal
}

export class Keyring {
  readonly #entries: readonly Entry[]

  constructor (entries: readonly Entry[]) {
    this.#entries = entries
  }

  get isEmpty (): boolean {
    return this.#entries.length === 0
  }

  /** The named keys; one with several tokens is there several times. */
  get keys (): ConfiguredKey[] {
    return this.#entries.flatMap(({ name, principal }) => principal.id === null ? [] : { id: principal.id, digest: name, principal })
  }

  /** Whether a key is limited to agents of which this is one, and the principal to others. */
  isOthers (name: string, { agents }: Principal): boolean {
    if (agents === '*' || agents.includes(name)) return false
    return this.#entries.some(({ principal }) => principal.agents !== '*' && principal.agents.includes(name))
  }

  /** The key with this id; the latest when it has several tokens. */
  keyed (id: string): Principal | undefined {
    return this.#entries.findLast(({ principal }) => principal.id === id)?.principal
  }

  /** Whose tokens these are; null for the shared secret. */
  idsOf (isMeant: (digest: string) => boolean): (string | null)[] {
    return this.#entries.filter(({ name }) => isMeant(name)).map(({ principal }) => principal.id)
  }

  /** The same without the tokens of these digests; this one itself when it has none of them. */
  without (isRevoked: (digest: string) => boolean): Keyring {
    const left = this.#entries.filter(({ name }) => !isRevoked(name))
    return left.length === this.#entries.length ? this : new Keyring(left)
  }

  /** Who the token belongs to, or null. Takes the same time whichever it is. */
  find (token: string): Principal | null {
    const digest = digestOf(token)
    let found: Principal | null = null
    for (const entry of this.#entries) {
      if (timingSafeEqual(entry.digest, digest)) found = entry.principal
    }
    return found
  }
}

/**
 * Reads what is configured.
 * @param mayBeEmpty no secret and no key is no mistake: nobody is let in
 * @param readFile for `secretFile` and `tokenFile`
 * @throws OptionsError naming every option that is missing, unreadable or ambiguous; those of `jwt` among them
 */
export function readKeyring (options: AuthOptions, mayBeEmpty = false, readFile: ReadFile = readSmallFile): Keyring {
  const errors: OptionError[] = options.jwt === undefined ? [] : [...jwtProblems(options.jwt)]
  const entries: Entry[] = []
  const places = new Map<string, string>()

  function add (path: string, digest: Buffer, principal: Principal): void {
    const name = digest.toString('hex')
    const place = places.get(name)
    if (place !== undefined) errors.push({ path, message: `is the same as ${place}`, at: 'value' })
    places.set(name, path)
    entries.push({ digest, name, principal })
  }

  function addToken (path: string, read: () => string, principal: Principal): void {
    try {
      add(path, digestOf(read()), principal)
    } catch (error) {
      errors.push({ path, message: (error as Error).message, at: 'value' })
    }
  }

  const { secret, secretFile, keys } = options
  if (secret !== undefined) addToken('secret', () => secret, anyone)
  else if (secretFile !== undefined) addToken('secretFile', () => tokenIn(secretFile, readFile), anyone)
  for (const [index, key] of keys.entries()) {
    const path = `keys[${index}]`
    const principal = principalOf(key)
    const { token, tokenFile, tokenSha256 } = key
    if ([token, tokenFile, tokenSha256].filter(given => given !== undefined).length !== 1) {
      errors.push({ path, message: 'must have one of token, tokenFile and tokenSha256', at: 'key' })
    } else if (token !== undefined) addToken(`${path}.token`, () => token, principal)
    else if (tokenFile !== undefined) addToken(`${path}.tokenFile`, () => tokenIn(tokenFile, readFile), principal)
    else add(`${path}.tokenSha256`, Buffer.from(tokenSha256!, 'hex'), principal)
  }
  if (entries.length === 0 && errors.length === 0 && options.jwt === undefined && !mayBeEmpty) {
    errors.push({ path: '', message: 'needs a secret, a secretFile, keys or jwt while it is enabled', at: 'key' })
  }
  if (errors.length > 0) throw new OptionsError('auth', errors)
  return new Keyring(entries)
}

function digestOf (token: string): Buffer {
  return hash('sha256', token, 'buffer')
}

function principalOf ({ id, scopes, agents, rateLimit }: KeyOptions): Principal {
  return Object.freeze({ id, named: true, scopes, agents: agents === undefined || agents.includes('*') ? '*' : agents, ...(rateLimit && { rateLimit }) })
}
