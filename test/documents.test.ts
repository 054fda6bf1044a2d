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
import { existsSync, readdirSync } from 'node:fs'
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
import { DocumentTerminal } from './helpers/document-terminal.ts'
import { fleetVariables } from './helpers/fleet-variables.ts'
import { parseDocument, readDocument, type Block, type MarkdownDocument } from './helpers/markdown-blocks.ts'
import { programsOf, splitCommands } from './helpers/shell-commands.ts'
import { missingScripts, unrunProblems } from './helpers/unrun-command.ts'

/** What a document's command can't do here, and why. One that no document uses any more has to go. */
const notRun: readonly { command: RegExp, why: string }[] = [
  { command: /^git clone\b/, why: 'there may be no network' },
  { command: /^cd fleet-gateway$/, why: 'git clone, which makes the folder, is not run' },
  { command: /^npm ci$/, why: 'CI runs it, and here it would take away what runs' },
  { command: /^npm (test|run check)$/, why: 'this is a part of it' },
  { command: /^npm link$/, why: 'it builds, which other tests must not see, and leaves a link outside of this folder' },
  { command: /^npm install --global /, why: 'nothing may be left behind on the machine; another test installs the package' },
  { command: /^(sudo )?systemctl /, why: 'there may be no systemd, and it would be the machine\'s' },
  { command: /^journalctl /, why: 'likewise' },
  { command: /^docker /, why: 'there may be no container engine' },
  { command: /^kubectl /, why: 'there may be no cluster' },
  { command: /^FLEET_REDIS_URL=\S+ fleet-gateway serve --workers /, why: 'there may be no Redis on that port; test/cli/workers.test.ts does it with one' },
  { command: /\$\(cat \.fleet\/docker-secret\)/, why: 'it asks the gateway in the container' }
]

/** Languages of blocks that are only shown. No language is for diagrams and trees. */
const onlyShown = new Set(['', 'text', 'http', 'nginx', 'dockerfile'])

/** What yaml may be, if it is no fleet.yaml. */
const otherYaml = new Set(['compose', 'kubernetes', 'prometheus'])

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

t.test('every FLEET_… name is an error of the catalogue, or a variable that the program reads, for contributors also one of the tests', async t => {
  const ofProgram = fleetVariables(join(packageRoot, 'src'))
  const ofBoth = new Set([...ofProgram, ...fleetVariables(join(packageRoot, 'test'))])

  for (const { name, text } of documents) {
    const variables = name === 'CONTRIBUTING.md' ? ofBoth : ofProgram
    // What fleet.yaml may refer to is up to whoever writes it.
    const named = new Set(text.replaceAll(/\$\{\w+(?::-[^}]*)?\}/g, '').match(/\bFLEET_[A-Z0-9_]*[A-Z0-9]\b/g))
    for (const word of named) t.ok(errorCatalogue.has(word) || variables.has(word), `${name} ${word}`)
  }
})

t.test('every npm script, and every path of this repository, that is named in prose exists', async t => {
  for (const { name, spans } of documents) {
    const problems = spans.flatMap(({ text, line }) => {
      const isPath = /^(src|plugins|test|docs|examples|scripts|\.ci)\/[\w./-]+$/.test(text)
      const missing = isPath && !existsSync(join(packageRoot, text)) ? [`there is no ${text}`] : missingScripts(text)
      return missing.map(problem => `${name}:${line} ${problem}`)
    })
    t.same(problems, [], name)
  }
})

t.test('shell commands and programs do what documents say, in their order', async t => {
  const agents = await startAgents(t)
  const tally: Tally = { run: 0, notRun: 0, excused: new Set() }

  for (const document of documents.filter(({ blocks }) => blocks.some(isTried))) {
    await t.test(document.name, async t => tryDocument(t, document, await openPlace(t, agents), tally))
  }

  const unused = notRun.filter(exception => !tally.excused.has(exception))
  t.same(unused.map(({ command, why }) => `${command} (${why})`), [], 'no exception is left that nobody needs')
  // Not a comment: test/run.js leaves those out.
  console.log(`documents: ${tally.run} shell commands were run, ${tally.notRun} could not be`)
})

/** What became of the commands. */
interface Tally {
  run: number
  notRun: number
  readonly excused: Set<typeof notRun[number]>
}

/** Goes through a document as its reader would. */
async function tryDocument (t: Test, document: MarkdownDocument, place: DocumentPlace, tally: Tally): Promise<void> {
  const terminal = new DocumentTerminal(t, place)
  let printed = 'there is no command before it'
  let program: RunningProgram | null = null
  for (const block of document.blocks) {
    const where = `${document.name}:${block.line}`
    if (block.language === 'sh') {
      for (const command of splitCommands(block.code)) {
        const at = `${document.name}:${block.line + command.line} ${command.text}`
        const exception = notRun.find(({ command: pattern }) => pattern.test(command.text))
        if (exception === undefined) {
          printed = await terminal.try(command, at)
          tally.run++
        } else {
          tally.excused.add(exception)
          tally.notRun++
          t.same(unrunProblems(command.text), [], at)
        }
      }
    } else if (block.words.includes('answer')) {
      t.same(answerDifferences(block.language, block.code, printed), [], where)
    } else if (isProgram(block)) {
      await program?.stop()
      const file = writeProgram(block, place)
      if (block.language === 'ts') t.same(typeErrors([file]), [], where)
      program = await runProgram(t, file, place)
    }
  }
  await program?.stop()
  await terminal.endServers()
}

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

