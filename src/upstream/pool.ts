/**
 * The connections of one thread to one endpoint: idle ones reused newest first, new ones opened up to `maxOpenConns`,
 * and beyond that exchanges wait in order. Survives reloads with its endpoint.
 */

import type tls from 'node:tls'
import type { Clock } from '../shared/clock.ts'
import { type Carrier, type ConnectionOwner, type ConnectionTimeouts, UpstreamConnection } from './connection.ts'
import type { Endpoint } from './endpoint.ts'
import { H2Pool } from './h2.ts'
import { type ProxyAddresses, type ProxyVersion, proxyHeader } from './proxy-header.ts'
import { WebSocketHandshake } from './websocket.ts'

export interface PoolOptions {
  /** This thread's share. */
  readonly maxOpenConns: number
  readonly maxIdleConns: number
  readonly connMaxLifetimeMs: number
  readonly connMaxIdleTimeMs: number
  readonly timeouts: ConnectionTimeouts
  readonly tls: tls.ConnectionOptions | undefined
  readonly protocol: 'http1' | 'h2'
  /** A header that says where the client is opens every connection; none is shared between exchanges then. */
  readonly proxyProtocol: ProxyVersion | false
}

/** An exchange that wants a connection. */
export interface PoolWaiter {
  connection(connection: Carrier): void
  waitedFromMs: number
  /** For a PROXY header; absent: the gateway speaks for itself. */
  proxyAddresses?(): ProxyAddresses
}

/** The connections to one endpoint, of whatever protocol. */
export interface EndpointPool {
  /** Gives a connection to the waiter, at once or as soon as one is free. `leave()` takes a waiter out again. */
  acquire(waiter: PoolWaiter): void
  /** A connection that has served nobody: for a retry after a reused one turned out dead. */
  acquireFresh(waiter: PoolWaiter): void
  /** What carries a WebSocket: a connection of its own, beside those of the pool. */
  openTunnel(waiter: PoolWaiter): void
  leave(waiter: PoolWaiter): void
  /** After a reload: new limits hold for what comes; open connections stay. */
  configure(options: PoolOptions): void
  stats(): PoolStats
  /** No new connections are kept; those in use end with their exchange. */
  retire(): void
  /** Everything ends now. */
  close(): void
}

export function createPool(endpoint: Endpoint, options: PoolOptions, clock: Clock): EndpointPool {
  return options.protocol === 'h2' ? new H2Pool(endpoint, options, clock) : new Pool(endpoint, options, clock)
}

/** Running figures of a pool, as database pools name them. */
export interface PoolStats {
  open: number
  idle: number
  inUse: number
  waiting: number
  /** How many exchanges had to wait, and for how long in all. */
  waitCount: number
  waitMs: number
}

const NO_ADDRESSES: ProxyAddresses = { source: '', sourcePort: 0, destination: '', destinationPort: 0 }

/** How much earlier than the upstream's announced keep-alive time a connection is given up. */
const KEEP_ALIVE_MARGIN_MS = 1000
/** How long connections beyond `maxIdleConns` may be idle. */
const SPARE_MS = 1000

export class Pool implements EndpointPool, ConnectionOwner {
  readonly endpoint: Endpoint
  readonly #clock: Clock
  #options: PoolOptions
  readonly #idle: UpstreamConnection[] = []
  readonly #all = new Set<UpstreamConnection>()
  readonly #tunnels = new Set<WebSocketHandshake>()
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
    for (;;) {
      const connection = this.#idle.pop()
      if (connection === undefined) break
      if (!connection.usable || connection.idleUntilMs <= this.#clock.coarseMs) {
        connection.destroy()
        continue
      }
      waiter.connection(connection)
      return
    }
    if (this.#all.size < this.#options.maxOpenConns) {
      waiter.connection(this.#open(waiter))
      return
    }
    waiter.waitedFromMs = this.#clock.nowMs()
    this.#waitCount++
    this.#waiters.add(waiter)
  }

