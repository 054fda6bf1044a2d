/** What revoked.json is like. Entry by entry, since it may be damaged or edited by hand: a bad one must not take the others with it. */
import { revocationOf, type Revocation } from './revoked-tokens.ts'

/** What of the file counts. */
export interface KeptTokens {
  readonly revocations: readonly Revocation[]
  /** Places of the entries that are none. */
  readonly skipped: readonly string[]
}

/** As it is written. */
export function keptForm (revocations: Iterable<Revocation>): object {
  return { version: 1, revoked: Array.from(revocations, ({ digest, id, at }) => ({ sha256: digest, id, at: new Date(at).toISOString() })) }
}

/** @throws Error when the whole is not of the form */
export function readKept (text: string): KeptTokens {
  const whole = JSON.parse(text) as { version?: unknown, revoked?: unknown } | null
  if (whole?.version !== 1) throw new Error('unknown version')
  if (!Array.isArray(whole.revoked)) throw new Error('no list of revoked keys')
  const revocations: Revocation[] = []
  const skipped: string[] = []
  for (const [index, entry] of whole.revoked.entries()) {
    const { sha256, id, at } = Object(entry) as { sha256?: unknown, id?: unknown, at?: unknown }
    const revocation = revocationOf(sha256, id, typeof at === 'string' ? Date.parse(at) : NaN)
    if (revocation === undefined) skipped.push(`revoked[${index}]`)
    else revocations.push(revocation)
  }
  return { revocations, skipped }
}
