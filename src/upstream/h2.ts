/**
 * Upstreams that speak HTTP/2 (`protocol: h2`): sessions of one thread to one endpoint, shared by many exchanges. Each
 * request is a stream that looks like every other carrier to who sends; what the upstream answers is written as HTTP/1.1
 * text and read by the same strict parser. On Node's http2: undici's `Client` hides trailers behind its own handlers and
 * cannot send a request's.
 */

import type { ClientHttp2Session, ClientHttp2Stream, OutgoingHttpHeaders } from 'node:http2'
import type { Socket } from 'node:net'
import type tls from 'node:tls'
import type { BodySource, ResponseSink } from '../exchange.ts'
import { FIELD_ID } from '../http1/field-names.ts'
import { CHUNKED, declaredLength } from '../http1/framing.ts'
import { MessageHead, PARSED } from '../http1/message-head.ts'
import { trailerLines } from '../http1/trailers.ts'
import type { Clock } from '../shared/clock.ts'
import {
  type Attempt,
  type Carrier,
  type ConnectionTimeouts,
  type FailureKind,
  MAX_INFORMATIONAL,
  openSocket,
  RESPONSE_LIMITS,
} from './connection.ts'
import type { Endpoint } from './endpoint.ts'
import type { EndpointPool, PoolOptions, PoolStats, PoolWaiter } from './pool.ts'

