/**
 * What somebody sees who opens the gateway's root: a short index of its routes.
 */
import type { FastifyReply, FastifyRequest, HTTPMethods } from 'fastify'
import { addVary, qualityOf } from '../../src/negotiation.ts'

interface IndexEntry { path: string, methods: string, about: string }

const entries: readonly IndexEntry[] = [
  { path: '/api/{agent}/{path}', methods: 'any', about: 'the agent\'s own answer' },
  { path: '/health', methods: 'GET', about: 'state of the fleet' },
  { path: '/health/live', methods: 'GET', about: 'the process serves' },
  { path: '/health/ready', methods: 'GET', about: 'the gateway takes requests' },
  { path: '/agents', methods: 'GET', about: 'all agents, or one by name or alias' },
  { path: '/registry', methods: 'GET', about: 'instances, leases and policies' },
  { path: '/registry/register', methods: 'POST', about: 'register an instance' },
  { path: '/registry/{name}/instances/{id}', methods: 'PUT, DELETE', about: 'heartbeat, removal' },
  { path: '/registry/{name}/instances/{id}/probe', methods: 'POST', about: 'ask that instance now' },
  { path: '/registry/{name}', methods: 'DELETE', about: 'removal of an agent' },
  { path: '/keys', methods: 'GET', about: 'the named keys' },
  { path: '/keys/{id}', methods: 'DELETE', about: 'the end of a key, at every gateway' },
  { path: '/stats', methods: 'GET', about: 'counters and latencies' },
  { path: '/explain', methods: 'GET', about: 'what would become of a request' },
  { path: '/metrics', methods: 'GET', about: 'the same and more, for Prometheus' },
  { path: '/audit', methods: 'GET', about: 'the last requests, or each as it finishes' },
  { path: '/openapi.json', methods: 'GET', about: 'this API as an OpenAPI document' },
  { path: '/docs', methods: 'GET', about: 'the same as a page' },
  { path: '/console/', methods: 'GET', about: 'the fleet in a browser' }
]

/** Answers with HTML to who prefers it, else with JSON. @param prefix where the gateway is mounted */
export function answerIndex (request: FastifyRequest, reply: FastifyReply, prefix: string): FastifyReply {
  addVary(reply, 'accept')
  // Plugins may be switched off, or left out by an application.
  const isThere = ({ path, methods }: IndexEntry) => methods === 'any' || methods.split(', ').every(method => request.server.hasRoute({ method: method as HTTPMethods, url: prefix + path.replaceAll(/\{(\w+)\}/g, ':$1') }))
  const known = entries.filter(isThere)
  const hasConsole = known.some(({ path }) => path === '/console/')
  const routes = known.map(entry => ({ ...entry, path: prefix + entry.path }))
  const accept = request.headers.accept?.toLowerCase() ?? ''
  const wantsPage = accept.includes('text/html') ? qualityOf('text/html', accept) : 0
  if (wantsPage === 0 || wantsPage < qualityOf('application/json', accept)) return reply.send({ name: 'Fleet Gateway', routes })
  const rows = routes.map(({ path, methods, about }) => `<tr><td><code>${escapeHtml(path)}</code></td><td>${methods}</td><td>${about}</td></tr>`).join('\n')
  return reply
    .type('text/html; charset=utf-8')
    .header('content-security-policy', "default-src 'none'; style-src 'unsafe-inline'")
    .send(`<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Fleet Gateway</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:3rem auto;padding:0 1rem;color-scheme:light dark}td{padding:.2rem 1rem .2rem 0;vertical-align:top}</style>
<h1>Fleet Gateway</h1>
<p>One HTTP front door to a fleet of agents.${hasConsole ? ` <a href="${escapeHtml(prefix)}/console/">Open the console</a>` : ''}</p>
<table>
${rows}
</table>
</html>
`)
}

function escapeHtml (text: string): string {
  return text.replace(/[&<>"]/g, character => `&#${character.charCodeAt(0)};`)
}
