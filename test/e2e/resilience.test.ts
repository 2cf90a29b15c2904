/** Upstreams that die, come back, or fail for a while: what clients see of it is as little as can be. */

import { createServer, type Server } from 'node:http'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { freePort } from '../support/free-port.ts'
import { startGateway, type TestGateway } from '../support/gateway.ts'
import { problem, type RawResult, send } from '../support/raw-client.ts'
import { SteadyLoad } from '../support/steady-load.ts'

let gateway: TestGateway | undefined
/** Services that answer 500 to /health and /fail. */
const sick = new Set<string>()
const servers: Server[] = []

/** A service that can be stopped and started again on the same port. */
async function service(name: string, port: number): Promise<{ stop(): Promise<void> }> {
  const server = createServer({ keepAliveTimeout: 60_000 }, (request, response) => {
    response.setHeader('x-service', name)
    if (sick.has(name) && (request.url === '/health' || request.url === '/fail')) response.statusCode = 500
    response.end(name)
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, '127.0.0.1', resolve)
  })
  servers.push(server)
  return {
    async stop() {
      const closed = new Promise((resolve) => server.close(resolve))
      server.closeAllConnections()
      await closed
    },
  }
}

let portA = 0
let portB = 0
beforeAll(async () => {
  portA = await freePort()
  portB = await freePort()
})
afterEach(async () => {
  sick.clear()
  await gateway?.close()
  gateway = undefined
  for (const server of servers.splice(0)) {
    server.closeAllConnections()
    server.close()
  }
})
afterAll(() => gateway?.close())

async function start(ports: number[], upstream: Record<string, unknown> = {}): Promise<TestGateway> {
  gateway = await startGateway({
    upstreams: { app: { endpoints: ports.map((port) => ({ url: `http://127.0.0.1:${port}` })), ...upstream } },
    routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
  })
  return gateway
}

function get(target = '/'): Promise<RawResult> {
  return send(gateway!.port, `GET ${target} HTTP/1.1\r\nHost: a.test\r\n\r\n`, { responses: 1 })
}

async function eventually(done: () => boolean | Promise<boolean>, timeoutMs = 10_000): Promise<void> {
  const deadline = performance.now() + timeoutMs
  while (!(await done())) {
    if (performance.now() > deadline) throw new Error(`it did not happen in time\n${gateway?.output()}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

describe('two endpoints, one of them dead', () => {
  it.each(['roundRobin', 'leastRequest', 'peakEwma', 'first'])('no GET fails with %s', async (balance) => {
    await service('b', portB)
    await start([portA, portB], { balance })
    const load = new SteadyLoad(gateway!.port, 4)
    await load.progress(1000)
    const counts = await load.stop()
    expect(counts.lost).toBe(0)
    expect(Object.keys(counts.statuses)).toEqual(['200'])
  })

  it('no GET fails when one dies under load and comes back', async () => {
    const a = await service('a', portA)
    await service('b', portB)
    await start([portA, portB], { balance: 'roundRobin' })
    const load = new SteadyLoad(gateway!.port, 10)
    await load.progress(300)
    await a.stop()
    await load.progress(300)
    await service('a', portA)
    await load.progress(300)
    const counts = await load.stop()
    expect(counts.lost).toBe(0)
    expect(Object.keys(counts.statuses)).toEqual(['200'])
  })
})

it('a single service that is down is 502 at once, and found again as soon as it is up', async () => {
  await start([portA])
  for (let i = 0; i < 5; i++) {
    const startedMs = performance.now()
    const result = await get()
    expect([result.status, problem(result.responses[0]!)['code']]).toEqual([502, 'UP_CONNECT'])
    expect(performance.now() - startedMs).toBeLessThan(1000)
  }
  const a = await service('a', portA)
  expect((await get()).status).toBe(200)
  await a.stop()
  expect((await get()).status).toBe(502)
  await service('a', portA)
  expect((await get()).status).toBe(200)
})

describe('health checks', () => {
  it('take an endpoint out and bring it back', async () => {
    await service('a', portA)
    await service('b', portB)
    const health = { path: '/health', interval: '100ms', timeout: '2s', rise: 2, fall: 2 }
    await start([portA, portB], { balance: 'roundRobin', health })
    const state = async () => {
      const upstreams = (await (await gateway!.admin('/upstreams')).json()) as { app: { url: string; state: string }[] }
      return upstreams.app.find(({ url }) => url.includes(`:${portA}`))?.state
    }
    const answeredBy = async () =>
      new Set(await Promise.all(Array.from({ length: 10 }, async () => (await get()).responses[0]?.body.toString())))
    await eventually(async () => (await answeredBy()).size === 2)
    sick.add('a')
    await eventually(async () => (await state()) === 'unhealthy')
    expect(await answeredBy()).toEqual(new Set(['b']))
    sick.delete('a')
    await eventually(async () => (await state()) === 'healthy')
    expect(await answeredBy()).toEqual(new Set(['a', 'b']))
  })
})

describe('the circuit breaker', () => {
  it('opens on failures, answers 503 meanwhile, and closes when a probe succeeds', async () => {
    await service('a', portA)
    await start([portA], {
      retry: { attempts: 0 },
      circuitBreaker: { errorRatio: 0.5, minRequests: 5, window: '10s', openFor: '500ms' },
    })
    sick.add('a')
    const statuses: number[] = []
    for (let i = 0; i < 20; i++) statuses.push((await get('/fail')).status)
    expect(new Set(statuses.slice(0, 5))).toEqual(new Set([500]))
    expect(statuses.at(-1)).toBe(503)
    const refused = (await get('/fail')).responses[0]!
    expect(problem(refused)['code']).toBe('BREAKER_OPEN')
    expect(refused.fields.some(([name]) => name.toLowerCase() === 'retry-after')).toBe(true)
    sick.delete('a')
    await eventually(async () => (await get('/fail')).status === 200)
    for (let i = 0; i < 10; i++) expect((await get('/fail')).status).toBe(200)
  })
})
