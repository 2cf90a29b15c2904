/**
 * HTTP/2 for clients, on Node's http2: sockets are handed over by the listener (after ALPN, or after the preface), frames
 * are Node's matter, and each stream becomes the `ClientStream` of an exchange. A request's head is written as HTTP/1.1
 * text and read by the same strict parser as every other, so that both protocols refuse the same things.
 */

import http2 from 'node:http2'
import type { Socket } from 'node:net'
import {
  type BodySink,
  type BodySource,
  type ClientStream,
  Exchange,
  type ForwardedFields,
  type ListenerInfo,
} from '../exchange.ts'
import { LINE_BREAK, LOWER_CASE_NAME } from '../http1/field-names.ts'
import { frameRequest, newFrame, type RequestFrame } from '../http1/framing.ts'
import { type HeadError, type HeadLimits, MessageHead, PARSED } from '../http1/message-head.ts'
import { httpDate } from '../http1/status-line.ts'
import { trailerLines } from '../http1/trailers.ts'
import { after, type BodyError, type ClientConnection, type ConnectionHost, unmapped } from './connection.ts'

/** As other servers have it; each stream may cost a place, so a client needs no more. */
const MAX_CONCURRENT_STREAMS = 128
/** Receive windows: a stream's, and that of all streams of a connection together. */
const STREAM_WINDOW_BYTES = 256 * 1024
const CONNECTION_WINDOW_BYTES = 1024 * 1024
/** Rapid reset (CVE-2023-44487): so many at once, then so many a second; beyond it the connection ends. */
const RESET_BURST = 200
const RESETS_PER_SEC = 50
const INVALID_FRAMES = 100
/** Between the announcement that no streams are taken any more and the last one that is (RFC 9113 §6.8). */
const GOAWAY_GRACE_MS = 300
/** How long a connection without streams may take to close. */
const CLOSE_MS = 1000
const LAST_POSSIBLE_STREAM = 2 ** 31 - 1
const CANCEL = http2.constants.NGHTTP2_CANCEL
const NO_ERROR = http2.constants.NGHTTP2_NO_ERROR
const INTERNAL_ERROR = http2.constants.NGHTTP2_INTERNAL_ERROR

/** Connection-specific fields make a request malformed (RFC 9113 §8.2.2). */
const FORBIDDEN = new Set(['connection', 'keep-alive', 'proxy-connection', 'transfer-encoding', 'upgrade'])

export class Http2Listener {
  readonly #server: http2.Http2Server
  readonly #host: ConnectionHost
  /** What `accept` was told of a socket, until its session exists: that is at once. */
  #accepting: { socket: Socket; listener: ListenerInfo; remoteAddress: string } | null = null

  constructor(host: ConnectionHost) {
    this.#host = host
    const { limits } = host
    this.#server = http2.createServer({
      settings: {
        maxConcurrentStreams: MAX_CONCURRENT_STREAMS,
        initialWindowSize: STREAM_WINDOW_BYTES,
        maxHeaderListSize: limits.headBytes + limits.targetBytes,
        enablePush: false,
      },
      maxHeaderListPairs: limits.fields + 5,
      maxSessionInvalidFrames: INVALID_FRAMES,
      maxSessionRejectedStreams: INVALID_FRAMES,
      maxSettings: 32,
      maxOutstandingPings: 10,
      streamResetBurst: RESET_BURST,
      streamResetRate: RESETS_PER_SEC,
      // Bytes of one session that wait to be sent, header tables aside: a client that never reads costs no more.
      maxSessionMemory: 16,
      unknownProtocolTimeout: 1000,
    } as http2.ServerOptions)
    this.#server.on('session', (session) => {
      const { listener, remoteAddress, socket } = this.#accepting!
      const connection = new Http2Connection(this.#host, session, listener, remoteAddress)
      // A client that has ended its side can neither open windows nor ask for more: nobody waits for it. Sockets of ours
      // are half-open, so that this is for us to see.
      socket.once('end', () => connection.destroy())
    })
    this.#server.on('sessionError', () => {}) // the session's own listener has it
  }

  /** Takes the socket over, with what was put back into it. */
  accept(socket: Socket, listener: ListenerInfo, remoteAddress: string): void {
    this.#accepting = { socket, listener, remoteAddress }
    this.#server.emit('connection', socket)
    this.#accepting = null
  }
}

