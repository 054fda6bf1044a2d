/** What may be configured of the registry. */
import { Options, Type, type StaticDecode } from '../../src/options.ts'

export const RegistryOptions = Options({
  allowedHosts: Type.Optional(Type.Array(Type.String({ minLength: 1 }), { minItems: 1, description: 'Hosts a registration may name: names, suffixes such as ".internal", CIDRs. Any that is not refused anyway when left out.' })),
  maxAgents: Type.Integer({ default: 10_000, minimum: 1, maximum: 1_000_000, description: 'The most agents that registrations may bring the fleet to.' }),
  stateDir: Type.Optional(Type.String({ minLength: 1, description: 'Folder for what is kept over a restart; .fleet beside fleet.yaml when left out.' }))
}, 'Which instances serve which agent.')

export type RegistryOptions = StaticDecode<typeof RegistryOptions>
