/**
 * Requests to the gateway that this page came from, with the token of this tab.
 */
import { signal } from '@preact/signals'
import type { Scope, You } from '../wire.ts'

/** Where the gateway is, whatever prefix it was given: one level up from this page. */
const base = new URL('../', document.baseURI)

const tokenKey = 'fleet-console-token'

/** The token of this tab; null before anybody signed in, and where nobody has to. */
export const token = signal<string | null>(sessionStorage.getItem(tokenKey))

/** Who the gateway takes us for. */
export const you = signal<You | null>(null)

/** Keeps the token until the tab is closed. */
export function keepToken (text: string | null): void {
  if (text === null) sessionStorage.removeItem(tokenKey)
  else sessionStorage.setItem(tokenKey, text)
  token.value = text
}

/** @param path without a slash at its beginning */
export function addressOf (path: string): URL {
  return new URL(path, base)
}

/** Whether the gateway lets us do that. What it refuses all the same it says itself. */
export function may (scope: Scope): boolean {
  const scopes = you.value?.scopes ?? []
  return scopes.includes(scope) || scopes.includes('admin')
}

/** An answer that is no success. */
export class Refusal extends Error {
  readonly status: number
  readonly fields: readonly { path: string, message: string }[]

  constructor (status: number, message: string, fields: readonly { path: string, message: string }[] = []) {
    super(message)
    this.status = status
    this.fields = fields
  }
}

/** The token, in a header of its own: `Authorization` may be meant for an agent. */
export function credentials (): Record<string, string> {
  return token.value === null ? {} : { 'x-fleet-token': token.value }
}

/** What an answer that is no success says of itself. */
export async function refusalOf (response: Response): Promise<Refusal> {
  const problem = await response.json().catch(() => ({})) as { detail?: string, title?: string, errors?: { path: string, message: string }[] }
  return new Refusal(response.status, problem.detail ?? problem.title ?? `${response.status} ${response.statusText}`, problem.errors)
}

/** Asks the gateway, and gives the body of its answer. @throws Refusal */
export async function ask<T> (method: string, path: string, body?: object): Promise<T> {
  const response = await fetch(addressOf(path), {
    method,
    headers: { ...credentials(), ...(body && { 'content-type': 'application/json' }) },
    ...(body && { body: JSON.stringify(body) })
  }).catch(() => { throw new Refusal(0, 'The gateway can\'t be reached') })
  if (!response.ok) throw await refusalOf(response)
  return await response.json() as T
}
