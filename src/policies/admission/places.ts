/**
 * The count behind admission: who holds a place in one scope (the gateway, or a route), by tier, exact over all threads.
 * Lives in a SharedArrayBuffer. Each change is one short transaction under a lock of that memory, so that a decision over
 * several numbers (the total, the guarantees, who waits where) is as exact as one compare-and-swap. No HTTP, no config, no
 * clock.
 *
 * CCU = in service + waiting. `enter` takes a place under the cap, `start` one of the workers' places; who cannot start
 * waits in its thread's queue. A place that falls free goes to the first waiter of the first tier that waits on any thread:
 * each thread shows the tickets of those whom it would serve next, the thread that frees a place grants it to the lowest
 * ticket and wakes that thread. Several are shown, so that a thread which has not yet looked at what it was granted neither
 * overtakes others by a ticket that has been served nor stands in their way; beyond those it gets nothing until it looks.
 *
 * Tiers. A guarantee is a share of the cap that is a tier's whenever it asks; what it does not use is lent to the others.
 * A tier within its guarantee is let in before any other's borrowing, a higher tier's borrowing before a lower's:
 *  - who is let in when all places are taken takes the place of a waiter that borrows, from the lowest tier up;
 *  - with nobody waiting, lent places come back only when their requests end. So that they are not lent again at once, what
 *    a tier has needed within the last two seconds (its refusals included) is kept for it.
 *
 * A thread that dies inside a transaction leaves the lock behind and perhaps half a change: `reclaim` frees the lock and
 * makes all totals anew from what each living thread holds.
 */

import { sharedNowMs } from '../../shared/limiter-table.ts'
import { lock, seize, unlock } from '../../shared/word-lock.ts'

/** Tiers by number; 0 is who has none. */
export const MAX_TIERS = 32

// Words of all threads together.
const LOCK = 0
const CCU = 1
const IN_SERVICE = 2
const WAITING = 3
const STREAMS = 4
/** The most places that the fleet's lease leaves to this process; −1: no fleet. */
const LEASE = 5
/** The workers as the adaptive limit sets them; 0: as configured. */
const ADAPTIVE = 6
/** The queue does not empty: newest first, the old ones are dropped. */
const OVERLOADED = 7
/** Services ended since the start; wraps. */
const SERVED = 8
const STAMP = 9
/** Places when the lease has run out. */
const FLOOR = 10
/** Refusals of `enter` since the start; wraps. */
const REFUSED = 11
// By tier.
const T_CCU = 16
const T_SERVICE = T_CCU + MAX_TIERS
const T_WAITING = T_SERVICE + MAX_TIERS
/** Most places a tier has needed in this window and in the one before. */
const T_NEED = T_WAITING + MAX_TIERS
const T_NEED_BEFORE = T_NEED + MAX_TIERS
const T_REFUSED = T_NEED_BEFORE + MAX_TIERS
const HEADER = T_REFUSED + MAX_TIERS

// Words of each thread, by tier; then its own.
const HELD = 0
const SERVING = HELD + MAX_TIERS
const QUEUED = SERVING + MAX_TIERS
/** Places granted, and waiters put out, that the thread has not yet seen. In its queue stand QUEUED + GRANTED + OUSTED. */
const GRANTED = QUEUED + MAX_TIERS
const OUSTED = GRANTED + MAX_TIERS
const SIGNAL = OUSTED + MAX_TIERS
const STREAMS_HELD = SIGNAL + 1
/** How much of the cap this thread's pressure leaves, in 1/1000. */
const SHARE = SIGNAL + 2
const STRIDE = OUSTED + MAX_TIERS + 16

// Doubles of all threads together.
const NEXT_TICKET = 0
/** Until when the lease holds, on the clock that all threads share. */
const LEASE_UNTIL = 1
// Doubles of each thread: the ledger, sums for the adaptive limit, the next tickets by tier.
const ADMITTED = 0
const COMPLETED = 1
const ABORTED = 2
const SAMPLES = 3
const SAMPLED_MS = 4
const DROPS = 5
const TICKETS = 8
/** Tickets that a thread shows of each tier. */
export const SHOWN = 8
const DOUBLES_STRIDE = TICKETS + MAX_TIERS * SHOWN

