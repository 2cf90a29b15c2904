/** Start, reload, drain and stop, under load, as an operator and a kubelet see them: no request is ever lost. */

import { createServer } from 'node:net'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { type ConfigObject, startGateway, type TestGateway } from '../support/gateway.ts'
import { RawClient, send } from '../support/raw-client.ts'
import { SteadyLoad } from '../support/steady-load.ts'
import { type HttpUpstream, startHttpUpstream } from '../support/upstream.ts'
import { type Condition, within } from '../support/within.ts'

/** NUMBERS=1: so often, and the figures are printed. */
const STOPS = process.env['NUMBERS'] === undefined ? 1 : 20

let upstream: HttpUpstream
let gateway: TestGateway | undefined
beforeAll(async () => {
  upstream = await startHttpUpstream((request, response) => {
    if (request.url === '/hang') return
    const delayMs = Number(new URL(request.url!, 'http://x').searchParams.get('ms') ?? 5)
    setTimeout(() => response.end('ok'), delayMs)
  })
})
afterEach(() => gateway?.close())
afterAll(() => upstream?.close())

const config = (version: string, server: ConfigObject = {}): ConfigObject => ({
  server: {
    ...(gateway
      ? { listen: [{ address: `127.0.0.1:${gateway.port}` }], admin: { address: `127.0.0.1:${gateway.adminPort}` } }
      : {}),
    ...server,
  },
  upstreams: { app: { endpoints: [{ url: upstream.url }] } },
  routes: [
    { match: { path: '/version' }, respond: { status: 200, body: version } },
    { match: { pathPrefix: '/' }, upstream: 'app' },
  ],
})

const get = (target: string) => `GET ${target} HTTP/1.1\r\nHost: a.test\r\n\r\n`

async function version(): Promise<string> {
  return (await send(gateway!.port, get('/version'), { responses: 1 })).responses[0]?.body.toString() ?? ''
}

const eventually = (done: Condition, timeoutMs = 10_000) => within(timeoutMs, done)

describe.each([1, 2])('with %i thread(s)', (threads) => {
  it('SIGTERM under fifty busy clients loses no request and exits with 0', async () => {
    let answered = 0
    for (let i = 0; i < STOPS; i++) {
      gateway = undefined
      gateway = await startGateway(config('v1', { threads }))
      // A connection made while the port closes may end in the kernel's accept queue: readinessDelay is for those.
      const load = new SteadyLoad(gateway.port, 50, { reconnect: false })
      await load.progress(200)
      const exit = gateway.stop('SIGTERM')
      const counts = await load.finished()
      expect(await exit).toBe(0)
      expect(counts.lost).toBe(0)
      expect(Object.keys(counts.statuses)).toEqual(['200'])
      answered += load.answered
    }
    if (STOPS > 1) console.log(`${threads} thread(s): ${STOPS} stops under load, ${answered} requests, 0 lost`)
  }, 300_000)

  it('reloads by signal under twenty busy clients lose no request', async () => {
    gateway = undefined
    gateway = await startGateway(config('v0', { threads }))
    const load = new SteadyLoad(gateway.port, 20)
    for (let n = 1; n <= 5; n++) {
      await load.progress(20)
      gateway.reload(config(`v${n}`, { threads }))
      await eventually(async () => (await version()) === `v${n}`)
    }
    const counts = await load.stop()
    expect(counts.lost).toBe(0)
    expect(Object.keys(counts.statuses)).toEqual(['200'])
    expect(counts.refused).toBe(0)
  })
})

describe('a bad file at reload', () => {
  it.each([
    ['an unknown key', 'version: 1\nroutes:\n  - match: { path: / }\n    hoem: {}\n'],
    ['no YAML', 'version: [1\n'],
    ['nothing', ''],
    ['no routes', 'version: 1\n'],
    ['an upstream that is not there', 'version: 1\nroutes:\n  - match: { path: / }\n    upstream: nobody\n'],
  ])('changes nothing and is reported: %s', async (_title, text) => {
    gateway = undefined
    gateway = await startGateway(config('good'))
    const load = new SteadyLoad(gateway.port, 5)
    await load.progress(5)
    const before = gateway.logs().length
    gateway.reload(text)
    await eventually(() =>
      gateway!
        .logs()
        .slice(before)
        .some((line) => Number(line['level']) >= 40),
    )
    expect(await version()).toBe('good')
    await load.progress(5)
    expect((await load.stop()).lost).toBe(0)
    gateway.reload(config('better'))
    await eventually(async () => (await version()) === 'better')
  })
})

describe('stopping', () => {
  it('readiness turns false first, while requests on open and new connections are served', async () => {
    gateway = undefined
    gateway = await startGateway(config('v1', { shutdown: { readinessDelay: '600ms', drain: '5s' } }))
    expect((await gateway.admin('/readyz')).status).toBe(200)
    const exit = gateway.stop('SIGTERM')
    await eventually(async () => (await gateway!.admin('/readyz')).status === 503)
    expect((await gateway.admin('/livez')).status).toBe(200)
    expect((await send(gateway.port, get('/new'), { responses: 1 })).status).toBe(200)
    expect(await exit).toBe(0)
  })

  it('a slow answer is waited for, and says that the connection closes', async () => {
    gateway = undefined
    gateway = await startGateway(config('v1'))
    const client = new RawClient(gateway.port)
    await client.send(get('/slow?ms=700'), 100)
    const exit = gateway.stop('SIGTERM')
    const result = await client.end()
    expect(result.status).toBe(200)
    expect(result.bytes.toString('latin1')).toMatch(/\r\nConnection: close\r\n/i)
    expect(await exit).toBe(0)
  })

  it('idle connections close within a second', async () => {
    gateway = undefined
    gateway = await startGateway(config('v1'))
    const client = new RawClient(gateway.port)
    await client.send(get('/x'))
    await client.answers(1)
    const startedMs = performance.now()
    expect(await gateway.stop('SIGTERM')).toBe(0)
    expect(performance.now() - startedMs).toBeLessThan(2000)
    client.close()
  })

  it('what is not done at the end of the drain is cut, and the exit code says so', async () => {
    gateway = undefined
    gateway = await startGateway(config('v1', { shutdown: { drain: '500ms' } }))
    const client = new RawClient(gateway.port)
    await client.send(get('/hang'), 100)
    const startedMs = performance.now()
    expect(await gateway.stop('SIGTERM')).toBe(1)
    expect(performance.now() - startedMs).toBeLessThan(3000)
    expect((await client.end()).ended).not.toBe('')
    client.close()
  })

  it('a second signal stops at once', async () => {
    gateway = undefined
    gateway = await startGateway(config('v1', { shutdown: { drain: '30s' } }))
    const client = new RawClient(gateway.port)
    await client.send(get('/hang'), 100)
    gateway.signal('SIGTERM')
    await new Promise((resolve) => setTimeout(resolve, 200))
    expect(gateway.running).toBe(true)
    const startedMs = performance.now()
    expect(await gateway.stop('SIGINT')).toBe(1)
    expect(performance.now() - startedMs).toBeLessThan(2000)
    client.close()
  })
})

describe('starting', () => {
  it('on a port that is taken fails with exit code 1 and says which', async () => {
    gateway = undefined
    const taken = createServer()
    await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve))
    const { port } = taken.address() as { port: number }
    try {
      await expect(startGateway(config('v1', { listen: [{ address: `127.0.0.1:${port}` }] }))).rejects.toThrow(
        String(port),
      )
    } finally {
      taken.close()
    }
  })
})
