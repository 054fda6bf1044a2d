/** The id of a request, which its answer, its agent and the audit log have. */
import { randomUUID } from 'node:crypto'

const sane = /^[A-Za-z0-9._~+/=:-]{1,128}$/

/** The client's request id when it is safe in headers and logs, else a new UUID. */
export function requestIdOf (header: string | string[] | undefined): string {
  return typeof header === 'string' && sane.test(header) ? header : randomUUID()
}