const NO_TICKET = Number.MAX_SAFE_INTEGER
/** The supervisor waits for the lock no longer: its owner may be a dead thread whose end it has to be told of. */
const SUPERVISOR_WAITS = 20
const SUPERVISOR = -1

/** What `enter` answers. */
export const ENTERED = 0
export const REFUSED_FULL = 1
export const REFUSED_TIER = 2
export const REFUSED_PRESSURE = 3
export type Entry = typeof ENTERED | typeof REFUSED_FULL | typeof REFUSED_TIER | typeof REFUSED_PRESSURE

/** What became of a waiter that left by itself: some other thread may have put it out before. */
export const LEFT = 0
export const WAS_OUSTED = 1

export interface PlaceLimits {
  readonly maxCCU: number
  readonly workers: number
  readonly maxQueue: number
  /** Numbers of the tiers, the highest first, all that may still be inside; `[0]` without tiers. */
  readonly order: readonly number[]
  /** By number of tier: share of the cap, 0 to 1. */
  readonly guarantees: readonly number[]
}

export interface TierPlaces {
  readonly ccu: number
  readonly inService: number
  readonly waiting: number
}

export interface PlacesFigures {
  readonly ccu: number
  readonly inService: number
  readonly waiting: number
  readonly streams: number
  readonly admitted: number
  readonly completed: number
  readonly aborted: number
  /** admitted − completed − aborted − ccu: always 0. */
  readonly skew: number
}

/** Sums since the start, for the adaptive limit. */
export interface PlacesSamples {
  readonly samples: number
  readonly sampledMs: number
  readonly drops: number
}

function doublesAt(threads: number): number {
  return (HEADER + threads * STRIDE) * 4
}

export function placesBytes(threads: number): number {
  return doublesAt(threads) + (8 + threads * DOUBLES_STRIDE) * 8
}

export function createPlacesMemory(threads: number): SharedArrayBuffer {
  const memory = new SharedArrayBuffer(placesBytes(threads))
  const words = new Int32Array(memory, 0, HEADER + threads * STRIDE)
  const doubles = new Float64Array(memory, doublesAt(threads))
  words[LEASE] = -1
  for (let t = 0; t < threads; t++) {
    words[HEADER + t * STRIDE + SHARE] = 1000
    doubles.fill(NO_TICKET, 8 + t * DOUBLES_STRIDE + TICKETS, 8 + (t + 1) * DOUBLES_STRIDE)
  }
  return memory
}

export class Places {
  limits: PlaceLimits
  readonly #words: Int32Array
  readonly #doubles: Float64Array
  readonly #threads: number
  readonly #thread: number
  readonly #own: number
  readonly #ownDoubles: number
  #signalled = false
  /** Grants and evictions of the last `takeSignals`, by tier. */
  readonly granted = new Int32Array(MAX_TIERS)
  readonly ousted = new Int32Array(MAX_TIERS)
  /** Tickets for `publish` and `endWaiting`, the next one first. */
  readonly next = new Float64Array(SHOWN)
  /** Called after a transaction of this thread that granted a place to it or put one of its waiters out. */
  onSignal: () => void = () => {}

  readonly #sharedNowMs: () => number

  /**
   * @param thread −1: the supervisor, which only looks, reclaims and sets
   * @param sharedNow a clock that is the same in all threads, for the lease of a fleet alone
   */
  constructor(
    memory: SharedArrayBuffer,
    threads: number,
    thread: number,
    limits: PlaceLimits = NO_LIMITS,
    sharedNow: () => number = sharedNowMs,
  ) {
    this.limits = limits
    this.#sharedNowMs = sharedNow
    this.#words = new Int32Array(memory, 0, HEADER + threads * STRIDE)
    this.#doubles = new Float64Array(memory, doublesAt(threads))
    this.#threads = threads
    this.#thread = thread
    this.#own = HEADER + thread * STRIDE
    this.#ownDoubles = 8 + thread * DOUBLES_STRIDE
  }

