/**
 * Which commands there are, and what each is for. What a command needs is loaded when it is called: the gateway, its schemas and its client take
 * longer to load than a command that only asks takes in all.
 */
import type { Command } from 'commander'
import type { CommandIo } from './io.ts'

interface CommandEntry {
  readonly name: string
  /** For the help: what it does. */
  readonly about: string
  readonly load: () => Promise<(io: CommandIo) => Command>
}

/** In the order in which somebody new needs them. */
export const commands: readonly CommandEntry[] = [
  {
    name: 'serve',
    about: 'run the gateway',
    load: async () => (await import('./serve.ts')).serveCommand
  },
  {
    name: 'onboard',
    about: 'write a commented fleet.yaml: asks for your agents on a terminal, takes them from --agent, or finds them with --scan',
    load: async () => (await import('./onboard.ts')).onboardCommand
  },
  {
    name: 'check',
    about: 'say whether a fleet.yaml is valid, and if not, all that is wrong with it',
    load: async () => (await import('./check.ts')).checkCommand
  },
  {
    name: 'key',
    about: 'make, list and revoke keys: named tokens with rights of their own, in fleet.yaml',
    load: async () => (await import('./key.ts')).keyCommand
  },
  {
    name: 'test',
    about: 'test the gateway, the token, whether what runs is what fleet.yaml says, and every instance through the gateway; exit 1 when something fails',
    load: async () => (await import('./test.ts')).testCommand
  },
  {
    name: 'explain',
    about: 'say what the gateway would do with a request, without making it: route, rights, policies, instance and why',
    load: async () => (await import('./explain.ts')).explainCommand
  },
  {
    name: 'agents',
    about: 'list the agents, or one with its instances',
    load: async () => (await import('./agents.ts')).agentsCommand
  },
  {
    name: 'routes',
    about: 'show which path leads to which agent and instance',
    load: async () => (await import('./routes.ts')).routesCommand
  },
  {
    name: 'health',
    about: 'say how the fleet is; exit 1 when an agent has no instance that can serve',
    load: async () => (await import('./health.ts')).healthCommand
  },
  {
    name: 'stats',
    about: 'show counters and latencies since the gateway started',
    load: async () => (await import('./stats.ts')).statsCommand
  },
  {
    name: 'top',
    about: 'watch the agents in the terminal: state, requests a second, errors, latencies, and what is wrong',
    load: async () => (await import('./top.ts')).topCommand
  },
  {
    name: 'logs',
    about: 'show the last requests, and follow those that come',
    load: async () => (await import('./logs.ts')).logsCommand
  },
  {
    name: 'register',
    about: 'add an instance of an agent to the fleet, or change what is known of it',
    load: async () => (await import('./register.ts')).registerCommand
  },
  {
    name: 'deregister',
    about: 'take an agent, or one instance of it, out of the fleet',
    load: async () => (await import('./deregister.ts')).deregisterCommand
  },
  {
    name: 'run',
    about: 'start a program with a port of its own, and keep it in the fleet while it runs',
    load: async () => (await import('./run.ts')).runCommand
  }
]
