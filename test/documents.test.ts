/**
 * README.md, its neighbours and docs/ are tried out: every shell command is run, every program too, every configuration is validated, every link
 * followed, and whatever they name has to exist. Blocks say by their language what they are, and by a word behind it what else:
 *
 *   sh              run command by command, in the document's order; `# exit 1` or `# 401` behind one says what it is meant to end with
 *   json, http, text with the word `answer`: what the command before it really printed, `…` standing for anything
 *   js, cjs, ts     complete programs, run as far as they go; with the word `fragment` only parsed
 *   json, yaml      parsed; yaml is a valid fleet.yaml unless a word says what it is instead (`yaml compose`)
 *   ini, mermaid, nginx, text, http, none  shown; ini and mermaid with a glance at their form
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import { load } from 'js-yaml'
import t, { type Test } from 'tap'
import { ConfigError, parseConfig } from '../src/config.ts'
import { errorCatalogue } from '../src/errors.ts'
import { parseYaml } from '../src/yaml.ts'
import { answerDifferences, parseExample } from './helpers/answer-shape.ts'
import { commandLine, unknownUses } from './helpers/command-line-help.ts'
import { openPlace, packageRoot, startAgents, type DocumentPlace } from './helpers/document-fleet.ts'
import { runProgram, syntaxErrors, typeErrors, writeProgram, type RunningProgram } from './helpers/document-programs.ts'
import { DocumentShell, type CommandResult } from './helpers/document-shell.ts'
import { deadPort } from './helpers/fake-agent.ts'
import { readDocument, type Block, type MarkdownDocument } from './helpers/markdown-blocks.ts'
import { splitCommands, type ShellCommand } from './helpers/shell-commands.ts'

/** What a document's command can't do here, and why. One that no document uses any more has to go. */
const notRun: readonly { command: RegExp, why: string }[] = [
  { command: /^git clone\b/, why: 'there may be no network' },
  { command: /^cd fleet-gateway$/, why: 'git clone, which makes the folder, is not run' },
  { command: /^npm ci$/, why: 'CI runs it, and here it would take away what runs' },
  { command: /^npm (test|run check)$/, why: 'this is a part of it' },
  { command: /^docker /, why: 'there may be no container engine' },
]

/** Commands that serve until they are ended: what they print when they do. The first group is where. */
const servers: readonly { command: RegExp, ready: RegExp, end: NodeJS.Signals }[] = [
  { command: /^npm run demo\b(?!.*--check)/, ready: /Fleet Gateway is at (http:\S+?),[^]*Ctrl-C/, end: 'SIGINT' },
  { command: /^(npm start|npm run dev|(npx )?fleet-gateway serve|node dist\/src\/main\.js serve)\b/, ready: /Fleet Gateway on (http:\S+)[^]*try/, end: 'SIGTERM' },
  { command: /^node examples\/agents\/\S+\.js$/, ready: /listening on (http:\S+)/, end: 'SIGTERM' }
]

/** Languages of blocks that are only shown. No language is for diagrams and trees. */
const onlyShown = new Set(['', 'text', 'http', 'nginx', 'dockerfile'])

/** What yaml may be, if it is no fleet.yaml. */
const otherYaml = new Set(['compose', 'kubernetes', 'prometheus'])

const { scripts } = JSON.parse(readFileSync(join(packageRoot, 'package.json'), 'utf8')) as { scripts: Record<string, string> }
const composeServices = Object.keys((load(readFileSync(join(packageRoot, 'docker-compose.yml'), 'utf8')) as { services: object }).services)

function documentNames (): string[] {
  const ofRoot = readdirSync(packageRoot).filter(name => name.endsWith('.md') && name !== 'CHANGELOG.md')
  const ofDocs = readdirSync(join(packageRoot, 'docs'), { recursive: true, encoding: 'utf8' }).filter(name => name.endsWith('.md')).map(name => `docs/${name}`)
  return [...ofRoot.sort(), ...ofDocs.sort()]
}

const documents = await Promise.all(documentNames().map(name => readDocument(packageRoot, name)))

const blocksOf = (language: string, document: MarkdownDocument) => document.blocks.filter(block => block.language === language)

t.test('every block is of a language that is tried out or meant to be shown', async t => {
  const known = new Set([...onlyShown, 'sh', 'json', 'yaml', 'js', 'cjs', 'ts', 'ini', 'mermaid'])

  for (const { name, blocks } of documents) for (const { language, line } of blocks) t.ok(known.has(language), `${name}:${line} ${language}`)
})

t.test('every link within the repository leads somewhere', async t => {
  const anchorsOf = new Map(documents.map(({ name, anchors }) => [name, anchors]))

  for (const { name, links } of documents) {
    for (const { text, line } of links) {
      if (/^(https?|mailto):/.test(text)) continue
      const [path = '', anchor] = text.split('#')
      const target = path === '' ? name : normalize(join(path.startsWith('/') ? '' : dirname(name), decodeURIComponent(path)))
      t.ok(existsSync(join(packageRoot, target)), `${name}:${line} ${text}`)
      if (anchor !== undefined) t.ok(anchorsOf.get(target)?.has(anchor), `${name}:${line} ${text} has the anchor`)
    }
  }
})

