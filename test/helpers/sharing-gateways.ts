/** Several gateways that share a fleet by a real Redis, in tests: how they are started, asked, and cut off from it. */
import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { setTimeout as wait } from 'node:timers/promises'
import type { Test } from 'tap'
import type { FleetGatewayOptions } from '../../src/gateway.ts'
import { startGateway, unprobed, type ListeningGateway } from './build-gateway.ts'
import type { RedisServer } from './redis-server.ts'

/** Longer than anything here takes, on a busy machine. */
const patienceMs = 20_000

/** Resolves when it is so; what is looked at here tells nobody that it changed. */
export async function until (isSo: () => boolean | Promise<boolean>, what: string): Promise<void> {
  for (const end = Date.now() + patienceMs; !await isSo();) {
    if (Date.now() > end) throw new Error(`It never was so: ${what}`)
    await wait(10)
  }
}

export interface Answer<B = Record<string, unknown>> { status: number, headers: Headers, body: B }

export async function ask<B = Record<string, unknown>> (gateway: ListeningGateway, method: string, path: string, body?: object): Promise<Answer<B>> {
  const answer = await fetch(gateway.origin + path, { method, ...(body !== undefined && { headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) }) })
  return { status: answer.status, headers: answer.headers, body: await answer.json() as B }
}

export const register = (gateway: ListeningGateway, body: object) => ask<{ instance: { id: string } }>(gateway, 'POST', '/registry/register', body)

export function ports (gateway: ListeningGateway, name: string): number[] {
  return (gateway.registry.find(name)?.instances ?? []).map(({ port }) => port).sort()
}

/** A prefix of keys that is the test's own. */
export const keyPrefixOf = ({ name }: Test) => `${name.replaceAll(/[^a-z]+/g, '-').slice(0, 60)}:`

/** Gateways that share everything under a prefix of the test's own. */
export async function gatewaysOn (t: Test, url: string, count: number, options: FleetGatewayOptions = {}): Promise<ListeningGateway[]> {
  const keyPrefix = keyPrefixOf(t)
  return await Promise.all(Array.from({ length: count }, () => startGateway(t, { ...unprobed, ...options, redis: { url, keyPrefix } })))
}

/** A way to Redis that can be cut. */
export async function cutter (t: Test, { port }: RedisServer) {
  const pairs = new Set<{ client: Socket, upstream: Socket, subscribes: boolean }>()
  let isMute = false
  const server = createServer(client => {
    const pair = { client, upstream: connect(port, '127.0.0.1'), subscribes: false }
    const { upstream } = pair
    pairs.add(pair)
    for (const socket of [client, upstream]) socket.on('error', () => {}).on('close', () => { pairs.delete(pair); client.destroy(); upstream.destroy() })
    client.on('data', data => { if (data.includes('subscribe')) pair.subscribes = true })
    client.pipe(upstream).pipe(client)
    if (isMute) client.unpipe().pause()
  })
  const listen = async (at: number) => {
    server.listen(at, '127.0.0.1')
    await once(server, 'listening')
  }
  await listen(0)
  const { port: own } = server.address() as AddressInfo
  const cut = async () => {
    if (!server.listening) return
    const closed = once(server, 'close')
    server.close()
    for (const { client, upstream } of pairs) [client, upstream].forEach(socket => socket.destroy())
    await closed
  }
  t.teardown(cut)
  return {
    url: `redis://127.0.0.1:${own}`,
    cut,
    async mend () {
      isMute = false
      await listen(own)
    },
    /** Nothing more passes on what is open, and neither end is told; new connections are as ever. */
    freeze () { for (const { client, upstream } of pairs) [client, upstream].forEach(socket => socket.unpipe().pause()) },
    /** What was said on frozen connections arrives. */
    thaw () { for (const { client, upstream } of pairs) client.pipe(upstream).pipe(client) },
    /** Nothing more reaches Redis, also by new connections; what it says still arrives. */
    mute () {
      isMute = true
      for (const { client } of pairs) client.unpipe().pause()
    },
    /** The gateway hears of no change any more, and asks and is answered as ever. */
    deafen () { for (const { client, upstream, subscribes } of pairs) if (subscribes) upstream.unpipe(client).pause() }
  }
}

/** Two gateways, each with a line of its own. */
export async function twoOn (t: Test, redis: RedisServer) {
  const lines = [await cutter(t, redis), await cutter(t, redis)] as const
  const [[a], [b]] = await Promise.all(lines.map(({ url }) => gatewaysOn(t, url, 1))) as [[ListeningGateway], [ListeningGateway]]
  return { a, b, lineOfA: lines[0], lineOfB: lines[1] }
}

/** Resolves when the gateway has what the others have, and takes changes. */
export const sharing = (gateway: ListeningGateway) => until(() => gateway.registrations.isAvailable, 'it shares the registry')

/** Each comes back when the one before it shares again. */
export async function mendInTurn (ways: readonly [gateway: ListeningGateway, line: { mend (): Promise<void> }][]): Promise<void> {
  for (const [gateway, line] of ways) {
    await line.mend()
    await sharing(gateway)
  }
}
