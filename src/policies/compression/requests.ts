/**
 * Decodes the bodies of a route's requests, for services that take plain ones: a gate behind admission, so that only what
 * was let in is worked on. From there on the exchange's client has another body: decoded as the upstream takes it, of a
 * length that nobody knows before. Off unless a route says so.
 *
 * What comes out is bounded. A body that is refused after its first part has gone upstream never gets its end there: the
 * request is broken off, and the client gets the refusal, or a reset when an answer has begun.
 */

import type { BodySink, BodySource, ClientStream, Exchange, RequestBodySource } from '../../exchange.ts'
import { FIELD_ID } from '../../http1/field-names.ts'
import { LocalReply } from '../../local-reply.ts'
import type { CompressionConfig, CompressionRouteConfig, RequestDecodingConfig } from './config.ts'
import {
  DECODABLE,
  type Decodable,
  Decoder,
  type DecoderFault,
  type DecoderHost,
  type DecoderLimits,
} from './decoder.ts'

/** Bodies decoded at once in this thread; each may hold a window of some megabytes. */
const MAX_DECODERS = 256

let decoders = 0

const ACCEPTED = `Accept-Encoding: ${DECODABLE.join(', ')}\r\n` // RFC 9110 §15.5.16
const UNKNOWN = new LocalReply('CONTENT_CODING', {
  reason: 'UNKNOWN_CODING',
  detail: `a body may be encoded as ${DECODABLE.join(', ')}`,
  fields: ACCEPTED,
})
const STACKED = new LocalReply('CONTENT_CODING', {
  reason: 'STACKED_CODINGS',
  detail: 'a body may be encoded once',
  fields: ACCEPTED,
})
const BUSY = new LocalReply('BACKPRESSURE', { reason: 'DECODERS_FULL', fields: 'Retry-After: 1\r\n' })

/** They tell of the encoded bytes (RFC 9110 §8.4, RFC 9530 §2 and §3). */
const ENCODED_FIELDS = ['content-encoding', 'content-md5', 'content-digest', 'repr-digest', 'digest']

const ALIASES: Readonly<Record<string, Decodable>> = {
  ...Object.fromEntries(DECODABLE.map((coding) => [coding, coding])),
  'x-gzip': 'gzip', // RFC 9110 §8.4.1.3
}

/**
 * Undefined: the route's requests stay as they are.
 * @param refuse ends the exchange with this answer, or breaks off the one that has begun
 */
export function compileRequestDecoding(
  route: CompressionRouteConfig | undefined,
  defaults: CompressionConfig,
  refuse: (x: Exchange, reply: LocalReply) => void,
): ((x: Exchange) => LocalReply | undefined) | undefined {
  if (route === undefined || route === false) return undefined
  const { decompress, maxBytes, maxRatio, others } = requestsOf(route, defaults)
  if (!decompress) return undefined
  const unknown = others === 'refuse' ? UNKNOWN : undefined
  const limits: DecoderLimits = { maxBytes, maxRatio }
  return (x) => {
    const field = x.request.value(FIELD_ID['content-encoding'])
    if (field === undefined || x.client.body === null) return undefined
    const codings = codingsOf(field)
    if (codings.length === 0) return undefined
    if (codings.length > 1) return STACKED
    const coding = Object.hasOwn(ALIASES, codings[0]!) ? ALIASES[codings[0]!] : undefined
    if (coding === undefined) return unknown
    if (decoders >= MAX_DECODERS) return BUSY
    const body = new DecodedBody(x, x.client.body, coding, limits, refuse)
    decoders++
    x.onFinish(() => {
      decoders--
      body.close()
    })
    x.requestDrop = [...(x.requestDrop ?? []), ...ENCODED_FIELDS]
    const replaced: { client: ClientStream } = x
    replaced.client = new DecodedClient(x.client, body)
    return undefined
  }
}

/** What a route leaves out it takes from the global block. */
function requestsOf(route: CompressionRouteConfig, { requests }: CompressionConfig): RequestDecodingConfig {
  const own = typeof route === 'object' ? route.requests : undefined
  return {
    decompress: own?.decompress ?? requests.decompress,
    maxBytes: own?.maxBytes ?? requests.maxBytes,
    maxRatio: own?.maxRatio ?? requests.maxRatio,
    others: own?.others ?? requests.others,
  }
}

/** In the order in which they were applied; `identity` is none (RFC 9110 §8.4). */
function codingsOf(field: string): string[] {
  return field
    .split(',')
    .map((one) => one.trim().toLowerCase())
    .filter((one) => one !== '' && one !== 'identity')
}

