/** What tells stored answers apart, beside Vary: method GET, scheme, authority, path, query, and who asks. */

import type { Exchange } from '../../exchange.ts'
import { flat } from '../../http1/bytes.ts'
import type { CacheRouteConfig } from './config.ts'

export interface CacheKey {
  readonly url: string
  readonly key: string
  /** The key holds who asks, or what the operator says divides the answers. */
  readonly divided: boolean
}

/** The URL under which a request's answers are kept, and purged. */
export type UrlOf = (x: Exchange) => string

export function compileUrl(config: CacheRouteConfig): UrlOf {
  const filter = compileQuery(config)
  return (x) => {
    const { authority, path } = x
    const scheme = x.client.listener.secure ? 'https://' : 'http://'
    const query = filter === undefined || x.query === '' ? x.query : filter(x.query)
    const slot = slotOf(path, query)
    const before = made[slot]!
    if (isMadeOf(before, scheme, authority, path, query)) return before
    const url = scheme + authority.toLowerCase() + path + query
    if (url.length <= MADE_CHARS) made[slot] = flat(url) // put together of parts of heads, which it would keep
    return url
  }
}

/**
 * URLs as they were made last: one that is asked for often is neither put together nor hashed again. That costs more than
 * the rest of a look-up.
 */
const MADE = 1024
const MADE_CHARS = 256
const made: string[] = new Array(MADE).fill('')

/** By the last characters, where paths differ. */
function slotOf(path: string, query: string): number {
  const p = path.length
  const q = query.length
  let hash = p + q * 7
  if (p > 2) hash = hash * 31 + path.charCodeAt(p - 1) * 961 + path.charCodeAt(p - 2) * 31 + path.charCodeAt(p - 3)
  if (q > 2) hash = hash * 31 + query.charCodeAt(q - 1) * 31 + query.charCodeAt(q - 2)
  return hash & (MADE - 1)
}

function isMadeOf(url: string, scheme: string, authority: string, path: string, query: string): boolean {
  const pathAt = scheme.length + authority.length
  return (
    url.length === pathAt + path.length + query.length &&
    url.startsWith(path, pathAt) &&
    url.startsWith(authority, scheme.length) &&
    url.startsWith(scheme) &&
    (query === '' || url.endsWith(query))
  )
}

/** Parts are joined by bytes that no field value and no path can hold. */
export function compileDivision(config: CacheRouteConfig, identified: boolean): (x: Exchange) => string {
  const { headers, claim } = config.key
  const perSubject = config.scope === 'private' || (config.scope === 'auto' && identified)
  if (!perSubject && headers.length === 0 && claim === undefined) return () => ''
  return (x) => {
    let division = ''
    const { identity } = x
    if (claim !== undefined) {
      const value = identity?.claims[claim]
      // Without the claim the answer belongs to the subject alone.
      if (value !== undefined) division = `\0c${JSON.stringify(value)}`
      else if (identity !== undefined) division = `\0s${identity.subject}`
    } else if (perSubject && identity !== undefined) division = `\0s${identity.subject}`
    for (const name of headers) division += `\0h${x.request.get(name) ?? '\0'}`
    return division
  }
}

/** True when a division by `compileDivision` names who asks. */
export function dividesByIdentity(division: string): boolean {
  return division.startsWith('\0s') || division.startsWith('\0c')
}

function compileQuery(config: CacheRouteConfig): ((query: string) => string) | undefined {
  const { query } = config.key
  if (query === undefined) return undefined
  const matches = compileNames(query.include ?? query.exclude ?? [])
  const keep = query.include === undefined ? (name: string) => !matches(name) : matches
  return (text) => {
    const kept = text
      .slice(1)
      .split('&')
      .filter((pair) => keep(decodeName(pair)))
    return kept.length === 0 ? '' : `?${kept.join('&')}`
  }
}

function compileNames(patterns: readonly string[]): (name: string) => boolean {
  const exact = new Set(patterns.filter((pattern) => !pattern.endsWith('*')))
  const prefixes = patterns.filter((pattern) => pattern.endsWith('*')).map((pattern) => pattern.slice(0, -1))
  return (name) => exact.has(name) || prefixes.some((prefix) => name.startsWith(prefix))
}

function decodeName(pair: string): string {
  const equals = pair.indexOf('=')
  const name = (equals < 0 ? pair : pair.slice(0, equals)).replaceAll('+', ' ')
  try {
    return decodeURIComponent(name)
  } catch {
    return name
  }
}
