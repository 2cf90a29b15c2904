/**
 * Results of token checks that need not be made again. A mechanism: it knows digests and times, not tokens. Owned by the
 * key sets, so that a reload forgets no token.
 *
 * Keys are SHA-256 digests, not the tokens: looking a 600-byte token up in a `Map` costs V8 as much for hashing the
 * string (1.1 µs against 1.2 µs for `crypto.hash` and the look-up, Node 24), keeps the whole request head alive that
 * the token was sliced from, and compares secrets byte by byte. A digest is short, safe to compare, and evenly spread.
 */

interface Entry<V> {
  readonly value: V
  /** Wall clock, milliseconds. */
  readonly untilMs: number
  readonly weight: number
}

/**
 * Bounded by entries and by weight, in two generations: a full young one becomes the old one, and what is not asked for
 * during a generation is gone with it. Close to LRU without moving anything on the usual hit.
 */
export class TokenCache<V> {
  readonly #maxEntries: number
  readonly #maxWeight: number
  #young = new Map<string, Entry<V>>()
  #old = new Map<string, Entry<V>>()
  #youngWeight = 0
  #version = -1
  /** Look-ups since the start. */
  hits = 0
  misses = 0

  /** @param maxWeight in the unit that `set` is told, bytes as a rule */
  constructor(maxEntries: number, maxWeight: number) {
    this.#maxEntries = Math.max(1, maxEntries >> 1)
    this.#maxWeight = Math.max(1, maxWeight / 2)
  }

  /** Drops everything when the keys are not those that the entries were verified with. */
  keep(keyVersion: number): void {
    if (keyVersion === this.#version) return
    this.#version = keyVersion
    this.clear()
  }

  /** Undefined when unknown. The caller compares `untilMs`: an entry past its end needs no new check to be refused. */
  get(digest: string): Entry<V> | undefined {
    const young = this.#young.get(digest)
    if (young !== undefined) {
      this.hits++
      return young
    }
    const old = this.#old.get(digest)
    if (old !== undefined) {
      this.hits++
      this.#old.delete(digest)
      this.#put(digest, old)
    } else this.misses++
    return old
  }

  set(digest: string, value: V, untilMs: number, weight: number): void {
    if (weight > this.#maxWeight) return
    this.#put(digest, { value, untilMs, weight })
  }

  delete(digest: string): void {
    this.#young.delete(digest)
    this.#old.delete(digest)
  }

  #put(digest: string, entry: Entry<V>): void {
    if (this.#young.size >= this.#maxEntries || this.#youngWeight + entry.weight > this.#maxWeight) {
      this.#old = this.#young
      this.#young = new Map()
      this.#youngWeight = 0
    }
    this.#young.set(digest, entry)
    this.#youngWeight += entry.weight
  }

  clear(): void {
    this.#young = new Map()
    this.#old = new Map()
    this.#youngWeight = 0
  }

  get size(): number {
    return this.#young.size + this.#old.size
  }

  get weight(): number {
    let weight = 0
    for (const entry of this.#young.values()) weight += entry.weight
    for (const entry of this.#old.values()) weight += entry.weight
    return weight
  }
}
