/**
 * The door to http-proxy-3, which carries WebSockets. It is given sockets and opens none: the endpoint's is opened by the
 * rules of every other connection, and in the place of the client's stands one that reports to the handshake.
 */

import type { ClientRequest } from 'node:http'
import type { Socket } from 'node:net'
import { Duplex } from 'node:stream'
import { RESPONSE_LIMITS } from './carrier.ts'
import type { Endpoint } from './endpoint.ts'

// Not by an import, which would load an HTTP client with it (see listener/admin.ts).
const { Agent } = process.getBuiltinModule('node:http')

export interface WebSocketProxy {
  ws(req: object, socket: Duplex, head: Buffer, options: object, onError: (error: NodeJS.ErrnoException) => void): void
  on(event: string, listener: (...args: never[]) => void): void
}

/** A request as node:http would show it. */
export interface ShownRequest {
  readonly method: string
  readonly url: string
  readonly headers: Readonly<Record<string, string | string[]>>
}

/** Who has a WebSocket carried, and hears of it. */
export interface WebSocketParty {
  /** The request is about to leave; listeners that are added now come before those of the library. */
  prepared(outgoing: ClientRequest): void
  /** Room for bytes of the client. */
  wanted(): void
  /** @returns false when it is to wait for `goOn()` */
  toClient(chunk: Uint8Array): boolean
  /** The upstream has ended its side in an orderly way. */
  upstreamEnded(): void
}

let loading: Promise<WebSocketProxy> | undefined

/** Loaded with the first WebSocket: most gateways never see one. */
export function loadWebSocketProxy(): Promise<WebSocketProxy> {
  loading ??= import('http-proxy-3').then(({ createProxyServer }) => {
    const proxy = createProxyServer({}) as unknown as WebSocketProxy
    proxy.on('error', () => {}) // each has its own callback
    proxy.on('proxyReqWs', (outgoing: ClientRequest, { party }: { party: WebSocketParty }) => party.prepared(outgoing))
    return proxy
  })
  return loading
}

/** Sends the request over `socket`, and puts the two together when the endpoint agrees. Throws what the library throws. */
export function carryWebSocket(
  proxy: WebSocketProxy,
  shown: ShownRequest,
  client: StandIn,
  { host, port }: Endpoint,
  socket: Socket,
  onError: (error: NodeJS.ErrnoException) => void,
): void {
  const { party } = client
  const nothing = {}
  const request = { ...shown, httpVersion: '1.1', httpVersionMajor: 1, connection: nothing, socket: nothing, party }
  const options = {
    target: { protocol: 'http:', host, hostname: host, port },
    agent: new OneSocketAgent(socket),
    toProxy: true,
    prependPath: false,
    ssl: { maxHeaderSize: RESPONSE_LIMITS.headBytes }, // handed on to http.request, whatever the scheme
  }
  proxy.ws(request, client, Buffer.alloc(0), options, onError)
}

/** Gives node:http the socket that we opened. */
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

/** What http-proxy-3 takes for the client's socket. */
export class StandIn extends Duplex {
  readonly party: WebSocketParty
  #headSeen = false
  #waiting: (() => void) | null = null

  constructor(party: WebSocketParty) {
    super({ allowHalfOpen: true, decodeStrings: true })
    this.party = party
    this.on('error', () => {})
  }

  override _read(): void {
    this.party.wanted()
  }

  /** The first write is the library's own 101; ours has left already. */
  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    if (!this.#headSeen) {
      this.#headSeen = true
      done()
    } else if (this.party.toClient(chunk)) done()
    else this.#waiting = done
  }

  goOn(): void {
    const done = this.#waiting
    this.#waiting = null
    done?.()
  }

  override _final(done: () => void): void {
    done()
    this.party.upstreamEnded()
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
