/** What may be configured of discovery, in code: fleet.yaml can't name itself. */
import { FileAgentOptions } from '../../src/agent-options.ts'
import { Options, Type, type StaticDecode } from '../../src/options.ts'

export const DiscoveryOptions = Options({
  agents: Type.Array(FileAgentOptions, { default: [], description: 'Agents that are always there, in the form of fleet.yaml.' }),
  file: Type.Optional(Type.String({ minLength: 1, description: 'A fleet.yaml to load and to watch.' })),
  intervalMs: Type.Integer({ default: 250, minimum: 10, maximum: 60_000, description: 'How often the file is looked at, in milliseconds.' })
}, 'Where the fleet is read from.')

export type DiscoveryOptions = StaticDecode<typeof DiscoveryOptions>
