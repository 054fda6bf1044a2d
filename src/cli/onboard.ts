/**
 * `fleet-gateway onboard`: writes a fleet.yaml with comments, from a few questions, from flags, or from what a scan of this machine found.
 */
import { existsSync, lstatSync, statSync } from 'node:fs'
import { dirname, isAbsolute, relative, resolve, sep } from 'node:path'
import { createInterface } from 'node:readline/promises'
import { pathToFileURL } from 'node:url'
import { cancel, confirm, intro, multiselect, note, outro, text } from '@clack/prompts'
import { Command, InvalidArgumentError } from 'commander'
import { namePattern } from '../agent-options.ts'
import { ConfigError, parseConfig } from '../config.ts'
import { writeFileDurably } from '../durable-file.ts'
import { authorityOf } from '../fleet/authority.ts'
import { parseYaml } from '../yaml.ts'
import { address, fleetOf, integer, repeated, withExamples } from './command.ts'
import { fleetFile, type OnboardedAgent } from './fleet-file.ts'
import { CommandError, exitCodes, legible, plain, print, printJson, say, type CommandIo } from './io.ts'
import { packageFile } from './package.ts'
import { listenersOnLoopback, type PortRange } from './scan-listeners.ts'
import { scan, type FoundServer, type Scan } from './scan.ts'
import { printTable } from './table.ts'
import { defaultFile } from './target.ts'
import { count } from './wording.ts'

interface OnboardFlags {
  fleet?: string
  agent?: OnboardedAgent[]
  /** The ports to look at; true for all that are listened on. */
  scan?: PortRange[] | true
  yes?: boolean
  json?: boolean
}

export function onboardCommand (io: CommandIo): Command {
  const command = new Command('onboard')
    .option('--fleet, --fleet-yaml <file>', 'the file to write (fleet.yaml)')
    .option('--agent <name=address>', 'an agent, as planner=8501 or planner=host:8501; may be repeated, also for more instances of one', repeated(namedAddress))
    .option('--scan [ports]', 'find the HTTP servers that listen on this machine\'s loopback, at all ports or at these, as 3000,8000-8999; without a terminal and without --yes the file is only printed', portRanges)
    .option('-y, --yes', 'ask nothing; an existing file is written over')
    .option('--json', 'print what --scan found as JSON, for programs')
    .action((flags: OnboardFlags) => onboard(fleetOf(flags), io))
  return withExamples(command, [
    ['fleet-gateway onboard', 'asks'],
    ['fleet-gateway onboard --agent planner=8501 --agent coder=10.0.0.7:8502'],
    ['fleet-gateway onboard --fleet staging.yaml --agent planner=8501 --yes'],
    ['fleet-gateway onboard --scan', 'looks for servers, and asks which of them to write'],
    ['fleet-gateway onboard --scan 8000-8999 --yes']
  ])
}

async function onboard (flags: OnboardFlags, io: CommandIo): Promise<void> {
  const file = flags.fleet ?? defaultFile
  if (flags.json === true && flags.scan === undefined) throw new CommandError('--json prints what --scan finds, so it needs --scan', exitCodes.wrongUsage)
  const interactive = io.stdin.isTTY === true && io.stderr.isTTY === true && flags.yes !== true && flags.json !== true
  const onlyShown = flags.scan !== undefined && !interactive && flags.yes !== true
  if (!onlyShown) checkPlace(file)
  const found = flags.scan === undefined ? undefined : await look(flags.scan, flags.agent, io)
  if (found !== undefined) show(found, flags, file, !onlyShown, io)
  const scanned = found === undefined ? [] : found.found.map(toAgent)
  // A script that looks too early must not empty a good file.
  if (flags.yes === true && found?.found.length === 0 && flags.agent === undefined) throw new CommandError(`Nothing is written to ${file}: start your agents first, or name them with --agent`)
  if (onlyShown) {
    if (flags.json === true) return
    print(io, fleetFile([...flags.agent ?? [], ...scanned], schemaPath(file)).trimEnd())
    return say(io, `Nothing is written: --yes writes this to ${plain(file)}`)
  }
  const agents = interactive ? await interview(file, flags.agent, found?.found, io) : [...flags.agent ?? [], ...scanned]
  if (!interactive && flags.yes !== true && existsSync(file) && !await saysYes(`${plain(file)} is there already. Write over it? [y/N] `, io)) {
    throw new CommandError(`${file} is left as it is; --yes writes over it, --fleet names another file, ${orRegister(io)}`)
  }

  const content = fleetFile(agents, schemaPath(file))
  try {
    parseConfig(parseYaml(content, {}).value)
  } catch (error) { // what was answered is well-formed, but may not go together
    if (error instanceof ConfigError) throw new CommandError(error.message)
    throw error
  }
  await writeFileDurably(file, content).catch((error: Error) => { throw new CommandError(`${file} can't be written: ${error.message}`) })

  const next = [
    `${io.self} serve   starts the gateway; a change of the file applies at once`,
    `${io.self} test    tries every agent through it, and says what is wrong`,
    `${io.self} check   tells what is wrong with the file after you edited it`
  ]
  const named = new Set(agents.map(({ name }) => name)).size
  const done = `${plain(file)} is written, with ${named === 0 ? 'no agent yet' : count(named, 'agent')}; everything else in it shows its default, commented out.`
  if (interactive) {
    note(next.join('\n'), 'What to do next', { output: io.stderr })
    outro(done, { output: io.stderr })
  } else {
    say(io, done)
    for (const line of next) say(io, `  ${line}`)
  }
}

