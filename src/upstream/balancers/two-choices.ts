/**
 * Power of two choices, the core of leastRequest, peakEwma and slots: two endpoints at random, the cheaper one wins.
 * Always taking the cheapest of all would send every thread and every gateway to the same endpoint at once.
 *
 * With unequal weights two uniform draws would starve or flood the light ones. There, all are compared, and each has
 * load + E instead of load + 1, with E exponential of mean 1: the smallest of E/weight falls on each with exactly
 * weight/Σweight, so an idle upstream shares by weight and a busy one by load, without a step between the two.
 */

import type { Endpoint } from '../endpoint.ts'
import type { Candidates } from './candidates.ts'

/** What one more exchange costs there. @param load requests in flight, plus one (or its random stand-in) */
export type Cost = (endpoint: Endpoint, extra: number, nowMs: number) => number

/** What `leastRequest` goes by, and who has nothing better. */
export function load(endpoint: Endpoint, extra: number): number {
  return endpoint.inFlight + extra
}

export function pickCheaper(
  candidates: Candidates,
  cost: Cost,
  nowMs: number,
  random: () => number,
): Endpoint | undefined {
  const { list, count, weights } = candidates
  if (count <= 1) return count === 1 ? list[0] : undefined
  if (candidates.uniform) {
    const i = Math.floor(random() * count)
    let k = Math.floor(random() * (count - 1))
    if (k >= i) k++
    const a = list[i]!
    const b = list[k]!
    return cost(b, 1, nowMs) < cost(a, 1, nowMs) ? b : a
  }
  let best = list[0]!
  let bestCost = Infinity
  for (let i = 0; i < count; i++) {
    const total = cost(list[i]!, -Math.log(1 - random()), nowMs) / weights[i]!
    if (total < bestCost) {
      bestCost = total
      best = list[i]!
    }
  }
  return best
}
