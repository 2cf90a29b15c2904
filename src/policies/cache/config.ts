/**
 * The keys of the response cache: `cache` at the top of the file (the stores, shared by all routes) and `cache` of a
 * route (what may be stored there, and for how long beyond what the origin says).
 */

import { z } from 'zod'
import { bytes, duration, fieldName, oneOrMore, percent } from '../../config/types.ts'
import { parseCidr } from '../../http/client-address.ts'

export const cacheConfig = z.strictObject({
  memory: z
    .strictObject({
      maxBytes: bytes()
        .default(64 * 1024 * 1024)
        .describe('Memory for stored answers, heads and bodies together; the least recently used leave first.'),
    })
    .prefault({})
    .describe('The store of each worker thread.'),
  maxObjectBytes: bytes()
    .default(1024 * 1024)
    .describe('A larger body passes through and is not stored.'),
  redis: z
    .string()
    .min(1)
    .optional()
    .describe('Name of the Redis connection of the second level, shared by the fleet; a purge then reaches all of it.'),
  purgeFrom: oneOrMore(
    z.string().refine((text) => parseCidr(text) !== undefined, {
      error: 'expected an address or a CIDR such as 10.0.0.0/8 or 2001:db8::/32',
    }),
  )
    .optional()
    .describe(
      'Client addresses that may send PURGE to a cached route: the URL leaves the cache of all threads and, with Redis, of ' +
        'the fleet, whoever its answers are for. Others are refused with 403. Absent: 405 for all.',
    ),
})
export type CacheConfig = z.output<typeof cacheConfig>

const keyConfig = z.strictObject({
  query: z
    .strictObject({
      include: z.array(z.string()).optional().describe('Only these query parameters are part of the key.'),
      exclude: z
        .array(z.string())
        .optional()
        .describe('These are not; a `*` at the end stands for the rest of the name.'),
    })
    .refine((query) => !(query.include && query.exclude), { error: 'include and exclude do not go together' })
    .optional()
    .describe('Which query parameters tell answers apart; all of them by default. The upstream sees the whole query.'),
  headers: oneOrMore(fieldName()).default([]).describe('Request fields that are part of the key whatever Vary says.'),
  claim: z
    .string()
    .min(1)
    .optional()
    .describe('One stored answer per value of this token claim, such as a tenant, instead of one per subject.'),
})

export const cacheRouteConfig = z.strictObject({
  ttl: duration()
    .default(0)
    .describe('Freshness of an answer to which the origin gives none; 0: such answers are not stored.'),
  heuristic: percent()
    .default(0)
    .describe(
      'Freshness as this share of the age of Last-Modified, at most a day, when the origin gives neither freshness nor a ' +
        'directive (RFC 9111 §4.2.2). 0: never guessed. Goes before `ttl`.',
    ),
  staleWhileRevalidate: duration()
    .default(0)
    .describe(
      'After its freshness an answer is still served for so long while a new one is fetched (RFC 5861). As with the other ' +
        'two: not where the origin says `no-cache`, `must-revalidate`, `proxy-revalidate` or `s-maxage`; its own directives go first.',
    ),
  staleIfError: duration()
    .default(0)
    .describe('A stale answer of this age beyond freshness is served instead of a 5xx or an unreachable upstream.'),
  staleIfShed: duration()
    .default(0)
    .describe('A stale answer of this age beyond freshness is served instead of a 503 for want of capacity.'),
  vary: oneOrMore(fieldName())
    .default([])
    .describe('Request fields by which answers are told apart even when the origin sends no Vary.'),
  respectOrigin: z
    .boolean()
    .default(true)
    .describe(
      '`false`: `ttl` replaces the freshness that the origin gives; `private`, `no-store` and `Set-Cookie` still count.',
    ),
  methods: z
    .array(z.enum(['GET', 'HEAD']))
    .default(['GET', 'HEAD'])
    .describe('Methods that are answered from the store. HEAD is answered from a stored GET.'),
  scope: z
    .enum(['auto', 'shared', 'private'])
    .default('auto')
    .describe(
      'private: one stored answer per subject. shared: one for all, under the Authorization rules of RFC 9111 §3.5. ' +
        'auto: private on a route with identity (jwt or apiKey), else shared.',
    ),
  key: keyConfig.prefault({}).describe('What tells stored answers apart beyond host, path and query.'),
})
export type CacheRouteConfig = z.output<typeof cacheRouteConfig>
