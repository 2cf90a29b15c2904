/**
 * Everything that a Redis can do wrong, against everything that uses it: a limit, the cache and a fleet's cap, in two
 * gateways. For each: the answers are right all the while, who knows that it is away does not ask, and it is used again.
 * What it costs in time is printed with NUMBERS=1.
 */

import { Agent, get } from 'node:http'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { freePort } from '../support/free-port.ts'
import { startGateway, type TestGateway } from '../support/gateway.ts'
import { startRedis, type TestRedis } from '../support/redis.ts'
import { services } from '../support/services.ts'
import { startTcpProxy, type TcpProxy } from '../support/tcp-proxy.ts'
import { type HttpUpstream, startHttpUpstream } from '../support/upstream.ts'

const CAP = 40
const LIMIT = 10
const FIRST = 15
/** Of a gateway: a door for requests and one for the fleet, and that the floor holds. */
const MOST_WORDS = 6
const KNOWN = 50
const LEASE_MS = 1000
/** What a limit, the cache and a lease ask of Redis. Probes and new connections do not. */
const ASKING = /\r\n(?:eval|evalsha|hmget|hset)\r\n/gi

interface World {
  redis: TestRedis
  /** A replica of it, where the fault needs one. */
  replica?: TestRedis
  proxy: TcpProxy
}

interface Fault {
  title: string
  begin: (world: World) => Promise<unknown> | unknown
  end: (world: World) => Promise<unknown> | unknown
  /** Redis is away or useless: nobody asks it but the probes. Else it answers, and is asked. */
  away: boolean
  /** It is so before the gateways start. */
  first?: boolean
  replica?: boolean
}

async function wrongTypes({ redis }: World): Promise<void> {
  const keys = (await redis.command('KEYS *')).split('\r\n').filter((line) => /^[a-z]/.test(line))
  for (const key of keys) {
    const type = await redis.command(`TYPE ${key}`)
    await redis.command(`DEL ${key}`)
    await redis.command(type.startsWith('+string') ? `RPUSH ${key} x` : `SET ${key} x`)
  }
}

const faults: Fault[] = [
  { title: 'paused', begin: ({ redis }) => redis.pause(), end: ({ redis }) => redis.resume(), away: true },
  {
    title: 'slow',
    begin: ({ proxy }) => {
      proxy.delayMs = 400
    },
    end: ({ proxy }) => {
      proxy.delayMs = 0
    },
    away: true,
  },
  {
    title: 'killed',
    begin: ({ redis }) => redis.kill(),
    end: ({ redis }) => redis.start(),
    away: true,
  },
  {
    title: 'absent at the start',
    begin: ({ redis }) => redis.stop(),
    end: ({ redis }) => redis.start(),
    away: true,
    first: true,
  },
  {
    title: 'out of memory',
    begin: async ({ redis }) => {
      await redis.command('CONFIG SET maxmemory-policy noeviction')
      await redis.command('CONFIG SET maxmemory 1')
    },
    end: ({ redis }) => redis.command('CONFIG SET maxmemory 0'),
    away: true,
  },
  {
    title: 'a replica that may only be read',
    begin: async ({ redis }) => redis.command(`REPLICAOF 127.0.0.1 ${await freePort()}`),
    end: ({ redis }) => redis.command('REPLICAOF NO ONE'),
    away: true,
  },
  {
    title: 'holding other types under our keys',
    begin: wrongTypes,
    end: ({ redis }) => redis.command('FLUSHALL'),
    away: false,
  },
  { title: 'flushed', begin: ({ redis }) => redis.command('FLUSHALL'), end: () => {}, away: false },
  {
    title: 'without its scripts',
    begin: ({ redis }) => redis.command('SCRIPT FLUSH SYNC'),
    end: () => {},
    away: false,
  },
  {
    title: 'failed over to its replica',
    begin: ({ redis }) => redis.kill(),
    end: async ({ replica, proxy }) => {
      await replica!.command('REPLICAOF NO ONE')
      proxy.leadTo(replica!.port)
    },
    away: true,
    replica: true,
  },
]

let upstream: HttpUpstream
beforeAll(async () => {
  upstream = await startHttpUpstream((request, response) => {
    const cached = request.url!.startsWith('/page')
    response.writeHead(200, { 'Cache-Control': cached ? 'max-age=600' : 'no-store' }).end(`of ${request.url}`)
  })
})
afterAll(() => upstream?.close())

let cleanup: (() => unknown)[] = []
afterEach(async () => {
  for (const close of cleanup.reverse()) await close()
  cleanup = []
})

