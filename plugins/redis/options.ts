/** What may be configured of Redis. */
import { agentTlsFields } from '../../src/agent-options.ts'
import { Options, Type, type StaticDecode } from '../../src/options.ts'

const TlsOptions = Type.Object({
  ...agentTlsFields,
  serverName: Type.Optional(Type.String({ minLength: 1, examples: ['redis.internal'], description: 'The name that is asked for (SNI) and that the certificate must have; the host of `url` when left out.' }))
}, { additionalProperties: false, description: 'How the gateway connects to a server that speaks TLS (`rediss://`).' })

export const RedisOptions = Options({
  url: Type.Optional(Type.String({ mayHoldPassword: true, pattern: '^rediss?://.', errorMessage: 'must begin with redis:// or rediss://', examples: ['redis://redis.internal:6379/0'], description: 'The server: `redis://[user[:password]@]host[:port][/database]`, or `rediss://` for TLS. Without it nothing is shared.' })),
  passwordFile: Type.Optional(Type.String({ minLength: 1, examples: ['/run/secrets/redis'], description: 'File that holds the password, alone on one line; it stands before the one in `url`.' })),
  keyPrefix: Type.String({ default: 'fleet:', pattern: '^[^{}\\s]{0,64}$', errorMessage: 'must be 64 or fewer characters without spaces and braces', description: 'What every key and channel of this fleet begins with: fleets with different ones share a server and nothing else.' }),
  tls: Type.Optional(TlsOptions)
}, 'One Redis, or Valkey, for several gateways that act as one.')

export type RedisOptions = StaticDecode<typeof RedisOptions>
