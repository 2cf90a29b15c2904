/**
 * A service that fails every request: what the gateway sends it is bounded, the breaker opens, asks again, and closes.
 * Counted at the service. Set NUMBERS=1 to have the counts printed.
 */

import { once } from 'node:events'
import { connect } from 'node:net'
import { afterEach, expect, it } from 'vitest'
import { type ConfigObject, startGateway, type TestGateway } from '../../support/gateway.ts'
import { field } from '../../support/messages.ts'
import { problem, RawClient, send } from '../../support/raw-client.ts'
import { SteadyLoad } from '../../support/steady-load.ts'
import { type HttpUpstream, startHttpUpstream } from '../../support/upstream.ts'

let gateway: TestGateway | undefined
let services: HttpUpstream[] = []
let failing = true
afterEach(async () => {
  await gateway?.close()
  for (const service of services) await service.close()
  services = []
  gateway = undefined
  failing = true
})

async function start(count: number, app: ConfigObject, failure: 'status' | 'reset' = 'status'): Promise<void> {
  for (let i = 0; i < count; i++) {
    services.push(
      await startHttpUpstream((request, response) => {
        if (!failing) response.end('ok')
        else if (failure === 'reset') request.socket.resetAndDestroy()
        else response.writeHead(500).end('no')
      }),
    )
  }
  gateway = await startGateway({
    upstreams: { app: { endpoints: services.map(({ url }) => ({ url })), ...app } },
    routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
  })
}

/** One after the other on one connection, for so long; milliseconds, sorted. */
async function timeRefusals(forMs: number): Promise<number[]> {
  const socket = connect({ port: gateway!.port, host: '127.0.0.1', noDelay: true })
  const tookMs: number[] = []
  const untilMs = performance.now() + forMs
  while (performance.now() < untilMs) {
    const startedMs = performance.now()
    socket.write('GET / HTTP/1.1\r\nHost: a.test\r\n\r\n')
    let text = ''
    while (!text.endsWith('}\n')) text += String((await once(socket, 'data'))[0])
    if (!text.startsWith('HTTP/1.1 503')) break
    tookMs.push(performance.now() - startedMs)
  }
  socket.destroy()
  return tookMs.sort((a, b) => a - b)
}

const asked = () => services.reduce((sum, { total }) => sum + total, 0)
const get = (client: RawClient) => client.send('GET / HTTP/1.1\r\nHost: a.test\r\n\r\n')

it.each([
  ['status', 1],
  ['status', 3],
  ['reset', 3],
] as const)('retries add a fifth, or three a second, no more (%s, %i endpoints)', async (failure, count) => {
  await start(count, { retry: { attempts: 3, on: ['connectError', 'reset', '5xx'] } }, failure)
  const startedMs = performance.now()
  const load = new SteadyLoad(gateway!.port, 8)
  await load.progress(1000)
  const counts = await load.stop()
  const seconds = (performance.now() - startedMs) / 1000
  const bound = 1.2 * counts.sent + 3 * seconds
  if (process.env['NUMBERS']) {
    console.log(
      `${failure}, ${count}: ${asked()} sent for ${counts.sent} received in ${seconds.toFixed(2)} s (at most ${bound.toFixed(1)})`,
    )
  }
  expect(asked()).toBeGreaterThan(counts.sent)
  expect(asked()).toBeLessThanOrEqual(bound)
  expect(counts.lost).toBe(0)
  expect(await gateway!.metric('fluxor_retries_total')).toBe(asked() - counts.sent)
  expect(await gateway!.metric('fluxor_retries_over_budget_total')).toBeGreaterThan(0)
})

it('the breaker opens, refuses at once, lets single probes pass, and closes when they succeed', async () => {
  const circuitBreaker = { errorRatio: 0.5, minRequests: 10, window: '5s', openFor: '1s', probes: 2 }
  await start(1, { circuitBreaker, retry: { attempts: 0 } })
  const breaker = async () => {
    const { app } = (await (await gateway!.admin('/upstreams')).json()) as { app: { breaker: string }[] }
    return app[0]!.breaker
  }
  const client = new RawClient(gateway!.port)
  client.socket.setMaxListeners(0)
  let n = 0
  const ask = async () => {
    await get(client)
    return (await client.answers(++n)).responses[n - 1]!
  }
  for (let i = 0; i < 10; i++) expect((await ask()).status).toBe(500)
  expect(await breaker()).toBe('open')
  const askedBefore = asked()
  const refused = await ask()
  expect([refused.status, problem(refused)['code']]).toEqual([503, 'BREAKER_OPEN'])
  expect(field(refused, 'retry-after')).toBe('1')
  const tookMs = await timeRefusals(200)
  expect(asked(), 'nothing was sent while it was open').toBe(askedBefore)
  if (process.env['NUMBERS']) {
    const at = (share: number) => tookMs[Math.floor(tookMs.length * share)]!.toFixed(2)
    console.log(`${tookMs.length} refusals: p50 ${at(0.5)} ms, p99 ${at(0.99)} ms`)
  }
  // A failed probe opens it again; each probe is one request.
  await gateway!.waitForLog(({ msg, to }) => msg === 'circuit breaker' && to === 'open')
  await new Promise((resolve) => setTimeout(resolve, 1000))
  expect((await ask()).status).toBe(500)
  expect((await ask()).status).toBe(503)
  expect(asked()).toBe(askedBefore + 1)
  failing = false
  const deadline = performance.now() + 5000
  while ((await ask()).status !== 200 && performance.now() < deadline) await new Promise((r) => setTimeout(r, 50))
  expect((await ask()).status).toBe(200)
  expect(await breaker()).toBe('closed')
  await gateway!.waitForLog(({ to }) => to === 'closed')
  const moves = gateway!.logs().filter(({ msg }) => msg === 'circuit breaker')
  expect(moves.map(({ from, to }) => `${from}>${to}`)).toEqual([
    'closed>open',
    'open>halfOpen',
    'halfOpen>open',
    'open>halfOpen',
    'halfOpen>closed',
  ])
  expect(await gateway!.metric('fluxor_upstream_endpoint_breaker', { upstream: 'app' })).toBe(0)
  client.close()
})

it('slow calls open it too', async () => {
  const service = await startHttpUpstream((_request, response) => setTimeout(() => response.end('ok'), 120))
  services.push(service)
  gateway = await startGateway({
    upstreams: {
      app: {
        endpoints: [{ url: service.url }],
        circuitBreaker: { minRequests: 5, slowCallRatio: 0.5, slowCall: '50ms', openFor: '10s' },
      },
    },
    routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
  })
  const statuses: number[] = []
  for (let i = 0; i < 8; i++) {
    statuses.push((await send(gateway.port, 'GET / HTTP/1.1\r\nHost: a.test\r\n\r\n', { responses: 1 })).status)
  }
  expect(statuses).toEqual([200, 200, 200, 200, 200, 503, 503, 503])
})
