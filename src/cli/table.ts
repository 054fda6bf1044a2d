/**
 * Rows in columns, without borders: on a terminal and in a pipe the same text, but for the colour.
 */
import Table from 'cli-table3'
import { colorsFor, print, type CommandIo } from './io.ts'

/** Between two columns. */
const gap = '  '

/** What stands for nothing, so that a column is never missed by who splits lines at spaces. */
const nothing = '-'

const noBorders = Object.fromEntries(
  ['top', 'top-mid', 'top-left', 'top-right', 'bottom', 'bottom-mid', 'bottom-left', 'bottom-right', 'left', 'left-mid', 'mid', 'mid-mid', 'right', 'right-mid'].map(name => [name, ''])
)

/** Prints rows under a head. Cells may be coloured already. */
export function printTable (io: Pick<CommandIo, 'stdout' | 'env'>, head: readonly string[], rows: readonly (readonly string[])[]): void {
  const { bold } = colorsFor(io.stdout, io.env)
  const table = new Table({
    chars: { ...noBorders, middle: gap },
    style: { 'padding-left': 0, 'padding-right': 0, head: [], border: [] }
  })
  table.push(head.map(title => bold(title.toUpperCase())), ...rows.map(row => row.map(cell => cell === '' ? nothing : cell)))
  print(io, table.toString().split('\n').map(line => line.trimEnd()).join('\n'))
}
