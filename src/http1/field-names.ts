/**
 * The field names that the gateway itself looks at, as small numbers: the head parser finds them while it scans a
 * name, so that a request asks for `authorization` without comparing strings. Unknown names get 0.
 */

const NAMES = [
  'host', 'connection', 'keep-alive', 'proxy-connection', 'proxy-authenticate', 'proxy-authorization',
  'proxy-authentication-info', 'te', 'trailer', 'transfer-encoding', 'upgrade', 'content-length', 'content-type',
  'content-encoding', 'content-range', 'content-location', 'accept', 'accept-encoding', 'accept-language', 'accept-ranges',
  'authorization', 'cookie', 'set-cookie', 'expect', 'via', 'forwarded', 'x-forwarded-for', 'x-forwarded-proto',
  'x-forwarded-host', 'x-forwarded-port', 'x-real-ip', 'x-request-id', 'traceparent', 'tracestate', 'origin', 'referer',
  'user-agent', 'cache-control', 'pragma', 'age', 'date', 'expires', 'etag', 'last-modified', 'vary', 'location',
  'if-match', 'if-none-match', 'if-modified-since', 'if-unmodified-since', 'if-range', 'range', 'retry-after', 'server',
  'cdn-cache-control', 'cache-status', 'surrogate-key', 'cache-tag', 'x-api-key', 'access-control-request-method',
  'access-control-request-headers', 'sec-websocket-key', 'sec-websocket-version', 'grpc-timeout', 'http2-settings',
  'warning', 'link', 'proxy-status', 'max-forwards', 'x-request-timeout-ms', 'fluxor-slots', 'fluxor-shed',
] as const // biome-ignore format: a table

export type FieldName = (typeof NAMES)[number]

/** The number of a known lower-case name. */
export const FIELD_ID = Object.fromEntries(NAMES.map((name, i) => [name, i + 1])) as Record<FieldName, number>

/** The lower-case name of a number; '' at 0. */
export const FIELD_NAME: readonly string[] = ['', ...NAMES]

const idByName = new Map<string, number>(NAMES.map((name, i) => [name, i + 1]))

/** 0 when the gateway has no use of its own for the name. */
export function fieldId(lowerCaseName: string): number {
  return idByName.get(lowerCaseName) ?? 0
}

/** RFC 9110 §5.6.2 token bytes: their lower-case form; 0 for every other byte. */
export const TOKEN = new Uint8Array(256)
for (const c of "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz") TOKEN[c.charCodeAt(0)] = c.charCodeAt(0)
for (const c of 'ABCDEFGHIJKLMNOPQRSTUVWXYZ') TOKEN[c.charCodeAt(0)] = c.charCodeAt(0) | 0x20

/** RFC 9110 §5.5 field-value bytes: HTAB, SP, VCHAR and obs-text. */
export const VALUE = new Uint8Array(256)
VALUE[9] = 1
for (let c = 0x20; c < 0x100; c++) if (c !== 0x7f) VALUE[c] = 1

/** How HTTP/2 spells a field name (RFC 9113 §8.2.1). */
export const LOWER_CASE_NAME = /^[!#$%&'*+\-.^_`|~0-9a-z]+$/

/** What no field value of HTTP/2 may have (RFC 9113 §8.2.1): written as a line of text it would become two. */
export const LINE_BREAK = /[\r\n\0]/

/** RFC 9112 §3.2 request-target bytes: visible ASCII; raw spaces, controls and bytes beyond ASCII are refused. `"<>\^`{|}` pass: browsers send some. */
export const TARGET = new Uint8Array(256)
for (let c = 0x21; c < 0x7f; c++) TARGET[c] = 1
TARGET['#'.charCodeAt(0)] = 0

const TABLE_SIZE = 512
const table = new Uint8Array(TABLE_SIZE)
const nameBytes: Uint8Array[] = [new Uint8Array(0), ...NAMES.map((name) => new TextEncoder().encode(name))]
for (const [i, bytes] of nameBytes.entries()) {
  if (i === 0) continue
  let hash = 0
  for (const b of bytes) hash = nextHash(hash, b)
  let slot = hash & (TABLE_SIZE - 1)
  while (table[slot] !== 0) slot = (slot + 1) & (TABLE_SIZE - 1)
  table[slot] = i
}

/** One step of the hash that `findField` expects, over the lower-case bytes of the name. */
export function nextHash(hash: number, lowerCaseByte: number): number {
  return (Math.imul(hash, 31) + lowerCaseByte) | 0
}

/** The id of the name in `bytes[start, end)`, in any case; 0 when unknown. */
export function findField(bytes: Uint8Array, start: number, end: number, hash: number): number {
  const length = end - start
  let slot = hash & (TABLE_SIZE - 1)
  for (;;) {
    const id = table[slot]!
    if (id === 0) return 0
    const name = nameBytes[id]!
    if (name.length === length) {
      let i = 0
      while (i < length && TOKEN[bytes[start + i]!] === name[i]) i++
      if (i === length) return id
    }
    slot = (slot + 1) & (TABLE_SIZE - 1)
  }
}
