/**
 * `balance: first`: fills one endpoint up to `fillTo` × weight before the next one gets any, in the order of the config.
 * Keeps few endpoints warm and lets an autoscaler remove the idle ones. When all are full, the least loaded of two.
 */

import type { Endpoint } from '../endpoint.ts'
import type { PickContext } from './balancer.ts'
import { CandidateBalancer } from './candidate-balancer.ts'
import type { BalancerOptions, Exclude } from './candidates.ts'
import { load, pickCheaper } from './two-choices.ts'

export interface FirstOptions extends BalancerOptions {
  readonly fillTo?: number
}

export class First extends CandidateBalancer {
  readonly #fillTo: number

  constructor(options: FirstOptions) {
    super(options)
    this.#fillTo = options.fillTo ?? 100
  }

  pick(endpoints: readonly Endpoint[], _x: PickContext, nowMs: number, exclude?: Exclude): Endpoint | undefined {
    const candidates = this.candidates
    const count = candidates.fill(endpoints, nowMs, exclude)
    for (let i = 0; i < count; i++) {
      const endpoint = candidates.list[i]!
      if (endpoint.inFlight < Math.max(1, this.#fillTo * candidates.weights[i]!)) return endpoint
    }
    return pickCheaper(candidates, load, nowMs, this.random)
  }
}
