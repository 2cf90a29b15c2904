import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  createMetricsMemory,
  logBucket,
  logBucketMs,
  methodId,
  NO_ROUTE_ID,
  OVERFLOW_ROUTE_ID,
  SCALAR,
  ThreadMetrics,
} from '../../../src/shared/metrics.ts'
import { MetricsReader } from '../../../src/shared/metrics-reader.ts'

const ORIGIN = 1_700_000_000_000
const GET = methodId('GET')

function setUp(threads = 1, options: { routes?: number; series?: number } = {}) {
  const memory = createMetricsMemory({ threads, ...options })
  return {
    memory,
    reader: new MetricsReader(memory),
    threads: memory.slots.map((_, i) => new ThreadMetrics(memory, i, ORIGIN + i * 500)),
  }
}

describe('request counters', () => {
  it('are summed over threads by route, method and status', () => {
    const { reader, threads } = setUp(2)
    const [a, b] = threads as [ThreadMetrics, ThreadMetrics]
    const route = a.routeId('orders')
    expect(b.routeId('orders')).toBe(route)
    a.count(route, GET, 200, 4, 10, 100, 0, 1000)
    b.count(route, GET, 200, 40, 20, 200, 15, 1000)
    b.count(route, methodId('BREW'), 599, 1, 0, 0, 0, 1000)
    b.count(NO_ROUTE_ID, methodId('POST'), 404, 0.1, 0, 0, 0, 1000)
    expect([...reader.requests(route)]).toEqual([
      { method: 'GET', status: '200', value: 2 },
      { method: '_OTHER', status: '5xx', value: 1 },
    ])
    const [none, orders] = [...reader.routes()]
    expect(none).toMatchObject({ name: '_none', count: 1 })
    expect(orders).toMatchObject({ name: 'orders', count: 3, sumMs: 45, requestBytes: 30, responseBytes: 300, queuedMs: 15, queued: 1 })
    expect([...orders!.buckets.entries()].filter(([, n]) => n > 0)).toEqual([[0, 1], [2, 1], [5, 1]])
    expect(reader.statusClasses()).toEqual([0, 0, 2, 0, 1, 1])
  }) // biome-ignore format: rows

  it('take any status and duration without losing a request', () => {
    const { reader, threads } = setUp()
    let sent = 0
    fc.assert(
      fc.property(
        fc.integer({ min: -1, max: 1000 }),
        fc.double({ min: 0, max: 1e9, noNaN: true }),
        (status, durationMs) => {
          threads[0]!.count(NO_ROUTE_ID, GET, status, durationMs, 0, 0, 0, 1)
          sent++
        },
      ),
    )
    const [route] = [...reader.routes()]
    expect(route!.count).toBe(sent)
    expect(route!.buckets.reduce((a, b) => a + b)).toBe(sent)
    expect([...reader.requests(NO_ROUTE_ID)].reduce((a, { value }) => a + value, 0)).toBe(sent)
    expect(reader.lastMinute(ORIGIN + 2).count).toBe(sent)
  })

  it('put routes beyond the table into one, and say so', () => {
    const { reader, threads } = setUp(1, { routes: 3 })
    expect(threads[0]!.routeId('a')).toBe(2)
    expect(threads[0]!.routeId('b')).toBe(OVERFLOW_ROUTE_ID)
    threads[0]!.count(OVERFLOW_ROUTE_ID, GET, 200, 1, 0, 0, 0, 1)
    expect([...reader.routes()].map((route) => route.name)).toEqual(['_overflow'])
    expect(reader.scalar('metricsOverflow')).toBe(1)
  })
})