class Http2Connection implements ClientConnection {
  readonly listener: ListenerInfo
  readonly remoteAddress: string
  readonly host: ConnectionHost
  forwarded: ForwardedFields | null = null
  readonly #session: http2.ServerHttp2Session
  readonly #streams = new Set<Http2Stream>()
  #deadlineMs: number
  #closed = false

  constructor(host: ConnectionHost, session: http2.ServerHttp2Session, listener: ListenerInfo, remoteAddress: string) {
    this.host = host
    this.listener = listener
    this.remoteAddress = remoteAddress
    this.#session = session
    this.#deadlineMs = after(host.clock.coarseMs, host.timeouts.headerMs || host.timeouts.idleMs)
    session.on('stream', (stream, _headers, flags, rawHeaders) => this.#onStream(stream, flags, rawHeaders))
    session.on('error', () => {}) // `close` follows
    session.on('close', () => this.#gone())
    session.setLocalWindowSize(CONNECTION_WINDOW_BYTES)
    host.opened(this)
    if (host.draining) this.drain()
  }

  get running(): number {
    return this.#streams.size
  }

  get remotePort(): number {
    return this.listener.clientPort ?? this.#session.socket.remotePort ?? 0
  }

  get localAddress(): string {
    return unmapped(this.#session.socket.localAddress)
  }

  #onStream(stream: http2.ServerHttp2Stream, flags: number, rawHeaders: string[]): void {
    // Node tells of a stream one tick late: a connection that broke meanwhile has ended it, and will say so no more.
    if (stream.destroyed || this.#closed) {
      stream.on('error', () => {}) // said all the same, and fatal where nobody listens
      return
    }
    this.#deadlineMs = Number.POSITIVE_INFINITY
    const endStream = (flags & http2.constants.NGHTTP2_FLAG_END_STREAM) !== 0
    const one = new Http2Stream(this, stream)
    this.#streams.add(one)
    one.begin(rawHeaders, endStream)
  }

  ended(stream: Http2Stream): void {
    if (!this.#streams.delete(stream) || this.#streams.size > 0) return
    this.#deadlineMs = after(this.host.clock.coarseMs, this.host.timeouts.idleMs)
  }

  #gone(): void {
    if (this.#closed) return
    this.#closed = true
    for (const stream of [...this.#streams]) stream.gone()
    this.host.closed(this)
  }

  sweep(nowMs: number): void {
    for (const stream of this.#streams) stream.sweep(nowMs)
    if (this.#deadlineMs > nowMs) return
    if (this.#session.closed)
      this.destroy() // it was asked to close, and has not
    else {
      this.#deadlineMs = nowMs + CLOSE_MS
      this.close()
    }
  }

  /** No more streams; ends when the last one has ended. */
  close(): void {
    if (!this.#session.destroyed && !this.#session.closed) this.#session.close()
  }

  drain(): void {
    if (this.#session.destroyed) return
    this.#session.goaway(NO_ERROR, LAST_POSSIBLE_STREAM)
    setTimeout(() => this.close(), GOAWAY_GRACE_MS).unref()
  }

  /** The drain has said it already. */
  goAway(): boolean {
    return false
  }

  destroy(): void {
    this.#session.destroy(undefined, CANCEL)
    this.#gone()
  }
}

class Http2Stream implements ClientStream {
  source: BodySource | null = null
  readonly #connection: Http2Connection
  readonly #stream: http2.ServerHttp2Stream
  #exchange: Exchange | null = null
  #body: Http2Body | null = null
  #headSent = false
  #bodiless = false
  #left = -1
  #trailers = ''
  #bytesSent = 0
  #deadlineMs = Number.POSITIVE_INFINITY
  #openedMs: number
  /** When it counts as a long stream. */
  #promoteMs: number
  #ended = false

  constructor(connection: Http2Connection, stream: http2.ServerHttp2Stream) {
    this.#connection = connection
    this.#stream = stream
    this.#openedMs = connection.host.clock.nowMs()
    this.#promoteMs = after(this.#openedMs, connection.host.timeouts.promoteMs)
    stream.on('error', () => {}) // `close` follows
    stream.on('close', () => this.gone())
    stream.on('drain', () => {
      this.#deadlineMs = Number.POSITIVE_INFINITY
      this.source?.resume()
    })
    stream.on('wantTrailers', () => this.#sendTrailers())
  }

  get listener(): ListenerInfo {
    return this.#connection.listener
  }

  get remoteAddress(): string {
    return this.#connection.remoteAddress
  }

  get forwarded(): ForwardedFields | null {
    return this.#connection.forwarded
  }

  set forwarded(kept: ForwardedFields | null) {
    this.#connection.forwarded = kept
  }

  get remotePort(): number {
    return this.#connection.remotePort
  }

  get localAddress(): string {
    return this.#connection.localAddress
  }

  get body(): Http2Body | null {
    return this.#body
  }

  get bytesSent(): number {
    return this.#bytesSent
  }

  get headSent(): boolean {
    return this.#headSent
  }

  // Reading.

  begin(rawHeaders: readonly string[], endStream: boolean): void {
    const { host } = this.#connection
    const head = new MessageHead('request')
    const x = new Exchange(head, this, host.clock.nowMs())
    this.#exchange = x
    const frame = newFrame()
    const text = requestText(rawHeaders, endStream)
    const error = typeof text === 'string' ? readHead(head, text, frame, host.limits) : text
    this.#bodiless = head.method === 'HEAD'
    if (error !== null) {
      this.#bodiless = false
      host.refuse(x, error, error.detail)
      return
    }
    if (!endStream) {
      const body = new Http2Body(this, this.#stream, frame.length, frame.expectContinue)
      this.#body = body
      const max = host.maxBodyBytes
      if (frame.length > max && max > 0) {
        host.refuse(x, 'bodyTooLarge', `the body is larger than ${max} bytes`)
        return
      }
    } else if (frame.length > 0) {
      host.refuse(x, BAD_LENGTH, BAD_LENGTH.detail)
      return
    }
    host.handle(x, frame)
  }

  get maxBodyBytes(): number {
    return this.#connection.host.maxBodyBytes
  }

  bodyFailed(why: BodyError, detail: string): void {
    const x = this.#exchange
    if (x === null) return
    x.abort()
    if (this.#headSent || x.finished) this.destroy()
    else this.#connection.host.refuse(x, why, detail)
  }

  /** Each piece of the body moves its deadline, but never past that of the whole request; gRPC streams fall under `tunnelIdle`. */
  watchBody(): void {
    const { host } = this.#connection
    const { bodyMs, requestMs, tunnelIdleMs } = host.timeouts
    const nowMs = host.clock.coarseMs
    this.#deadlineMs = this.#body!.stream
      ? after(nowMs, tunnelIdleMs)
      : Math.min(after(nowMs, bodyMs), after(this.#openedMs, requestMs))
  }

  bodyPaused(): void {
    this.#deadlineMs = Number.POSITIVE_INFINITY
  }

  get isGrpc(): boolean {
    return this.#exchange?.request.get('content-type')?.startsWith('application/grpc') ?? false
  }

  sendContinue(): void {
    if (!this.#headSent && !this.#stream.destroyed) this.#stream.additionalHeaders({ ':status': 100 })
  }

  // Writing the answer.

  informational(status: number, fields: string): void {
    if (this.#headSent || this.#stream.destroyed) return
    this.#attempt(() => this.#stream.additionalHeaders({ ...headerObject(fields), ':status': status }))
  }

  head(status: number, fields: string, length: number): void {
    if (this.#ended || this.#stream.destroyed || this.#headSent) return
    this.#headSent = true
    this.#bodiless ||= status === 204 || status === 304
    this.#left = this.#bodiless ? 0 : length
    const headers = [':status', String(status)]
    addFields(headers, fields)
    if (length > 0 || (length === 0 && status !== 204 && !isGrpcAnswer(fields)))
      headers.push('content-length', String(length))
    for (const part of headers) this.#bytesSent += part.length
    const endStream = this.#bodiless || length === 0
    this.#attempt(() =>
      this.#stream.respond(headers as unknown as http2.OutgoingHttpHeaders, {
        endStream,
        waitForTrailers: !endStream && length < 0,
      }),
    )
  }

  write(chunk: Uint8Array, lasting = false): boolean {
    if (this.#ended || this.#bodiless || chunk.length === 0 || this.#stream.destroyed) return true
    if (this.#left >= 0) {
      if (chunk.length > this.#left) {
        this.destroy()
        return true
      }
      this.#left -= chunk.length
    }
    this.#bytesSent += chunk.length
    if (this.#left === 0) {
      this.#stream.end(lasting ? chunk : Buffer.from(chunk)) // the last piece and the end leave in one frame
      return true
    }
    if (this.#stream.write(lasting ? chunk : Buffer.from(chunk))) return true
    const { host } = this.#connection
    this.#deadlineMs = after(host.clock.coarseMs, host.timeouts.bodyMs)
    return false
  }

  end(trailers: string): void {
    if (this.#ended) return
    if (this.#left > 0 && !this.#bodiless) {
      this.destroy()
      return
    }
    this.#trailers = trailers
    this.#finish()
  }

  flush(): void {}

  abort(): void {
    this.destroy()
  }

  respond(status: number, fields: string, body: Uint8Array | string): void {
    if (this.#ended || this.#headSent) return
    this.head(status, `Date: ${httpDate()}\r\n${fields}`, body.length)
    if (!this.#bodiless && body.length > 0 && !this.#stream.destroyed) {
      this.#bytesSent += body.length
      this.#stream.end(typeof body === 'string' ? Buffer.from(body, 'latin1') : Buffer.from(body))
    }
    this.#finish()
  }

  /** The answer is written: the exchange ends, the stream as soon as the bytes are out. */
  #finish(): void {
    const x = this.#exchange
    this.#ended = true
    this.#exchange = null
    this.source = null
    this.#deadlineMs = after(this.#connection.host.clock.coarseMs, this.#connection.host.timeouts.bodyMs)
    const stream = this.#stream
    const rest = this.#body !== null && !this.#body.complete
    this.#body?.detach()
    // RFC 9113 §8.1: the rest of a request that nobody reads is asked to stop, once the answer is out.
    if (rest) stream.once('finish', () => stream.close(NO_ERROR))
    if (!stream.destroyed && !stream.writableEnded) stream.end()
    x?.finish('completed')
  }

  #sendTrailers(): void {
    this.#attempt(() => this.#stream.sendTrailers(headerObject(this.#trailers)))
  }

  /** What Node's own checks refuse breaks this stream, never the process. */
  #attempt(write: () => void): void {
    try {
      write()
    } catch {
      this.destroy(INTERNAL_ERROR)
    }
  }

  /** Frames say where a message ends, whatever is wrong with it: other streams go on. */
  closeAfter(): void {}

  destroy(code = this.#headSent ? INTERNAL_ERROR : CANCEL): void {
    if (!this.#stream.destroyed) this.#stream.close(code)
    this.gone()
  }

  /** The stream is no more, whoever ended it. */
  gone(): void {
    this.#connection.ended(this)
    this.#ended = true
    const x = this.#exchange
    this.#exchange = null
    this.source = null
    this.#deadlineMs = Number.POSITIVE_INFINITY
    this.#body?.cut()
    if (x === null) return
    x.abort()
    x.finish('aborted')
  }

  sweep(nowMs: number): void {
    const x = this.#exchange
    if (x !== null && x.deadlineMs <= nowMs) {
      x.deadlineMs = Number.POSITIVE_INFINITY
      this.#connection.host.expire(x)
      return
    }
    if (x !== null && this.#promoteMs <= nowMs) {
      this.#promoteMs = Number.POSITIVE_INFINITY
      this.#connection.host.promote(x)
    }
    if (this.#deadlineMs > nowMs) return
    this.#deadlineMs = Number.POSITIVE_INFINITY
    if (this.#body?.wanted === true && !this.#headSent)
      this.bodyFailed('bodyTimeout', 'the body did not arrive in time')
    else this.destroy(CANCEL)
  }
}

/** The body of a request on its stream. */
class Http2Body implements BodySource {
  sink: BodySink | null = null
  readonly length: number
  complete = false
  received = 0
  readonly #owner: Http2Stream
  readonly #stream: http2.ServerHttp2Stream
  #wanted = false
  #listening = false
  #continue: boolean
  #trailers = ''
  /** Long-lived by nature: no limit on the whole of it. */
  readonly stream: boolean

  constructor(owner: Http2Stream, stream: http2.ServerHttp2Stream, length: number, expectContinue: boolean) {
    this.#owner = owner
    this.#stream = stream
    this.length = length
    this.#continue = expectContinue
    this.stream = owner.isGrpc
    stream.on('trailers', (_headers, _flags, raw) => {
      this.#trailers = trailerLines(raw as unknown as string[])
    })
  }

  get wanted(): boolean {
    return this.#wanted && !this.complete
  }

  pause(): void {
    if (!this.#wanted) return
    this.#wanted = false
    this.#stream.pause()
    this.#owner.bodyPaused()
  }

  resume(): void {
    if (this.#wanted || this.complete) return
    this.#wanted = true
    if (this.#continue) {
      this.#continue = false
      this.#owner.sendContinue()
    }
    this.#owner.watchBody()
    if (!this.#listening) {
      this.#listening = true
      this.#stream.on('data', (chunk: Buffer) => this.#onData(chunk))
      this.#stream.on('end', () => this.#onEnd())
    }
    this.#stream.resume()
  }

  cancel(): void {
    this.sink = null
    this.pause()
  }

  #onData(chunk: Buffer): void {
    if (this.complete) return
    this.received += chunk.length
    const max = this.#owner.maxBodyBytes
    if (this.length >= 0 ? this.received > this.length : max > 0 && this.received > max) {
      this.complete = true
      this.#wanted = false
      const { sink } = this
      this.sink = null
      sink?.abort()
      if (this.length >= 0) this.#owner.bodyFailed('badBody', 'the body is longer than its Content-Length')
      else this.#owner.bodyFailed('bodyTooLarge', `the body is larger than ${max} bytes`)
      return
    }
    const { sink } = this
    const more = sink === null || sink.write(chunk)
    sink?.flush()
    if (this.complete) return
    if (more) this.#owner.watchBody()
    else this.pause()
  }

  #onEnd(): void {
    if (this.complete || this.#stream.aborted || this.#stream.rstCode !== NO_ERROR) return
    this.complete = true
    this.#wanted = false
    this.#owner.bodyPaused()
    const { sink } = this
    this.sink = null
    if (this.length > this.received) {
      sink?.abort()
      this.#owner.bodyFailed('badBody', 'the body is shorter than its Content-Length')
    } else sink?.end(this.#trailers)
  }

  /** The exchange is over: whoever took the body gets no more, what comes is dropped. */
  detach(): void {
    this.sink = null
    this.#wanted = false
  }

  /** The client is gone in mid-body. */
  cut(): void {
    const { sink } = this
    this.sink = null
    this.#wanted = false
    if (!this.complete) {
      this.complete = true
      sink?.abort()
    }
  }
}

const BAD_LENGTH: HeadError = { kind: 'bad', detail: 'the body is shorter than its Content-Length' }

function bad(detail: string): HeadError {
  return { kind: 'bad', detail }
}

/**
 * The head as HTTP/1.1 text, or why there is none. Names and values are checked for what would end a line here; all else
 * is the parser's to judge.
 */
function requestText(raw: readonly string[], endStream: boolean): string | HeadError {
  let method = ''
  let path = ''
  let authority = ''
  let host = ''
  let cookie = ''
  let lines = ''
  let length = false
  for (let i = 0; i < raw.length; i += 2) {
    const name = raw[i]!
    const value = raw[i + 1]!
    if (LINE_BREAK.test(value)) return bad('a field value has a byte that is not allowed')
    if (name === ':method') method = value
    else if (name === ':path') path = value
    else if (name === ':authority') authority = value
    else if (name.startsWith(':'))
      continue // :scheme says what the listener knows better
    else if (!LOWER_CASE_NAME.test(name)) return bad('a field name has a byte that is not allowed')
    else if (FORBIDDEN.has(name)) return bad(`the field ${name} is not allowed in HTTP/2`)
    else if (name === 'host') {
      if (host !== '' && host !== value) return bad('more than one Host field')
      host = value
    } else if (name === 'cookie')
      cookie += cookie === '' ? value : `; ${value}` // RFC 9113 §8.2.3
    else {
      if (name === 'content-length') length = true
      lines += `${name}: ${value}\r\n`
    }
  }
  if (authority !== '' && host !== '' && authority !== host) return bad(':authority and Host differ')
  if (method === 'CONNECT') return { kind: 'unsupported', detail: 'CONNECT is not supported' }
  if (cookie !== '') lines += `cookie: ${cookie}\r\n`
  if (!endStream && !length) lines += 'transfer-encoding: chunked\r\n' // the length shows at the end
  return `${method} ${path} HTTP/1.1\r\nhost: ${authority || host}\r\n${lines}\r\n`
}

function readHead(head: MessageHead, text: string, frame: RequestFrame, limits: HeadLimits): HeadError | null {
  const bytes = Buffer.from(text, 'latin1')
  const result = head.parse(bytes, 0, bytes.length, limits)
  if (result !== PARSED) return head.error ?? bad('the head is incomplete')
  const error = frameRequest(head, frame)
  return error
}

/** Appends field lines to a flat list of names and values. What only may stand once in HTTP/2 stands once. */
function addFields(headers: string[], lines: string): void {
  for (let at = 0; at < lines.length; ) {
    const end = lines.indexOf('\r\n', at)
    if (end < 0) return
    const colon = lines.indexOf(':', at)
    const name = lines.slice(at, colon).toLowerCase()
    const value = lines.slice(colon + 1, end).trim()
    at = end + 2
    if (FORBIDDEN.has(name) || name === 'content-length') continue
    headers.push(name, value)
  }
}

function headerObject(lines: string): Record<string, string | string[]> {
  const flat: string[] = []
  addFields(flat, lines)
  const headers: Record<string, string | string[]> = Object.create(null)
  for (let i = 0; i < flat.length; i += 2) {
    const before = headers[flat[i]!]
    headers[flat[i]!] = before === undefined ? flat[i + 1]! : [before, flat[i + 1]!].flat()
  }
  return headers
}

function isGrpcAnswer(fields: string): boolean {
  return /^content-type: *application\/grpc/im.test(fields)
}
