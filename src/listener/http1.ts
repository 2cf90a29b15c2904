/**
 * One client connection speaking HTTP/1.x on our own codec: reads requests strictly in order, makes an exchange of each
 * and writes its answer. Pipelined requests wait until the one before is answered. What it cannot trust it answers with
 * 400 and closes. It is the `ClientStream` of the exchange it carries; no exchange, no timer of its own.
 */

import type { Socket } from 'node:net'
import type { BodySink, BodySource, ClientStream, ForwardedFields, ListenerInfo, Tunnel } from '../exchange.ts'
import { Exchange } from '../exchange.ts'
import { ChunkedDecoder } from '../http1/chunked.ts'
import { CHUNKED, frameRequest, newFrame, UNTIL_CLOSE } from '../http1/framing.ts'
import { HeadReader } from '../http1/head-reader.ts'
import { type HeadError, NEED_MORE, PARSED } from '../http1/message-head.ts'
import { Outbox } from '../http1/outbox.ts'
import { adoptSocket } from '../http1/socket.ts'
import { httpDate, statusLine } from '../http1/status-line.ts'
import { after, type BodyError, type ClientConnection, type ConnectionHost, unmapped } from './connection.ts'

/** A host that can take a connection over for another protocol. */
export interface Http1Host extends ConnectionHost {
  /** The first bytes were the HTTP/2 preface: takes the socket, those bytes included, or answers false. */
  takeHttp2(socket: Socket, bytes: Buffer, connection: Http1Connection): boolean
}

/** After an answer that came before the request's end, this much of the rest is read, for so long. */
const LINGER_BYTES = 256 * 1024
const LINGER_MS = 1000
/** How long an idle connection may still bring a request when the end has come. */
const IDLE_DRAIN_MS = 700
/** Pipelined bytes kept while an exchange runs; reading pauses beyond. */
const MAX_PENDING_BYTES = 64 * 1024

const IDLE = 0
const HEAD = 1
const EXCHANGE = 2
/** The last answer is out: the rest is dropped until the client closes. */
const LINGER = 3
const CLOSED = 4

export class Http1Connection implements ClientStream, ClientConnection {
  readonly listener: ListenerInfo
  readonly remoteAddress: string
  forwarded: ForwardedFields | null = null
  source: BodySource | null = null
  readonly #host: Http1Host
  readonly #socket: Socket
  readonly #outbox: Outbox
  readonly #reader = new HeadReader('request')
  readonly #frame = newFrame()
  readonly #body: RequestBody
  #state = IDLE
  #exchange: Exchange | null = null
  /** Set once the connection was upgraded: its bytes are no HTTP any more. */
  #tunnel: Tunnel | null = null
  #processing = false
  #pending: Buffer | null = null
  #paused = false
  #sentBefore = 0
  #headMs = 0
  #deadlineMs: number
  #headSent = false
  #chunked = false
  #left = 0
  #bodiless = false
  #close = false
  #lingered = 0
  /** What the socket had not sent yet when that was looked at last. */
  #unsent = 0

