/**
 * One HTTP/1.1 connection to an endpoint: writes a request's head and body, reads the answer by the strict codec and
 * gives it to the attempt that holds the connection. Owned by a pool; serves one exchange at a time, never pipelines.
 */

import net from 'node:net'
import tls from 'node:tls'
import type { BodySink, BodySource, ResponseSink, Tunnel } from '../exchange.ts'
import { ChunkedDecoder } from '../http1/chunked.ts'
import { FIELD_ID } from '../http1/field-names.ts'
import { CHUNKED, declaredLength, frameResponse, listTokens, UNTIL_CLOSE } from '../http1/framing.ts'
import { HeadReader } from '../http1/head-reader.ts'
import { type HeadLimits, type MessageHead, NEED_MORE, PARSED } from '../http1/message-head.ts'
import { Outbox } from '../http1/outbox.ts'
import { readInto } from '../http1/socket.ts'
import type { Endpoint } from './endpoint.ts'

/** Why an attempt failed. `connect` and `connectTimeout`: not a byte was sent. */
export type FailureKind = 'connect' | 'connectTimeout' | 'reset' | 'bad' | 'timeout'

/** Who holds a connection for one request. */
export interface Attempt {
  readonly method: string
  /** An interim answer; 100 and 101 never come here. */
  informational(head: MessageHead): void
  /** The final head. @param length as in `ResponseSink.head`. Returns where the body goes. */
  head(head: MessageHead, length: number): ResponseSink
  /** No final head came. The connection is gone. */
  failed(kind: FailureKind, detail: string): void
  /** The body broke off after the head; the sink is told next. The connection is gone. */
  broken(kind: FailureKind, detail: string): void
  /** The whole answer was read. The connection is back in its pool or gone. */
  done(): void
  /**
   * The upstream took the WebSocket (a handshake's carrier alone says so). Returns where its bytes go; `done()` or
   * `broken()` follows as after `head()`.
   */
  upgraded?(head: MessageHead, tunnel: Tunnel): ResponseSink
}

/** What carries one request to an endpoint: an HTTP/1.1 connection, a stream of HTTP/2, a WebSocket's handshake. */
export interface Carrier extends BodySink {
  /** A byte of the request may have reached the endpoint. */
  readonly connected: boolean
  /** Its connection has served before: a failure may only mean that the upstream closed it while idle. */
  readonly reused: boolean
  /** Where body demand goes when the request is slow upstream: the client's body. */
  requestSource: BodySource | null
  /**
   * Sends a request's head; the body follows through this sink unless `length` is 0.
   * @param headText start line and fields without framing, each line ending in CRLF
   * @param length of the body: 0, a Content-Length, or CHUNKED
   */
  send(attempt: Attempt, headText: string, length: number): void
  /** Nobody wants the answer (any more). The attempt hears nothing. */
  cancel(): void
}

export interface ConnectionTimeouts {
  readonly connectMs: number
  readonly firstByteMs: number
  readonly idleMs: number
  /** Instead of `idleMs` for event streams, gRPC and WebSockets. */
  readonly streamIdleMs: number
  /** Age at which a WebSocket is closed; 0: none. */
  readonly tunnelLifetimeMs: number
}

/** What a connection tells its pool. */
export interface ConnectionOwner {
  readonly timeouts: ConnectionTimeouts
  readonly tls: tls.ConnectionOptions | undefined
  now(): number
  /** The exchange is over and the connection may be used again. */
  idle(connection: UpstreamConnection): void
  /** The socket is closed, for whatever reason. Called once. */
  closed(connection: UpstreamConnection): void
}

/** Answers may have large heads (cookies, CSP), but not endless ones. */
export const RESPONSE_LIMITS: HeadLimits = { headBytes: 64 * 1024, fields: 256, targetBytes: 0 }
export const MAX_INFORMATIONAL = 1000

const HEAD = 0
const BODY_LENGTH = 1
const BODY_CHUNKED = 2
const BODY_UNTIL_CLOSE = 3

