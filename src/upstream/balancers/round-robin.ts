/**
 * `balance: roundRobin`, smooth and weighted as in nginx: everyone gains its weight, the richest is picked and pays the
 * sum. Weights 5, 1, 1 give a a b a c a a, never five a in a row.
 */

import type { Endpoint } from '../endpoint.ts'
import type { PickContext } from './balancer.ts'
import { CandidateBalancer } from './candidate-balancer.ts'
import type { BalancerOptions, Exclude } from './candidates.ts'

export class RoundRobin extends CandidateBalancer {
  /** Ties begin at a random endpoint, or all threads and gateways would start with the first one. */
  readonly #offset: number

  constructor(options: BalancerOptions) {
    super(options)
    this.#offset = Math.floor(this.random() * 0x10000)
  }

  pick(endpoints: readonly Endpoint[], _x: PickContext, nowMs: number, exclude?: Exclude): Endpoint | undefined {
    const candidates = this.candidates
    const count = candidates.fill(endpoints, nowMs, exclude)
    if (count <= 1) return count === 1 ? candidates.list[0] : undefined
    let best: Endpoint | undefined
    let i = this.#offset % count
    for (let n = 0; n < count; n++) {
      const endpoint = candidates.list[i]!
      endpoint.roundRobin += candidates.weights[i]!
      if (best === undefined || endpoint.roundRobin > best.roundRobin) best = endpoint
      if (++i === count) i = 0
    }
    best!.roundRobin -= candidates.totalWeight
    return best
  }
}
