/** Each plugin in a bare Fastify application, with only the decorators it declares. */
import t from 'tap'
import { readdirSync } from 'node:fs'
import Fastify, { type FastifyInstance, type FastifyPluginAsync } from 'fastify'

interface Meta { name: string, fastify: string, decorators?: { fastify?: string[] } }

/** Who brings a decorator that another plugin declares. */
const providers: Readonly<Record<string, string>> = { stats: 'stats', registry: 'registry', registrations: 'registry', registryState: 'registry', discovery: 'discovery', upstream: 'upstream', facts: 'facts', problem: 'problem' }

/** What a plugin can't be without. */
const needed: Readonly<Record<string, object>> = {
  auth: { secret: 'fleet-secret-token' },
  'audit-log': { destination: { write () {} } }
}

async function load (name: string): Promise<{ plugin: FastifyPluginAsync, meta: Meta }> {
  const { default: plugin } = await import(`../../plugins/${name}/index.ts`) as { default: FastifyPluginAsync & Record<symbol, Meta> }
  return { plugin, meta: plugin[Symbol.for('plugin-meta')]! }
}

async function registerWithNeeds (app: FastifyInstance, name: string, done: Set<string>): Promise<Meta> {
  const { plugin, meta } = await load(name)
  for (const decorator of meta.decorators?.fastify ?? []) {
    const provider = providers[decorator]!
    if (!done.has(provider)) await registerWithNeeds(app, provider, done)
  }
  await app.register(plugin, needed[name] ?? {})
  done.add(name)
  return meta
}

const names = readdirSync(new URL('../../plugins', import.meta.url), { withFileTypes: true }).filter(entry => entry.isDirectory()).map(entry => entry.name)

for (const name of names) {
  t.test(`${name} starts and stops alone, and leaves the application as it was`, async t => {
    const app = Fastify()
    app.get('/own', async () => 'mine')
    const meta = await registerWithNeeds(app, name, new Set())
    app.post('/own', async request => ({ got: request.body }))
    await app.ready()

    t.equal(meta.name, `fleet-${name}`)
    t.equal(meta.fastify, '5.x')
    if (name !== 'auth') t.same((await app.inject({ method: 'POST', url: '/own', payload: { a: 1 } })).json(), { got: { a: 1 } })
    await app.close()
  })
}

for (const name of names) {
  t.test(`${name} without what it needs says which plugin comes first`, async t => {
    const { plugin, meta } = await load(name)
    const [decorator] = meta.decorators?.fastify ?? []
    if (decorator === undefined) return t.pass('it needs nothing')
    const app = Fastify()
    t.teardown(() => app.close())

    await t.rejects(async () => { await app.register(plugin, needed[name] ?? {}) }, { message: `The decorator '${decorator}' required by '${meta.name}' is not present in Fastify` })
    t.ok(names.includes(decorator), 'the decorator is named after the plugin that brings it')
  })
}
