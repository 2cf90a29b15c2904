/** Hedging, mirroring, splits, faults, per-try timeouts, and what health checks look at. */

import { afterEach, describe, expect, it } from 'vitest'
import { type ConfigObject, startGateway, type TestGateway } from '../../support/gateway.ts'
import { field } from '../../support/messages.ts'
import { problem, type RawResult, send } from '../../support/raw-client.ts'
import { answer, bytesThenReset, hang, type RawUpstream, startRawUpstream } from '../../support/upstream.ts'
import { type Condition, within } from '../../support/within.ts'

let gateway: TestGateway | undefined
let upstreams: RawUpstream[] = []
afterEach(async () => {
  await gateway?.close()
  for (const upstream of upstreams) await upstream.close()
  upstreams = []
  gateway = undefined
})

async function raw(count: number): Promise<RawUpstream[]> {
  for (let i = 0; i < count; i++) upstreams.push(await startRawUpstream())
  return upstreams
}
const endpointsOf = (...of: RawUpstream[]) => of.map(({ url }) => ({ url }))

async function start(app: ConfigObject, more: ConfigObject = {}, route: ConfigObject = {}): Promise<void> {
  gateway = await startGateway({
    ...more,
    upstreams: { app, ...(more['upstreams'] as ConfigObject | undefined) },
    routes: [{ match: { pathPrefix: '/' }, ...('split' in route ? {} : { upstream: 'app' }), ...route }],
  })
}

const get = (target = '/', fields = ''): Promise<RawResult> =>
  send(gateway!.port, `GET ${target} HTTP/1.1\r\nHost: a.test\r\n${fields}\r\n`, { responses: 1, timeoutMs: 10_000 })
const post = (body: string): Promise<RawResult> =>
  send(gateway!.port, `POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: ${body.length}\r\n\r\n${body}`, {
    responses: 1,
  })
const bodyOf = (result: RawResult) => result.responses[0]?.body.toString()

const until = (done: Condition) => within(10_000, done, () => gateway?.output() ?? '')

describe('hedging', () => {
  it('asks a second endpoint when the first is slow; the first answer wins and the other request ends', async () => {
    const [slow, quick] = (await raw(2)) as [RawUpstream, RawUpstream]
    slow.otherwise(hang)
    quick.otherwise(answer(200, 'quick'))
    await start({ endpoints: endpointsOf(slow, quick), balance: 'first', hedging: { after: '50ms' } })
    expect(bodyOf(await get())).toBe('quick')
    expect([slow.requests.length, quick.requests.length]).toEqual([1, 1])
    await until(() => slow.open.size === 0)
    expect(await gateway!.metric('fluxor_retries_total')).toBe(1)
    expect(await gateway!.metric('fluxor_upstream_endpoint_in_flight')).toBe(0)
  })

  it('lets a first that answers win, and a failure of one leaves the other', async () => {
    const [one, two] = (await raw(2)) as [RawUpstream, RawUpstream]
    one.otherwise((socket, request) => setTimeout(() => answer(200, 'one')(socket, request), 200))
    two.otherwise(bytesThenReset())
    await start({ endpoints: endpointsOf(one, two), balance: 'first', hedging: { after: '50ms' } })
    expect(bodyOf(await get())).toBe('one')
    expect([one.requests.length, two.requests.length]).toEqual([1, 1])
  })

  it('does nothing for requests that are quick, have a body, or are not GET', async () => {
    const [one, two] = (await raw(2)) as [RawUpstream, RawUpstream]
    one.on('/quick', answer(200, 'one'))
    one.otherwise((socket, request) => setTimeout(() => answer(200, 'one')(socket, request), 150))
    await start({ endpoints: endpointsOf(one, two), balance: 'first', hedging: { after: '50ms' } })
    expect(bodyOf(await get('/quick'))).toBe('one')
    expect(bodyOf(await post('x'))).toBe('one')
    expect(two.requests).toEqual([])
  })

  it('stays within the retry budget', async () => {
    const [slow, quick] = (await raw(2)) as [RawUpstream, RawUpstream]
    slow.otherwise((socket, request) => setTimeout(() => answer(200, 'slow')(socket, request), 100))
    await start({
      endpoints: endpointsOf(slow, quick),
      balance: 'first',
      hedging: { after: '20ms' },
      retry: { budgetPercent: 0 },
    })
    await Promise.all(Array.from({ length: 20 }, () => get()))
    expect(quick.requests.length).toBeGreaterThan(0)
    expect(quick.requests.length).toBeLessThanOrEqual(6)
  })
})

