/**
 * The keys `rateLimits`, `rateLimit` (of a route) and `redis`: what may be written, in which unit, and what a rule means
 * when a key is left out. Checks that need only one rule stand here; `rateLimitProblems` has those that need two blocks.
 */

import { z } from 'zod'
import { duration, oneOrMore, secret } from '../../config/types.ts'
import { redisNameOf } from './terms.ts'

/** Names stand in header fields, Redis keys and metric labels without quoting. */
const name = (what: string) =>
  z.string().regex(/^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/, {
    error: `expected a name for ${what}: letters, digits, "_", "-" and ".", at most 64`,
  })

const KEY_PART = /^(?:ip|apiKey|route|claim:[^\s]{1,128}|header:[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128})$/

const keyPart = z
  .string()
  .regex(KEY_PART, { error: 'expected ip, apiKey, route, claim:NAME or header:NAME' })
  .transform((part) => (part.startsWith('header:') ? part.toLowerCase() : part))

/** Counts stay far inside what a double and an Int32 hold exactly. */
const count = () => z.int().min(1).max(1_000_000_000)

export const RATE_LIMIT_HEADERS = ['draft', 'legacy', 'both', 'off'] as const
export const rateLimitHeadersConfig = z
  .enum(RATE_LIMIT_HEADERS)
  .default('draft')
  .describe(
    'How limits are told to clients: `draft` is `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers), `legacy` is `X-RateLimit-Limit`, `-Remaining` and `-Reset`. `Retry-After` is on every 429 whatever stands here. A rule may override it.',
  )
export type RateLimitHeaders = z.output<typeof rateLimitHeadersConfig>

export const rateLimitRuleConfig = z
  .strictObject({
    key: oneOrMore(keyPart).describe(
      'What is counted apart: `ip` (IPv6 by its /64), `apiKey` (the name of the consumer), `route`, `claim:NAME`, `header:NAME`, or a list of them for each combination. A part that a request lacks (no API key, no such claim or header) is counted by the client address instead.',
    ),
    limit: count().optional().describe('Requests (or units of `cost`) in each window. Goes with `window`.'),
    window: duration().optional().describe('The time that `limit` is for, such as `1s` or `1m`. Goes with `limit`.'),
    requestsPerMinute: count().optional().describe('Short for `limit: N` with `window: 60s`.'),
    burst: count()
      .optional()
      .describe(
        'With `gcra` alone: how many may come at once after a pause; then one every `window` / `limit`. Default: `limit`. At most `limit` + `burst` pass in any window.',
      ),
    algorithm: z
      .enum(['gcra', 'slidingWindow', 'fixedWindow'])
      .default('gcra')
      .describe(
        '`gcra`: smooth, at most `limit` + `burst` in any window. `slidingWindow`: two weighted windows, at most `limit` when arrivals are even, under 2 x `limit` in any window. `fixedWindow`: at most `limit` in each window, which begins with the first request; up to 2 x `limit` across the border of two.',
      ),
    cost: count()
      .default(1)
      .describe('Units that one request takes. Never more than could ever pass: `burst` for `gcra`, else `limit`.'),
    tiers: z
      .record(name('a tier'), count())
      .optional()
      .describe(
        'Another limit for requests of a tier (of the API key, or by `tierClaim`). Same window; other tiers keep `limit`.',
      ),
    mode: z
      .enum(['enforce', 'shadow'])
      .default('enforce')
      .describe('`shadow` counts what it would refuse, refuses nothing and tells clients nothing.'),
    store: z
      .string()
      .regex(/^(?:memory|redis|redis:[A-Za-z0-9][A-Za-z0-9_.-]{0,63})$/, {
        error: 'expected memory, redis or redis:NAME',
      })
      .default('memory')
      .describe(
        '`memory`: exact over all threads of this process. `redis`: one count for the fleet, in the only block under `redis` or the one called `main`; `redis:NAME` picks one.',
      ),
    onStoreError: z
      .enum(['local', 'allow', 'deny'])
      .default('local')
      .describe(
        'While Redis does not answer: `local` applies the same numbers per process in memory (N processes then pass up to N times the limit), `allow` passes everything, `deny` answers 429.',
      ),
    headers: z.enum(RATE_LIMIT_HEADERS).optional().describe('Overrides `rateLimitHeaders` for this rule.'),
  })
  .superRefine((rule, ctx) => {
    const problem = (path: string, message: string) => ctx.addIssue({ code: 'custom', path: [path], message })
    const { requestsPerMinute, limit, window, burst, cost } = rule
    if (rule.key.length === 0) problem('key', 'expected at least one of ip, apiKey, route, claim:NAME, header:NAME')
    if (new Set(rule.key).size !== rule.key.length) problem('key', 'names the same part twice')
    if (requestsPerMinute !== undefined && (limit !== undefined || window !== undefined)) {
      problem('requestsPerMinute', 'is short for limit and window: give one or the other')
    } else if (requestsPerMinute === undefined && (limit === undefined || window === undefined)) {
      problem(limit === undefined ? 'limit' : 'window', 'a rule needs limit and window, or requestsPerMinute')
    }
    if (window !== undefined && (window < 1 || window > MAX_WINDOW_MS)) problem('window', 'expected 1ms to 366d')
    if (burst !== undefined && rule.algorithm !== 'gcra') problem('burst', 'goes with algorithm gcra only')
    const limits = [limit ?? requestsPerMinute ?? cost, ...Object.values(rule.tiers ?? {})]
    const most = rule.algorithm === 'gcra' && burst !== undefined ? burst : Math.min(...limits)
    if (cost > most) problem('cost', `no request could ever pass: at most ${most} pass at once`)
  })
  .transform(({ requestsPerMinute, limit, window, ...rest }) => ({
    ...rest,
    limit: (limit ?? requestsPerMinute)!,
    /** Milliseconds. */
    window: window ?? 60_000,
  }))