export class UpstreamConnection implements Carrier, BodySource {
  readonly endpoint: Endpoint
  readonly socket: net.Socket
  readonly openedMs: number
  readonly #owner: ConnectionOwner
  readonly #outbox: Outbox
  readonly #reader = new HeadReader('response')
  #decoder: ChunkedDecoder | null = null
  #attempt: Attempt | null = null
  #sink: ResponseSink | null = null
  #phase = HEAD
  #left = 0
  #connected = false
  #closed = false
  #served = 0
  #informational = 0
  #requestChunked = false
  #requestDone = true
  #keepAlive = true
  #error = ''
  #idleMs = 0
  /** When the connection is given up, by `#deadline`'s meaning; Infinity: not watched. Checked by the pool's tick. */
  deadlineMs: number
  /** Since when it is idle in the pool, and until when it may be. */
  idleUntilMs = Number.POSITIVE_INFINITY
  idleSinceMs = 0
  /** The upstream's own keep-alive time from its `Keep-Alive: timeout=…`; 0: not told. */
  announcedIdleMs = 0
  /** Where body demand goes when the request is slow upstream: the client's body. */
  requestSource: BodySource | null = null

  /** @param opening bytes that come before anything else, TLS too: a PROXY header */
  constructor(endpoint: Endpoint, owner: ConnectionOwner, opening?: Buffer) {
    this.endpoint = endpoint
    this.#owner = owner
    this.openedMs = owner.now()
    this.deadlineMs = owner.timeouts.connectMs > 0 ? this.openedMs + owner.timeouts.connectMs : Number.POSITIVE_INFINITY
    if (endpoint.secure) {
      const secure = openSocket(endpoint, owner.tls, 'http/1.1', opening)
      secure.on('secureConnect', this.#onConnect)
      secure.on('data', (chunk: Buffer) => {
        if (!this.#onBytes(chunk, chunk.length)) secure.pause()
      })
      this.socket = secure
    } else {
      this.socket = net.connect({ host: endpoint.host, port: endpoint.port, ...readInto(this.#onBytes) })
      this.socket.on('connect', this.#onConnect)
      if (opening !== undefined) this.socket.write(opening)
    }
    this.socket.setNoDelay(true)
    this.#outbox = new Outbox(this.socket)
    this.socket.on('end', this.#onEnd)
    this.socket.on('error', (error: NodeJS.ErrnoException) => {
      this.#error = error.code ?? error.message
    })
    this.socket.on('close', this.#onClose)
    this.socket.on('drain', () => this.requestSource?.resume())
  }

  /** True when it has served before: a failure may only mean that the upstream closed it while idle. */
  get reused(): boolean {
    return this.#served > 1
  }

  get connected(): boolean {
    return this.#connected
  }

  get usable(): boolean {
    return !this.#closed && this.#keepAlive && !this.socket.destroyed
  }

  /**
   * Sends a request's head; the body follows through this sink unless `length` is 0.
   * @param headText start line and fields without framing, each line ending in CRLF
   * @param length of the body: 0, a Content-Length, or CHUNKED
   */
  send(attempt: Attempt, headText: string, length: number): void {
    this.#attempt = attempt
    this.#served++
    this.#phase = HEAD
    this.#sink = null
    this.#informational = 0
    this.#reader.reset()
    this.idleUntilMs = Number.POSITIVE_INFINITY
    this.#requestDone = length === 0
    this.#requestChunked = length === CHUNKED
    this.#outbox.text(headText)
    if (length === CHUNKED) this.#outbox.text('Transfer-Encoding: chunked\r\n\r\n')
    else if (length > 0 || expectsBody(attempt.method)) this.#outbox.text(`Content-Length: ${length}\r\n\r\n`)
    else this.#outbox.text('\r\n')
    if (this.#requestDone) {
      this.#outbox.flush()
      this.#watchFirstByte()
    }
  }

  #watchFirstByte(): void {
    if (!this.#connected || this.#sink !== null) return
    const { firstByteMs } = this.#owner.timeouts
    this.deadlineMs = firstByteMs > 0 ? this.#owner.now() + firstByteMs : Number.POSITIVE_INFINITY
  }

  // The request's body, as a sink.

  write(chunk: Uint8Array): boolean {
    if (this.#closed) return true
    if (this.#requestChunked) {
      this.#outbox.text(`${chunk.length.toString(16)}\r\n`)
      this.#outbox.bytes(chunk)
      this.#outbox.text('\r\n')
    } else this.#outbox.bytes(chunk)
    return this.#outbox.ready
  }

  end(trailers: string): void {
    if (this.#closed) return
    if (this.#requestChunked) this.#outbox.text(`0\r\n${trailers}\r\n`)
    this.#outbox.flush()
    this.#requestDone = true
    this.#watchFirstByte()
  }

  flush(): void {
    if (!this.#closed) this.#outbox.flush()
  }

  /** The client's body was cut: the upstream must see that, not a short request. */
  abort(): void {
    this.cancel()
  }

  // The answer's body, as a source.

  pause(): void {
    this.socket.pause()
    this.deadlineMs = Number.POSITIVE_INFINITY
  }

  resume(): void {
    if (this.#closed) return
    this.#watchIdle()
    this.socket.resume()
  }

  /** Nobody wants the answer (any more). The attempt hears nothing. */
  cancel(): void {
    this.#attempt = null
    this.#sink = null
    this.requestSource = null
    this.destroy()
  }

  destroy(): void {
    this.#keepAlive = false
    this.socket.destroy()
  }

  /** The deadline has passed: what it stood for has not come. */
  expire(): void {
    if (!this.#connected) this.#fail('connectTimeout', 'the connection was not established in time')
    else if (this.#sink === null) this.#fail('timeout', 'the head of the answer did not come in time')
    else this.#fail('timeout', 'the body of the answer stalled')
  }

  #watchIdle(): void {
    this.deadlineMs = this.#idleMs > 0 ? this.#owner.now() + this.#idleMs : Number.POSITIVE_INFINITY
  }

  readonly #onConnect = (): void => {
    this.#connected = true
    this.deadlineMs = Number.POSITIVE_INFINITY
    if (this.#attempt !== null && this.#requestDone) this.#watchFirstByte()
  }

  readonly #onBytes = (bytes: Uint8Array, length: number): boolean => {
    let pos = 0
    let wanted = true
    while (pos < length) {
      if (this.#attempt === null) {
        this.destroy() // bytes that nobody asked for: the framing of this connection cannot be trusted
        return true
      }
      if (this.#phase === HEAD) {
        const result = this.#reader.read(bytes, pos, length, RESPONSE_LIMITS)
        if (result === NEED_MORE) return true
        if (result !== PARSED) {
          this.#fail('bad', this.#reader.head.error!.detail)
          return true
        }
        pos = this.#reader.consumedTo
        if (!this.#onHead(pos === length)) return true
        if (this.#phase === HEAD) continue // an interim answer, or one without a body
        this.#watchIdle()
        continue
      }
      if (this.#phase === BODY_CHUNKED) {
        const decoder = this.#decoder!
        pos = decoder.next(bytes, pos, length)
        if (decoder.error !== '') {
          this.#fail('bad', decoder.error)
          return true
        }
        if (decoder.dataEnd > decoder.dataStart)
          wanted = this.#sink!.write(bytes.subarray(decoder.dataStart, decoder.dataEnd))
        if (decoder.done) this.#complete(decoder.trailers, pos === length)
      } else {
        const stop = this.#phase === BODY_LENGTH ? Math.min(length, pos + this.#left) : length
        wanted = this.#sink!.write(pos === 0 && stop === bytes.length ? bytes : bytes.subarray(pos, stop))
        this.#left -= stop - pos
        pos = stop
        if (this.#phase === BODY_LENGTH && this.#left === 0) this.#complete('', pos === length)
      }
    }
    if (this.#sink !== null) {
      this.#sink.flush()
      if (!wanted && this.#sink !== null) {
        this.deadlineMs = Number.POSITIVE_INFINITY // the client is slow, not the upstream
        return false
      }
      this.#watchIdle()
    }
    return true
  }

  /** Returns false when the connection is of no more use. @param last no bytes follow the head */
  #onHead(last: boolean): boolean {
    const { head } = this.#reader
    const attempt = this.#attempt!
    if (head.status < 200) {
      if (head.status === 101) {
        this.#fail('bad', 'the upstream switched protocols unasked')
        return false
      }
      if (++this.#informational > MAX_INFORMATIONAL) {
        this.#fail('bad', 'too many interim answers')
        return false
      }
      if (head.status !== 100) attempt.informational(head)
      this.#reader.reset()
      return this.#attempt !== null
    }
    const length = frameResponse(head, attempt.method)
    const declared = length === 0 ? declaredLength(head) : length
    if (typeof length !== 'number' || typeof declared !== 'number') {
      this.#fail('bad', (typeof length !== 'number' ? length : (declared as { detail: string })).detail)
      return false
    }
    this.#keepAlive = head.minorVersion === 1
    const connection = head.value(FIELD_ID.connection)
    if (connection !== undefined) {
      const tokens = listTokens(connection)
      this.#keepAlive = !tokens.includes('close') && (head.minorVersion === 1 || tokens.includes('keep-alive'))
      if (this.#keepAlive) this.#readKeepAlive(head)
    }
    const bodiless = length === 0
    const stream = isEventStream(head)
    this.#idleMs = stream ? this.#owner.timeouts.streamIdleMs : this.#owner.timeouts.idleMs
    const sink = attempt.head(head, bodiless ? declared : length < 0 ? -1 : length)
    if (this.#attempt !== attempt) return false // refused in the meantime
    this.#sink = sink
    sink.source = this
    if (bodiless) {
      this.#complete('', last) // what follows an answer without a body answers nobody
      return this.usable
    }
    this.#left = length
    if (length === CHUNKED) {
      this.#decoder ??= new ChunkedDecoder()
      this.#decoder.reset()
      this.#phase = BODY_CHUNKED
    } else this.#phase = length === UNTIL_CLOSE ? BODY_UNTIL_CLOSE : BODY_LENGTH
    if (length === UNTIL_CLOSE) this.#keepAlive = false
    return true
  }

  #readKeepAlive(head: MessageHead): void {
    const value = head.value(FIELD_ID['keep-alive'])
    const match = value === undefined ? null : /(?:^|[\s,;])timeout=(\d{1,6})/i.exec(value)
    this.announcedIdleMs = match === null ? 0 : Number(match[1]) * 1000
  }

  /** The connection goes back before the sink hears of the end, so that the client's next request can have it. */
  #complete(trailers: string, clean: boolean): void {
    const attempt = this.#attempt!
    const sink = this.#sink!
    this.#attempt = null
    this.#sink = null
    this.requestSource = null
    this.#phase = HEAD
    this.deadlineMs = Number.POSITIVE_INFINITY
    if (clean && this.#requestDone && this.usable) this.#owner.idle(this)
    else this.destroy()
    attempt.done()
    sink.end(trailers)
    sink.flush()
  }

  #fail(kind: FailureKind, detail: string): void {
    const attempt = this.#attempt
    const sink = this.#sink
    this.#attempt = null
    this.#sink = null
    this.requestSource = null
    this.deadlineMs = Number.POSITIVE_INFINITY
    this.destroy()
    if (attempt === null) return
    if (sink === null) attempt.failed(kind, detail)
    else {
      attempt.broken(kind, detail)
      sink.abort()
    }
  }

  readonly #onEnd = (): void => {
    if (this.#phase === BODY_UNTIL_CLOSE && this.#attempt !== null) {
      this.#complete('', false)
      return
    }
    this.#fail('reset', 'the upstream closed the connection')
    this.destroy()
  }

  readonly #onClose = (): void => {
    this.#closed = true
    this.#keepAlive = false
    if (this.#connected) this.#fail('reset', this.#error || 'the connection was closed')
    else this.#fail('connect', this.#error || 'the connection was not established')
    this.#owner.closed(this)
  }
}

/** Methods whose requests say `Content-Length: 0` when they have no body (RFC 9110 §8.6). */
function expectsBody(method: string): boolean {
  return method === 'POST' || method === 'PUT' || method === 'PATCH'
}

/** An answer that may never end, with pauses of any length (WHATWG HTML §9.2). */
export function isEventStream(head: MessageHead): boolean {
  return head.beginsWith(FIELD_ID['content-type'], 'text/event-stream')
}

/** Connects to an endpoint, with TLS where its URL says so. */
export function openSocket(
  endpoint: Endpoint,
  options: tls.ConnectionOptions | undefined,
  protocol: 'http/1.1' | 'h2',
  opening?: Buffer,
): net.Socket {
  const { host, port } = endpoint
  if (!endpoint.secure || opening !== undefined) {
    const plain = net.connect({ host, port, noDelay: true })
    if (opening !== undefined) plain.write(opening)
    if (!endpoint.secure) return plain
    return secured({ socket: plain })
  }
  return secured({ host, port })

  function secured(to: tls.ConnectionOptions): tls.TLSSocket {
    return tls.connect({ ...to, ...options, servername: serverName(endpoint), ALPNProtocols: [protocol] })
  }
}

function serverName(endpoint: Endpoint): string | undefined {
  return net.isIP(endpoint.serverName) === 0 ? endpoint.serverName : undefined
}
