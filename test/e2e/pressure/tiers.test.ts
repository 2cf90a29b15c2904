/** Tiers, keys, deadlines and streams at the gate, as clients see them: who is let in, who is told what, and where it shows. */

import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { type ConfigObject, startGateway, type TestGateway } from '../../support/gateway.ts'
import { field } from '../../support/messages.ts'
import { problem, RawClient, type RawResponse, send } from '../../support/raw-client.ts'
import { type HttpUpstream, startHttpUpstream } from '../../support/upstream.ts'

let upstream: HttpUpstream
let gateway: TestGateway
let held: { url: string; answer: () => void }[] = []
beforeAll(async () => {
  upstream = await startHttpUpstream((request, response) => {
    const url = request.url ?? ''
    if (url.startsWith('/quick')) response.end('ok')
    else if (url.startsWith('/events')) {
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      response.write('data: 1\n\n')
      held.push({ url, answer: () => response.end() })
    } else held.push({ url, answer: () => response.end('ok') })
  })
})
beforeEach(() => {
  held = []
})
afterEach(() => gateway?.close())
afterAll(() => upstream?.close())

const clients: RawClient[] = []
afterEach(() => {
  for (const client of clients.splice(0)) client.close()
})

async function start(admission: ConfigObject, more: ConfigObject = {}): Promise<void> {
  gateway = await startGateway({
    admission: { queueTimeout: '20s', ...admission },
    upstreams: { app: { endpoints: [{ url: upstream.url }] } },
    routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
    ...more,
  })
}

async function ask(target: string, fields: string[] = []): Promise<RawClient> {
  const client = new RawClient(gateway.port)
  clients.push(client)
  await client.send([`GET ${target} HTTP/1.1`, 'Host: a.test', ...fields, '', ''].join('\r\n'))
  return client
}

