/** What may be configured of cross-origin requests. */
import { Duration, Options, Type, type StaticDecode } from '../../src/options.ts'

export const CorsOptions = Options({
  enabled: Type.Boolean({ default: true, description: 'Whether the gateway answers for cross-origin requests, in the agents\' place too; off, the agents do.' }),
  origins: Type.Array(Type.String({ pattern: '^(\\*|[a-z][a-z0-9+.-]*://[^/\\s]+|null)$', errorMessage: 'must be "*" or an origin such as "https://app.example.com"' }), { default: ['*'], minItems: 1, examples: [['https://app.example.com']], description: 'Origins that may call; `*` is any. With auth off and nothing said here, only origins of this machine.' }),
  methods: Type.Array(Type.String({ pattern: '^[A-Z-]+$', errorMessage: 'must be a method in capitals' }), { default: ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'], minItems: 1, description: 'Methods a preflight allows.' }),
  headers: Type.Optional(Type.Array(Type.String({ pattern: '^[!#$%&\'*+.^_`|~0-9A-Za-z-]+$', errorMessage: 'must be the name of a header' }), { examples: [['Authorization', 'Content-Type']], description: 'Request headers a preflight allows; whatever it asks for when left out.' })),
  credentials: Type.Boolean({ default: false, description: 'Whether cookies may come along; not with origin `*`.' }),
  maxAge: Type.Optional(Duration({ description: 'How long a browser may keep the answer to a preflight; for it to choose when left out.' }))
}, 'Cross-origin requests of browsers.')

export type CorsOptions = StaticDecode<typeof CorsOptions>
