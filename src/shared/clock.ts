/**
 * A thread's time. `nowMs()` is exact; `coarseMs` is what the last tick read, for deadlines that are checked by ticks
 * anyway. One ticker a thread calls everything that has deadlines: no exchange and no connection has a timer of its own.
 */

export const TICK_MS = 50

/** A wall clock that moves by less is being slewed, or read in whole milliseconds. */
const SET_MS = 1000
let originMs = performance.timeOrigin

/**
 * What added to `performance.now()` gives the time of day. `performance.timeOrigin` alone never hears of a clock that was set
 * later, as happens to machines that start before they know the time.
 */
export function wallOriginMs(nowMs = performance.now(), wallMs = Date.now()): number {
  if (Math.abs(wallMs - nowMs - originMs) > SET_MS) originMs = wallMs - nowMs
  return originMs
}

export interface Ticking {
  tick(nowMs: number): void
}

export class Clock {
  coarseMs = performance.now()
  readonly #ticking = new Set<Ticking>()
  #timer: NodeJS.Timeout | undefined

  nowMs(): number {
    return performance.now()
  }

  start(): void {
    this.#timer ??= setInterval(() => {
      const nowMs = (this.coarseMs = performance.now())
      for (const each of this.#ticking) each.tick(nowMs)
    }, TICK_MS)
  }

  stop(): void {
    clearInterval(this.#timer)
    this.#timer = undefined
  }

  add(ticking: Ticking): void {
    this.#ticking.add(ticking)
  }

  delete(ticking: Ticking): void {
    this.#ticking.delete(ticking)
  }
}
