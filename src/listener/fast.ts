/**
 * An open port of the data path: accepts sockets up to the connection limit, gives each to an HTTP/1 connection, watches
 * their deadlines with one tick, and closes in an orderly way.
 */

import net from 'node:net'
import type { Exchange, ListenerInfo } from '../exchange.ts'
import { normalizeAddress } from '../http/client-address.ts'
import type { RequestFrame } from '../http1/framing.ts'
import type { HeadLimits } from '../http1/message-head.ts'
import type { Services } from '../services.ts'
import { SCALAR } from '../shared/metrics.ts'
import type { Refusal, Snapshot } from '../snapshot.ts'
import { type ClientTimeouts, type ConnectionHost, Http1Connection } from './http1.ts'

/** The part of the thread that listeners need: the snapshot of now, and whether the end has begun. */
export interface ListenerOwner {
  readonly services: Services
  readonly snapshot: Snapshot
  readonly draining: boolean
}

export class FastListener implements ConnectionHost {
  readonly name: string
  readonly #owner: ListenerOwner
  readonly #server: net.Server
  readonly #connections = new Set<Http1Connection>()
  #info: ListenerInfo
  #closed: (() => void) | null = null

  constructor(name: string, owner: ListenerOwner) {
    this.name = name
    this.#owner = owner
    this.#info = { name, secure: false, port: 0 }
    this.#server = net.createServer({ pauseOnConnect: true, allowHalfOpen: true, noDelay: true }, this.#accept)
  }

  /** Rejects with the error of `listen`. Returns the port. @param shared other threads listen on it too */
  listen(host: string, port: number, shared: boolean): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#server.once('error', reject)
      this.#server.listen({ host, port, reusePort: shared, backlog: 4096 }, () => {
        this.#server.removeListener('error', reject)
        this.#server.on('error', (err) =>
          this.#owner.services.logger.error('accepting failed', { listener: this.name, err }),
        )
        const bound = (this.#server.address() as net.AddressInfo).port
        this.#info = { ...this.#info, port: bound }
        this.#owner.services.clock.add(this)
        resolve(bound)
      })
    })
  }

  readonly #accept = (socket: net.Socket): void => {
    const { metrics } = this.#owner.services
    metrics.add(SCALAR.connectionsAccepted)
    if (this.#connections.size >= this.maxConnections) {
      metrics.add(SCALAR.connectionsRefused)
      socket.destroy()
      return
    }
    const peer = socket.remoteAddress
    if (peer === undefined) {
      socket.destroy() // gone already
      return
    }
    new Http1Connection(this, socket, this.#info, peer.includes(':') ? (normalizeAddress(peer) ?? peer) : peer)
  }

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

  opened(connection: Http1Connection): void {
    this.#connections.add(connection)
    this.#owner.services.metrics.add(SCALAR.connectionsOpen)
  }

  closed(connection: Http1Connection): void {
    if (!this.#connections.delete(connection)) return
    this.#owner.services.metrics.add(SCALAR.connectionsOpen, -1)
    if (this.#connections.size === 0) this.#closed?.()
  }

  tick(nowMs: number): void {
    for (const connection of this.#connections) connection.sweep(nowMs)
  }

  /** Accepts no more; idle connections close, busy ones after their answer. Resolves when none is left. */
  drain(): Promise<void> {
    this.#server.close()
    for (const connection of this.#connections) connection.drain()
    if (this.#connections.size === 0) return Promise.resolve()
    return new Promise((resolve) => {
      this.#closed = resolve
    })
  }

  /** Cuts what is left; returns how many exchanges that broke off. */
  cut(): number {
    let cut = 0
    for (const connection of [...this.#connections]) {
      if (connection.busy) cut++
      connection.destroy()
    }
    this.#server.close()
    this.#owner.services.clock.delete(this)
    return cut
  }
}