t.test('every yaml block is a valid fleet.yaml, or what its second word says', async t => {
  for (const document of documents) {
    for (const { code, words: [kind], line } of blocksOf('yaml', document)) {
      const place = `${document.name}:${line}`
      if (kind === undefined) t.same(configProblems(code), [], place)
      else t.ok(otherYaml.has(kind) && load(code) !== undefined, `${place} ${kind}`)
    }
  }
})

/** Through the project's own reader, with each variable that has no default set to something. */
function configProblems (code: string): string[] {
  const variables = [...code.matchAll(/\$\{(\w+)\}/g)].map(([, name]) => [name, 'a-value-of-the-environment'])
  try {
    const { value, positions, problems } = parseYaml(code, Object.fromEntries(variables) as Record<string, string>)
    parseConfig(value, { file: 'fleet.yaml', positions })
    return problems.map(({ path, message }) => `${path} ${message}`)
  } catch (error) {
    return (error instanceof ConfigError ? error.message : String(error)).split('\n')
  }
}

t.test('every json block is JSON; only one that is a fragment or an answer leaves something out', async t => {
  for (const document of documents) {
    for (const { code, words, line } of blocksOf('json', document)) {
      const parse = words.includes('fragment') || words.includes('answer') ? parseExample : JSON.parse
      t.doesNotThrow(() => parse(code), `${document.name}:${line}`)
    }
  }
})

t.test('every ini block has sections of keys, and every mermaid block a kind of diagram', async t => {
  for (const document of documents) {
    for (const { code, line } of blocksOf('ini', document)) {
      const strange = code.split('\n').filter((text, index) => !/^(#.*|\[\w+\]|\w+=.*|)$/.test(text) || (index === 0 && !/^[#[]/.test(text)))
      t.same(strange, [], `${document.name}:${line}`)
    }
    for (const { code, line } of blocksOf('mermaid', document)) t.match(code, /^(flowchart (TD|LR|TB)|sequenceDiagram|stateDiagram-v2)$/m, `${document.name}:${line}`)
  }
})

t.test('every command and flag of fleet-gateway that is named is in its help', async t => {
  const program = await commandLine()

  for (const document of documents) t.same(unknownUses(document, program), [], document.name)
})

t.test('every FLEET_… name is an error of the catalogue, or a variable that the program reads', async t => {
  const readBySource = new Set(filesBelow('src').flatMap(name => [...readFileSync(name, 'utf8').matchAll(/\benv\b.*?\b(FLEET_\w+)|\b(FLEET_\w+)\b[^\n]*\} = env\b/g)].flatMap(([line]) => line.match(/FLEET_\w+/g) ?? [])))

  for (const { name, text } of documents) {
    // What fleet.yaml may refer to is up to whoever writes it.
    const named = new Set(text.replaceAll(/\$\{\w+(?::-[^}]*)?\}/g, '').match(/\bFLEET_[A-Z0-9_]*[A-Z0-9]\b/g))
    for (const word of named) t.ok(errorCatalogue.has(word) || readBySource.has(word), `${name} ${word}`)
  }
})

function filesBelow (folder: string): string[] {
  return readdirSync(join(packageRoot, folder), { recursive: true, encoding: 'utf8' }).filter(name => name.endsWith('.ts')).map(name => join(packageRoot, folder, name))
}

t.test('every npm script, and every path of this repository, that is named in prose exists', async t => {
  for (const { name, spans } of documents) {
    for (const { text, line } of spans) {
      for (const script of npmScripts(text)) t.ok(script in scripts, `${name}:${line} npm run ${script}`)
      if (/^(src|plugins|test|docs|examples|\.ci)\/[\w./-]+$/.test(text)) t.ok(existsSync(join(packageRoot, text)), `${name}:${line} ${text}`)
    }
  }
})

/** `npm run -s demo`, `npm start`, `npm test`; those that npm knows by itself are no scripts. */
function npmScripts (text: string): string[] {
  return [...text.matchAll(/\bnpm (?:run (?:-s )?([\w:-]+)|(start|test)\b)/g)].map(([, run, short]) => run ?? short ?? '')
}

