/**
 * Counters of rate limits for all threads of the process: a fixed table in one SharedArrayBuffer. A request finds its
 * key's cell by a 64-bit hash, runs one pure step on it under a lock and leaves: no timer, no allocation, no message
 * between threads. The main thread creates the table once (a reload keeps it) and hands the buffer to each thread.
 *
 * Memory: 32.5 bytes a key, bounded by the capacity whatever arrives; 131 072 keys (4.1 MiB) by default. Pages that
 * no key has touched take no memory. A key may stand in one of the 8 cells of its set. When all 8 hold others, the one
 * whose state is nearest to being worth nothing gives way (`evictions` counts those that still meant something): the
 * evicted key starts anew, with its full allowance. So a table too small lets more through, it never refuses wrongly;
 * a key that is far over its limit is the last to go.
 *
 * Two keys with the same 64 bits would share a counter; the seeds are random in each process, so nobody can aim at that.
 *
 * Exactness: a set is locked by compare-and-swap for the ~100 ns of a step. The lock word names its owner and a ticket. A
 * thread that dies inside leaves its lock behind: `releaseThread` frees it at once, and a waiter that sees the very same
 * word for 100 waits of 1 ms steals it. The count of waits, not a clock, so that a stopped and resumed process steals nothing.
 */

import { randomFillSync } from 'node:crypto'

/** Three numbers of a cell; what they mean is the step's matter. All zero: a key that was never seen. */
export interface CellState {
  /** Milliseconds on the clock of `nowMs`. */
  time: number
  /** Integers below 2^31. */
  a: number
  b: number
}

/** What runs on a cell. Must not throw. Returns when the state will be worth nothing; -1 when it did not change. */
export interface CellRule<Rule, Operation, Out> {
  readonly step: (state: CellState, nowMs: number, rule: Rule, operation: Operation, out: Out) => number
}

export const DEFAULT_LIMITER_CAPACITY = 131_072

const WAYS = 8
/** Int32 words of a set: 8 × (hash a, hash b), then 8 × worthless-from and 8 × time as doubles, then 8 × a, 8 × b. */
const SET_WORDS = 64
const UNTIL = 8
const TIME = 16
const A = 48
const B = 56

const HEADER_WORDS = 16
const H_MAGIC = 0
const H_SETS = 1
const H_SEED_A = 2
const H_SEED_B = 3
const H_EVICTIONS = 4
const H_STOLEN = 5
const MAGIC = 0x464c5831

const SPINS = 400
const WAITS_BEFORE_STEAL = 100
const TICKET_BITS = 19

export class LimiterTable {
  readonly buffer: SharedArrayBuffer
  readonly seedA: number
  readonly seedB: number
  readonly #header: Int32Array
  readonly #locks: Int32Array
  readonly #words: Int32Array
  readonly #doubles: Float64Array
  readonly #mask: number
  readonly #owner: number
  #ticket = 0
  readonly #state: CellState = { time: 0, a: 0, b: 0 }

