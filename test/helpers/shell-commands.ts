/** A block of shell as its commands, each with what a comment behind it says of its outcome: `# exit 1`, or `# 401` for what curl is answered. */
import { spawnSync } from 'node:child_process'

export interface ShellCommand {
  /** As it is written, all of its lines. */
  readonly text: string
  /** Counted from 1 within the block. */
  readonly line: number
  readonly exitCode: number
  /** The HTTP status that the last curl of it gets; undefined when any below 400 will do. */
  readonly httpStatus: number | undefined
}

/**
 * Splits where a shell would run what it has: behind a line that completes a command, here-documents and loops included.
 * @throws Error when something is left over that is no command
 */
export function splitCommands (code: string): ShellCommand[] {
  const commands: ShellCommand[] = []
  let pending: string[] = []
  for (const [index, line] of code.split('\n').entries()) {
    if (pending.length === 0 && /^\s*(#|$)/.test(line)) continue
    pending.push(line)
    const text = pending.join('\n')
    if (!isComplete(text)) continue
    commands.push({ text, line: index + 2 - pending.length, ...expectation(line) })
    pending = []
  }
  if (pending.length > 0) throw new Error(`no shell command: ${pending.join('\n')}`)
  return commands
}

/** Bash itself says whether it would wait for more. */
function isComplete (text: string): boolean {
  if (/(?<!\\)(?:\\\\)*\\$/.test(text)) return false
  const { status, stderr } = spawnSync('bash', ['-n', '-c', text], { encoding: 'utf8' })
  return status === 0 && stderr === '' // an unfinished here-document is but a warning
}

function expectation (lastLine: string): Pick<ShellCommand, 'exitCode' | 'httpStatus'> {
  const [, exitCode = '0', httpStatus] = /\s#\s+(?:exit (\d{1,3})|([1-5]\d\d))(?=\s|$)[^'"]*$/.exec(lastLine) ?? []
  return { exitCode: Number(exitCode), httpStatus: httpStatus === undefined ? undefined : Number(httpStatus) }
}

/** The programs and builtins that a command calls, as far as that can be seen without running it. */
export function programsOf (text: string): string[] {
  const bare = text.replaceAll('\\\n', ' ').replaceAll(/'[^']*'|"(?:[^"\\]|\\.)*"/g, '_').replaceAll(/(^|\s)#.*$/gm, '').replaceAll(/\d*(?:>>?|<)(?:&\d|\s*[^\s;|&()]+)/g, ' ')
  const calls = bare.split(/[\n;|&(){}]+|\$\(/).map(call => call.trim().replace(/^(?:(?:do|then|else|if|while|until|!|\w+=\S*)(?:\s+|$))+/, ''))
  const names = calls.filter(call => call !== '' && !/^(?:for|case)\s|^(?:done|fi|esac|\$)$/.test(call)).map(call => /^npm \S+(?: [a-z]\S*)?|^\S+/.exec(call)?.[0] ?? call)
  return [...new Set(names)]
}
