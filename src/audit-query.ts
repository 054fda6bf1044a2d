/**
 * How statuses and times are written by who asks for finished requests: `GET /audit`, and `fleet-gateway logs`, which looks before it asks.
 */
import { durationMs } from './options.ts'

const statusPattern = /^([1-5])(xx|\d\d)$/i
/** A date, or a date and a time with its zone. */
const isoPattern = /^\d{4}-\d\d-\d\d(?:T\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:Z|[+-]\d\d:\d\d))?$/i
/** Of an entry: the run of the gateway, and its number there. */
export const entryIdPattern = /^([0-9a-f]{12})-(\d{1,15})$/

/** Read by people, behind "It" or a name. */
export const statusesRule = 'must be a status such as 404, a class such as 5xx, or several of them separated by commas'
export const sinceRule = 'must be a time such as 2026-03-01T12:00:00Z, a duration such as 5m, or the id of an entry'

/** Whether a status is among `404`, `5xx`, `429,5xx`; undefined for what is no such list. */
export function statusesIn (text: string): ((status: number) => boolean) | undefined {
  const parts = text.split(',')
  if (parts.length > 100 || !parts.every(part => statusPattern.test(part))) return undefined
  const classes = new Set(parts.filter(part => /x/i.test(part)).map(part => Number(part[0])))
  const single = new Set(parts.map(Number))
  return status => single.has(status) || classes.has(Math.floor(status / 100))
}

/** What `5m` (back from `now`) or `2026-03-01T12:00:00Z` means, in milliseconds since the epoch; undefined for what is neither. */
export function timeIn (text: string, now: number): number | undefined {
  const back = durationMs(text)
  if (!Number.isNaN(back)) return now - back
  const encoded = text.replace(/ (\d\d:\d\d)$/, '+$1') // a "+" that was not encoded in a query
  return isoPattern.test(encoded) && !Number.isNaN(Date.parse(encoded)) ? Date.parse(encoded) : undefined
}
