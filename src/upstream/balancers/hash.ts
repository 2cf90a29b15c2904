/**
 * `balance: hash`: the same key goes to the same endpoint, with a bound on its load. Weighted rendezvous hashing: each
 * endpoint draws a number from (key, endpoint), the best draw wins. It needs no table to rebuild when the set changes,
 * and losing an endpoint moves only its own keys. Endpoints above `boundedLoad` times the average are passed over for
 * the key's next choice (consistent hashing with bounded loads), so that one hot key cannot drown one endpoint.
 */

import type { Exchange } from '../../exchange.ts'
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

/**
 * What to hash: `ip`, `subject`, `apiKey`, `path`, `uri`, `header:NAME`, `cookie:NAME`, `query:NAME` or `claim:NAME`.
 * Undefined when the text is none of these. The key is '' when a request does not have it.
 */
export function compileHashKey(text: string): ((x: Exchange) => string) | undefined {
  if (text === 'ip') return (x) => x.clientAddress
  if (text === 'subject') return (x) => x.identity?.subject ?? ''
  if (text === 'apiKey') return (x) => x.identity?.apiKey ?? ''
  if (text === 'path') return (x) => x.path
  if (text === 'uri') return (x) => x.path + x.query
  const [, source, name] = /^(header|cookie|query|claim):(.+)$/.exec(text) ?? []
  if (name === undefined) return undefined
  if (source === 'header') {
    const field = name.toLowerCase()
    return (x) => x.request.get(field) ?? ''
  }
  if (source === 'cookie') return (x) => cookieValue(x.request.get('cookie'), name)
  if (source === 'query') return (x) => queryValue(x.query, name)
  return (x) => {
    const claims = x.identity?.claims
    // Claims have no prototype, yet a copy of them might.
    if (claims === undefined || !Object.hasOwn(claims, name)) return ''
    const value = claims[name]
    return typeof value === 'string' || typeof value === 'number' ? String(value) : ''
  }
}

/** The value as it stands in the query, not decoded: equal texts meet, which is all a hash key needs. */
function queryValue(query: string, name: string): string {
  let start = 1
  while (start < query.length) {
    let end = query.indexOf('&', start)
    if (end === -1) end = query.length
    if (query.startsWith(name, start) && query[start + name.length] === '=') {
      return query.slice(start + name.length + 1, end)
    }
    start = end + 1
  }
  return ''
}

/** The value of one cookie in a Cookie field (RFC 6265 §4.2), '' when it is not there. */
export function cookieValue(field: string | undefined, name: string): string {
  if (field === undefined) return ''
  let start = 0
  while (start < field.length) {
    while (field[start] === ' ') start++
    let end = field.indexOf(';', start)
    if (end === -1) end = field.length
    if (field.startsWith(name, start) && field[start + name.length] === '=') {
      return field.slice(start + name.length + 1, end).trim()
    }
    start = end + 1
  }
  return ''
}
