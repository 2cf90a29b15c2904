/** A real Prometheus scrapes the gateway, records its rules, and answers the queries that operators have. */

import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { freePort } from '../../support/free-port.ts'
import { startGateway, type TestGateway } from '../../support/gateway.ts'
import { services } from '../../support/services.ts'
import { SteadyLoad } from '../../support/steady-load.ts'
import { type HttpUpstream, startHttpUpstream } from '../../support/upstream.ts'

const { prometheus } = services

/** As they stand in docs/metrics.md. */
const QUERIES = [
  'sum(rate(http_requests_total[5m]))',
  'histogram_quantile(0.95, rate(http_request_duration_seconds_bucket[5m]))',
  'sum(rate(http_requests_total{status=~"5.."}[5m])) / sum(rate(http_requests_total[5m]))',
  'queue_size / queue_capacity * 100',
  'current_ccu / max_ccu * 100',
]

describe.skipIf(prometheus === undefined)('a Prometheus that scrapes the gateway', { timeout: 90_000 }, () => {
  let folder: string
  let upstream: HttpUpstream
  let gateway: TestGateway
  let server: ChildProcess
  let load: SteadyLoad
  let port: number

  const query = async (expr: string): Promise<number[]> => {
    const response = await fetch(`http://127.0.0.1:${port}/api/v1/query?query=${encodeURIComponent(expr)}`)
    if (!response.ok) return []
    const { data } = (await response.json()) as { data: { result: { value: [number, string] }[] } }
    return data.result.map(({ value }) => Number(value[1])).filter((value) => !Number.isNaN(value))
  }
  const soon = { timeout: 40_000, interval: 500 }

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'fluxor-prometheus-'))
    upstream = await startHttpUpstream((_, response) => setTimeout(() => response.end('ok'), 20))
    gateway = await startGateway({
      server: { threads: 2 },
      admission: { maxCCU: 6, queueTimeout: '10ms' },
      upstreams: { app: { endpoints: [{ url: upstream.url }] } },
      routes: [{ name: 'app', match: { pathPrefix: '/' }, upstream: 'app' }],
    })
    load = new SteadyLoad(gateway.port, 10)
    port = await freePort()
    const rules = resolve('deploy/prometheus/fluxor-gateway.rules.yaml')
    const config = {
      global: { scrape_interval: '1s', evaluation_interval: '1s' },
      rule_files: [rules],
      scrape_configs: [{ job_name: 'gw', static_configs: [{ targets: [`127.0.0.1:${gateway.adminPort}`] }] }],
    }
    writeFileSync(join(folder, 'prometheus.yaml'), JSON.stringify(config))
    server = spawn(prometheus!, [
      `--config.file=${join(folder, 'prometheus.yaml')}`,
      `--storage.tsdb.path=${join(folder, 'data')}`,
      `--web.listen-address=127.0.0.1:${port}`,
      '--log.level=error',
    ])
    await vi.waitFor(async () => expect(await query('up{job="gw"}')).toEqual([1]), soon)
  }, 60_000)

  afterAll(async () => {
    await load?.stop()
    if (server !== undefined) {
      const ended = new Promise((done) => server.once('exit', done))
      server.kill('SIGTERM')
      await ended
    }
    await gateway?.close()
    await upstream?.close()
    rmSync(folder, { recursive: true, force: true })
  })

  it.each(QUERIES)('answers %s with numbers', async (expr) => {
    expect(readFileSync('docs/metrics.md', 'utf8')).toContain(`\n${expr}\n`)
    await expect.poll(async () => (await query(expr)).length, soon).toBeGreaterThan(0)
    for (const value of await query(expr)) expect(value).toBeGreaterThanOrEqual(0)
  })

  it('records the rules, and shows what is refused as errors', async () => {
    await expect.poll(async () => (await query('error_rate'))[0] ?? 0, soon).toBeGreaterThan(0.01)
    for (const name of ['p95_latency', 'cpu_usage', 'queue_utilization']) {
      await expect.poll(async () => (await query(name)).length, soon).toBe(1)
    }
    await expect.poll(() => query('fluxor_ccu_ledger_skew'), soon).toEqual([0])
  })
})
