/**
 * What the servers that a scan found might be called: by what they say of themselves, else by their process, else by their port; each name
 * valid, and none twice.
 */
import { namePattern } from '../agent-options.ts'

/** What there is to make a name of. */
export interface Nameable {
  readonly port: number
  /** `name` of the agent card. */
  readonly card?: string
  /** `info.title` of the OpenAPI description. */
  readonly title?: string
  readonly process?: string
}

export interface ProposedName {
  readonly name: string
  readonly from: 'agent card' | 'OpenAPI' | 'process' | 'port'
}

const mostCharacters = 64

/** Programs that run others: their names say nothing of what runs. */
const runners = /^(node|nodejs|deno|bun|python[\d.]*|uvicorn|gunicorn|hypercorn|java|ruby|puma|php.*|perl|dotnet|beam\.smp|docker-proxy|rootlessport|conmon|sh|bash|main|MainThread|npm.*|tsx)$/i

/**
 * A name for each, in the same order. Several that would have the same one get their ports behind it: they may be instances of one agent,
 * or strangers that a framework named alike, and only a person knows.
 * @param taken names that belong to others
 */
export function proposeNames (servers: readonly Nameable[], taken: Iterable<string> = []): ProposedName[] {
  const wanted = servers.map(wantedName)
  const used = new Set(taken)
  const counts = new Map<string, number>()
  for (const { name } of wanted) counts.set(name, (counts.get(name) ?? 0) + 1)
  // Those whose name nobody else wants come first, so that they keep it.
  const isContested = ({ name }: ProposedName) => counts.get(name)! > 1
  const named = new Map<number, string>()
  for (const contested of [false, true]) {
    for (const [index, proposed] of wanted.entries()) {
      if (isContested(proposed) !== contested) continue
      const name = free(proposed.name, servers[index]!.port, contested, used)
      used.add(name)
      named.set(index, name)
    }
  }
  return wanted.map(({ from }, index) => ({ name: named.get(index)!, from }))
}

function wantedName ({ port, card, title, process }: Nameable): ProposedName {
  const sources: [ProposedName['from'], string | undefined][] = [['agent card', card], ['OpenAPI', title], ['process', process !== undefined && runners.test(process) ? undefined : process]]
  for (const [from, text] of sources) {
    const name = validName(text)
    if (name !== undefined) return { name, from }
  }
  return { name: `agent-${port}`, from: 'port' }
}

/** In small letters, since it becomes part of URLs; undefined when nothing of it can be in a name. */
function validName (text = ''): string | undefined {
  const plain = text.slice(0, 1_000).normalize('NFKD').replaceAll(/\p{M}/gu, '').toLowerCase()
  const name = shortened(plain.replaceAll(/[^a-z0-9._]+/g, '-').replace(/^[^a-z0-9]+/, ''), mostCharacters)
  return new RegExp(namePattern).test(name) ? name : undefined
}

function shortened (name: string, most: number): string {
  return name.slice(0, most).replace(/[-._]+$/, '')
}

function free (name: string, port: number, contested: boolean, used: ReadonlySet<string>): string {
  if (!contested && !used.has(name)) return name
  const behind = (suffix: string) => `${shortened(name, mostCharacters - suffix.length)}${suffix}`
  let candidate = behind(`-${port}`)
  for (let count = 2; used.has(candidate); count++) candidate = behind(`-${port}-${count}`)
  return candidate
}