describe('the last minute', () => {
  it('knows its quantiles within 3 %', () => {
    const { reader, threads } = setUp()
    for (let i = 1; i <= 1000; i++) threads[0]!.count(NO_ROUTE_ID, GET, 200, i, 0, 0, 0, 5000)
    const minute = reader.lastMinute(ORIGIN + 6000)
    expect(minute.count).toBe(1000)
    expect(minute.max).toBe(1000)
    expect(minute.mean).toBe(500.5)
    for (const [name, exact] of [['p50', 500], ['p75', 750], ['p95', 950], ['p99', 990]] as const) {
      expect(Math.abs(minute[name] - exact) / exact).toBeLessThan(0.03)
    } // biome-ignore format: a table
  })

  it('forgets what is older, and shares one clock over threads that started at different times', () => {
    const { reader, threads } = setUp(2)
    threads[0]!.count(NO_ROUTE_ID, GET, 200, 1000, 0, 0, 0, 0)
    threads[0]!.count(NO_ROUTE_ID, GET, 200, 1, 0, 0, 0, 61_000)
    threads[1]!.count(NO_ROUTE_ID, GET, 200, 1, 0, 0, 0, 60_500)
    expect(reader.lastMinute(ORIGIN + 61_000)).toMatchObject({ count: 2, max: 1 })
    expect(reader.lastMinute(ORIGIN + 200_000)).toMatchObject({ count: 0, p99: 0, perSecond: 0 })
  })

  it('counts the rate over the time there was', () => {
    const { reader, threads } = setUp()
    for (let i = 0; i < 100; i++) threads[0]!.count(NO_ROUTE_ID, GET, 200, 1, 0, 0, 0, 5000)
    expect(reader.lastMinute(ORIGIN + 10_000, ORIGIN).perSecond).toBeCloseTo(10)
  })

  it('has buckets that hold each duration within 3 %', () => {
    fc.assert(
      fc.property(fc.double({ min: 0.04, max: 2_000_000, noNaN: true }), (ms) => {
        expect(Math.abs(logBucketMs(logBucket(ms)) - ms) / ms).toBeLessThan(0.033)
      }),
    )
    expect(logBucket(Number.MAX_VALUE)).toBe(863)
    expect(logBucket(-1)).toBe(0)
  })
})

describe('counters, gauges and series', () => {
  it('add up, and gauges start at zero when a thread is started anew', () => {
    const { memory, reader, threads } = setUp(2)
    threads[0]!.add(SCALAR.connectionsOpen)
    threads[0]!.add(SCALAR.connectionsAccepted)
    threads[1]!.add(SCALAR.connectionsOpen, 5)
    threads[1]!.set(SCALAR.loopDelayMs, 7)
    expect([
      reader.scalar('connectionsOpen'),
      reader.scalar('connectionsOpen', 1),
      reader.worst('loopDelayMs'),
    ]).toEqual([6, 5, 7])
    new ThreadMetrics(memory, 1, ORIGIN)
    expect([reader.scalar('connectionsOpen'), reader.scalar('connectionsAccepted')]).toEqual([1, 1])
  })

  it('count local replies by code and reason, and only by reasons that are stable words', () => {
    const { reader, threads } = setUp(2)
    threads[0]!.localReply('BACKPRESSURE', 'CCU_FULL')
    threads[1]!.localReply('BACKPRESSURE', 'CCU_FULL')
    threads[0]!.localReply('NO_ROUTE')
    for (let i = 0; i < 50; i++) threads[0]!.localReply('BAD_REQUEST', `made up ${i}`)
    expect(
      [...reader.series('fluxor_local_replies_total')].map(({ labels, value }) => [labels.code, labels.reason, value]),
    ).toEqual([
      ['BACKPRESSURE', 'CCU_FULL', 2],
      ['NO_ROUTE', '', 1],
      ['BAD_REQUEST', '', 50],
    ])
  })

  it('fall into one series when the table is full, and say so', () => {
    const { reader, threads } = setUp(1, { series: 2 })
    threads[0]!.inc(threads[0]!.series('fluxor_rate_limit_decisions_total', { rule: 'perIp', decision: 'allowed' }))
    threads[0]!.inc(threads[0]!.series('fluxor_rate_limit_decisions_total', { rule: 'perKey', decision: 'allowed' }))
    expect([...reader.series()]).toEqual([
      { name: 'fluxor_rate_limit_decisions_total', labels: { rule: 'perIp', decision: 'allowed' }, value: 1 },
    ])
    expect(reader.scalar('metricsOverflow')).toBe(1)
  })
})
