/**
 * `balance: slots`: between a gateway tier and gateways beside the services. Each of those says in `fluxor-slots` how
 * many places its admission has free, and the more of them wins out of two random endpoints: what is full is passed
 * over before it has to refuse. The report is corrected by what this side sent and saw end since; an old one is no longer
 * believed, so that a full endpoint is asked again.
 *
 * In the life of a try: `takeSlot` when it is sent, `reportSlots` at the answer's head, `returnSlot` when it ends.
 */

import type { Endpoint } from '../endpoint.ts'
import type { PickContext } from './balancer.ts'
import { CandidateBalancer } from './candidate-balancer.ts'
import type { Exclude } from './candidates.ts'

/** A report is believed this long. */
const FRESH_MS = 2_000
/** Places taken for free where nothing was reported: enough to be asked, not enough to be flooded. */
const UNKNOWN_FREE = 16

export class Slots extends CandidateBalancer {
  pick(endpoints: readonly Endpoint[], _x: PickContext, nowMs: number, exclude?: Exclude): Endpoint | undefined {
    const candidates = this.candidates
    const count = candidates.fill(endpoints, nowMs, exclude)
    const { list, weights } = candidates
    if (count <= 1) return count === 1 ? list[0] : undefined
    if (candidates.uniform) {
      const i = Math.floor(this.random() * count)
      let k = Math.floor(this.random() * (count - 1))
      if (k >= i) k++
      const a = freeSlots(list[i]!, nowMs)
      const b = freeSlots(list[k]!, nowMs)
      if (a > 0 || b > 0) return b > a ? list[k] : list[i]
    } else {
      // By lot, with free × weight chances each: two draws out of unequal weights would starve the light ones.
      let total = 0
      for (let n = 0; n < count; n++) total += Math.max(0, freeSlots(list[n]!, nowMs)) * weights[n]!
      let lot = this.random() * total
      for (let n = 0; n < count && total > 0; n++) {
        const chances = Math.max(0, freeSlots(list[n]!, nowMs)) * weights[n]!
        if (chances > 0 && lot < chances) return list[n]
        lot -= chances
      }
    }
    // Is anybody not full? If not, the one that lacks the least; it will answer for itself.
    let best = list[0]!
    let bestFree = -Infinity
    for (let n = 0; n < count; n++) {
      const free = freeSlots(list[n]!, nowMs)
      if (free > bestFree) {
        bestFree = free
        best = list[n]!
      }
    }
    return best
  }
}

/** Places that are free as far as this side knows; may be negative when more was sent than was free. */
export function freeSlots(endpoint: Endpoint, nowMs: number): number {
  const { inFlight, slotsCap } = endpoint
  if (nowMs - endpoint.slotsAtMs > FRESH_MS) return (slotsCap < 0 ? UNKNOWN_FREE : slotsCap) - inFlight
  return slotsCap < 0 ? endpoint.freeSlots : slotsCap - endpoint.slotsOthers - inFlight
}

export function takeSlot(endpoint: Endpoint): void {
  endpoint.freeSlots--
}

export function returnSlot(endpoint: Endpoint): void {
  endpoint.freeSlots++
}

/**
 * With a `cap`, what others took is the rest: what is on its way there counts as taken, which the endpoint, when it
 * reported, could not know of. @param cap -1: not told @param inside of those in flight here, how many have a place there
 */
export function reportSlots(endpoint: Endpoint, free: number, nowMs: number, cap = -1, inside = 0): void {
  endpoint.freeSlots = free
  endpoint.slotsAtMs = nowMs
  endpoint.slotsCap = cap
  endpoint.slotsOthers = cap < 0 ? 0 : Math.max(0, cap - free - inside)
}

/** `free` of a `fluxor-slots: free=37;cap=100` field; -1 when it is not well-formed. */
export function parseSlots(field: string): number {
  const match = /(?:^|[;,\s])free=(\d{1,9})(?:[;,\s]|$)/.exec(field)
  return match === null ? -1 : Number(match[1])
}

/** `cap` of the same field; -1 when it is not there. */
export function parseSlotsCap(field: string): number {
  const match = /(?:^|[;,\s])cap=(\d{1,9})(?:[;,\s]|$)/.exec(field)
  return match === null ? -1 : Number(match[1])
}