  /** @param early bytes of the client that were read before, with a PROXY header */
  constructor(host: Http1Host, accepted: Socket, listener: ListenerInfo, remoteAddress: string, early?: Buffer) {
    this.#host = host
    this.listener = listener
    this.remoteAddress = remoteAddress
    this.#body = new RequestBody(this)
    this.#deadlineMs = after(host.clock.coarseMs, host.timeouts.headerMs || host.timeouts.idleMs)
    this.#socket = adoptSocket(accepted, this.#onBytes)
    this.#outbox = new Outbox(this.#socket)
    this.#socket.on('end', this.#onEnd)
    this.#socket.on('error', ignore)
    this.#socket.on('close', this.#onClose)
    this.#socket.on('drain', this.#onDrain)
    host.opened(this)
    if (early !== undefined && early.length > 0 && !this.#onBytes(early, early.length)) this.#socket.pause()
  }

  get body(): RequestBody | null {
    return this.#frame.length === 0 ? null : this.#body
  }

  get bytesSent(): number {
    return this.#outbox.bytesTaken - this.#sentBefore
  }

  get remotePort(): number {
    return this.listener.clientPort ?? this.#socket.remotePort ?? 0
  }

  get localAddress(): string {
    return unmapped(this.#socket.localAddress)
  }

  get headSent(): boolean {
    return this.#headSent
  }

  get running(): number {
    return this.#exchange === null ? 0 : 1
  }

  // Reading.

  readonly #onBytes = (bytes: Uint8Array, length: number): boolean => {
    if (this.#processing || (this.#pending !== null && this.#pending.length > 0)) {
      this.#keepPending(bytes, 0, length)
      if (!this.#processing) this.#processPending()
    } else this.#process(bytes, length)
    return !this.#paused
  }

  #process(bytes: Uint8Array, length: number): void {
    this.#processing = true
    let pos = 0
    while (pos < length) {
      if (this.#state === IDLE || this.#state === HEAD) {
        if (this.#state === IDLE) {
          this.#reader.reset()
          this.#state = HEAD
          this.#headMs = 0
        }
        const result = this.#reader.read(bytes, pos, length, this.#host.limits)
        if (result === NEED_MORE) {
          if (this.#headMs === 0) {
            this.#headMs = this.#host.clock.coarseMs
            this.#deadlineMs = after(this.#headMs, this.#host.timeouts.headerMs)
          }
          break
        }
        if (result === PARSED) {
          pos = this.#reader.consumedTo
          this.#begin()
        } else {
          const from = pos
          pos = length
          if (!this.#handOver(bytes, from, length)) this.#refuseHead(this.#reader.head.error!)
        }
      } else if (this.#state === EXCHANGE) {
        if (!this.#body.wanted) {
          this.#keepPending(bytes, pos, length)
          break
        }
        pos = this.#body.feed(bytes, pos, length)
      } else {
        this.#lingered += length - pos
        if (this.#lingered > LINGER_BYTES) this.destroy()
        break
      }
    }
    if (this.#state === EXCHANGE) this.#body.flush()
    this.#processing = false
  }

  #keepPending(bytes: Uint8Array, from: number, end: number): void {
    const rest = bytes.subarray(from, end)
    this.#pending = this.#pending === null ? Buffer.from(rest) : Buffer.concat([this.#pending, rest])
    if (this.#pending.length >= MAX_PENDING_BYTES || this.#state === EXCHANGE) this.#pause()
  }

  #pause(): void {
    if (this.#paused) return
    this.#paused = true
    this.#socket.pause()
  }

  /** Takes up what was kept back, then goes on reading. */
  #processPending(): void {
    while (this.#pending !== null && !this.#processing) {
      if (this.#state === EXCHANGE && !this.#body.wanted) return
      const bytes = this.#pending
      this.#pending = null
      this.#process(bytes, bytes.length)
    }
    const heldBack = this.#state === EXCHANGE && !this.#body.wanted && !this.#body.complete
    if (this.#paused && !heldBack && this.#state !== CLOSED && !this.#processing) {
      this.#paused = false
      this.#socket.resume()
    }
  }

  #begin(): void {
    const { head } = this.#reader
    const frame = this.#frame
    const x = this.#open()
    const error = frameRequest(head, frame)
    if (error !== null) {
      this.#refuse(x, error, error.detail)
      return
    }
    this.#close = !frame.keepAlive || this.#host.draining
    if (frame.length !== 0) {
      this.#body.begin(frame.length, frame.expectContinue)
      this.#deadlineMs = Number.POSITIVE_INFINITY
      if (frame.length > this.#host.maxBodyBytes && this.#host.maxBodyBytes > 0) {
        this.#host.refuse(x, 'bodyTooLarge', `the body is larger than ${this.#host.maxBodyBytes} bytes`)
        return
      }
    }
    this.#host.handle(x, frame)
  }

  #open(): Exchange {
    const nowMs = this.#host.clock.nowMs()
    if (this.#headMs === 0) this.#headMs = nowMs
    const x = new Exchange(this.#reader.head, this, nowMs)
    this.#exchange = x
    this.#state = EXCHANGE
    this.#deadlineMs = Number.POSITIVE_INFINITY
    this.#headSent = false
    this.#bodiless = this.#reader.head.method === 'HEAD'
    this.#sentBefore = this.#outbox.bytesTaken
    this.#frame.length = 0
    this.#body.complete = true
    return x
  }

  /** A head that cannot be HTTP/1: the first one may be the preface of HTTP/2 (RFC 9113 §3.4). */
  #handOver(bytes: Uint8Array, from: number, end: number): boolean {
    if (this.#outbox.bytesTaken > 0 || this.#reader.head.error!.kind !== 'version') return false
    const first = this.#reader.collected ?? bytes.subarray(from, end)
    if (!startsWithPreface(first)) return false
    const kept = Buffer.from(first)
    const socket = this.#socket
    if (!this.#host.takeHttp2(socket, kept, this)) return false
    socket.removeListener('end', this.#onEnd)
    socket.removeListener('error', ignore)
    socket.removeListener('close', this.#onClose)
    socket.removeListener('drain', this.#onDrain)
    socket.removeAllListeners('data')
    this.#gone()
    return true
  }

  #refuseHead(error: HeadError): void {
    this.#refuse(this.#open(), error, error.detail)
  }

  #refuse(x: Exchange, error: Parameters<Http1Host['refuse']>[1], detail: string): void {
    this.#frame.length = 0
    this.#bodiless = false
    this.#close = true
    this.#host.refuse(x, error, detail)
  }

  /** The body broke a rule, or came too slowly: an answer if none has begun, else the end. */
  bodyFailed(why: BodyError, detail: string): void {
    const x = this.#exchange
    if (x === null) {
      this.destroy()
      return
    }
    this.#close = true
    x.abort()
    if (this.#headSent || x.finished) this.destroy()
    else this.#host.refuse(x, why, detail)
  }

  // Demands of the request's body.

  bodyResumed(sendContinue: boolean): void {
    if (sendContinue && !this.#headSent && this.#pending === null) {
      this.#outbox.text('HTTP/1.1 100 Continue\r\n\r\n')
      this.#outbox.flush()
    }
    this.watchBody()
    if (!this.#processing) this.#processPending()
  }

  bodyPaused(): void {
    this.#deadlineMs = Number.POSITIVE_INFINITY
    this.#pause()
  }

  /** Each piece of the body moves its deadline, but never past that of the whole request. */
  watchBody(): void {
    if (this.#tunnel !== null) return // whoever made it watches both directions
    const { bodyMs, requestMs } = this.#host.timeouts
    this.#deadlineMs = Math.min(after(this.#host.clock.coarseMs, bodyMs), after(this.#headMs, requestMs))
  }

  bodyEnded(): void {
    this.#deadlineMs = Number.POSITIVE_INFINITY
  }

  get maxBodyBytes(): number {
    return this.#host.maxBodyBytes
  }

  // Writing the answer.

  informational(status: number, fields: string): void {
    if (this.#headSent || this.#state !== EXCHANGE || this.#reader.head.minorVersion === 0) return
    this.#outbox.text(`${statusLine(status)}${fields}\r\n`)
    this.#outbox.flush()
  }

  head(status: number, fields: string, length: number): void {
    if (this.#state !== EXCHANGE) return
    this.#headSent = true
    const bodiless = this.#bodiless || status === 204 || status === 304
    this.#bodiless = bodiless
    this.#left = bodiless ? 0 : length
    this.#chunked = false
    let framing = ''
    if (length >= 0) {
      if (status !== 204) framing = `Content-Length: ${length}\r\n`
    } else if (!bodiless) {
      if (this.#reader.head.minorVersion === 1) {
        this.#chunked = true
        framing = 'Transfer-Encoding: chunked\r\n'
      } else this.#close = true
    }
    if (this.#host.draining) this.#close = true
    if (this.#close) framing += 'Connection: close\r\n'
    else if (this.#reader.head.minorVersion === 0) framing += 'Connection: keep-alive\r\n'
    this.#outbox.text(`${statusLine(status)}${fields}${framing}\r\n`)
  }

  write(chunk: Uint8Array, lasting = false): boolean {
    if (this.#state !== EXCHANGE || this.#bodiless || chunk.length === 0) return true
    if (this.#chunked) {
      this.#outbox.text(`${chunk.length.toString(16)}\r\n`)
      this.#outbox.bytes(chunk)
      this.#outbox.text('\r\n')
    } else {
      if (this.#left >= 0) {
        // A stage that gives more than it announced would put its bytes into the next answer.
        if (chunk.length > this.#left) {
          this.destroy()
          return true
        }
        this.#left -= chunk.length
      }
      this.#outbox.bytes(chunk, lasting)
    }
    if (this.#outbox.ready) return true
    this.#deadlineMs = after(this.#host.clock.coarseMs, this.#host.timeouts.bodyMs)
    return false
  }

  end(trailers: string): void {
    if (this.#state !== EXCHANGE) return
    if (this.#left > 0 && !this.#bodiless) {
      this.destroy() // shorter than announced: the client must not take it for whole
      return
    }
    if (this.#chunked) this.#outbox.text(`0\r\n${trailers}\r\n`)
    this.#outbox.flush()
    this.#ended()
  }

  flush(): void {
    if (this.#state === EXCHANGE) this.#outbox.flush()
  }

  /** The answer broke off: reset, never a silent short answer. */
  abort(): void {
    if (this.#state === EXCHANGE) this.#outbox.send()
    this.destroy()
  }

  respond(status: number, fields: string, body: Uint8Array | string): void {
    if (this.#state !== EXCHANGE) return
    // The rest of a body that nobody reads makes this the connection's last answer; say so.
    if (this.#frame.length !== 0 && !this.#body.complete && !this.#body.wanted) this.#close = true
    this.head(status, `Date: ${httpDate()}\r\n${fields}`, body.length)
    if (!this.#bodiless) {
      if (typeof body === 'string') this.#outbox.text(body)
      else this.#outbox.bytes(body)
      this.#left = 0
    }
    this.end('')
  }

  closeAfter(): void {
    this.#close = true
  }

  upgrade(fields: string, tunnel: Tunnel): void {
    if (this.#state !== EXCHANGE) return
    this.#tunnel = tunnel
    this.#headSent = true
    this.#bodiless = false
    this.#chunked = false
    this.#left = -1
    this.#close = true
    this.#deadlineMs = Number.POSITIVE_INFINITY
    this.#outbox.text(`${statusLine(101)}${fields}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n`)
    this.#outbox.flush()
    this.#frame.length = UNTIL_CLOSE
    this.#body.begin(UNTIL_CLOSE, false)
    this.#body.sink = tunnel
    this.#body.resume()
  }

  goAway(): boolean {
    if (this.#tunnel === null) return false
    this.#tunnel.goAway()
    return true
  }

  destroy(): void {
    if (this.#state === CLOSED) return
    reset(this.#socket)
    this.#gone()
  }

  #ended(): void {
    const x = this.#exchange!
    const rest = this.#frame.length !== 0 && !this.#body.complete
    this.#frame.target = '' // cut from the head, which would stay in memory with it
    this.#exchange = null
    this.#tunnel = null
    this.source = null
    this.#body.detach()
    if (this.#close || rest) this.#linger()
    else {
      this.#state = IDLE
      this.#deadlineMs = after(this.#host.clock.coarseMs, this.#host.timeouts.idleMs)
    }
    x.finish('completed')
    if ((this.#pending !== null || this.#paused) && !this.#processing) this.#processPending()
  }

  /**
   * Half-closes and drops what still comes for a while: closing at once would make the kernel send a reset that may take
   * the answer with it (RFC 9112 §9.6). The while begins when the answer has left; a client that takes none of it for as
   * long as a body may stand still is given up before.
   */
  #linger(): void {
    this.#state = LINGER
    this.#lingered = 0
    this.#deadlineMs = after(this.#host.clock.coarseMs, this.#host.timeouts.bodyMs)
    this.#outbox.end(() => {
      this.#deadlineMs = this.#host.clock.coarseMs + LINGER_MS
    })
    this.#unsent = this.#socket.writableLength
  }

  /** The end of it, never by a reset: the kernel may still be sending. */
  #lingeredEnough(): void {
    const unsent = this.#socket.writableLength
    if (unsent > 0 && unsent < this.#unsent) {
      this.#unsent = unsent
      this.#deadlineMs = after(this.#host.clock.coarseMs, this.#host.timeouts.bodyMs)
      return
    }
    this.#socket.destroy()
    this.#gone()
  }

  readonly #onDrain = (): void => {
    if (this.#state !== EXCHANGE) return
    this.#deadlineMs = Number.POSITIVE_INFINITY
    if (this.#body.wanted && !this.#body.complete) this.watchBody()
    this.source?.resume()
  }

  readonly #onEnd = (): void => {
    if (this.#tunnel !== null) this.#body.ended()
    else if (this.#state === EXCHANGE)
      this.destroy() // the client is gone: stop the work (as nginx, Go and Envoy do)
    else if (this.#state !== LINGER) this.#outbox.end()
    else if (this.#socket.writableFinished) this.#socket.destroy()
  }

  readonly #onClose = (): void => {
    this.#gone()
  }

  #gone(): void {
    if (this.#state === CLOSED) return
    this.#state = CLOSED
    this.#pending = null
    const x = this.#exchange
    this.#exchange = null
    this.#tunnel = null
    this.#body.cut()
    this.source = null
    if (x !== null) {
      x.abort()
      x.finish('aborted')
    }
    this.#host.closed(this)
  }

  // Called by the listener's tick.

  sweep(nowMs: number): void {
    if (this.#exchange !== null && this.#exchange.deadlineMs <= nowMs) {
      this.#exchange.deadlineMs = Number.POSITIVE_INFINITY
      this.#host.expire(this.#exchange)
      return
    }
    if (this.#deadlineMs > nowMs) return
    this.#deadlineMs = Number.POSITIVE_INFINITY
    if (this.#state === IDLE && this.#host.draining) this.#linger()
    else if (this.#state === HEAD) this.#refuse(this.#open(), 'headerTimeout', 'the head did not arrive in time')
    else if (this.#state === EXCHANGE && this.#body.wanted && !this.#body.complete && !this.#headSent) {
      this.bodyFailed('bodyTimeout', 'the body did not arrive in time')
    } else if (this.#state === IDLE) this.#linger()
    else if (this.#state === LINGER) this.#lingeredEnough()
    else this.destroy()
  }

  /**
   * Draining: a busy connection closes after its answer, an idle one soon. Not at once: its next request may be on the way,
   * and a client that is told by `Connection: close` loses nothing.
   */
  drain(): void {
    if (this.#state === IDLE) this.#deadlineMs = this.#host.clock.coarseMs + IDLE_DRAIN_MS
    else this.#close = true
  }
}

/** The body of the request that a connection is reading. */
export class RequestBody implements BodySource {
  sink: BodySink | null = null
  length = 0
  readonly #connection: Http1Connection
  #decoder: ChunkedDecoder | null = null
  #left = 0
  #received = 0
  #wanted = false
  #continue = false
  complete = true

  constructor(connection: Http1Connection) {
    this.#connection = connection
  }

  begin(length: number, expectContinue: boolean): void {
    this.length = length
    this.sink = null
    this.#left = length
    this.#received = 0
    this.#wanted = false
    this.#continue = expectContinue
    this.complete = false
    if (length === CHUNKED) {
      this.#decoder ??= new ChunkedDecoder()
      this.#decoder.reset()
    }
  }

  /** True while bytes may be fed. */
  get wanted(): boolean {
    return this.#wanted && !this.complete
  }

  get received(): number {
    return this.#received
  }

  pause(): void {
    if (!this.#wanted) return
    this.#wanted = false
    this.#connection.bodyPaused()
  }

  resume(): void {
    if (this.#wanted || this.complete) return
    this.#wanted = true
    const sendContinue = this.#continue
    this.#continue = false
    this.#connection.bodyResumed(sendContinue)
  }

  cancel(): void {
    this.sink = null
    this.pause()
  }

  feed(bytes: Uint8Array, from: number, end: number): number {
    let pos = from
    if (this.length === CHUNKED) {
      const decoder = this.#decoder!
      pos = decoder.next(bytes, pos, end)
      if (decoder.error !== '') {
        this.#fail('badBody', decoder.error)
        return end
      }
      if (decoder.dataEnd > decoder.dataStart && !this.#give(bytes, decoder.dataStart, decoder.dataEnd)) return end
      if (decoder.done) this.#end(decoder.trailers)
    } else if (this.length === UNTIL_CLOSE) {
      this.#give(bytes, from, end)
      pos = end
    } else {
      pos = Math.min(end, from + this.#left)
      this.#left -= pos - from
      if (!this.#give(bytes, from, pos)) return end
      if (this.#left === 0) this.#end('')
    }
    return pos
  }

  #give(bytes: Uint8Array, from: number, end: number): boolean {
    this.#received += end - from
    const max = this.#connection.maxBodyBytes
    if (max > 0 && this.#received > max && this.length !== UNTIL_CLOSE) {
      this.#fail('bodyTooLarge', `the body is larger than ${max} bytes`)
      return false
    }
    const more = this.sink === null || this.sink.write(bytes.subarray(from, end))
    if (this.complete) return true
    if (more) this.#connection.watchBody()
    else this.pause()
    return true
  }

  #end(trailers: string): void {
    this.complete = true
    this.#wanted = false
    const { sink } = this
    this.sink = null
    this.#connection.bodyEnded()
    sink?.end(trailers)
  }

  /** A tunnel's client sends no more. */
  ended(): void {
    if (!this.complete) this.#end('')
  }

  #fail(why: 'bodyTooLarge' | 'badBody', detail: string): void {
    this.complete = true
    this.#wanted = false
    const { sink } = this
    this.sink = null
    sink?.abort()
    this.#connection.bodyFailed(why, detail)
  }

  flush(): void {
    this.sink?.flush()
  }

  /** The exchange is over: whoever took the body gets no more. */
  detach(): void {
    this.sink = null
    this.#wanted = false
  }

  /** The client is gone in mid-body. */
  cut(): void {
    const { sink } = this
    this.sink = null
    this.#wanted = false
    if (!this.complete) sink?.abort()
  }
}

const PREFACE = Buffer.from('PRI * HTTP/2')

function startsWithPreface(bytes: Uint8Array): boolean {
  return PREFACE.equals(bytes.subarray(0, PREFACE.length))
}

/** Closes with a reset: under TLS that is the matter of the socket below, which the TLS socket closes with. */
function reset(socket: Socket): void {
  const below = (socket as unknown as { _parent: Socket | null })._parent ?? socket
  if (!below.connecting && !below.destroyed) below.resetAndDestroy()
  socket.destroy()
}

function ignore(): void {}