const config = (url: string) => ({
  redis: { main: { url } },
  admission: {
    maxCCU: CAP / 2,
    workers: CAP / 2,
    maxQueue: 0,
    fleet: { name: 'm', maxCCU: CAP, leaseTtl: `${LEASE_MS}ms` },
  },
  cache: { redis: 'main' },
  rateLimits: Object.fromEntries(
    ['fixedWindow', 'gcra'].flatMap((algorithm) => [
      [`wide-${algorithm}`, { key: 'header:x-key', limit: 1_000_000, window: '1h', algorithm, store: 'redis:main' }],
      [algorithm, { key: 'header:x-key', limit: LIMIT, window: '1h', algorithm, store: 'redis:main' }],
    ]),
  ),
  upstreams: { app: { endpoints: [{ url: upstream.url }] } },
  routes: [
    { match: { pathPrefix: '/page' }, upstream: 'app', cache: {} },
    ...['wide-fixedWindow', 'wide-gcra', 'fixedWindow', 'gcra'].map((rule) => ({
      match: { path: `/${rule}` },
      upstream: 'app',
      rateLimit: rule,
    })),
  ],
})

interface Answer {
  status: number
  body: string
  cacheStatus: string
  ms: number
}

/** Asks over one kept connection. */
class Asker {
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 1 })
  readonly #port: number

  constructor(gateway: TestGateway) {
    this.#port = gateway.port
    cleanup.push(() => this.#agent.destroy())
  }

  ask(path: string, key = 'k'): Promise<Answer> {
    const startedMs = performance.now()
    return new Promise((resolve, reject) => {
      const headers = { Host: 'a.test', 'X-Key': key }
      const request = get({ port: this.#port, host: '127.0.0.1', path, agent: this.#agent, headers }, (response) => {
        let body = ''
        response.on('data', (chunk) => {
          body += chunk
        })
        response.on('end', () => {
          const cacheStatus = String(response.headers['cache-status'] ?? '')
          resolve({ status: response.statusCode!, body, cacheStatus, ms: performance.now() - startedMs })
        })
      })
      request.on('error', reject)
    })
  }
}

