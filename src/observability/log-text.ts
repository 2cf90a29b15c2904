/**
 * Text that comes from clients, made safe for a log: no line can be forged, no terminal driven, no secret kept. Pure.
 */

import { isUtf8 } from 'node:buffer'

/** C0, DEL, C1, the quote, the backslash, and the two line separators that some viewers obey. */
const UNSAFE = /["\\\u0000-\u001f\u007f-\u009f\u2028\u2029]/
const UNSAFE_ALL = /["\\\u0000-\u001f\u007f-\u009f\u2028\u2029]/g

/** A JSON string with its quotes; longer text is cut. */
export function jsonText(text: string, maxLength = 2048): string {
  if (text.length > maxLength) text = `${text.slice(0, maxLength)}…`
  return UNSAFE.test(text) ? `"${text.replace(UNSAFE_ALL, jsonEscape)}"` : `"${text}"`
}

function jsonEscape(char: string): string {
  return char === '"' || char === '\\' ? `\\${char}` : `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`
}

/** Text between quotes in the common and combined formats, escaped as Apache does. */
export function plainText(text: string, maxLength = 2048): string {
  if (text.length > maxLength) text = `${text.slice(0, maxLength)}…`
  return UNSAFE.test(text) ? text.replace(UNSAFE_ALL, plainEscape) : text
}

function plainEscape(char: string): string {
  if (char === '"' || char === '\\') return `\\${char}`
  const code = char.charCodeAt(0)
  return code < 256 ? `\\x${code.toString(16).padStart(2, '0')}` : `\\u${code.toString(16).padStart(4, '0')}`
}

const MAYBE_SECRET = /token|key|secret|pass|pwd|sig|auth|code|jwt|cred|sess|%/i
const SECRET_NAME = /(?:token|secret|password|passwd|signature|credentials?|apikey|accesskey|accesskeyid|privatekey|jwt|sessionid|authorization)$/ // biome-ignore format: one line
const SECRET_NAMES = new Set([
  'key',
  'code',
  'auth',
  'sig',
  'pass',
  'pwd',
  'session',
  'sid',
  'assertion',
  'samlresponse',
])

const BAD_ESCAPE = /%(?![0-9a-f]{2})/i

/** The query with the values of parameters that carry secrets replaced by `***`. Takes and gives the leading `?`. */
export function redactQuery(query: string): string {
  if (query.length < 2 || !MAYBE_SECRET.test(query)) return query
  // No name holds its own separator: else a row of them would be read to its end from each one.
  return query.replace(/([?&;])([^=&;?]*)=([^&;]*)/g, (whole, separator: string, name: string, value: string) =>
    value !== '' && isSecretName(name) ? `${separator}${name}=***` : whole,
  )
}

/** A URL (a Referer) with its query redacted and without user information. */
export function redactUrl(url: string): string {
  const at = url.indexOf('?')
  const bare = (at < 0 ? url : url.slice(0, at)).replace(/^([a-z][a-z0-9+.-]*:\/\/)[^/@]*@/i, '$1***@')
  return at < 0 ? bare : bare + redactQuery(url.slice(at))
}

/** Whether a parameter or member of this name may hold a secret; percent-encoding and `a[b]` do not hide it. */
export function isSecretName(name: string): boolean {
  let plain = name
  if (plain.includes('%')) {
    // What cannot be decoded may be anything. `decodeURIComponent` would say so by throwing: ten times as slow.
    if (BAD_ESCAPE.test(plain)) return true
    // Bytes as characters: what is not ASCII is dropped below.
    plain = plain.replace(/%([0-9a-f]{2})/gi, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)))
    if (!isUtf8(Buffer.from(plain, 'latin1'))) return true
  }
  plain = plain.toLowerCase().replace(/[^a-z0-9]/g, '')
  return SECRET_NAMES.has(plain) || SECRET_NAME.test(plain)
}
