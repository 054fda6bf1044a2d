/** What may be configured of the listener and its end. */
import { Duration, Options, Size, Type, type StaticDecode } from './options.ts'

/** The least version of TLS. YAML reads it as a number. */
const MinVersion = Type.Unsafe<1.2 | 1.3>({
  whenLeftOut: 1.2,
  anyOf: [{ const: 1.2 }, { const: 1.3 }],
  errorMessage: 'must be 1.2 or 1.3',
  description: 'The least version of TLS that clients must speak.'
})

const FileName = (description: string, example: string) => Type.String({ minLength: 1, examples: [example], description })

const TlsOptions = Type.Object({
  certFile: FileName('The certificate in PEM form, with the chain behind it.', '/etc/ssl/fleet/fullchain.pem'),
  keyFile: FileName('Its private key in PEM form.', '/etc/ssl/fleet/privkey.pem'),
  passphraseFile: Type.Optional(FileName('What the key is encrypted with, alone on one line.', '/run/secrets/fleet-passphrase')),
  minVersion: Type.Optional(MinVersion)
}, { additionalProperties: false, description: 'Speak HTTPS instead of HTTP.' })

export const ServerOptions = Options({
  host: Type.String({ default: '127.0.0.1', minLength: 1, examples: ['0.0.0.0'], description: 'Address to listen on: `127.0.0.1` for this machine alone, `0.0.0.0` or `::` for everybody.' }),
  port: Type.Integer({ default: 9001, minimum: 0, maximum: 65_535, description: 'Port to listen on; `0` for any free one.' }),
  trustedProxies: Type.Array(Type.String({ minLength: 1 }), { default: [], examples: [['10.0.0.0/8']], description: 'Addresses and CIDRs of the proxies in front of the gateway; their `X-Forwarded-*` and `Forwarded` are believed, and nobody else\'s.' }),
  bodyLimit: Type.Optional(Size({ minimum: 1, description: 'The largest request body that is forwarded, streamed ones included; unlimited when left out.' })),
  drainDelay: Duration({ default: '0s', description: 'At the end, the time between `/health/ready` turning 503 and the listener closing: what a load balancer needs to notice.' }),
  drainTimeout: Duration({ default: '30s', description: 'How long what is in flight may take to finish after that; then event streams and WebSockets are closed.' }),
  tls: Type.Optional(TlsOptions)
}, 'The listener, and its end.')

export type ServerOptions = StaticDecode<typeof ServerOptions>
