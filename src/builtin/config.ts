/** The answers that need no upstream: a route names one of them in place of `upstream`. */

import { z } from 'zod'
import { cidr } from '../config/address.ts'
import { duration, fieldName, fieldValue } from '../config/types.ts'

const nothing = () => z.strictObject({})

export const tokenConfig = z.strictObject({
  jwt: z.string().min(1).describe('The `identity.jwt` entry whose secret signs the token.'),
  claims: z
    .record(z.string(), z.json())
    .default({})
    .describe('Claims of the token, beside `iss`, `aud`, `iat` and `exp`.'),
  expiresIn: duration().prefault('1h').describe('How long the token is valid.'),
  allow: z
    .array(cidr())
    .optional()
    .describe(
      'Client addresses that get one; 403 for others. Required: whoever gets a token passes the routes that trust it.',
    ),
})
export type TokenConfig = z.output<typeof tokenConfig>

export const respondConfig = z.strictObject({
  status: z.int().min(200).max(599).default(200).describe('Status of the answer.'),
  headers: z.record(fieldName(), fieldValue()).default({}).describe('Header fields of the answer.'),
  body: z.string().default('').describe('The body, UTF-8; text/plain unless `headers` gives a content-type.'),
})
export type RespondConfig = z.output<typeof respondConfig>

export const redirectConfig = z.strictObject({
  to: z
    .string()
    .min(1)
    .regex(/^[\x21-\x7e]+$/, { error: 'expected a URL or a path without spaces' })
    .describe(
      'Where to: a URL or a path. `{scheme}`, `{host}`, `{path}` and `{query}` stand for the parts of the request.',
    ),
  status: z
    .union([z.literal(301), z.literal(302), z.literal(303), z.literal(307), z.literal(308)], {
      error: 'expected 301, 302, 303, 307 or 308',
    })
    .default(308)
    .describe('301 and 302 may turn a POST into a GET, 307 and 308 keep the method.'),
})
export type RedirectConfig = z.output<typeof redirectConfig>

/** One key for each built-in answer; the route's schema spreads it. */
export const builtinKeys = {
  home: nothing().optional().describe('`GET /`: what this is, its version and its endpoints, as JSON.'),
  health: nothing().optional().describe('`{"status":"healthy"}` as long as the process serves.'),
  ready: nothing().optional().describe('`{"ready":true}`, or 503 before start-up is complete and while draining.'),
  metrics: nothing()
    .optional()
    .describe('Queue, CCU, worker, pool, cache and request figures with percentiles, as JSON.'),
  echo: nothing().optional().describe('`{"echo":<body>}`.'),
  token: tokenConfig.optional().describe('Signs a token, for trying out and load tests.'),
  respond: respondConfig.optional().describe('A fixed answer.'),
  redirect: redirectConfig.optional().describe('A redirection.'),
}
export const BUILTIN_NAMES = Object.keys(builtinKeys) as (keyof typeof builtinKeys)[]
