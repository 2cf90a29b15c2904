/** What `/upstreams` and the metrics tell of endpoints, put together from what each thread says. Off the path of requests. */

import type { EndpointFigures, GaugeValue } from '../observability/figures.ts'
import type { PoolStats } from './pool.ts'

export interface EndpointStatus extends EndpointFigures {
  /** Only when it is one. */
  readonly backup?: true
  /** Its breaker, or the upstream's; absent without one. */
  readonly breaker?: string
  readonly pool: Readonly<PoolStats>
}

export type UpstreamStatus = Record<string, EndpointStatus[]>

/** Heaviest last. */
const BREAKER_STATES = ['closed', 'halfOpen', 'open']

/** All threads together: numbers are summed, of states the worst is told. */
export function mergeStatus(threads: readonly UpstreamStatus[]): UpstreamStatus {
  const merged: UpstreamStatus = {}
  for (const thread of threads) {
    for (const [name, endpoints] of Object.entries(thread)) {
      const known = (merged[name] ??= [])
      for (const endpoint of endpoints) {
        const at = known.findIndex(({ url }) => url === endpoint.url)
        if (at < 0) known.push(endpoint)
        else known[at] = mergeEndpoint(known[at]!, endpoint)
      }
    }
  }
  return merged
}

function mergeEndpoint(a: EndpointStatus, b: EndpointStatus): EndpointStatus {
  const { state, reason } = a.state === 'healthy' ? b : a
  const pool = { ...a.pool }
  for (const key of Object.keys(pool) as (keyof PoolStats)[]) pool[key] += b.pool[key]
  const breakers = [a.breaker, b.breaker].filter((breaker) => breaker !== undefined)
  breakers.sort((x, y) => BREAKER_STATES.indexOf(y) - BREAKER_STATES.indexOf(x))
  const [breaker] = breakers
  return { ...a, state, reason, inFlight: a.inFlight + b.inFlight, pool, ...(breaker !== undefined && { breaker }) }
}

/** For `/metrics`. */
export function* upstreamGauges(status: UpstreamStatus): Iterable<GaugeValue> {
  for (const [upstream, endpoints] of Object.entries(status)) {
    for (const { url, state, inFlight, weight, breaker, pool } of endpoints) {
      const gauge = (name: string, help: string, value: number): GaugeValue => ({
        name: `fluxor_upstream_endpoint_${name}`,
        help,
        labels: { upstream, endpoint: url },
        value,
        type: 'gauge',
      })
      yield gauge(
        'up',
        'Whether the endpoint is healthy (1), or unhealthy, ejected or draining (0).',
        Number(state === 'healthy'),
      )
      yield gauge('in_flight', 'Requests at the endpoint now.', inFlight)
      yield gauge('weight', 'Share of the traffic, relative to the others.', weight)
      yield gauge('connections', 'Connections to the endpoint, idle ones included.', pool.open)
      if (breaker !== undefined) {
        yield gauge('breaker', 'Circuit breaker: 0 closed, 1 half-open, 2 open.', BREAKER_STATES.indexOf(breaker))
      }
    }
  }
}
