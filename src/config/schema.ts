/**
 * The whole file, composed of what each folder's config.ts declares. The output of this schema, with names given to
 * routes, is `Config`: plain data that can be posted to a worker thread. Only the load step imports this module for
 * its value; everybody else imports types.
 */

import { z } from 'zod'
import { BUILTIN_NAMES, builtinKeys } from '../builtin/config.ts'
import { loggingConfig, tracingConfig } from '../observability/config.ts'
import { admissionConfig, admissionRouteConfig } from '../policies/admission/config.ts'
import { authRouteConfig, identityConfig } from '../policies/auth/config.ts'
import { cacheConfig, cacheRouteConfig } from '../policies/cache/config.ts'
import { compressionConfig, compressionRouteConfig } from '../policies/compression/config.ts'
import { corsConfig } from '../policies/cors/config.ts'
import { headersConfig, securityHeadersConfig } from '../policies/headers/config.ts'
import { ipRouteConfig } from '../policies/ip/config.ts'
import {
  rateLimitHeadersConfig,
  rateLimitRouteConfig,
  rateLimitsConfig,
  redisConfig,
} from '../policies/rate-limit/config.ts'
import { matchConfig } from '../routing/config.ts'
import { faultsConfig, mirrorConfig, retryConfig, splitByConfig, upstreamConfig } from '../upstream/config.ts'
import { nameOf } from './address.ts'
import { serverConfig } from './server.ts'
import { duration } from './types.ts'

const reference = () => z.string().min(1)

/** Keys of a route that say what becomes of its requests; exactly one of these or of the built-in ones. */
const forwardingKeys = {
  upstream: reference().optional().describe('The upstream that serves the route.'),
  split: z
    .array(
      z.strictObject({
        upstream: reference().describe('One of the upstreams.'),
        weight: z.int().min(0).max(1_000_000).default(1).describe('Its share, relative to the others.'),
      }),
    )
    .min(1)
    .refine((parts) => parts.some(({ weight }) => weight > 0), { error: 'at least one weight must be above 0' })
    .optional()
    .describe('Several upstreams by weight, as for a canary.'),
}