export type RateLimitRuleConfig = z.output<typeof rateLimitRuleConfig>

const MAX_WINDOW_MS = 366 * 86_400_000

export const rateLimitsConfig = z
  .record(name('a rate limit'), rateLimitRuleConfig)
  .describe(
    'Named limits. A name is one counter for all routes that use it; put `route` in its key to count each apart.',
  )
export type RateLimitsConfig = z.output<typeof rateLimitsConfig>

export const rateLimitRouteConfig = oneOrMore(name('a rate limit'))
  .refine((names) => new Set(names).size === names.length, { error: 'names the same limit twice' })
  .describe('One name under `rateLimits`, or a list: all are checked, the strictest decides.')
export type RateLimitRouteConfig = z.output<typeof rateLimitRouteConfig>

const hostPort = z.string().regex(/^(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):\d{1,5}$/, { error: 'expected host:port' })

export const redisServerConfig = z
  .strictObject({
    url: secret()
      .regex(/^rediss?:\/\/\S+$/, { error: 'expected redis://… or rediss://…' })
      .optional()
      .describe('`redis://[user:password@]host:port[/db]`, or `rediss://` for TLS.'),
    sentinels: z.array(hostPort).min(1).optional().describe('`host:port` of the sentinels; goes with `name`.'),
    name: z.string().min(1).optional().describe('The name of the master that the sentinels watch.'),
    cluster: z.array(hostPort).min(1).optional().describe('`host:port` of some nodes of a cluster; the rest is found.'),
    username: z.string().min(1).optional().describe('For sentinels and cluster; with url it stands in the URL.'),
    password: secret().optional().describe('For sentinels and cluster; with url it stands in the URL.'),
    sentinelPassword: secret().optional().describe('When the sentinels themselves ask for one.'),
    db: z.int().min(0).optional().describe('The database number; with `url` it stands in the URL. Not for a cluster.'),
    tls: z
      .union([z.boolean(), z.strictObject({ ca: z.string().min(1).describe('File with the CA certificates, PEM.') })])
      .default(false)
      .describe('TLS for sentinels and cluster, or a CA of your own for any.'),
    keyPrefix: z
      .string()
      .max(64)
      .regex(/^[^{}\s]*$/, { error: 'expected no braces (they are the hash tags of a cluster) and no white space' })
      .default('fluxor:')
      .describe('Stands before every key that the gateway writes.'),
    commandTimeout: duration()
      .default(50)
      .describe('The longest a request waits for Redis before `onStoreError` of the rule applies.'),
    connectTimeout: duration().default(1000).describe('For TCP and TLS. Requests do not wait for it.'),
  })
  .superRefine((redis, ctx) => {
    const problem = (path: string, message: string) => ctx.addIssue({ code: 'custom', path: [path], message })
    const ways = [redis.url, redis.sentinels, redis.cluster].filter((way) => way !== undefined).length
    if (ways !== 1) problem('url', 'expected exactly one of url, sentinels and cluster')
    if ((redis.sentinels === undefined) !== (redis.name === undefined))
      problem('name', 'sentinels and name go together')
    if (redis.url !== undefined && (redis.username ?? redis.password ?? redis.db) !== undefined) {
      problem('url', 'user, password and db stand in the URL')
    }
    if (redis.cluster !== undefined && redis.db !== undefined) problem('db', 'a cluster has one database')
    if (redis.sentinelPassword !== undefined && redis.sentinels === undefined)
      problem('sentinelPassword', 'goes with sentinels')
    if (redis.commandTimeout === 0) problem('commandTimeout', 'cannot be off: requests would wait for a dead Redis')
    if (redis.connectTimeout === 0) problem('connectTimeout', 'cannot be off')
  })
export type RedisServerConfig = z.output<typeof redisServerConfig>

export const redisConfig = z
  .record(name('a Redis'), redisServerConfig)
  .describe('Redis servers by name, for what a fleet shares. Absent: everything stays in memory.')
export type RedisConfig = z.output<typeof redisConfig>

/** What is wrong between the blocks, for the root schema: paths start at the root of the file. */
export function rateLimitProblems(root: {
  rateLimits?: RateLimitsConfig
  redis?: RedisConfig
}): { path: (string | number)[]; message: string }[] {
  const problems: { path: (string | number)[]; message: string }[] = []
  for (const [rule, { store }] of Object.entries(root.rateLimits ?? {})) {
    if (redisNameOf(store, root.redis) !== '') continue
    const known = Object.keys(root.redis ?? {})
    const message =
      known.length === 0
        ? 'there is no redis block'
        : store === 'redis'
          ? `several blocks under redis and none is called main: write redis:NAME (${known.join(', ')})`
          : `no such block under redis; there is ${known.join(', ')}`
    problems.push({ path: ['rateLimits', rule, 'store'], message })
  }
  return problems
}
