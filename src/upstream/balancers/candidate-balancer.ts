/** What all balancers hold: the candidates of the pick, and a source of chance. */

import type { Endpoint } from '../endpoint.ts'
import type { Balancer, PickContext } from './balancer.ts'
import { type BalancerOptions, Candidates, type Exclude } from './candidates.ts'

export abstract class CandidateBalancer implements Balancer {
  protected readonly candidates: Candidates
  protected readonly random: () => number

  constructor(options: BalancerOptions) {
    this.candidates = new Candidates(options)
    this.random = options.random ?? Math.random
  }

  get panic(): boolean {
    return this.candidates.panic
  }

  abstract pick(endpoints: readonly Endpoint[], x: PickContext, nowMs: number, exclude?: Exclude): Endpoint | undefined
}
