/** An application with auth, and an issuer of JWTs that it believes. */
import { Writable } from 'node:stream'
import type { Test } from 'tap'
import type { AuthPluginOptions } from '../../plugins/auth/index.ts'
import { authApp } from './auth-app.ts'
import { jwtIssuer } from './jwt-issuer.ts'

/** As authApp(); what it logs is kept, debug lines included. */
export async function loggedAuthApp (t: Test, options: AuthPluginOptions) {
  let said = ''
  const stream = new Writable({ write (chunk, _encoding, done) { said += String(chunk); done() } })
  return { ...await authApp(t, options, { logger: { level: 'debug', stream } }), said: () => said }
}

/** Both; the issuer's keys are there already. */
export async function jwtPair (t: Test, more: object = {}, options: AuthPluginOptions = {}) {
  const issuer = await jwtIssuer(t)
  const gateway = await loggedAuthApp(t, { ...options, jwt: { ...issuer.jwt, ...more } })
  await gateway.bearer('/read', await issuer.token())
  t.equal(issuer.asked(), 1)
  return { issuer, ...gateway }
}
