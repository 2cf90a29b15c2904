/**
 * Compression of a route's answers: which may be compressed, in which coding for this client, and what their fields say
 * then. The last stage before the client; the cache asks the same questions about what it stores.
 */

import type { Exchange, ResponseSink } from '../../exchange.ts'
import { compileEncodingPicker } from '../../http/accept-encoding.ts'
import { parseCacheControl } from '../../http/cache-control.ts'
import { weaken } from '../../http/conditional.ts'
import { getField, splitFieldLines } from '../../http/field-lines.ts'
import { FIELD_ID } from '../../http1/field-names.ts'
import type { CompressionConfig, CompressionRouteConfig } from './config.ts'
import { type Coding, compileEncoder, type Encoder } from './encoders.ts'
import { CompressionStage, MAX_AT_ONCE_BYTES, type StageHost } from './stage.ts'

/** Streams that compress at once in this thread; they share libuv's threads with DNS and files. */
const MAX_STREAMS = 256
/** Whole bodies in other threads at once. */
const MAX_JOBS = 4

let streams = 0
let jobs = 0

export interface Compression {
  isEncodable(status: number, fields: string, length: number): boolean
  pick(x: Exchange): string
  fieldsFor(fields: string, coding: string): string
  encodeNow(body: Uint8Array, coding: string): Uint8Array | undefined
  encode(body: Uint8Array, coding: string, done: (encoded: Uint8Array | undefined) => void): void
  wrap(x: Exchange, sink: ResponseSink): ResponseSink
}

/** Undefined: the route does not compress. `defaults` is the global block, or its defaults. */
export function compileCompression(
  config: CompressionRouteConfig | undefined,
  defaults: CompressionConfig,
): Compression | undefined {
  if (config === undefined || config === false) return undefined
  const { level, encodings, minBytes, types } =
    config === true ? defaults : { ...defaults, ...withoutUndefined(config) }
  const isType = compileTypes(types)
  const encoders = new Map<string, Encoder>(encodings.map((coding: Coding) => [coding, compileEncoder(coding, level)]))

  function isEncodable(status: number, fields: string, length: number): boolean {
    if (status < 200 || status === 204 || status === 205 || status === 206 || status === 304) return false
    if (length >= 0 && length < minBytes) return false
    const type = getField(fields, 'content-type')
    if (type === undefined || !isType(type)) return false
    // Encoded already, or a part of something (206 in all but name).
    if (getField(fields, 'content-encoding') !== undefined || getField(fields, 'content-range') !== undefined)
      return false
    const cacheControl = getField(fields, 'cache-control')
    return cacheControl === undefined || !parseCacheControl(cacheControl).noTransform
  }

  const pickCoding = compileEncodingPicker(encodings)
  const pick = (x: Exchange) => pickCoding(x.request.value(FIELD_ID['accept-encoding']))

  const host: StageHost = {
    decide(x, status, fields, length) {
      const coding = pick(x)
      if (coding === 'identity' || !isEncodable(status, fields, length)) return undefined
      return { fields: fieldsFor(fields, coding), encoder: encoders.get(coding)! }
    },
    plainFields: (_x, status, fields, length) =>
      isEncodable(status, fields, length) ? fieldsFor(fields, 'identity') : fields,
    takeStream() {
      if (streams >= MAX_STREAMS) return false
      streams++
      return true
    },
    releaseStream() {
      streams--
    },
  }

  return {
    isEncodable,
    pick,
    fieldsFor,
    encodeNow: (body, coding) => (body.length <= MAX_AT_ONCE_BYTES ? encoders.get(coding)?.now(body) : undefined),
    encode(body, coding, done) {
      const encoder = encoders.get(coding)
      if (encoder === undefined || jobs >= MAX_JOBS) {
        done(undefined)
        return
      }
      jobs++
      encoder.later(body, (error, encoded) => {
        jobs--
        done(error === null ? encoded : undefined)
      })
    },
    wrap: (x, sink) => new CompressionStage(x, sink, host),
  }
}

const DIGESTS: ReadonlySet<string> = new Set(['content-md5', 'content-digest', 'repr-digest', 'digest'])

/**
 * The fields of the answer under a coding. Every answer that could have been encoded varies by Accept-Encoding, also when
 * it was not; a strong entity tag belongs to the bytes of the origin and becomes weak (RFC 9110 §8.8.3.3).
 */
function fieldsFor(fields: string, coding: string): string {
  let out = ''
  let varies = false
  for (const { name, value, line } of splitFieldLines(fields)) {
    if (name === 'vary') varies ||= /(?:^|[\s,])(?:accept-encoding|\*)(?:$|[\s,])/i.test(value)
    if (coding !== 'identity') {
      // Ranges would be of other bytes, and digests are of the origin's.
      if (name === 'accept-ranges' || DIGESTS.has(name)) continue
      if (name === 'etag') {
        out += `ETag: ${weaken(value)}\r\n`
        continue
      }
    }
    out += line
  }
  if (!varies) out += 'Vary: Accept-Encoding\r\n'
  return coding === 'identity' ? out : `${out}Content-Encoding: ${coding}\r\n`
}

/** `type/subtype`, `type/*`, `*\/*+suffix`; parameters do not count. Event streams only by name: they are small. */
function compileTypes(patterns: readonly string[]): (contentType: string) => boolean {
  const exact = new Set<string>()
  const prefixes: string[] = []
  const suffixes: string[] = []
  for (const pattern of patterns.map((one) => one.toLowerCase())) {
    const suffix = /^\*\/\*(\+.+)$/.exec(pattern)
    if (suffix !== null) suffixes.push(suffix[1]!)
    else if (pattern === '*/*') prefixes.push('')
    else if (pattern.endsWith('/*')) prefixes.push(pattern.slice(0, -1))
    else exact.add(pattern)
  }
  const known = new Map<string, boolean>()
  return (contentType) => {
    const before = known.get(contentType)
    if (before !== undefined) return before
    const semicolon = contentType.indexOf(';')
    const type = (semicolon < 0 ? contentType : contentType.slice(0, semicolon)).trim().toLowerCase()
    const is =
      exact.has(type) ||
      (type !== 'text/event-stream' &&
        (prefixes.some((prefix) => type.startsWith(prefix)) || suffixes.some((suffix) => type.endsWith(suffix))))
    if (known.size >= 1000) known.clear()
    known.set(contentType, is)
    return is
  }
}

function withoutUndefined<T extends object>(value: T): { [K in keyof T]?: NonNullable<T[K]> } {
  return Object.fromEntries(Object.entries(value).filter(([, one]) => one !== undefined)) as {
    [K in keyof T]?: NonNullable<T[K]>
  }
}