  get ccu(): number {
    return Atomics.load(this.#words, CCU)
  }

  get waiting(): number {
    return Atomics.load(this.#words, WAITING)
  }

  get inService(): number {
    return Atomics.load(this.#words, IN_SERVICE)
  }

  get streams(): number {
    return Atomics.load(this.#words, STREAMS)
  }

  get served(): number {
    return Atomics.load(this.#words, SERVED)
  }

  /** The cap of now: as configured, less what pressure takes, at most the fleet's lease. */
  get cap(): number {
    const { maxCCU } = this.limits
    const words = this.#words
    const share = this.share
    const cap = share === 1000 ? maxCCU : Math.max(1, Math.floor((maxCCU * share) / 1000))
    let lease = Atomics.load(words, LEASE)
    if (lease < 0) return cap
    // Looked at with the exact time: a process that was frozen must not let one in by a lease of before.
    if (this.#sharedNowMs() >= this.#doubles[LEASE_UNTIL]!) lease = Atomics.load(words, FLOOR)
    return Math.min(cap, lease)
  }

  /** How much of the cap pressure leaves, in 1/1000: the worst thread counts. */
  get share(): number {
    let share = 1000
    for (let t = 0; t < this.#threads; t++) {
      const own = Atomics.load(this.#words, HEADER + t * STRIDE + SHARE)
      if (own < share) share = own
    }
    return share
  }

  get workers(): number {
    const adaptive = Atomics.load(this.#words, ADAPTIVE)
    return adaptive > 0 && adaptive < this.limits.workers ? adaptive : this.limits.workers
  }

  get overloaded(): boolean {
    return Atomics.load(this.#words, OVERLOADED) === 1
  }

  set overloaded(value: boolean) {
    Atomics.store(this.#words, OVERLOADED, value ? 1 : 0)
  }

  // Entering and leaving.

  enter(tier: number): Entry {
    this.#lock()
    const entry = this.#enter(tier)
    if (entry !== ENTERED) this.#words[REFUSED] = (this.#words[REFUSED]! + 1) | 0
    this.#unlock()
    return entry
  }

  /** `enter` and `start` in one. True in `started` when service has begun. */
  enterAndStart(tier: number): Entry {
    this.#lock()
    const entry = this.#enter(tier)
    this.started = entry === ENTERED && this.#start(tier)
    if (entry !== ENTERED) this.#words[REFUSED] = (this.#words[REFUSED]! + 1) | 0
    this.#unlock()
    return entry
  }

  started = false

  leave(tier: number, completed: boolean): void {
    this.#lock()
    this.#leave(tier, completed)
    this.#unlock()
  }

  /** `endService` and `leave` in one. */
  finish(tier: number, completed: boolean): void {
    this.#lock()
    this.#leave(tier, completed)
    this.#end(tier)
    this.#unlock()
  }

  /** Takes `enter()` back: the exchange was refused after all, by a cap inside this one. */
  undoEnter(tier: number): void {
    this.#lock()
    this.#doubles[this.#ownDoubles + ADMITTED]!--
    this.#drop(tier)
    this.#unlock()
  }

  // Service.

  /** True when service may begin at once: nobody waits and a worker is free. Owed one `endService()`. */
  start(tier: number): boolean {
    this.#lock()
    const started = this.#start(tier)
    this.#unlock()
    return started
  }

  /** Gives the place in service to the first waiter anywhere, or back. */
  endService(tier: number): void {
    this.#lock()
    this.#end(tier)
    this.#unlock()
  }

  // Waiting.

  /** The ticket of a new waiter, which the thread now queues; −1: the queue is full and nobody gives way. */
  startWaiting(tier: number): number {
    this.#lock()
    const words = this.#words
    let ticket = -1
    if (words[WAITING]! < this.limits.maxQueue || this.#oust(tier, false)) {
      words[WAITING]!++
      words[T_WAITING + tier]!++
      words[this.#own + QUEUED + tier]!++
      ticket = this.#doubles[NEXT_TICKET]!++
    }
    this.#unlock()
    return ticket
  }

  /** Shows whom this thread would serve next of a tier: the first `count` of `next`. Grants what can be granted. */
  publish(tier: number, count: number): void {
    this.#lock()
    this.#show(tier, count)
    this.#pump()
    this.#unlock()
  }

  /**
   * A waiter has gone by itself (its client left, its time is up); `next` is who is left. Whose grant it was is not known: the
   * last one is taken back and goes to the lowest ticket of now, which is the one that had it, or who comes after the leaver.
   */
  endWaiting(tier: number, count: number): typeof LEFT | typeof WAS_OUSTED {
    this.#lock()
    const words = this.#words
    const own = this.#own
    let result: typeof LEFT | typeof WAS_OUSTED = LEFT
    const queued = words[own + QUEUED + tier]!
    const ousted = words[own + OUSTED + tier]!
    if (queued === 0 && ousted > 0) {
      words[own + OUSTED + tier]!--
      result = WAS_OUSTED
    } else if (words[own + GRANTED + tier]! > 0) {
      words[own + GRANTED + tier]!--
      words[IN_SERVICE]!--
      words[T_SERVICE + tier]!--
    } else if (queued > 0) {
      words[own + QUEUED + tier]!--
      words[T_WAITING + tier]!--
      words[WAITING]!--
    }
    this.#show(tier, count)
    this.#pump()
    this.#unlock()
    return result
  }

  /** Takes what was granted to and taken from this thread's waiters, into `granted` and `ousted`. False: nothing. */
  takeSignals(): boolean {
    const words = this.#words
    const own = this.#own
    this.#lock()
    const any = words[own + SIGNAL] !== 0
    if (any) {
      words[own + SIGNAL] = 0
      for (let tier = 0; tier < MAX_TIERS; tier++) {
        const granted = words[own + GRANTED + tier]!
        this.granted[tier] = granted
        if (granted > 0) this.#shift(tier, granted)
        this.ousted[tier] = words[own + OUSTED + tier]!
        words[own + GRANTED + tier] = words[own + OUSTED + tier] = 0
        words[own + SERVING + tier]! += granted
      }
    }
    this.#signalled = false
    this.#unlock()
    return any
  }

  /** Signals that came for waiters which this thread has counted and not yet queued: they are kept for the next look. */
  putBack(tier: number, granted: number, ousted: number): void {
    const words = this.#words
    const own = this.#own
    this.#lock()
    words[own + SERVING + tier]! -= granted
    words[own + GRANTED + tier]! += granted
    words[own + OUSTED + tier]! += ousted
    words[own + SIGNAL] = 1
    this.#unlock()
  }

  /** Resolves when another thread has sent a signal; `undefined` when there is one already. */
  nextSignal(): Promise<unknown> | undefined {
    const result = Atomics.waitAsync(this.#words, this.#own + SIGNAL, 0)
    return result.async ? result.value : undefined
  }

  /** Grants what can be granted: limits have changed. */
  pump(): void {
    this.#lock()
    this.#pump()
    this.#unlock()
  }

  waitingAhead(tier: number): number {
    let ahead = 0
    for (const other of this.limits.order) {
      ahead += Atomics.load(this.#words, T_WAITING + other)
      if (other === tier) break
    }
    return ahead
  }

  // Streams.

  /** Moves an exchange in service to the pool of streams; false when that is full. Owed one `endStream()`. */
  toStream(tier: number, maxStreams: number): boolean {
    this.#lock()
    const fits = this.#words[STREAMS]! < maxStreams
    if (fits) {
      this.#words[STREAMS]!++
      this.#words[this.#own + STREAMS_HELD]!++
      this.#leave(tier, true)
      this.#end(tier)
    }
    this.#unlock()
    return fits
  }

  endStream(): void {
    this.#lock()
    this.#words[STREAMS]!--
    this.#words[this.#own + STREAMS_HELD]!--
    this.#unlock()
  }

  // What other mechanisms set.

  /** @param share of the cap that this thread's pressure leaves, 0 to 1 */
  setShare(share: number): void {
    Atomics.store(this.#words, this.#own + SHARE, Math.round(share * 1000))
  }

  /** @param lease undefined: no fleet  @param untilMs on the clock of `sharedNowMs`; after it the floor holds */
  setLease(lease: number | undefined, untilMs = 0, floor = 0): void {
    this.#lock()
    this.#words[LEASE] = lease ?? -1
    this.#words[FLOOR] = floor
    this.#doubles[LEASE_UNTIL] = untilMs
    this.#unlock()
  }

  get refused(): number {
    return Atomics.load(this.#words, REFUSED)
  }

  /** @param workers undefined: as configured */
  setAdaptive(workers: number | undefined): void {
    Atomics.store(this.#words, ADAPTIVE, workers ?? 0)
  }

  /** Begins a new window of needs, once for all threads. @param stamp a number that grows with time */
  turnWindow(stamp: number): void {
    if (Atomics.load(this.#words, STAMP) === stamp) return
    this.#lock()
    const words = this.#words
    if (words[STAMP] !== stamp) {
      words[STAMP] = stamp
      for (const tier of this.limits.order) {
        words[T_NEED_BEFORE + tier] = words[T_NEED + tier]!
        words[T_NEED + tier] = words[T_CCU + tier]!
        words[T_REFUSED + tier] = 0
      }
    }
    this.#unlock()
  }

  /** How long an upstream took. */
  sample(ms: number): void {
    this.#doubles[this.#ownDoubles + SAMPLES]!++
    this.#doubles[this.#ownDoubles + SAMPLED_MS]! += ms
  }

  /** An upstream failed or refused. */
  dropped(): void {
    this.#doubles[this.#ownDoubles + DROPS]!++
  }

  samples(): PlacesSamples {
    return { samples: this.#sum(SAMPLES), sampledMs: this.#sum(SAMPLED_MS), drops: this.#sum(DROPS) }
  }

  // Transactions: the lock is held.

  #enter(tier: number): Entry {
    const words = this.#words
    const { order, guarantees, maxCCU } = this.limits
    const cap = this.cap
    const total = words[CCU]!
    if (order.length <= 1) {
      if (total < cap) {
        this.#take(tier)
        return ENTERED
      }
      return total < maxCCU && this.share < 1000 ? REFUSED_PRESSURE : REFUSED_FULL
    }
    const within = words[T_CCU + tier]! < Math.floor(guarantees[tier]! * cap)
    if (within ? total < cap : total + this.#keptFor(tier, cap) < cap) {
      this.#take(tier)
      return ENTERED
    }
    if (this.#oust(tier, within)) {
      this.#take(tier)
      return ENTERED
    }
    words[T_REFUSED + tier]!++
    this.#need(tier, words[T_CCU + tier]! + words[T_REFUSED + tier]!)
    if (this.share < 1000 && total < maxCCU) return REFUSED_PRESSURE
    return total < cap || within ? REFUSED_TIER : REFUSED_FULL
  }

  /** Free places that who borrows for a tier must leave: to guarantees, and to what higher tiers have just needed. */
  #keptFor(tier: number, cap: number): number {
    const words = this.#words
    const { order, guarantees } = this.limits
    let kept = 0
    let higher = true
    for (const other of order) {
      if (other === tier) {
        higher = false
        continue
      }
      const seen = Math.max(words[T_NEED + other]!, words[T_NEED_BEFORE + other]!)
      if (seen === 0) continue
      let need = Math.ceil(seen * 1.25) + 1
      if (!higher) need = Math.min(need, Math.floor(guarantees[other]! * cap))
      const lacking = need - words[T_CCU + other]!
      if (lacking > 0) kept += lacking
    }
    return kept
  }

  #need(tier: number, places: number): void {
    const need = Math.min(places, this.limits.maxCCU)
    if (need > this.#words[T_NEED + tier]!) this.#words[T_NEED + tier] = need
  }

  #take(tier: number): void {
    const words = this.#words
    words[CCU]!++
    const held = ++words[T_CCU + tier]!
    if (held > words[T_NEED + tier]!) words[T_NEED + tier] = held
    words[this.#own + HELD + tier]!++
    this.#doubles[this.#ownDoubles + ADMITTED]!++
  }

  #drop(tier: number): void {
    const words = this.#words
    words[CCU]!--
    words[T_CCU + tier]!--
    words[this.#own + HELD + tier]!--
  }

  #leave(tier: number, completed: boolean): void {
    this.#doubles[this.#ownDoubles + (completed ? COMPLETED : ABORTED)]!++
    this.#drop(tier)
  }

  #start(tier: number): boolean {
    const words = this.#words
    if (words[WAITING]! > 0 || words[IN_SERVICE]! >= this.workers) return false
    words[IN_SERVICE]!++
    words[T_SERVICE + tier]!++
    words[this.#own + SERVING + tier]!++
    return true
  }

  #end(tier: number): void {
    const words = this.#words
    words[IN_SERVICE]!--
    words[T_SERVICE + tier]!--
    words[this.#own + SERVING + tier]!--
    words[SERVED] = (words[SERVED]! + 1) | 0
    this.#pump()
  }

  /** Puts a waiter out whose tier borrows, the lowest first; its place under the cap is free then. */
  #oust(tier: number, within: boolean): boolean {
    const words = this.#words
    if (words[WAITING] === 0) return false
    const { order, guarantees } = this.limits
    const cap = this.cap
    for (let i = order.length - 1; i >= 0; i--) {
      const victim = order[i]!
      if (victim === tier) {
        if (within) continue
        return false
      }
      if (words[T_WAITING + victim] === 0) continue
      if (words[T_CCU + victim]! <= Math.floor(guarantees[victim]! * cap)) continue
      let at = -1
      let most = 0
      for (let t = 0; t < this.#threads; t++) {
        const queued = words[HEADER + t * STRIDE + QUEUED + victim]!
        if (queued > most) {
          most = queued
          at = HEADER + t * STRIDE
        }
      }
      if (at < 0) continue
      words[at + QUEUED + victim]!--
      words[at + OUSTED + victim]!++
      words[at + HELD + victim]!--
      words[T_WAITING + victim]!--
      words[WAITING]!--
      words[CCU]!--
      words[T_CCU + victim]!--
      this.#doubles[this.#ownDoubles + ABORTED]!++
      this.#signal(at)
      return true
    }
    return false
  }

  #pump(): void {
    const words = this.#words
    while (words[WAITING]! > 0 && words[IN_SERVICE]! < this.workers) {
      const tier = this.#nextTier()
      const at = tier < 0 ? -1 : this.#nextThread(tier)
      if (at < 0) return // counted but not yet queued: its thread publishes in a moment
      words[at + QUEUED + tier]!--
      words[at + GRANTED + tier]!++
      words[T_WAITING + tier]!--
      words[WAITING]!--
      words[IN_SERVICE]!++
      words[T_SERVICE + tier]!++
      this.#signal(at)
    }
  }

  /**
   * Who has less than its guarantee in service goes first, then the order of the tiers. A tier whose waiters are all with
   * threads that do not look holds up none of the others. −1: nobody can be served now.
   */
  #nextTier(): number {
    const words = this.#words
    const { order, guarantees } = this.limits
    let first = -1
    for (const tier of order) {
      if (words[T_WAITING + tier] === 0 || this.#unseen(tier)) continue
      if (words[T_SERVICE + tier]! < Math.floor(guarantees[tier]! * this.workers)) return tier
      if (first < 0) first = tier
    }
    return first
  }

  /** Whether all of its waiters are with threads that have not looked at what was granted to them. */
  #unseen(tier: number): boolean {
    const words = this.#words
    for (let t = 0; t < this.#threads; t++) {
      const at = HEADER + t * STRIDE
      if (words[at + QUEUED + tier]! > 0 && words[at + GRANTED + tier]! < SHOWN) return false
    }
    return true
  }

  #nextThread(tier: number): number {
    const words = this.#words
    let best = -1
    let lowest = NO_TICKET
    for (let t = 0; t < this.#threads; t++) {
      const at = HEADER + t * STRIDE
      if (words[at + QUEUED + tier] === 0) continue
      // Its first waiters have a grant already that it has not seen.
      const granted = words[at + GRANTED + tier]!
      if (granted >= SHOWN) continue
      const ticket = this.#doubles[8 + t * DOUBLES_STRIDE + TICKETS + tier * SHOWN + granted]!
      if (ticket < lowest) {
        lowest = ticket
        best = at
      }
    }
    return best
  }

  #show(tier: number, count: number): void {
    const at = this.#ownDoubles + TICKETS + tier * SHOWN
    for (let i = 0; i < SHOWN; i++) this.#doubles[at + i] = i < count ? this.next[i]! : NO_TICKET
  }

  /** The first ones are served: until the thread shows its queue anew, the rest stands. */
  #shift(tier: number, served: number): void {
    const at = this.#ownDoubles + TICKETS + tier * SHOWN
    const doubles = this.#doubles
    for (let i = 0; i < SHOWN; i++) doubles[at + i] = i + served < SHOWN ? doubles[at + i + served]! : NO_TICKET
  }

  #signal(at: number): void {
    if (at === this.#own) this.#signalled = true
    Atomics.store(this.#words, at + SIGNAL, 1)
    if (at !== this.#own) Atomics.notify(this.#words, at + SIGNAL)
  }

  #lock(): void {
    lock(this.#words, LOCK, this.#thread + 2)
  }

  #unlock(): void {
    unlock(this.#words, LOCK)
    if (this.#signalled) this.onSignal()
  }

  /** A thread has died: what it held is given back, its exchanges count as aborted. For the supervisor. */
  reclaim(thread: number): void {
    const words = this.#words
    seize(words, LOCK, this.#thread + 2, thread + 2)
    const at = HEADER + thread * STRIDE
    let held = 0
    for (let tier = 0; tier < MAX_TIERS; tier++) held += words[at + HELD + tier]!
    words.fill(0, at, at + STRIDE)
    words[at + SHARE] = 1000
    const doubles = 8 + thread * DOUBLES_STRIDE
    this.#doubles.fill(NO_TICKET, doubles + TICKETS, doubles + DOUBLES_STRIDE)
    this.#recount()
    // It may have died between a count and the ledger: its exchanges are what makes the ledger whole.
    this.#doubles[doubles + ABORTED]! += held
    this.#doubles[doubles + ABORTED]! += this.#sum(ADMITTED) - this.#sum(COMPLETED) - this.#sum(ABORTED) - words[CCU]!
    this.#pump()
    this.#unlock()
  }

  #recount(): void {
    const words = this.#words
    words.fill(0, T_CCU, T_NEED)
    words[CCU] = words[IN_SERVICE] = words[WAITING] = words[STREAMS] = 0
    for (let t = 0; t < this.#threads; t++) {
      const at = HEADER + t * STRIDE
      words[STREAMS]! += words[at + STREAMS_HELD]!
      for (let tier = 0; tier < MAX_TIERS; tier++) {
        const serving = words[at + SERVING + tier]! + words[at + GRANTED + tier]!
        words[CCU]! += words[at + HELD + tier]!
        words[T_CCU + tier]! += words[at + HELD + tier]!
        words[IN_SERVICE]! += serving
        words[T_SERVICE + tier]! += serving
        words[WAITING]! += words[at + QUEUED + tier]!
        words[T_WAITING + tier]! += words[at + QUEUED + tier]!
      }
    }
  }

  #sum(column: number): number {
    let total = 0
    for (let t = 0; t < this.#threads; t++) total += this.#doubles[8 + t * DOUBLES_STRIDE + column]!
    return total
  }

  /** All at one moment. */
  figures(): PlacesFigures {
    const words = this.#words
    const waits = this.#thread === SUPERVISOR ? SUPERVISOR_WAITS : Number.POSITIVE_INFINITY
    const locked = lock(words, LOCK, this.#thread + 2, waits)
    const [ccu, inService, waiting, streams] = [words[CCU]!, words[IN_SERVICE]!, words[WAITING]!, words[STREAMS]!]
    const [admitted, completed, aborted] = [this.#sum(ADMITTED), this.#sum(COMPLETED), this.#sum(ABORTED)]
    if (locked) this.#unlock()
    return {
      ccu,
      inService,
      waiting,
      streams,
      admitted,
      completed,
      aborted,
      skew: admitted - completed - aborted - ccu,
    }
  }

  tier(tier: number): TierPlaces {
    const words = this.#words
    return {
      ccu: Atomics.load(words, T_CCU + tier),
      inService: Atomics.load(words, T_SERVICE + tier),
      waiting: Atomics.load(words, T_WAITING + tier),
    }
  }
}

const NO_LIMITS: PlaceLimits = {
  maxCCU: 0,
  workers: 0,
  maxQueue: 0,
  order: [0],
  guarantees: new Array<number>(MAX_TIERS).fill(0),
}
