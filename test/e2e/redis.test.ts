/** Redis down, killed, hanging or emptied: the limits fall back to the process, and no request pays for it. */

import { afterEach, describe, expect, it } from 'vitest'
import { freePort } from '../support/free-port.ts'
import { startGateway, type TestGateway } from '../support/gateway.ts'
import { send } from '../support/raw-client.ts'
import { startRedis, TestRedis } from '../support/redis.ts'
import { services } from '../support/services.ts'
import { SteadyLoad } from '../support/steady-load.ts'
import { startRawUpstream } from '../support/upstream.ts'

const MOST_ADDED_MS = 200

let cleanup: (() => Promise<void>)[] = []
afterEach(async () => {
  for (const close of cleanup.reverse()) await close()
  cleanup = []
})

async function start(url: string, limit: number): Promise<TestGateway> {
  const upstream = await startRawUpstream()
  const gateway = await startGateway({
    redis: { main: { url } },
    rateLimits: {
      shared: { key: 'ip', limit, window: '60s', algorithm: 'fixedWindow', store: 'redis:main', onStoreError: 'local' },
    },
    upstreams: { app: { endpoints: [{ url: upstream.url }] } },
    routes: [{ match: { pathPrefix: '/' }, upstream: 'app', rateLimit: 'shared' }],
  })
  cleanup.push(
    () => upstream.close(),
    () => gateway.close(),
  )
  return gateway
}

async function timed(gateway: TestGateway): Promise<{ status: number; ms: number }> {
  const startedMs = performance.now()
  const { status } = await send(gateway.port, 'GET / HTTP/1.1\r\nHost: a.test\r\n\r\n', { responses: 1 })
  return { status, ms: performance.now() - startedMs }
}

// Without a redis-server on PATH there is nothing to try; CI requires one.
describe.skipIf(services.redis === undefined)('a limit shared over Redis', () => {
  it('is one limit for two gateways', async () => {
    const redis = await startRedis()
    cleanup.push(() => redis.close())
    const gateways = [await start(redis.url, 10), await start(redis.url, 10)]
    const statuses: number[] = []
    for (let i = 0; i < 20; i++) statuses.push((await timed(gateways[i % 2]!)).status)
    expect(statuses.filter((status) => status === 200)).toHaveLength(10)
    expect(statuses.filter((status) => status === 429)).toHaveLength(10)
  })

  it('works by itself while Redis is not there at start, and over Redis once it is', async () => {
    const redis = new TestRedis(await freePort())
    cleanup.push(() => redis.close())
    const gateway = await start(redis.url, 1_000_000)
    for (let i = 0; i < 20; i++) {
      const { status, ms } = await timed(gateway)
      expect(status).toBe(200)
      expect(ms).toBeLessThan(MOST_ADDED_MS + 100)
    }
    await redis.start()
    const deadline = performance.now() + 15_000
    let size = ''
    while (!/^:[1-9]/.test(size) && performance.now() < deadline) {
      await timed(gateway)
      size = await redis.command('DBSIZE')
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
    expect(size).toMatch(/^:[1-9]/)
  })

  it.each<[string, (redis: TestRedis) => Promise<unknown> | unknown]>([
    ['is killed', (redis) => redis.kill()],
    ['hangs', (redis) => redis.pause()],
    ['is emptied', (redis) => redis.command('FLUSHALL')],
    [
      'is stopped and started again',
      async (redis) => {
        await redis.stop()
        await redis.start()
      },
    ],
  ])('no request fails or waits long when it %s under load', async (_title, happen) => {
    const redis = await startRedis()
    cleanup.push(() => redis.close())
    const gateway = await start(redis.url, 1_000_000)
    const load = new SteadyLoad(gateway.port, 10)
    await load.progress(200)
    await happen(redis)
    const slowest = { ms: 0 }
    for (let i = 0; i < 30; i++) {
      const { status, ms } = await timed(gateway)
      expect(status).toBe(200)
      slowest.ms = Math.max(slowest.ms, ms)
    }
    await load.progress(200)
    const counts = await load.stop()
    expect(counts.lost).toBe(0)
    expect(Object.keys(counts.statuses)).toEqual(['200'])
    expect(slowest.ms).toBeLessThan(MOST_ADDED_MS + 100)
  })
})
