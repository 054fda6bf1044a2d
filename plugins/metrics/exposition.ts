/**
 * Families as Prometheus's text. prom-client writes them, a slice at a time: of a thousand agents there are tens of thousands of lines, and
 * no request shall wait for all of them.
 */
import { setImmediate as nextTurn } from 'node:timers/promises'
import { Registry, type Metric } from 'prom-client'
import type { Family, Sample } from './families.ts'

/** Some two milliseconds' work. */
const sliceLines = 1_000

/** The text of all families, each with a line feed at its end. */
export async function writeFamilies (families: readonly Family[]): Promise<string> {
  const writer = new Registry()
  const parts: string[] = []
  let room = sliceLines
  for (const family of families) {
    let slice: Sample[] = []
    let isFirst = true
    const flush = async () => {
      parts.push(await textOf(writer, family, slice, isFirst))
      isFirst = false
      slice = []
    }
    for (const sample of family.samples) {
      slice.push(sample)
      if (--room > 0) continue
      await flush()
      await nextTurn()
      room = sliceLines
    }
    if (isFirst || slice.length > 0) await flush()
  }
  return parts.join('')
}

/** @param isFirst with what the family is */
async function textOf (writer: Registry, { name, help, type }: Family, values: readonly Sample[], isFirst: boolean): Promise<string> {
  const metric = { name, help, type, get: async () => ({ name, help, type, values }) }
  writer.registerMetric(metric as unknown as Metric)
  const text = await writer.getSingleMetricAsString(name)
  writer.removeSingleMetric(name)
  return `${isFirst ? text : withoutHead(text)}\n`
}

/** Without the two lines that tell name, help and type. */
function withoutHead (text: string): string {
  return text.slice(text.indexOf('\n', text.indexOf('\n') + 1) + 1)
}
