/** What may be configured of authentication. */
import { rateLimitFields } from '../../src/agent-options.ts'
import { Options, Type, type Static, type StaticDecode } from '../../src/options.ts'
import { scopes, type Scope } from '../../src/principal.ts'
import { tokenLength } from '../../src/token-file.ts'
import { JwtOptions, type JwtInput } from './jwt-options.ts'

const Token = (description: string) => Type.String({ minLength: tokenLength.least, maxLength: tokenLength.most, pattern: '^[!-~]+$', errorMessage: `must be ${tokenLength.least} or more printable characters without spaces`, writeOnly: true, description })

export const KeyOptions = Type.Object({
  id: Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$', errorMessage: 'must match [A-Za-z0-9][A-Za-z0-9._-]{0,63}', description: 'Name of the key in logs and rate limits; each has its own.' }),
  token: Type.Optional(Token('The token itself. A key has this, `tokenFile` or `tokenSha256`.')),
  tokenFile: Type.Optional(Type.String({ minLength: 1, examples: ['/run/secrets/build-bot'], description: 'File that holds the token.' })),
  tokenSha256: Type.Optional(Type.String({ pattern: '^[0-9a-fA-F]{64}$', errorMessage: 'must be 64 hexadecimal digits', writeOnly: true, description: 'SHA-256 of the token, in hexadecimal: `printf %s TOKEN | sha256sum`.' })),
  scopes: Type.Array(Type.Unsafe<Scope>({ type: 'string', enum: [...scopes], errorMessage: `must be one of ${scopes.join(', ')}` }), { minItems: 1, examples: [['proxy', 'register']], description: 'What the key may do: `read` sees the fleet, `proxy` uses the agents, `register` changes the fleet, `admin` is everything.' }),
  agents: Type.Optional(Type.Array(Type.String({ minLength: 1 }), { minItems: 1, examples: [['git-agent']], description: 'Names of the agents it may use or change, or `*`; all when left out.' })),
  rateLimit: Type.Optional(Type.Object(rateLimitFields, { additionalProperties: false, description: 'Overrides the gateway\'s limits for this key.' }))
}, { additionalProperties: false })

export const AuthOptions = Options({
  enabled: Type.Boolean({ default: true, description: 'Whether a token is asked for at all. When not, whoever reaches the port may do everything.' }),
  secret: Type.Optional(Token('The one shared secret; it may do everything. Better in a file, or in `FLEET_SECRET`.')),
  secretFile: Type.Optional(Type.String({ minLength: 1, examples: ['/run/secrets/fleet'], description: 'File that holds the shared secret.' })),
  keys: Type.Array(KeyOptions, { default: [], description: 'Named keys with rights of their own, several valid at once.' }),
  jwt: Type.Optional(JwtOptions)
}, 'Who may do what: one shared secret, named keys, JSON Web Tokens, or several of these.')

export type AuthOptions = StaticDecode<typeof AuthOptions>
/** As it is written: what is left out has its default. */
export type AuthInput = Partial<Omit<Static<typeof AuthOptions>, 'jwt'>> & { jwt?: JwtInput }
export type KeyOptions = StaticDecode<typeof KeyOptions>