describe('perTryTimeout', () => {
  it('takes a request from an endpoint that hangs to another one', async () => {
    const [stuck, other] = (await raw(2)) as [RawUpstream, RawUpstream]
    stuck.otherwise(hang)
    await start({ endpoints: endpointsOf(stuck, other), balance: 'first', retry: { perTryTimeout: '100ms' } })
    expect((await get()).status).toBe(200)
    expect([stuck.requests.length, other.requests.length]).toEqual([1, 1])
    expect(await gateway!.metric('fluxor_upstream_errors_total', { kind: 'timeout' })).toBe(1)
  })

  it('lets a try go on that none can follow', async () => {
    const [slow] = (await raw(1)) as [RawUpstream]
    slow.otherwise((socket, request) => setTimeout(() => answer(200, 'late')(socket, request), 300))
    await start({ endpoints: endpointsOf(slow), retry: { attempts: 1, perTryTimeout: '50ms' } })
    expect(bodyOf(await post('once'))).toBe('late')
    expect(slow.requests.length).toBe(1)
    expect(bodyOf(await get())).toBe('late')
    expect(slow.requests.length).toBe(3)
  })
})

it('an endpoint that hangs until the route gives up is a failing one', async () => {
  const [stuck, other] = (await raw(2)) as [RawUpstream, RawUpstream]
  stuck.otherwise(hang)
  const outlier = { consecutiveErrors: 2, ejectFor: '30s' }
  await start({ endpoints: endpointsOf(stuck, other), balance: 'first', outlier }, {}, { timeout: '200ms' })
  expect((await get()).status).toBe(504)
  expect((await get()).status).toBe(504)
  expect((await get()).status).toBe(200)
  expect(other.requests.length).toBe(1)
})

describe('mirror', () => {
  it('copies head and body, and what becomes of the copy does not matter', async () => {
    const [main, copy] = (await raw(2)) as [RawUpstream, RawUpstream]
    main.otherwise(answer(200, 'main'))
    copy.otherwise(answer(500, 'copy'))
    await start(
      { endpoints: endpointsOf(main) },
      { upstreams: { shadow: { endpoints: endpointsOf(copy) } } },
      { mirror: { upstream: 'shadow' } },
    )
    expect(bodyOf(await post('hello'))).toBe('main')
    expect(bodyOf(await get('/x?y=1'))).toBe('main')
    await until(() => copy.requests.length === 2)
    expect(copy.requests.map(({ method, target, body }) => [method, target, body.toString()])).toEqual([
      ['POST', '/', 'hello'],
      ['GET', '/x?y=1', ''],
    ])
    copy.otherwise(bytesThenReset())
    expect(bodyOf(await get())).toBe('main')
    copy.dropConnections()
    await copy.close()
    expect(bodyOf(await get())).toBe('main')
  })

  it('has its own time and bound, and waits for nobody', async () => {
    const [main, copy] = (await raw(2)) as [RawUpstream, RawUpstream]
    main.otherwise(answer(200, 'main'))
    copy.otherwise(hang)
    await start(
      { endpoints: endpointsOf(main) },
      { upstreams: { shadow: { endpoints: endpointsOf(copy) } } },
      { mirror: { upstream: 'shadow', maxInFlight: 2, timeout: '300ms', bodyBytes: 10 } },
    )
    for (let i = 0; i < 5; i++) expect(bodyOf(await get())).toBe('main')
    expect(main.requests.length).toBe(5)
    await until(() => copy.requests.length === 2)
    await until(() => copy.open.size === 0)
    expect(bodyOf(await post('more than ten bytes'))).toBe('main')
    expect(bodyOf(await post('ten bytes!'))).toBe('main')
    await until(() => copy.requests.length === 3)
    expect(copy.requests[2]!.body.toString()).toBe('ten bytes!')
    expect(main.requests.at(-2)!.body.toString()).toBe('more than ten bytes')
  })

  it('copies a share', async () => {
    const [main, copy] = (await raw(2)) as [RawUpstream, RawUpstream]
    await start(
      { endpoints: endpointsOf(main) },
      { upstreams: { shadow: { endpoints: endpointsOf(copy) } } },
      { mirror: { upstream: 'shadow', percent: '20%' } },
    )
    for (let i = 0; i < 100; i++) await get()
    expect(copy.requests.length).toBeGreaterThan(2)
    expect(copy.requests.length).toBeLessThan(45)
  })
})

