/**
 * An agent's OpenAPI document as the gateway shows it: with the gateway in front, and without what could lead a reader, or a reader's token,
 * elsewhere. Agents are not trusted here: a document is data, and what of it is shown, a page may render.
 */
import { NoDocument } from './ask-agent.ts'
import { describedMethods, securitySchemes } from './operations.ts'

/** One operation, for a list. */
interface ListedOperation {
  readonly method: typeof describedMethods[number]
  /** As the agent has it. */
  readonly path: string
  readonly summary?: string
}

/** What is kept of a document. */
export interface AgentDocument {
  readonly title: string
  readonly version: string
  readonly operations: readonly ListedOperation[]
  /** The whole, for the agent under this path of the gateway. */
  text (server: string): string
}

type Mapping = Record<string, unknown>

/** Deeper than any description; what recurses relies on it. */
const mostDepth = 100
const mostListed = 200
const mostCharacters = 200

/** @throws NoDocument when it is none */
export function readAgentDocument (text: string): AgentDocument {
  const given = parsed(text)
  const { openapi } = given
  if (typeof openapi !== 'string' || !/^3\.\d{1,4}\.\d{1,4}$/.test(openapi)) throw new NoDocument('gives no OpenAPI 3 document')
  const document = cleaned(given, 0, '') as Mapping
  const paths = pathsOf(document['paths'])
  const info = isMapping(document['info']) ? document['info'] : {}
  const [title, version] = [textOf(info['title']) ?? 'untitled', textOf(info['version']) ?? '0']
  const schemes = schemesOf(document)
  const rest = {
    info: { ...info, title, version },
    ...(Array.isArray(document['tags']) && { tags: document['tags'].filter(isMapping) }),
    paths: Object.fromEntries(Object.entries(paths).map(([path, item]) => [path, withToken(item, schemes)])),
    components: { ...(isMapping(document['components']) && document['components']), securitySchemes: { ...schemes, ...securitySchemes } },
    security: requirements(document['security'], schemes)
  }
  return { title, version, operations: listed(paths), text: writerOf(openapi, JSON.stringify(rest).slice(1)) }
}

/** On its own, so that what it keeps alive is these two texts, and not the objects they were made from, which are twenty times as large. */
function writerOf (openapi: string, end: string): AgentDocument['text'] {
  return server => `{"openapi":${JSON.stringify(openapi)},"servers":${JSON.stringify([{ url: server }])},${end}`
}

function parsed (text: string): Mapping {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    throw new NoDocument('gives no JSON')
  }
  if (!isMapping(value)) throw new NoDocument('gives no OpenAPI 3 document')
  return value
}

function isMapping (value: unknown): value is Mapping {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function textOf (value: unknown): string | undefined {
  return typeof value === 'string' ? value.slice(0, mostCharacters) : undefined
}

/** A copy without what is not to be followed. @param under the key that the value stands under */
function cleaned (value: unknown, depth: number, under: string): unknown {
  if (depth > mostDepth) throw new NoDocument('gives what is nested too deep')
  if (Array.isArray(value)) {
    // A parameter that stands elsewhere has neither name nor place here.
    const items = under === 'parameters' ? value.filter(item => !isForeignReference(item)) : value
    return items.map(item => cleaned(item, depth + 1, ''))
  }
  if (!isMapping(value)) return value
  const copy: Mapping = {}
  for (const [key, inner] of Object.entries(value)) {
    if (key !== '__proto__' && !isLeftOut(key, inner)) copy[key] = cleaned(inner, depth + 1, key)
  }
  return copy
}

function isForeignReference (value: unknown): boolean {
  return isMapping(value) && typeof value['$ref'] === 'string' && !value['$ref'].startsWith('#')
}

/** What a reader's program would load from elsewhere, or be led to. A property that is called so is a mapping, and stays. */
function isLeftOut (key: string, value: unknown): boolean {
  if (key === 'servers') return Array.isArray(value)
  if (typeof value !== 'string') return false
  if (key === '$ref' || key === '$dynamicRef') return !value.startsWith('#')
  // With a base of its own "#/…" would be elsewhere, too.
  if (key === '$id' || key === '$schema') return true
  return /^url$|ur[il]$/i.test(key) && !/^(?:https?:\/\/|[^:]*$)/i.test(value)
}

/** Those that are paths and stay below the agent, however they are joined to its address. */
function pathsOf (paths: unknown): Record<string, Mapping> {
  if (!isMapping(paths)) return {}
  return Object.fromEntries(Object.entries(paths).filter((entry): entry is [string, Mapping] => isPath(entry[0]) && isMapping(entry[1])))
}

function isPath (path: string): boolean {
  const plain = path.replaceAll(/%2e/gi, '.').replaceAll(/%2f|%5c|\\/gi, '/')
  // eslint-disable-next-line no-control-regex
  return path.startsWith('/') && !/[\u0000-\u0020?#\\]/.test(path) && !plain.split('/').some(segment => segment === '.' || segment === '..')
}

/** Where a token is got elsewhere is not shown: what opens the gateway must not be sent there. */
function schemesOf ({ components }: Mapping): Record<string, Mapping> {
  const given = isMapping(components) && isMapping(components['securitySchemes']) ? components['securitySchemes'] : {}
  return Object.fromEntries(Object.entries(given).filter((entry): entry is [string, Mapping] => isMapping(entry[1]) && (entry[1]['type'] === 'http' || entry[1]['type'] === 'apiKey')))
}

/** Whatever the agent wants, and the gateway's token beside it; where the agent wants `Authorization`, the other header is the gateway's. */
function requirements (given: unknown, schemes: Record<string, Mapping>): Mapping[] {
  const wanted = Array.isArray(given) ? given.filter(isMapping) : []
  const own = wanted
    .filter(requirement => Object.keys(requirement).length > 0 && Object.keys(requirement).every(name => Object.hasOwn(schemes, name)))
    .map(requirement => ({ ...requirement, fleetToken: [] }))
  return own.length > 0 ? own : [{ bearer: [] }, { fleetToken: [] }]
}

function withToken (item: Mapping, schemes: Record<string, Mapping>): Mapping {
  return Object.fromEntries(Object.entries(item).map(([key, operation]) => {
    const isOwn = isMapping(operation) && 'security' in operation && (describedMethods as readonly string[]).concat('trace').includes(key)
    return [key, isOwn ? { ...operation, security: requirements(operation['security'], schemes) } : operation]
  }))
}

function listed (paths: Record<string, Mapping>): ListedOperation[] {
  const operations: ListedOperation[] = []
  for (const [path, item] of Object.entries(paths)) {
    for (const method of describedMethods) {
      const operation = item[method]
      if (!isMapping(operation)) continue
      const summary = textOf(operation['summary'])
      operations.push({ method, path, ...(summary !== undefined && { summary }) })
      if (operations.length >= mostListed) return operations
    }
  }
  return operations
}
