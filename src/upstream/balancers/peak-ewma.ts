/** `balance: peakEwma`: the quicker of two random endpoints, by latency estimate × (in flight + 1) / weight. */

import type { Endpoint } from '../endpoint.ts'
import { ewmaAt, isStale } from '../latency.ts'
import type { PickContext } from './balancer.ts'
import { CandidateBalancer } from './candidate-balancer.ts'
import type { Exclude } from './candidates.ts'
import { pickCheaper } from './two-choices.ts'

/** Below this, differences are noise of the clock and the loop: the load alone decides. */
const FLOOR_MS = 0.1

export class PeakEwma extends CandidateBalancer {
  pick(endpoints: readonly Endpoint[], _x: PickContext, nowMs: number, exclude?: Exclude): Endpoint | undefined {
    this.candidates.fill(endpoints, nowMs, exclude)
    return pickCheaper(this.candidates, latencyCost, nowMs, this.random)
  }
}

function latencyCost(endpoint: Endpoint, extra: number, nowMs: number): number {
  if (endpoint.inFlight === 0 && isStale(endpoint, nowMs)) return 0
  return Math.max(ewmaAt(endpoint, nowMs), FLOOR_MS) * (endpoint.inFlight + extra)
}
