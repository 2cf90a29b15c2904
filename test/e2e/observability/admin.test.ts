/** What the admin and probes listeners of a running gateway serve, and to whom. */

import { execFile } from 'node:child_process'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { freePort } from '../../support/free-port.ts'
import { startGateway, type TestGateway } from '../../support/gateway.ts'
import { findOnPath } from '../../support/services.ts'
import { SteadyLoad } from '../../support/steady-load.ts'
import { nowSec, signedToken } from '../../support/tokens.ts'
import { type HttpUpstream, startHttpUpstream } from '../../support/upstream.ts'

let upstream: HttpUpstream
let gateway: TestGateway | undefined
beforeAll(async () => {
  upstream = await startHttpUpstream((_, response) => setTimeout(() => response.end('ok'), 5))
})
afterAll(() => upstream?.close())
afterEach(async () => {
  await gateway?.close()
  gateway = undefined
})

const routes = [
  { match: { path: '/' }, home: {} },
  { name: 'app', match: { pathPrefix: '/app' }, upstream: 'app' },
]
const config = (server: Record<string, unknown> = {}, more: Record<string, unknown> = {}) => ({
  server,
  upstreams: { app: { endpoints: [{ url: upstream.url }] } },
  routes,
  ...more,
})

describe('/metrics of a running gateway', () => {
  it('is clean for promtool, and has no metric that docs/metrics.md does not list', async () => {
    gateway = await startGateway(config({ threads: 2 }, { identity: { jwt: { main: { secret: 'x'.repeat(32), algorithms: ['HS256'] } } } })) // biome-ignore format: short
    const load = new SteadyLoad(gateway.port, 4, { text: 'GET /app HTTP/1.1\r\nHost: a.test\r\n\r\n' })
    await load.progress(50)
    await load.stop()
    await expect.poll(() => gateway!.metric('fluxor_threads')).toBe(2)
    const text = await (await gateway.admin('/metrics')).text()
    const { readFileSync } = await import('node:fs')
    const documented = new Set(
      [...readFileSync('docs/metrics.md', 'utf8').matchAll(/^\| `([a-z_0-9]+)/gm)].map(([, name]) => name),
    )
    const exported = [...text.matchAll(/^# TYPE (\S+)/gm)].map(([, name]) => name!)
    expect(exported.length).toBeGreaterThan(70)
    expect(exported.filter((name) => !documented.has(name))).toEqual([])
    const promtool = findOnPath('promtool')
    if (promtool === undefined) return
    const checked = await new Promise<string>((resolve) => {
      const child = execFile(promtool, ['check', 'metrics'], (error, stdout, stderr) => resolve(String(error ?? '') + stdout + stderr)) // biome-ignore format: short
      child.stdin!.end(text)
    })
    expect(checked).toBe('')
  })

  it('of 200 routes leaves the threads that carry traffic alone', async () => {
    const many = Array.from({ length: 200 }, (_, i) => ({
      name: `route-${i}`,
      match: { path: `/r${i}` },
      respond: { status: 200, body: 'ok' },
    }))
    gateway = await startGateway({ server: { threads: 2 }, routes: many })
    await Promise.all(
      many.flatMap(({ match }) => ['GET', 'POST', 'PUT'].map((method) => fetch(gateway!.url + match.path, { method }).then((r) => r.text()))),
    ) // biome-ignore format: one thought
    let scrapes = 0
    let bytes = 0
    const untilMs = performance.now() + 3000
    while (performance.now() < untilMs) {
      const text = await (await gateway.admin('/metrics')).text()
      bytes = text.length
      scrapes++
      expect(text).toContain('route="route-199"')
    }
    expect(scrapes).toBeGreaterThan(5)
    expect(bytes).toBeGreaterThan(200_000)
    // CPU and not delay: on a busy machine everybody's timers are late
    for (const thread of ['0', '1']) {
      expect(await gateway.metric('fluxor_thread_cpu_utilization', { thread })).toBeLessThan(0.25)
    }
  })
})

describe('the counters of a running gateway', () => {
  it('tell what the cache and the verified tokens have saved, and every thread apart', async () => {
    const secret = 'a-secret-that-is-long-enough-for-hs256'
    const cacheable = await startHttpUpstream((_, response) => {
      response.setHeader('cache-control', 'max-age=60')
      setTimeout(() => response.end('ok'), 50)
    })
    try {
      gateway = await startGateway({
        identity: { jwt: { main: { secret, algorithms: ['HS256'] } } },
        cache: {},
        upstreams: { app: { endpoints: [{ url: cacheable.url }] } },
        routes: [
          { name: 'cached', match: { path: '/cached' }, upstream: 'app', cache: {} },
          { name: 'private', match: { path: '/private' }, upstream: 'app', jwt: 'main' },
        ],
      })
      const ask = async (path: string, headers = {}) => (await fetch(gateway!.url + path, { headers })).text()
      await Promise.all([ask('/cached'), ask('/cached'), ask('/cached')])
      await ask('/cached')
      const authorization = `Bearer ${signedToken({ sub: 'alice', exp: nowSec() + 600 }, secret)}`
      for (let i = 0; i < 3; i++) expect(await ask('/private', { authorization })).toBe('ok')
      const metric =
        (name: string, labels = {}) =>
        () =>
          gateway!.metric(name, labels)
      await expect.poll(metric('fluxor_cache_coalesced_total'), { timeout: 5000 }).toBe(2)
      expect(await metric('fluxor_cache_requests_total', { result: 'hit' })()).toBeGreaterThanOrEqual(1)
      expect(await metric('fluxor_cache_entries')()).toBe(1)
      expect(await metric('fluxor_cache_bytes')()).toBeGreaterThan(0)
      await expect.poll(metric('fluxor_jwt_cache_hits_total'), { timeout: 5000 }).toBe(2)
      expect(await metric('fluxor_jwt_cache_misses_total')()).toBe(1)
      expect(await metric('fluxor_thread_loop_utilization', { thread: '0' })()).toBeGreaterThanOrEqual(0)
      expect(await metric('fluxor_upstream_requests_total')()).toBe(4)
    } finally {
      await cacheable.close()
    }
  })
})

describe('the probes listener', () => {
  it('serves probes and metrics to anybody, metrics only with their token when there is one, and nothing else', async () => {
    const port = await freePort()
    gateway = await startGateway(
      config({ probes: { address: `127.0.0.1:${port}` }, admin: { address: '127.0.0.1:0', metricsToken: 'scraper' } }),
    )
    const ask = async (path: string, headers = {}) =>
      (await fetch(`http://127.0.0.1:${port}${path}`, { headers })).status
    expect(await ask('/livez')).toBe(200)
    expect(await ask('/readyz')).toBe(200)
    expect(await ask('/metrics')).toBe(401)
    expect(await ask('/metrics', { authorization: 'Bearer scraper' })).toBe(200)
    for (const path of ['/config', '/dashboard', '/upstreams', '/scale']) expect(await ask(path)).toBe(404)
  })
})

describe('the admin listener', () => {
  it('takes another token at a reload', async () => {
    const token = 'the-first-token-of-all'
    gateway = await startGateway(config({ admin: { address: '127.0.0.1:0', token } }))
    const ask = async (bearer: string) =>
      (await gateway!.admin('/config', { headers: { authorization: `Bearer ${bearer}` } })).status
    expect(await ask(token)).toBe(200)
    const { port, adminPort } = gateway
    const address = `127.0.0.1:${adminPort}`
    gateway.reload(
      config({ listen: [{ address: `127.0.0.1:${port}` }], admin: { address, token: 'the-second-token' } }),
    )
    await expect.poll(() => ask('the-second-token'), { timeout: 10_000 }).toBe(200)
    expect(await ask(token)).toBe(401)
  })

  it('shows the config without its secrets', async () => {
    const secret = 'do-not-show-this-to-anybody-ever'
    gateway = await startGateway(config({}, { identity: { jwt: { main: { secret, algorithms: ['HS256'] } } } }))
    const text = await (await gateway.admin('/config')).text()
    expect(text).toContain('"algorithms"')
    expect(text).not.toContain(secret)
  })

  it('tells how many instances the load wants', async () => {
    gateway = await startGateway(config({}, { admission: { maxCCU: 8, queueTimeout: '20ms' } }))
    const scale = async (query = '') =>
      (await gateway!.admin(`/scale${query}`)).json() as Promise<Record<string, number>>
    expect(await scale()).toMatchObject({ load: 0, desiredReplicas: 1 })
    const load = new SteadyLoad(gateway.port, 30, { text: 'GET /app HTTP/1.1\r\nHost: a.test\r\n\r\n' })
    await expect
      .poll(async () => (await scale('?replicas=3'))['desiredReplicas'], { timeout: 15_000 })
      .toBeGreaterThan(3)
    await load.stop()
    expect((await gateway.admin('/scale?replicas=x')).status).toBe(400)
  })

  it('tells the age and keys of a JWKS, and that it could not be fetched', async () => {
    let status = 200
    const keys = { keys: [{ kty: 'RSA', kid: 'k1', alg: 'RS256', use: 'sig', n: 'sXchTz9', e: 'AQAB' }] }
    const issuer: Server = createServer((_, response) => response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(keys))) // biome-ignore format: short
    await new Promise<void>((resolve) => issuer.listen(0, '127.0.0.1', resolve))
    try {
      status = 500
      const url = `http://127.0.0.1:${(issuer.address() as AddressInfo).port}/jwks`
      gateway = await startGateway(
        config({ threads: 2 }, { identity: { jwt: { main: { jwks: { url }, algorithms: ['RS256'] } } }, routes: [{ match: { pathPrefix: '/' }, upstream: 'app', jwt: 'main' }] }),
      ) // biome-ignore format: short
      await expect.poll(() => gateway!.metric('fluxor_jwks_last_fetch_success', { url }), { timeout: 10_000 }).toBe(0)
      const [set] = (await (await gateway.admin('/jwks')).json()) as { url: string; lastError: string }[]
      expect(set).toMatchObject({ url, kids: [], lastError: expect.stringContaining('500') })
    } finally {
      issuer.close()
    }
  })
})

describe('profiles', () => {
  it('are not there unless the config offers them', async () => {
    gateway = await startGateway(config())
    expect((await gateway.admin('/debug/pprof/profile?seconds=1')).status).toBe(404)
    expect((await gateway.admin('/debug/pprof/heap')).status).toBe(404)
  })

  it('are of the thread that is asked for: a .cpuprofile, pprof, a heap snapshot', async () => {
    gateway = await startGateway(config({ threads: 2, admin: { address: '127.0.0.1:0', profiling: true } }))
    const load = new SteadyLoad(gateway.port, 8, { text: 'GET /app HTTP/1.1\r\nHost: a.test\r\n\r\n' })
    await load.progress(10)
    const [profile, busy] = await Promise.all([
      gateway.admin('/debug/pprof/profile?seconds=1&thread=1'),
      new Promise((resolve) => setTimeout(resolve, 300)).then(() => gateway!.admin('/debug/pprof/profile?seconds=1')),
    ])
    expect(busy.status).toBe(409)
    const { nodes } = (await profile.json()) as { nodes: { callFrame: { url: string } }[] }
    expect(nodes.some(({ callFrame }) => callFrame.url.includes('/src/'))).toBe(true)
    await load.stop()
    const pprof = new Uint8Array(await (await gateway.admin('/debug/pprof/profile?seconds=1&format=pprof&thread=main')).arrayBuffer()) // biome-ignore format: short
    expect([pprof[0], pprof[1]]).toEqual([0x1f, 0x8b])
    const heap = await (await gateway.admin('/debug/pprof/heap?thread=0')).text()
    expect(JSON.parse(heap)).toHaveProperty('snapshot.meta')
    expect((await gateway.admin('/debug/pprof/profile?thread=2')).status).toBe(404)
    expect((await gateway.admin('/debug/pprof/profile?seconds=0')).status).toBe(400)
  })
})

describe('tracing', () => {
  it('exports spans of an exchange, and the upstream gets the id of its own', async () => {
    const bodies: string[] = []
    const collector = await startHttpUpstream((request, response) => {
      let body = ''
      request.on('data', (chunk) => (body += String(chunk)))
      request.on('end', () => {
        bodies.push(body)
        response.end('{}')
      })
    })
    const seen: string[] = []
    const traced = await startHttpUpstream((request, response) => {
      seen.push(...(request.headersDistinct['traceparent'] ?? []))
      response.end('ok')
    })
    try {
      gateway = await startGateway({
        tracing: { otlp: { endpoint: `${collector.url}/v1/traces` } },
        upstreams: { app: { endpoints: [{ url: traced.url }] } },
        routes: [{ name: 'orders', match: { pathPrefix: '/' }, upstream: 'app' }],
      })
      const trace = '4bf92f3577b34da6a3ce929d0e0e4736'
      const headers = { traceparent: `00-${trace}-00f067aa0ba902b7-01` }
      expect((await fetch(`${gateway.url}/a`, { headers })).status).toBe(200)
      await expect.poll(() => bodies.length, { timeout: 10_000 }).toBeGreaterThan(0)
      const [server, client] = JSON.parse(bodies[0]!).resourceSpans[0].scopeSpans[0].spans
      expect(server).toMatchObject({ traceId: trace, parentSpanId: '00f067aa0ba902b7', name: 'GET orders' })
      expect(seen).toEqual([`00-${trace}-${client.spanId}-01`])
      expect(client.parentSpanId).toBe(server.spanId)
    } finally {
      await collector.close()
      await traced.close()
    }
  })
})
