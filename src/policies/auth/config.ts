/**
 * Keys of `identity` (named JWT policies and API key sets) and of a route's `jwt`, `apiKey` and `auth`. Contradictions
 * that need no file and no network are errors here; files are read when the snapshot is compiled.
 */

import { z } from 'zod'
import { cookieName, duration, fieldName, fieldValue, oneOrMore, secret } from '../../config/types.ts'
import { isReservedField } from '../../http/reserved-fields.ts'
import { ASYMMETRIC_ALGORITHMS, HMAC_ALGORITHMS } from './terms.ts'

const algorithm = z.enum([...HMAC_ALGORITHMS, ...ASYMMETRIC_ALGORITHMS])
export type Algorithm = z.output<typeof algorithm>

const forwardName = () =>
  fieldName().refine((name) => !isReservedField(name), { error: 'a framing or hop-by-hop header cannot be set' })

const scalar = z.union([z.string(), z.number(), z.boolean()])

const claimRule = z.union([
  scalar,
  z.strictObject({
    contains: scalar.describe('The claim is a list, or a text of words as in `scope`, with this member.'),
  }),
  z.strictObject({
    oneOf: z.array(scalar).min(1).describe('The claim, or one member of a list, is one of these.'),
  }),
])
export type ClaimRule = z.output<typeof claimRule>

