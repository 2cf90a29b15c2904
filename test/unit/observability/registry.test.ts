import { spawnSync } from 'node:child_process'
import { describe, expect, it } from 'vitest'
import type { AdmissionFigures, GaugeValue } from '../../../src/observability/figures.ts'
import { metricsJson } from '../../../src/observability/metrics-json.ts'
import { MetricsPage } from '../../../src/observability/registry.ts'
import { createMetricsMemory, methodId, SCALAR, ThreadMetrics } from '../../../src/shared/metrics.ts'
import { MetricsReader } from '../../../src/shared/metrics-reader.ts'

const GET = methodId('GET')
const admission: AdmissionFigures = {
  ccu: 30, maxCCU: 100, normalCCU: 67, inService: 25, workers: 50, queued: 5, queueCapacity: 50,
  admitted: 100, completed: 60, aborted: 10,
  tiers: [{ name: 'premium', ccu: 10, guarantee: 50 }],
} // biome-ignore format: a table

function setUp() {
  const memory = createMetricsMemory({ threads: 2 })
  const metrics = new ThreadMetrics(memory, 0)
  const reader = new MetricsReader(memory)
  const page = new MetricsPage({
    reader,
    version: '1.2.3',
    admission: () => admission,
    reload: () => ({ success: true, lastSuccessMs: 1_700_000_000_000 }),
  })
  const orders = metrics.routeId('orders')
  metrics.count(orders, GET, 200, 3, 0, 500, 0, 1000)
  metrics.count(orders, GET, 200, 30, 0, 500, 12, 1000)
  metrics.count(orders, methodId('POST'), 503, 20_000, 10, 50, 0, 1000)
  metrics.localReply('BACKPRESSURE', 'CCU_FULL')
  metrics.inc(metrics.series('fluxor_tier_refusals_total', { tier: 'premium' }))
  metrics.inc(metrics.series('fluxor_rate_limit_decisions_total', { rule: 'per"Ip\n', decision: 'limited' }))
  metrics.add(SCALAR.poolWaitMs, 1500)
  for (const status of ['hit', 'hit', 'hit', 'miss', 'made up']) metrics.cacheOutcome(status)
  return { metrics, reader, page }
}

describe('the Prometheus page', () => {
  it('carries requests, admission and counters under their documented names', async () => {
    const lines = (await setUp().page.render()).split('\n')
    for (const line of [
      'http_requests_total{method="GET",route="orders",status="200"} 2',
      'http_requests_total{method="POST",route="orders",status="503"} 1',
      'http_request_duration_seconds_bucket{route="orders",le="0.0025"} 0',
      'http_request_duration_seconds_bucket{route="orders",le="0.005"} 1',
      'http_request_duration_seconds_bucket{route="orders",le="0.05"} 2',
      'http_request_duration_seconds_bucket{route="orders",le="+Inf"} 3',
      'http_request_duration_seconds_sum{route="orders"} 20.033',
      'http_request_duration_seconds_count{route="orders"} 3',
      'queue_size 5',
      'queue_capacity 50',
      'current_ccu 30',
      'max_ccu 100',
      'normal_ccu 67',
      'ccu_utilization 0.3',
      'worker_utilization 0.5',
      'current_streams 0',
      'config_last_reload_success 1',
      'fluxor_ccu_ledger_skew 0',
      'fluxor_tier_ccu{tier="premium"} 10',
      'fluxor_tier_refusals_total{tier="premium"} 1',
      'fluxor_admission_refused_total 1',
      'fluxor_sent_bytes_total 1050',
      'fluxor_pool_wait_seconds_total 1.5',
      'fluxor_cache_requests_total{result="hit"} 3',
      'fluxor_local_replies_total{code="BACKPRESSURE",reason="CCU_FULL"} 1',
      'fluxor_rate_limit_decisions_total{rule="per\\"Ip\\n",decision="limited"} 1',
      'fluxor_queue_wait_seconds_total{route="orders"} 0.012',
      'fluxor_thread_loop_delay_seconds{thread="1"} 0',
      `fluxor_build_info{version="1.2.3",node="${process.versions.node}"} 1`,
    ]) {
      expect(lines).toContain(line)
    }
  })

  it('takes values of other parts, and goes on without a part that fails', async () => {
    const { page } = setUp()
    const remove = page.addSource((): GaugeValue[] => [
      {
        name: 'fluxor_tls_not_after_seconds',
        help: 'End of a certificate.',
        labels: { name: 'a' },
        value: 5,
        type: 'gauge',
      },
      { name: 'not a name', help: '', labels: { name: 'b' }, value: 5, type: 'gauge' },
      { name: 'fluxor_nothing', help: '', labels: { name: 'b' }, value: Number.NaN, type: 'gauge' },
    ])
    page.addSource(() => {
      throw new Error('gone')
    })
    const text = await page.render()
    expect(text).toContain('fluxor_tls_not_after_seconds{name="a"} 5')
    expect(text).not.toContain('not a name')
    expect(text).not.toContain('fluxor_nothing')
    expect(text).toContain('fluxor_metrics_source_failures_total 1')
    remove()
    expect(await page.render()).not.toContain('fluxor_tls_not_after_seconds')
  })

  const promtool = spawnSync('promtool', ['--version']).status === 0
  it.skipIf(!promtool && process.env['CI'] === undefined)('is accepted by promtool check metrics', async () => {
    const checked = spawnSync('promtool', ['check', 'metrics'], {
      input: await setUp().page.render(),
      encoding: 'utf8',
    })
    expect(checked.stdout + checked.stderr).toBe('')
    expect(checked.status).toBe(0)
  })
})

describe('GET /api/metrics', () => {
  it('tells queue, CCU, workers, requests, cache, pool and the quantiles of the last minute', () => {
    const { reader } = setUp()
    const wallMs = performance.timeOrigin + 2000
    expect(metricsJson(reader, admission, wallMs, performance.timeOrigin)).toMatchObject({
      queue_size: 5, queue_utilization: 0.1, current_ccu: 30, ccu_utilization: 0.3, worker_utilization: 0.5,
      total_requests: 3, successful_requests: 2, error_requests: 1, rejected_requests: 1, error_rate: 0.333333,
      requests_per_second: 1.5, cache: { hits: 3, misses: 1, hit_rate: 0.75 }, pool: { wait_ms: 1500 },
      latency_ms: { max: 20_000 }, backpressure_active: false, uptime_seconds: 2,
    }) // biome-ignore format: a table
  })
})
