/**
 * How often something happened lately: counts of several kinds over a window that slides by tenths. Circuit breaker and
 * retry budget judge by them. Pure: time is passed in.
 */

const BUCKETS = 10

export class SlidingCounts {
  readonly #kinds: number
  readonly #bucketMs: number
  /** One bucket after the other, each with a count of every kind. */
  readonly #counts: Int32Array
  readonly #sums: Float64Array
  /** Number of the newest bucket, counted from the clock's zero. */
  #tick = -1
  /** Where the newest bucket starts. */
  #at = 0

  /** @param kinds are numbered from 0 */
  constructor(kinds: number, windowMs: number) {
    this.#kinds = kinds
    this.#bucketMs = Math.max(1, windowMs / BUCKETS)
    this.#counts = new Int32Array(BUCKETS * kinds)
    this.#sums = new Float64Array(kinds)
  }

  /** Moves the window: forgets what left it. What is added and asked from here on is at this time. */
  advance(nowMs: number): void {
    const tick = Math.floor(nowMs / this.#bucketMs)
    const steps = tick - this.#tick
    if (steps <= 0) return
    for (let k = Math.min(steps, BUCKETS); k > 0; k--) {
      const bucket = ((tick - k + 1) % BUCKETS) * this.#kinds
      for (let kind = 0; kind < this.#kinds; kind++) {
        this.#sums[kind]! -= this.#counts[bucket + kind]!
        this.#counts[bucket + kind] = 0
      }
    }
    this.#tick = tick
    this.#at = (tick % BUCKETS) * this.#kinds
  }

  add(kind: number): void {
    this.#counts[this.#at + kind]!++
    this.#sums[kind]!++
  }

  sum(kind: number): number {
    return this.#sums[kind]!
  }

  clear(): void {
    this.#counts.fill(0)
    this.#sums.fill(0)
  }
}
