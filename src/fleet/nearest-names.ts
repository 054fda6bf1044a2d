/**
 * "Did you mean …?": the known names nearest to a wrong one.
 */

/** A wrong name must stay cheap to answer in a fleet of thousands. */
const mostCompared = 500

/** Cells of edit tables that one look-up may fill; long names fill many, so there is no counting names alone. */
const mostCells = 100_000

/** The names that are at most about a third of the letters away from `name`, nearest first. */
export function nearestNames (name: string, known: Iterable<string>, most = 3): string[] {
  if (name === '') return []
  const wanted = name.toLowerCase().slice(0, 64)
  const scored: { candidate: string, distance: number }[] = []
  let compared = 0
  let cells = 0
  for (const candidate of known) {
    if (++compared > mostCompared || cells > mostCells) break
    const lower = candidate.toLowerCase()
    const near = lower.startsWith(wanted) || wanted.startsWith(lower)
    const gap = Math.abs(lower.length - wanted.length)
    const bound = Math.max(1, Math.ceil(Math.max(wanted.length, lower.length) / 3))
    if (!near && gap > bound) continue // so many letters would have to come or go
    if (!near) cells += wanted.length * lower.length
    const distance = near ? gap / 2 : editDistance(wanted, lower)
    if (distance <= bound) scored.push({ candidate, distance })
  }
  const lengthGap = ({ candidate }: { candidate: string }) => Math.abs(candidate.length - wanted.length)
  return scored.sort((a, b) => a.distance - b.distance || lengthGap(a) - lengthGap(b)).slice(0, most).map(({ candidate }) => candidate)
}

/** Edits between two words; two neighbours that changed places are one (Damerau's distance without overlaps): "prot" is nearest to "port". */
function editDistance (a: string, b: string): number {
  const rows = [Array.from({ length: b.length + 1 }, (_, index) => index)]
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    for (let j = 1; j <= b.length; j++) {
      const substitution = rows[i - 1]![j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)
      row.push(Math.min(rows[i - 1]![j]! + 1, row[j - 1]! + 1, substitution))
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) row[j] = Math.min(row[j]!, rows[i - 2]![j - 2]! + 1)
    }
    rows.push(row)
  }
  return rows[a.length]![b.length]!
}