t.test('an example answer that is not what comes is seen', async t => {
  const actual = '{"id": "d17045ced002", "port": 8501, "rot13": "uryyb", "lease": null, "list": [1, 2]}'
  const cases: readonly [language: string, example: string, actual: string, problems: number][] = [
    ['json', '{"id": "bfcf335b36c8", "port": 9000, "rot13": "uryyb", "lease": null, "list": [3, 4]}', actual, 0],
    ['json', '{"port": 1, …}', actual, 0],
    ['json', '{"id": …, "port": 1, "rot13": "uryyb", "lease": …, "list": [1, …]}', actual, 0],
    ['json', '{"id": "bfcf335b36c8", "port": 9000, "rot13": "uryyb", "lease": null}', actual, 1],
    ['json', '{"rot31": "uryyb", …}', actual, 1],
    ['json', '{"rot13": "uryyc", …}', actual, 1],
    ['json', '{"port": "8501", …}', actual, 1],
    ['json', '{"lease": {}, …}', actual, 1],
    ['json', '{"list": [1], …}', actual, 1],
    ['json', '{}', 'no JSON', 1],
    ['http', 'HTTP/1.1 201 Created\nlocation: /a/bfcf335b36c8\n…\n\n{"port": 1, …}', `HTTP/1.1 201 Created\r\nDate: x\r\nLocation: /a/d17045ced002\r\n\r\n${actual}`, 0],
    ['http', 'HTTP/1.1 200 OK\nlocation: /b\n\n{"prot": 1, …}', `HTTP/1.1 201 Created\r\nDate: x\r\nLocation: /a\r\n\r\n${actual}`, 3],
    ['text', 'one\n…\nthree', 'one\ntwo\n2\nthree\n', 0],
    ['text', 'one\ntwo', 'one\ntwo\nthree', 1],
    ['text', 'one\ntwo', 'one', 1]
  ]

  for (const [language, example, answer, problems] of cases) t.equal(answerDifferences(language, example, answer).length, problems, example)
})

t.test('a block of shell is split where a shell would run it, and says what each command is to end with', async t => {
  const code = '# first\ncurl -s a \\\n  b   # 404\n\ncat <<END > file\n$ # 500\nEND\nfor i in 1 2; do\n  echo "$i # 1"\ndone\ntrue && ! false\nexit 3   # exit 3'

  t.strictSame(splitCommands(code).map(({ text: _text, ...rest }) => rest), [
    { line: 2, exitCode: 0, httpStatus: 404 },
    { line: 5, exitCode: 0, httpStatus: undefined },
    { line: 8, exitCode: 0, httpStatus: undefined },
    { line: 11, exitCode: 0, httpStatus: undefined },
    { line: 12, exitCode: 3, httpStatus: undefined }
  ])
  t.throws(() => splitCommands('for i in 1; do'), /no shell command/)
})

t.test('the programs that a command calls are known before it is run', async t => {
  const cases: readonly [command: string, programs: string[]][] = [
    ['curl -s -d \'{"a": 1}; rm x\' "http://a/$id" 2>/dev/null | tail -n 1   # rm', ['curl', 'tail']],
    ['A=1 B="x y" npm run demo -- --check && npm start', ['npm run demo', 'npm start']],
    ['{ echo a; for i in $(seq 3); do rm "$i"; done; } >>file 2>&1', ['echo', 'seq', 'rm']],
    ['place=$(curl -s a \\\n  -d b)', ['curl']]
  ]

  for (const [command, programs] of cases) t.same(programsOf(command), programs, command)
})

t.test('blocks, links, anchors and code spans of a document are found where they are', async t => {
  const markdown = '# A `b`, _c_!\n# A b c\n[x](y.md#z) `code [n](o)` ![i](i.png)\n<!-- [gone](gone.md) -->\n- item\n  ```yaml compose\n  a:\n    b\n  ```\n\n~~~\n[in](block)\n~~~\n[ref]: ref.md'
  const { blocks, links, anchors, spans } = parseDocument('a.md', markdown)

  t.strictSame(blocks, [
    { language: 'yaml', words: ['compose'], code: 'a:\n  b', line: 6 },
    { language: '', words: [], code: '[in](block)', line: 11 }
  ])
  t.strictSame(links, [{ text: 'y.md#z', line: 3 }, { text: 'i.png', line: 3 }, { text: 'ref.md', line: 14 }])
  t.strictSame([...anchors], ['a-b-c', 'a-b-c-1'])
  t.strictSame(spans, [{ text: 'b', line: 1 }, { text: 'code [n](o)', line: 3 }])
  t.throws(() => parseDocument('a.md', 'text\n```sh\n'), /a\.md:2/)
})
