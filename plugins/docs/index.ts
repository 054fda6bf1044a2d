/**
 * The API documents: `GET /openapi.json`, the gateway's own routes as @fastify/swagger found them and operations.ts describes them, with the paths
 * of agents that describe theirs; and `GET /docs`, the page that shows it. Register it before the plugins whose routes it shall show.
 */
import fastifySwagger from '@fastify/swagger'
import type { FastifyPluginAsync, FastifyReply, FastifyRequest, RouteOptions } from 'fastify'
import fp from 'fastify-plugin'
import type {} from '../auth/index.ts'
import type {} from '../auth/route-config.ts'
import type {} from '../registry/index.ts'
import { systemClock, type Clock } from '../../src/clock.ts'
import { ForbiddenError, NotFoundError } from '../../src/errors.ts'
import type { Agent } from '../../src/fleet/agent.ts'
import { createLookupOf, type LookupOf } from '../../src/guarded-lookup.ts'
import { mountPath } from '../../src/mount-path.ts'
import { parseOptions } from '../../src/options.ts'
import { mayTouch } from '../../src/principal.ts'
import { createTlsOf, type TlsOf } from '../../src/tls-agents.ts'
import { addVary, takesGzip } from '../../src/negotiation.ts'
import { AgentDocuments, type Finding } from './agent-documents.ts'
import type { AgentDocument } from './agent-document.ts'
import { agentPaths, operations, securitySchemes, tags, type Operation } from './operations.ts'
import { DocsOptions } from './options.ts'
import { createPageFiles, page, pagePolicy } from './page.ts'
import { schemas } from './schemas.ts'

/** An OpenAPI document. */
export type OpenApiDocument = Readonly<Record<string, unknown>>

export interface Docs {
  /** The gateway's own routes, without the agents'. Of a gateway that is ready; not to be changed. */
  document (): OpenApiDocument
}

declare module 'fastify' {
  interface FastifyInstance {
    /** What the gateway's routes are. Not there when `docs` is off. */
    docs: Docs
    /** What @fastify/swagger makes of them, under a name of its own: the application around may have that plugin, too. */
    fleetOpenapi: () => OpenApiDocument
  }
  interface FastifyContextConfig {
    /** What an OpenAPI document says of the route; `false` leaves it out. */
    openapi?: Operation | false
  }
}

/** Data of `docs` in fleet.yaml, and seams. */
export interface DocsPluginOptions extends Partial<DocsOptions> {
  clock?: Clock
  /** How names of instances are resolved. @default those that registered themselves may not lead to refused addresses */
  lookupOf?: LookupOf
  /** How TLS connections to instances are opened. @default as the agent's `tls` says */
  tlsOf?: TlsOf
}

/** Names of the seams. */
const seams = ['clock', 'lookupOf', 'tlsOf']

/** The most agents that one document has the paths of. */
const mostAgents = 100

const about = 'One HTTP front door to a fleet of agents. `GET` routes answer `HEAD` too. Any other path is 404, and a known path with another method is 405 with `Allow`. Errors of the gateway\'s own are `application/problem+json` with a stable `code`.'

type Paths = Record<string, Record<string, unknown>>

