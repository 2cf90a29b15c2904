/** Which fields may stand in trailers (RFC 9110 §6.5.1), for every protocol that has them: a trailer comes after the checks. */

import { FIELD_ID, findField, LINE_BREAK, LOWER_CASE_NAME, nextHash, TOKEN } from './field-names.ts'

/** Fields of framing, routing, authentication and caching. Unknown names pass. */
const FORBIDDEN = new Uint8Array(256)
for (const name of [
  'host', 'connection', 'keep-alive', 'proxy-connection', 'proxy-authenticate', 'proxy-authorization',
  'proxy-authentication-info', 'te', 'trailer', 'transfer-encoding', 'upgrade', 'content-length', 'content-type', 'content-encoding',
  'content-range', 'authorization', 'cookie', 'set-cookie', 'expect', 'forwarded', 'x-forwarded-for', 'x-forwarded-proto',
  'x-forwarded-host', 'x-forwarded-port', 'x-real-ip', 'x-request-id', 'cache-control', 'age', 'date', 'expires', 'vary', 'location',
  'range', 'retry-after', 'x-api-key', 'max-forwards', 'fluxor-slots', 'fluxor-shed',
] as const) FORBIDDEN[FIELD_ID[name]] = 1 // biome-ignore format: a table

/** @param name a token, in whatever case */
export function mayBeTrailer(name: string): boolean {
  const bytes = Buffer.from(name, 'latin1')
  let hash = 0
  for (const b of bytes) hash = nextHash(hash, TOKEN[b]!)
  return FORBIDDEN[findField(bytes, 0, bytes.length, hash)] !== 1 && !name.includes('_')
}

/** The trailers of a stream of HTTP/2, flat names and values, as field lines; what may not be one is left out. */
export function trailerLines(raw: readonly string[] | undefined): string {
  let lines = ''
  for (let i = 0; raw !== undefined && i < raw.length; i += 2) {
    const name = raw[i]!
    const value = raw[i + 1]!
    if (LOWER_CASE_NAME.test(name) && !LINE_BREAK.test(value) && mayBeTrailer(name)) lines += `${name}: ${value}\r\n`
  }
  return lines
}
