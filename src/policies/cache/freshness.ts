/**
 * May this answer be stored, and for how long is it fresh? One pure function over an upstream's head (RFC 9111 §3, §4.2).
 * It runs once for each answer that could be stored; a hit reads only the numbers that come out here.
 */

import {
  type CacheControl,
  parseCacheControl,
  parseDeltaSeconds,
  parseTargetedCacheControl,
} from '../../http/cache-control.ts'
import { type FieldLine, fieldOf } from '../../http/field-lines.ts'
import { parseHttpDate } from '../../http/http-date.ts'
import { parseVary } from '../../http/vary.ts'

/** What a route says about freshness; durations in milliseconds. */
export interface FreshnessPolicy {
  readonly ttlMs: number
  /** 0…100 */
  readonly heuristicPercent: number
  readonly respectOrigin: boolean
  readonly staleWhileRevalidateMs: number
  readonly staleIfErrorMs: number
  readonly staleIfShedMs: number
}

export interface ReceivedHead {
  readonly status: number
  readonly lines: readonly FieldLine[]
  /** The request carried Authorization, and the store is not divided by who asks (RFC 9111 §3.5). */
  readonly authorized: boolean
  readonly requestMs: number
  readonly responseMs: number
}

export interface Freshness {
  /** When the answer was made, as far as its age tells: age = now − bornMs. */
  readonly bornMs: number
  readonly lifetimeMs: number
  /** The origin itself gave the freshness. */
  readonly explicit: boolean
  /** Never used without asking the origin. */
  readonly noCache: boolean
  /** How far beyond freshness the answer may be used, by reason; 0: not at all. */
  readonly staleWhileRevalidateMs: number
  readonly staleIfErrorMs: number
  readonly staleIfShedMs: number
  /** A request's max-stale may be followed. */
  readonly staleOnRequest: boolean
  /** Lower-case names of fields that must not be stored. */
  readonly dropFields: readonly string[]
  /** Vary, sorted. */
  readonly varyNames: readonly string[]
}

/** RFC 9110 §15.1: cacheable without explicit freshness; partial content apart. */
const HEURISTIC = new Set([200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501])
/** Codes whose caching this cache understands, for must-understand (RFC 9111 §5.2.2.3). */
const UNDERSTOOD = new Set([
  200, 203, 204, 300, 301, 302, 303, 307, 308, 400, 401, 403, 404, 405, 410, 414, 451, 500, 501, 502, 503, 504,
])
/** What a ttl of the route applies to: answers about the resource itself. */
const TTL_STATUS = new Set([200, 203, 204, 300, 301, 308, 404, 410])
const MAX_HEURISTIC_MS = 86_400_000

/** Why an answer is not stored; the word stands in Cache-Status. */
export type NotStored =
  | 'stream'
  | 'no-store'
  | 'private'
  | 'authorization'
  | 'vary'
  | 'status'
  | 'set-cookie'
  | 'no-freshness'

