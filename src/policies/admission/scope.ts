/**
 * One thread's side of an admission scope: its numbers, and its queue of waiters. The queue is in arrival order; a waiter
 * leaves when it gets a place, when its time is up, or when its client goes.
 */

import type { Places } from './places.ts'

export interface ScopeLimits {
  readonly maxCCU: number
  readonly workers: number
  readonly maxQueue: number
  readonly queueTimeoutMs: number
}

export interface Waiter {
  readonly ticket: number
  readonly sinceMs: number
  /** Told once: true with a place in service, false when its time is up. */
  readonly done: (served: boolean) => void
}

export class Scope {
  readonly name: string
  readonly places: Places
  limits: ScopeLimits
  readonly #queue = new Set<Waiter>()
  readonly #acrossThreads: boolean
  #listening = false
  /** Services ended by this thread per second, smoothed: what Retry-After is made of. */
  #drainRate = 0
  #ended = 0
  #rateFromMs = 0

  constructor(name: string, places: Places, limits: ScopeLimits, threads: number) {
    this.name = name
    this.places = places
    this.limits = limits
    this.#acrossThreads = threads > 1
    places.onGrant = () => this.#serveFirst()
  }

  endService(): void {
    this.#ended++
    this.places.endService(this.limits.workers)
  }

  /** Queues; undefined when the queue is full. The place may be granted before this returns. */
  wait(nowMs: number, done: (served: boolean) => void): Waiter | undefined {
    if (!this.places.startWaiting(this.limits.maxQueue)) return undefined
    const waiter: Waiter = { ticket: this.places.ticket(), sinceMs: nowMs, done }
    this.#queue.add(waiter)
    if (this.#queue.size === 1) this.places.publish(waiter.ticket)
    if (this.#acrossThreads) this.#listen()
    this.places.pump(this.limits.workers)
    return waiter
  }

  /** Its client is gone. */
  leave(waiter: Waiter): void {
    if (!this.#queue.delete(waiter)) return
    this.places.endWaiting()
    this.#publishFirst()
  }

  #serveFirst(): void {
    for (const waiter of this.#queue) {
      this.leave(waiter)
      waiter.done(true)
      return
    }
    this.places.returnGrant(this.limits.workers)
  }

  #publishFirst(): void {
    for (const waiter of this.#queue) {
      this.places.publish(waiter.ticket)
      return
    }
    this.places.publish(undefined)
  }

  /** While anybody waits here, other threads' grants are listened for. */
  #listen(): void {
    if (this.#listening) return
    this.#listening = true
    const granted = () => {
      this.#listening = false
      this.takeGrants()
      if (this.#queue.size > 0) this.#listen()
    }
    const promise = this.places.nextGrant()
    if (promise === undefined) queueMicrotask(granted)
    else promise.then(granted)
  }

  takeGrants(): void {
    for (let grants = this.places.takeGrants(); grants > 0; grants--) this.#serveFirst()
    this.#publishFirst()
    this.places.pump(this.limits.workers)
  }

  tick(nowMs: number): void {
    const { queueTimeoutMs } = this.limits
    if (queueTimeoutMs > 0) {
      for (const waiter of this.#queue) {
        if (nowMs - waiter.sinceMs < queueTimeoutMs) break
        this.leave(waiter)
        waiter.done(false)
      }
    }
    const elapsedMs = nowMs - this.#rateFromMs
    if (elapsedMs >= 1000) {
      const rate = (this.#ended * 1000) / elapsedMs
      this.#drainRate = this.#drainRate === 0 ? rate : this.#drainRate * 0.7 + rate * 0.3
      this.#ended = 0
      this.#rateFromMs = nowMs
    }
  }

  /** Everybody who waits is told no: the end of the drain. Returns how many. */
  refuseAll(): number {
    const refused = this.#queue.size
    for (const waiter of this.#queue) {
      this.leave(waiter)
      waiter.done(false)
    }
    return refused
  }

  /**
   * Whole seconds after which a refused client may find a place: what waits, over the rate at which places fall free, with
   * up to half as much again at random so that clients do not come back together.
   */
  retryAfterSec(random: number): number {
    const rate = this.#drainRate
    const expected = rate > 0 ? (this.places.waiting + 1) / rate : 1
    return Math.min(60, Math.max(1, Math.ceil(expected * (1 + random / 2))))
  }
}
