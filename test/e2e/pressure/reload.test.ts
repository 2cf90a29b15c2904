/**
 * Reloads by the dozen under load, with WebSockets open all the while: nobody notices, and nothing of a config that is no more
 * stays behind. NUMBERS=1: a thousand, and the figures are printed.
 */

import { writeFileSync } from 'node:fs'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { WebSocket, WebSocketServer } from 'ws'
import { configText, startGateway, type TestGateway } from '../../support/gateway.ts'
import { liveHeapBytes, openDescriptors } from '../../support/live-heap.ts'
import { send } from '../../support/raw-client.ts'
import { SteadyLoad } from '../../support/steady-load.ts'
import { type HttpUpstream, startHttpUpstream } from '../../support/upstream.ts'

const FULL = process.env['NUMBERS'] !== undefined
const RELOADS = FULL ? 1000 : 50
/** Until then caches and tables fill; what is alive is measured from here on. */
const WARM_UP = RELOADS / 5
const CLIENTS = 20
const SOCKETS = 20
const MIB = 2 ** 20
const GROWTH_AT_MOST_MIB = 3
const PAUSE_MS = 20

let upstream: HttpUpstream
let sockets: WebSocketServer
let gateway: TestGateway | undefined
beforeAll(async () => {
  upstream = await startHttpUpstream((_request, response) => {
    setTimeout(() => response.end('ok'), 2)
  })
  sockets = new WebSocketServer({ server: upstream.server })
  sockets.on('connection', (socket) => socket.on('message', (data) => socket.send(data)))
})
afterEach(() => gateway?.close())
afterAll(async () => {
  for (const socket of sockets.clients) socket.terminate()
  sockets.close()
  await upstream.close()
})

/** Much of it changes with `n`, and some comes and goes; what carries the load and the WebSockets stays. */
const config = (threads: number, n: number) => ({
  server: {
    threads,
    threadStall: 0, // a heap snapshot stops its thread for longer
    listen: [{ address: '127.0.0.1:0' }],
    admin: { address: '127.0.0.1:0', profiling: true },
  },
  admission: { maxCCU: 500 + (n % 9), utilizationPercent: 60 + (n % 7) },
  identity: { jwt: { main: { secret: `a-secret-of-at-least-32-bytes-${n % 3}`, algorithms: ['HS256'] } } },
  rateLimits: { perIp: { key: 'ip', limit: 100_000 + n, window: '1s' } },
  cache: { memory: { maxBytes: '1MiB' } },
  upstreams: {
    app: { endpoints: [{ url: upstream.url }], balance: n % 2 === 0 ? 'leastRequest' : 'roundRobin' },
    [`only${n % 5}`]: {
      endpoints: [{ url: upstream.url }],
      health: { path: '/health', interval: '1s' },
      circuitBreaker: {},
      outlier: {},
    },
  },
  routes: [
    { match: { path: '/n' }, respond: { body: String(n) } },
    { match: { pathPrefix: '/jwt' }, upstream: 'app', jwt: 'main' },
    { match: { pathPrefix: '/cached' }, upstream: 'app', cache: { ttl: '1s' }, compression: true },
    { name: `only-${n % 5}`, match: { pathPrefix: '/only' }, upstream: `only${n % 5}`, admission: { maxCCU: 10 } },
    { match: { pathPrefix: '/' }, upstream: 'app', rateLimit: ['perIp'] },
  ],
})

const get = (target: string) => `GET ${target} HTTP/1.1\r\nHost: a.test\r\n\r\n`

async function eventually(what: string, done: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 20_000
  while (!(await done())) {
    if (performance.now() > deadline) throw new Error(`${what}: not in time\n${gateway!.output().slice(-2000)}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

/** A WebSocket that is asked now and then, and must be there to the end. */
class Talk {
  asked = 0
  answered = 0
  closed = false
  readonly #socket: WebSocket

  constructor(port: number) {
    this.#socket = new WebSocket(`ws://127.0.0.1:${port}/ws`)
    this.#socket.on('message', () => this.answered++)
    this.#socket.on('close', () => {
      this.closed = true
    })
    this.#socket.on('error', () => {})
  }

  get open(): boolean {
    return this.#socket.readyState === WebSocket.OPEN
  }

  ask(): void {
    this.asked++
    this.#socket.send('are you there?')
  }

  end(): void {
    this.#socket.terminate()
  }
}

