/**
 * One HTTP/1.1 connection to an endpoint: writes a request's head and body, reads the answer by the strict codec and
 * gives it to the attempt that holds the connection. Owned by a pool; serves one exchange at a time, never pipelines.
 */

import net from 'node:net'
import type tls from 'node:tls'
import type { BodySource, ResponseSink } from '../exchange.ts'
import { ChunkedDecoder } from '../http1/chunked.ts'
import { FIELD_ID } from '../http1/field-names.ts'
import { CHUNKED, declaredLength, frameResponse, listTokens, UNTIL_CLOSE } from '../http1/framing.ts'
import { HeadReader } from '../http1/head-reader.ts'
import { type MessageHead, NEED_MORE, PARSED } from '../http1/message-head.ts'
import { Outbox } from '../http1/outbox.ts'
import { readInto } from '../http1/socket.ts'
import {
  type Attempt,
  type Carrier,
  type ConnectionTimeouts,
  expectsBody,
  type FailureKind,
  isEventStream,
  MAX_INFORMATIONAL,
  openSocket,
  RESPONSE_LIMITS,
  reportFailure,
} from './carrier.ts'
import type { Endpoint } from './endpoint.ts'

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

  get reused(): boolean {
    return this.#served > 1
  }

  get connected(): boolean {
    return this.#connected
  }

  get usable(): boolean {
    return !this.#closed && this.#keepAlive && !this.socket.destroyed
  }

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
    reportFailure(attempt, sink, kind, detail)
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
