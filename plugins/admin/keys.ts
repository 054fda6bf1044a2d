/**
 * Named keys over HTTP: which there are, and the end of one. Never a token, and never a digest.
 */
import type { FastifyInstance } from 'fastify'
import type {} from '../auth/index.ts'
import type { ConfiguredKey } from '../auth/index.ts'
import type {} from '../revocations/index.ts'
import { ForbiddenError, KeyNotFoundError } from '../../src/errors.ts'
import { nearestNames } from '../../src/fleet/nearest-names.ts'
import { mayTouch, type Principal } from '../../src/principal.ts'

/** Adds `/keys` where there are keys and what revokes them. */
export function addKeyRoutes (fastify: FastifyInstance): void {
  if (!fastify.hasDecorator('auth') || !fastify.hasDecorator('revocations')) return
  const { auth, revocations } = fastify
  const managing = { config: { fleet: { scope: 'admin' } } } as const

  fastify.get('/keys', managing, async ({ principal }) => auth.keys().filter(key => mayManage(principal, key)).map(viewOf))

  fastify.delete<{ Params: { id: string } }>('/keys/:id', managing, async ({ params: { id }, principal }) => {
    const known = auth.keys()
    const meant = known.filter(key => key.id === id)
    if (meant.length === 0) throw unknownKey(id, known.filter(key => mayManage(principal, key)))
    if (!meant.every(key => mayManage(principal, key))) throw new ForbiddenError(`This key may not revoke "${id}", which is for other agents as well`)
    await revocations.revoke(id, meant.map(({ digest }) => digest))
    return { message: `revoked ${id}`, id, shared: revocations.areShared }
  })

  function viewOf ({ id, digest, principal: { scopes, agents } }: ConfiguredKey) {
    const revocation = revocations.find(digest)
    return { id, scopes, agents: agents === '*' ? ['*'] : agents, revoked: revocation !== undefined, ...(revocation && { revoked_at: new Date(revocation.at).toISOString() }) }
  }

  function unknownKey (id: string, known: readonly ConfiguredKey[]) {
    if (!auth.enabled) return new KeyNotFoundError('Auth is off at this gateway: it knows no keys')
    const nearest = nearestNames(id, new Set(known.map(key => key.id)))
    return new KeyNotFoundError(`No key is configured as "${id.slice(0, 64)}"${nearest.length === 0 ? '' : `; did you mean "${nearest[0]}"?`}`, nearest.length === 0 ? {} : { nearest })
  }
}

/** Whether a key may see and end another: an admin for some agents has no say about keys that reach further. */
function mayManage (principal: Principal | null, { principal: { agents } }: ConfiguredKey): boolean {
  return principal?.agents === '*' || (agents !== '*' && agents.every(name => mayTouch(principal, name)))
}
