/** The terminal of a document's reader: which commands are run there, which of them serve, and whether each ends as it should. */
import { constants } from 'node:os'
import type { Test } from 'tap'
import type { DocumentPlace } from './document-fleet.ts'
import { DocumentShell, type RunningCommand } from './document-shell.ts'
import { deadPort } from './fake-agent.ts'
import { programsOf, type ShellCommand } from './shell-commands.ts'

/** Programs that do nothing to the machine they run on. Whatever else a document calls is added here, or to documents.test.ts as what is not run, after a thought. */
const mayRun = new Set([
  'fleet-gateway', 'npx', 'node', 'npm start', 'npm run demo', 'curl',
  'base64', 'cat', 'cd', 'chmod', 'cp', 'echo', 'export', 'head', 'mkdir', 'openssl', 'sed', 'seq', 'sleep', 'tail', 'tr'
])

/** What has to do with a gateway that runs: its port, its client, its state and its logs. */
const asksGateway = /\b9001\b|\bfleet-gateway\b|\.fleet\b|\.log\b/

interface ServerCommand {
  readonly command: RegExp
  /** What it prints when it serves. The first group is where. */
  readonly ready: RegExp
  readonly end: NodeJS.Signals
  /** From then on it is the gateway, and the one before is ended. */
  readonly isGateway: boolean
}

/** Commands that serve until they are ended: with the next one, or with the document. */
const servers: readonly ServerCommand[] = [
  { command: /^npm run demo\b(?!.*--check)/, ready: /Fleet Gateway is at (http:\S+?),[^]*Ctrl-C/, end: 'SIGINT', isGateway: true },
  { command: /^(npm start|(npx )?fleet-gateway serve|node dist\/src\/main\.js serve)\b/, ready: /Fleet Gateway on (http:\S+)[^]*try/, end: 'SIGTERM', isGateway: true },
  { command: /^fleet-gateway run\b/, ready: /registered \S+ at (http:\S+?);/, end: 'SIGTERM', isGateway: false },
  { command: /^node examples\/agents\/\S+\.js$/, ready: /listening on (http:\S+)/, end: 'SIGTERM', isGateway: false }
]

/** Runs a document's commands, and sees whether they end as they should. Those that serve are called, and ended when the next one comes. */
export class DocumentTerminal {
  readonly #t: Test
  readonly #place: DocumentPlace
  readonly #shell: DocumentShell
  #serving: { text: string, server: ServerCommand, running: RunningCommand }[] = []

  constructor (t: Test, place: DocumentPlace) {
    this.#t = t
    this.#place = place
    this.#shell = new DocumentShell(t, place.folder, place.env)
  }

  /** @returns what it printed */
  async try ({ text, exitCode, httpStatus }: ShellCommand, at: string): Promise<string> {
    const t = this.#t
    const unknown = programsOf(text).filter(name => !mayRun.has(name))
    if (unknown.length > 0) {
      t.fail(`${at}: say in document-terminal.ts or documents.test.ts whether it may be run: ${unknown.join(', ')}`)
      return ''
    }
    // Shells other than bash would take these for patterns, or end the command.
    t.notMatch(text, /(^|\s)https?:\/\/[^\s'"]*[?&]/, `${at}: an address with ? or & is quoted`)
    // A reader ends a program that was only tried before they go on to something else.
    await this.endServers((_, started) => isTriedOut(started, text))
    const server = exitCode === 0 ? servers.find(({ command }) => command.test(withoutSurroundings(text))) : undefined
    if (server !== undefined) {
      await t.resolves(this.#serve(text, server), at)
      return ''
    }
    if (asksGateway.test(text)) await this.#place.gatewayIsUp()
    const result = await this.#shell.run(this.#place.localized(text))
    t.equal(result.exitCode, exitCode, at, { ...result })
    if (httpStatus === undefined) t.same(result.httpStatuses.filter(status => status >= 400), [], `${at}: no error is answered`, { ...result })
    else t.equal(result.httpStatuses.at(-1), httpStatus, `${at}: the status`, { ...result })
    return result.stdout
  }

  async endServers (which: (server: ServerCommand, text: string) => boolean = () => true): Promise<void> {
    const ending = this.#serving.filter(({ server, text }) => which(server, text))
    this.#serving = this.#serving.filter(serving => !ending.includes(serving))
    for (const { text, server: { end }, running } of ending) {
      const code = await running.stop(end)
      // npm ends as its signal does, whatever becomes of the program.
      const isGood = code === 0 || (withoutSurroundings(text).startsWith('npm ') && code === 128 + constants.signals[end])
      this.#t.ok(isGood, `${text} ends well`, { code })
    }
  }

  async #serve (text: string, server: ServerCommand): Promise<void> {
    const port = await deadPort()
    if (!server.isGateway && asksGateway.test(text)) await this.#place.gatewayIsUp()
    if (server.isGateway) {
      await this.endServers(({ isGateway }) => isGateway)
      this.#place.moveGateway(port)
    }
    const foreground = text.replace(/\s*&\s*(#.*)?$/, '')
    const running = await this.#shell.start(this.#place.localized(foreground), { FLEET_PORT: String(port), PORT: '0' })
    this.#serving.push({ text, server, running })
    const [, url = ''] = await running.printed(server.ready)
    const { status } = await fetch(`${url}/health`)
    if (status !== 200) throw new Error(`/health was answered with ${status}`)
    if (!server.isGateway) return
    this.#place.moveGateway(Number(new URL(url).port))
    await this.#shell.run(`export FLEET_URL=${url}`)
  }
}

/** Whether a program in the fleet has nothing to do with the next command. */
function isTriedOut (started: string, next: string): boolean {
  const [, name] = /^fleet-gateway run (\S+)/.exec(started) ?? []
  return name !== undefined && !next.includes(name)
}

/** Without variables before it, and a comment or an ampersand behind it. */
function withoutSurroundings (command: string): string {
  return command.replace(/^(\w+=\S+ +)+/, '').replace(/\s+#[^'"]*$/, '').replace(/\s*&$/, '')
}
