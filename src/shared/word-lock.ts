/**
 * A lock that is one word of shared memory, for transactions of a microsecond over a few numbers. Not fair, not
 * re-entrant. The word names its owner, so that what a dead thread has left locked can be taken over.
 */

const CONTENDED = 0x10000
const SPINS = 2000
const WAIT_MS = 5

/**
 * Takes the lock. @param owner 1 to 65535, of one thread alone
 * @param mostWaits of 5 ms each; false when they were not enough
 */
export function lock(
  words: Int32Array,
  at: number,
  owner: number,
  mostWaits: number = Number.POSITIVE_INFINITY,
): boolean {
  return Atomics.compareExchange(words, at, 0, owner) === 0 || contend(words, at, owner, mostWaits)
}

/** Apart from `lock`, which is so small that it is inlined. */
function contend(words: Int32Array, at: number, owner: number, mostWaits: number): boolean {
  for (let i = 0; i < SPINS; i++) {
    if (Atomics.load(words, at) === 0 && Atomics.compareExchange(words, at, 0, owner) === 0) return true
  }
  for (let waits = 0; waits < mostWaits; ) {
    const holder = Atomics.load(words, at)
    if (holder === 0) {
      // Others may wait besides: whoever unlocks next must wake one.
      if (Atomics.compareExchange(words, at, 0, owner | CONTENDED) === 0) return true
      continue
    }
    const marked = holder | CONTENDED
    if (holder !== marked && Atomics.compareExchange(words, at, holder, marked) !== holder) continue
    Atomics.wait(words, at, marked, WAIT_MS)
    waits++
  }
  return false
}

export function unlock(words: Int32Array, at: number): void {
  if ((Atomics.exchange(words, at, 0) & CONTENDED) !== 0) Atomics.notify(words, at, 1)
}

/** Takes the lock, also out of the hands of a thread that has ended. */
export function seize(words: Int32Array, at: number, owner: number, dead: number): void {
  for (;;) {
    const holder = Atomics.load(words, at)
    if ((holder & ~CONTENDED) === dead) {
      if (Atomics.compareExchange(words, at, holder, owner | CONTENDED) === holder) return
    } else if (lock(words, at, owner, 20)) return
  }
}
