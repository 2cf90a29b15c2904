/**
 * The promise of admission, with real sockets: however many come at once, the upstream never sees more than `workers`,
 * everybody beyond the cap is told so at once, and afterwards nobody is left inside, whatever ended the exchanges.
 */

import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { startGateway, sumOf, type TestGateway } from '../support/gateway.ts'
import { field } from '../support/messages.ts'
import { problem, RawClient } from '../support/raw-client.ts'
import { type HttpUpstream, startHttpUpstream } from '../support/upstream.ts'

const MAX_CCU = 4
const WORKERS = 2
const STORM = 50

let upstream: HttpUpstream
let gateway: TestGateway
/** Answers held back by the upstream until `release()`. */
let held: (() => void)[] = []
let hold = true

beforeAll(async () => {
  upstream = await startHttpUpstream((request, response) => {
    const answer = () => {
      if (request.url === '/reset') request.socket.resetAndDestroy()
      else response.end('ok')
    }
    if (hold) held.push(answer)
    else answer()
  })
})
async function start(threads: number): Promise<void> {
  gateway = await startGateway({
    server: { threads },
    admission: { maxCCU: MAX_CCU, workers: WORKERS, maxQueue: MAX_CCU - WORKERS, queueTimeout: '10s' },
    upstreams: { app: { endpoints: [{ url: upstream.url }], timeouts: { firstByte: '5s' } } },
    routes: [
      { match: { pathPrefix: '/short' }, upstream: 'app', timeout: '300ms' },
      { match: { pathPrefix: '/' }, upstream: 'app' },
    ],
  })
}
beforeEach(() => {
  hold = true
  held = []
})
afterEach(() => gateway?.close())
afterAll(() => upstream?.close())

function release(): void {
  hold = false
  for (const answer of held.splice(0)) answer()
}

/** Every client has its connection before the first request leaves: the storm is as sudden as it gets. */
async function storm(path: string, n = STORM): Promise<RawClient[]> {
  const clients = Array.from({ length: n }, () => new RawClient(gateway.port))
  await Promise.all(clients.map((client) => new Promise((resolve) => client.socket.once('connect', resolve))))
  for (const client of clients) client.socket.write(`GET ${path} HTTP/1.1\r\nHost: a.test\r\n\r\n`)
  return clients
}

/** Waits until so many of the clients have been answered. */
async function answered(clients: RawClient[], n: number): Promise<void> {
  await eventually(() => clients.filter((client) => client.result().responses.length > 0).length >= n)
}

async function eventually(done: () => boolean | Promise<boolean>, timeoutMs = 10_000): Promise<void> {
  const deadline = performance.now() + timeoutMs
  while (!(await done())) {
    if (performance.now() > deadline) throw new Error('it did not happen in time')
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

function statuses(clients: RawClient[]): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const client of clients) {
    const { status } = client.result()
    counts[status] = (counts[status] ?? 0) + 1
  }
  return counts
}

/** Nobody is inside any more, and the ledger adds up. */
async function expectEmptyLedger(admitted?: number): Promise<void> {
  await eventually(async () => (await gateway.metric('current_ccu')) === 0)
  const text = await (await gateway.admin('/metrics')).text()
  const value = (name: string) => sumOf(text, name)
  expect(value('queue_size')).toBe(0)
  expect(value('max_ccu')).toBe(MAX_CCU)
  expect(value('fluxor_ccu_ledger_skew')).toBe(0)
  const total = value('fluxor_admission_admitted_total')!
  expect(value('fluxor_admission_completed_total')! + value('fluxor_admission_aborted_total')!).toBe(total)
  if (admitted !== undefined) expect(total).toBe(admitted)
}

/** The cap is whole again: as many as before are admitted, not one more or less. */
async function expectFullCap(): Promise<void> {
  hold = true
  held = []
  const clients = await storm('/again', MAX_CCU + 3)
  await answered(clients, 3)
  await eventually(() => held.length === WORKERS)
  expect(statuses(clients)).toEqual({ 0: MAX_CCU, 503: 3 })
  release()
  await answered(clients, MAX_CCU + 3)
  expect(statuses(clients)).toEqual({ 200: MAX_CCU, 503: 3 })
  for (const client of clients) client.close()
  await expectEmptyLedger()
}