const FAULTS: Record<DecoderFault, (detail: string) => LocalReply> = {
  format: (detail) => new LocalReply('CONTENT_CODING', { status: 400, reason: 'BROKEN_CODING', detail }),
  size: (detail) => new LocalReply('TOO_LARGE', { reason: 'DECODED_SIZE', detail }),
  ratio: (detail) => new LocalReply('TOO_LARGE', { reason: 'DECODED_RATIO', detail }),
}

/** The body of the client on one side, its decoded form for the upstream on the other. */
class DecodedBody implements RequestBodySource, BodySink, DecoderHost {
  sink: BodySink | null = null
  readonly length = -1
  readonly #x: Exchange
  readonly #encoded: RequestBodySource
  readonly #refuse: (x: Exchange, reply: LocalReply) => void
  readonly #decoder: Decoder
  #begun = false
  #closed = false
  /** The decoder has enough for now. */
  #full = false
  #inputEnded = false
  #trailers = ''

  constructor(
    x: Exchange,
    encoded: RequestBodySource,
    coding: Decodable,
    limits: DecoderLimits,
    refuse: (x: Exchange, reply: LocalReply) => void,
  ) {
    this.#x = x
    this.#encoded = encoded
    this.#refuse = refuse
    this.#decoder = new Decoder(coding, limits, this)
  }

  /** As on the wire: what limits and figures of bodies count. */
  get received(): number {
    return this.#encoded.received
  }

  // Demands of the upstream.

  pause(): void {
    this.#decoder.pause() // which fills up, and stops the client
  }

  resume(): void {
    if (this.#closed) return
    if (!this.#begun) {
      this.#begun = true
      this.#encoded.sink = this
    }
    this.#decoder.resume()
    if (!this.#full) this.#encoded.resume()
  }

  cancel(): void {
    this.close()
    this.#encoded.cancel()
  }

  close(): void {
    this.#closed = true
    this.sink = null
    this.#decoder.close()
  }

  // What the client sends.

  write(chunk: Uint8Array): boolean {
    if (this.#closed) return true
    const more = this.#decoder.write(chunk)
    this.#full = !more
    return more
  }

  end(trailers: string): void {
    this.#inputEnded = true
    this.#trailers = trailers
    this.#decoder.end()
  }

  flush(): void {} // what can be decoded is given as soon as it is

  abort(): void {
    const { sink } = this
    this.close()
    sink?.abort()
  }

  // What the decoder makes of it.

  decoded(chunk: Buffer): boolean {
    const { sink } = this
    if (sink === null) return true
    if (!sink.write(chunk)) return false
    if (!this.#inputEnded) sink.flush() // else the end is near, and leaves with it
    return true
  }

  drained(): void {
    this.#full = false
    if (!this.#closed) this.#encoded.resume()
  }

  ended(): void {
    const { sink } = this
    this.close()
    sink?.end(this.#trailers)
  }

  broken(why: DecoderFault, detail: string): void {
    this.cancel()
    this.#x.abort()
    if (!this.#x.finished) this.#refuse(this.#x, FAULTS[why](detail))
  }
}

/** The client of an exchange whose request is decoded: the same in all but the body. */
class DecodedClient implements ClientStream {
  readonly body: RequestBodySource
  readonly #client: ClientStream

  constructor(client: ClientStream, body: RequestBodySource) {
    this.#client = client
    this.body = body
  }

  get listener() {
    return this.#client.listener
  }
  get remoteAddress() {
    return this.#client.remoteAddress
  }
  get remotePort() {
    return this.#client.remotePort ?? 0
  }
  get localAddress() {
    return this.#client.localAddress ?? ''
  }
  get forwarded() {
    return this.#client.forwarded
  }
  set forwarded(lines: ClientStream['forwarded']) {
    this.#client.forwarded = lines
  }
  get bytesSent() {
    return this.#client.bytesSent
  }
  get headSent() {
    return this.#client.headSent
  }
  get source() {
    return this.#client.source
  }
  set source(source: BodySource | null) {
    this.#client.source = source
  }
  informational(status: number, fields: string): void {
    this.#client.informational(status, fields)
  }
  head(status: number, fields: string, length: number): void {
    this.#client.head(status, fields, length)
  }
  write(chunk: Uint8Array): boolean {
    return this.#client.write(chunk)
  }
  end(trailers: string): void {
    this.#client.end(trailers)
  }
  flush(): void {
    this.#client.flush()
  }
  abort(): void {
    this.#client.abort()
  }
  respond(status: number, fields: string, body: Uint8Array | string): void {
    this.#client.respond(status, fields, body)
  }
  destroy(): void {
    this.#client.destroy()
  }
  closeAfter(): void {
    this.#client.closeAfter()
  }
}
