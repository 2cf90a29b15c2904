/** Who gets which request: shares by weight, keys and clients that stay where they are, and orders of an operator. */

import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type ConfigObject, startGateway, type TestGateway } from '../../support/gateway.ts'
import { field } from '../../support/messages.ts'
import { RawClient, type RawResponse } from '../../support/raw-client.ts'
import { type HttpUpstream, startHttpUpstream } from '../../support/upstream.ts'

let gateway: TestGateway | undefined
let services: HttpUpstream[] = []
beforeEach(async () => {
  for (const name of ['a', 'b', 'c', 'd']) {
    services.push(
      await startHttpUpstream((_request, response) => {
        response.setHeader('x-service', name)
        response.end(name)
      }),
    )
  }
})
afterEach(async () => {
  await gateway?.close()
  for (const service of services) await service.close()
  services = []
  gateway = undefined
})

const configOf = (endpoints: ConfigObject[], app: ConfigObject): ConfigObject => ({
  upstreams: { app: { endpoints, ...app } },
  routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
})
const at = (i: number, more: ConfigObject = {}) => ({ url: services[i]!.url, ...more })

/** Asks one after the other, a new connection every 50; gives the answers. */
async function ask(count: number, fields: (i: number) => string = () => ''): Promise<RawResponse[]> {
  const answers: RawResponse[] = []
  while (answers.length < count) {
    const client = new RawClient(gateway!.port)
    client.socket.setMaxListeners(0)
    const first = answers.length
    for (let i = first; i < Math.min(count, first + 50); i++) {
      await client.send(`GET / HTTP/1.1\r\nHost: a.test\r\n${fields(i)}\r\n`)
      await client.until((result) => result.responses.length > i - first)
    }
    answers.push(...client.result().responses)
    client.close()
  }
  return answers
}
const namesOf = (answers: RawResponse[]) => answers.map(({ body }) => body.toString())
function sharesOf(answers: RawResponse[]): Record<string, number> {
  const shares: Record<string, number> = {}
  for (const name of namesOf(answers)) shares[name] = (shares[name] ?? 0) + 1
  return shares
}

