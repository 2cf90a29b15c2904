/** Answers a client from a stored answer: preconditions, ranges, HEAD, codings, and the body at the client's pace. */

import type { BodySource, Exchange, ResponseSink } from '../../exchange.ts'
import { ifRangeHolds, isNotModified } from '../../http/conditional.ts'
import { parseRange } from '../../http/range.ts'
import { FIELD_ID } from '../../http1/field-names.ts'
import type { BodyEncoder } from './body-encoder.ts'
import type { Cache } from './cache.ts'
import { type Entry, Representation } from './entry.ts'

/** Larger bodies are given in pieces, as fast as the client takes them. */
const PIECE_BYTES = 256 * 1024

export interface ServeOptions {
  readonly cache: Cache
  readonly encoder: BodyEncoder | undefined
  /** Names in stored fields that the route replaces by its own. */
  readonly responseDrop: ReadonlySet<string> | null
  /** Lines that every answer to this exchange carries. */
  ownFields(x: Exchange): string
}

/** @param added lines of the cache itself: Age, Cache-Status */
export function serveStored(
  x: Exchange,
  key: string,
  entry: Entry,
  added: string,
  nowMs: number,
  options: ServeOptions,
): void {
  const { request, client } = x
  const { responseDrop } = options
  let shown: Representation = entry
  const { encoder } = options
  const rangeHeader = request.value(FIELD_ID.range)
  const range = rangeHeader !== undefined && request.method === 'GET' && entry.status === 200 ? rangeHeader : undefined
  if (encoder !== undefined) shown = representationFor(x, key, entry, encoder, options.cache, range !== undefined)
  const own = added + options.ownFields(x)

  if (entry.status >= 200 && entry.status < 300) {
    const ifNoneMatch = request.value(FIELD_ID['if-none-match'])
    const ifModifiedSince = request.value(FIELD_ID['if-modified-since'])
    if (
      (ifNoneMatch !== undefined || ifModifiedSince !== undefined) &&
      isNotModified(ifNoneMatch, ifModifiedSince, entry, nowMs)
    ) {
      x.status = 304
      client.head(304, notModifiedFields(shown, responseDrop) + own, -1)
      client.end('')
      return
    }
  }

  const fields = shown.fieldsWithout(responseDrop)
  const { body } = shown
  const { length } = body
  if (range !== undefined) {
    const ifRange = request.value(FIELD_ID['if-range'])
    const part = ifRange === undefined || ifRangeHolds(ifRange, entry) ? parseRange(range, length) : undefined
    if (part === 'unsatisfiable') {
      x.status = 416
      client.respond(416, `Content-Range: bytes */${length}\r\n${own}`, '')
      return
    }
    if (part !== undefined) {
      x.status = 206
      const size = part.end - part.start + 1
      client.head(206, `${fields}Content-Range: bytes ${part.start}-${part.end}/${length}\r\n${own}`, size)
      giveBody(client, body.subarray(part.start, part.end + 1))
      return
    }
  }
  x.status = entry.status
  client.head(entry.status, fields + own, length)
  if (request.method === 'HEAD') client.end('')
  else giveBody(client, body)
}

function notModifiedFields(shown: Representation, drop: ReadonlySet<string> | null): string {
  if (drop === null) return shown.notModifiedFields
  return new Representation(shown.notModifiedFields, EMPTY, undefined).fieldsWithout(drop)
}

const EMPTY = new Uint8Array(0)

/** The stored body in the coding for this client. Each coding is made once; until it is there, the next best is plain. */
function representationFor(
  x: Exchange,
  key: string,
  entry: Entry,
  encoder: BodyEncoder,
  cache: Cache,
  plain: boolean,
): Representation {
  if (entry.judgedBy !== encoder) {
    entry.judgedBy = encoder
    entry.encodable = encoder.isEncodable(entry.status, entry.fields, entry.body.length)
    entry.encoded = undefined
  }
  if (!entry.encodable) return entry
  const encoded = (entry.encoded ??= new Map<string, Representation | null>([
    ['identity', new Representation(encoder.fieldsFor(entry.fields, 'identity'), entry.body, entry.etag)],
  ]))
  const identity = encoded.get('identity')!
  const coding = plain ? 'identity' : encoder.pick(x)
  const known = encoded.get(coding)
  if (known !== undefined) return known ?? identity
  const add = (body: Uint8Array | undefined): Representation | null => {
    if (entry.encoded !== encoded) return null
    if (body === undefined || body.length >= entry.body.length) {
      // Not possible now: ask again. Not smaller: plain is the better answer.
      if (body === undefined) encoded.delete(coding)
      else encoded.set(coding, identity)
      return null
    }
    const made = new Representation(encoder.fieldsFor(entry.fields, coding), body, entry.etag)
    encoded.set(coding, made)
    cache.grown(key, entry)
    return made
  }
  const now = encoder.encodeNow(entry.body, coding)
  if (now !== undefined) return add(now) ?? identity
  encoded.set(coding, null)
  encoder.encode(entry.body, coding, add)
  return identity
}

function giveBody(client: ResponseSink, body: Uint8Array): void {
  if (body.length > PIECE_BYTES) {
    new StoredBody(client, body).resume()
    return
  }
  if (body.length > 0) client.write(body, true)
  client.end('')
}

/** A stored body as the source of a client that may be slow. */
class StoredBody implements BodySource {
  readonly #sink: ResponseSink
  readonly #body: Uint8Array
  #at = 0
  #paused = false
  #giving = false
  #done = false

  constructor(sink: ResponseSink, body: Uint8Array) {
    this.#sink = sink
    this.#body = body
    sink.source = this
  }

  pause(): void {
    this.#paused = true
  }

  resume(): void {
    this.#paused = false
    if (this.#giving || this.#done) return
    this.#giving = true
    while (!this.#paused && !this.#done) {
      if (this.#at >= this.#body.length) {
        this.#done = true
        this.#sink.end('')
        break
      }
      const piece = this.#body.subarray(this.#at, this.#at + PIECE_BYTES)
      this.#at += piece.length
      if (!this.#sink.write(piece, true)) this.#paused = true
    }
    this.#giving = false
  }

  cancel(): void {
    this.#done = true
  }
}