const docsPlugin: FastifyPluginAsync<DocsPluginOptions> = async (fastify, opts) => {
  const { clock = systemClock, lookupOf = createLookupOf(undefined), tlsOf = createTlsOf(fastify.registry, fastify.log), ...data } = opts
  if (!parseOptions(DocsOptions, data, 'docs', seams).enabled) return
  const { registry } = fastify
  const mount = mountPath(fastify.prefix)
  const documents = new AgentDocuments({
    clock,
    lookupOf,
    tlsOf,
    headersOf: instance => registry.current(instance)?.trusted === true ? registry.find(instance.agent)?.headers : undefined
  })
  /** Where agents are called, below the mount. */
  let callPath: string | null = null

  await fastify.register(fastifySwagger, {
    decorator: 'fleetOpenapi',
    openapi: {
      openapi: '3.1.1',
      info: { title: 'Fleet Gateway', version: '1', description: about },
      servers: [{ url: mount === '' ? '/' : mount }],
      tags: [...tags],
      components: { securitySchemes }
    },
    stripBasePath: false,
    transform ({ schema, url, route }: { schema?: object, url: string, route: RouteOptions }) {
      const path = belowMount(url, mount)
      const isProxy = route.config?.fleet?.scope === 'proxy'
      if (isProxy && path.endsWith('/*')) callPath = path.slice(0, -2)
      const isHidden = isProxy || path.endsWith('*') || route.config?.openapi === false
      return { schema: { ...schema, hide: isHidden }, url: path }
    },
    transformObject: ({ openapiObject }: { openapiObject: object }) => described(openapiObject as OpenApiDocument & { paths: Paths }, callPath)
  } as fastifySwagger.FastifyDynamicSwaggerOptions)

  const own = () => fastify.fleetOpenapi()
  fastify.decorate('docs', { document: own })
  fastify.addHook('onClose', async () => documents.close())

  await fastify.register(async routes => {
    routes.get<{ Querystring: { agent?: string | string[] } }>('/openapi.json', { config: { fleet: { scope: 'read' } } }, async (request, reply) => {
      void reply.header('cache-control', 'no-store').header('x-content-type-options', 'nosniff')
      const { agent } = request.query
      if (agent === undefined) return await withAgents(request)
      return await ofAgent(String(agent), request, reply)
    })

    routes.get('/docs', { config: { fleet: { public: true } } }, (_request, reply) => withPolicy(reply).type('text/html; charset=utf-8').send(page))

    const fileNamed = createPageFiles()
    routes.get<{ Params: { file: string } }>('/docs/:file', { config: { fleet: { public: true }, openapi: false } }, async (request, reply) => {
      const { file: name } = request.params
      if (name === '') return withPolicy(reply).redirect('../docs', 308)
      const file = await fileNamed(name)
      if (file === undefined) throw new NotFoundError('The page has no such file')
      void withPolicy(reply).type(file.type).header('cache-control', 'public, max-age=3600')
      addVary(reply, 'accept-encoding')
      return takesGzip(request.headers['accept-encoding']) ? reply.header('content-encoding', 'gzip').send(file.zipped) : reply.send(file.bytes)
    })
  })

  function serverOf (name: string): string {
    return `${mount}${callPath ?? '/api'}/${encodeURIComponent(name)}`
  }

  /** The agent's own document. */
  async function ofAgent (nameOrAlias: string, request: FastifyRequest, reply: FastifyReply) {
    // Before the agent is looked for: what is said of a name that nobody has tells of others like it.
    if (!mayTouch(request.principal, registry.find(nameOrAlias)?.name ?? nameOrAlias)) throw new ForbiddenError('This key is not for that agent')
    const agent = registry.get(nameOrAlias)
    const finding = await documents.of(agent)
    if ('problem' in finding) throw new NotFoundError(`The agent "${agent.name}" shows no OpenAPI document: ${inWords(finding.problem)}`)
    return reply.type('application/json; charset=utf-8').send(finding.text(serverOf(agent.name)))
  }

  /** The gateway's document, and what the caller may see of the agents'. */
  async function withAgents (request: FastifyRequest) {
    const document = own() as OpenApiDocument & { tags: object[], paths: Paths }
    const seen = [...registry.agents()].filter(({ name }) => mayTouch(request.principal, name))
    const asked = seen.slice(0, mostAgents)
    const findings = await documents.ofAll(asked)
    const paths: Paths = { ...document.paths }
    const agentTags: object[] = []
    const listed: [string, object][] = seen.slice(mostAgents).map(({ name }) => [name, { document: documentAt(name) }])
    for (const [index, finding] of findings.entries()) {
      const { name } = asked[index]!
      listed.push([name, entryOf(name, finding)])
      if ('problem' in finding) continue
      agentTags.push({ name: tagOf(name), description: `The agent "${name}": ${finding.title} ${finding.version}` })
      Object.assign(paths, pathsOf(asked[index]!, finding))
    }
    return { ...document, tags: [...document.tags, ...agentTags], paths, 'x-fleet-agents': Object.fromEntries(listed) }
  }

  function documentAt (name: string): string {
    return `${mount}/openapi.json?agent=${encodeURIComponent(name)}`
  }

  function entryOf (name: string, finding: Finding): object {
    return 'problem' in finding ? { problem: inWords(finding.problem) } : { document: documentAt(name), title: finding.title, version: finding.version }
  }

  /** What the agent says of itself, in short: its schemas stay in its own document, where their references lead. */
  function pathsOf ({ name }: Agent, { operations: listed }: AgentDocument): Paths {
    const paths: Paths = {}
    const shapes = new Map<string, string>()
    for (const { method, path, summary } of listed) {
      const shape = path.replaceAll(/\{[^{}]*\}/g, '{}')
      if ((shapes.get(shape) ?? path) !== path) continue // the same path with other names of its parameters
      shapes.set(shape, path)
      const item = paths[`${callPath ?? '/api'}/${name}${path}`] ??= {}
      item[method] = {
        tags: [tagOf(name)],
        ...(summary !== undefined && { summary }),
        description: `More of it is in the agent's own document, \`${documentAt(name)}\`.`,
        ...parametersOf(path),
        security: [{ bearer: [] }, { fleetToken: [] }],
        responses: { default: { description: 'Whatever the agent answers.' } }
      }
    }
    return paths
  }
}

function inWords (problem: string): string {
  return `GET /openapi.json ${problem}`
}

function tagOf (name: string): string {
  return `agent ${name}`
}

function parametersOf (path: string): { parameters?: object[] } {
  const names = new Set([...path.matchAll(/\{([^{}]+)\}/g)].map(([, name]) => name!))
  return names.size === 0 ? {} : { parameters: [...names].map(name => ({ name, in: 'path', required: true, schema: { type: 'string' } })) }
}

/** `/fleet/health` → `/health`; what is the mount itself is `/`. */
function belowMount (url: string, mount: string): string {
  const path = mount !== '' && url.startsWith(mount) ? url.slice(mount.length) : url
  return path === '' ? '/' : path
}

function withPolicy (reply: FastifyReply): FastifyReply {
  return reply.header('content-security-policy', pagePolicy).header('x-content-type-options', 'nosniff').header('referrer-policy', 'no-referrer')
}

/** The routes that were found, with what is said of them. */
function described (found: OpenApiDocument & { paths: Paths }, callPath: string | null): OpenApiDocument {
  const paths: Paths = callPath === null ? {} : agentPaths(callPath)
  for (const [path, item] of Object.entries(found.paths)) {
    paths[path] = Object.fromEntries(Object.entries(item).map(([method, operation]) => [method, operations[`${method.toUpperCase()} ${path}`] ?? operation]))
  }
  return { ...found, paths, components: { securitySchemes, schemas } }
}

export { DocsOptions }
export default fp(docsPlugin, { name: 'fleet-docs', fastify: '5.x', decorators: { fastify: ['registry'] } })
