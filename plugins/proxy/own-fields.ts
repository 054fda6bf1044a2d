/**
 * The gateway's own fields for an agent (`headers` in fleet.yaml): they stand in the place of what the client sent under the same name, so that
 * nobody can put credentials of their own beside them.
 */
import { headerKey } from '../../src/agent-headers.ts'

export interface OwnFields {
  /** Flat list of names and values. */
  readonly fields: readonly string[]
  /** Their names as headerKey() has them. */
  readonly keys: ReadonlySet<string>
}

/** @param fields flat list of names and values; undefined for none */
export function ownFields (fields: readonly string[] | undefined): OwnFields | null {
  return fields === undefined ? null : { fields, keys: new Set(fields.filter((_, index) => index % 2 === 0).map(headerKey)) }
}

/** The client's fields without those that the gateway has for itself. @param fields flat; of the head or of trailers */
export function withoutOwn (fields: readonly string[], { keys }: OwnFields): string[] {
  const kept: string[] = []
  for (let index = 0; index < fields.length; index += 2) {
    if (!keys.has(headerKey(fields[index]!))) kept.push(fields[index]!, fields[index + 1]!)
  }
  return kept
}

/** A head with the gateway's own fields in it. */
export function withOwn (fields: readonly string[], own: OwnFields): string[] {
  return [...withoutOwn(fields, own), ...own.fields]
}
