/**
 * `balance: hash`: the same key goes to the same endpoint, with a bound on its load. Weighted rendezvous hashing: each
 * endpoint draws a number from (key, endpoint), the best draw wins. It needs no table to rebuild when the set changes,
 * and losing an endpoint moves only its own keys. Endpoints above `boundedLoad` times the average are passed over for
 * the key's next choice (consistent hashing with bounded loads), so that one hot key cannot drown one endpoint.
 */

import { type Endpoint, hashText, mix } from '../endpoint.ts'
import type { PickContext } from './balancer.ts'
import type { BalancerOptions, Exclude } from './candidates.ts'
import { LeastRequest } from './least-request.ts'

export interface HashOptions extends BalancerOptions {
  /** Times the average load. Default 1.25; Infinity: no bound. */
  readonly boundedLoad?: number
}

/** A request without a key goes where `leastRequest` sends it. */
export class Hash extends LeastRequest {
  readonly #boundedLoad: number

  constructor(options: HashOptions) {
    super(options)
    this.#boundedLoad = Math.max(1, options.boundedLoad ?? 1.25)
  }

  override pick(
    endpoints: readonly Endpoint[],
    x: PickContext,
    nowMs: number,
    exclude?: Exclude,
  ): Endpoint | undefined {
    if (x.hashKey === '') return super.pick(endpoints, x, nowMs, exclude)
    const { candidates } = this
    const count = candidates.fill(endpoints, nowMs, exclude)
    const { list, weights } = candidates
    if (count <= 1) return count === 1 ? list[0] : undefined
    let inFlight = 1
    for (let i = 0; i < count; i++) inFlight += list[i]!.inFlight
    const boundPerWeight = (this.#boundedLoad * inFlight) / candidates.totalWeight
    const keyHash = hashText(x.hashKey)
    let best: Endpoint | undefined
    let bestDraw = Infinity
    for (let i = 0; i < count; i++) {
      const endpoint = list[i]!
      // At least one below the average exists, so rounding up always leaves somebody.
      if (endpoint.inFlight >= Math.ceil(boundPerWeight * weights[i]!)) continue
      // (draw + 0.5) / 2^32 lies in (0, 1): exponential draws make the share of keys proportional to the weight.
      const draw = -Math.log((mix(keyHash ^ endpoint.hash) + 0.5) / 0x100000000) / weights[i]!
      if (draw < bestDraw) {
        bestDraw = draw
        best = endpoint
      }
    }
    return best
  }
}
