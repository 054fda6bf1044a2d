/**
 * Commands that documents call and that have to be ours: `fleet-gateway` as npm would install it, `npx fleet-gateway`, and a curl that is not
 * waited for endlessly and notes the status of each answer.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'

/** Where the curl shim notes statuses, a line each, by its environment. */
export const statusFileVariable = 'CURL_STATUS_FILE'

/** Writes them into a folder for the PATH, whose path is returned. @param main the built program */
export function writeShims (parent: string, main: string): string {
  const folder = join(parent, 'bin')
  mkdirSync(folder)
  const program = `exec '${process.execPath}' '${main}'`
  const shims = {
    'fleet-gateway': `${program} "$@"`,
    npx: `[ "$1" = fleet-gateway ] || { echo "npx $1 is not what this package installs" >&2; exit 127; }\nshift\n${program} "$@"`,
    // Interim answers are not the one that was asked for.
    curl: `heads=$(mktemp)
PATH='${withoutFirst(folder)}' command -v curl >/dev/null || { echo 'curl is not installed' >&2; exit 127; }
PATH='${withoutFirst(folder)}' curl --max-time 20 -D "$heads" "$@"
code=$?
sed -n 's|^HTTP/[0-9.]* \\([2-5][0-9][0-9]\\).*|\\1|p' "$heads" | tail -n 1 >>"$${statusFileVariable}"
rm -f "$heads"
exit $code`
  }
  for (const [name, script] of Object.entries(shims)) writeFileSync(join(folder, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 })
  return folder
}

function withoutFirst (folder: string): string {
  return (process.env['PATH'] ?? '').split(delimiter).filter(part => part !== folder).join(delimiter)
}
