/**
 * Vary (RFC 9110 §12.5.5, RFC 9111 §4.1): which request fields chose an answer, and one text for their values, so that
 * two requests that mean the same share a stored answer.
 */

import { trimOws } from '../http1/bytes.ts'
import { normaliseAcceptEncoding } from './accept-encoding.ts'

/** Lower-case names, sorted, each once; `*` when nothing about a request can promise a match. */
export function parseVary(value: string | undefined): string[] | '*' {
  if (value === undefined) return []
  const names = new Set<string>()
  for (const part of value.split(',')) {
    const name = part.trim().toLowerCase()
    if (name === '*') return '*'
    if (name !== '') names.add(name)
  }
  return [...names].sort()
}

/**
 * A field value for comparison. Only what cannot change the meaning: white space around commas, the case of language
 * tags, the spelling of Accept-Encoding. The order of languages stays: many servers read it as preference.
 */
export function normaliseField(name: string, value: string): string {
  if (name === 'accept-encoding') return normaliseAcceptEncoding(value)
  if (name === 'cookie' || name === 'authorization' || value.includes('"')) return value
  const trimmed = tight(value, ',')
  return name === 'accept-language' ? tight(trimmed, ';').toLowerCase() : trimmed
}

/** Without white space around the separators. By parts: a pattern would try every run of it from each of its ends. */
function tight(value: string, separator: string): string {
  return value.split(separator).map(trimOws).join(separator)
}

/** The variant that a request asks for. An absent field is not an empty one (RFC 9111 §4.1). */
export function variantKey(names: readonly string[], get: (lowerCaseName: string) => string | undefined): string {
  let key = ''
  for (const name of names) {
    const value = get(name)
    key += value === undefined ? '\n-' : `\n+${normaliseField(name, value)}`
  }
  return key
}