/** Asks whoever listens on loopback, but for those who are named already. */
async function look (ports: PortRange[] | true, given: readonly OnboardedAgent[] = [], io: CommandIo): Promise<Scan> {
  say(io, 'Looking for HTTP servers on loopback …')
  const here = new Set(['localhost', '127.0.0.1', '::1', undefined])
  const named = new Set(given.filter(({ host }) => here.has(host)).map(({ port }) => port))
  const listeners = await listenersOnLoopback(ports === true ? undefined : ports)
  return await scan(listeners.filter(({ port }) => !named.has(port)), given.map(({ name }) => name))
}

/** The finding, as a table for people or as JSON for programs. */
function show (finding: Scan, { json }: OnboardFlags, file: string, writes: boolean, io: CommandIo): void {
  if (json === true) return printJson(io, { ...finding, file: writes ? file : null })
  const { found, leftOut } = legible(finding)
  const forPeople = { stdout: io.stderr, env: io.env } // standard output is for the file's text
  if (found.length === 0) say(io, 'No HTTP server found that may be an agent.')
  else printTable(forPeople, ['name', 'from', 'address', 'process', 'answers'], found.map(({ name, nameFrom, host, port, process = '', answers }) => [name, nameFrom, authorityOf(host, port), process, answers.join(' ')]))
  for (const { host, port, process, why } of leftOut) say(io, `left out: ${authorityOf(host, port)}${process === undefined ? '' : ` (${process})`}: ${why}`)
}

function toAgent ({ name, host, port, health }: FoundServer): OnboardedAgent {
  return { name, host, port, ...(health !== undefined && { health }) }
}

/** Before anything is asked. @throws CommandError when no file can be written there */
function checkPlace (file: string): void {
  let problem: string | undefined
  try {
    problem = placeProblem(file)
  } catch (error) {
    problem = (error as Error).message
  }
  if (problem !== undefined) throw new CommandError(`${file} can't be written: ${problem}`)
}

/** What is in the way of a file; a device or a pipe would be replaced by it. @throws what node:fs throws */
function placeProblem (file: string): string | undefined {
  const folder = statSync(dirname(file), { throwIfNoEntry: false })
  if (folder === undefined) return `there is no folder ${dirname(file)}`
  if (!folder.isDirectory()) return `${dirname(file)} is no folder`
  if (lstatSync(file, { throwIfNoEntry: false }) === undefined) return undefined
  const there = statSync(file, { throwIfNoEntry: false })
  if (there === undefined) return 'it is a link to a file that does not exist; remove it, or name that file'
  return there.isFile() ? undefined : there.isDirectory() ? 'it is a folder' : 'it is no ordinary file'
}

/** For an editor: relative where the package is below the file's folder, so that it holds on another machine, too. A container's image has none. */
function schemaPath (file: string): string | undefined {
  const schemaFile = packageFile('schema/fleet.schema.json')
  if (!existsSync(schemaFile)) return undefined
  const path = relative(dirname(resolve(file)), schemaFile)
  // On Windows another drive makes it absolute.
  if (path.startsWith('..') || isAbsolute(path)) return pathToFileURL(schemaFile).href
  return `./${path.split(sep).map(encodeURIComponent).join('/')}`
}

