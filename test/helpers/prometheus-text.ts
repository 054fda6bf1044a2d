/**
 * Reads Prometheus's text (version 0.0.4) more strictly than Prometheus does: what it puts up with, and what is legal and misleading, is an
 * error here. Says what metrics and series there are.
 */

export interface Series {
  /** As it stands: with `_bucket`, `_sum` or `_count`. */
  readonly name: string
  readonly labels: ReadonlyMap<string, string>
  readonly value: number
}

export interface MetricFamily {
  readonly name: string
  readonly help: string
  readonly type: string
  readonly series: Series[]
}

const nameForm = /^[a-zA-Z_:][a-zA-Z0-9_:]*$/
const sampleForm = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$/
const labelForm = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"(,|$)/y
const numberForm = /^(?:[+-]?Inf|NaN|-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)$/

/** @throws with the line that is wrong */
export function parsePrometheusText (text: string): Map<string, MetricFamily> {
  if (!text.endsWith('\n')) throw new Error('The last line does not end')
  const families = new Map<string, MetricFamily>()
  let current: MetricFamily | null = null
  let help: { name: string, help: string } | null = null
  for (const [index, line] of text.slice(0, -1).split('\n').entries()) {
    const wrong = (what: string) => new Error(`line ${index + 1}: ${what}: ${line}`)
    if (line === '') continue
    if (line.startsWith('# HELP ')) {
      const [, name = '', words = ''] = /^# HELP (\S+) (.+)$/.exec(line) ?? []
      if (!nameForm.test(name) || /\\(?![\\n])/.test(words)) throw wrong('no help')
      help = { name, help: words }
    } else if (line.startsWith('# TYPE ')) {
      const [, name = '', type = ''] = /^# TYPE (\S+) (counter|gauge|histogram|summary|untyped)$/.exec(line) ?? []
      if (help === null || name !== help.name) throw wrong('a type without help')
      if (families.has(name)) throw wrong('a metric for the second time')
      if (type === 'counter' && !name.endsWith('_total')) throw wrong('a counter that is no total')
      families.set(name, current = { ...help, type, series: [] })
      help = null
    } else if (line.startsWith('#')) {
      throw wrong('an unknown comment')
    } else {
      const [, name = '', labelText = '', number = ''] = sampleForm.exec(line) ?? []
      if (current === null || help !== null || !belongs(name, current)) throw wrong('a series that belongs to no metric')
      if (!numberForm.test(number)) throw wrong('no number')
      const labels = parseLabels(labelText)
      if (labels === null) throw wrong('no labels')
      current.series.push({ name, labels, value: Number(number.replace('Inf', 'Infinity')) })
    }
  }
  for (const family of families.values()) checkFamily(family)
  return families
}

function belongs (name: string, { name: family, type }: MetricFamily): boolean {
  return type === 'histogram' ? [`${family}_bucket`, `${family}_sum`, `${family}_count`].includes(name) : name === family
}

function parseLabels (text: string): Map<string, string> | null {
  const labels = new Map<string, string>()
  labelForm.lastIndex = 0
  while (labelForm.lastIndex < text.length) {
    const [whole, name = '', value = ''] = labelForm.exec(text) ?? []
    if (whole === undefined || labels.has(name) || name.startsWith('__')) return null
    labels.set(name, value.replaceAll(/\\(.)/g, (_, character) => character === 'n' ? '\n' : character as string))
  }
  return text.endsWith(',') ? null : labels
}

function checkFamily ({ name, type, series }: MetricFamily): void {
  const keys = series.map(keyOf)
  const seen = new Set<string>()
  for (const key of keys) {
    if (seen.has(key)) throw new Error(`${name} has a series twice: ${key}`)
    seen.add(key)
  }
  if (type !== 'gauge') for (const one of series) if (!(one.value >= 0)) throw new Error(`${name} counts down: ${keyOf(one)} ${one.value}`)
  if (type === 'histogram') checkHistogram(name, series)
}

/** Buckets in their order, each at least what the one before is, the last as many as there are. */
function checkHistogram (name: string, series: readonly Series[]): void {
  const groups = new Map<string, { les: number[], values: number[], sum?: number, count?: number }>()
  for (const { name: own, labels, value } of series) {
    const key = labelKey([...labels].filter(([label]) => label !== 'le'))
    const group = groups.get(key) ?? { les: [], values: [] }
    groups.set(key, group)
    if (own.endsWith('_sum')) group.sum = value
    else if (own.endsWith('_count')) group.count = value
    else {
      group.les.push(Number(labels.get('le')?.replace('Inf', 'Infinity')))
      group.values.push(value)
    }
  }
  for (const [key, { les, values, sum, count }] of groups) {
    const rises = (list: readonly number[], least: number) => list.every((value, index) => index === 0 || value - list[index - 1]! >= least)
    if (sum === undefined || count === undefined || les.at(-1) !== Infinity || values.at(-1) !== count) throw new Error(`${name} is not complete: ${key}`)
    if (!rises(les, Number.MIN_VALUE) || !rises(values, 0)) throw new Error(`${name} does not rise: ${key}`)
  }
}

function keyOf ({ name, labels }: Series): string {
  return `${name}{${labelKey([...labels])}}`
}

function labelKey (labels: [string, string][]): string {
  return labels.map(([name, value]) => `${name}=${JSON.stringify(value)}`).sort().join()
}

/** A scrape, to be asked for single values. */
export class Scrape {
  readonly families: Map<string, MetricFamily>

  /** @throws when the text is not strictly right */
  constructor (text: string) {
    this.families = parsePrometheusText(text)
  }

  /** All series of the name that have these labels, perhaps among others. */
  series (name: string, labels: Readonly<Record<string, string>> = {}): Series[] {
    const family = this.families.get(name) ?? this.families.get(name.replace(/_(bucket|sum|count)$/, ''))
    const wanted = Object.entries(labels)
    return (family?.series ?? []).filter(one => one.name === name && wanted.every(([label, value]) => one.labels.get(label) === value))
  }

  /** Their sum; 0 when there is none. */
  value (name: string, labels: Readonly<Record<string, string>> = {}): number {
    return this.series(name, labels).reduce((sum, { value }) => sum + value, 0)
  }

  /** Different values of a label in all series of the name. */
  values (name: string, label: string): string[] {
    return [...new Set(this.series(name).flatMap(({ labels }) => labels.get(label) ?? []))].sort()
  }
}
