/** How often one may come in, through running gateways: exact over threads, shared by a fleet, unmoved by lies. */

import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { startGateway, type TestGateway } from '../support/gateway.ts'
import { startRedis, type TestRedis } from '../support/redis.ts'
import { services } from '../support/services.ts'
import { type HttpUpstream, startHttpUpstream } from '../support/upstream.ts'

let upstream: HttpUpstream
const open: TestGateway[] = []

beforeAll(async () => {
  upstream = await startHttpUpstream((_request, response) => void response.end('ok'))
})
afterEach(async () => {
  for (const gateway of open.splice(0)) await gateway.close()
})
afterAll(() => upstream.close())

async function gatewayWith(config: Record<string, unknown>): Promise<TestGateway> {
  const gateway = await startGateway({ upstreams: { app: { endpoints: [{ url: upstream.url }] } }, ...config })
  open.push(gateway)
  return gateway
}

async function statusesOf(urls: string[], headers: Record<string, string> = {}): Promise<Map<number, number>> {
  const counts = new Map<number, number>()
  const answers = await Promise.all(
    urls.map((url) =>
      fetch(url, { headers }).then(async (r) => {
        await r.arrayBuffer()
        return r.status
      }),
    ),
  )
  for (const status of answers) counts.set(status, (counts.get(status) ?? 0) + 1)
  return counts
}

const times = (n: number, url: string) => Array.from({ length: n }, () => url)

describe('limits in memory', () => {
  it('lets exactly the limit pass, however many come at once on two threads', async () => {
    const gateway = await gatewayWith({
      server: { threads: 2 },
      rateLimits: { perIp: { key: 'ip', limit: 100, window: '1h', algorithm: 'fixedWindow' } },
      routes: [{ match: { pathPrefix: '/' }, upstream: 'app', rateLimit: 'perIp' }],
    })
    const counts = await statusesOf(times(300, gateway.url))
    expect(Object.fromEntries(counts)).toEqual({ 200: 100, 429: 200 })
  })

  it('tells when to come back, and what was violated', async () => {
    const gateway = await gatewayWith({
      rateLimits: { perIp: { key: 'ip', limit: 1, window: '1h', algorithm: 'fixedWindow' } },
      routes: [{ match: { pathPrefix: '/' }, upstream: 'app', rateLimit: 'perIp' }],
    })
    const first = await fetch(gateway.url)
    expect(first.headers.get('ratelimit-policy')).toBe('"perIp";q=1;w=3600')
    expect(first.headers.get('ratelimit')).toMatch(/^"perIp";r=0;t=\d+$/)
    const second = await fetch(gateway.url)
    expect(second.status).toBe(429)
    expect(Number(second.headers.get('retry-after'))).toBeGreaterThanOrEqual(1)
    expect(second.headers.get('content-type')).toBe('application/problem+json')
    expect(await second.json()).toMatchObject({
      type: 'https://iana.org/assignments/http-problem-types#quota-exceeded',
      code: 'RATE_LIMITED',
      'violated-policies': ['perIp'],
    })
  })

  it('counts two rules of the same numbers apart, and one rule of two routes together', async () => {
    const rule = { key: 'ip', limit: 10, window: '1h', algorithm: 'fixedWindow' }
    const gateway = await gatewayWith({
      rateLimits: { one: rule, two: rule },
      routes: [
        { match: { pathPrefix: '/a' }, upstream: 'app', rateLimit: 'one' },
        { match: { pathPrefix: '/b' }, upstream: 'app', rateLimit: 'two' },
        { match: { pathPrefix: '/c' }, upstream: 'app', rateLimit: 'one' },
      ],
    })
    expect(Object.fromEntries(await statusesOf(times(10, `${gateway.url}/a`)))).toEqual({ 200: 10 })
    expect(Object.fromEntries(await statusesOf(times(10, `${gateway.url}/b`)))).toEqual({ 200: 10 })
    expect(Object.fromEntries(await statusesOf(times(5, `${gateway.url}/c`)))).toEqual({ 429: 5 })
  })

  it('is not moved by X-Forwarded-For from a stranger, but follows a trusted proxy', async () => {
    const routes = [{ match: { pathPrefix: '/' }, upstream: 'app', rateLimit: 'perIp' }]
    const rateLimits = { perIp: { key: 'ip', limit: 3, window: '1h', algorithm: 'fixedWindow' } }
    const strict = await gatewayWith({ rateLimits, routes })
    const trusting = await gatewayWith({ rateLimits, routes, server: { trustedProxies: ['127.0.0.0/8'] } })
    const passed = async (gateway: TestGateway) => {
      let passed = 0
      for (let i = 0; i < 6; i++)
        passed +=
          (await fetch(gateway.url, { headers: { 'x-forwarded-for': `203.0.113.${i}` } })).status === 200 ? 1 : 0
      return passed
    }
    expect(await passed(strict)).toBe(3)
    expect(await passed(trusting)).toBe(6)
  })
})

// Redis is a service of the machine: `.ci/run` requires it, elsewhere its absence is told at the end of the run.
describe.skipIf(services.redis === undefined)('limits in Redis', () => {
  let redis: TestRedis
  beforeAll(async () => {
    redis = await startRedis()
  })
  afterAll(() => redis?.close())

  /** @param commandTimeout long where the count is looked at: a busy machine must not make Redis look slow */
  const fleet = (limit: number, rule: Record<string, unknown> = {}, commandTimeout = '5s') =>
    Promise.all(
      [1, 2, 3].map(() =>
        gatewayWith({
          redis: { main: { url: `redis://127.0.0.1:${redis.port}`, commandTimeout } },
          rateLimits: { shared: { key: 'ip', limit, window: '1h', store: 'redis', ...rule } },
          routes: [{ match: { pathPrefix: '/' }, upstream: 'app', rateLimit: 'shared' }],
        }),
      ),
    )

  for (const [algorithm, limit] of [
    ['fixedWindow', 60],
    ['slidingWindow', 60],
    ['gcra', 30],
  ] as const) {
    it(`three gateways share one ${algorithm} limit`, async () => {
      await redis.command('FLUSHALL')
      const gateways = await fleet(limit, { algorithm })
      const counts = await statusesOf(gateways.flatMap(({ url }) => times(60, url)))
      // At once, gcra lets its burst pass, which is the limit.
      expect(counts.get(200)).toBe(limit)
      expect(counts.get(429)).toBe(180 - counts.get(200)!)
    })
  }

  it('killed and paused in mid-run: no 5xx, each gateway falls back to its own count, and Redis is used again', async () => {
    await redis.command('FLUSHALL')
    const gateways = await fleet(1_000_000, {}, '50ms')
    const run = () => statusesOf(gateways.flatMap(({ url }) => times(40, url)))
    expect([...(await run()).keys()]).toEqual([200])
    redis.pause()
    expect([...(await run()).keys()]).toEqual([200])
    redis.resume()
    await redis.kill()
    expect([...(await run()).keys()]).toEqual([200])
    await redis.start()
    for (const gateway of gateways) await gateway.waitForLog(({ msg }) => msg === 'redis is back', 15_000)
    expect([...(await run()).keys()]).toEqual([200])
    expect(await redis.command('DBSIZE')).not.toBe('0')
  })
})
