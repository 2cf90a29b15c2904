/**
 * The count behind admission: how many exchanges hold a place in one scope (the gateway, or a route), exact over all
 * threads. Lives in a SharedArrayBuffer; each change is one atomic operation. No HTTP, no config, no clock.
 *
 * CCU = in service + waiting. `enter` takes a place under the cap, `startService` one of the workers' places; who cannot
 * start waits in its thread's queue. A place that falls free goes to the waiter who came first on any thread: each thread
 * publishes the ticket of its first waiter, the thread that frees a place grants it to the lowest ticket and wakes it.
 */

const CCU = 0
const IN_SERVICE = 1
const WAITING = 2
const NEXT_TICKET = 3
const HEADER = 16

/** Per thread, 64 bytes apart so that threads do not share a cache line. */
const HELD = 0
const HELD_SERVICE = 1
const GRANTS = 2
const HELD_WAITING = 3
const FIRST_TICKET = 4
const STRIDE = 16

/** Ledger, doubles, per thread. */
const ADMITTED = 0
const COMPLETED = 1
const ABORTED = 2
const LEDGER_STRIDE = 8

const NO_TICKET = 0x7fffffff

export interface PlacesFigures {
  readonly ccu: number
  readonly inService: number
  readonly waiting: number
  readonly admitted: number
  readonly completed: number
  readonly aborted: number
  /** admitted − completed − aborted − ccu; 0 whenever nothing is in between. */
  readonly skew: number
}

export function placesBytes(threads: number): number {
  return HEADER * 4 + threads * STRIDE * 4 + threads * LEDGER_STRIDE * 8
}

export function createPlacesMemory(threads: number): SharedArrayBuffer {
  const memory = new SharedArrayBuffer(placesBytes(threads))
  const words = new Int32Array(memory, 0, HEADER + threads * STRIDE)
  for (let t = 0; t < threads; t++) words[HEADER + t * STRIDE + FIRST_TICKET] = NO_TICKET
  return memory
}

export class Places {
  readonly #words: Int32Array
  readonly #ledger: Float64Array
  readonly #threads: number
  readonly #own: number
  readonly #ownLedger: number
  /** Called when a place was granted to this thread while it is being served by this very thread. */
  onGrant: () => void = () => {}

