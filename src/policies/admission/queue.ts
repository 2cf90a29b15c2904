/**
 * The waiters of one tier in one thread: in the order of arrival, taken from the front or from the back, or in turn
 * between keys, so that nobody can own the queue by asking more often. All operations take the same time however many
 * wait. No clock, no counts: who may be served is decided by the places.
 */

export interface Waiter {
  readonly ticket: number
  readonly tier: number
  readonly sinceMs: number
  /** Waiters of one key are served in order, keys in turn; '' when there are no keys. */
  readonly key: string
  readonly done: (end: WaitEnd) => void
  // Links, owned by the queue.
  before: Waiter | null
  after: Waiter | null
  line: Line | null
  lineBefore: Waiter | null
  lineAfter: Waiter | null
}

/** How a wait ends, apart from the waiter's own leaving. */
export type WaitEnd = 'served' | 'timeout' | 'ousted'

/** The waiters of one key. */
interface Line {
  readonly key: string
  first: Waiter | null
  last: Waiter | null
}

export class WaitQueue {
  size = 0
  #first: Waiter | null = null
  #last: Waiter | null = null
  /** Keys that wait, in the order of their turns; null: without keys. */
  #lines: Map<string, Line> | null = null

  get oldest(): Waiter | null {
    return this.#first
  }

  get newest(): Waiter | null {
    return this.#last
  }

  push(waiter: Waiter): void {
    this.size++
    waiter.before = this.#last
    if (this.#last === null) this.#first = waiter
    else this.#last.after = waiter
    this.#last = waiter
    if (waiter.key === '') return
    this.#lines ??= new Map()
    let line = this.#lines.get(waiter.key)
    if (line === undefined) this.#lines.set(waiter.key, (line = { key: waiter.key, first: null, last: null }))
    waiter.line = line
    waiter.lineBefore = line.last
    if (line.last === null) line.first = waiter
    else line.last.lineAfter = waiter
    line.last = waiter
  }

  /**
   * The tickets of those who are served next, in order, as many as `into` takes; returns how many. Between keys it is the
   * first of each. Tickets of what is taken from the back count down, so that the lowest is always the next.
   */
  readNext(newestFirst: boolean, into: Float64Array): number {
    let n = 0
    if (this.#lines !== null && this.#lines.size > 1) {
      for (const { first, last } of this.#lines.values()) {
        if (n === into.length) break
        into[n++] = newestFirst ? -last!.ticket : first!.ticket
      }
      return n
    }
    let waiter = newestFirst ? this.#last : this.#first
    for (; waiter !== null && n < into.length; waiter = newestFirst ? waiter.before : waiter.after) {
      into[n++] = newestFirst ? -waiter.ticket : waiter.ticket
    }
    return n
  }

  /** Who is served next; stays in the queue. */
  peek(newestFirst: boolean): Waiter | null {
    if (this.#lines !== null && this.#lines.size > 1) {
      for (const line of this.#lines.values()) return newestFirst ? line.last : line.first
    }
    return newestFirst ? this.#last : this.#first
  }

  /** Who is served next, taken out; its key goes to the end of the turns. */
  take(newestFirst: boolean): Waiter | null {
    const waiter = this.peek(newestFirst)
    if (waiter === null) return null
    const { line } = waiter
    this.remove(waiter)
    if (line !== null && line.first !== null) {
      this.#lines!.delete(line.key)
      this.#lines!.set(line.key, line)
    }
    return waiter
  }

  /** Who gives way first: the one that would wait longest. */
  last(newestFirst: boolean): Waiter | null {
    return newestFirst ? this.#first : this.#last
  }

  remove(waiter: Waiter): void {
    this.size--
    if (waiter.before === null) this.#first = waiter.after
    else waiter.before.after = waiter.after
    if (waiter.after === null) this.#last = waiter.before
    else waiter.after.before = waiter.before
    waiter.before = waiter.after = null
    const { line } = waiter
    if (line === null) return
    if (waiter.lineBefore === null) line.first = waiter.lineAfter
    else waiter.lineBefore.lineAfter = waiter.lineAfter
    if (waiter.lineAfter === null) line.last = waiter.lineBefore
    else waiter.lineAfter.lineBefore = waiter.lineBefore
    waiter.line = waiter.lineBefore = waiter.lineAfter = null
    if (line.first === null) this.#lines!.delete(line.key)
  }
}
