/**
 * Random numbers that can be repeated: a schedule with the same seed is the same schedule, so that two runs differ in
 * what the service did and in nothing else.
 */

/** Uniform in [0, 1). */
export type Random = () => number

/** Mulberry32: 32 bits of state, far more than good enough to spread arrivals. */
export function createRandom(seed: number): Random {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
  }
}

/** Exponential with mean 1: the gap between two arrivals that know nothing of each other. */
export const exponential = (random: Random): number => -Math.log(1 - random())