  constructor(memory: SharedArrayBuffer, threads: number, thread: number) {
    const length = HEADER + threads * STRIDE
    this.#words = new Int32Array(memory, 0, length)
    this.#ledger = new Float64Array(memory, length * 4, threads * LEDGER_STRIDE)
    this.#threads = threads
    this.#own = HEADER + thread * STRIDE
    this.#ownLedger = thread * LEDGER_STRIDE
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

  /** True when a place under the cap was taken; it is owed exactly one `leave()`. */
  enter(max: number): boolean {
    if (!this.#take(CCU, max)) return false
    Atomics.add(this.#words, this.#own + HELD, 1)
    this.#ledger[this.#ownLedger + ADMITTED]!++
    return true
  }

  leave(completed: boolean): void {
    this.#ledger[this.#ownLedger + (completed ? COMPLETED : ABORTED)]!++
    Atomics.sub(this.#words, this.#own + HELD, 1)
    Atomics.sub(this.#words, CCU, 1)
  }

  /** Takes `enter()` back: the exchange was refused after all, by a cap inside this one. */
  undoEnter(): void {
    this.#ledger[this.#ownLedger + ADMITTED]!--
    Atomics.sub(this.#words, this.#own + HELD, 1)
    Atomics.sub(this.#words, CCU, 1)
  }

  /** True when service may begin at once: nobody waits and a worker is free. Owed one `endService()`. */
  startService(workers: number): boolean {
    if (Atomics.load(this.#words, WAITING) > 0 || !this.#take(IN_SERVICE, workers)) return false
    Atomics.add(this.#words, this.#own + HELD_SERVICE, 1)
    return true
  }

  /** Gives the place in service to the first waiter anywhere, or back. */
  endService(workers: number): void {
    Atomics.sub(this.#words, this.#own + HELD_SERVICE, 1)
    Atomics.sub(this.#words, IN_SERVICE, 1)
    this.pump(workers)
  }

  /** False when the queue is full. The new waiter's ticket is returned by `ticket()`. */
  startWaiting(maxQueue: number): boolean {
    if (!this.#take(WAITING, maxQueue)) return false
    Atomics.add(this.#words, this.#own + HELD_WAITING, 1)
    return true
  }

  /** The waiter got its place, or left. */
  endWaiting(): void {
    Atomics.sub(this.#words, this.#own + HELD_WAITING, 1)
    Atomics.sub(this.#words, WAITING, 1)
  }

  ticket(): number {
    return Atomics.add(this.#words, NEXT_TICKET, 1) & 0x3fffffff
  }

  /** Publishes the ticket of this thread's first waiter. */
  publish(ticket: number | undefined): void {
    Atomics.store(this.#words, this.#own + FIRST_TICKET, ticket ?? NO_TICKET)
  }

  /** Grants free places to waiters. Called whenever a place fell free or a waiter has come. */
  pump(workers: number): void {
    const words = this.#words
    while (Atomics.load(words, WAITING) > 0 && this.#take(IN_SERVICE, workers)) {
      const target = this.#firstWaitingThread()
      if (target < 0) {
        Atomics.sub(words, IN_SERVICE, 1)
        // A waiter between being counted and being published pumps for itself.
        return
      }
      Atomics.add(words, target + HELD_SERVICE, 1)
      if (target === this.#own) this.onGrant()
      else {
        // Not to be granted again before its thread has run.
        Atomics.store(words, target + FIRST_TICKET, NO_TICKET)
        Atomics.add(words, target + GRANTS, 1)
        Atomics.notify(words, target + GRANTS)
      }
    }
  }

  #firstWaitingThread(): number {
    let best = -1
    let lowest = NO_TICKET
    for (let t = 0; t < this.#threads; t++) {
      const at = HEADER + t * STRIDE
      const ticket = Atomics.load(this.#words, at + FIRST_TICKET)
      if (ticket < lowest) {
        lowest = ticket
        best = at
      }
    }
    return best
  }

  /** Grants by other threads, taken. */
  takeGrants(): number {
    return Atomics.exchange(this.#words, this.#own + GRANTS, 0)
  }

  /** Resolves when another thread has granted a place; `undefined` when there are grants already. */
  nextGrant(): Promise<unknown> | undefined {
    const result = Atomics.waitAsync(this.#words, this.#own + GRANTS, 0)
    return result.async ? result.value : undefined
  }

  /** A grant that nobody wanted any more goes on. */
  returnGrant(workers: number): void {
    this.endService(workers)
  }

  #take(word: number, max: number): boolean {
    const words = this.#words
    for (;;) {
      const count = Atomics.load(words, word)
      if (count >= max) return false
      if (Atomics.compareExchange(words, word, count, count + 1) === count) return true
    }
  }

  /** A thread has died: what it held is given back, its exchanges count as aborted. */
  reclaim(thread: number): void {
    const at = HEADER + thread * STRIDE
    const words = this.#words
    Atomics.store(words, at + FIRST_TICKET, NO_TICKET)
    Atomics.store(words, at + GRANTS, 0)
    Atomics.sub(words, WAITING, Atomics.exchange(words, at + HELD_WAITING, 0))
    Atomics.sub(words, IN_SERVICE, Atomics.exchange(words, at + HELD_SERVICE, 0))
    const held = Atomics.exchange(words, at + HELD, 0)
    Atomics.sub(words, CCU, held)
    this.#ledger[thread * LEDGER_STRIDE + ABORTED]! += held
  }

  figures(): PlacesFigures {
    const sum = (column: number) => {
      let total = 0
      for (let t = 0; t < this.#threads; t++) total += this.#ledger[t * LEDGER_STRIDE + column]!
      return total
    }
    const [admitted, completed, aborted] = [sum(ADMITTED), sum(COMPLETED), sum(ABORTED)]
    const { ccu, inService, waiting } = this
    return { ccu, inService, waiting, admitted, completed, aborted, skew: admitted - completed - aborted - ccu }
  }
}
