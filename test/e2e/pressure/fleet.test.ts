/**
 * Three gateways, one cap, a real Redis: what the upstream sees is never more than the cap, and
 * hardly less under load. NUMBERS=1 prints how much and how soon.
 */

import { Agent, get } from 'node:http'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { startGateway, type TestGateway } from '../../support/gateway.ts'
import { startRedis, type TestRedis } from '../../support/redis.ts'
import { services } from '../../support/services.ts'
import { type HttpUpstream, startHttpUpstream } from '../../support/upstream.ts'

const CAP = 90
const TTL_MS = 1500

let upstream: HttpUpstream
let redis: TestRedis
let gateways: TestGateway[] = []
let loads: Load[] = []

/** So many clients that ask again and again, refused or not. */
class Load {
  readonly #agent = new Agent({ keepAlive: true })
  readonly #port: number
  #stopped = false

  constructor(gateway: TestGateway, clients: number) {
    this.#port = gateway.port
    for (let i = 0; i < clients; i++) this.#next()
    loads.push(this)
  }

  #next(): void {
    // Who was refused or cut comes again in a moment.
    const again = (refused: boolean) => {
      if (!this.#stopped) setTimeout(() => this.#next(), refused ? 50 + Math.random() * 100 : 0)
    }
    get({ port: this.#port, host: '127.0.0.1', path: '/work', agent: this.#agent }, (response) => {
      response.resume().once('close', () => again(response.statusCode !== 200))
    }).once('error', () => again(true))
  }

  stop(): void {
    this.#stopped = true
    this.#agent.destroy()
  }
}

const config = (over: object = {}) => ({
  redis: { main: { url: redis.url } },
  admission: {
    maxCCU: CAP,
    workers: CAP,
    maxQueue: 0,
    fleet: { name: 'test', maxCCU: CAP, leaseTtl: `${TTL_MS}ms`, ...over },
  },
  upstreams: { app: { endpoints: [{ url: upstream.url }] } },
  routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
})

