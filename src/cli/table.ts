/**
 * Rows in columns, without borders: on a terminal and in a pipe the same text, but for the colour.
 */
import { stripVTControlCharacters } from 'node:util'
import { colorsFor, print, type CommandIo } from './io.ts'

/** Between two columns. */
const gap = '  '

/** What stands for nothing, so that a column is never missed by who splits lines at spaces. */
const nothing = '-'

/** Prints rows under a head. Cells may be coloured; they are names, addresses and numbers, of which each character is one column wide. */
export function printTable (io: Pick<CommandIo, 'stdout' | 'env'>, head: readonly string[], rows: readonly (readonly string[])[]): void {
  print(io, tableLines(io, head, rows).join('\n'))
}

/** The lines of a table, its head first. */
export function tableLines ({ stdout, env }: Pick<CommandIo, 'stdout' | 'env'>, head: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const { bold } = colorsFor(stdout, env)
  const lines = [head.map(title => bold(title.toUpperCase())), ...rows.map(row => row.map(cell => cell === '' ? nothing : cell))]
  const widths = head.map((_, column) => lines.reduce((widest, line) => Math.max(widest, widthOf(line[column]!)), 0))
  return lines.map(line => line.map((cell, column) => cell + ' '.repeat(widths[column]! - widthOf(cell))).join(gap).trimEnd())
}

function widthOf (cell: string): number {
  return stripVTControlCharacters(cell).length
}
