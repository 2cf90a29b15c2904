/**
 * The connections of one thread to one endpoint: idle ones reused newest first, new ones opened up to `maxOpenConns`,
 * and beyond that exchanges wait in order. Survives reloads with its endpoint.
 */

import type tls from 'node:tls'
import type { Clock } from '../shared/clock.ts'
import { type ConnectionOwner, type ConnectionTimeouts, UpstreamConnection } from './connection.ts'
import type { Endpoint } from './endpoint.ts'

export interface PoolOptions {
  /** This thread's share. */
  readonly maxOpenConns: number
  readonly maxIdleConns: number
  readonly connMaxLifetimeMs: number
  readonly connMaxIdleTimeMs: number
  readonly timeouts: ConnectionTimeouts
  readonly tls: tls.ConnectionOptions | undefined
}

/** An exchange that wants a connection. */
export interface PoolWaiter {
  connection(connection: UpstreamConnection): void
  waitedFromMs: number
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

/** How much earlier than the upstream's announced keep-alive time a connection is given up. */
const KEEP_ALIVE_MARGIN_MS = 1000

export class Pool implements ConnectionOwner {
  readonly endpoint: Endpoint
  readonly #clock: Clock
  #options: PoolOptions
  readonly #idle: UpstreamConnection[] = []
  readonly #all = new Set<UpstreamConnection>()
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

  /** After a reload: new limits hold for what comes; open connections stay. */
  configure(options: PoolOptions): void {
    this.#options = options
  }

  now(): number {
    return this.#clock.coarseMs
  }

  /** Gives a connection to the waiter, at once or as soon as one is free. `leave()` takes a waiter out again. */
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
      waiter.connection(this.#open())
      return
    }
    waiter.waitedFromMs = this.#clock.nowMs()
    this.#waitCount++
    this.#waiters.add(waiter)
  }

  /** A connection that has served nobody: for a retry after a reused one turned out dead. */
  acquireFresh(waiter: PoolWaiter): void {
    if (this.#all.size < this.#options.maxOpenConns) waiter.connection(this.#open())
    else this.acquire(waiter)
  }

  leave(waiter: PoolWaiter): void {
    if (this.#waiters.delete(waiter)) this.#waitMs += this.#clock.nowMs() - waiter.waitedFromMs
  }

  #open(): UpstreamConnection {
    const connection = new UpstreamConnection(this.endpoint, this)
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
    if (expired || this.#retired) {
      connection.destroy()
      return
    }
    if (this.#waiters.size > 0 && this.#serveNext(connection)) return
    if (this.#idle.length >= maxIdleConns) {
      connection.destroy()
      return
    }
    const announced = connection.announcedIdleMs
    const ownMs = connMaxIdleTimeMs > 0 ? connMaxIdleTimeMs : Number.POSITIVE_INFINITY
    const idleMs = announced > 0 ? Math.min(ownMs, Math.max(announced - KEEP_ALIVE_MARGIN_MS, announced / 2)) : ownMs
    connection.idleUntilMs = nowMs + idleMs
    this.#idle.push(connection)
  }

  closed(connection: UpstreamConnection): void {
    this.#all.delete(connection)
    const at = this.#idle.indexOf(connection)
    if (at >= 0) this.#idle.splice(at, 1)
    if (this.#waiters.size > 0 && this.#all.size < this.#options.maxOpenConns) {
      const [waiter] = this.#waiters
      this.leave(waiter!)
      waiter!.connection(this.#open())
    } else if (this.#retired && this.#all.size === 0) this.#clock.delete(this)
  }

  tick(nowMs: number): void {
    for (const connection of this.#all) {
      if (connection.deadlineMs <= nowMs) connection.expire()
      else if (connection.idleUntilMs <= nowMs) connection.destroy()
    }
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

  /** No new connections are kept; those in use end with their exchange. */
  retire(): void {
    this.#retired = true
    for (const connection of [...this.#idle]) connection.destroy()
    if (this.#all.size === 0) this.#clock.delete(this)
  }

  /** Everything ends now. */
  close(): void {
    this.retire()
    for (const connection of [...this.#all]) connection.destroy()
  }
}
