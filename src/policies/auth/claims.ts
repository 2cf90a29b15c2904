/**
 * What is read from verified claims: paths, required values, and values for header lines. Pure. A verified token is
 * still data that its user may have had a hand in (a display name, a group), so nothing of it breaks out of a line.
 */

import type { ClaimRule } from './config.ts'

export type Claims = Readonly<Record<string, unknown>>

/**
 * Reads one claim. A claim of just that name comes first, because names such as `https://example.com/roles` have dots;
 * otherwise dots reach into objects. Undefined when absent; nothing inherited is ever read.
 */
export function compileClaimPath(path: string): (claims: Claims) => unknown {
  const steps = path.split('.')
  if (steps.length === 1) return (claims) => (Object.hasOwn(claims, path) ? claims[path] : undefined)
  return (claims) => {
    if (Object.hasOwn(claims, path)) return claims[path]
    let value: unknown = claims
    for (const step of steps) {
      if (typeof value !== 'object' || value === null || Array.isArray(value) || !Object.hasOwn(value, step))
        return undefined
      value = (value as Record<string, unknown>)[step]
    }
    return value
  }
}

/** Whether a claim meets its rule. Types count: the number 1 is not the text `1`. */
export function compileClaimRule(path: string, rule: ClaimRule): (claims: Claims) => boolean {
  const read = compileClaimPath(path)
  if (typeof rule !== 'object') return (claims) => read(claims) === rule
  if ('contains' in rule) {
    const wanted = rule.contains
    return (claims) => {
      const value = read(claims)
      if (Array.isArray(value)) return value.includes(wanted)
      // RFC 8693 §4.2: `scope` is one string of words
      return typeof value === 'string' && typeof wanted === 'string' && value.split(' ').includes(wanted)
    }
  }
  const accepted = new Set<unknown>(rule.oneOf)
  return (claims) => {
    const value = read(claims)
    return Array.isArray(value) ? value.some((member) => accepted.has(member)) : accepted.has(value)
  }
}

/** Longest header value that a claim may become, characters. */
const MAX_VALUE = 4096
/** Visible latin1 and spaces between it: what a field value may hold (RFC 9110 §5.5) with nothing for a later hop to trim or fold. */
const LINE_SAFE = /^[\x21-\x7e\xa1-\xff](?:[\x20-\x7e\xa0-\xff]*[\x21-\x7e\xa1-\xff])?$/

/**
 * A claim as a field value: texts, numbers and booleans as they are, lists of these joined by commas. Undefined, so that
 * no header is sent, for everything else: objects, texts with control characters or characters beyond latin1, and
 * members with a comma, which would arrive as two.
 */
export function claimHeaderValue(value: unknown): string | undefined {
  if (!Array.isArray(value)) return scalarText(value)
  if (value.length === 0) return undefined
  const members: string[] = []
  for (const member of value) {
    const text = scalarText(member)
    if (text === undefined || text.includes(',')) return undefined
    members.push(text)
  }
  const joined = members.join(',')
  return joined.length <= MAX_VALUE ? joined : undefined
}

function scalarText(value: unknown): string | undefined {
  if (typeof value === 'boolean') return String(value)
  if (typeof value === 'number') return Number.isFinite(value) ? String(value) : undefined
  if (typeof value !== 'string' || value.length > MAX_VALUE) return undefined
  return LINE_SAFE.test(value) ? value : undefined
}
