/**
 * A WebSocket through the gateway: the handshake at an endpoint and the tunnel behind it, by http-proxy-3. That library
 * gets no client socket but a stand-in, through which we keep in our hands what it does not do: one timeout over the
 * whole handshake, our rules for both heads, the check of the accept key (RFC 6455 §4.1), refusals as ordinary answers
 * of the pipeline, idle and lifetime limits, the closing code 1001, and an end of both sides however one of them ends.
 */

import { createHash } from 'node:crypto'
import { Agent, type ClientRequest, type IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import { Duplex } from 'node:stream'
import type tls from 'node:tls'
import type { BodySource, ResponseSink, Tunnel } from '../exchange.ts'
import { declaredLength, frameResponse } from '../http1/framing.ts'
import { MessageHead, PARSED } from '../http1/message-head.ts'
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

/** What a handshake needs of its pool. */
export interface WebSocketOwner {
  readonly timeouts: ConnectionTimeouts
  readonly tls: tls.ConnectionOptions | undefined
  now(): number
  ended(handshake: WebSocketHandshake): void
}

/** RFC 6455 §1.3. */
const ACCEPT_GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11'
/** A Close frame with 1001, "going away" (§7.4.1): as servers send it, and masked (by zeros) as clients do. */
const GOING_AWAY = Buffer.from([0x88, 2, 0x03, 0xe9])
const GOING_AWAY_MASKED = Buffer.from([0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9])
/** How long an upstream may take to close its side once it was told. */
const CLOSE_MS = 1000

interface Proxy {
  ws(req: object, socket: Duplex, head: Buffer, options: object, onError: (error: NodeJS.ErrnoException) => void): void
  on(event: string, listener: (...args: never[]) => void): void
}

let loading: Promise<Proxy> | undefined

/** Loaded with the first WebSocket: most gateways never see one. */
function loadProxy(): Promise<Proxy> {
  loading ??= import('http-proxy-3').then(({ createProxyServer }) => {
    const proxy = createProxyServer({}) as unknown as Proxy
    proxy.on('error', () => {}) // each handshake has its own callback
    proxy.on('proxyReqWs', (outgoing: ClientRequest, request: { handshake: WebSocketHandshake }) =>
      request.handshake.prepared(outgoing),
    )
    return proxy
  })
  return loading
}

/** Gives node:http the socket that we opened, by the rules of every other connection to the endpoint. */
class OneSocketAgent extends Agent {
  readonly #socket: Socket
  constructor(socket: Socket) {
    super()
    this.#socket = socket
  }
  override createConnection(): Socket {
    return this.#socket
  }
}

export class WebSocketHandshake implements Carrier, Tunnel, BodySource {
  readonly reused = false
  requestSource: BodySource | null = null
  connected = false
  /** Checked by the pool's tick: of the handshake, then of silence in the tunnel. */
  deadlineMs: number
  readonly #endpoint: Endpoint
  readonly #owner: WebSocketOwner
  readonly #opening: Buffer | undefined
  readonly #handshakeEndsMs: number
  #closesMs = Number.POSITIVE_INFINITY
  #attempt: Attempt | null = null
  #sink: ResponseSink | null = null
  #client: StandIn | null = null
  #socket: Socket | null = null
  #target = ''
  #key = ''
  #informational = 0
  #open = false
  #ended = false
  #answer: IncomingMessage | null = null
  /** Frames on their way to the client, and to the upstream: a Close frame fits only between two. */
  readonly #down = new FrameCursor()
  readonly #up = new FrameCursor()

  /** @param opening bytes before anything else on the connection: a PROXY header */
  constructor(endpoint: Endpoint, owner: WebSocketOwner, opening?: Buffer) {
    this.#endpoint = endpoint
    this.#owner = owner
    this.#opening = opening
    const { connectMs, firstByteMs } = owner.timeouts
    this.deadlineMs = connectMs > 0 ? owner.now() + connectMs : Number.POSITIVE_INFINITY
    this.#handshakeEndsMs = firstByteMs > 0 ? owner.now() + connectMs + firstByteMs : Number.POSITIVE_INFINITY
  }

  // The handshake.

  send(attempt: Attempt, headText: string): void {
    this.#attempt = attempt
    const request = this.#request(headText)
    loadProxy().then(
      (proxy) => this.#begin(proxy, request),
      (error: Error) => this.#fail('bad', error.message),
    )
  }

  #begin(proxy: Proxy, request: object): void {
    if (this.#ended) return
    const { host, port } = this.#endpoint
    const socket = openSocket(this.#endpoint, this.#owner.tls, 'http/1.1', this.#opening)
    this.#socket = socket
    socket.once(this.#endpoint.secure ? 'secureConnect' : 'connect', () => {
      this.connected = true
      if (!this.#open) this.deadlineMs = this.#handshakeEndsMs
    })
    this.#client = new StandIn(this)
    const options = {
      target: { protocol: 'http:', host, hostname: host, port },
      agent: new OneSocketAgent(socket),
      toProxy: true,
      prependPath: false,
      ssl: { maxHeaderSize: RESPONSE_LIMITS.headBytes }, // handed on to http.request, whatever the scheme
    }
    try {
      proxy.ws(request, this.#client, Buffer.alloc(0), options, (error) =>
        this.#fail(
          this.connected ? (error.code?.startsWith('HPE_') ? 'bad' : 'reset') : 'connect',
          error.code ?? error.message,
        ),
      )
    } catch (error) {
      this.#fail('bad', (error as Error).message)
    }
  }

  /** What http-proxy-3 reads of a request: our head, as node:http would show it. */
  #request(headText: string): object {
    const [startLine, ...lines] = headText.split('\r\n')
    const [method, target] = startLine!.split(' ')
    const headers: Record<string, string | string[]> = Object.create(null)
    for (const line of lines) {
      const colon = line.indexOf(':')
      if (colon < 0) continue
      const name = line.slice(0, colon).toLowerCase()
      const value = line.slice(colon + 1).trim()
      const before = headers[name]
      headers[name] = before === undefined ? value : [before, value].flat()
    }
    headers['connection'] = 'Upgrade'
    headers['upgrade'] = 'websocket'
    this.#target = target!
    this.#key = String(headers['sec-websocket-key'])
    const nothing = {}
    return {
      method,
      url: target,
      headers,
      httpVersion: '1.1',
      httpVersionMajor: 1,
      connection: nothing,
      socket: nothing,
      handshake: this,
    }
  }

  /** The request is about to leave; our listeners come before those of the library. */
  prepared(outgoing: ClientRequest): void {
    outgoing.path = this.#target // as routed and authorised, not as a URL class would spell it
    outgoing.on('information', (info) => {
      if (++this.#informational > MAX_INFORMATIONAL) this.#fail('bad', 'too many interim answers')
      else if (info.statusCode !== 100) {
        const head = readHead(info.statusCode, info.rawHeaders)
        if (head !== undefined) this.#attempt?.informational(head)
      }
    })
    outgoing.on('response', (answer) => this.#onRefusal(answer))
    outgoing.on('upgrade', (answer) => this.#onUpgrade(answer))
  }

  #onUpgrade(answer: IncomingMessage): void {
    const attempt = this.#attempt
    const accept = createHash('sha1')
      .update(this.#key + ACCEPT_GUID)
      .digest('base64')
    const head = readHead(101, answer.rawHeaders)
    if (attempt === null) return
    if (head === undefined || answer.headers['sec-websocket-accept'] !== accept || !isWebSocket(answer)) {
      this.#fail('bad', 'the upstream did not accept the WebSocket as RFC 6455 asks')
      return
    }
    this.#open = true
    const { streamIdleMs, tunnelLifetimeMs } = this.#owner.timeouts
    if (tunnelLifetimeMs > 0) this.#closesMs = this.#owner.now() + tunnelLifetimeMs
    this.deadlineMs = streamIdleMs > 0 ? this.#owner.now() + streamIdleMs : Number.POSITIVE_INFINITY
    const sink = attempt.upgraded!(head, this)
    if (this.#attempt !== attempt) return
    this.#sink = sink
    sink.source = this
  }

  /** Any other answer is an answer like every other; nothing is tunnelled behind it. */
  #onRefusal(answer: IncomingMessage): void {
    const attempt = this.#attempt
    // The library relays to a socket that is alive only; it goes on reading, and we listen.
    this.#client?.destroy()
    if (attempt === null) return
    // A 101 that names no protocol: Node takes it for an ordinary answer, and a client would take it for a tunnel.
    if (answer.statusCode! < 200) {
      this.#fail('bad', 'the upstream switched protocols without naming WebSocket')
      return
    }
    const head = readHead(answer.statusCode!, answer.rawHeaders)
    const length = head === undefined ? undefined : frameResponse(head, attempt.method)
    if (head === undefined || typeof length !== 'number') {
      this.#fail('bad', 'the head of the answer is not valid')
      return
    }
    this.#answer = answer
    this.#watchIdle()
    const declared = declaredLength(head)
    const sink = attempt.head(
      head,
      length === 0 ? (typeof declared === 'number' ? declared : -1) : Math.max(length, -1),
    )
    if (this.#attempt !== attempt) return
    this.#sink = sink
    sink.source = this
    answer.on('data', (chunk: Buffer) => {
      if (this.#sink === null) return
      this.#watchIdle()
      if (!this.#sink.write(chunk)) answer.pause()
      this.#sink?.flush()
    })
    answer.on('end', () => {
      if (answer.complete) this.#complete()
    })
    answer.on('close', () => {
      if (!answer.complete) this.#fail('reset', 'the upstream closed the connection')
    })
  }

  #watchIdle(): void {
    const { idleMs } = this.#owner.timeouts
    this.deadlineMs = idleMs > 0 ? this.#owner.now() + idleMs : Number.POSITIVE_INFINITY
  }

  // From the client: frames, once the tunnel is open.

  write(chunk: Uint8Array): boolean {
    if (this.#client === null || this.#ended) return true
    this.#touch()
    this.#up.see(chunk)
    return this.#client.push(Buffer.from(chunk))
  }

  end(): void {
    if (!this.#ended) this.#client?.push(null)
  }

  flush(): void {}

  /** The client is gone. */
  abort(): void {
    this.cancel()
  }

  wanted(): void {
    this.requestSource?.resume()
  }

  // To the client.

  /** @returns false when it is to wait for `resume()` */
  toClient(chunk: Uint8Array): boolean {
    const sink = this.#sink
    if (sink === null) return true
    this.#touch()
    this.#down.see(chunk)
    const more = sink.write(chunk)
    sink.flush()
    return more
  }

  pause(): void {
    this.#answer?.pause()
  }

  resume(): void {
    this.#answer?.resume()
    this.#client?.goOn()
  }

  /** The upstream has ended its side in an orderly way. */
  upstreamEnded(): void {
    if (this.#open) this.#complete()
  }

  #touch(): void {
    const { streamIdleMs } = this.#owner.timeouts
    if (streamIdleMs > 0) this.deadlineMs = this.#owner.now() + streamIdleMs
  }

  // The end, by whichever side.

  goAway(): void {
    if (!this.#open || this.#ended || this.#sink === null) return
    const sink = this.#sink
    if (this.#up.between) this.#socket?.write(GOING_AWAY_MASKED)
    if (!this.#down.between) {
      this.#fail('reset', 'the gateway stops')
      return
    }
    sink.write(GOING_AWAY)
    this.#complete()
  }

  /** The pool's tick. */
  sweep(nowMs: number): void {
    if (this.#open && this.#closesMs <= nowMs) this.goAway()
    else if (this.deadlineMs <= nowMs) this.#expire()
  }

  #expire(): void {
    this.deadlineMs = Number.POSITIVE_INFINITY
    if (this.#open) this.goAway()
    else if (this.#answer !== null) this.#fail('timeout', 'the body of the answer stalled')
    else if (this.connected) this.#fail('timeout', 'the WebSocket handshake took too long')
    else this.#fail('connectTimeout', 'the connection was not established in time')
  }

  cancel(): void {
    this.#attempt = null
    this.#sink = null
    this.requestSource = null
    this.#close(false)
  }

  #complete(): void {
    const attempt = this.#attempt
    const sink = this.#sink
    this.#attempt = null
    this.#sink = null
    this.requestSource = null
    this.#close(true)
    if (attempt === null || sink === null) return
    attempt.done()
    sink.end('')
    sink.flush()
  }

  #fail(kind: FailureKind, detail: string): void {
    const attempt = this.#attempt
    const sink = this.#sink
    this.#attempt = null
    this.#sink = null
    this.requestSource = null
    this.#close(false)
    if (attempt === null) return
    if (sink === null) attempt.failed(kind, detail)
    else {
      attempt.broken(kind, detail)
      sink.abort()
    }
  }

  #close(orderly: boolean): void {
    if (this.#ended) return
    this.#ended = true
    this.deadlineMs = Number.POSITIVE_INFINITY
    const socket = this.#socket
    if (socket !== null) {
      socket.on('error', () => {})
      if (orderly) {
        // What was written leaves first; a peer that never closes its side is not waited for.
        socket.end()
        setTimeout(() => socket.destroy(), CLOSE_MS).unref()
      } else socket.destroy()
    }
    this.#client?.destroy()
    this.#owner.ended(this)
  }
}

/** What http-proxy-3 takes for the client's socket. */
class StandIn extends Duplex {
  readonly #handshake: WebSocketHandshake
  #headSeen = false
  #waiting: (() => void) | null = null

  constructor(handshake: WebSocketHandshake) {
    super({ allowHalfOpen: true, decodeStrings: true })
    this.#handshake = handshake
    this.on('error', () => {})
  }

  override _read(): void {
    this.#handshake.wanted()
  }

  /** The first write is the library's own 101; ours has left already. */
  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    if (!this.#headSeen) {
      this.#headSeen = true
      done()
    } else if (this.#handshake.toClient(chunk)) done()
    else this.#waiting = done
  }

  goOn(): void {
    const done = this.#waiting
    this.#waiting = null
    done?.()
  }

  override _final(done: () => void): void {
    done()
    this.#handshake.upstreamEnded()
  }

  destroySoon(): void {
    this.destroy()
  }

  setTimeout(): this {
    return this
  }

  setNoDelay(): this {
    return this
  }

  setKeepAlive(): this {
    return this
  }
}

/** Follows the frames of one direction (RFC 6455 §5.2) just far enough to know whether the last one is complete. */
export class FrameCursor {
  readonly #head = new Uint8Array(14)
  #have = 0
  #left = 0

  see(chunk: Uint8Array): void {
    for (let at = 0; at < chunk.length; ) {
      if (this.#left > 0) {
        const skipped = Math.min(this.#left, chunk.length - at)
        this.#left -= skipped
        at += skipped
        continue
      }
      this.#head[this.#have++] = chunk[at++]!
      if (this.#have >= 2 && this.#have === this.#headLength()) {
        this.#left = this.#payloadLength()
        this.#have = 0
      }
    }
  }

  /** No frame has begun that is not complete. */
  get between(): boolean {
    return this.#left === 0 && this.#have === 0
  }

  #headLength(): number {
    const short = this.#head[1]! & 127
    return 2 + (short === 126 ? 2 : short === 127 ? 8 : 0) + (this.#head[1]! > 127 ? 4 : 0)
  }

  #payloadLength(): number {
    const head = this.#head
    const short = head[1]! & 127
    if (short < 126) return short
    let length = 0
    for (let i = 2; i < (short === 126 ? 4 : 10); i++) length = length * 256 + head[i]!
    return length
  }
}

function isWebSocket(answer: IncomingMessage): boolean {
  return answer.headers.upgrade?.toLowerCase() === 'websocket'
}

/** The head again, through the one strict parser; undefined when it refuses. */
function readHead(status: number, rawHeaders: readonly string[]): MessageHead | undefined {
  let text = `HTTP/1.1 ${status} \r\n`
  for (let i = 0; i < rawHeaders.length; i += 2) text += `${rawHeaders[i]}: ${rawHeaders[i + 1]}\r\n`
  const bytes = Buffer.from(`${text}\r\n`, 'latin1')
  const head = new MessageHead('response')
  return head.parse(bytes, 0, bytes.length, RESPONSE_LIMITS) === PARSED && head.byteLength === bytes.length
    ? head
    : undefined
}
