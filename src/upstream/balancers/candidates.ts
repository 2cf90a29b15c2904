/**
 * Which endpoints a pick may choose from, and with what weight: the part that all balancers share, run first in every
 * pick. Owns its arrays and refills them each time, so that a pick allocates nothing.
 *
 * The rules, in order: weight 0 and draining endpoints take nothing. Available primaries. Without one, available
 * backups. Without any, panic: a guess at a bad endpoint beats a certain 503, so all take part. With a `panicShare`
 * above 0, fewer available primaries than that share is panic already: the few left would be run over.
 */

import type { Endpoint } from '../endpoint.ts'
import { type SlowStart, slowStartFactor } from '../slow-start.ts'

/** Endpoints a pick must not return: those that a retry has tried. */
export type Exclude = Endpoint | readonly Endpoint[] | null | undefined

export interface BalancerOptions {
  /** Panic when the share of available primaries is below this, 0…1. Default 0: only when nothing is available. */
  readonly panicShare?: number
  readonly slowStart?: SlowStart | undefined
  /** 0 ≤ x < 1. */
  readonly random?: () => number
}

export class Candidates {
  readonly list: Endpoint[] = []
  /** Effective weights, slow start included, by index. */
  weights = new Float64Array(16)
  count = 0
  totalWeight = 0
  /** True when all weights are equal: balancers then compare two instead of all. */
  uniform = true
  /** True when the last fill had to use endpoints that are not available. */
  panic = false
  readonly #panicShare: number
  readonly #slowStart: SlowStart | undefined

  constructor(options: BalancerOptions) {
    this.#panicShare = options.panicShare ?? 0
    this.#slowStart = options.slowStart
  }

  /** Returns how many there are. 0 although an excluded endpoint would do: the caller decides whether to use it again. */
  fill(endpoints: readonly Endpoint[], nowMs: number, exclude: Exclude): number {
    this.#clear()
    this.panic = false
    let primaries = 0
    let available = 0
    let backups = 0
    for (let i = 0; i < endpoints.length; i++) {
      const endpoint = endpoints[i]!
      if (endpoint.backup) {
        if (available === 0 && endpoint.isAvailable(nowMs)) backups++
        continue
      }
      if (endpoint.weight > 0 && !endpoint.draining) primaries++
      if (!endpoint.isAvailable(nowMs)) continue
      available++
      if (!isExcluded(endpoint, exclude)) this.#add(endpoint, nowMs)
    }
    if (available > 0 && available >= primaries * this.#panicShare) {
      // A retry may find its second endpoint among the backups.
      return this.count > 0 ? this.count : this.#addAll(endpoints, nowMs, exclude, true, false)
    }
    if (available === 0 && backups > 0) return this.#addAll(endpoints, nowMs, exclude, true, false)
    this.#clear()
    this.panic = true
    return this.#addAll(endpoints, nowMs, exclude, available === 0, true)
  }

  /** @param any in panic: health does not count, and without a single available endpoint backups stand beside primaries */
  #addAll(endpoints: readonly Endpoint[], nowMs: number, exclude: Exclude, backups: boolean, any: boolean): number {
    for (let i = 0; i < endpoints.length; i++) {
      const endpoint = endpoints[i]!
      if (endpoint.backup ? !backups : !any) continue
      const fits = any ? endpoint.weight > 0 && !endpoint.draining : endpoint.isAvailable(nowMs)
      if (fits && !isExcluded(endpoint, exclude)) this.#add(endpoint, nowMs)
    }
    return this.count
  }

  #add(endpoint: Endpoint, nowMs: number): void {
    const i = this.count++
    const ramp = this.#slowStart
    let weight = endpoint.weight
    if (ramp !== undefined && nowMs - endpoint.slowStartFromMs < ramp.windowMs) {
      weight *= slowStartFactor(nowMs - endpoint.slowStartFromMs, ramp)
    }
    if (i === this.weights.length) {
      const larger = new Float64Array(i * 2)
      larger.set(this.weights)
      this.weights = larger
    }
    this.list[i] = endpoint
    this.weights[i] = weight
    if (i > 0 && weight !== this.weights[0]) this.uniform = false
    this.totalWeight += weight
  }

  #clear(): void {
    this.count = 0
    this.totalWeight = 0
    this.uniform = true
  }
}

export function isExcluded(endpoint: Endpoint, exclude: Exclude): boolean {
  if (exclude === null || exclude === undefined) return false
  if (exclude === endpoint) return true
  return Array.isArray(exclude) && exclude.includes(endpoint)
}
