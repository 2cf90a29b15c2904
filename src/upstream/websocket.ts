/**
 * A WebSocket through the gateway: the handshake at an endpoint and the tunnel behind it, by http-proxy-3. That library
 * gets no client socket but a stand-in, through which we keep in our hands what it does not do: one timeout over the
 * whole handshake, our rules for both heads, the check of the accept key (RFC 6455 §4.1), refusals as ordinary answers
 * of the pipeline, idle and lifetime limits, the closing code 1001, and an end of both sides however one of them ends.
 */

import { createHash } from 'node:crypto'
import type { ClientRequest, IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import type tls from 'node:tls'
import type { BodySource, ResponseSink, Tunnel } from '../exchange.ts'
import { declaredLength, frameResponse } from '../http1/framing.ts'
import type { MessageHead } from '../http1/message-head.ts'
import {
  type Attempt,
  type Carrier,
  type ConnectionTimeouts,
  type FailureKind,
  MAX_INFORMATIONAL,
  openSocket,
  reportFailure,
} from './carrier.ts'
import type { Endpoint } from './endpoint.ts'
import { eachField, responseHead } from './head-text.ts'
import { FrameCursor, GOING_AWAY, GOING_AWAY_MASKED } from './websocket-frames.ts'
import {
  carryWebSocket,
  loadWebSocketProxy,
  type ShownRequest,
  StandIn,
  type WebSocketParty,
  type WebSocketProxy,
} from './websocket-proxy.ts'

/** What a handshake needs of its pool. */
export interface WebSocketOwner {
  readonly timeouts: ConnectionTimeouts
  readonly tls: tls.ConnectionOptions | undefined
  now(): number
  ended(handshake: WebSocketHandshake): void
}

/** RFC 6455 §1.3. */
const ACCEPT_GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11'
/** How long an upstream may take to close its side once it was told. */
const CLOSE_MS = 1000

export class WebSocketHandshake implements Carrier, Tunnel, BodySource, WebSocketParty {
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
    const request = this.#read(headText)
    loadWebSocketProxy().then(
      (proxy) => this.#begin(proxy, request),
      (error: Error) => this.#fail('bad', error.message),
    )
  }

  #read(headText: string): ShownRequest {
    const [startLine, ...lines] = headText.split('\r\n')
    const [method, url] = startLine!.split(' ') as [string, string]
    const headers: Record<string, string | string[]> = Object.create(null)
    eachField(lines, (name, value) => {
      const before = headers[name]
      headers[name] = before === undefined ? value : [before, value].flat()
    })
    headers['connection'] = 'Upgrade'
    headers['upgrade'] = 'websocket'
    this.#target = url
    this.#key = String(headers['sec-websocket-key'])
    return { method, url, headers }
  }

  #begin(proxy: WebSocketProxy, request: ShownRequest): void {
    if (this.#ended) return
    const endpoint = this.#endpoint
    const socket = openSocket(endpoint, this.#owner.tls, 'http/1.1', this.#opening)
    this.#socket = socket
    socket.once(endpoint.secure ? 'secureConnect' : 'connect', () => {
      this.connected = true
      if (!this.#open) this.deadlineMs = this.#handshakeEndsMs
    })
    const client = new StandIn(this)
    this.#client = client
    try {
      carryWebSocket(proxy, request, client, endpoint, socket, ({ code, message }) => {
        const kind = this.connected ? (code?.startsWith('HPE_') ? 'bad' : 'reset') : 'connect'
        this.#fail(kind, code ?? message)
      })
    } catch (error) {
      this.#fail('bad', (error as Error).message)
    }
  }

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
    this.#close(false)
  }

  #complete(): void {
    const attempt = this.#attempt
    const sink = this.#sink
    this.#close(true)
    if (attempt === null || sink === null) return
    attempt.done()
    sink.end('')
    sink.flush()
  }

  #fail(kind: FailureKind, detail: string): void {
    const attempt = this.#attempt
    const sink = this.#sink
    this.#close(false)
    reportFailure(attempt, sink, kind, detail)
  }

  #close(orderly: boolean): void {
    this.#attempt = null
    this.#sink = null
    this.requestSource = null
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

function isWebSocket(answer: IncomingMessage): boolean {
  return answer.headers.upgrade?.toLowerCase() === 'websocket'
}

function readHead(status: number, rawHeaders: readonly string[]): MessageHead | undefined {
  let fields = ''
  for (let i = 0; i < rawHeaders.length; i += 2) fields += `${rawHeaders[i]}: ${rawHeaders[i + 1]}\r\n`
  return responseHead(status, fields)
}
