/** `balance: leastRequest`, the default: the less loaded of two random endpoints, by (in flight + 1) / weight. */

import type { Endpoint } from '../endpoint.ts'
import type { PickContext } from './balancer.ts'
import { CandidateBalancer } from './candidate-balancer.ts'
import type { Exclude } from './candidates.ts'
import { load, pickCheaper } from './two-choices.ts'

export class LeastRequest extends CandidateBalancer {
  pick(endpoints: readonly Endpoint[], _x: PickContext, nowMs: number, exclude?: Exclude): Endpoint | undefined {
    this.candidates.fill(endpoints, nowMs, exclude)
    return pickCheaper(this.candidates, load, nowMs, this.random)
  }
}
