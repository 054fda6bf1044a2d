/** The account of the soak: what was asked, what came of it, and everything that must not be, with its first few cases. */
import { readFile } from 'node:fs/promises'

/** What must not be, in the order of the table. */
export const columns = {
  failed: 'failed idempotent requests',
  duplicated: 'duplicated non-idempotent requests',
  amplified: 'requests sent more than three times',
  foreign: 'answers that are not their request\'s',
  truncated: 'truncated answers taken for whole',
  broken: 'streams broken without a cause',
  wrong: 'other wrong outcomes'
}

const mostCases = 5

/** @param titles of what must not be @param tell is told of each case of it */
export function createLedger (titles = columns, tell = () => {}) {
  const counts = new Map()
  const faults = Object.fromEntries(Object.keys(titles).map(column => [column, { count: 0, cases: [] }]))
  let ids = 0
  const ledger = {
    counts,
    faults,
    id: kind => `${kind}-${++ids}`,
    count (what, by = 1) { counts.set(what, (counts.get(what) ?? 0) + by) },
    /** The most that there was. */
    most (what, value) { counts.set(what, Math.max(counts.get(what) ?? 0, value)) },
    fault (column, text) {
      faults[column].count++
      tell(`${titles[column]}: ${text}`)
      if (faults[column].cases.length < mostCases) faults[column].cases.push(text)
    },
    /** Prints what was counted and what must not be. @returns what is wrong, a line each */
    table (say) {
      for (const [what, count] of [...counts].sort()) say(`${what.padEnd(44)} ${count.toFixed(0).padStart(10)}`)
      say('')
      const problems = []
      for (const [column, title] of Object.entries(titles)) {
        const { count, cases } = faults[column]
        say(`${title.padEnd(44)} ${String(count).padStart(10)}   must be 0 ${count === 0 ? '' : ' WRONG'}`)
        if (count > 0) problems.push(`${title}: ${count}`, ...cases.map(text => `  ${text}`))
      }
      return problems
    },
    /** Reads what the agents wrote down. */
    async audit (files) {
      const arrivals = new Map()
      for (const file of files) {
        for (const line of (await readFile(file, 'utf8').catch(() => '')).split('\n')) {
          if (line === '') continue
          const [id, method] = line.split(' ')
          const seen = arrivals.get(id) ?? { method, count: 0 }
          seen.count++
          arrivals.set(id, seen)
        }
      }
      for (const [id, { method, count }] of arrivals) {
        if (count > 1) ledger.count('sent again')
        if (method === 'POST' && !id.startsWith('keyed') && count > 1) ledger.fault('duplicated', `${id} ${method} arrived ${count} times`)
        if (count > 3) ledger.fault('amplified', `${id} ${method} arrived ${count} times`)
      }
      return arrivals.size
    }
  }
  return ledger
}
