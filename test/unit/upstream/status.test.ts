import { expect, it } from 'vitest'
import { type EndpointStatus, mergeStatus, upstreamGauges } from '../../../src/upstream/status.ts'

const pool = { open: 2, idle: 1, inUse: 1, waiting: 0, waitCount: 3, waitMs: 10 }
const of = (url: string, more: Partial<EndpointStatus> = {}): EndpointStatus => {
  return { url, state: 'healthy', reason: '', inFlight: 1, weight: 1, pool, ...more }
}

it('sums what threads hold and tells the worst state of them', () => {
  const merged = mergeStatus([
    { app: [of('a', { breaker: 'closed' }), of('b')] },
    { app: [of('a', { breaker: 'open', state: 'ejected', reason: '5 failures in a row' })] },
    { app: [of('a', { breaker: 'halfOpen' }), of('c')], other: [] },
  ])
  expect(merged['app']!.map(({ url }) => url)).toEqual(['a', 'b', 'c'])
  expect(merged['app']![0]).toMatchObject({
    state: 'ejected',
    reason: '5 failures in a row',
    breaker: 'open',
    inFlight: 3,
  })
  expect(merged['app']![0]!.pool).toEqual({ open: 6, idle: 3, inUse: 3, waiting: 0, waitCount: 9, waitMs: 30 })
  expect(merged['app']![1]).toEqual(of('b'))
  expect(merged['other']).toEqual([])
})

it('has one gauge a figure and endpoint', () => {
  const gauges = [...upstreamGauges({ app: [of('a', { state: 'unhealthy', breaker: 'open' })] })]
  expect(Object.fromEntries(gauges.map(({ name, value }) => [name, value]))).toEqual({
    fluxor_upstream_endpoint_up: 0,
    fluxor_upstream_endpoint_in_flight: 1,
    fluxor_upstream_endpoint_weight: 1,
    fluxor_upstream_endpoint_connections: 2,
    fluxor_upstream_endpoint_breaker: 2,
  })
})
