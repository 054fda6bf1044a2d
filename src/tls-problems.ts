/** What is wrong with the certificates and keys that a configuration names, as errors of it: they are read when the gateway starts. */
import type { FleetConfig } from './config.ts'
import type { OptionError } from './options.ts'
import { agentTlsProblems } from './tls-agents.ts'
import { readListenerPair } from './tls-listener.ts'

/** All of them, of the listener and of agents. */
export function tlsProblems ({ server, agents }: Pick<FleetConfig, 'server' | 'agents'>): OptionError[] {
  return [...server.tls === undefined ? [] : readListenerPair(server.tls).problems, ...agentTlsProblems(agents)]
}
