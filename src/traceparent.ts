/** W3C Trace Context: what a `traceparent` must look like, to be continued. */

const form = /^(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?$/

/** Whether the value of `traceparent` can be continued. Version 00 has exactly four parts. */
export function isTraceparent (value: string | string[] | undefined): value is string {
  return typeof value === 'string' && form.test(value) && (value.length === 55 || !value.startsWith('00'))
}
