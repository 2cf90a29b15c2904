/**
 * One thread's side of an admission scope: its limits, and its queues of waiters by tier. A waiter leaves when it gets a
 * place, when its time is up, when a higher tier takes its place, or when its client goes. Ticked by the thread's clock.
 */

import { MAX_TIERS, type PlaceLimits, type Places, WAS_OUSTED } from './places.ts'
import { type WaitEnd, type Waiter, WaitQueue } from './queue.ts'

export interface ScopeLimits extends PlaceLimits {
  readonly queueTimeoutMs: number
  readonly discipline: 'fifo' | 'lifo' | 'adaptive'
  /** With `adaptive`: see `#judgeQueue`. */
  readonly codelTargetMs: number
  readonly codelIntervalMs: number
}

/** A window of the tiers' needs. */
const WINDOW_MS = 1000
const RATE_EVERY_MS = 200
/** A service that is on the same machine or network sees a cut connection within this, unless it is overloaded. */
const LATER_MS = 50
/** Weight of the newest rate. */
const RATE_WEIGHT = 0.3

export class Scope {
  readonly name: string
  readonly places: Places
  #limits: ScopeLimits
  readonly #queues: (WaitQueue | undefined)[] = []
  readonly #acrossThreads: boolean
  #listening = false
  #size = 0
  #newestFirst: boolean
  /** Services ended per second over all threads, smoothed; 0: not known. */
  #rate = 0
  #servedBefore: number
  #rateFromMs = 0
  /** What is given back a moment later, in the order of time. */
  readonly #later: { readonly sinceMs: number; readonly give: () => void }[] = []
  /** Shortest wait among those served since then: CoDel's measure. */
  #shortestMs = Number.POSITIVE_INFINITY
  #intervalFromMs = 0

  constructor(name: string, places: Places, limits: ScopeLimits, threads: number) {
    this.name = name
    this.places = places
    this.#limits = places.limits = limits
    this.#newestFirst = limits.discipline === 'lifo'
    this.#acrossThreads = threads > 1
    this.#servedBefore = places.served
    places.onSignal = () => this.takeSignals()
  }

  get limits(): ScopeLimits {
    return this.#limits
  }

  set limits(limits: ScopeLimits) {
    this.#limits = this.places.limits = limits
    this.#order(limits.discipline === 'lifo' || (limits.discipline === 'adaptive' && this.places.overloaded))
    this.places.pump()
  }

  /** Waiters in this thread. */
  get size(): number {
    return this.#size
  }

  /**
   * Queues; undefined when the queue is full. `done` is told once how the wait has ended, perhaps before this returns.
   * @param key whose turn it is, '' without keys
   */
  wait(tier: number, key: string, nowMs: number, done: (end: WaitEnd) => void): Waiter | undefined {
    const ticket = this.places.startWaiting(tier)
    if (ticket < 0) return undefined
    const waiter: Waiter = {
      ticket,
      tier,
      sinceMs: nowMs,
      key,
      done,
      before: null,
      after: null,
      line: null,
      lineBefore: null,
      lineAfter: null,
    }
    this.#queue(tier).push(waiter)
    this.#size++
    if (this.#acrossThreads) this.#listen()
    this.#publish(tier)
    return waiter
  }

  /** Its client is gone. True: its place under the cap had gone to another already. */
  leave(waiter: Waiter): boolean {
    this.#take(waiter)
    const { tier } = waiter
    return this.places.endWaiting(tier, this.#readNext(tier)) === WAS_OUSTED
  }

  #take(waiter: Waiter): void {
    this.#queues[waiter.tier]!.remove(waiter)
    this.#size--
  }

  #queue(tier: number): WaitQueue {
    return (this.#queues[tier] ??= new WaitQueue())
  }

  #publish(tier: number): void {
    this.places.publish(tier, this.#readNext(tier))
  }

  /** Into `places.next`; returns how many. */
  #readNext(tier: number): number {
    return this.#queues[tier]?.readNext(this.#newestFirst, this.places.next) ?? 0
  }

