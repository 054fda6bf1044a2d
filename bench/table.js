/** Results as tables: for the terminal and, in the same words, for docs/benchmarks.md. Pure, so that test/bench.test.ts can check it. */
import { countNotPositive, pairRatio, summary } from './figures.js'

/** A number with thousands set apart. */
export function number (value, digits) {
  return value.toLocaleString('en', { minimumFractionDigits: digits, maximumFractionDigits: digits })
}

const spread = ({ min, max, count }, digits) => count < 2 ? '' : ` (${number(min, digits)}–${number(max, digits)})`

/** Median and spread of some numbers; a dash of none. */
export const figureCell = (found, digits) => found === undefined ? '–' : number(found.median, digits) + spread(found, digits)

/** The ratio of one entry to another in a figure, or why there is none. */
export function ratioCell (rounds, baseRounds, key) {
  const { count, of } = countNotPositive(rounds, baseRounds, key)
  return count > 0 ? `no ratio (≤ 0 in ${count} of ${of})` : figureCell(pairRatio(rounds, baseRounds, key), 2)
}

/** What ratios of a scenario are taken against: its own base, else bare, else the first entry that is no pseudo-entry. */
export function baseOf (entries, entry) {
  const named = name => entries.find(other => other.name === name)
  return entry.base === undefined ? named('bare') ?? entries.find(({ isDirect }) => !isDirect) : named(entry.base)
}

/**
 * Head and rows of a scenario's table.
 * @param {{ figures: import('./scenarios.js').Figure[] }} scenario
 * @param {{ name: string, base?: string, rounds: (Record<string, number> | undefined)[] }[]} entries
 * @returns {string[][]} the head first
 */
export function scenarioRows ({ figures }, entries) {
  const shown = figures.filter(({ key }) => entries.some(({ rounds }) => summary(valuesOf(rounds, key)) !== undefined))
  const baseName = entries.every(({ base }) => base === undefined) ? baseOf(entries, {})?.name ?? 'base' : 'base'
  const head = ['', ...shown.flatMap(({ title, compared }) => compared ? [title, `× ${baseName}`] : [title]), 'rounds']
  const rows = entries.map(entry => {
    const valid = entry.rounds.filter(round => round !== undefined).length
    const cells = shown.flatMap(({ key, digits, compared }) => {
      const found = summary(valuesOf(entry.rounds, key))
      const text = found === undefined ? '–' : number(found.median, digits) + (compared ? spread(found, digits) : '')
      if (!compared) return [text]
      const base = baseOf(entries, entry)
      const ratio = base === undefined ? '–' : ratioCell(entry.rounds, base.rounds, key)
      return [text, base?.name === entry.name && /^\d/.test(ratio) ? '1' : ratio]
    })
    return [entry.name, ...cells, valid === entry.rounds.length && valid > 0 ? String(valid) : `${valid} valid of ${entry.rounds.length}`]
  })
  return [head, ...rows]
}

const valuesOf = (rounds, key) => rounds.flatMap(round => round?.[key] === undefined ? [] : [round[key]])

/** Columns under each other, numbers to the right. */
export function textTable (rows) {
  const widths = rows[0].map((_, column) => Math.max(...rows.map(row => row[column].length)))
  return rows.map(row => row.map((cell, column) => column === 0 ? cell.padEnd(widths[column]) : cell.padStart(widths[column])).join('  ').trimEnd()).join('\n')
}

/** The same as Markdown; only columns of figures are set to the right. */
export function markdownTable ([head, ...rows]) {
  const line = cells => `| ${cells.join(' | ')} |`
  const isFigures = column => column > 0 && rows.every(row => /^([≤≥] )?[\d.,–-]/.test(row[column].replace(/^no ratio \(/, '')) && !/[a-z]{3}/i.test(row[column].replace(/valid of|no ratio/, '')))
  return [line(head), `|${head.map((_, column) => isFigures(column) ? '---:' : '---').join('|')}|`, ...rows.map(line)].join('\n')
}