/** A few questions on a terminal; about agents only when none is given, or which of those that a scan found. @throws CommandError when somebody leaves */
async function interview (file: string, given: readonly OnboardedAgent[] | undefined, found: readonly FoundServer[] | undefined, io: CommandIo): Promise<OnboardedAgent[]> {
  const left = new AbortController()
  // Ctrl-D, or a terminal that goes away, ends the input; the library would wait for ever.
  io.stdin.on('keypress', (_text, key?: { ctrl?: boolean, name?: string }) => { if (key?.ctrl === true && key.name === 'd') left.abort() })
  for (const event of ['end', 'close']) io.stdin.once(event, () => left.abort())
  const streams = { input: io.stdin, output: io.stderr, signal: left.signal }
  const agents: OnboardedAgent[] = []
  intro(`This writes ${plain(file)}, the list of your agents for the gateway.`, streams)
  if (existsSync(file) && !answered(await confirm({ message: `${plain(file)} is there already. Write over it?`, initialValue: false, ...streams }), file, io)) {
    throw new CommandError(`${file} is left as it is; --fleet names another file, ${orRegister(io)}`)
  }
  if (found !== undefined && found.length > 0) {
    const chosen = answered(await multiselect({
      message: `Which of these shall be in ${plain(file)}? Space takes one out or in, Enter goes on; names can be changed in the file.`,
      options: found.map(server => ({ value: server, label: server.name, hint: authorityOf(server.host, server.port) })),
      initialValues: [...found],
      required: false,
      ...streams
    }), file, io)
    return [...given ?? [], ...chosen.map(toAgent)]
  }
  if (given !== undefined) return [...given]
  for (;;) {
    const name = answered(await text({
      message: agents.length === 0 ? 'What is your agent called? Clients will use /api/NAME. Enter alone: write agents into the file later.' : 'One more agent? Its name, or Enter to finish. The same name again is a second instance.',
      placeholder: agents.length === 0 ? 'planner' : '',
      validate: (value = '') => value === '' || new RegExp(namePattern).test(value) ? undefined : 'Letters, digits, ".", "_" and "-", 64 at most, beginning with a letter or digit',
      ...streams
    }), file, io)
    if (name === '') return agents
    const where = answered(await text({
      message: `Where does ${name} listen? A port of this machine, or HOST:PORT.`,
      placeholder: 'localhost:8501',
      validate: (value = '') => problemOf(() => address(value)) ?? (isListed(agents, { name, ...address(value) }) ? `${name} is there already` : undefined),
      ...streams
    }), file, io)
    agents.push({ name, ...address(where) })
  }
}

/** What somebody may have wanted who has a file already. */
function orRegister ({ self }: CommandIo): string {
  return `and "${self} register NAME PORT" adds an agent to a gateway that runs`
}

function isListed (agents: readonly OnboardedAgent[], { name, host = 'localhost', port }: OnboardedAgent): boolean {
  return agents.some(agent => agent.name === name && (agent.host ?? 'localhost') === host && agent.port === port)
}

/** @throws CommandError when it was no answer but Ctrl-C */
function answered<T> (answer: T, file: string, { stderr }: CommandIo): Exclude<T, symbol> {
  if (typeof answer !== 'symbol') return answer as Exclude<T, symbol>
  cancel(`Nothing was written; ${existsSync(file) ? `${plain(file)} is as it was` : `there is no ${plain(file)}`}.`, { output: stderr })
  throw new CommandError()
}

/** A question where nobody sits at a terminal: the next line of standard input is the answer, its end is no. */
async function saysYes (question: string, { stdin, stderr }: CommandIo): Promise<boolean> {
  const lines = createInterface({ input: stdin, crlfDelay: Infinity })
  stderr.write(question)
  try {
    const { value: answer = '' } = await lines[Symbol.asyncIterator]().next() as IteratorResult<string, undefined>
    return /^y(es)?$/i.test(answer.trim())
  } finally {
    lines.close()
    stderr.write('\n')
  }
}

function namedAddress (given: string): OnboardedAgent {
  const [, name = '', where = ''] = /^([^=]+)=(.+)$/.exec(given) ?? []
  if (!new RegExp(namePattern).test(name)) throw new InvalidArgumentError('It must be NAME=PORT or NAME=HOST:PORT, the name of letters, digits, ".", "_" and "-".')
  return { name, ...address(where) }
}

/** Reads `3000,8000-8999`. @throws InvalidArgumentError */
function portRanges (text: string): PortRange[] {
  const port = integer(1, 65_535)
  return text.split(',').map(part => {
    const [, first = '', last = first] = /^(\d+)(?:-(\d+))?$/.exec(part.trim()) ?? []
    if (first === '') throw new InvalidArgumentError('It must be ports and ranges of ports, as 3000,8000-8999.')
    const range = { from: port(first), to: port(last) }
    if (range.from > range.to) throw new InvalidArgumentError(`${range.from}-${range.to} is no range of ports: the lower one comes first.`)
    return range
  })
}

function problemOf (read: () => unknown): string | undefined {
  try {
    read()
  } catch (error) {
    return (error as Error).message
  }
  return undefined
}
