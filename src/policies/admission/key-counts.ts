/**
 * How many exchanges each key has in flight, exact over all threads: `admission.perKey`. A fixed table in shared memory;
 * a key takes a cell while it has somebody inside and none otherwise, so memory is bounded by the table and nothing expires.
 * A key whose eight cells all belong to others is not counted (nor limited): the table is twice as large as `maxKeys` asks
 * for, which makes that rare. Two keys with the same 64 bits would share a count; the seeds are random in each process.
 */

import { randomFillSync } from 'node:crypto'
import { lock, seize, unlock } from '../../shared/word-lock.ts'

const WAYS = 8
const LOCK = 0
const SEED_A = 1
const SEED_B = 2
const HEADER = 16
/** Words of a cell before the counts by thread. */
const HASHES = 2

/** The key has all it may have. */
export const KEY_FULL = -1
/** There is no cell for the key: it is let through. */
export const KEY_UNCOUNTED = -2

export function createKeyCountsMemory(maxKeys: number, threads: number): SharedArrayBuffer {
  let cells = WAYS
  while (cells < maxKeys * 2) cells *= 2
  const memory = new SharedArrayBuffer((HEADER + cells * (HASHES + threads)) * 4)
  randomFillSync(new Int32Array(memory, SEED_A * 4, 2))
  return memory
}

export class KeyCounts {
  readonly seedA: number
  readonly seedB: number
  readonly #words: Int32Array
  readonly #threads: number
  readonly #thread: number
  readonly #stride: number
  readonly #setMask: number

  /** @param thread −1: the supervisor, which only reclaims */
  constructor(memory: SharedArrayBuffer, threads: number, thread: number) {
    this.#words = new Int32Array(memory)
    this.#threads = threads
    this.#thread = thread
    this.#stride = HASHES + threads
    this.#setMask = (this.#words.length - HEADER) / this.#stride / WAYS - 1
    this.seedA = this.#words[SEED_A]!
    this.seedB = this.#words[SEED_B]!
  }

  /** A cell that is owed one `release()`, or KEY_FULL, or KEY_UNCOUNTED. */
  take(hashA: number, hashB: number, max: number): number {
    const words = this.#words
    lock(words, LOCK, this.#thread + 2)
    const first = HEADER + (hashB & this.#setMask) * WAYS * this.#stride
    let free = -1
    let result = KEY_UNCOUNTED
    for (let way = 0; way < WAYS; way++) {
      const cell = first + way * this.#stride
      const count = this.#count(cell)
      if (count === 0) {
        if (free < 0) free = cell
      } else if (words[cell] === hashA && words[cell + 1] === hashB) {
        result = count < max ? cell : KEY_FULL
        free = -1
        break
      }
    }
    if (free >= 0) {
      words[free] = hashA
      words[free + 1] = hashB
      result = free
    }
    if (result >= 0) words[result + HASHES + this.#thread]!++
    unlock(words, LOCK)
    return result
  }

  release(cell: number): void {
    const words = this.#words
    lock(words, LOCK, this.#thread + 2)
    words[cell + HASHES + this.#thread]!--
    unlock(words, LOCK)
  }

  /** A thread has died: its exchanges are no more. For the supervisor. */
  reclaim(thread: number): void {
    const words = this.#words
    seize(words, LOCK, this.#thread + 2, thread + 2)
    for (let cell = HEADER; cell < words.length; cell += this.#stride) words[cell + HASHES + thread] = 0
    unlock(words, LOCK)
  }

  #count(cell: number): number {
    let count = 0
    for (let t = 0; t < this.#threads; t++) count += this.#words[cell + HASHES + t]!
    return count
  }
}