export function assessFreshness(head: ReceivedHead, policy: FreshnessPolicy): Freshness | NotStored {
  const { status, lines } = head
  if (status < 200 || status === 206 || status === 304) return 'status'
  // Events are for those who listen when they happen, whatever freshness says.
  if (/^text\/event-stream\b/i.test(fieldOf(lines, 'content-type') ?? '')) return 'stream'
  const targeted = parseTargetedCacheControl(fieldOf(lines, 'cdn-cache-control') ?? '')
  const cacheControl = fieldOf(lines, 'cache-control')
  const cc = targeted ?? parseCacheControl(cacheControl ?? '')

  if (cc.mustUnderstand && !UNDERSTOOD.has(status)) return 'status'
  if (cc.noStore && !cc.mustUnderstand) return 'no-store'
  if (cc.private === true) return 'private'
  if (head.authorized && !cc.public && !cc.mustRevalidate && cc.sMaxAge === undefined) return 'authorization'
  const varyNames = parseVary(fieldOf(lines, 'vary'))
  if (varyNames === '*') return 'vary'

  const dropFields = [
    ...(Array.isArray(cc.private) ? cc.private : []),
    ...(Array.isArray(cc.noCache) ? cc.noCache : []),
  ]
  const setsCookie = !dropFields.includes('set-cookie') && lines.some((line) => line.name === 'set-cookie')
  const override = !policy.respectOrigin && policy.ttlMs > 0 && TTL_STATUS.has(status)
  const dateMs = parseHttpDate(fieldOf(lines, 'date') ?? '', head.responseMs)
  const origin = explicitLifetimeMs(lines, cc, targeted !== undefined, dateMs, head.responseMs)

  let lifetimeMs = origin
  if (override) lifetimeMs = policy.ttlMs
  else if (lifetimeMs === undefined && cc.noCache !== true) {
    lifetimeMs = heuristicLifetimeMs(head, cc, policy, dateMs)
    if (lifetimeMs === undefined && policy.ttlMs > 0 && TTL_STATUS.has(status)) lifetimeMs = policy.ttlMs
  }
  // A cookie is made for one client: only an origin that says how long it holds for all may have it stored.
  if (setsCookie && !(origin !== undefined && origin > 0)) return 'set-cookie'
  // Neither freshness nor any word on caching: whose answer it is nobody knows, a validator does not tell.
  if (lifetimeMs === undefined && (cacheControl === undefined || !(cc.public || cc.noCache === true)))
    return 'no-freshness'

  const noCache = cc.noCache === true && !override
  const strict = noCache || ((cc.mustRevalidate || cc.proxyRevalidate) && !override)
  // s-maxage forbids stale use as proxy-revalidate does (§5.2.2.10), unless the origin itself allows it beside it.
  const configured = !strict && (cc.sMaxAge === undefined || override)
  const windowMs = (directiveSec: number | undefined, configuredMs: number) =>
    strict
      ? 0
      : directiveSec !== undefined && policy.respectOrigin
        ? directiveSec * 1000
        : configured
          ? configuredMs
          : 0
  const freshness: Freshness = {
    bornMs: head.responseMs - initialAgeMs(head, dateMs),
    lifetimeMs: lifetimeMs ?? 0,
    explicit: origin !== undefined,
    noCache,
    staleWhileRevalidateMs: windowMs(cc.staleWhileRevalidate, policy.staleWhileRevalidateMs),
    staleIfErrorMs: windowMs(cc.staleIfError, policy.staleIfErrorMs),
    staleIfShedMs: configured ? policy.staleIfShedMs : 0,
    staleOnRequest: configured,
    dropFields,
    varyNames,
  }
  return freshness
}

/** §4.2.1: s-maxage, max-age, Expires minus Date. Undefined: the origin says nothing. */
function explicitLifetimeMs(
  lines: readonly FieldLine[],
  cc: CacheControl,
  targeted: boolean,
  dateMs: number,
  responseMs: number,
): number | undefined {
  if (cc.sMaxAge !== undefined) return cc.sMaxAge * 1000
  if (cc.maxAge !== undefined) return cc.maxAge * 1000
  // RFC 9213 §2.2: a targeted field replaces Cache-Control and Expires together.
  const expires = targeted ? undefined : fieldOf(lines, 'expires')
  if (expires === undefined) return undefined
  const expiresMs = parseHttpDate(expires, responseMs)
  return Number.isNaN(expiresMs) ? 0 : Math.max(0, expiresMs - (Number.isNaN(dateMs) ? responseMs : dateMs))
}

function heuristicLifetimeMs(
  head: ReceivedHead,
  cc: CacheControl,
  policy: FreshnessPolicy,
  dateMs: number,
): number | undefined {
  if (policy.heuristicPercent === 0 || !(HEURISTIC.has(head.status) || cc.public)) return undefined
  const modifiedMs = parseHttpDate(fieldOf(head.lines, 'last-modified') ?? '', head.responseMs)
  if (Number.isNaN(modifiedMs)) return undefined
  const sinceMs = (Number.isNaN(dateMs) ? head.responseMs : dateMs) - modifiedMs
  return sinceMs > 0 ? Math.min((sinceMs * policy.heuristicPercent) / 100, MAX_HEURISTIC_MS) : undefined
}

/** §4.2.3. Only the first member of Age counts, and only when it is a number (§5.1). */
function initialAgeMs(head: ReceivedHead, dateMs: number): number {
  const age = fieldOf(head.lines, 'age')
  const ageMs = age === undefined ? 0 : (parseDeltaSeconds(age.split(',', 1)[0]!.trim()) ?? 0) * 1000
  // Date has whole seconds: the rest of one is rounding, not age.
  const apparentMs = Number.isNaN(dateMs) ? 0 : Math.max(0, Math.floor((head.responseMs - dateMs) / 1000) * 1000)
  return Math.max(apparentMs, ageMs + Math.max(0, head.responseMs - head.requestMs))
}