t.test('shell commands and programs do what documents say, in their order', async t => {
  const agents = await startAgents(t)
  const counts = { run: 0, notRun: 0 }
  const used = new Set<RegExp>()

  for (const document of documents.filter(({ blocks }) => blocks.some(isTried))) {
    await t.test(document.name, async t => {
      const place = await openPlace(t, agents)
      const shell = new DocumentShell(t, place.folder, place.env)
      let last: CommandResult | null = null
      let program = null as RunningProgram | null
      for (const block of document.blocks) {
        const where = `${document.name}:${block.line}`
        if (block.language === 'sh') {
          for (const command of commandsOf(t, block, where)) {
            const at = `${document.name}:${block.line + command.line} ${command.text}`
            const exception = notRun.find(({ command: pattern }) => pattern.test(command.text))
            if (exception === undefined) {
              last = await tryCommand(t, command, at, shell, place)
              counts.run++
            } else {
              used.add(exception.command)
              t.same(unrunProblems(command.text), [], at)
              counts.notRun++
            }
          }
        } else if (block.words.includes('answer')) {
          t.same(answerDifferences(block.language, block.code, last?.stdout ?? 'no command before it'), [], where)
        } else if (isProgram(block)) {
          await program?.stop()
          program = null
          await t.resolves(async () => {
            const file = writeProgram(block, place)
            if (block.language === 'ts') t.same(typeErrors([file]), [], where)
            program = await runProgram(t, file, place)
          }, where)
        }
      }
      await t.resolves(async () => { await program?.stop() }, `the last program of ${document.name} ends`)
    })
  }

  t.same(notRun.filter(({ command }) => !used.has(command)).map(({ command, why }) => `${command} (${why})`), [], 'no exception is left that nobody needs')
  t.comment(`${counts.run} shell commands were run, ${counts.notRun} were not`)
})

t.test('a fragment of a program can be parsed', async t => {
  for (const { name, blocks } of documents) {
    for (const { language, words, code, line } of blocks) {
      if (['js', 'cjs', 'ts'].includes(language) && words.includes('fragment')) t.same(syntaxErrors(code), [], `${name}:${line}`)
    }
  }
})

function isProgram ({ language, words }: Block): boolean {
  return ['js', 'cjs', 'ts'].includes(language) && !words.includes('fragment')
}

function isTried (block: Block): boolean {
  return block.language === 'sh' || isProgram(block)
}

function commandsOf (t: Test, { code }: Block, where: string): ShellCommand[] {
  try {
    return splitCommands(code)
  } catch (error) {
    t.fail(`${where} ${(error as Error).message}`)
    return []
  }
}

/** Runs a command, and sees whether it ended as it should. One that serves is called, and ended. */
async function tryCommand (t: Test, { text, exitCode, httpStatus }: ShellCommand, at: string, shell: DocumentShell, place: DocumentPlace): Promise<CommandResult | null> {
  console.error(performance.now() | 0, at)
  const plain = text.replace(/^(\w+=\S+ +)+/, '').replace(/\s+#[^'"]*$/, '').replace(/\s*&$/, '')
  const server = servers.find(({ command }) => command.test(plain))
  // Shells other than bash would take these for patterns, or end the command.
  t.notMatch(text, /(^|\s)https?:\/\/[^\s'"]*[?&]/, `${at}: an address with ? or & is quoted`)
  if (server !== undefined) {
    await t.resolves(tryServer(text.replace(/\s*&\s*(#.*)?$/, ''), server, shell, place), at)
    return null
  }
  const result = await shell.run(place.localized(text))
  const details = { ...result, exitCode: undefined }
  t.equal(result.exitCode, exitCode, at, details)
  if (httpStatus === undefined) t.same(result.httpStatuses.filter(status => status >= 400), [], `${at}: no error is answered`, details)
  else t.equal(result.httpStatuses.at(-1), httpStatus, `${at}: the status`, details)
  return result
}

async function tryServer (text: string, { ready, end }: typeof servers[number], shell: DocumentShell, place: DocumentPlace): Promise<void> {
  const port = await deadPort()
  const running = await shell.start(place.localized(text, port), { FLEET_PORT: String(port), PORT: '0' })
  const [, url] = await running.printed(ready)
  const { status } = await fetch(`${url}/health`)
  const code = await running.stop(end)
  if (status !== 200) throw new Error(`/health was answered with ${status}`)
  if (code !== 0) throw new Error(`it ended with ${code}`)
}

/** What can be said of a command without running it. */
function unrunProblems (text: string): string[] {
  const problems = npmScripts(text).filter(script => !(script in scripts)).map(script => `there is no npm script "${script}"`)
  const files = text.match(/(?<=\s)(?:\.\/)?(?:src|plugins|test|docs|examples)\/[\w./-]+/g) ?? []
  problems.push(...files.filter(file => !existsSync(join(packageRoot, file))).map(file => `there is no ${file}`))
  const [, command = '', rest = ''] = /^docker compose (\w+)(.*)$/.exec(text) ?? []
  const named = rest.replaceAll(/\s(?:-s|--signal|--tail|-n|--since|--scale)[ =]\S+/g, '').split(/\s+/).filter(word => /^[\w-]+$/.test(word) && !word.startsWith('-'))
  const services = ['exec', 'run'].includes(command) ? named.slice(0, 1) : named
  problems.push(...services.filter(service => !composeServices.includes(service)).map(service => `docker-compose.yml has no service "${service}"`))
  return problems
}