/** Keys of a route that only make sense on the way to an upstream. */
const upstreamOnlyKeys = {
  splitBy: splitByConfig.optional().describe('With `split`: a cookie or a request field decides before the weights.'),
  mirror: mirrorConfig.optional().describe('Sends a copy elsewhere. Never slows or fails the exchange itself.'),
  faults: faultsConfig
    .optional()
    .describe('Delays or fails requests on purpose: for tests, and only with `server.allowFaults`.'),
  rewrite: z
    .strictObject({
      prefix: z
        .string()
        .regex(/^\/[^?#\s]*$/, { error: 'expected a path that starts with "/"' })
        .optional()
        .describe('Takes the place of what `pathPrefix` matched.'),
      path: z
        .string()
        .regex(/^\/[^?#\s]*$/, { error: 'expected a path that starts with "/"' })
        .optional()
        .describe('The whole new path; `{name}` stands for what a `pathTemplate` took.'),
    })
    .refine((rewrite) => (rewrite.prefix === undefined) !== (rewrite.path === undefined), {
      error: 'takes one of "prefix" and "path"',
    })
    .optional()
    .describe('Changes the path that goes upstream.'),
  retry: retryConfig.optional().describe("In place of the upstream's `retry`."),
  cache: cacheRouteConfig.optional().describe('Stores answers. `{}` follows what the origin says. Absent: off.'),
}

const ACTIONS = [...Object.keys(forwardingKeys), ...BUILTIN_NAMES]

export const routeConfig = z
  .strictObject({
    name: z
      .string()
      .regex(/^[\x20-\x7e]{1,128}$/, { error: 'expected printable ASCII, at most 128 characters' })
      .optional()
      .describe('Name in metrics, logs and `explain`. Without it one is made of the match: `GET /api/orders`.'),
    match: matchConfig.prefault({}).describe('Which requests it takes; `{}` takes all.'),
    ...forwardingKeys,
    ...builtinKeys,
    ...ipRouteConfig,
    ...authRouteConfig,
    rateLimit: rateLimitRouteConfig.optional(),
    admission: admissionRouteConfig.optional().describe("The route's own cap, inside the global one. Absent: none."),
    compression: compressionRouteConfig
      .default(false)
      .describe('Compresses answers: true, or values in place of the global ones.'),
    cors: corsConfig.optional().describe('Lets pages of other origins read answers. Absent: off.'),
    headers: headersConfig.optional().describe('Header fields set, added and removed.'),
    securityHeaders: securityHeadersConfig.prefault(false).describe('The usual protective header fields.'),
    timeout: duration().prefault('30s').describe('The whole exchange, but for streams; beyond it 504. 0: no limit.'),
    ...upstreamOnlyKeys,
  })
  .superRefine((route, context) => {
    const given = ACTIONS.filter((action) => action in route && route[action as keyof typeof route] !== undefined)
    if (given.length === 0) {
      context.addIssue({
        code: 'custom',
        message: `says nothing about what becomes of its requests: one of ${ACTIONS.map((a) => `"${a}"`).join(', ')} is needed`,
      })
    } else if (given.length > 1) {
      const message = `"${given[0]}" and "${given[1]}" on one route: only one can answer`
      context.addIssue({ code: 'custom', path: [given[1]!], message })
    } else if (!(given[0]! in forwardingKeys)) {
      for (const key of Object.keys(upstreamOnlyKeys)) {
        if (route[key as keyof typeof route] === undefined) continue
        context.addIssue({
          code: 'custom',
          path: [key],
          message: `has no effect on "${given[0]}", which asks no upstream`,
        })
      }
    }
    if (route.splitBy !== undefined && route.split === undefined) {
      context.addIssue({ code: 'custom', path: ['splitBy'], message: 'has no effect without "split"' })
    }
    if (route.rewrite?.prefix !== undefined && route.match.pathPrefix === undefined) {
      context.addIssue({
        code: 'custom',
        path: ['rewrite', 'prefix'],
        message: 'needs a "pathPrefix" in the match to replace',
      })
    }
  })

export const configSchema = z.strictObject({
  version: z
    .literal(1, { error: 'expected 1, the version of this file format' })
    .describe('Version of the file format.'),
  server: serverConfig.prefault({}).describe('What the process listens on and what it lets in.'),
  admission: admissionConfig.prefault({}).describe('How many exchanges may be in flight, who waits, who goes first.'),
  redis: redisConfig.default({}),
  identity: identityConfig.prefault({}).describe('Who is asking: tokens and API keys.'),
  rateLimits: rateLimitsConfig.default({}),
  rateLimitHeaders: rateLimitHeadersConfig,
  cache: cacheConfig.optional().describe('The store of cached answers; routes say what goes in.'),
  compression: compressionConfig.prefault({}).describe('How answers are compressed; routes switch it on.'),
  upstreams: z
    .record(nameOf('upstream'), upstreamConfig)
    .default({})
    .describe('The services behind the gateway, by name.'),
  routes: z
    .array(routeConfig)
    .min(1, { error: 'at least one route is needed' })
    .describe('Who answers what. The most specific match wins, whatever the order; `explain` shows why.'),
  logging: loggingConfig.prefault({}).describe('The logs.'),
  tracing: tracingConfig.prefault({}).describe('W3C trace context and OpenTelemetry.'),
})

export type ParsedConfig = z.output<typeof configSchema>
export type RouteConfig = Omit<z.output<typeof routeConfig>, 'name'> & { name: string }
/** A checked config with all defaults. Plain data. */
export type Config = Omit<ParsedConfig, 'routes'> & {
  routes: RouteConfig[]
  /** Folder of the file: relative names of certificates and keys start there. */
  baseDir: string
}
