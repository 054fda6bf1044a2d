/** What may be configured of JWT bearer tokens. */
import { Duration, Type, type Static, type StaticDecode } from '../../src/options.ts'
import { scopes, type Scope } from '../../src/principal.ts'

/** What tokens may be signed with: a public key verifies, so that whoever can read it can't sign. Those with a shared secret, and `none`, are not among them. */
const algorithms = ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'ES512', 'EdDSA', 'Ed25519'] as const

type Algorithm = typeof algorithms[number]

const Claim = (name: string, description: string) => Type.String({ minLength: 1, default: name, description })

export const JwtOptions = Type.Object({
  issuer: Type.String({ minLength: 1, examples: ['https://login.example.com/realms/fleet'], description: 'Who signs the tokens: their `iss`, to the letter.' }),
  audience: Type.String({ minLength: 1, examples: ['fleet-gateway'], description: 'Whom the tokens are for: one of their `aud`.' }),
  jwksUrl: Type.Optional(Type.String({ minLength: 1, examples: ['https://login.example.com/realms/fleet/protocol/openid-connect/certs'], description: 'Where the issuer\'s public keys are (a JWK Set). `https`, or `http` on loopback. This or `jwksFile` is needed.' })),
  jwksFile: Type.Optional(Type.String({ minLength: 1, examples: ['/etc/fleet/jwks.json'], description: 'File that holds the issuer\'s public keys as a JWK Set.' })),
  jwksMaxAge: Duration({ default: '10m', minimumMs: 10_000, maximumMs: 86_400_000, description: 'How long fetched keys count. They are fetched anew from half of that time on; requests don\'t wait for it.' }),
  jwksCooldown: Duration({ default: '30s', minimumMs: 1_000, maximumMs: 3_600_000, description: 'A token of a key that is not known has the keys fetched again, but no sooner than this after the last time.' }),
  algorithms: Type.Array(Type.Unsafe<Algorithm>({ type: 'string', enum: [...algorithms], errorMessage: `must be one of ${algorithms.join(', ')}` }), { minItems: 1, default: ['RS256', 'PS256', 'ES256', 'EdDSA', 'Ed25519'], description: 'What tokens may be signed with. Shared secrets (`HS256`) and `none` are never taken.' }),
  clockSkew: Duration({ default: '30s', maximumMs: 300_000, description: 'How far the issuer\'s clock may be off: for `exp`, `nbf` and `iat`.' }),
  idClaim: Claim('sub', 'Claim that names the caller, in logs and rate limits: as `jwt:NAME`.'),
  scopeClaim: Claim('scope', 'Claim with what the token may do: `read`, `proxy`, `register`, `admin`, as a list or in one text with spaces between; others in it are ignored. Beside `scope`, `scp` is looked at.'),
  agentsClaim: Claim('agents', 'Claim with the names of the agents it may use or change, or `*`, in the same form.'),
  defaultScopes: Type.Array(Type.Unsafe<Scope>({ type: 'string', enum: [...scopes], errorMessage: `must be one of ${scopes.join(', ')}` }), { default: [], description: 'What a token without the claim may do; nothing when left out.' }),
  defaultAgents: Type.Array(Type.String({ minLength: 1 }), { default: [], description: 'Agents of a token without the claim: names, or `*`; none when left out.' })
}, { additionalProperties: false, description: 'JSON Web Tokens of one issuer, beside secret and keys.' })

export type JwtOptions = StaticDecode<typeof JwtOptions>

type Written = Static<typeof JwtOptions>

/** As it is written: what is left out has its default. */
export type JwtInput = Pick<Written, 'issuer' | 'audience'> & Partial<Written>
