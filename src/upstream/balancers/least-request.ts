/** `balance: leastRequest`, the default: the less loaded of two random endpoints, by (in flight + 1) / weight. */

import type { Endpoint } from '../endpoint.ts'
import type { Balancer, PickContext } from './balancer.ts'
import { type BalancerOptions, Candidates, type Exclude } from './candidates.ts'
import { pickCheaper } from './two-choices.ts'

export class LeastRequest implements Balancer {
  readonly #candidates: Candidates
  readonly #random: () => number

  constructor(options: BalancerOptions) {
    this.#candidates = new Candidates(options)
    this.#random = options.random ?? Math.random
  }

  get panic(): boolean {
    return this.#candidates.panic
  }

  pick(endpoints: readonly Endpoint[], _x: PickContext, nowMs: number, exclude?: Exclude): Endpoint | undefined {
    this.#candidates.fill(endpoints, nowMs, exclude)
    return pickCheaper(this.#candidates, load, nowMs, this.#random)
  }
}

function load(endpoint: Endpoint, extra: number): number {
  return endpoint.inFlight + extra
}
