import { describe, expect, it } from 'vitest'
import { createWatch } from '../../src/admin-watch.ts'
import type { Gateway } from '../../src/gateway.ts'
import { NO_ADMISSION } from '../../src/observability/figures.ts'
import { MetricsPage } from '../../src/observability/registry.ts'
import { LimiterTable } from '../../src/shared/limiter-table.ts'
import { createMetricsMemory } from '../../src/shared/metrics.ts'
import { MetricsReader } from '../../src/shared/metrics-reader.ts'

const ENDPOINT = { url: 'http://10.0.0.1:80', state: 'healthy', reason: '', inFlight: 1, weight: 1 }

/** A gateway of which only what is watched is there. */
function watched(upstreams: () => Promise<unknown>, jwks?: () => Promise<unknown>) {
  const reader = new MetricsReader(createMetricsMemory({ threads: 1, routes: 4, series: 4 }))
  const page = new MetricsPage({ reader, version: '1' })
  const gateway = {
    config: {
      server: { admin: { profiling: false } },
      identity: { jwt: jwks === undefined ? {} : { main: { jwks: {} } } },
      upstreams: { app: { circuitBreaker: {} } },
    },
    memory: { limiter: LimiterTable.create().buffer },
    readiness: { ready: true, reason: '' },
    threads: 1,
    upstreams,
    keySets: jwks,
  } as unknown as Gateway
  return { watch: createWatch(gateway, reader, page, () => NO_ADMISSION), page }
}

describe('what the supervisor watches', () => {
  it('does not wait for a thread that stands still, and asks it once', async () => {
    let asked = 0
    let answer: (value: unknown) => void = () => {}
    const { watch } = watched(() => {
      asked++
      return asked === 1 ? Promise.resolve({ app: [ENDPOINT] }) : new Promise((resolve) => (answer = resolve))
    })
    expect(await watch.endpoints()).toEqual({ app: [ENDPOINT] })
    const fromMs = performance.now()
    expect(await watch.endpoints()).toEqual({ app: [ENDPOINT] })
    expect(performance.now() - fromMs).toBeLessThan(5000)
    for (let i = 0; i < 5; i++) watch.tick(performance.now())
    expect(asked).toBe(2)
    answer({ app: [] })
    await new Promise((resolve) => setImmediate(resolve))
    expect(await Promise.race([watch.endpoints(), new Promise((resolve) => setTimeout(resolve, 2000))])).toEqual({
      app: [],
    })
    watch.close()
  })

  it('tells of several copies of a key set the oldest, and any error', async () => {
    const set = (ageMs: number, lastError?: string) => ({
      url: 'https://u:p@issuer/jwks',
      kids: ['a'],
      ageMs,
      lastError,
    })
    const { watch, page } = watched(
      async () => ({}),
      async () => [[set(1000)], [set(9000)], [set(500, 'timed out')]],
    )
    await watch.endpoints()
    const text = await page.render()
    expect(text).toContain('fluxor_jwks_age_seconds{url="https://***@issuer/jwks"} 9')
    expect(text).toContain('fluxor_jwks_last_fetch_success{url="https://***@issuer/jwks"} 0')
    watch.close()
  })

  it('keeps quiet about profiles unless they are offered', () => {
    const { watch } = watched(async () => ({}))
    expect(Object.keys(watch.routes()).filter((path) => path.includes('debug'))).toEqual([])
    expect(Object.keys(watch.routes())).toContain('GET /scale')
    watch.close()
  })
})
