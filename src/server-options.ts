/** What may be configured of the listener and its end. */
import { Duration, Options, Size, Type, type StaticDecode } from './options.ts'

export const ServerOptions = Options({
  host: Type.String({ default: '127.0.0.1', minLength: 1, description: 'Address to listen on; 0.0.0.0 or :: for all.' }),
  port: Type.Integer({ default: 9001, minimum: 0, maximum: 65_535, description: 'Port to listen on; 0 for any free one.' }),
  trustedProxies: Type.Array(Type.String({ minLength: 1 }), { default: [], description: 'Addresses and CIDRs whose forwarding headers are believed.' }),
  bodyLimit: Type.Optional(Size({ minimum: 1, description: 'The largest request body that is forwarded; unlimited when left out.' })),
  drainDelay: Duration({ default: '0s', description: 'Between readiness turning 503 and the listener closing.' }),
  drainTimeout: Duration({ default: '30s', description: 'How long what is in flight may take to finish.' })
}, 'The listener.')

export type ServerOptions = StaticDecode<typeof ServerOptions>
