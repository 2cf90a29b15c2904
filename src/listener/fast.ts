/**
 * An open port of the data path: accepts sockets up to the connection limit, reads what comes before HTTP (a PROXY
 * header, TLS), gives each to a connection that speaks its protocol, watches their deadlines with one tick, and closes
 * in an orderly way.
 */

import net from 'node:net'
import type { TLSSocket } from 'node:tls'
import type { ListenerConfig } from '../config/server.ts'
import type { Exchange, ListenerInfo } from '../exchange.ts'
import { normalizeAddress } from '../http/client-address.ts'
import type { RequestFrame } from '../http1/framing.ts'
import type { HeadLimits } from '../http1/message-head.ts'
import type { Services } from '../services.ts'
import { SCALAR } from '../shared/metrics.ts'
import type { Refusal, Snapshot } from '../snapshot.ts'
import type { ClientConnection, ClientTimeouts } from './connection.ts'
import type { Http2Listener } from './h2.ts'
import { Http1Connection, type Http1Host } from './http1.ts'
import { parseProxyHeader } from './proxy-protocol.ts'
import { TlsDoor, TlsFiles } from './tls.ts'

/** The part of the thread that listeners need: the snapshot of now, and whether the end has begun. */
export interface ListenerOwner {
  readonly services: Services
  readonly snapshot: Snapshot
  readonly draining: boolean
}

/** What a listener is made of a config for: swapped whole by a reload. */
export interface ListenerSettings {
  readonly config: ListenerConfig
  readonly door: TlsDoor | undefined
  readonly files: TlsFiles | undefined
}

/** An accepted socket that is not yet a connection: its PROXY header or handshake is awaited. */
interface Arrival {
  readonly socket: net.Socket
  readonly deadlineMs: number
  address: string
  /** From a PROXY header. */
  clientPort?: number
}

/** Whether the kernel spreads connections over several listening sockets of one port, of other threads too. */
export const SHARES_PORTS = ['linux', 'freebsd', 'dragonfly', 'sunos', 'aix'].includes(process.platform)
/**
 * Accept queues of a listener, shared out to the threads. libuv takes one connection from each in a turn of its loop, and
 * a turn lasts as long as all that is ready: with one queue, a thousand busy connections would keep the next thousand
 * waiting for half a minute.
 */
export const ACCEPT_QUEUES = 32
const FILES_CHECK_MS = 1000
/** How long WebSocket clients have for their side of the closing handshake. */
const GOODBYE_MS = 500

export class FastListener implements Http1Host {
  readonly name: string
  readonly #owner: ListenerOwner
  /** One for each accept queue. */
  readonly #servers: net.Server[] = []
  readonly #connections = new Set<ClientConnection>()
  readonly #arrivals = new Map<net.Socket, Arrival>()
  #settings: ListenerSettings
  #http2: Http2Listener | undefined
  #info: ListenerInfo
  #closed: (() => void) | null = null
  #filesCheckedMs = 0

  /** Throws a `TlsFileError` when the config's certificates cannot be used. */
  constructor(name: string, config: ListenerConfig, owner: ListenerOwner) {
    this.name = name
    this.#owner = owner
    this.#settings = this.prepare(config, owner.snapshot.config.baseDir)
    this.#info = { name, secure: config.tls !== undefined, port: 0 }
  }