describe.each([1, 2])('with %i thread(s)', (threads) => {
  it(`${RELOADS} reloads: no request fails, no WebSocket closes, nothing grows`, async () => {
    gateway = await startGateway(config(threads, 0))
    const { port } = gateway
    const reload = async (n: number) => {
      writeFileSync(gateway!.configFile, configText(config(threads, n)))
      const response = await gateway!.admin('/reload', { method: 'POST' })
      expect(response.status, await response.text()).toBe(200)
    }
    const heapMiB = async () => {
      let bytes = 0
      for (const thread of threads === 1 ? ['main' as const] : ['main' as const, 0, 1])
        bytes += await liveHeapBytes(gateway!, thread)
      return bytes / MIB
    }
    const talks = Array.from({ length: SOCKETS }, () => new Talk(port))
    await eventually('all WebSockets are open', () => talks.every(({ open }) => open))
    for (let n = 1; n <= 5; n++) await reload(n)
    await send(port, get('/only'), { responses: 1 })
    upstream.server.closeIdleConnections()
    const descriptors = openDescriptors(gateway)

    const load = new SteadyLoad(port, CLIENTS)
    await load.progress(CLIENTS)
    let before = { heapMiB: 0, rssMiB: 0 }
    const lives: string[] = []
    const startedMs = performance.now()
    let reloadingMs = 0
    for (let n = 1; n <= RELOADS; n++) {
      if (n === WARM_UP) before = { heapMiB: await heapMiB(), rssMiB: gateway.rssBytes() / MIB }
      if (FULL && n % WARM_UP === 0) lives.push((await heapMiB()).toFixed(2))
      const fromMs = performance.now()
      await reload(n)
      reloadingMs += performance.now() - fromMs
      expect((await send(port, get('/n'), { responses: 1 })).responses[0]!.body.toString()).toBe(String(n))
      if (n % 10 === 0) {
        for (const talk of talks) talk.ask()
        await send(port, get('/only'), { responses: 1 })
        await send(port, get('/cached'), { responses: 1 })
      }
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS))
    }
    const seconds = (performance.now() - startedMs) / 1000
    const counts = await load.stop()
    await eventually('every WebSocket answers', () => talks.every(({ asked, answered }) => answered === asked))
    const after = { heapMiB: await heapMiB(), rssMiB: gateway.rssBytes() / MIB }
    await eventually('descriptors are as before', () => {
      upstream.server.closeIdleConnections()
      return openDescriptors(gateway!) <= descriptors
    })
    if (FULL) {
      console.log(
        `${threads} thread(s): ${RELOADS} reloads in ${seconds.toFixed(0)} s (${(reloadingMs / RELOADS).toFixed(1)} ms each), ` +
          `${counts.sent} requests ${JSON.stringify(counts.statuses)}, lost ${counts.lost}, refused ${counts.refused}; ` +
          `${SOCKETS} WebSockets, closed ${talks.filter(({ closed }) => closed).length}, ${talks[0]!.answered} answers each; ` +
          `live heap every ${WARM_UP}: ${lives.join(', ')} MiB, at the end ${after.heapMiB.toFixed(2)}; ` +
          `RSS ${before.rssMiB.toFixed(0)} and ${after.rssMiB.toFixed(0)} MiB; descriptors ${descriptors} and ${openDescriptors(gateway)}`,
      )
    }
    expect(counts).toEqual({ sent: counts.sent, statuses: { 200: counts.sent }, lost: 0, refused: 0 })
    expect(talks.filter(({ closed }) => closed)).toEqual([])
    expect(after.heapMiB - before.heapMiB).toBeLessThan(GROWTH_AT_MOST_MIB)
    expect(await gateway.metric('current_streams')).toBe(SOCKETS)
    expect(await gateway.metric('current_ccu')).toBe(0)
    expect(await gateway.metric('fluxor_ccu_ledger_skew')).toBe(0)
    for (const talk of talks) talk.end()
    await eventually('streams end', async () => (await gateway!.metric('current_streams')) === 0)
  }, 3_000_000)
})

it('a reload that fails half-way changes nothing and says why', async () => {
  const config = (extra: object) => ({
    upstreams: { app: { endpoints: [{ url: upstream.url }] }, ...extra },
    routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
  })
  gateway = await startGateway(config({}))
  writeFileSync(
    gateway.configFile,
    configText(config({ next: { endpoints: [{ url: 'https://127.0.0.1:1' }], tls: { ca: '/nowhere.pem' } } })),
  )
  const response = await gateway.admin('/reload', { method: 'POST' })
  expect(response.status).toBe(422)
  expect(await gateway.metric('config_last_reload_success')).toBe(0)
  expect(Object.keys((await (await gateway.admin('/upstreams')).json()) as object)).toEqual(['app'])
  expect((await send(gateway.port, get('/x'), { responses: 1 })).status).toBe(200)
})