async function reload(config: ConfigObject): Promise<void> {
  const reloaded = gateway!.logs().filter(({ msg }) => msg === 'config reloaded').length
  gateway!.reload(config)
  const deadline = performance.now() + 10_000
  while (gateway!.logs().filter(({ msg }) => msg === 'config reloaded').length === reloaded) {
    if (performance.now() > deadline) throw new Error(gateway!.output())
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

async function order(body: unknown): Promise<Response> {
  return gateway!.admin('/upstreams', { method: 'POST', body: JSON.stringify(body) })
}

describe('weights 3, 2, 1 and 0', () => {
  // Sequential requests: nothing is ever in flight, so that weights alone decide. 5 standard deviations.
  it.each([
    ['roundRobin', 2],
    ['leastRequest', 70],
    ['peakEwma', 600],
    ['hash', 70],
  ])('%s', async (balance, tolerance) => {
    const endpoints = [at(0, { weight: 3 }), at(1, { weight: 2 }), at(2, { weight: 1 }), at(3, { weight: 0 })]
    gateway = await startGateway(configOf(endpoints, { balance, hashKey: 'header:x-key' }))
    const shares = sharesOf(await ask(600, (i) => `X-Key: key-${i}\r\n`))
    expect(shares['d'], 'weight 0').toBeUndefined()
    for (const [name, expected] of Object.entries({ a: 300, b: 200, c: 100 })) {
      expect(Math.abs(shares[name]! - expected), JSON.stringify(shares)).toBeLessThanOrEqual(tolerance)
    }
  })

  it('first fills one after the other', async () => {
    gateway = await startGateway(configOf([at(0), at(1)], { balance: 'first' }))
    expect(sharesOf(await ask(100))).toEqual({ a: 100 })
  })
})

it('backups take traffic only when no primary can', async () => {
  gateway = await startGateway(configOf([at(0), at(1, { backup: true })], { balance: 'roundRobin' }))
  expect(sharesOf(await ask(50))).toEqual({ a: 50 })
  await services[0]!.close()
  expect(sharesOf(await ask(50))).toEqual({ b: 50 })
})

it('hash keeps a key where it is; of four endpoints one that goes moves its own keys alone', async () => {
  const key = (i: number) => `X-Key: key-${i}\r\n`
  const app = { balance: 'hash', hashKey: 'header:x-key' }
  gateway = await startGateway(configOf([at(0), at(1), at(2), at(3)], app))
  const before = namesOf(await ask(400, key))
  expect(namesOf(await ask(400, key))).toEqual(before)
  await reload(configOf([at(0), at(1), at(2)], app))
  const after = namesOf(await ask(400, key))
  const moved = before.filter((name, i) => name !== after[i]).length
  expect(before.every((name, i) => name === 'd' || name === after[i])).toBe(true)
  expect(moved).toBe(before.filter((name) => name === 'd').length)
  expect(moved).toBeLessThanOrEqual(400 / 4 + 45) // a quarter, and 5 standard deviations
  if (process.env['NUMBERS']) console.log(`hash: ${moved} of 400 keys moved when 1 of 4 endpoints went`)
})

describe('sticky cookies', () => {
  const cookieOf = (answer: RawResponse) => field(answer, 'set-cookie')?.split(';')[0]

  it('bind a client, survive a reload, and let go of an endpoint that is gone', async () => {
    const app = { balance: 'roundRobin', sticky: { cookie: 'where', secret: 's3cret' } }
    gateway = await startGateway(configOf([at(0), at(1), at(2)], app))
    const [first] = await ask(1)
    const cookie = cookieOf(first!)!
    expect(cookie).toMatch(/^where=/)
    const bound = await ask(10, () => `Cookie: ${cookie}\r\n`)
    expect(new Set(namesOf(bound))).toEqual(new Set(namesOf([first!])))
    expect(bound.map(cookieOf)).toEqual(Array(10).fill(undefined))
    await reload(configOf([at(2), at(1), at(0)], app))
    expect(new Set(namesOf(await ask(10, () => `Cookie: ${cookie}\r\n`)))).toEqual(new Set(namesOf([first!])))
    const others = [0, 1, 2].filter((i) => 'abc'[i] !== first!.body.toString())
    await reload(
      configOf(
        others.map((i) => at(i)),
        app,
      ),
    )
    const [moved] = await ask(1, () => `Cookie: ${cookie}\r\n`)
    expect(namesOf([moved!])).not.toEqual(namesOf([first!]))
    expect(cookieOf(moved!)).not.toBe(cookie)
  })

  it('do not bind by a value that another secret made', async () => {
    const app = (secret: string) => ({ balance: 'first', sticky: { cookie: 'where', secret } })
    gateway = await startGateway(configOf([at(0)], app('one')))
    const cookie = cookieOf((await ask(1))[0]!)!
    await reload(configOf([at(1), at(0)], app('two')))
    expect(namesOf(await ask(1, () => `Cookie: ${cookie}\r\n`))).toEqual(['b'])
  })
})

describe('an operator', () => {
  const three = (balance = 'roundRobin') => configOf([at(0), at(1), at(2)], { balance })

  it.each([1, 2])('drains an endpoint and takes it back, with %i thread(s)', async (threads) => {
    gateway = await startGateway({ ...three(), server: { threads } })
    const drained = await order({ upstream: 'app', url: services[0]!.url, drain: true })
    expect(drained.status).toBe(200)
    expect(((await drained.json()) as { app: unknown[] }).app[0]).toMatchObject({
      url: services[0]!.url,
      state: 'draining',
      reason: 'drained by an operator',
    })
    expect(sharesOf(await ask(30))).toEqual({ b: 15, c: 15 })
    await reload({ ...three(), server: { threads } })
    expect(sharesOf(await ask(30)), 'the order holds over a reload').toEqual({ b: 15, c: 15 })
    expect(await gateway.metric('fluxor_upstream_endpoint_up', { endpoint: services[0]!.url })).toBe(0)
    expect((await order({ upstream: 'app', url: services[0]!.url })).status).toBe(200)
    expect(sharesOf(await ask(30))).toEqual({ a: 10, b: 10, c: 10 })
  })

  it('changes weights', async () => {
    gateway = await startGateway(three())
    await order({ upstream: 'app', url: services[1]!.url, weight: 4 })
    await order({ upstream: 'app', url: services[2]!.url, weight: 0 })
    expect(sharesOf(await ask(50))).toEqual({ a: 10, b: 40 })
    await order({ upstream: 'app', url: services[1]!.url })
    await order({ upstream: 'app', url: services[2]!.url })
    expect(sharesOf(await ask(30))).toEqual({ a: 10, b: 10, c: 10 })
  })

  it('is told what is wrong with an order', async () => {
    gateway = await startGateway(three())
    expect((await order({ upstream: 'app', url: 'http://10.0.0.1:1', weight: 1 })).status).toBe(404)
    expect((await order({ upstream: 'none', url: services[0]!.url, weight: 1 })).status).toBe(404)
    for (const bad of [
      {},
      [],
      null,
      { upstream: 'app', url: services[0]!.url, weight: -1 },
      { upstream: 'app', url: services[0]!.url, drian: true },
    ]) {
      expect((await order(bad)).status).toBe(400)
    }
  })
})
