/** Who signs JWTs in tests: a server of its own for the public keys, which counts its requests and misbehaves when told. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { exportJWK, generateKeyPair, SignJWT, type CryptoKey, type JWK, type JWTHeaderParameters, type JWTPayload } from 'jose'
import type { Test } from 'tap'
import type { JwtInput } from '../../plugins/auth/jwt-options.ts'
import { fakeAgent } from './fake-agent.ts'

/** As fakeClock() begins, in seconds. */
export const startOfTime = 1_700_000_000

interface IssuerKey { readonly kid: string, readonly alg: string, readonly privateKey: CryptoKey, readonly publicKey: CryptoKey, readonly jwk: JWK }

export interface JwtIssuer {
  readonly url: string
  readonly jwt: JwtInput
  /** So many times the keys were asked for. */
  readonly asked: () => number
  /** Published keys; the first signs. */
  readonly keys: IssuerKey[]
  /** Answers instead, until it is null again. */
  misbehave (answer: ((request: IncomingMessage, response: ServerResponse) => void) | null): void
  makeKey (kid: string, alg?: string): Promise<IssuerKey>
  /** A good token, but for what is said here; undefined leaves a claim or a field of the head out. */
  token (claims?: object, header?: { [name in keyof JWTHeaderParameters]?: JWTHeaderParameters[name] | undefined }, key?: IssuerKey): Promise<string>
  stop (): Promise<void>
}

/** @param now seconds since the epoch */
export async function jwtIssuer (t: Test, now: () => number = () => startOfTime): Promise<JwtIssuer> {
  const keys: IssuerKey[] = []
  let count = 0
  let override: ((request: IncomingMessage, response: ServerResponse) => void) | null = null
  const { origin, kill } = await fakeAgent(t, (request, response) => {
    count++
    if (override !== null) return void override(request, response)
    response.setHeader('content-type', 'application/jwk-set+json').end(JSON.stringify({ keys: keys.map(({ jwk }) => jwk) }))
  })

  async function makeKey (kid: string, alg = 'ES256'): Promise<IssuerKey> {
    const { privateKey, publicKey } = await generateKeyPair(alg, { extractable: true })
    return { kid, alg, privateKey, publicKey, jwk: { ...await exportJWK(publicKey), kid, alg, use: 'sig' } }
  }
  keys.push(await makeKey('first'))
  const url = `${origin}/jwks.json`
  return {
    url,
    jwt: { issuer: 'https://issuer.example', audience: 'fleet', jwksUrl: url },
    asked: () => count,
    keys,
    misbehave (answer) { override = answer },
    makeKey,
    async token (claims = {}, header = {}, key = keys[0]!) {
      const payload = { iss: 'https://issuer.example', aud: 'fleet', sub: 'someone', iat: now(), exp: now() + 300, scope: 'read proxy', agents: ['*'], ...claims }
      return await new SignJWT(withoutUndefined(payload) as JWTPayload).setProtectedHeader(withoutUndefined({ alg: key.alg, kid: key.kid, typ: 'at+jwt', ...header }) as JWTHeaderParameters).sign(key.privateKey)
    },
    stop: kill
  }
}

function withoutUndefined<T extends object> (object: T): T {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined)) as T
}

/** A token of any head and claims, signed with anything or nothing. */
export function handmade (header: object, claims: object, signature = 'AAAA'): string {
  return [JSON.stringify(header), JSON.stringify(claims)].map(text => Buffer.from(text).toString('base64url')).join('.') + `.${signature}`
}
