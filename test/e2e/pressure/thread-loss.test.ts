/**
 * A thread that dies under load, by an error, for want of memory, or because it stands still: what it had in flight is lost, the
 * rest goes on, and another takes its place. NUMBERS=1: several times each, with the figures.
 */

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest'
import { startGateway, sumOf, type TestGateway } from '../../support/gateway.ts'
import { openDescriptors } from '../../support/live-heap.ts'
import { RawClient, send } from '../../support/raw-client.ts'
import { SteadyLoad } from '../../support/steady-load.ts'
import { breakThread, faultsEnv, type ThreadFault } from '../../support/thread-faults.ts'
import { type HttpUpstream, startHttpUpstream } from '../../support/upstream.ts'
import { type Condition, within } from '../../support/within.ts'

const FULL = process.env['NUMBERS'] !== undefined
const ROUNDS = FULL ? 4 : 1
const CLIENTS = 40
const STALL_MS = 2000

const folder = mkdtempSync(join(tmpdir(), 'fluxor-faults-'))
let upstream: HttpUpstream
let held: (() => void)[] = []
let gateway: TestGateway | undefined
beforeAll(async () => {
  // Of all lengths: there is always some of it in flight.
  let n = 0
  upstream = await startHttpUpstream((request, response) => {
    if (request.url === '/held') held.push(() => response.end('ok'))
    else setTimeout(() => response.end('ok'), 20 + ((n++ * 37) % 180))
  })
})
afterEach(() => gateway?.close())
afterAll(async () => {
  rmSync(folder, { recursive: true, force: true })
  await upstream.close()
})

const eventually = (what: string, done: Condition) =>
  within(30_000, done, () => `${what}\n${gateway!.output().slice(-2000)}`)

const get = (target: string) => `GET ${target} HTTP/1.1\r\nHost: a.test\r\n\r\n`

async function counts(): Promise<{ aborted: number; skew: number; replaced: number }> {
  const text = await (await gateway!.admin('/metrics')).text()
  return {
    aborted: sumOf(text, 'fluxor_admission_aborted_total')!,
    skew: sumOf(text, 'fluxor_ccu_ledger_skew')!,
    replaced: sumOf(text, 'fluxor_threads_replaced_total')!,
  }
}

it.each<[ThreadFault, string]>([
  ['throw', 'throws'],
  ['memory', 'runs out of memory'],
  ['stall', 'stands still'],
])(
  '%s: a thread that %s takes only its own in flight with it',
  async (fault) => {
    const socketPath = join(folder, fault)
    gateway = await startGateway(
      {
        server: { threads: 2, threadStall: `${STALL_MS}ms` },
        admission: { maxCCU: 200, workers: 200, maxQueue: 0 },
        upstreams: { app: { endpoints: [{ url: upstream.url }], retry: { attempts: 0 } } },
        routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
      },
      { env: faultsEnv(socketPath) },
    )
    let descriptors = 0
    for (let round = 0; round < ROUNDS; round++) {
      const load = new SteadyLoad(gateway.port, CLIENTS)
      await load.progress(10 * CLIENTS)
      const before = await counts()
      const connections = load.connections
      const atMs = performance.now()
      await breakThread(socketPath, fault, round % 2)
      await eventually('the thread is gone', async () => (await counts()).replaced === before.replaced + 1)
      const goneMs = performance.now()
      // Whoever was cut has come again, and everybody is served.
      await load.progress(10 * CLIENTS)
      const servedMs = performance.now()
      await gateway.waitForLog((line) => line.msg === 'a thread was replaced')
      await eventually(
        'it is replaced',
        () => gateway!.logs().filter(({ msg }) => msg === 'a thread was replaced').length === round + 1,
      )
      const replacedMs = performance.now()
      await load.progress(10 * CLIENTS)
      const result = await load.stop()
      const after = await counts()
      const cut = load.connections - connections
      if (FULL) {
        console.log(
          `${fault} of thread ${round % 2}: gone after ${(goneMs - atMs).toFixed(0)} ms, all served ${(servedMs - goneMs).toFixed(0)} ms later, ` +
            `replaced ${(replacedMs - goneMs).toFixed(0)} ms later; ${result.sent} requests, ${JSON.stringify(result.statuses)}, lost ${result.lost}, ` +
            `in flight there ${after.aborted - before.aborted}; connections made anew ${cut} of ${CLIENTS}; slowest answer ${load.slowestMs.toFixed(0)} ms; ` +
            `RSS ${(gateway.rssBytes() / 2 ** 20).toFixed(0)} MiB, descriptors ${openDescriptors(gateway)}`,
        )
      }
      expect(Object.keys(result.statuses)).toEqual(['200'])
      expect(result.sent).toBe(result.statuses['200']! + result.lost)
      expect(after.skew).toBe(0)
      expect(after.aborted - before.aborted, 'what it held is given back').toBeGreaterThan(0)
      // Of its connections each had one request under way or on its way to it; those of the other thread stayed.
      expect(result.lost).toBeGreaterThan(0)
      expect(result.lost).toBeLessThanOrEqual(cut)
      expect(cut).toBeLessThan(CLIENTS)
      await eventually('nobody is inside', async () => (await gateway!.metric('current_ccu')) === 0)
      await eventually('descriptors come back', () => {
        upstream.server.closeIdleConnections()
        if (round === 0) descriptors = openDescriptors(gateway!)
        return openDescriptors(gateway!) <= descriptors
      })
    }
    expect(await gateway.metric('fluxor_threads_replaced_total')).toBe(ROUNDS)
  },
  240_000,
)

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
  await eventually('all are held', () => held.length === 20)
  expect((await send(gateway.port, get('/x'), { responses: 1 })).status).toBe(503)

  const evil = new RawClient(gateway.port)
  await evil.send(get(`/evil/${'a'.repeat(40)}!`))
  await gateway.waitForLog((line) => line.msg === 'a thread was replaced', 15_000)
  const cut = clients.filter((client) => client.result().ended !== '')
  expect(cut.length).toBeLessThan(20)
  await eventually('places come back', async () => (await gateway!.metric('current_ccu')) === 20 - cut.length)
  expect(await gateway.metric('fluxor_ccu_ledger_skew')).toBe(0)

  for (const answer of held) answer()
  for (const client of clients) if (!cut.includes(client)) expect((await client.answers(1)).status).toBe(200)
  await eventually('nobody is inside', async () => (await gateway!.metric('current_ccu')) === 0)
  for (let i = 0; i < 10; i++) expect((await send(gateway.port, get('/x'), { responses: 1 })).status).toBe(200)
  evil.close()
  for (const client of clients) client.close()
})
