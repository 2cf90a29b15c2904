/**
 * Cache-Control (RFC 9111 §5.2) and its targeted form CDN-Cache-Control (RFC 9213), in one shape. Durations are seconds
 * as on the wire; callers turn them into milliseconds.
 */

import { parseDictionary } from './structured-fields.ts'

export interface CacheControl {
  /** Undefined: absent. An invalid value is 0, since it must count as stale (§4.2.1). The first of several counts. */
  maxAge: number | undefined
  sMaxAge: number | undefined
  minFresh: number | undefined
  /** Infinity without a value: any staleness will do. */
  maxStale: number | undefined
  staleWhileRevalidate: number | undefined
  staleIfError: number | undefined
  /** A list: only these fields (lower case). */
  noCache: boolean | string[]
  private: boolean | string[]
  noStore: boolean
  noTransform: boolean
  onlyIfCached: boolean
  mustRevalidate: boolean
  proxyRevalidate: boolean
  mustUnderstand: boolean
  public: boolean
}

/** RFC 9111 §1.2.2: what does not fit counts as this, 68 years. */
const MAX_DELTA = 2 ** 31

export function emptyCacheControl(): CacheControl {
  return {
    maxAge: undefined,
    sMaxAge: undefined,
    minFresh: undefined,
    maxStale: undefined,
    staleWhileRevalidate: undefined,
    staleIfError: undefined,
    noCache: false,
    private: false,
    noStore: false,
    noTransform: false,
    onlyIfCached: false,
    mustRevalidate: false,
    proxyRevalidate: false,
    mustUnderstand: false,
    public: false,
  }
}

/** Whole seconds; undefined when it is not a non-negative integer. */
export function parseDeltaSeconds(text: string): number | undefined {
  return /^\d+$/.test(text) ? Math.min(Number(text), MAX_DELTA) : undefined
}

const NAME = /\s*([^\s=,"]+)(\s*=\s*)?/y
const QUOTED = /"(?:[^"\\]|\\[\s\S])*"/y
const PLAIN = /[^,"]*/y

/** Never fails: what cannot be read is passed over, and a number that is none counts as 0. */
export function parseCacheControl(text: string): CacheControl {
  const cc = emptyCacheControl()
  // A quoted string that nothing ends is looked for once: no later quote ends either, and each search goes to the end.
  let closed = true
  let pos = 0
  while (pos < text.length) {
    const name = match(NAME, text, pos)
    if (name !== null) {
      pos = NAME.lastIndex
      let quoted = null
      if (closed && text[pos] === '"') {
        quoted = match(QUOTED, text, pos)
        closed = quoted !== null
      }
      const value = quoted ?? match(PLAIN, text, pos)!
      pos += value[0].length
      apply(cc, name[1]!.toLowerCase(), name[2] === undefined ? undefined : argument(name[2], value[0]))
    }
    const comma = text.indexOf(',', pos)
    if (comma < 0) break
    pos = comma + 1
  }
  return cc
}

function match(pattern: RegExp, text: string, pos: number): RegExpExecArray | null {
  pattern.lastIndex = pos
  return pattern.exec(text)
}

/** White space around `=` is not in the grammar: the value then counts as invalid, never as absent. */
function argument(equals: string, text: string): string {
  if (equals !== '=') return ''
  return text.startsWith('"') ? text.slice(1, -1).replace(/\\(.)/g, '$1') : text.trim()
}

function apply(cc: CacheControl, name: string, value: string | undefined): void {
  switch (name) {
    case 'max-age':
      cc.maxAge ??= parseDeltaSeconds(value ?? '') ?? 0
      break
    case 's-maxage':
      cc.sMaxAge ??= parseDeltaSeconds(value ?? '') ?? 0
      break
    case 'min-fresh':
      cc.minFresh ??= parseDeltaSeconds(value ?? '')
      break
    case 'max-stale':
      cc.maxStale ??= value === undefined ? Number.POSITIVE_INFINITY : parseDeltaSeconds(value)
      break
    case 'stale-while-revalidate':
      cc.staleWhileRevalidate ??= parseDeltaSeconds(value ?? '') ?? 0
      break
    case 'stale-if-error':
      cc.staleIfError ??= parseDeltaSeconds(value ?? '') ?? 0
      break
    case 'no-cache':
      cc.noCache = qualified(cc.noCache, value)
      break
    case 'private':
      cc.private = qualified(cc.private, value)
      break
    case 'no-store':
      cc.noStore = true
      break
    case 'no-transform':
      cc.noTransform = true
      break
    case 'only-if-cached':
      cc.onlyIfCached = true
      break
    case 'must-revalidate':
      cc.mustRevalidate = true
      break
    case 'proxy-revalidate':
      cc.proxyRevalidate = true
      break
    case 'must-understand':
      cc.mustUnderstand = true
      break
    case 'public':
      cc.public = true
      break
  }
}

/** Without a list the directive speaks of the whole answer, and that wins over any list. */
function qualified(before: boolean | string[], value: string | undefined): boolean | string[] {
  const names = (value ?? '').split(',').map((name) => name.trim().toLowerCase())
  const listed = names.filter((name) => name !== '')
  if (before === true || listed.length === 0) return true
  return Array.isArray(before) ? [...before, ...listed] : listed
}

/**
 * RFC 9213 §2.1: a structured dictionary. Undefined (the field is ignored) when it is empty, not valid, or a directive
 * has a value of the wrong type.
 */
export function parseTargetedCacheControl(text: string): CacheControl | undefined {
  const members = parseDictionary(text)
  if (members === undefined || members.size === 0) return undefined
  const cc = emptyCacheControl()
  for (const [name, value] of members) {
    const seconds = SECONDS.has(name)
    if (seconds) {
      if (typeof value !== 'number' || !Number.isInteger(value) || value < 0) return undefined
      apply(cc, name, String(value))
    } else if (typeof value === 'string' && (name === 'no-cache' || name === 'private')) {
      apply(cc, name, value)
    } else if (value === true) {
      apply(cc, name, undefined)
    } else if (FLAGS.has(name) && value !== false) return undefined
  }
  return cc
}

const SECONDS = new Set(['max-age', 's-maxage', 'stale-while-revalidate', 'stale-if-error'])
const FLAGS = new Set([
  'no-cache', 'private', 'no-store', 'no-transform', 'must-revalidate', 'proxy-revalidate', 'must-understand', 'public',
]) // biome-ignore format: a table