async function eventually(done: () => boolean | Promise<boolean>, what: string, timeoutMs = 15_000): Promise<number> {
  const startedMs = performance.now()
  while (!(await done())) {
    if (performance.now() - startedMs > timeoutMs) throw new Error(`${what}: not in time`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  return performance.now() - startedMs
}

const quantile = (times: number[], q: number) => times.toSorted((a, b) => a - b)[Math.floor((times.length - 1) * q)]!
const table: Record<string, unknown>[] = []
afterAll(() => {
  if (process.env['NUMBERS']) console.table(table)
})

// Redis is a service of the machine: `.ci/run` requires it, elsewhere its absence is told at the end of the run.
describe.skipIf(services.redis === undefined)('a Redis that is', () => {
  it.each(faults)('$title: limits, cache and fleet do their work', { timeout: 60_000 }, async (fault) => {
    const world = await build(fault)
    if (fault.first) await fault.begin(world)
    const url = `redis://127.0.0.1:${world.proxy.port}`
    const gateways = (await Promise.all([startGateway(config(url)), startGateway(config(url))])) as [
      TestGateway,
      TestGateway,
    ]
    for (const gateway of gateways) cleanup.push(() => gateway.close())
    const askers = gateways.map((gateway) => new Asker(gateway)) as [Asker, Asker]
    const shares = async () => {
      const [a, b] = await Promise.all(gateways.map((gateway) => gateway.metric('fluxor_fleet_share')))
      return a! + b!
    }

    let page = 0
    /** Right answers from each use, the time of each. */
    const round = async (times: number): Promise<Record<string, number[]>> => {
      const took: Record<string, number[]> = { limit: [], cache: [], fleet: [] }
      for (let i = 0; i < times; i++) {
        for (const rule of ['wide-fixedWindow', 'wide-gcra']) {
          const { status, ms } = await askers[i % 2]!.ask(`/${rule}`)
          expect(status).toBe(200)
          took['limit']!.push(ms)
        }
        const path = `/page/${i % 2 === 0 ? page++ : i % 10}`
        const { status, body, ms } = await askers[i % 2]!.ask(path)
        expect([status, body]).toEqual([200, `of ${path}`])
        took['cache']!.push(ms)
        // Nobody asks for a place in Redis: a request of nothing else shows that.
        const plain = await askers[i % 2]!.ask(`/page/0`)
        expect(plain.status).toBe(200)
        took['fleet']!.push(plain.ms)
      }
      return took
    }
    /** A limit of ten passes ten for each gateway at most, and ten in all while they share it. */
    const limited = async (key: string): Promise<number[]> => {
      const passed: number[] = []
      for (const rule of ['fixedWindow', 'gcra']) {
        const statuses: number[] = []
        for (let i = 0; i < 3 * LIMIT; i++) statuses.push((await askers[i % 2]!.ask(`/${rule}`, key)).status)
        expect(statuses.filter((status) => status !== 200 && status !== 429)).toEqual([])
        passed.push(statuses.filter((status) => status === 200).length)
      }
      return passed
    }

    let before: Record<string, number[]> = {}
    if (!fault.first) {
      await eventually(async () => (await gateways[0].metric('fluxor_fleet_instances')) === 2, 'the fleet is whole')
      await round(FIRST)
      before = await round(FIRST)
      await fault.begin(world)
    }
    const lines = () => gateways.reduce((sum, gateway) => sum + gateway.logs().length, 0)
    const linesBefore = lines()
    const startedMs = performance.now()
    const first = await round(FIRST)
    world.proxy.count = { of: ASKING, seen: 0 }
    const known = await round(KNOWN)
    const asked = world.proxy.count.seen
    if (fault.away) expect(asked, 'no request asks').toBeLessThanOrEqual(FIRST)
    else expect(asked, 'they ask').toBeGreaterThan(KNOWN)
    // Whether known or not, this is what can be said of it: each gateway has its own count, or they share one.
    for (const passed of await limited('during')) {
      expect(passed).toBeGreaterThanOrEqual(LIMIT)
      expect(passed).toBeLessThanOrEqual(2 * LIMIT + (fault.away ? LIMIT : 0))
    }
    // Longer than a lease: the floors hold now, or the leases that were renewed.
    while (performance.now() - startedMs < 1.5 * LEASE_MS) {
      expect(await shares()).toBeLessThanOrEqual(CAP)
      await round(1)
    }
    const faultMs = performance.now() - startedMs
    expect(await shares()).toBeLessThanOrEqual(CAP)
    expect(await shares()).toBeGreaterThanOrEqual(2)
    const said = lines() - linesBefore
    expect(said, 'few words, however long it lasts').toBeLessThanOrEqual(2 * MOST_WORDS)

    await fault.end(world)
    const endedMs = performance.now()
    const again: Record<string, number> = {}
    const watch = (what: string, done: () => Promise<boolean>) =>
      eventually(done, what).then(() => {
        again[what] = performance.now() - endedMs
      })
    let n = 0
    await Promise.all([
      watch('limit', async () => {
        const key = `again-${n++}`
        for (const rule of ['wide-fixedWindow', 'wide-gcra'])
          for (const asker of askers) await asker.ask(`/${rule}`, key)
        const there = await (world.replica ?? world.redis).command(`KEYS *:{wide*${key}}`)
        return there.startsWith('*2')
      }),
      watch('fleet', async () => {
        const leased = await Promise.all(gateways.map((gateway) => gateway.metric('fluxor_fleet_leased')))
        return leased.every((value) => value === 1)
      }),
      watch('cache', async () => {
        const path = `/page/again-${n++}`
        await askers[0].ask(path)
        await new Promise((resolve) => setTimeout(resolve, 20))
        return (await askers[1].ask(path)).cacheStatus.includes('hit')
      }),
    ])
    await eventually(
      async () => (await limited(`after-${n++}`)).every((passed) => passed === LIMIT),
      'one limit for both',
    )
    await eventually(async () => (await shares()) <= CAP, 'the cap holds')

    const worst = (took: number[] | undefined, base: number[] | undefined, q: number) =>
      took === undefined ? '' : (quantile(took, q) - quantile(base ?? known['fleet']!, 0.5)).toFixed(1)
    table.push({
      fault: fault.title,
      ...Object.fromEntries(
        ['limit', 'cache'].map((use) => [`${use}: first, most ms`, worst(first[use], before[use], 1)]),
      ),
      ...Object.fromEntries(
        ['limit', 'cache'].map((use) => [`${use}: known, p99 ms`, worst(known[use], before[use], 0.99)]),
      ),
      commands: asked,
      'log lines/s': ((said / faultMs) * 1000).toFixed(1),
      ...Object.fromEntries(Object.entries(again).map(([use, ms]) => [`${use}: again s`, (ms / 1000).toFixed(1)])),
    })
  })

  async function build({ replica }: Fault): Promise<World> {
    const redis = await startRedis()
    cleanup.push(() => redis.close())
    const proxy = await startTcpProxy(redis.port)
    cleanup.push(() => proxy.close())
    if (!replica) return { redis, proxy }
    const second = await startRedis()
    cleanup.push(() => second.close())
    await second.command(`REPLICAOF 127.0.0.1 ${redis.port}`)
    await eventually(async () => (await second.command('ROLE')).includes('connected'), 'the replica follows')
    return { redis, replica: second, proxy }
  }
})
