/**
 * The interface of all balancers and the way from a name in the config to one. A balancer stands between the breaker
 * and the pool: it chooses an endpoint for one try and changes nothing about it, apart from its own rotation.
 */

import type { Endpoint } from '../endpoint.ts'
import type { BalancerOptions, Exclude } from './candidates.ts'
import { First } from './first.ts'
import { Hash } from './hash.ts'
import { LeastRequest } from './least-request.ts'
import { PeakEwma } from './peak-ewma.ts'
import { RoundRobin } from './round-robin.ts'
import { Slots } from './slots.ts'

export type { BalancerOptions, Exclude } from './candidates.ts'

/** What a pick may know about the request. */
export interface PickContext {
  /** What `hash` hashes, from `compileHashKey`; '' when the request has none: any endpoint will do. */
  readonly hashKey: string
}

export interface Balancer {
  /**
   * The endpoint to try. Undefined when there is none, or only excluded ones.
   * @param exclude the endpoints already tried
   */
  pick(endpoints: readonly Endpoint[], x: PickContext, nowMs: number, exclude?: Exclude): Endpoint | undefined
  /** True when the last pick had no available endpoint to choose from and took a chance. */
  readonly panic: boolean
}

export type BalancerName = 'roundRobin' | 'leastRequest' | 'peakEwma' | 'hash' | 'first' | 'slots'

export interface NamedBalancerOptions extends BalancerOptions {
  /** hash: how far above the average an endpoint may be loaded. Default 1.25. */
  readonly boundedLoad?: number
  /** first: exchanges an endpoint of weight 1 takes before the next one gets any. Default 100. */
  readonly fillTo?: number
}

export function createBalancer(name: BalancerName, options: NamedBalancerOptions = {}): Balancer {
  switch (name) {
    case 'roundRobin':
      return new RoundRobin(options)
    case 'leastRequest':
      return new LeastRequest(options)
    case 'peakEwma':
      return new PeakEwma(options)
    case 'hash':
      return new Hash(options)
    case 'first':
      return new First(options)
    case 'slots':
      return new Slots(options)
  }
}
