import { spawn } from 'node:child_process'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { fileURLToPath } from 'node:url'
import { stripVTControlCharacters } from 'node:util'
import { afterEach, describe, expect, it } from 'vitest'
import { count, millis, PLAIN_HEADER, plainLine, screen } from '../../../src/commands/top.ts'
import { type DashboardSample, History } from '../../../src/observability/history.ts'
import { createMetricsMemory } from '../../../src/shared/metrics.ts'
import { MetricsReader } from '../../../src/shared/metrics-reader.ts'

const MAIN = fileURLToPath(new URL('../../../src/main.ts', import.meta.url))

/** A sample as the gateway makes it, with what a busy second looks like on top. */
function sample(over: Partial<DashboardSample> = {}): DashboardSample {
  const reader = new MetricsReader(createMetricsMemory({ threads: 2 }))
  const base = new History({ reader, version: '1.2.3', originMs: 0 }, 0).sample(1000)
  const threads = base.threads.map((thread) => ({ ...thread, cpu: 0.5, loopUtilization: 0.97, connections: 7 }))
  return {
    ...base,
    ccu: 60, maxCCU: 80, normalCCU: 53, inService: 50, workers: 53, queued: 10, queueCapacity: 27,
    rps: 1234.5, p50: 12, p95: 1500, p99: 2000, status5xx: 20, shed: 17.5,
    refusals: { 'BACKPRESSURE/CCU_FULL': 17.5 },
    limits: { perIp: 3 },
    tiers: [{ name: 'premium', ccu: 30, guarantee: 40, refused: 2 }],
    upstreams: [
      {
        name: 'app', breaker: 'open',
        endpoints: [{ url: 'http://10.0.0.1:80', state: 'unhealthy', reason: 'check failed', inFlight: 3, weight: 1 }],
      },
    ],
    threads,
    routes: [{ name: 'orders', rps: 900, meanMs: 40, p95Ms: 80, errorRate: 0.02, bytesOut: 1000, cost: 36 }],
    ...over,
  } // biome-ignore format: a table
}

const plain = (_: unknown, text: string) => text

describe('the screen of top', () => {
  it('tells concurrency, latency, refusals, limits, tiers, endpoints, threads and routes', () => {
    const text = screen(sample(), { width: 100, height: Infinity, paint: plain }).join('\n')
    for (const part of [
      'CCU 60/80', '1235', '1.5s', 'BACKPRESSURE/CCU_FULL', '18/s', 'perIp', 'premium', '30 of 40', '2/s refused',
      'http://10.0.0.1:80', 'unhealthy', 'breaker open', 'check failed', '97% busy', 'orders', '2.0%',
    ]) expect(text).toContain(part) // biome-ignore format: a list
  })

  it('is never wider or higher than the terminal', () => {
    const painted = (_: unknown, text: string) => `\u001b[31m${text}\u001b[39m`
    for (const width of [12, 20, 46, 80, 200]) {
      for (const height of [3, 24]) {
        const rows = screen(sample(), { width, height, paint: painted })
        expect(rows.length).toBeLessThanOrEqual(height)
        for (const row of rows) expect(stripVTControlCharacters(row).length).toBeLessThanOrEqual(width)
      }
    }
  })

  it('shows a gateway that nobody has asked yet', () => {
    const idle = sample({
      maxCCU: 0,
      p50: null,
      p95: null,
      p99: null,
      routes: [],
      upstreams: [],
      tiers: [],
      refusals: {},
    })
    expect(screen(idle, { width: 80, height: 24, paint: plain })[0]).toContain('Fluxor Gateway')
  })
})

describe('a line of top in a pipe', () => {
  it('has as many columns as the header, and no colour', () => {
    const line = plainLine(sample())
    expect(line.trim().split(/ +/)).toHaveLength(PLAIN_HEADER.trim().split(/ +/).length)
    expect(stripVTControlCharacters(line)).toBe(line)
    expect(line).toMatch(/^00:00:01 +60 +80 +10 +1234\.5 +12ms +1\.5s/)
  })

  it('writes numbers short', () => {
    expect([count(0), count(9.94), count(123), count(12_345), count(123_456), count(5e6)]).toEqual(['0', '9.9', '123', '12.3k', '123k', '5.0M']) // biome-ignore format: short
    expect([millis(null), millis(0.25), millis(42.4), millis(2500)]).toEqual(['-', '0.3ms', '42ms', '2.5s'])
  })
})

describe('the command', () => {
  let server: Server | undefined
  afterEach(() => {
    server?.closeAllConnections()
    server?.close()
  })

  /** An admin listener of which only the event stream is there. */
  async function serve(handler: Parameters<typeof createServer>[1]): Promise<string> {
    server = createServer(handler as never)
    await new Promise<void>((resolve) => server!.listen(0, '127.0.0.1', resolve))
    return `127.0.0.1:${(server.address() as AddressInfo).port}`
  }

  async function run(args: string[], env: Record<string, string> = {}) {
    const child = spawn(process.execPath, [MAIN, 'top', ...args], { env: { ...process.env, ...env } })
    let out = ''
    let err = ''
    child.stdout.on('data', (chunk) => (out += String(chunk)))
    child.stderr.on('data', (chunk) => (err += String(chunk)))
    const code = await new Promise((resolve) => child.on('close', resolve))
    return { code, out, err }
  }

  it('looks once, and leaves control characters out of names', async () => {
    const routes = [{ ...sample().routes[0]!, name: 'evil\u001b[2Jname' }]
    const admin = await serve((_, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      response.write(`retry: 2000\ndata: ${JSON.stringify(sample({ routes }))}\n\n`)
    })
    const { code, out } = await run(['--once', '--admin', admin])
    expect(out).toContain('CCU 60/80')
    expect(out).toContain('evil?[2Jname')
    expect(out).not.toContain('\u001b')
    expect(code).toBe(0)
  })

  it('tells when the gateway ends, when there is none, and when it wants a token', async () => {
    const gone = await serve((_, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      response.end(`data: ${JSON.stringify(sample())}\n\n`)
    })
    const ended = await run(['--admin', gone])
    expect(ended.out).toContain(PLAIN_HEADER)
    expect(ended).toMatchObject({ code: 1, err: expect.stringContaining('has ended the stream') })
    server!.close()
    const wants = await serve((request, response) => {
      response.writeHead(request.headers.authorization === 'Bearer t' ? 503 : 401).end()
    })
    expect((await run(['--admin', wants])).err).toContain('wants its token')
    expect((await run(['--admin', wants], { ADMIN_TOKEN: 't' })).err).toContain('answered 503')
    server!.close()
    server!.closeAllConnections()
    expect(await run(['--admin', wants])).toMatchObject({ code: 1, err: expect.stringContaining('ECONNREFUSED') })
  })
})
