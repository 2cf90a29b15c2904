import { describe, expect, it } from 'vitest'
import { type AdmissionFigures, NO_ADMISSION } from '../../../src/observability/figures.ts'
import { HISTORY_SECONDS, History } from '../../../src/observability/history.ts'
import { createMetricsMemory, methodId, SCALAR, ThreadMetrics } from '../../../src/shared/metrics.ts'
import { MetricsReader } from '../../../src/shared/metrics-reader.ts'

const ORIGIN = 1_700_000_000_000
const GET = methodId('GET')

function setUp() {
  const memory = createMetricsMemory({ threads: 1 })
  const metrics = new ThreadMetrics(memory, 0, ORIGIN)
  const state = { admission: NO_ADMISSION as AdmissionFigures, cpuMs: 0 }
  const history = new History(
    {
      reader: new MetricsReader(memory),
      version: '1.0.0',
      originMs: ORIGIN,
      admission: () => state.admission,
      process: () => ({ cpuMs: state.cpuMs, rssBytes: 100, heapBytes: 50 }),
    },
    0,
  )
  return { metrics, history, state }
}

describe('a sample', () => {
  it('tells the rates of its second, whatever was counted before', () => {
    const { metrics, history, state } = setUp()
    const orders = metrics.routeId('orders')
    for (let i = 0; i < 10; i++) metrics.count(orders, GET, 200, 10, 0, 1000, i < 4 ? 10 : 0, 500)
    metrics.count(orders, GET, 503, 1, 0, 100, 0, 600)
    metrics.localReply('BACKPRESSURE', 'CCU_FULL')
    metrics.inc(metrics.series('fluxor_tier_refusals_total', { tier: 'gold' }))
    metrics.inc(metrics.series('fluxor_rate_limit_decisions_total', { rule: 'perIp', decision: 'limited' }), 4)
    metrics.inc(metrics.series('fluxor_rate_limit_decisions_total', { rule: 'perIp', decision: 'allowed' }), 9)
    metrics.add(SCALAR.cacheHits, 6)
    state.cpuMs = 250
    state.admission = { ...NO_ADMISSION, ccu: 5, maxCCU: 10, tiers: [{ name: 'gold', ccu: 2, guarantee: 5 }] } // biome-ignore format: short
    const sample = history.sample(1000)
    expect(sample).toMatchObject({
      t: ORIGIN + 1000, rps: 11, status2xx: 10, status5xx: 1, refused: 1, limited: 4, cacheHits: 6, cpu: 0.25,
      ccu: 5, queueWaitMs: 10, uptimeSec: 1, shed: 1, tiers: [{ name: 'gold', refused: 1 }],
    }) // biome-ignore format: a table
    expect(sample.refusals).toEqual({ 'BACKPRESSURE/CCU_FULL': 1 })
    expect(sample.limits).toEqual({ perIp: 4 })
    expect(Math.abs(sample.p50! - 10)).toBeLessThan(0.3)
    expect(history.sample(2000)).toMatchObject({ rps: 0, p50: null, queueWaitMs: null, refused: 0, cpu: 0 })
    expect(history.sample(4000).refusals).toEqual({})
  })

  it('tells the users of the last whole minute, and of none before there was one', () => {
    const { metrics, history } = setUp()
    const minuteMs = 60_000 - (ORIGIN % 60_000)
    for (const user of ['ada', 'grace', 'ada']) metrics.user(user, minuteMs - 1)
    expect(history.sample(minuteMs - 1).activeUsers).toBeNull()
    expect(history.sample(minuteMs).activeUsers).toBe(2)
    expect(history.sample(minuteMs + 60_000).activeUsers).toBe(0)
    expect(history.history().numbers['activeUsers']).toEqual([null, 2, 0])
  })

  it('knows the latencies of one second, also where a window of ten ends in it', () => {
    const { metrics, history } = setUp()
    metrics.count(0, GET, 200, 100, 0, 0, 0, 9000)
    expect(history.sample(9100).p99).toBeCloseTo(100, -1)
    metrics.count(0, GET, 200, 5, 0, 0, 0, 9900)
    metrics.count(0, GET, 200, 7, 0, 0, 0, 10_050)
    const sample = history.sample(10_100)
    expect(sample.rps).toBe(2)
    expect(sample.max).toBeLessThan(7.3)
    expect(sample.p50).toBeLessThan(5.3)
    expect(history.sample(11_100).max).toBeNull()
  })

  it('ranks routes by the places they hold, over the last minute', () => {
    const { metrics, history } = setUp()
    const [cheap, dear] = [metrics.routeId('cheap'), metrics.routeId('dear')]
    for (let second = 1; second <= 100; second++) {
      for (let i = 0; i < 10; i++) metrics.count(cheap, GET, 200, 4, 0, 100, 0, second * 1000 - 1)
      metrics.count(dear, GET, second % 2 ? 200 : 500, 900, 0, 5000, 0, second * 1000 - 1)
      history.sample(second * 1000)
    }
    const [first, second] = history.latest!.routes
    expect(first!.name).toBe('dear')
    expect(first!.cost).toBeCloseTo(0.9, 1)
    expect(first!.errorRate).toBeCloseTo(0.5, 1)
    expect(first!.p95Ms).toBeGreaterThan(750)
    expect(second!.rps).toBeCloseTo(10, 0)
    expect(second!.p95Ms).toBeLessThanOrEqual(5)
  })
})

describe('the history', () => {
  it('keeps fifteen minutes, oldest first, and gaps as gaps', () => {
    const { metrics, history } = setUp()
    const seen: number[] = []
    const end = history.subscribe((sample) => seen.push(sample.t))
    for (let second = 1; second <= HISTORY_SECONDS + 5; second++) {
      if (second === HISTORY_SECONDS) {
        metrics.count(0, GET, 404, 1, 0, 0, 0, second * 1000 - 1)
        metrics.localReply('NO_ROUTE')
      }
      history.sample(second * 1000)
    }
    end()
    const all = history.history()
    expect(all.t.length).toBe(HISTORY_SECONDS)
    expect([all.t[0], all.t.at(-1)]).toEqual([ORIGIN + 6000, ORIGIN + (HISTORY_SECONDS + 5) * 1000])
    expect(all.numbers['rps']!.indexOf(1)).toBe(HISTORY_SECONDS - 6)
    expect(all.numbers['p95']!.filter((v) => v !== null).length).toBe(1)
    expect(all.refusals['NO_ROUTE']!.reduce((a, b) => a! + b!, 0)).toBe(1)
    expect(seen.length).toBe(HISTORY_SECONDS + 5)
    expect(JSON.parse(JSON.stringify(all)).latest.rps).toBe(0)
  })

  it('is empty before the first sample', () => {
    expect(setUp().history.history()).toMatchObject({ t: [], latest: null })
  })
})