  acquireFresh(waiter: PoolWaiter): void {
    if (this.#all.size < this.#options.maxOpenConns) waiter.connection(this.#open(waiter))
    else this.acquire(waiter)
  }

  openTunnel(waiter: PoolWaiter): void {
    const handshake = new WebSocketHandshake(this.endpoint, this, this.#opening(waiter))
    this.#tunnels.add(handshake)
    waiter.connection(handshake)
  }

  ended(handshake: WebSocketHandshake): void {
    this.#tunnels.delete(handshake)
    this.#rest()
  }

  #opening(waiter: PoolWaiter): Buffer | undefined {
    const { proxyProtocol } = this.#options
    return proxyProtocol === false ? undefined : proxyHeader(proxyProtocol, waiter.proxyAddresses?.() ?? NO_ADDRESSES)
  }

  leave(waiter: PoolWaiter): void {
    if (this.#waiters.delete(waiter)) this.#waitMs += this.#clock.nowMs() - waiter.waitedFromMs
  }

  #open(waiter: PoolWaiter): UpstreamConnection {
    const connection = new UpstreamConnection(this.endpoint, this, this.#opening(waiter))
    this.#all.add(connection)
    return connection
  }

  #serveNext(connection: UpstreamConnection): boolean {
    for (const waiter of this.#waiters) {
      this.leave(waiter)
      waiter.connection(connection)
      return true
    }
    return false
  }

  idle(connection: UpstreamConnection): void {
    const nowMs = this.#clock.coarseMs
    const { connMaxLifetimeMs, connMaxIdleTimeMs, maxIdleConns } = this.#options
    const expired = connMaxLifetimeMs > 0 && nowMs - connection.openedMs >= connMaxLifetimeMs
    if (expired || this.#retired || this.#options.proxyProtocol !== false) {
      connection.destroy()
      return
    }
    if (this.#waiters.size > 0 && this.#serveNext(connection)) return
    if (maxIdleConns === 0) {
      connection.destroy()
      return
    }
    const announced = connection.announcedIdleMs
    const ownMs = connMaxIdleTimeMs > 0 ? connMaxIdleTimeMs : Number.POSITIVE_INFINITY
    const idleMs = announced > 0 ? Math.min(ownMs, Math.max(announced - KEEP_ALIVE_MARGIN_MS, announced / 2)) : ownMs
    connection.idleUntilMs = nowMs + idleMs
    connection.idleSinceMs = nowMs
    this.#idle.push(connection)
  }

  closed(connection: UpstreamConnection): void {
    this.#all.delete(connection)
    const at = this.#idle.indexOf(connection)
    if (at >= 0) this.#idle.splice(at, 1)
    if (this.#waiters.size > 0 && this.#all.size < this.#options.maxOpenConns) {
      const [waiter] = this.#waiters
      this.leave(waiter!)
      waiter!.connection(this.#open(waiter!))
    } else this.#rest()
  }

  #rest(): void {
    if (this.#retired && this.#all.size === 0 && this.#tunnels.size === 0) this.#clock.delete(this)
  }

  tick(nowMs: number): void {
    // The longest idle stand first. Those beyond the limit get a moment: answers come in batches, and the next batch of
    // requests would open again what was just closed.
    for (let i = this.#idle.length - this.#options.maxIdleConns - 1; i >= 0; i--) {
      if (nowMs - this.#idle[i]!.idleSinceMs >= SPARE_MS) this.#idle[i]!.destroy()
    }
    for (const connection of this.#all) {
      if (connection.deadlineMs <= nowMs) connection.expire()
      else if (connection.idleUntilMs <= nowMs) connection.destroy()
    }
    for (const tunnel of this.#tunnels) tunnel.sweep(nowMs)
  }

  stats(): PoolStats {
    const open = this.#all.size
    const idle = this.#idle.length
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
    for (const connection of [...this.#idle]) connection.destroy()
    this.#rest()
  }

  close(): void {
    this.retire()
    for (const connection of [...this.#all]) connection.destroy()
    for (const tunnel of [...this.#tunnels]) tunnel.cancel()
  }
}
