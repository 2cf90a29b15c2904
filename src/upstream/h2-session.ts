/**
 * One connection of HTTP/2 to an endpoint. On Node's http2: undici's `Client` hides trailers behind its own handlers and
 * cannot send a request's. Owned by a pool.
 */

import type { ClientHttp2Session } from 'node:http2'
import type { Socket } from 'node:net'
import type tls from 'node:tls'
import { type ConnectionTimeouts, openSocket, RESPONSE_LIMITS } from './carrier.ts'
import type { Endpoint } from './endpoint.ts'
import { H2Request } from './h2-request.ts'

/** Streams on one connection until the upstream has told its own limit (RFC 9113 §6.5.2 recommends at least 100). */
const STREAMS_BEFORE_SETTINGS = 100
const WINDOW_BYTES = 1024 * 1024

/** What a session needs of its pool. */
export interface H2SessionOwner {
  readonly timeouts: ConnectionTimeouts
  readonly tls: tls.ConnectionOptions | undefined
  now(): number
  streamEnded(session: H2Session): void
  closed(session: H2Session): void
}

export class H2Session {
  readonly owner: H2SessionOwner
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

  constructor(endpoint: Endpoint, owner: H2SessionOwner) {
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
