/** What may be configured of the registry. */
import { Options, Type, type StaticDecode } from '../../src/options.ts'

export const RegistryOptions = Options({
  allowedHosts: Type.Optional(Type.Array(Type.String({ minLength: 1 }), {
    minItems: 1,
    examples: [['localhost', '.internal', '10.0.0.0/8']],
    description: 'Hosts that a registration may name: names, suffixes such as `.internal`, addresses, CIDRs. ' +
      'What a name resolves to must be among the addresses and CIDRs, if there are any. All that is not refused anyway when left out.'
  })),
  maxAgents: Type.Integer({
    default: 10_000,
    minimum: 1,
    maximum: 1_000_000,
    description: 'The most agents that registrations may bring the fleet to.'
  }),
  stateDir: Type.Optional(Type.String({
    minLength: 1,
    examples: ['/var/lib/fleet'],
    description: 'Folder for what is kept over a restart: registrations, and a secret that the gateway made; ' +
      '`.fleet` beside fleet.yaml when left out.'
  }))
}, 'Who may register where, and what is kept of it.')

export type RegistryOptions = StaticDecode<typeof RegistryOptions>