describe.each([1, 2])('fifty at once against a cap of four, %i thread(s)', (threads) => {
  beforeEach(() => start(threads))

  it('four are served, two at a time; the rest are told at once, with Retry-After and a problem document', async () => {
    const startedMs = performance.now()
    const clients = await storm('/held')
    await answered(clients, STORM - MAX_CCU)
    const refusedMs = performance.now() - startedMs
    await eventually(() => held.length === WORKERS)
    expect(await gateway.metric('current_ccu')).toBe(MAX_CCU)
    expect(await gateway.metric('queue_size')).toBe(MAX_CCU - WORKERS)
    expect(upstream.inside).toBe(WORKERS)
    expect(statuses(clients)).toEqual({ 0: MAX_CCU, 503: STORM - MAX_CCU })
    expect(refusedMs).toBeLessThan(1000)
    for (const client of clients) {
      const response = client.result().responses[0]
      if (response === undefined) continue
      expect(Number(field(response, 'retry-after'))).toBeGreaterThanOrEqual(1)
      expect(problem(response)).toMatchObject({
        status: 503,
        code: 'BACKPRESSURE',
        reason: expect.stringMatching(/^(CCU|QUEUE)_FULL$/),
      })
      expect(client.ended, 'the connection is kept').toBe('')
    }
    release()
    await answered(clients, STORM)
    expect(statuses(clients)).toEqual({ 200: MAX_CCU, 503: STORM - MAX_CCU })
    for (const client of clients) client.close()
    expect(upstream.mostInside).toBeLessThanOrEqual(WORKERS)
    await expectEmptyLedger(MAX_CCU)
    await expectFullCap()
  })

  it('in many waves, quick answers: never more than two at the upstream', async () => {
    hold = false
    for (let wave = 0; wave < 10; wave++) {
      const clients = await storm('/quick')
      await answered(clients, STORM)
      for (const status of Object.keys(statuses(clients))) expect(['200', '503']).toContain(status)
      for (const client of clients) client.close()
    }
    expect(upstream.mostInside).toBeLessThanOrEqual(WORKERS)
    await expectEmptyLedger()
    await expectFullCap()
  })

  it('clients that leave half-way give their places back, in service and in the queue', async () => {
    for (let wave = 0; wave < 5; wave++) {
      hold = true
      held = []
      const clients = await storm('/left')
      await answered(clients, STORM - MAX_CCU)
      await eventually(() => held.length === WORKERS)
      for (const client of clients) client.reset()
      await eventually(async () => (await gateway.metric('current_ccu')) === 0)
    }
    await eventually(() => upstream.inside === 0)
    await expectEmptyLedger(5 * MAX_CCU)
    expect(await gateway.metric('fluxor_admission_aborted_total')).toBe(5 * MAX_CCU)
    await expectFullCap()
  })

  it('a client that leaves the queue lets the next one in', async () => {
    const clients = await storm('/queued', MAX_CCU)
    await eventually(async () => (await gateway.metric('queue_size')) === MAX_CCU - WORKERS)
    await eventually(() => held.length === WORKERS)
    const served = upstream.inside
    // Which two are being served cannot be seen from outside; all four leave, one by one, and the count follows.
    for (let left = 1; left <= MAX_CCU; left++) {
      clients[left - 1]!.reset()
      await eventually(async () => (await gateway.metric('current_ccu')) === MAX_CCU - left)
      expect(upstream.mostInside).toBeLessThanOrEqual(served)
    }
    await expectEmptyLedger(MAX_CCU)
    await expectFullCap()
  })

  it('exchanges that the upstream resets give their places back', async () => {
    for (let wave = 0; wave < 5; wave++) {
      hold = true
      const clients = await storm('/reset')
      await answered(clients, STORM - MAX_CCU)
      release()
      await answered(clients, STORM)
      expect(statuses(clients)).toEqual({ 502: MAX_CCU, 503: STORM - MAX_CCU })
      for (const client of clients) client.close()
    }
    await expectEmptyLedger(5 * MAX_CCU)
    await expectFullCap()
  })

  it('exchanges whose time is up give their places back', async () => {
    for (let wave = 0; wave < 3; wave++) {
      hold = true
      held = []
      const clients = await storm('/short')
      await answered(clients, STORM)
      const { 504: timedOut = 0, 503: refused = 0 } = statuses(clients)
      expect(timedOut + refused).toBe(STORM)
      expect(timedOut).toBeGreaterThanOrEqual(WORKERS)
      for (const client of clients) client.close()
      await eventually(() => upstream.inside === 0)
      await eventually(async () => (await gateway.metric('current_ccu')) === 0)
    }
    await expectEmptyLedger()
    await expectFullCap()
  })
})
