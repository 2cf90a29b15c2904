/** The connections of HTTP/2 of one thread to one endpoint (`protocol: h2`), each shared by many exchanges. */

import { H2Session, type H2SessionOwner } from './h2-session.ts'
import { EndpointPool, type PoolWaiter } from './pool.ts'

export class H2Pool extends EndpointPool<H2Session> implements H2SessionOwner {
  acquire(waiter: PoolWaiter): void {
    for (const session of this.connections) {
      if (!session.hasRoom) continue
      waiter.connection(session.stream())
      return
    }
    this.acquireFresh(waiter)
  }

  acquireFresh(waiter: PoolWaiter): void {
    if (!this.mayOpen) {
      this.wait(waiter)
      return
    }
    const session = new H2Session(this.endpoint, this)
    this.connections.add(session)
    waiter.connection(session.stream())
  }

  /** HTTP/1.1 Upgrade does not exist here (RFC 9113 §8.6): who asks for it was to be served plainly. */
  openTunnel(waiter: PoolWaiter): void {
    this.acquire(waiter)
  }

  #serveWaiters(): void {
    while (this.waiters.size > 0 && this.#hasRoom) this.acquire(this.nextWaiter()!)
  }

  get #hasRoom(): boolean {
    return this.mayOpen || [...this.connections].some((session) => session.hasRoom)
  }

  streamEnded(session: H2Session): void {
    if (this.isSpent(session)) session.close()
    this.#serveWaiters()
  }

  closed(session: H2Session): void {
    this.connections.delete(session)
    this.#serveWaiters()
    this.rest()
  }

  tick(nowMs: number): void {
    for (const session of this.connections) session.sweep(nowMs, this.options.connMaxIdleTimeMs)
  }

  protected get idleCount(): number {
    let idle = 0
    for (const session of this.connections) if (session.streams === 0) idle++
    return idle
  }

  override retire(): void {
    super.retire()
    for (const session of [...this.connections]) session.close()
  }
}
