/**
 * `npm run docs` writes every document that is made from the program: it reads dist/, so that has to be built. With --check nothing is
 * written, and a document that is not what would be written is named with its first line that differs; the exit code is 1 then.
 * `--root FOLDER` looks for the documents elsewhere than in the repository.
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import commandLine from './command-line.js'
import configuration from './configuration.js'
import fleetSchema from './fleet-schema.js'

/** Each has `file`, its path from the root, and `render`, which gives its text. A further one is a module like these, and a name here. */
const documents = [fleetSchema, configuration, commandLine]

const repository = fileURLToPath(new URL('..', import.meta.url))
const { values: { check, root } } = parseArgs({ options: { check: { type: 'boolean', default: false }, root: { type: 'string', default: repository } } })

/** Where the two differ first, for people; undefined when they don't. */
function difference (present, wanted) {
  if (present === undefined) return 'is missing'
  const lines = present.split('\n')
  const wantedLines = wanted.split('\n')
  for (let index = 0; index < Math.max(lines.length, wantedLines.length); index++) {
    if (lines[index] !== wantedLines[index]) return `is stale: line ${index + 1} is ${quoted(lines[index])} and should be ${quoted(wantedLines[index])}`
  }
  return undefined
}

function quoted (line) {
  return line === undefined ? 'missing' : JSON.stringify(line.length > 120 ? `${line.slice(0, 120)}…` : line)
}

/** The file's text; undefined when there is none. */
async function textOf (path) {
  return await readFile(path, 'utf8').catch(error => {
    if (error.code !== 'ENOENT') throw error
  })
}

let stale = 0
for (const { file, render } of documents) {
  const path = join(root, file)
  const text = await render()
  const problem = difference(await textOf(path), text)
  if (problem === undefined) continue
  if (check) {
    console.error(`${file} ${problem}`)
    stale++
  } else {
    await mkdir(dirname(path), { recursive: true })
    await writeFile(path, text)
    console.log(`${file} was written`)
  }
}
if (stale > 0) {
  console.error('`npm run docs` writes what is stale')
  process.exitCode = 1
}
