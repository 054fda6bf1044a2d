/** What can be checked of a command without running it: that the npm scripts, files and services it names exist. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { load } from 'js-yaml'
import { packageRoot } from './document-fleet.ts'

const { scripts } = JSON.parse(readFileSync(join(packageRoot, 'package.json'), 'utf8')) as { scripts: Record<string, string> }
const composeServices = Object.keys((load(readFileSync(join(packageRoot, 'docker-compose.yml'), 'utf8')) as { services: object }).services)

/** What is wrong with a command, a line each. */
export function unrunProblems (text: string): string[] {
  const problems = missingScripts(text)
  const files = text.match(/(?<=\s)(?:\.\/)?(?:src|plugins|test|docs|examples)\/[\w./-]+/g) ?? []
  problems.push(...files.filter(file => !existsSync(join(packageRoot, file))).map(file => `there is no ${file}`))
  const [, command = '', rest = ''] = /^docker compose (\w+)(.*)$/.exec(text) ?? []
  const named = rest.replaceAll(/\s(?:-s|--signal|--tail|-n|--since|--scale)[ =]\S+/g, '').split(/\s+/).filter(word => /^[\w-]+$/.test(word) && !word.startsWith('-'))
  const services = ['exec', 'run'].includes(command) ? named.slice(0, 1) : named
  problems.push(...services.filter(service => !composeServices.includes(service)).map(service => `docker-compose.yml has no service "${service}"`))
  return problems
}

/** The npm scripts that a text names and that do not exist, a line each. */
export function missingScripts (text: string): string[] {
  return npmScripts(text).filter(script => !(script in scripts)).map(script => `there is no npm script "${script}"`)
}

/** `npm run -s demo`, `npm start`, `npm test`; those that npm knows by itself are no scripts. */
function npmScripts (text: string): string[] {
  return [...text.matchAll(/\bnpm (?:run (?:-s )?([\w:-]+)|(start|test)\b)/g)].map(([, run, short]) => run ?? short ?? '')
}
