/** What may be configured of authentication. */
import { rateLimitFields } from '../../src/agent-options.ts'
import { Options, Type, type StaticDecode } from '../../src/options.ts'
import { scopes, type Scope } from '../../src/principal.ts'

const Token = (description: string) => Type.String({ minLength: 8, maxLength: 4_096, pattern: '^[!-~]+$', errorMessage: 'must be 8 or more printable characters without spaces', writeOnly: true, description })

export const KeyOptions = Type.Object({
  id: Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$', errorMessage: 'must match [A-Za-z0-9][A-Za-z0-9._-]{0,63}', description: 'Name of the key, in logs and rate limits.' }),
  token: Type.Optional(Token('The token itself.')),
  tokenFile: Type.Optional(Type.String({ minLength: 1, description: 'File that holds the token.' })),
  tokenSha256: Type.Optional(Type.String({ pattern: '^[0-9a-fA-F]{64}$', errorMessage: 'must be 64 hexadecimal digits', writeOnly: true, description: 'SHA-256 of the token, in hexadecimal.' })),
  scopes: Type.Array(Type.Unsafe<Scope>({ type: 'string', enum: [...scopes], errorMessage: `must be one of ${scopes.join(', ')}` }), { minItems: 1, description: 'What the key may do.' }),
  agents: Type.Optional(Type.Array(Type.String({ minLength: 1 }), { minItems: 1, description: 'Names of the agents it may use or change, or "*"; all when left out.' })),
  rateLimit: Type.Optional(Type.Object(rateLimitFields, { additionalProperties: false, description: 'Overrides the gateway\'s rate limit for this key.' }))
}, { additionalProperties: false })

export const AuthOptions = Options({
  enabled: Type.Boolean({ default: true, description: 'Whether a token is asked for at all.' }),
  secret: Type.Optional(Token('The one shared secret; it may do everything.')),
  secretFile: Type.Optional(Type.String({ minLength: 1, description: 'File that holds the shared secret.' })),
  keys: Type.Array(KeyOptions, { default: [], description: 'Named keys, several valid at once.' })
}, 'Who may do what.')

export type AuthOptions = StaticDecode<typeof AuthOptions>
export type KeyOptions = StaticDecode<typeof KeyOptions>