const SOURCE =
  /^(?:header|header:[!#$%&'*+\-.^_`|~0-9A-Za-z]+|cookie:[!#$%&'*+\-.^_`|~0-9A-Za-z]+|query:[A-Za-z0-9_.~-]+)$/

export const jwksConfig = z.strictObject({
  url: z
    .url({ protocol: /^https?$/ })
    .refine((url) => !URL.canParse(url) || new URL(url).username === '', {
      error: 'user and password are not sent; leave them out',
    })
    .describe('Where the key set is fetched. Redirects are not followed.'),
  cacheMaxAge: duration()
    .refine((ms) => ms >= 1000, { error: 'expected at least 1s' })
    .prefault('10m')
    .describe('Age at which the keys should be renewed; the fetch starts at about 80 % of it.'),
  cooldown: duration()
    .refine((ms) => ms >= 100, { error: 'expected at least 100ms' })
    .prefault('30s')
    .describe('Shortest time between two fetches that unknown key ids cause.'),
  staleFor: duration()
    .prefault('24h')
    .describe('How long after `cacheMaxAge` the last good keys still verify while the endpoint fails.'),
})
export type JwksConfig = z.output<typeof jwksConfig>

export const jwtConfig = z
  .strictObject({
    secret: secret().optional().describe('Shared secret for HS256, HS384 and HS512.'),
    publicKey: z
      .string()
      .min(1)
      .optional()
      .describe('File with a public key or certificate (PEM), a JWK or a JWKS; or the PEM text itself.'),
    jwks: jwksConfig.optional().describe('Remote key set of the issuer.'),
    algorithms: z
      .array(algorithm)
      .min(1)
      .optional()
      .describe(
        'Accepted signature algorithms. Default: HS256 with a secret, else every asymmetric one that fits the key.',
      ),
    issuer: oneOrMore(z.string().min(1)).optional().describe('Accepted `iss`; one or a list. Absent: not checked.'),
    audience: oneOrMore(z.string().min(1))
      .optional()
      .describe('Accepted `aud`; one or a list. Absent: not checked, so a token for another service passes.'),
    clockTolerance: duration().prefault('5s').describe('Allowed difference of clocks for `exp`, `nbf` and `maxAge`.'),
    maxAge: duration().optional().describe('Longest time since `iat`, which is then required.'),
    requiredClaims: z
      .record(z.string().min(1), claimRule)
      .default({})
      .describe(
        'Claims that must be there, by name: an exact value, `{ contains: read }` or `{ oneOf: [a, b] }`. Dots reach into objects.',
      ),
    forward: z
      .record(forwardName(), z.string().min(1))
      .default({})
      .describe("Header to claim, such as `x-user-id: sub`. The client's own header of that name is always dropped."),
    tierClaim: z.string().min(1).optional().describe('Claim that names the admission and limit tier.'),
    from: z
      .array(z.string().regex(SOURCE, { error: 'expected header, header:NAME, cookie:NAME or query:NAME' }))
      .min(1)
      .default(['header'])
      .describe(
        'Where the token is looked for, in order: `header` (`Authorization: Bearer`), `header:NAME`, `cookie:NAME`, `query:NAME`.',
      ),
    strip: z.boolean().default(false).describe('Removes the token from what goes upstream.'),
  })
  .superRefine((jwt, context) => {
    const sources =
      Number(jwt.secret !== undefined) + Number(jwt.publicKey !== undefined) + Number(jwt.jwks !== undefined)
    if (sources !== 1) {
      context.addIssue({ code: 'custom', message: 'expected exactly one of secret, publicKey and jwks' })
      return
    }
    // A public key is public: whoever has it could sign an HMAC with it.
    const allowed: readonly string[] = jwt.secret === undefined ? ASYMMETRIC_ALGORITHMS : HMAC_ALGORITHMS
    jwt.algorithms?.forEach((name, i) => {
      if (allowed.includes(name)) return
      const message =
        jwt.secret === undefined
          ? `${name} is for a shared secret, not for public keys`
          : `${name} needs a public key, not a secret`
      context.addIssue({ code: 'custom', message, path: ['algorithms', i] })
    })
  })
export type JwtConfig = z.output<typeof jwtConfig>

export const apiKeyEntry = z.strictObject({
  name: z.string().min(1).describe('Consumer; several keys may have the same name, as in a rotation.'),
  sha256: z
    .string()
    .regex(/^[0-9a-fA-F]{64}$/, { error: 'expected a SHA-256 in 64 hexadecimal digits (fluxor-gateway key hash)' })
    .transform((hex) => hex.toLowerCase())
    .describe('SHA-256 of the key, hexadecimal; `fluxor-gateway key hash` makes one.'),
  tier: z.string().min(1).optional().describe('Admission and limit tier of the consumer.'),
  expires: z
    .string()
    .refine((text) => !Number.isNaN(Date.parse(text)), { error: 'expected a date such as 2027-01-31T00:00:00Z' })
    .transform((text) => Date.parse(text))
    .optional()
    .describe('Date from which the key is refused; without a time, midnight UTC at the start of that day.'),
  headers: z
    .record(forwardName(), fieldValue())
    .default({})
    .describe("Headers set upstream for this key. The client's own headers of these names are always dropped."),
})
export type ApiKeyEntry = z.output<typeof apiKeyEntry>

/** What the `file:` of a key set holds. */
export const apiKeyList = z.array(apiKeyEntry)

export const apiKeysConfig = z
  .strictObject({
    header: fieldName()
      .optional()
      .describe('Header that carries the key. Default, without `query` and `cookie`: `X-API-Key`.'),
    query: z
      .string()
      .regex(/^[A-Za-z0-9_.~-]+$/, { error: 'expected a query parameter name' })
      .optional()
      .describe('Query parameter that carries the key.'),
    cookie: cookieName().optional().describe('Cookie that carries the key.'),
    keys: apiKeyList.default([]).describe('The keys, by their SHA-256.'),
    file: z
      .string()
      .min(1)
      .optional()
      .describe('YAML or JSON file with a list like `keys`; read again when it changes.'),
    strip: z.boolean().default(true).describe('Removes the key from what goes upstream.'),
  })
  .superRefine((set, context) => {
    if (set.keys.length === 0 && set.file === undefined) {
      context.addIssue({ code: 'custom', message: 'expected keys or file' })
    }
    const seen = new Set<string>()
    set.keys.forEach((key, i) => {
      if (seen.has(key.sha256)) {
        context.addIssue({ code: 'custom', message: 'the same key stands here twice', path: ['keys', i, 'sha256'] })
      }
      seen.add(key.sha256)
    })
  })
export type ApiKeysConfig = z.output<typeof apiKeysConfig>

export const identityConfig = z.strictObject({
  jwt: z.record(z.string().min(1), jwtConfig).default({}).describe('JWT policies by name.'),
  apiKeys: z.record(z.string().min(1), apiKeysConfig).default({}).describe('API key sets by name.'),
})
export type IdentityConfig = z.output<typeof identityConfig>

/** The keys of a route that choose its identification. */
export const authRouteConfig = {
  jwt: oneOrMore(z.string().min(1))
    .optional()
    .describe('Name of the JWT policy, or a list of which the token chooses one by its `iss`.'),
  apiKey: z.string().min(1).optional().describe('Name of the API key set.'),
  auth: z
    .enum(['required', 'any', 'optional'])
    .default('required')
    .describe(
      '`required`: all that `jwt` and `apiKey` name; `any`: one of them; `optional`: none is needed, but what is sent must be valid.',
    ),
}
export type AuthRouteConfig = z.output<z.ZodObject<typeof authRouteConfig>>
