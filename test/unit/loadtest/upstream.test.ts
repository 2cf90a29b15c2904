import { afterEach, describe, expect, it } from 'vitest'
import {
  parseLatency,
  parseShare,
  type ScriptedUpstream,
  startScriptedUpstream,
  type UpstreamOptions,
} from '../../../loadtest/upstream.ts'
import { createRandom } from '../../../src/loadtest/random.ts'

let upstream: ScriptedUpstream | undefined
afterEach(async () => {
  await upstream?.close()
  upstream = undefined
})
const start = async (options?: UpstreamOptions) => (upstream = await startScriptedUpstream(options))

function draw(form: string, times = 20_000): number[] {
  const latency = parseLatency(form)!
  const random = createRandom(3)
  return Array.from({ length: times }, () => latency(random)).toSorted((a, b) => a - b)
}
const at = (sorted: number[], percent: number) => sorted[Math.floor((percent / 100) * sorted.length)]!
const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length

describe('latency of the scripted service', () => {
  it('is drawn from what was asked for', () => {
    expect(new Set(draw('20ms', 10))).toEqual(new Set([20]))
    expect(new Set(draw('fixed:1s', 10))).toEqual(new Set([1000]))
    expect(mean(draw('exp:20ms'))).toBeCloseTo(20, 0)
    const uniform = draw('uniform:10ms..50ms')
    expect([uniform[0]! >= 10, uniform.at(-1)! <= 50]).toEqual([true, true])
    expect(mean(uniform)).toBeCloseTo(30, 0)
    const lognormal = draw('lognormal:p50=20ms,p99=200ms')
    expect(at(lognormal, 50)).toBeGreaterThan(19)
    expect(at(lognormal, 50)).toBeLessThan(21)
    expect(at(lognormal, 99)).toBeGreaterThan(175)
    expect(at(lognormal, 99)).toBeLessThan(225)
  })

  it.each([
    '',
    '20',
    'fixed:',
    'exp:x',
    'uniform:50ms..10ms',
    'lognormal:p50=20ms',
    'lognormal:p50=20ms,p99=1ms',
    'gauss:1ms',
  ])('refuses "%s"', (form) => {
    expect(parseLatency(form)).toBeUndefined()
  })

  it('reads shares', () => {
    expect(['1%', '0.5', '100%', '101%', 'x'].map(parseShare)).toEqual([0.01, 0.5, 1, undefined, undefined])
  })
})

describe('the scripted service', () => {
  it('answers a body of the size asked for', async () => {
    const { url } = await start({ bodyBytes: 1000 })
    expect((await (await fetch(url)).text()).length).toBe(1000)
    expect((await (await fetch(url, { headers: { 'x-upstream-bytes': '2KiB' } })).text()).length).toBe(2048)
  })

  it('fails as often as asked, and a request may ask for something else', async () => {
    const { url } = await start({ errorRate: 1, errorStatus: 502 })
    expect((await fetch(url)).status).toBe(502)
    expect((await fetch(url, { headers: { 'x-upstream-error-rate': '0', 'x-upstream-status': '204' } })).status).toBe(
      204,
    )
    expect((await fetch(url, { headers: { 'x-upstream-latency': 'soon' } })).status).toBe(400)
  })

  it('serves as many at once as it has servers, the others wait, and beyond the queue it refuses', async () => {
    const { url, stats } = await start({ latency: '60s', servers: 2, queue: 3 })
    const until = async (reached: () => boolean) => {
      while (!reached()) await new Promise((resolve) => setTimeout(resolve, 5))
    }
    const gone = new AbortController()
    const busy = [1, 2].map(() => fetch(url, { signal: gone.signal }).catch(() => 'gone'))
    await until(() => stats.inService === 2)
    const quick = (times: number) =>
      Array.from({ length: times }, async () => (await fetch(url, { headers: { 'x-upstream-latency': '1ms' } })).status)
    const waiting = quick(3)
    await until(() => stats.waiting === 3)
    expect(await Promise.all(quick(3))).toEqual([503, 503, 503])
    gone.abort()
    expect(await Promise.all(busy)).toEqual(['gone', 'gone'])
    expect(await Promise.all(waiting)).toEqual([200, 200, 200])
    expect(stats).toMatchObject({ served: 3, refused: 3, maxInService: 2, maxWaiting: 3, waiting: 0 })
  })

  it('gives the place of a client that leaves to the next', async () => {
    const { url, stats } = await start({ latency: '60s', servers: 1 })
    const gone = new AbortController()
    const first = fetch(url, { signal: gone.signal })
    while (stats.inService === 0) await new Promise((resolve) => setTimeout(resolve, 5))
    const second = fetch(url, { headers: { 'x-upstream-latency': '1ms' } })
    while (stats.waiting === 0) await new Promise((resolve) => setTimeout(resolve, 5))
    gone.abort()
    await expect(first).rejects.toThrow()
    expect((await second).status).toBe(200)
    expect(stats.abandoned).toBe(1)
  })

  it('tells what went on', async () => {
    const { url } = await start()
    await fetch(url)
    expect(await (await fetch(`${url}/stats`)).json()).toMatchObject({ served: 1 })
    expect(await (await fetch(`${url}/health`)).json()).toEqual({ status: 'healthy' })
  })
})
