/**
 * When each request is due. A schedule is fixed before the run and never looks at answers: a slow service gets the same
 * load as a quick one (an open loop), and latency is counted from these times, so that no stall hides what would have
 * been asked meanwhile (no coordinated omission).
 *
 * A run over several threads is cut into parts: part p of n. The parts of a schedule add up to the whole.
 */

import { exponential, type Random } from './random.ts'
import type { Shape, Span } from './shape.ts'

export interface Schedule {
  /** When the next start is due, in milliseconds from the beginning; Infinity when there are no more. */
  readonly nextMs: number
  /** Takes that start. Returns the number of its user, -1 when it belongs to none. */
  take(): number
}

export interface Part {
  readonly part: number
  readonly parts: number
  readonly random: Random
}

/** Arrivals at a rate per second: `even` at equal distances, else as a Poisson process, as strangers arrive. */
export class RateSchedule implements Schedule {
  nextMs: number
  readonly #shape: Shape
  readonly #step: number
  readonly #random: Random | null
  #area: number

  constructor(shape: Shape, { part, parts, random, even = false }: Part & { even?: boolean }) {
    this.#shape = shape
    this.#step = parts
    this.#random = even ? null : random
    // Evenly: this part takes every `parts`-th arrival; each stands in the middle of its own unit of area.
    this.#area = even ? part + 0.5 : parts * exponential(random)
    this.nextMs = shape.timeOfArea(this.#area)
  }

  take(): number {
    this.#area += this.#random === null ? this.#step : this.#step * exponential(this.#random)
    this.nextMs = this.#shape.timeOfArea(this.#area)
    return -1
  }
}

/**
 * Users who each ask, think, and ask again. User n is there while the level is above n + ½. Think times are uniform
 * between half and one and a half of the mean. A user whose answer has not come asks again all the same, on another
 * connection: users × 1/think is the rate offered, whatever the service does.
 */
export class UserSchedule implements Schedule {
  readonly #thinkMs: number
  readonly #random: Random
  readonly #first: number
  readonly #step: number
  readonly #spans: Span[][] = []
  readonly #spanIndex: Uint32Array
  /** When each user asks next. */
  readonly #due: Float64Array
  /** A binary heap of users by due time. Users never leave it: one with nothing left to do is due at infinity. */
  readonly #heap: Uint32Array

  constructor(shape: Shape, { part, parts, random, thinkMs }: Part & { thinkMs: number }) {
    this.#thinkMs = thinkMs
    this.#random = random
    this.#first = part
    this.#step = parts
    for (let user = part; user + 0.5 < shape.peak; user += parts) this.#spans.push(shape.spansAbove(user + 0.5))
    const users = this.#spans.length
    this.#spanIndex = new Uint32Array(users)
    this.#due = new Float64Array(Math.max(users, 1)).fill(Number.POSITIVE_INFINITY)
    this.#heap = new Uint32Array(Math.max(users, 1))
    for (let i = 0; i < users; i++) {
      this.#heap[i] = i
      this.#due[i] = this.#within(i, (this.#spans[i]![0]?.fromMs ?? Number.POSITIVE_INFINITY) + random() * thinkMs)
    }
    for (let i = (users >> 1) - 1; i >= 0; i--) this.#siftDown(i)
  }

  get nextMs(): number {
    return this.#due[this.#heap[0]!]!
  }

  take(): number {
    const index = this.#heap[0]!
    this.#due[index] = this.#within(index, this.#due[index]! + this.#thinkMs * (0.5 + this.#random()))
    this.#siftDown(0)
    return this.#first + index * this.#step
  }

  /** `dueMs` when the user is there by then, else a moment early in its next stay, else Infinity. */
  #within(index: number, dueMs: number): number {
    const spans = this.#spans[index]!
    let span = spans[this.#spanIndex[index]!]
    if (span === undefined) return Number.POSITIVE_INFINITY
    if (dueMs < span.toMs) return dueMs
    while ((span = spans[++this.#spanIndex[index]!]) !== undefined) {
      const startMs = span.fromMs + this.#random() * this.#thinkMs
      if (startMs < span.toMs) return startMs
    }
    return Number.POSITIVE_INFINITY
  }

  #siftDown(start: number): void {
    const heap = this.#heap
    const due = this.#due
    const moving = heap[start]!
    const key = due[moving]!
    let at = start
    for (;;) {
      let child = 2 * at + 1
      if (child >= heap.length) break
      if (child + 1 < heap.length && due[heap[child + 1]!]! < due[heap[child]!]!) child++
      if (due[heap[child]!]! >= key) break
      heap[at] = heap[child]!
      at = child
    }
    heap[at] = moving
  }
}