beforeEach(async () => {
  if (services.redis === undefined) return
  upstream = await startHttpUpstream((_request, response) => {
    setTimeout(() => response.end('ok'), 300)
  })
})
beforeEach(async () => {
  if (services.redis !== undefined) redis = await startRedis()
})
afterEach(async () => {
  for (const load of loads) load.stop()
  await Promise.all(gateways.map((gateway) => gateway.close()))
  await redis?.close()
  await upstream?.close()
  gateways = []
  loads = []
})
async function eventually(done: () => boolean | Promise<boolean>, timeoutMs = 12_000): Promise<void> {
  const deadline = performance.now() + timeoutMs
  while (!(await done())) {
    if (performance.now() > deadline)
      throw new Error(`it did not happen in time\n${gateways.map((g) => g.output()).join('\n')}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

const tell = (text: string) => {
  if (process.env['NUMBERS'] !== undefined) console.log(text)
}

/** Mean of who is inside the upstream, looked at so often. */
async function meanInside(looks = 150): Promise<number> {
  let sum = 0
  for (let i = 0; i < looks; i++) {
    sum += upstream.inside
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  return sum / looks
}

const share = async (gateway: TestGateway) => (await gateway.metric('fluxor_fleet_share'))!

describe.skipIf(services.redis === undefined)('three gateways and one cap', () => {
  it('the busy one has nearly all of it; when one dies or Redis is gone, what is promised holds', async () => {
    gateways = await Promise.all([1, 2, 3].map(() => startGateway(config())))
    const [a, b, c] = gateways as [TestGateway, TestGateway, TestGateway]
    await eventually(async () => (await a.metric('fluxor_fleet_instances')) === 3)

    // Skew: all the load at one.
    new Load(a, 110)
    await eventually(async () => (await share(a)) >= CAP * 0.95)
    await eventually(() => upstream.inside >= CAP * 0.9)
    tell(
      `all the load at one: it has ${await share(a)} of ${CAP}, in use ${(await meanInside()).toFixed(1)} on average`,
    )

    // The others get busy too: the shares move, and the cap holds all the while.
    new Load(b, 60)
    new Load(c, 60)
    await eventually(async () => (await share(b)) >= 25 && (await share(c)) >= 25)
    expect(upstream.mostInside).toBeLessThanOrEqual(CAP)
    tell(`110, 60 and 60 clients: in use ${(await meanInside()).toFixed(1)} on average, at most ${upstream.mostInside}`)

    // One is killed: its share is the others' soon. How soon is tested on a clock of its own (unit/policies/admission).
    const killedMs = performance.now()
    await c.stop('SIGKILL')
    await eventually(async () => (await share(a)) + (await share(b)) >= CAP * 0.95)
    const backMs = performance.now() - killedMs
    tell(`one is killed: its share is back after ${backMs.toFixed(0)} ms, leaseTtl is ${TTL_MS}, a tick ${TTL_MS / 6}`)
    expect(upstream.mostInside).toBeLessThanOrEqual(CAP)

    // Redis is gone: the floors hold, which are the cap over the two that were seen.
    await redis.kill()
    await eventually(
      async () => (await a.metric('fluxor_fleet_leased')) === 0 && (await b.metric('fluxor_fleet_leased')) === 0,
    )
    await eventually(async () => (await share(a)) === CAP / 2 && (await share(b)) === CAP / 2)
    await eventually(() => upstream.inside >= CAP * 0.8)
    tell(`Redis is gone: in use ${(await meanInside()).toFixed(1)} by the floors, at most ${upstream.mostInside}`)
    expect(upstream.mostInside).toBeLessThanOrEqual(CAP)

    // It comes back without its data: nobody passes the cap, and leases are had again.
    await redis.start()
    await eventually(
      async () => (await a.metric('fluxor_fleet_leased')) === 1 && (await b.metric('fluxor_fleet_leased')) === 1,
    )
    expect(upstream.mostInside).toBeLessThanOrEqual(CAP)
    expect(await a.metric('fluxor_ccu_ledger_skew')).toBe(0)
  }, 120_000)

  it('one that is stopped and goes on lets nobody in by its old lease', async () => {
    gateways = await Promise.all([1, 2].map(() => startGateway(config({ floor: 0 }))))
    const [a, b] = gateways as [TestGateway, TestGateway]
    await eventually(async () => (await a.metric('fluxor_fleet_instances')) === 2)
    // Nobody asks: what is left over is spread, and each may use half of the cap.
    await eventually(async () => (await share(a)) >= 40 && (await share(b)) >= 40)
    a.signal('SIGSTOP')
    new Load(b, 110)
    await eventually(async () => (await share(b)) >= CAP * 0.95)
    await eventually(() => upstream.inside >= CAP * 0.9)
    // Its clients wait at its door when it goes on.
    new Load(a, 60)
    await new Promise((resolve) => setTimeout(resolve, 300))
    a.signal('SIGCONT')
    await eventually(async () => (await share(a)) >= 30)
    expect(upstream.mostInside).toBeLessThanOrEqual(CAP)
  }, 120_000)
})

it('without Redis from the start the floor holds, and the log says so', async () => {
  gateways = [
    await startGateway({
      redis: { main: { url: 'redis://127.0.0.1:1' } },
      admission: { maxCCU: 30, fleet: { maxCCU: 90 } },
      upstreams: { app: { endpoints: [{ url: 'http://127.0.0.1:1' }] } },
      routes: [
        { match: { path: '/x' }, respond: { body: 'x' } },
        { match: { pathPrefix: '/' }, upstream: 'app' },
      ],
    }),
  ]
  await gateways[0]!.waitForLog((line) => line.msg === 'the fleet is not reached: the floor holds')
  expect(await share(gateways[0]!)).toBe(30)
})
