/** A thread that is lost: its neighbours go on, another takes its place, and what it held is given back. */

import { afterAll, afterEach, beforeAll, expect, it } from 'vitest'
import { startGateway, type TestGateway } from '../../support/gateway.ts'
import { RawClient, send } from '../../support/raw-client.ts'
import { type HttpUpstream, startHttpUpstream } from '../../support/upstream.ts'

let upstream: HttpUpstream
let gateway: TestGateway | undefined
let held: (() => void)[] = []
beforeAll(async () => {
  upstream = await startHttpUpstream((request, response) => {
    if (request.url === '/held') held.push(() => response.end('ok'))
    else response.end('ok')
  })
})
afterEach(() => gateway?.close())
afterAll(() => upstream?.close())

const get = (target: string) => `GET ${target} HTTP/1.1\r\nHost: a.test\r\n\r\n`

async function eventually(done: () => boolean | Promise<boolean>, timeoutMs = 15_000): Promise<void> {
  const deadline = performance.now() + timeoutMs
  while (!(await done())) {
    if (performance.now() > deadline) throw new Error(`it did not happen in time\n${gateway?.output()}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

it('a thread that stands still is replaced, and its places come back', async () => {
  // A regular expression that takes for ever on the right text: the honest way to stop a thread from outside.
  gateway = await startGateway({
    server: { threads: 2, threadStall: '2s' },
    admission: { maxCCU: 20, workers: 20, maxQueue: 0 },
    upstreams: { app: { endpoints: [{ url: upstream.url }] } },
    routes: [
      { match: { pathRegex: '^/evil/(a+)+$' }, upstream: 'app' },
      { match: { pathPrefix: '/' }, upstream: 'app' },
    ],
  })
  held = []
  const clients = Array.from({ length: 20 }, () => new RawClient(gateway!.port))
  for (const client of clients) await client.send(get('/held'))
  await eventually(() => held.length === 20)
  expect((await send(gateway.port, get('/x'), { responses: 1 })).status).toBe(503)

  const evil = new RawClient(gateway.port)
  await evil.send(get(`/evil/${'a'.repeat(40)}!`))
  await gateway.waitForLog((line) => line.msg === 'a thread was replaced', 15_000)
  const cut = clients.filter((client) => client.result().ended !== '')
  expect(cut.length).toBeLessThan(20)
  await eventually(async () => (await gateway!.metric('current_ccu')) === 20 - cut.length)
  expect(await gateway.metric('fluxor_ccu_ledger_skew')).toBe(0)

  for (const answer of held) answer()
  for (const client of clients) if (!cut.includes(client)) expect((await client.answers(1)).status).toBe(200)
  await eventually(async () => (await gateway!.metric('current_ccu')) === 0)
  for (let i = 0; i < 10; i++) expect((await send(gateway.port, get('/x'), { responses: 1 })).status).toBe(200)
  evil.close()
  for (const client of clients) client.close()
})

it('many reloads leave nothing behind, also of routes and upstreams that come and go', async () => {
  const config = (n: number) => ({
    server: { threads: 1, listen: [{ address: '127.0.0.1:0' }] },
    upstreams: { [`app${n % 3}`]: { endpoints: [{ url: upstream.url }], health: { path: '/health' } } },
    routes: [
      { match: { path: '/n' }, respond: { body: String(n) } },
      { name: `route-${n}`, match: { pathPrefix: '/' }, upstream: `app${n % 3}`, admission: { maxCCU: 10 } },
    ],
  })
  gateway = await startGateway(config(0))
  const reload = async (from: number, to: number) => {
    for (let n = from; n < to; n++) {
      const { writeFileSync } = await import('node:fs')
      const { configText } = await import('../../support/gateway.ts')
      writeFileSync(gateway!.configFile, configText(config(n)))
      const response = await gateway!.admin('/reload', { method: 'POST' })
      expect(response.status, await response.text()).toBe(200)
      expect((await send(gateway!.port, get('/x'), { responses: 1 })).status).toBe(200)
    }
  }
  await reload(1, 60)
  const before = gateway.rssBytes()
  await reload(60, 160)
  expect(await send(gateway.port, get('/n'), { responses: 1 }).then((r) => r.responses[0]!.body.toString())).toBe('159')
  expect(gateway.rssBytes() - before).toBeLessThan(40 * 2 ** 20)
})

it('a reload that fails half-way changes nothing and says why', async () => {
  const config = (extra: object) => ({
    upstreams: { app: { endpoints: [{ url: upstream.url }] }, ...extra },
    routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
  })
  gateway = await startGateway(config({}))
  const { writeFileSync } = await import('node:fs')
  const { configText } = await import('../../support/gateway.ts')
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
