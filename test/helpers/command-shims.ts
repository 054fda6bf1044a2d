/**
 * Commands that documents call and that have to be ours: `fleet-gateway` as npm would install it, `npx fleet-gateway`, and a curl that is not
 * waited for endlessly and keeps the heads of the answers it gets.
 */
import { accessSync, constants, mkdirSync, writeFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'

/** Where the curl shim keeps the heads of answers, a file for each call, by its environment. */
export const headsVariable = 'CURL_HEADS'

/** Writes them into a folder for the PATH, whose path is returned. @param main the built program */
export function writeShims (parent: string, main: string): string {
  const folder = join(parent, 'bin')
  mkdirSync(folder)
  const program = `exec '${process.execPath}' '${main}'`
  const shims = {
    'fleet-gateway': `${program} "$@"`,
    npx: `[ "$1" = fleet-gateway ] || { echo "npx $1 is not what this package installs" >&2; exit 127; }\nshift\n${program} "$@"`,
    curl: `exec '${pathOf('curl')}' --max-time 20 -D "$${headsVariable}/$$" "$@"`
  }
  for (const [name, script] of Object.entries(shims)) writeFileSync(join(folder, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 })
  return folder
}

function pathOf (program: string): string {
  const found = (process.env['PATH'] ?? '').split(delimiter).map(folder => join(folder, program)).find(isExecutable)
  if (found === undefined) throw new Error(`${program} is not installed`)
  return found
}

function isExecutable (file: string): boolean {
  try {
    accessSync(file, constants.X_OK)
    return true
  } catch {
    return false
  }
}
