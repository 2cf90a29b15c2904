/**
 * The HTTP/1.1 connections of one thread to one endpoint: idle ones reused newest first, new ones opened up to
 * `maxOpenConns`, and beyond that exchanges wait in order. WebSockets have connections of their own beside these.
 */

import { type ConnectionOwner, UpstreamConnection } from './connection.ts'
import { EndpointPool, type PoolWaiter } from './pool.ts'
import { type ProxyAddresses, proxyHeader } from './proxy-header.ts'
import { WebSocketHandshake, type WebSocketOwner } from './websocket.ts'

const NO_ADDRESSES: ProxyAddresses = { source: '', sourcePort: 0, destination: '', destinationPort: 0 }

/** How much earlier than the upstream's announced keep-alive time a connection is given up. */
const KEEP_ALIVE_MARGIN_MS = 1000
/** How long connections beyond `maxIdleConns` may be idle. */
const SPARE_MS = 1000

export class Http1Pool extends EndpointPool<UpstreamConnection> implements ConnectionOwner, WebSocketOwner {
  readonly #idle: UpstreamConnection[] = []
  readonly #tunnels = new Set<WebSocketHandshake>()

  acquire(waiter: PoolWaiter): void {
    for (;;) {
      const connection = this.#idle.pop()
      if (connection === undefined) break
      if (!connection.usable || connection.idleUntilMs <= this.now()) {
        connection.destroy()
        continue
      }
      waiter.connection(connection)
      return
    }
    if (this.mayOpen) waiter.connection(this.#open(waiter))
    else this.wait(waiter)
  }

  acquireFresh(waiter: PoolWaiter): void {
    if (this.mayOpen) waiter.connection(this.#open(waiter))
    else this.acquire(waiter)
  }

  openTunnel(waiter: PoolWaiter): void {
    const handshake = new WebSocketHandshake(this.endpoint, this, this.#opening(waiter))
    this.#tunnels.add(handshake)
    waiter.connection(handshake)
  }

  ended(handshake: WebSocketHandshake): void {
    this.#tunnels.delete(handshake)
    this.rest()
  }

  #opening(waiter: PoolWaiter): Buffer | undefined {
    const { proxyProtocol } = this.options
    return proxyProtocol === false ? undefined : proxyHeader(proxyProtocol, waiter.proxyAddresses?.() ?? NO_ADDRESSES)
  }

  #open(waiter: PoolWaiter): UpstreamConnection {
    const connection = new UpstreamConnection(this.endpoint, this, this.#opening(waiter))
    this.connections.add(connection)
    return connection
  }

  idle(connection: UpstreamConnection): void {
    const { connMaxIdleTimeMs, maxIdleConns, proxyProtocol } = this.options
    if (this.isSpent(connection) || proxyProtocol !== false) {
      connection.destroy()
      return
    }
    const waiter = this.nextWaiter()
    if (waiter !== undefined) {
      waiter.connection(connection)
      return
    }
    if (maxIdleConns === 0) {
      connection.destroy()
      return
    }
    const nowMs = this.now()
    const announced = connection.announcedIdleMs
    const ownMs = connMaxIdleTimeMs > 0 ? connMaxIdleTimeMs : Number.POSITIVE_INFINITY
    const idleMs = announced > 0 ? Math.min(ownMs, Math.max(announced - KEEP_ALIVE_MARGIN_MS, announced / 2)) : ownMs
    connection.idleUntilMs = nowMs + idleMs
    connection.idleSinceMs = nowMs
    this.#idle.push(connection)
  }

  closed(connection: UpstreamConnection): void {
    this.connections.delete(connection)
    const at = this.#idle.indexOf(connection)
    if (at >= 0) this.#idle.splice(at, 1)
    const waiter = this.mayOpen ? this.nextWaiter() : undefined
    if (waiter !== undefined) waiter.connection(this.#open(waiter))
    else this.rest()
  }

  tick(nowMs: number): void {
    // The longest idle stand first. Those beyond the limit get a moment: answers come in batches, and the next batch of
    // requests would open again what was just closed.
    for (let i = this.#idle.length - this.options.maxIdleConns - 1; i >= 0; i--) {
      if (nowMs - this.#idle[i]!.idleSinceMs >= SPARE_MS) this.#idle[i]!.destroy()
    }
    for (const connection of this.connections) {
      if (connection.deadlineMs <= nowMs) connection.expire()
      else if (connection.idleUntilMs <= nowMs) connection.destroy()
    }
    for (const tunnel of this.#tunnels) tunnel.sweep(nowMs)
  }

  protected get idleCount(): number {
    return this.#idle.length
  }

  protected override rest(): void {
    if (this.#tunnels.size === 0) super.rest()
  }

  override retire(): void {
    super.retire()
    for (const connection of [...this.#idle]) connection.destroy()
  }

  override close(): void {
    super.close()
    for (const tunnel of [...this.#tunnels]) tunnel.cancel()
  }
}
