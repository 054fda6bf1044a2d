/** Requests on a connection that stays, for what depends on who opened it. */
import { request as httpRequest, type Agent } from 'node:http'
import type { ListeningGateway } from './build-gateway.ts'

/** One request to the agent `planner`. @param agent keeps the connection. @returns also the client's port, which tells connections apart */
export function onConnection ({ port }: ListeningGateway, agent: Agent, headers: Record<string, string>): Promise<{ status: number, localPort: number }> {
  return new Promise((resolve, reject) => {
    const outgoing = httpRequest({ host: '127.0.0.1', port, path: '/api/planner/x', agent, headers }, response => {
      const { localPort = 0 } = response.socket
      response.resume().on('end', () => resolve({ status: response.statusCode!, localPort }))
    })
    outgoing.on('error', reject).end()
  })
}
