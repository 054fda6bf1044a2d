/**
 * A finished exchange as one line of JSON, in pino's form. Written by hand, since this runs for every request: the fields are fixed,
 * and only what came from outside can need escaping.
 */
import type { RequestFacts } from '../facts/index.ts'
import { pathOf } from '../../src/request-target.ts'
import { lineJson } from './json.ts'

/** Makes the line of a finished exchange, with its line feed. Keeps what lines of the same second have in common. */
export type LineWriter = (facts: RequestFacts) => string

/** A fresh writer. */
export function createLineWriter (): LineWriter {
  const timestamp = createTimestamp()
  return facts => {
    const { attempts } = facts
    const last = attempts[attempts.length - 1]
    return '{"level":30,"time":"' + timestamp(facts.startedAt) +
      '","request_id":' + quote(facts.id) +
      ',"client":' + quote(facts.clientAddress) +
      ',"key":' + quoteOrNull(facts.keyId) +
      ',"method":' + quote(facts.method) +
      ',"path":' + quote(pathOf(facts.url)) +
      ',"agent":' + quoteOrNull(facts.agent) +
      ',"instance":' + quoteOrNull(last === undefined ? null : last.instanceId) +
      ',"attempts":' + attempts.length +
      ',"status":' + facts.status +
      ',"latency_ms":' + Math.round(facts.durationMs * 1_000) / 1_000 +
      ',"bytes_in":' + facts.bytesReceived +
      ',"bytes_out":' + facts.bytesSent +
      (facts.ending === null || facts.ending === 'complete' ? '' : ',"ending":"' + facts.ending + '"') +
      (facts.code === null ? '' : ',"code":' + quote(facts.code)) +
      '}\n'
  }
}

function quoteOrNull (text: string | null): string {
  return text === null ? 'null' : quote(text)
}

/** Control characters (a terminal obeys C1 ones too), JSON's own, line separators and lone surrogates. */
// eslint-disable-next-line no-control-regex
const unsafe = /[\u0000-\u001f"\\\u007f-\u009f\u2028\u2029\ud800-\udfff]/

function quote (text: string): string {
  if (!unsafe.test(text)) return '"' + text + '"'
  return lineJson(text)
}

/** ISO 8601 with milliseconds; all but those are made once a second. */
function createTimestamp (): (ms: number) => string {
  let second = -1
  let prefix = ''
  return ms => {
    const thisSecond = Math.floor(ms / 1_000)
    if (thisSecond !== second) {
      second = thisSecond
      prefix = new Date(ms).toISOString().slice(0, -4)
    }
    return prefix + String(ms - second * 1_000).padStart(3, '0') + 'Z'
  }
}