  /**
   * A view for one thread.
   * @param buffer from `LimiterTable.create().buffer`
   * @param threadId `threadId` of node:worker_threads; below 4095
   */
  constructor(buffer: SharedArrayBuffer, threadId: number) {
    this.buffer = buffer
    this.#header = new Int32Array(buffer, 0, HEADER_WORDS)
    if (this.#header[H_MAGIC] !== MAGIC) throw new Error('not a limiter table')
    const sets = this.#header[H_SETS]!
    this.seedA = this.#header[H_SEED_A]!
    this.seedB = this.#header[H_SEED_B]!
    this.#mask = sets - 1
    this.#locks = new Int32Array(buffer, HEADER_WORDS * 4, sets)
    const cells = dataOffset(sets)
    this.#words = new Int32Array(buffer, cells, sets * SET_WORDS)
    this.#doubles = new Float64Array(buffer, cells, (sets * SET_WORDS) / 2)
    this.#owner = (((threadId + 1) & 0xfff) << TICKET_BITS) | 0
  }

  /** @param capacity keys; rounded up to a power of two, at least 64 */
  static create(capacity: number = DEFAULT_LIMITER_CAPACITY, threadId = 0): LimiterTable {
    let sets = 8
    while (sets * WAYS < capacity) sets *= 2
    const buffer = new SharedArrayBuffer(dataOffset(sets) + sets * SET_WORDS * 4)
    const header = new Int32Array(buffer, 0, HEADER_WORDS)
    header[H_SETS] = sets
    randomFillSync(header.subarray(H_SEED_A, H_SEED_B + 1))
    header[H_MAGIC] = MAGIC
    return new LimiterTable(buffer, threadId)
  }

  get capacity(): number {
    return (this.#mask + 1) * WAYS
  }

  /** Keys that lost a state which still meant something. More than a few: the table is too small. */
  get evictions(): number {
    return Atomics.load(this.#header, H_EVICTIONS)
  }

  /** Locks taken from a thread that held one for 100 ms. */
  get stolenLocks(): number {
    return Atomics.load(this.#header, H_STOLEN)
  }

  /** Runs `rule.step` on the cell of a key, alone among all threads. */
  update<Operation extends number, Out, Rule extends CellRule<Rule, Operation, Out>>(
    hashA: number,
    hashB: number,
    nowMs: number,
    rule: Rule,
    operation: Operation,
    out: Out,
  ): void {
    const words = this.#words
    const doubles = this.#doubles
    const state = this.#state
    if (hashA === 0 && hashB === 0) hashB = 1 // both zero is an empty cell
    const set = hashB & this.#mask
    const base = set * SET_WORDS
    const word = this.#lock(set)

    let way = 0
    while (way < WAYS && (words[base + way] !== hashA || words[base + 8 + way] !== hashB)) way++
    const found = way < WAYS
    const half = base >> 1
    if (found) {
      state.time = doubles[half + TIME + way]!
      state.a = words[base + A + way]!
      state.b = words[base + B + way]!
    } else {
      state.time = 0
      state.a = 0
      state.b = 0
    }

    const until = rule.step(state, nowMs, rule, operation, out)
    if (until >= 0) {
      if (!found) {
        way = 0
        let stalest = Infinity
        for (let i = 0; i < WAYS; i++) {
          const worthless = words[base + i] === 0 && words[base + 8 + i] === 0 ? -1 : doubles[half + UNTIL + i]!
          if (worthless < stalest) {
            stalest = worthless
            way = i
          }
        }
        if (stalest > nowMs) Atomics.add(this.#header, H_EVICTIONS, 1)
      }
      doubles[half + UNTIL + way] = until
      doubles[half + TIME + way] = state.time
      words[base + A + way] = state.a
      words[base + B + way] = state.b
      words[base + way] = hashA
      words[base + 8 + way] = hashB
    }
    Atomics.compareExchange(this.#locks, set, word, 0) // not a plain store: it may have been stolen
  }

  #lock(set: number): number {
    this.#ticket = (this.#ticket + 1) & ((1 << TICKET_BITS) - 1)
    const word = this.#owner | this.#ticket
    const locks = this.#locks
    if (Atomics.compareExchange(locks, set, 0, word) === 0) return word
    return this.#contend(set, word)
  }

  /** Apart from `#lock`, which is so small that it is inlined. */
  #contend(set: number, word: number): number {
    const locks = this.#locks
    for (let i = 0; i < SPINS; i++) {
      if (Atomics.load(locks, set) === 0 && Atomics.compareExchange(locks, set, 0, word) === 0) return word
    }
    let seen = 0
    let waits = 0
    for (;;) {
      const holder = Atomics.compareExchange(locks, set, 0, word)
      if (holder === 0) return word
      if (holder !== seen) {
        seen = holder
        waits = 0
      } else if (waits++ >= WAITS_BEFORE_STEAL) {
        if (Atomics.compareExchange(locks, set, holder, word) === holder) {
          Atomics.add(this.#header, H_STOLEN, 1)
          return word
        }
        continue
      }
      Atomics.wait(locks, set, holder, 1)
    }
  }

  /** Frees what a thread that has ended still holds. For the supervisor, after the thread's exit. */
  releaseThread(threadId: number): void {
    const owner = (threadId + 1) & 0xfff
    const locks = this.#locks
    for (let set = 0; set < locks.length; set++) {
      const word = Atomics.load(locks, set)
      if (word !== 0 && word >>> TICKET_BITS === owner) Atomics.compareExchange(locks, set, word, 0)
    }
  }
}

/** Cells begin on a cache line. */
function dataOffset(sets: number): number {
  return (HEADER_WORDS * 4 + sets * 4 + 63) & ~63
}

/**
 * Two independent 32-bit hashes of a sequence of texts, over UTF-16 code units, with a random start. One object is
 * reused; `from` starts with what another hash ended at, such as the name of a rule.
 */
export class KeyHash {
  a = 0
  b = 0

  from(a: number, b: number): this {
    this.a = a
    this.b = b
    return this
  }

  /** The length goes in too: ("ab", "c") and ("a", "bc") are different keys. */
  add(text: string): this {
    let a = Math.imul(this.a ^ text.length, 0x9e3779b1)
    let b = Math.imul(this.b ^ text.length, 0x85ebca77)
    for (let i = 0; i < text.length; i++) {
      const c = text.charCodeAt(i)
      a = Math.imul((a << 13) | (a >>> 19), 5) + 0x52dce729 + Math.imul(c, 0xcc9e2d51)
      a ^= a >>> 15
      b = Math.imul(b ^ c ^ (b >>> 17), 0xc2b2ae35)
      b = (b << 11) | (b >>> 21)
    }
    a = Math.imul(a ^ (a >>> 16), 0x85ebca6b)
    b = Math.imul(b ^ (b >>> 15), 0x27d4eb2f)
    this.a = a ^ (a >>> 13)
    this.b = b ^ (b >>> 16)
    return this
  }
}

/** The monotonic clock of the machine in milliseconds, minus this thread's `performance.now()`. */
const MONOTONIC_OFFSET_MS = (() => {
  const [seconds, nanoseconds] = process.hrtime()
  return seconds * 1000 + nanoseconds / 1e6 - performance.now()
})()

/**
 * The time base that all threads share, in milliseconds. `performance.timeOrigin + performance.now()` would not do: the
 * origin is the wall clock at each thread's start, and a thread that starts after the clock was set would live in another hour.
 */
export function sharedNowMs(): number {
  return MONOTONIC_OFFSET_MS + performance.now()
}
