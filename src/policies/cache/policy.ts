/**
 * The cache of a route: a gate after identity and limits, before admission, so that a hit takes no place and opens no
 * door that the token would not. It answers from the store, lets requests wait for an answer on its way, or starts one
 * fetch for all of them (fill.ts). RFC 9111 §4.
 */

import type { BodySource, Exchange, ResponseSink } from '../../exchange.ts'
import { type CacheControl, parseCacheControl } from '../../http/cache-control.ts'
import { fieldOf, splitFieldLines, withoutFields } from '../../http/field-lines.ts'
import { FIELD_ID } from '../../http1/field-names.ts'
import { LocalReply } from '../../local-reply.ts'
import type { BodyEncoder } from './body-encoder.ts'
import type { Cache } from './cache.ts'
import { compileDivision, compileUrl, dividesByIdentity } from './cache-key.ts'
import type { CacheRouteConfig } from './config.ts'
import type { Entry } from './entry.ts'
import { Fill, type FillHost, type StoredOutcome, sharingKey, variantOf } from './fill.ts'
import type { FreshnessPolicy } from './freshness.ts'
import { serveStored } from './serve.ts'

/** What the pipeline offers to the cache of a route. */
export interface CacheHost {
  /** The gates after the cache, then the upstream. The exchange may be one that the cache made (`fillOf`). */
  forward(x: Exchange): void
  refuse(x: Exchange, reply: LocalReply): void
  /** Lines that every answer to this exchange carries (X-Request-ID, `x.responseFields`). */
  ownFields(x: Exchange): string
  /** Lower-case names in an upstream's answer that the route replaces by its own; null: none. */
  readonly responseDrop: ReadonlySet<string> | null
}

export interface CachedRoute {
  /** The route asks who the client is (jwt or apiKey). */
  readonly identified: boolean
  /** Set when requests for one URL may belong to this route or to another (`match.headers`): its answers lie apart. */
  readonly apart?: string | undefined
  readonly host: CacheHost
  readonly encoder: BodyEncoder | undefined
}

/** What became of a request at the cache. */
export type CacheVerdict =
  /** Answered, or waiting for an answer: nothing more to do. */
  | 'taken'
  /** Not a matter of the cache: on to the next gate. */
  | 'pass'

export interface RouteCache {
  gate(x: Exchange): CacheVerdict | LocalReply
  /**
   * Of an unsafe request's answer: drops what it has changed (RFC 9111 §4.4). Called with the head of every answer to a
   * request that the gate let pass, before the client has it.
   * @param fields as received
   */
  passed(x: Exchange, status: number, fields: string): void
  /** For `explain` and purging: the URL under which answers to this request are kept. */
  urlOf(x: Exchange): string
}

const ONLY_IF_CACHED = new LocalReply('ONLY_IF_CACHED', { fields: 'Cache-Status: fluxor; fwd=miss\r\n' })
const SAFE = new Set(['GET', 'HEAD', 'OPTIONS', 'TRACE'])
/** Preconditions that speak to the origin alone (RFC 9111 §4.3.2). */
const IF_MATCH = FIELD_ID['if-match']
const IF_UNMODIFIED_SINCE = FIELD_ID['if-unmodified-since']

