/**
 * The connections of one thread to one endpoint, of whatever protocol: how many may be open, who waits for one, and the
 * running figures. What a connection is, and when it can be used again, is the matter of `Http1Pool` and `H2Pool`. Survives
 * reloads with its endpoint.
 */

import type tls from 'node:tls'
import type { Clock, Ticking } from '../shared/clock.ts'
import type { Carrier, ConnectionTimeouts } from './carrier.ts'
import type { Endpoint } from './endpoint.ts'
import type { ProxyAddresses, ProxyVersion } from './proxy-header.ts'

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

/** What a pool holds. */
interface Held {
  readonly openedMs: number
  destroy(): void
}

export abstract class EndpointPool<Connection extends Held = Held> implements Ticking {
  readonly endpoint: Endpoint
  protected options: PoolOptions
  protected readonly clock: Clock
  /** Those that are open. */
  protected readonly connections = new Set<Connection>()
  protected readonly waiters = new Set<PoolWaiter>()
  /** Stands before who has waited longest. A new one would first walk over the places of all that have left lately. */
  #line = this.waiters.values()
  protected retired = false
  #waitCount = 0
  #waitMs = 0

  constructor(endpoint: Endpoint, options: PoolOptions, clock: Clock) {
    this.endpoint = endpoint
    this.options = options
    this.clock = clock
    clock.add(this)
  }

  /** Gives a connection to the waiter, at once or as soon as one is free. `leave()` takes a waiter out again. */
  abstract acquire(waiter: PoolWaiter): void
  /** A connection that has served nobody: for a retry after a reused one turned out dead. */
  abstract acquireFresh(waiter: PoolWaiter): void
  /** What carries a WebSocket: a connection of its own, beside those of the pool. */
  abstract openTunnel(waiter: PoolWaiter): void
  abstract tick(nowMs: number): void
  protected abstract get idleCount(): number

  leave(waiter: PoolWaiter): void {
    if (this.waiters.delete(waiter)) this.#waitMs += this.clock.nowMs() - waiter.waitedFromMs
  }

  /** After a reload: new limits hold for what comes; open connections stay. */
  configure(options: PoolOptions): void {
    this.options = options
  }

  stats(): PoolStats {
    const open = this.connections.size
    const idle = this.idleCount
    return {
      open,
      idle,
      inUse: open - idle,
      waiting: this.waiters.size,
      waitCount: this.#waitCount,
      waitMs: this.#waitMs,
    }
  }

  /** No new connections are kept; those in use end with their exchange. */
  retire(): void {
    this.retired = true
    this.rest()
  }

  /** Everything ends now. */
  close(): void {
    this.retire()
    for (const connection of [...this.connections]) connection.destroy()
  }

  // What connections ask.

  get timeouts(): ConnectionTimeouts {
    return this.options.timeouts
  }

  get tls(): tls.ConnectionOptions | undefined {
    return this.options.tls
  }

  now(): number {
    return this.clock.coarseMs
  }

  // For those that hold connections.

  protected get mayOpen(): boolean {
    return this.connections.size < this.options.maxOpenConns
  }

  protected wait(waiter: PoolWaiter): void {
    waiter.waitedFromMs = this.clock.nowMs()
    this.#waitCount++
    this.waiters.add(waiter)
  }

  /** Takes out who has waited longest. */
  protected nextWaiter(): PoolWaiter | undefined {
    if (this.waiters.size === 0) return undefined
    let next = this.#line.next()
    if (next.done) {
      this.#line = this.waiters.values()
      next = this.#line.next()
    }
    this.leave(next.value!)
    return next.value
  }

  /** It has served its time, or its pool has: the exchange that it serves is its last. */
  protected isSpent(connection: Connection): boolean {
    const { connMaxLifetimeMs } = this.options
    return this.retired || (connMaxLifetimeMs > 0 && this.now() - connection.openedMs >= connMaxLifetimeMs)
  }

  /** A retired pool needs no more ticks once nothing is open. */
  protected rest(): void {
    if (this.retired && this.connections.size === 0) this.clock.delete(this)
  }
}