async function eventually(done: () => boolean | Promise<boolean>, timeoutMs = 10_000): Promise<void> {
  const deadline = performance.now() + timeoutMs
  while (!(await done())) {
    if (performance.now() > deadline) throw new Error(`it did not happen in time\n${gateway.output()}`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

const ccu = (n: number) => eventually(async () => (await gateway.metric('current_ccu')) === n)
const refusal = async (client: RawClient): Promise<[RawResponse, string]> => {
  const response = (await client.answers(1)).responses[0]!
  expect(response.status).toBe(503)
  return [response, String(problem(response)['reason'])]
}

const TIERS = {
  maxCCU: 6,
  workers: 3,
  maxQueue: 3,
  tierHeader: 'x-tier',
  defaultTier: 'standard',
  tiers: [
    { name: 'premium', guarantee: '50%' },
    { name: 'standard', guarantee: '17%' },
    { name: 'batch', guarantee: '0%' },
  ],
}
const TRUST = { server: { trustedProxies: ['127.0.0.0/8'] } }

describe.each([1, 2])('tiers with %i thread(s)', (threads) => {
  it('a premium request takes the place of a waiting batch request, and goes first when a worker is free', async () => {
    await start(TIERS, { server: { ...TRUST.server, threads } })
    const batch: RawClient[] = []
    for (let i = 1; i <= 6; i++) {
      batch.push(await ask(`/batch${i}`, ['X-Tier: batch']))
      await ccu(i)
    }
    const premium = await ask('/premium', ['X-Tier: premium'])
    await eventually(() => batch.some((client) => client.result().responses.length > 0))
    const [out] = batch.filter((client) => client.result().responses.length > 0)
    expect((await refusal(out!))[1]).toBe('CCU_TIER')
    expect(await gateway.metric('current_ccu')).toBe(6)
    expect(await gateway.metric('fluxor_tier_ccu', { tier: 'premium' })).toBe(1)
    expect(await gateway.metric('fluxor_tier_ccu', { tier: 'batch' })).toBe(5)
    expect(await gateway.metric('fluxor_tier_refusals_total', { tier: 'batch' })).toBe(1)
    expect(held).toHaveLength(3)
    held[0]!.answer()
    await eventually(() => held.length === 4)
    expect(held[3]!.url).toBe('/premium')
    held[3]!.answer()
    const answer = (await premium.answers(1)).responses[0]!
    expect(answer.status).toBe(200)
    expect(field(answer, 'server-timing')).toMatch(/^queue;dur=\d+(\.\d)?$/)
    for (let answered = 0; answered < 6; ) {
      await eventually(() => held.length > answered)
      held[answered++]!.answer()
    }
    await ccu(0)
    expect(await gateway.metric('fluxor_ccu_ledger_skew')).toBe(0)
  })
})

it('the tier field of a stranger is not believed', async () => {
  await start(TIERS, { logging: { access: { only: 'all' } } })
  expect(
    (await send(gateway.port, 'GET /quick HTTP/1.1\r\nHost: a\r\nX-Tier: premium\r\n\r\n', { responses: 1 })).status,
  ).toBe(200)
  const line = await gateway.waitForLog((entry) => entry['url.path'] === '/quick')
  expect(line['tier']).toBe('standard')
})

it('the access log tells tier and wait', async () => {
  await start({ ...TIERS, workers: 1 }, { ...TRUST, logging: { access: { only: 'all' } } })
  await ask('/first')
  await ccu(1)
  const second = await ask('/second', ['X-Tier: premium'])
  await ccu(2)
  held[0]!.answer()
  await eventually(() => held.length === 2)
  held[1]!.answer()
  await second.answers(1)
  const line = await gateway.waitForLog((entry) => entry['url.path'] === '/second')
  expect(line['tier']).toBe('premium')
  expect(Number(line['queue_ms'])).toBeGreaterThan(0)
})

it('a key may have so many in flight and no more, over all threads; others are not concerned', async () => {
  await start({ perKey: { key: 'header:X-Client', maxCCU: 2 } }, { server: { threads: 2 } })
  for (let i = 1; i <= 2; i++) {
    await ask('/held', ['X-Client: a'])
    await ccu(i)
  }
  for (let i = 0; i < 4; i++) expect((await refusal(await ask('/held', ['X-Client: a'])))[1]).toBe('CCU_KEY')
  expect((await (await ask('/quick', ['X-Client: b'])).answers(1)).status).toBe(200)
  held[0]!.answer()
  await ccu(1)
  expect((await (await ask('/quick', ['X-Client: a'])).answers(1)).status).toBe(200)
})

it('one key that asks a lot does not own the queue', async () => {
  await start({ maxCCU: 10, workers: 1, maxQueue: 9, fairBy: 'header:X-Client' })
  await ask('/first')
  await ccu(1)
  for (let i = 1; i <= 4; i++) {
    await ask(`/a${i}`, ['X-Client: a'])
    await ccu(1 + i)
  }
  await ask('/b1', ['X-Client: b'])
  await ccu(6)
  for (let i = 0; i < 6; i++) {
    await eventually(() => held.length === i + 1)
    held[i]!.answer()
  }
  expect(held.map(({ url }) => url)).toEqual(['/first', '/a1', '/b1', '/a2', '/a3', '/a4'])
})

it('who cannot be served in the time that he has is told at once', async () => {
  await start({ maxCCU: 20, workers: 1, maxQueue: 19, deadlineHeader: 'x-request-timeout-ms' })
  // About twenty a second fall free; five wait: a quarter of a second.
  for (let i = 0; i < 12; i++) {
    await ask(`/warm${i}`)
    await eventually(() => held.length === i + 1)
    await new Promise((resolve) => setTimeout(resolve, 50))
    held[i]!.answer()
  }
  await ccu(0)
  await ask('/busy')
  await ccu(1)
  for (let i = 0; i < 5; i++) await ask('/waiting')
  await ccu(6)
  const startedMs = performance.now()
  expect((await refusal(await ask('/hurry', ['X-Request-Timeout-Ms: 20'])))[1]).toBe('DEADLINE')
  expect((await refusal(await ask('/hurry', ['Grpc-Timeout: 20m'])))[1]).toBe('DEADLINE')
  expect(performance.now() - startedMs).toBeLessThan(1000)
  await ask('/patient', ['X-Request-Timeout-Ms: 60000'])
  await ccu(7)
})

it('event streams leave their place for a pool of their own, as long as there is room in it', async () => {
  await start({ maxCCU: 3, workers: 3, maxQueue: 0, maxStreams: 2 })
  for (let i = 1; i <= 3; i++) {
    await ask('/events')
    await eventually(() => held.length === i)
  }
  await eventually(async () => (await gateway.metric('current_streams')) === 2)
  await ccu(1)
  for (let i = 0; i < 2; i++) await ask('/held')
  await ccu(3)
  expect((await refusal(await ask('/held')))[1]).toBe('CCU_FULL')
  for (const { answer } of held) answer()
  await ccu(0)
  await eventually(async () => (await gateway.metric('current_streams')) === 0)
  expect(await gateway.metric('fluxor_ccu_ledger_skew')).toBe(0)
  expect(await gateway.metric('fluxor_in_service')).toBe(0)
})

it('tells a gateway in front how many places are free, and which 503 is for want of them', async () => {
  await start({ maxCCU: 4, workers: 3, maxQueue: 1, slotsHeader: true })
  const quick = (await (await ask('/quick')).answers(1)).responses[0]!
  expect(field(quick, 'fluxor-slots')).toMatch(/^free=2\b/) // itself has the third
  for (let i = 1; i <= 4; i++) {
    await ask('/held')
    await ccu(i)
  }
  const [response] = await refusal(await ask('/held'))
  expect(field(response, 'fluxor-slots')).toMatch(/^free=0\b/)
  expect(field(response, 'fluxor-shed')).toBe('CCU_FULL')
})

it('a reload that takes tiers away forgets nobody', async () => {
  await start(TIERS, TRUST)
  for (let i = 1; i <= 5; i++) {
    await ask('/held', ['X-Tier: batch'])
    await ccu(i)
  }
  gateway.reload({
    server: {
      listen: [{ address: `127.0.0.1:${gateway.port}` }],
      admin: { address: `127.0.0.1:${gateway.adminPort}` },
    },
    admission: { maxCCU: 6, workers: 3, maxQueue: 3 },
    upstreams: { app: { endpoints: [{ url: upstream.url }] } },
    routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
  })
  await gateway.waitForLog((line) => line.msg === 'config reloaded')
  for (let i = 0; i < 5; i++) {
    await eventually(() => held.length > i)
    held[i]!.answer()
  }
  await ccu(0)
  expect(await gateway.metric('fluxor_ccu_ledger_skew')).toBe(0)
})
