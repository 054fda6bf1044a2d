/** Which connections to an agent carry requests: an agent that remembers them, and the requests that one sends it. */
import type { Socket } from 'node:net'
import type { Test } from 'tap'
import { rawAgent } from './fake-agent.ts'
import { askStrictly } from './strict-client.ts'

/** An agent that answers byte by byte, and which connections carried requests. */
export async function countingAgent (t: Test, answer: (socket: Socket, request: string) => void) {
  const used = new Set<Socket>()
  const agent = await rawAgent(t, (socket, chunk) => {
    used.add(socket)
    for (const [request] of chunk.toString('latin1').matchAll(/[A-Z]+ \S+ HTTP\/1\.1\r\n/g)) answer(socket, request)
  })
  return { agent, used }
}

/** Asks the agent `planner` through the gateway at this port. */
export function get (port: number, path = '', method = 'GET') {
  return askStrictly(port, method, `${method} /api/planner/${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`)
}
