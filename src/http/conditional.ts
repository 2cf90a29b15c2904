/** Preconditions that a cache evaluates (RFC 9110 §13, RFC 9111 §4.3.2): If-None-Match, If-Modified-Since, If-Range. */

import { parseHttpDate } from './http-date.ts'

const ENTITY_TAG = /\s*(?:(W\/)?"([^"]*)"|([^\s,]+))\s*(?:,|$)/y

/** Weak comparison of each listed tag with `etag`; `*` matches any stored answer. An unquoted tag matches only itself. */
export function matchesEntityTag(header: string, etag: string | undefined): boolean {
  if (header.trim() === '*') return true
  if (etag === undefined) return false
  const opaque = etag.startsWith('W/') ? etag.slice(2) : etag
  let pos = 0
  while (pos < header.length) {
    ENTITY_TAG.lastIndex = pos
    const m = ENTITY_TAG.exec(header)
    if (m === null) return header.trim() === etag
    if (m[3] === undefined ? `"${m[2]}"` === opaque : m[3] === etag) return true
    pos = ENTITY_TAG.lastIndex
  }
  return false
}

export interface Validators {
  readonly etag: string | undefined
  /** As received. */
  readonly lastModified: string | undefined
  /** Of Last-Modified; when that is absent, of Date, or when the answer was received (RFC 9111 §4.3.2). */
  readonly modifiedMs: number
}

/** True when the client's copy is still the stored answer: 304. If-None-Match has precedence. */
export function isNotModified(
  ifNoneMatch: string | undefined,
  ifModifiedSince: string | undefined,
  stored: Validators,
  nowMs: number,
): boolean {
  if (ifNoneMatch !== undefined) return matchesEntityTag(ifNoneMatch, stored.etag)
  if (ifModifiedSince === undefined) return false
  const sinceMs = parseHttpDate(ifModifiedSince, nowMs)
  return stored.modifiedMs <= sinceMs // false for NaN: an invalid date is ignored
}

/** If-Range (§13.1.5): strong comparison of a tag, or the exact date. False: the whole body. */
export function ifRangeHolds(header: string, stored: Validators): boolean {
  const value = header.trim()
  if (value.startsWith('"')) return value === stored.etag
  return !value.startsWith('W/') && value === stored.lastModified
}

/** The weak form of an entity tag: for a body that is the same in meaning, not in bytes. */
export function weaken(etag: string): string {
  return etag.startsWith('W/') ? etag : `W/${etag}`
}