export function compileCache(config: CacheRouteConfig, cache: Cache, route: CachedRoute): RouteCache {
  const { encoder, host } = route
  const { ownFields, responseDrop } = host
  const { stats, store } = cache
  const urlOf = compileUrl(config)
  const divisionOf = compileDivision(config, route.identified)
  const apart = route.apart === undefined ? '' : `\0r${route.apart}`
  const varyNames = [...config.vary].sort()
  const answersGet = config.methods.includes('GET')
  const answersHead = config.methods.includes('HEAD')
  const policy: FreshnessPolicy = {
    ttlMs: config.ttl,
    heuristicPercent: config.heuristic,
    respectOrigin: config.respectOrigin,
    staleWhileRevalidateMs: config.staleWhileRevalidate,
    staleIfErrorMs: config.staleIfError,
    staleIfShedMs: config.staleIfShed,
  }
  const serveOptions = { cache, encoder, responseDrop, ownFields }

  const fillHost: FillHost = {
    cache,
    policy,
    varyNames,
    forward: host.forward,
    refuse: host.refuse,
    serve,
    begin,
    again(x) {
      const verdict = gate(x)
      if (verdict instanceof LocalReply) host.refuse(x, verdict)
      else if (verdict === 'pass') host.forward(x)
    },
  }

  function begin(x: Exchange, source: BodySource, status: number, fields: string, length: number): ResponseSink {
    const sink = encoder === undefined ? x.client : encoder.wrap(x, x.client)
    sink.source = source
    x.status = status
    const kept = responseDrop === null ? fields : withoutFields(fields, (name) => responseDrop.has(name))
    sink.head(status, kept + ownFields(x), length)
    return sink
  }

  function serve(x: Exchange, key: string, entry: Entry, nowMs: number, outcome: StoredOutcome, detail: string): void {
    stats[outcome === 'hit' ? 'hits' : outcome]++
    x.cacheStatus = outcome
    const added = outcome === 'hit' ? entry.hitLines(nowMs) : entry.ageLine(nowMs) + statusLine(detail, entry, nowMs)
    serveStored(x, key, entry, added, nowMs, serveOptions)
  }

  function bypass(x: Exchange, reason: string): 'pass' {
    stats.bypass++
    x.cacheStatus = 'bypass'
    x.responseFields += `Cache-Status: fluxor; fwd=${reason}\r\n`
    return 'pass'
  }

  /** The newest variant that this request selects (RFC 9111 §4.1). */
  function select(variants: readonly Entry[], x: Exchange): Entry | undefined {
    for (const entry of variants) {
      // Stored before a reload that tells answers apart by more.
      if (varyNames.length > 0 && !varyNames.every((name) => entry.varyNames.includes(name))) continue
      if (entry.varyNames.length === 0 || variantOf(entry.varyNames, x) === entry.variantKey) return entry
    }
    return undefined
  }

  function gate(x: Exchange): CacheVerdict | LocalReply {
    const { request } = x
    const { method } = request
    const head = method === 'HEAD'
    if (!head && method !== 'GET') return bypass(x, 'method')
    if (head ? !answersHead : !answersGet) return bypass(x, 'bypass')
    if (x.client.body !== null || request.indexOf(IF_MATCH) >= 0 || request.indexOf(IF_UNMODIFIED_SINCE) >= 0)
      return bypass(x, 'bypass')
    const upgrade = request.indexOf(FIELD_ID.upgrade)
    if (upgrade >= 0 && request.valueAt(upgrade).toLowerCase() === 'websocket') return bypass(x, 'bypass')
    const cacheControl = request.value(FIELD_ID['cache-control'])
    const asked = cacheControl === undefined ? undefined : parseCacheControl(cacheControl)
    if (asked?.noStore) return asked.onlyIfCached ? ONLY_IF_CACHED : bypass(x, 'request')

    const nowMs = cache.clock()
    const url = urlOf(x)
    const division = divisionOf(x)
    const key = url + division + apart
    const divided = dividesByIdentity(division)
    const resource = store.get(key)
    const entry = resource === undefined ? undefined : select(resource.variants, x)
    let reason = resource === undefined ? 'uri-miss' : 'vary-miss'
    if (entry !== undefined) {
      // What only the operator calls fresh was made for someone without credentials: not for one who has some.
      if (!entry.freshness.explicit && !divided && request.indexOf(FIELD_ID.authorization) >= 0)
        return bypass(x, 'bypass')
      const freshMs = entry.freshMs(nowMs)
      const answered = usable(x, key, entry, freshMs, asked, nowMs)
      if (answered) return 'taken'
      reason = freshMs > 0 && !entry.freshness.noCache ? 'request' : 'stale'
    }
    if (asked?.onlyIfCached) return ONLY_IF_CACHED
    if (head) return miss(x, reason)
    if (request.indexOf(FIELD_ID.range) >= 0 && entry === undefined) return miss(x, 'partial')

    const wantsNew = asked !== undefined && (asked.noCache === true || asked.maxAge === 0)
    const unshared = cache.isUnshared(sharingKey(key, request.indexOf(FIELD_ID.authorization) >= 0), nowMs)
    if (!wantsNew && !unshared) {
      const fills = cache.fills.get(key)
      if (fills !== undefined) for (const fill of fills) if (fill.join(x)) return 'taken'
    }
    const fill = new Fill(
      fillHost,
      {
        key,
        url,
        stale: entry,
        divided,
        reason,
        background: false,
        keepConditions: unshared && entry === undefined,
      },
      x,
      !unshared,
    )
    fill.start(x)
    return 'taken'
  }

  /** Serves the stored answer if the request and the answer allow it. */
  function usable(
    x: Exchange,
    key: string,
    entry: Entry,
    freshMs: number,
    asked: CacheControl | undefined,
    nowMs: number,
  ): boolean {
    const { freshness } = entry
    if (freshness.noCache) return false
    if (asked !== undefined) {
      if (asked.noCache === true) return false
      if (asked.maxAge !== undefined && entry.ageMs(nowMs) > asked.maxAge * 1000) return false
      if (asked.minFresh !== undefined && freshMs < asked.minFresh * 1000) return false
    }
    if (freshMs > 0) {
      serve(x, key, entry, nowMs, 'hit', '')
      return true
    }
    if (-freshMs < freshness.staleWhileRevalidateMs) {
      // The copy of the request is made before the answer ends the exchange.
      const refresh = entry.revalidating ? undefined : backgroundFill(x, key, entry)
      serve(x, key, entry, nowMs, 'stale', 'hit; detail=stale-while-revalidate')
      refresh?.start(undefined)
      return true
    }
    if (asked?.maxStale !== undefined && freshness.staleOnRequest && -freshMs <= asked.maxStale * 1000) {
      serve(x, key, entry, nowMs, 'stale', 'hit; detail=max-stale')
      return true
    }
    return false
  }

  function backgroundFill(x: Exchange, key: string, entry: Entry): Fill {
    const divided = dividesByIdentity(divisionOf(x))
    return new Fill(
      fillHost,
      { key, url: urlOf(x), stale: entry, divided, reason: 'stale', background: true, keepConditions: false },
      x,
      true,
    )
  }

  /** Forwarded as it is, not stored. */
  function miss(x: Exchange, reason: string): 'pass' {
    stats.misses++
    x.cacheStatus = 'miss'
    x.responseFields += `Cache-Status: fluxor; fwd=${reason}\r\n`
    return 'pass'
  }

  const passed: RouteCache['passed'] = (x, status, fields) => {
    if (changes(x, status)) invalidate(cache, urlOf(x), fields)
  }

  return { gate, passed, urlOf }
}

