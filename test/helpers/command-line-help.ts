/** Which commands and flags the built program has, as its own help says, and which of them documents name. */
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { createProgram as CreateProgram } from '../../src/cli/program.ts'
import { packageRoot } from './document-fleet.ts'
import { fakeIo } from './fake-io.ts'
import type { MarkdownDocument, Mention } from './markdown-blocks.ts'

/** Flags by command; those of the program itself under ''. */
export type CommandLine = ReadonlyMap<string, ReadonlySet<string>>

/** Asks the program. */
export async function commandLine (): Promise<CommandLine> {
  const built = pathToFileURL(join(packageRoot, 'dist/src/cli/program.js')).href
  const { createProgram } = await import(built) as { createProgram: typeof CreateProgram }
  const program = await createProgram(fakeIo().io)
  // Flags of what is below a command count as its own.
  return new Map([program, ...program.commands].map(command => [command === program ? '' : command.name(), flagsIn([command, ...command === program ? [] : command.commands].map(part => part.helpInformation()).join(' '))]))
}

function flagsIn (text: string): Set<string> {
  return new Set([...text.matchAll(/(?<![\w-])--[a-z][\w-]*/g)].map(([flag]) => flag))
}

/** The commands and flags in a document that the program does not have, a line each. */
export function unknownUses ({ blocks, spans }: MarkdownDocument, program: CommandLine): string[] {
  const texts: Mention[] = [...spans, ...blocks.filter(({ language }) => language !== '').map(({ code, line }) => ({ text: code.replaceAll('\\\n', ' '), line }))]
  return texts.flatMap(({ text, line }) => [...usesIn(text), ...loneFlags(text)].flatMap(use => problemsOf(use, program)).map(problem => `line ${line}: ${problem}`))
}

interface Use { command: string, flags: readonly string[] }

/** How documents call the program, up to what it is given. */
const callPattern = /(?<![\w/.@-])(?:(?:npx |\S*\/bin\/)?fleet-gateway|npm start --|npm run dev --|node (?:\S*\/)?dist\/src\/main\.js)(?=\s)((?:[^\S\n]+[^\s|&;<>`#][^\s|&;<>`]*)*)/g

function usesIn (text: string): Use[] {
  return [...text.matchAll(callPattern)].map(([call, given = '']) => {
    // What is behind "--" is another program's.
    const words = given.trim().split(/(?:^|\s)--(?:\s|$)/)[0]!.split(/\s+/).filter(word => word !== '')
    const flags = words.map(word => word.split('=', 1)[0]!).filter(word => word.startsWith('--'))
    if (call.startsWith('npm')) return { command: 'serve', flags }
    const [command = ''] = words
    return { command: /^[a-z][a-z-]*$/.test(command) ? command : '', flags }
  })
}

/** A span such as `--no-auth`, or `--rate-limit N`. Flags of other programs stand behind their names. */
function loneFlags (text: string): Use[] {
  const [flag] = /^--[a-z][\w-]*/.exec(text) ?? []
  return flag === undefined ? [] : [{ command: '*', flags: [flag] }]
}

function problemsOf ({ command, flags }: Use, program: CommandLine): string[] {
  const known = command === '*' ? new Set([...program.values()].flatMap(own => [...own])) : program.get(command)
  if (known === undefined) return [`fleet-gateway has no command "${command}"`]
  const where = command === '*' ? 'no command of fleet-gateway has' : `fleet-gateway ${command} has no`
  return flags.filter(flag => !known.has(flag)).map(flag => `${where} ${flag}`)
}