  /** While anybody waits here, signals of other threads are listened for. */
  #listen(): void {
    if (this.#listening) return
    this.#listening = true
    const signalled = () => {
      this.#listening = false
      this.takeSignals()
      if (this.#size > 0) this.#listen()
    }
    const promise = this.places.nextSignal()
    if (promise === undefined) queueMicrotask(signalled)
    else promise.then(signalled)
  }

  /** Serves what was granted to this thread's waiters, and puts out whose places went to a higher tier. */
  takeSignals(): void {
    const { places } = this
    if (!places.takeSignals()) return
    // Whom to tell is settled first: telling may bring the next signal.
    const ends: Waiter[] = []
    let servedFrom = 0
    for (let tier = 0; tier < MAX_TIERS; tier++) {
      for (let n = places.ousted[tier]!; n > 0; n--) {
        const waiter = this.#queues[tier]?.last(this.#newestFirst)
        if (waiter == null) {
          places.putBack(tier, 0, n)
          break
        }
        this.#take(waiter)
        ends.push(waiter)
      }
    }
    servedFrom = ends.length
    for (let tier = 0; tier < MAX_TIERS; tier++) {
      for (let n = places.granted[tier]!; n > 0; n--) {
        const waiter = this.#queues[tier]?.take(this.#newestFirst)
        if (waiter == null) {
          places.putBack(tier, n, 0)
          break
        }
        this.#size--
        ends.push(waiter)
      }
    }
    for (let tier = 0; tier < this.#queues.length; tier++) if (this.#queues[tier] !== undefined) this.#publish(tier)
    const nowMs = servedFrom < ends.length ? performance.now() : 0
    for (let i = 0; i < ends.length; i++) {
      const waiter = ends[i]!
      if (i >= servedFrom && nowMs - waiter.sinceMs < this.#shortestMs) this.#shortestMs = nowMs - waiter.sinceMs
      waiter.done(i < servedFrom ? 'ousted' : 'served')
    }
  }

  tick(nowMs: number): void {
    const { queueTimeoutMs, discipline, codelTargetMs } = this.#limits
    if (this.#later.length > 0) this.#giveBack(nowMs - LATER_MS)
    if (discipline === 'adaptive') this.#judgeQueue(nowMs)
    if (this.#size > 0) {
      // folly's CoDel: under overload who has waited twice the target will not be served in time.
      const timeoutMs = discipline === 'adaptive' && this.#newestFirst ? 2 * codelTargetMs : queueTimeoutMs
      if (timeoutMs > 0) this.#expire(nowMs - timeoutMs)
      this.takeSignals()
    }
    this.places.turnWindow(Math.floor(nowMs / WINDOW_MS))
    const elapsedMs = nowMs - this.#rateFromMs
    if (elapsedMs >= RATE_EVERY_MS) {
      const { served } = this.places
      const rate = (((served - this.#servedBefore) | 0) * 1000) / elapsedMs
      this.#rate = this.#rate === 0 ? rate : this.#rate * (1 - RATE_WEIGHT) + rate * RATE_WEIGHT
      if (this.#rate < 0.01) this.#rate = 0
      this.#servedBefore = served
      this.#rateFromMs = nowMs
    }
  }

  #giveBack(sinceMs: number): void {
    let n = 0
    while (n < this.#later.length && this.#later[n]!.sinceMs <= sinceMs) n++
    for (const { give } of this.#later.splice(0, n)) give()
  }

  #expire(sinceMs: number): void {
    for (const queue of this.#queues) {
      for (let oldest = queue?.oldest; oldest != null && oldest.sinceMs <= sinceMs; oldest = queue!.oldest) {
        oldest.done(this.leave(oldest) ? 'ousted' : 'timeout')
      }
    }
  }

  /**
   * `adaptive`: a queue whose shortest wait stays above the target for an interval is no burst, it is overload: the
   * newest, who are the likeliest to be waited for, go first until it is empty.
   */
  #judgeQueue(nowMs: number): void {
    const { places } = this
    if (places.waiting === 0) {
      places.overloaded = false
      this.#intervalFromMs = nowMs
      this.#shortestMs = Number.POSITIVE_INFINITY
    } else if (nowMs - this.#intervalFromMs >= this.#limits.codelIntervalMs) {
      const shortest = Math.min(this.#shortestMs, this.#oldestAgeMs(nowMs))
      if (shortest > this.#limits.codelTargetMs && Number.isFinite(shortest)) places.overloaded = true
      this.#intervalFromMs = nowMs
      this.#shortestMs = Number.POSITIVE_INFINITY
    }
    this.#order(places.overloaded)
  }

  /** When nobody was served in the interval, the age of who waits longest is the measure. */
  #oldestAgeMs(nowMs: number): number {
    let oldest = Number.POSITIVE_INFINITY
    for (const queue of this.#queues) if (queue?.oldest) oldest = Math.min(oldest, queue.oldest.sinceMs)
    return Number.isFinite(oldest) ? nowMs - oldest : Number.POSITIVE_INFINITY
  }

  #order(newestFirst: boolean): void {
    if (newestFirst === this.#newestFirst) return
    this.#newestFirst = newestFirst
    for (let tier = 0; tier < this.#queues.length; tier++) if (this.#queues[tier] !== undefined) this.#publish(tier)
  }

  /** Everybody who waits is told no: the end of the drain. Returns how many. */
  refuseAll(): number {
    const refused = this.#size
    this.#expire(Number.POSITIVE_INFINITY)
    return refused
  }

  /** Gives something back when the service has had time to see that its connection was cut. */
  later(give: () => void): void {
    this.#later.push({ sinceMs: performance.now(), give })
  }

  /** Milliseconds that a newcomer of this tier would wait; 0 when that cannot be told (nothing has ended lately). */
  predictedWaitMs(tier: number): number {
    return this.#rate > 0 && !this.#newestFirst ? ((this.places.waitingAhead(tier) + 1) * 1000) / this.#rate : 0
  }

  /**
   * Whole seconds after which a refused client may find a place: what waits, over the rate at which places fall free, with
   * up to half as much again at random so that clients do not come back together.
   */
  retryAfterSec(random: number): number {
    const expected = this.#rate > 0 ? (this.places.waiting + 1) / this.#rate : 1
    return Math.min(60, Math.max(1, Math.ceil(expected * (1 + random / 2))))
  }
}