describe('split', () => {
  const cookieOf = (result: RawResult) => field(result.responses[0]!, 'set-cookie')?.split(';')[0]

  async function split(weights: [number, number], splitBy?: ConfigObject): Promise<void> {
    const [a, b] = (await raw(2)) as [RawUpstream, RawUpstream]
    a.otherwise(answer(200, 'stable'))
    b.otherwise(answer(200, 'canary'))
    await start(
      { endpoints: endpointsOf(a) },
      { upstreams: { next: { endpoints: endpointsOf(b) } } },
      {
        split: [
          { upstream: 'app', weight: weights[0] },
          { upstream: 'next', weight: weights[1] },
        ],
        ...(splitBy && { splitBy }),
      },
    )
  }

  it('shares by weight', async () => {
    await split([80, 20])
    const bodies: (string | undefined)[] = []
    for (let i = 0; i < 100; i++) bodies.push(bodyOf(await get()))
    const canary = bodies.filter((body) => body === 'canary').length
    expect(canary).toBeGreaterThan(2)
    expect(canary).toBeLessThan(45)
  })

  it('keeps a client on its part by a cookie, and a field decides over both', async () => {
    await split([50, 50], { cookie: 'part', header: 'X-Part', ttl: '1h' })
    const first = await get()
    const part = bodyOf(first)
    const cookie = cookieOf(first)!
    expect(field(first.responses[0]!, 'set-cookie')).toMatch(
      /^part=\S{22}; Path=\/; Max-Age=3600; HttpOnly; SameSite=Lax$/,
    )
    for (let i = 0; i < 15; i++) {
      const next = await get('/', `Cookie: ${cookie}\r\n`)
      expect([bodyOf(next), cookieOf(next)]).toEqual([part, undefined])
    }
    expect(bodyOf(await get('/', `Cookie: ${cookie}\r\nX-Part: next\r\n`))).toBe('canary')
    expect(bodyOf(await get('/', `Cookie: ${cookie}\r\nX-Part: app\r\n`))).toBe('stable')
  })

  it('a part of weight 0 loses its clients, yet answers to its name', async () => {
    await split([100, 0], { cookie: 'part', header: 'x-part' })
    for (let i = 0; i < 10; i++) expect(bodyOf(await get())).toBe('stable')
    const named = await get('/', 'X-Part: next\r\n')
    expect(bodyOf(named)).toBe('canary')
    expect(bodyOf(await get('/', 'X-Part: __proto__\r\n'))).toBe('stable')
  })
})

describe('faults', () => {
  it('delay and abort on purpose', async () => {
    const [main] = (await raw(1)) as [RawUpstream]
    await start(
      { endpoints: endpointsOf(main) },
      { server: { allowFaults: true } },
      { faults: { delay: '200ms', abort: 418, percent: 100 } },
    )
    const startedMs = performance.now()
    const result = await get()
    expect(performance.now() - startedMs).toBeGreaterThan(190)
    expect([result.status, problem(result.responses[0]!)['reason']]).toEqual([418, 'FAULT'])
    expect(main.requests).toEqual([])
  })

  it('only delay, and a share of the requests', async () => {
    const [main] = (await raw(1)) as [RawUpstream]
    await start(
      { endpoints: endpointsOf(main) },
      { server: { allowFaults: true } },
      { faults: { abort: 503, percent: 30 } },
    )
    const statuses: number[] = []
    for (let i = 0; i < 60; i++) statuses.push((await get()).status)
    expect(new Set(statuses)).toEqual(new Set([200, 503]))
    expect(statuses.filter((status) => status === 503).length).toBeLessThan(40)
  })

  it('are refused where the server does not allow them', async () => {
    const [main] = (await raw(1)) as [RawUpstream]
    await expect(start({ endpoints: endpointsOf(main) }, {}, { faults: { abort: 503 } })).rejects.toThrow(/allowFaults/)
  })
})

describe('health checks', () => {
  interface Shown {
    app: { url: string; state: string; reason: string }[]
  }
  const shown = async () => ((await (await gateway!.admin('/upstreams')).json()) as Shown).app

  it('look for a text in the answer', async () => {
    const [one, two] = (await raw(2)) as [RawUpstream, RawUpstream]
    one.on('/health', answer(200, '{"status":"starting"}'))
    two.on('/health', answer(200, '{"status":"up"}'))
    await start({
      endpoints: endpointsOf(one, two),
      health: { path: '/health', interval: '100ms', body: '"status":"up"', rise: 1, fall: 1 },
    })
    await until(async () => (await shown())[0]!.state === 'unhealthy')
    expect((await shown()).map(({ reason }) => reason)[0]).toBe('GET /health answered 200 without the expected text')
    one.on('/health', answer(200, '{"status":"up"}'))
    await until(async () => (await shown())[0]!.state === 'healthy')
  })

  it('are content with a TCP connection', async () => {
    const [one, two] = (await raw(2)) as [RawUpstream, RawUpstream]
    await start({ endpoints: endpointsOf(one, two), health: { tcp: true, interval: '100ms', rise: 1, fall: 1 } })
    await one.close()
    await until(async () => (await shown())[0]!.state === 'unhealthy')
    expect((await shown())[0]!.reason).toBe('check failed: ECONNREFUSED')
    expect((await shown())[1]!.state).toBe('healthy')
  })
})

it('an answer that is tried again elsewhere leaves its connection open for the next request', async () => {
  const [failing, other] = (await raw(2)) as [RawUpstream, RawUpstream]
  failing.otherwise(answer(503, 'no'))
  await start({ endpoints: endpointsOf(failing, other), balance: 'first', retry: { on: ['503'] } })
  for (let i = 0; i < 3; i++) expect((await get()).status).toBe(200)
  expect([failing.requests.length, other.requests.length]).toEqual([3, 3])
  expect([failing.connections, other.connections]).toEqual([1, 1])
  expect(await gateway!.metric('fluxor_pool_connects_total')).toBe(2)
})