  /** Rejects with the error of `listen`. Returns the port. */
  async listen(host: string, port: number): Promise<number> {
    let bound = port
    const queues = SHARES_PORTS ? Math.ceil(ACCEPT_QUEUES / this.#owner.services.info.threads) : 1
    for (let queue = 0; queue < queues; queue++) bound = await this.#open(host, bound)
    this.#info = { ...this.#info, port: bound }
    this.#owner.services.clock.add(this)
    return bound
  }

  #open(host: string, port: number): Promise<number> {
    const server = net.createServer({ pauseOnConnect: true, allowHalfOpen: true, noDelay: true }, this.#accept)
    this.#servers.push(server)
    return new Promise((resolve, reject) => {
      server.once('error', reject)
      server.listen({ host, port, reusePort: SHARES_PORTS, backlog: 4096 }, () => {
        server.removeListener('error', reject)
        server.on('error', (err) => this.#owner.services.logger.error('accepting failed', { listener: this.name, err }))
        resolve((server.address() as net.AddressInfo).port)
      })
    })
  }

  #stopAccepting(): void {
    for (const server of this.#servers) server.close()
  }

  /** Loaded with the first client that speaks it: that saves a sidecar some memory. The socket waits, nobody reads it. */
  async #serveHttp2(socket: net.Socket, info: ListenerInfo, peer: string, early?: Buffer): Promise<void> {
    socket.on('error', ignore)
    if (this.#http2 === undefined) {
      const { Http2Listener } = await import('./h2.ts')
      this.#http2 ??= new Http2Listener(this)
    }
    if (socket.destroyed) return
    if (early !== undefined) socket.unshift(early)
    this.#http2.accept(socket, info, peer)
  }

  /** Reads the files that a config names. Throws a `TlsFileError`; nothing has changed then. */
  prepare(config: ListenerConfig, baseDir: string): ListenerSettings {
    if (config.tls === undefined) return { config, door: undefined, files: undefined }
    const files = new TlsFiles(config.tls, baseDir)
    const { header } = this.#owner.snapshot.config.server.timeouts
    const door = new TlsDoor(
      {
        tls: config.tls,
        http2: config.http2,
        baseDir,
        handshakeTimeoutMs: header,
        secret: this.#owner.services.memory.secret,
        nowMs: Date.now(),
      },
      (socket) => this.#secured(socket, door),
    )
    return { config, door, files }
  }

  /** Takes what `prepare()` made of a new config. Connections that stand keep what they have. */
  configure(settings: ListenerSettings): void {
    this.#settings = settings
    this.#info = { ...this.#info, secure: settings.door !== undefined }
  }

  // From an accepted socket to a connection.

  readonly #accept = (socket: net.Socket): void => {
    const { metrics } = this.#owner.services
    metrics.add(SCALAR.connectionsAccepted)
    if (this.#connections.size + this.#arrivals.size >= this.maxConnections) {
      metrics.add(SCALAR.connectionsRefused)
      socket.destroy()
      return
    }
    const peer = socket.remoteAddress
    if (peer === undefined) {
      socket.destroy() // gone already
      return
    }
    const address = peer.includes(':') ? (normalizeAddress(peer) ?? peer) : peer
    const { config, door } = this.#settings
    if (!config.proxyProtocol && door === undefined) {
      new Http1Connection(this, socket, this.#info, address)
      return
    }
    const { headerMs } = this.timeouts
    const deadlineMs = this.clock.coarseMs + (headerMs > 0 ? headerMs : 60_000)
    const arrival: Arrival = { socket, deadlineMs, address }
    this.#arrivals.set(socket, arrival)
    socket.on('error', ignore)
    socket.on('close', () => this.#arrivals.delete(socket))
    if (config.proxyProtocol && this.#owner.snapshot.trusts(address)) this.#readProxyHeader(arrival)
    else if (door !== undefined) door.accept(socket)
    else this.#serve(arrival, undefined)
  }

  /** Only what a trusted peer says is read; a header of anybody else is no HTTP and answered as such. */
  #readProxyHeader(arrival: Arrival): void {
    const { socket } = arrival
    let bytes: Buffer = Buffer.alloc(0)
    const onReadable = (): void => {
      for (let chunk = socket.read() as Buffer | null; chunk !== null; chunk = socket.read() as Buffer | null) {
        bytes = bytes.length === 0 ? chunk : Buffer.concat([bytes, chunk])
      }
      const header = parseProxyHeader(bytes)
      if (header === undefined) return
      socket.removeListener('readable', onReadable)
      socket.removeListener('end', onEnd)
      if (header === null) {
        socket.destroy()
        return
      }
      if (header.address !== '') {
        arrival.address = header.address
        arrival.clientPort = header.port
      }
      const rest = bytes.subarray(header.length)
      const { door } = this.#settings
      if (door === undefined) this.#serve(arrival, rest)
      else {
        if (rest.length > 0) socket.unshift(rest)
        door.accept(socket)
      }
    }
    const onEnd = () => socket.destroy()
    socket.on('readable', onReadable)
    socket.on('end', onEnd)
  }

  #serve(arrival: Arrival, early: Buffer | undefined): void {
    const { socket, address } = arrival
    socket.removeAllListeners()
    this.#arrivals.delete(socket)
    if (early !== undefined) stopReading(socket)
    new Http1Connection(this, socket, this.#infoOf(arrival, ''), address, early)
  }

  #infoOf(arrival: Arrival | undefined, clientFields: string): ListenerInfo {
    if (arrival?.clientPort === undefined && clientFields === '') return this.#info
    return { ...this.#info, clientFields, clientPort: arrival?.clientPort }
  }

  #secured(socket: TLSSocket, door: TlsDoor): void {
    const below = (socket as unknown as { _parent?: net.Socket })._parent
    const arrival = below === undefined ? undefined : this.#arrivals.get(below)
    if (below !== undefined) this.#arrivals.delete(below)
    const peer = arrival?.address ?? socket.remoteAddress
    if (peer === undefined || this.#owner.draining) {
      socket.destroy()
      return
    }
    const clientFields = door.clientFields(socket)
    const info = this.#infoOf(arrival, clientFields)
    if (socket.alpnProtocol === 'h2') void this.#serveHttp2(socket, info, peer)
    else new Http1Connection(this, socket, info, peer)
  }

  takeHttp2(socket: net.Socket, bytes: Buffer, connection: Http1Connection): boolean {
    if (!this.#settings.config.http2) return false
    const { listener, remoteAddress } = connection
    socket.pause()
    socket.on('error', ignore)
    // The bytes are being read right now: the session can take the socket over once that read has returned.
    process.nextTick(() => void this.#serveHttp2(socket, listener, remoteAddress, bytes))
    return true
  }

  // What connections ask.

  /** This thread's share of the limit. */
  get maxConnections(): number {
    return Math.ceil(this.#owner.snapshot.config.server.limits.connections / this.#owner.services.info.threads)
  }

  get clock() {
    return this.#owner.services.clock
  }

  get limits(): HeadLimits {
    return this.#owner.snapshot.limits
  }

  get maxBodyBytes(): number {
    return this.#owner.snapshot.config.server.limits.bodyBytes
  }

  get timeouts(): ClientTimeouts {
    return this.#owner.snapshot.timeouts
  }

  get draining(): boolean {
    return this.#owner.draining
  }

  handle(x: Exchange, frame: RequestFrame): void {
    this.#owner.snapshot.handle(x, frame)
  }

  refuse(x: Exchange, refusal: Refusal, detail: string): void {
    this.#owner.snapshot.refuse(x, refusal, detail)
  }

  expire(x: Exchange): void {
    this.#owner.snapshot.expire(x)
  }

  promote(x: Exchange): void {
    this.#owner.snapshot.promote(x)
  }

  opened(connection: ClientConnection): void {
    this.#connections.add(connection)
    this.#owner.services.metrics.add(SCALAR.connectionsOpen)
  }

  closed(connection: ClientConnection): void {
    if (!this.#connections.delete(connection)) return
    this.#owner.services.metrics.add(SCALAR.connectionsOpen, -1)
    if (this.#connections.size === 0) this.#closed?.()
  }

  tick(nowMs: number): void {
    for (const connection of this.#connections) connection.sweep(nowMs)
    for (const { socket, deadlineMs } of this.#arrivals.values()) if (deadlineMs <= nowMs) socket.destroy()
    if (this.#settings.files !== undefined && nowMs - this.#filesCheckedMs >= FILES_CHECK_MS) {
      this.#filesCheckedMs = nowMs
      this.#settings.door!.turnTickets(Date.now())
      if (this.#settings.files.changed()) this.#readFiles()
    }
  }

  /** Certificate files have changed: new handshakes get what is in them, unless that cannot be used. */
  #readFiles(): void {
    const { logger } = this.#owner.services
    try {
      this.#settings = this.prepare(this.#settings.config, this.#owner.snapshot.config.baseDir)
      logger.info('certificates read anew', { listener: this.name })
    } catch (err) {
      logger.error('certificates not taken: the old ones stay', { listener: this.name, err })
    }
  }

  // The end.

  /** Accepts no more; idle connections close, busy ones after their answer. Resolves when none is left. */
  drain(): Promise<void> {
    this.#stopAccepting()
    for (const { socket } of this.#arrivals.values()) socket.destroy()
    for (const connection of this.#connections) connection.drain()
    if (this.#connections.size === 0) return Promise.resolve()
    return new Promise((resolve) => {
      this.#closed = resolve
    })
  }

  /** The drain is over: tunnels are told. Resolves when they have closed, or after a moment. */
  async sayGoodbye(): Promise<void> {
    let told = 0
    for (const connection of [...this.#connections]) if (connection.goAway()) told++
    if (told === 0 || this.#connections.size === 0) return
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, GOODBYE_MS)
      this.#closed = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  }

  /** Exchanges under way on all connections. */
  get running(): number {
    let running = 0
    for (const connection of this.#connections) running += connection.running
    return running
  }

  /** Cuts what is left. */
  cut(): void {
    for (const { socket } of this.#arrivals.values()) socket.destroy()
    for (const connection of [...this.#connections]) connection.destroy()
    this.#stopAccepting()
    this.#owner.services.clock.delete(this)
  }
}

/** The handle moves to another socket next: this one must not take bytes that are on their way. */
function stopReading(socket: net.Socket): void {
  const handle = (socket as unknown as { _handle: { reading?: boolean; readStop?(): number } | null })._handle
  if (handle?.readStop === undefined) return
  handle.readStop()
  handle.reading = false
}

function ignore(): void {}