/** Streams on one connection until the upstream has told its own limit (RFC 9113 §6.5.2 recommends at least 100). */
const STREAMS_BEFORE_SETTINGS = 100
const WINDOW_BYTES = 1024 * 1024
const NO_ERROR = 0
const REFUSED_STREAM = 7
const CANCEL = 8
/** Left out of an HTTP/2 request: RFC 9113 §8.2.2; Host becomes `:authority`. */
const NOT_FORWARDED = new Set([
  'connection',
  'keep-alive',
  'proxy-connection',
  'transfer-encoding',
  'upgrade',
  'host',
  'te',
])
const NAME = /^[!#$%&'*+\-.^_`|~0-9a-z]+$/
const LINE_BREAK = /[\r\n\0]/

/** What a session needs of its pool. */
interface SessionOwner {
  readonly timeouts: ConnectionTimeouts
  readonly tls: tls.ConnectionOptions | undefined
  now(): number
  streamEnded(session: Session): void
  closed(session: Session): void
}

export class H2Pool implements EndpointPool, SessionOwner {
  readonly endpoint: Endpoint
  readonly #clock: Clock
  #options: PoolOptions
  readonly #sessions = new Set<Session>()
  readonly #waiters = new Set<PoolWaiter>()
  #waitCount = 0
  #waitMs = 0
  #retired = false

  constructor(endpoint: Endpoint, options: PoolOptions, clock: Clock) {
    this.endpoint = endpoint
    this.#options = options
    this.#clock = clock
    clock.add(this)
  }

  get timeouts(): ConnectionTimeouts {
    return this.#options.timeouts
  }

  get tls(): tls.ConnectionOptions | undefined {
    return this.#options.tls
  }

  configure(options: PoolOptions): void {
    this.#options = options
  }

  now(): number {
    return this.#clock.coarseMs
  }

  acquire(waiter: PoolWaiter): void {
    for (const session of this.#sessions) {
      if (!session.hasRoom) continue
      waiter.connection(session.stream())
      return
    }
    this.#openOrWait(waiter)
  }

  acquireFresh(waiter: PoolWaiter): void {
    this.#openOrWait(waiter)
  }

  /** HTTP/1.1 Upgrade does not exist here (RFC 9113 §8.6): who asks for it was to be served plainly. */
  openTunnel(waiter: PoolWaiter): void {
    this.acquire(waiter)
  }

  #openOrWait(waiter: PoolWaiter): void {
    if (this.#sessions.size < this.#options.maxOpenConns) {
      const session = new Session(this.endpoint, this)
      this.#sessions.add(session)
      waiter.connection(session.stream())
      return
    }
    waiter.waitedFromMs = this.#clock.nowMs()
    this.#waitCount++
    this.#waiters.add(waiter)
  }

  leave(waiter: PoolWaiter): void {
    if (this.#waiters.delete(waiter)) this.#waitMs += this.#clock.nowMs() - waiter.waitedFromMs
  }

  #serveWaiters(): void {
    for (const waiter of [...this.#waiters]) {
      const free = [...this.#sessions].some((session) => session.hasRoom)
      if (!free && this.#sessions.size >= this.#options.maxOpenConns) return
      this.leave(waiter)
      this.acquire(waiter)
    }
  }

  streamEnded(session: Session): void {
    const { connMaxLifetimeMs } = this.#options
    const old = connMaxLifetimeMs > 0 && this.now() - session.openedMs >= connMaxLifetimeMs
    if (old || this.#retired) session.close()
    if (this.#waiters.size > 0) this.#serveWaiters()
  }

  closed(session: Session): void {
    this.#sessions.delete(session)
    if (this.#waiters.size > 0) this.#serveWaiters()
    else if (this.#retired && this.#sessions.size === 0) this.#clock.delete(this)
  }

  tick(nowMs: number): void {
    const { connMaxIdleTimeMs } = this.#options
    for (const session of this.#sessions) session.sweep(nowMs, connMaxIdleTimeMs)
  }

  stats(): PoolStats {
    let idle = 0
    for (const session of this.#sessions) if (session.streams === 0) idle++
    const open = this.#sessions.size
    return {
      open,
      idle,
      inUse: open - idle,
      waiting: this.#waiters.size,
      waitCount: this.#waitCount,
      waitMs: this.#waitMs,
    }
  }

  retire(): void {
    this.#retired = true
    for (const session of [...this.#sessions]) session.close()
    if (this.#sessions.size === 0) this.#clock.delete(this)
  }

  close(): void {
    this.retire()
    for (const session of [...this.#sessions]) session.destroy()
  }
}

/** One connection. */
class Session {
  readonly owner: SessionOwner
  readonly openedMs: number
  readonly http2: ClientHttp2Session
  readonly scheme: string
  connected = false
  served = 0
  readonly #streams = new Set<H2Request>()
  readonly #socket: Socket
  #maxStreams = STREAMS_BEFORE_SETTINGS
  #closing = false
  #gone = false
  #idleFromMs: number
  #connectByMs: number
  #error = ''

  constructor(endpoint: Endpoint, owner: SessionOwner) {
    // Loaded with the first such upstream.
    const { connect } = process.getBuiltinModule('node:http2')
    const { connectMs } = owner.timeouts
    this.owner = owner
    this.scheme = endpoint.secure ? 'https' : 'http'
    this.openedMs = this.#idleFromMs = owner.now()
    this.#connectByMs = connectMs > 0 ? this.openedMs + connectMs : Number.POSITIVE_INFINITY
    this.#socket = openSocket(endpoint, owner.tls, 'h2')
    this.http2 = connect(`${this.scheme}://${endpoint.authority}`, {
      createConnection: () => this.#socket,
      settings: { enablePush: false, initialWindowSize: WINDOW_BYTES },
      maxHeaderListPairs: RESPONSE_LIMITS.fields + 5,
      maxReservedRemoteStreams: 0,
    })
    this.http2.on('connect', () => {
      if (endpoint.secure && (this.#socket as tls.TLSSocket).alpnProtocol !== 'h2') {
        this.#error = 'the upstream does not speak HTTP/2'
        this.http2.destroy()
        return
      }
      this.connected = true
      this.#connectByMs = Number.POSITIVE_INFINITY
      this.http2.setLocalWindowSize(WINDOW_BYTES * 4)
      for (const stream of this.#streams) stream.connectionReady()
    })
    this.http2.on('remoteSettings', ({ maxConcurrentStreams }) => {
      this.#maxStreams = maxConcurrentStreams ?? STREAMS_BEFORE_SETTINGS
      this.owner.streamEnded(this)
    })
    this.http2.on('goaway', () => {
      this.#closing = true
    })
    this.http2.on('error', (error: NodeJS.ErrnoException) => {
      this.#error ||= error.code ?? error.message
    })
    this.#socket.on('error', (error: NodeJS.ErrnoException) => {
      this.#error ||= error.code ?? error.message
    })
    this.http2.on('close', () => this.#onClose())
  }

  get error(): string {
    return this.#error
  }

  get hasRoom(): boolean {
    return !this.#closing && !this.#gone && !this.http2.closed && this.#streams.size < this.#maxStreams
  }

  get streams(): number {
    return this.#streams.size
  }

  stream(): H2Request {
    this.served++
    const stream = new H2Request(this)
    this.#streams.add(stream)
    return stream
  }

  ended(stream: H2Request): void {
    if (!this.#streams.delete(stream)) return
    if (this.#streams.size === 0) {
      this.#idleFromMs = this.owner.now()
      if (this.#closing && !this.http2.closed) this.http2.close()
    }
    this.owner.streamEnded(this)
  }

  sweep(nowMs: number, maxIdleMs: number): void {
    if (this.#connectByMs <= nowMs) {
      this.#connectByMs = Number.POSITIVE_INFINITY
      for (const stream of [...this.#streams])
        stream.fail('connectTimeout', 'the connection was not established in time')
      this.destroy()
      return
    }
    for (const stream of this.#streams) if (stream.deadlineMs <= nowMs) stream.expire()
    if (this.#streams.size === 0 && maxIdleMs > 0 && nowMs - this.#idleFromMs >= maxIdleMs) this.close()
  }

  /** Ends when its streams have ended. */
  close(): void {
    this.#closing = true
    if (this.#streams.size === 0 && !this.http2.closed) this.http2.close()
  }

  destroy(): void {
    this.http2.destroy()
    this.#socket.destroy()
  }

  #onClose(): void {
    if (this.#gone) return
    this.#gone = true
    const [kind, detail] = this.connected
      ? (['reset', this.#error || 'the connection was closed'] as const)
      : (['connect', this.#error || 'the connection was not established'] as const)
    for (const stream of [...this.#streams]) stream.fail(kind, detail)
    this.#socket.destroy()
    this.owner.closed(this)
  }
}

class H2Request implements Carrier, BodySource {
  requestSource: BodySource | null = null
  deadlineMs = Number.POSITIVE_INFINITY
  readonly reused: boolean
  readonly #session: Session
  #stream: ClientHttp2Stream | null = null
  #attempt: Attempt | null = null
  #sink: ResponseSink | null = null
  #requestDone = false
  #informational = 0
  #idleMs = 0
  #requestTrailers = ''
  #trailers = ''
  #ended = false

  constructor(session: Session) {
    this.#session = session
    this.reused = session.served > 1
  }

  get connected(): boolean {
    return this.#session.connected && this.#stream !== null
  }

  send(attempt: Attempt, headText: string, length: number): void {
    this.#attempt = attempt
    this.#requestDone = length === 0
    const headers = requestHeaders(headText, this.#session.scheme)
    if (length > 0 || (length === 0 && expectsBody(attempt.method))) headers.push('content-length', String(length))
    let stream: ClientHttp2Stream
    try {
      stream = this.#session.http2.request(headers as unknown as OutgoingHttpHeaders, {
        endStream: length === 0,
        waitForTrailers: length === CHUNKED,
      })
    } catch (error) {
      // Not a byte has left: the session is closing, or Node does not take the head.
      process.nextTick(() => this.fail('connect', (error as NodeJS.ErrnoException).code ?? String(error)))
      return
    }
    this.#stream = stream
    stream.on('response', (_headers, flags, raw) => this.#onHead(raw as unknown as string[], flags))
    stream.on('headers', (_headers, _flags, raw) => this.#onInformational(raw as unknown as string[]))
    stream.on('trailers', (_headers, _flags, raw) => {
      this.#trailers = trailerLines(raw as unknown as string[])
    })
    stream.on('data', (chunk: Buffer) => this.#onData(chunk))
    stream.on('end', () => this.#onEnd())
    stream.on('wantTrailers', () => stream.sendTrailers(headersOf(this.#requestTrailers)))
    stream.on('drain', () => this.requestSource?.resume())
    stream.on('error', () => {}) // `close` follows
    stream.on('close', () => this.#onClose())
    if (this.#requestDone) this.#watchFirstByte()
  }

  connectionReady(): void {
    if (this.#requestDone) this.#watchFirstByte()
  }

  #watchFirstByte(): void {
    if (!this.#session.connected || this.#sink !== null) return
    const { firstByteMs } = this.#session.owner.timeouts
    this.deadlineMs = firstByteMs > 0 ? this.#session.owner.now() + firstByteMs : Number.POSITIVE_INFINITY
  }

  #watchIdle(): void {
    this.deadlineMs = this.#idleMs > 0 ? this.#session.owner.now() + this.#idleMs : Number.POSITIVE_INFINITY
  }

  // The request's body, as a sink.

  write(chunk: Uint8Array): boolean {
    const stream = this.#stream
    if (stream === null || stream.destroyed || stream.writableEnded) return true
    return stream.write(Buffer.from(chunk))
  }

  end(trailers: string): void {
    this.#requestDone = true
    this.#requestTrailers = trailers
    const stream = this.#stream
    if (stream !== null && !stream.destroyed && !stream.writableEnded) stream.end()
    this.#watchFirstByte()
  }

  flush(): void {}

  abort(): void {
    this.cancel()
  }

  // The answer.

  #onInformational(raw: readonly string[]): void {
    const attempt = this.#attempt
    if (attempt === null) return
    const head = responseHead(raw)
    if (head === undefined || ++this.#informational > MAX_INFORMATIONAL) {
      this.fail('bad', 'an interim answer is not valid')
      return
    }
    if (head.status !== 100 && head.status !== 101) attempt.informational(head)
  }

  #onHead(raw: readonly string[], flags: number): void {
    const attempt = this.#attempt
    if (attempt === null) return
    const head = responseHead(raw)
    const declared = head === undefined ? undefined : declaredLength(head)
    if (head === undefined || head.status < 200 || typeof declared !== 'number') {
      this.fail('bad', 'the head of the answer is not valid')
      return
    }
    const endStream = (flags & 1) !== 0
    const { status } = head
    const bodiless = endStream || attempt.method === 'HEAD' || status === 204 || status === 304
    const type = head.value(FIELD_ID['content-type'])
    const { idleMs, streamIdleMs } = this.#session.owner.timeouts
    this.#idleMs = type !== undefined && /^(?:application\/grpc|text\/event-stream)/i.test(type) ? streamIdleMs : idleMs
    const isAnswerToHead = attempt.method === 'HEAD' || status === 304
    const sink = attempt.head(head, bodiless ? (isAnswerToHead ? declared : 0) : declared)
    if (this.#attempt !== attempt) return
    this.#sink = sink
    sink.source = this
    this.#watchIdle()
  }

  #onData(chunk: Buffer): void {
    const sink = this.#sink
    if (sink === null) {
      if (this.#attempt !== null) this.fail('bad', 'a body without a head')
      return
    }
    const more = sink.write(chunk)
    this.#sink?.flush()
    if (this.#sink === null) return
    if (more) this.#watchIdle()
    else this.pause()
  }

  #onEnd(): void {
    const stream = this.#stream!
    if (stream.aborted || stream.rstCode !== NO_ERROR) return // `close` follows
    const attempt = this.#attempt
    const sink = this.#sink
    if (attempt === null || sink === null) return
    this.#finish()
    // RFC 9113 §8.1: an answer may be complete before the request is; the rest of that is of no use any more.
    if (!this.#requestDone) stream.close(NO_ERROR)
    attempt.done()
    sink.end(this.#trailers)
    sink.flush()
  }

  #onClose(): void {
    const stream = this.#stream!
    if (this.#ended) return
    const { rstCode } = stream
    if (this.#session.http2.destroyed || this.#session.error !== '') {
      // The session says why, when it closes: in this turn of the loop.
      setImmediate(() =>
        this.fail(this.#session.connected ? 'reset' : 'connect', this.#session.error || 'the connection was closed'),
      )
      return
    }
    if (rstCode === REFUSED_STREAM) this.fail('connect', 'the upstream took no more streams')
    else this.fail('reset', `the upstream reset the stream (${rstCode})`)
  }

  pause(): void {
    this.#stream?.pause()
    this.deadlineMs = Number.POSITIVE_INFINITY
  }

  resume(): void {
    if (this.#ended) return
    this.#watchIdle()
    this.#stream?.resume()
  }

  expire(): void {
    this.fail(
      'timeout',
      this.#sink === null ? 'the head of the answer did not come in time' : 'the body of the answer stalled',
    )
  }

  cancel(): void {
    this.#attempt = null
    this.#sink = null
    this.#finish()
    this.#reset()
  }

  #reset(): void {
    const stream = this.#stream
    if (stream !== null && !stream.destroyed) stream.close(CANCEL)
  }

  #finish(): void {
    this.#ended = true
    this.#attempt = null
    this.#sink = null
    this.requestSource = null
    this.deadlineMs = Number.POSITIVE_INFINITY
    this.#session.ended(this)
  }

  fail(kind: FailureKind, detail: string): void {
    if (this.#ended) return
    const attempt = this.#attempt
    const sink = this.#sink
    this.#finish()
    this.#reset()
    if (attempt === null) return
    if (sink === null) attempt.failed(kind, detail)
    else {
      attempt.broken(kind, detail)
      sink.abort()
    }
  }
}

/** Methods whose requests say `content-length: 0` when they have no body (RFC 9110 §8.6). */
function expectsBody(method: string): boolean {
  return method === 'POST' || method === 'PUT' || method === 'PATCH'
}

/** A flat list of names and values, pseudo fields first. */
function requestHeaders(headText: string, scheme: string): string[] {
  const [startLine, ...lines] = headText.split('\r\n')
  const [method, path] = startLine!.split(' ')
  const headers = [':method', method!, ':path', path!, ':scheme', scheme, ':authority', '']
  let grpc = false
  for (const line of lines) {
    const colon = line.indexOf(':')
    if (colon < 0) continue
    const name = line.slice(0, colon).toLowerCase()
    const value = line.slice(colon + 1).trim()
    if (name === 'host') headers[7] = value
    if (NOT_FORWARDED.has(name)) continue
    if (name === 'content-type' && value.toLowerCase().startsWith('application/grpc')) grpc = true
    headers.push(name, value)
  }
  if (grpc) headers.push('te', 'trailers') // gRPC servers ask for it, and it holds: trailers pass here
  return headers
}

function headersOf(lines: string): OutgoingHttpHeaders {
  const headers: Record<string, string[]> = Object.create(null)
  for (const line of lines.split('\r\n')) {
    const colon = line.indexOf(':')
    if (colon <= 0) continue
    const name = line.slice(0, colon).toLowerCase()
    ;(headers[name] ??= []).push(line.slice(colon + 1).trim())
  }
  return headers
}

/** The head through the one strict parser; undefined when it refuses. */
function responseHead(raw: readonly string[]): MessageHead | undefined {
  let status = ''
  let lines = ''
  for (let i = 0; i < raw.length; i += 2) {
    const name = raw[i]!
    const value = raw[i + 1]!
    if (name === ':status') status = value
    else if (!NAME.test(name) || LINE_BREAK.test(value)) return undefined
    else lines += `${name}: ${value}\r\n`
  }
  const bytes = Buffer.from(`HTTP/1.1 ${status} \r\n${lines}\r\n`, 'latin1')
  const head = new MessageHead('response')
  return head.parse(bytes, 0, bytes.length, RESPONSE_LIMITS) === PARSED ? head : undefined
}
