/** Auth with registry and facts in a bare Fastify, and routes that tell who was let in. */
import Fastify, { type FastifyServerOptions } from 'fastify'
import type { Test } from 'tap'
import auth, { type AuthPluginOptions } from '../../plugins/auth/index.ts'
import facts from '../../plugins/facts/index.ts'
import registry from '../../plugins/registry/index.ts'
import type { Principal } from '../../src/principal.ts'
import { fakeClock } from './fake-clock.ts'

interface Seen { principal: Principal | null, authorizationIsGateways: boolean, facts: { keyId: string | null } }

async function who ({ principal, authorizationIsGateways, facts: { keyId } }: Seen) {
  return { id: principal?.id, scopes: principal?.scopes ?? null, agents: principal?.agents, named: principal?.named, strip: authorizationIsGateways, keyId }
}

/** The agents are `planner` (also `plan`) and `writer`. */
export async function authApp (t: Test, options: AuthPluginOptions, server: FastifyServerOptions = {}) {
  const clock = fakeClock()
  const app = Fastify(server)
  t.teardown(() => app.close())
  await app.register(facts)
  await app.register(registry, { clock })
  app.registry.register({ name: 'planner', aliases: ['plan'], host: 'localhost', port: 8501 })
  app.registry.register({ name: 'writer', host: 'localhost', port: 8502 })
  await app.register(auth, { clock, ...options })
  app.get('/undeclared', who)
  app.get('/public', { config: { fleet: { public: true } } }, who)
  app.get('/optional', { config: { fleet: { optionalAuth: true } } }, who)
  for (const scope of ['read', 'register', 'admin'] as const) app.get(`/${scope}`, { config: { fleet: { scope } } }, who)
  app.get('/agents/:name', { config: { fleet: { scope: 'read' } } }, who)
  app.route({ method: ['GET', 'POST', 'DELETE'], url: '/api/*', config: { fleet: { scope: 'proxy' } }, handler: who })
  app.get('/api', { config: { fleet: { scope: 'proxy' } } }, who)
  const ask = (url: string, headers: Record<string, string | string[]> = {}, remoteAddress = '192.0.2.1') => app.inject({ url, headers, remoteAddress })
  const bearer = (url: string, token: string, remoteAddress?: string) => ask(url, { authorization: `Bearer ${token}` }, remoteAddress)
  return { app, clock, ask, bearer }
}