/**
 * `passed` of a route without `cache`: what it changes may lie in the cache of a route that takes GET for the same URL.
 * @param cachedBy the config of that route
 */
export function compileInvalidation(
  cache: Cache,
  cachedBy: (x: Exchange) => CacheRouteConfig | undefined,
): RouteCache['passed'] {
  return (x, status, fields) => {
    if (!changes(x, status)) return
    const config = cachedBy(x)
    if (config !== undefined) invalidate(cache, compileUrl(config)(x), fields)
  }
}

/** RFC 9111 §4.4: an unsafe method, and an answer that is no error. */
function changes(x: Exchange, status: number): boolean {
  return !SAFE.has(x.request.method) && status >= 200 && status < 400
}

function invalidate(cache: Cache, url: string, fields: string): void {
  cache.invalidate(url)
  const lines = splitFieldLines(fields)
  for (const name of ['location', 'content-location']) {
    const target = sameOrigin(url, fieldOf(lines, name))
    if (target !== undefined && target !== url) cache.invalidate(target)
  }
}

/** With `ttl` in whole seconds, negative when stale (RFC 9211 §2.5); the detail comes last. */
function statusLine(detail: string, entry: Entry, nowMs: number): string {
  const ttl = `; ttl=${Math.floor(entry.freshMs(nowMs) / 1000)}`
  const at = detail.indexOf('; detail=')
  const status = at < 0 ? detail + ttl : detail.slice(0, at) + ttl + detail.slice(at)
  return `Cache-Status: fluxor; ${status}\r\n`
}

/** The URL that a Location names, when it is of the same origin (RFC 9111 §4.4 forbids reaching further). */
function sameOrigin(base: string, location: string | undefined): string | undefined {
  if (location === undefined) return undefined
  try {
    const from = new URL(base)
    const target = new URL(location, base)
    if (target.origin !== from.origin) return undefined
    const origin = base.slice(0, base.indexOf('/', base.indexOf('://') + 3))
    return origin + target.pathname + target.search
  } catch {
    return undefined
  }
}
