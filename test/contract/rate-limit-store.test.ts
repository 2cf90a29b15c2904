/**
 * What holds for a rate limit in whatever store: in memory, in Redis, in a cluster. And what holds for Redis alone: one count
 * for the fleet, one round trip, and nobody waits or fails when it is killed, paused, flushed or holds nonsense.
 */

import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { type ClientStream, Exchange } from '../../src/exchange.ts'
import { headFromText } from '../../src/http1/message-head.ts'
import { type RedisConfig, rateLimitsConfig, redisConfig } from '../../src/policies/rate-limit/config.ts'
import { compileRateLimits, type RateLimitGates } from '../../src/policies/rate-limit/policy.ts'
import { openRedis, type RedisDoor } from '../../src/redis.ts'
import { LimiterTable } from '../../src/shared/limiter-table.ts'
import { freePort } from '../support/free-port.ts'
import { startRedis, type TestRedis } from '../support/redis.ts'
import { services } from '../support/services.ts'

const head = headFromText('request', 'GET / HTTP/1.1\r\nHost: a\r\n\r\n')
const doors: RedisDoor[] = []
let names = 0

afterEach(() => {
  for (const door of doors.splice(0)) door.close()
})

async function open(config: object, up = true): Promise<{ door: RedisDoor; config: RedisConfig }> {
  const redis = redisConfig.parse({ main: config })
  const door = openRedis('main', redis.main!)
  doors.push(door)
  if (up) expect(await door.whenUp(5000)).toBe(true)
  return { door, config: redis }
}

/** One gateway's gates for rules whose names no other test has. */
function gateway(rules: Record<string, object>, door?: RedisDoor, config?: RedisConfig) {
  const counts: Record<string, number> = {}
  const gates = compileRateLimits(Object.keys(rules), rateLimitsConfig.parse(rules), {
    table: LimiterTable.create(1024),
    routeName: 'orders',
    redisConfig: config,
    redis: () => door,
    count: (_, event) => {
      counts[event] = (counts[event] ?? 0) + 1
    },
  }) as RateLimitGates
  const ask = async (ip = '192.0.2.1', tier?: string) => {
    const x = new Exchange(head, {} as ClientStream, 0)
    x.clientAddress = ip
    if (tier !== undefined) x.identity = { subject: 's', claims: {}, tier }
    const started = performance.now()
    const reply = (await gates.beforeIdentity?.(x)) ?? (await gates.afterIdentity?.(x))
    return { allowed: reply === undefined, reply, fields: x.responseFields, ms: performance.now() - started }
  }
  const passes = async (n: number, ip?: string, tier?: string) =>
    (await Promise.all(Array.from({ length: n }, () => ask(ip, tier)))).filter(({ allowed }) => allowed).length
  return { ask, passes, counts, gates }
}

const unique = (name: string) => `${name}${++names}`

interface Store {
  store: 'memory' | 'redis'
  gateway(rules: Record<string, object>): Promise<ReturnType<typeof gateway>>
}

function contract(store: Store) {
  const of = (rule: object, name = unique('r')) =>
    store.gateway({ [name]: { key: 'ip', store: store.store, ...rule } }).then((g) => ({ ...g, name }))

  it.each(['gcra', 'slidingWindow', 'fixedWindow'])(
    'lets exactly the limit of 30 asked at once through (%s)',
    async (algorithm) => {
      const { passes, ask, counts } = await of({ algorithm, limit: 10, window: '1h' })
      expect(await passes(30)).toBe(10)
      expect(await passes(1, '192.0.2.2')).toBe(1)
      const { reply } = await ask()
      expect(reply?.status).toBe(429)
      const wait = Number(/Retry-After: (\d+)/.exec(reply!.fields)![1])
      expect(wait).toBeGreaterThanOrEqual(1)
      expect(wait).toBeLessThanOrEqual(7200)
      expect(counts).toEqual({ allowed: 11, limited: 21 })
    },
  )

  it.each(['gcra', 'slidingWindow', 'fixedWindow'])('tells how much remains (%s)', async (algorithm) => {
    const { ask, name } = await of({ algorithm, limit: 10, window: '1h' })
    await ask()
    expect((await ask()).fields).toMatch(
      new RegExp(`^RateLimit-Policy: "${name}";q=10;w=3600\r\nRateLimit: "${name}";r=8;t=\\d+\r\n$`),
    )
  })

  it.each(['gcra', 'slidingWindow', 'fixedWindow'])(
    'charges costs and takes nothing for the refused (%s)',
    async (algorithm) => {
      const { ask, name } = await of({ algorithm, limit: 10, window: '1h', cost: 4 })
      expect((await ask()).fields).toContain(`"${name}";r=6`)
      expect((await ask()).fields).toContain(`"${name}";r=2`)
      expect((await ask()).allowed).toBe(false)
    },
  )

  it.each(['gcra', 'slidingWindow', 'fixedWindow'])('counts by a window below a second (%s)', async (algorithm) => {
    const { passes } = await of({ algorithm, limit: 5, window: '300ms' })
    const first = await passes(20)
    expect(first).toBeGreaterThanOrEqual(5)
    expect(first).toBeLessThanOrEqual(10) // some of a window may pass meanwhile
    await new Promise((resolve) => setTimeout(resolve, 650))
    expect(await passes(3)).toBe(3)
  })

  it('lets burst through at once (gcra)', async () => {
    const { passes } = await of({ limit: 100, window: '1h', burst: 4 })
    expect(await passes(20)).toBe(4)
  })

  it('gives a tier its own number', async () => {
    const { passes } = await of({ limit: 2, window: '1h', tiers: { premium: 6 } })
    expect(await passes(10, '192.0.2.7', 'premium')).toBe(6)
    expect(await passes(10, '192.0.2.8', 'other')).toBe(2)
  })

  it('does not share a counter between two rules of the same numbers', async () => {
    const rule = { key: 'ip', store: store.store, limit: 5, window: '1h' }
    const both = await store.gateway({ [unique('a')]: rule, [unique('b')]: rule })
    expect(await both.passes(20)).toBe(5)
  })

  it('charges no rule for what another one refuses', async () => {
    const small = unique('small')
    const large = unique('large')
    const rule = { key: 'ip', store: store.store, window: '1h', algorithm: 'fixedWindow' }
    const both = await store.gateway({ [large]: { ...rule, limit: 100 }, [small]: { ...rule, limit: 3 } })
    for (let i = 0; i < 3; i++) expect((await both.ask()).allowed).toBe(true)
    for (let i = 0; i < 10; i++) expect((await both.ask()).reply?.extra).toEqual({ 'violated-policies': [small] })
    await new Promise((resolve) => setTimeout(resolve, 50)) // nobody waits for what is given back
    const alone = await store.gateway({ [large]: { ...rule, limit: 100 } })
    if (store.store === 'redis') expect((await alone.ask()).fields).toContain(`"${large}";r=96`)
    else expect((await both.ask()).fields).toContain(`"${large}";r=97`)
  })
}

describe('in memory', () => {
  contract({ store: 'memory', gateway: async (rules) => gateway(rules) })
})

// Not every machine has redis-server; CI does, and fails without.
describe.skipIf(services.redis === undefined)('in Redis', () => {
  let redis: TestRedis
  beforeAll(async () => {
    redis = await startRedis()
  })
  afterAll(() => redis.close())
  const url = () => ({ url: redis.url })

  contract({
    store: 'redis',
    gateway: async (rules) => {
      const { door, config } = await open(url())
      return gateway(rules, door, config)
    },
  })

  const calls = async (): Promise<number> => {
    const stats = await redis.command('INFO commandstats')
    return [...stats.matchAll(/cmdstat_eval(?:sha)?:calls=(\d+)/g)].reduce((sum, [, n]) => sum + Number(n), 0)
  }

  it.each(['gcra', 'slidingWindow', 'fixedWindow'])('is one count for the whole fleet (%s)', async (algorithm) => {
    const rules = { [unique('fleet')]: { key: 'ip', store: 'redis', algorithm, limit: 20, window: '1h' } }
    const fleet = await Promise.all([open(url()), open(url()), open(url())])
    const passed = await Promise.all(fleet.map(({ door, config }) => gateway(rules, door, config).passes(15)))
    expect(passed.reduce((sum, n) => sum + n)).toBe(20)
  })

  it('asks for all rules of a request in one write', async () => {
    const writes: Buffer[] = []
    const proxy = await tap(redis.port, (piece) => writes.push(piece))
    const { door, config } = await open({ url: `redis://127.0.0.1:${proxy.port}` })
    const rule = { key: 'ip', store: 'redis', limit: 100, window: '1h' }
    const { ask, counts } = gateway(
      {
        [unique('a')]: rule,
        [unique('b')]: { ...rule, algorithm: 'slidingWindow' },
        [unique('c')]: { ...rule, algorithm: 'fixedWindow' },
      },
      door,
      config,
    )
    await ask()
    writes.length = 0
    await ask()
    expect(writes).toHaveLength(1)
    expect(writes[0]!.toString().match(/evalsha/gi)).toHaveLength(3)
    expect(counts).toEqual({ allowed: 6 })
    proxy.close()
  })

  it('refuses keys that are over their limit without asking', async () => {
    const { door, config } = await open(url())
    const { ask, passes, counts } = gateway(
      { [unique('r')]: { key: 'ip', store: 'redis', limit: 2, window: '1h' } },
      door,
      config,
    )
    await passes(3)
    const before = await calls()
    for (let i = 0; i < 50; i++) {
      const { allowed, fields } = await ask()
      expect(allowed).toBe(false)
      expect(fields).toContain(';r=0;t=')
    }
    expect(await calls()).toBe(before)
    expect(counts).toEqual({ allowed: 2, limited: 51 })
  })

  it('gives every key a time to live', async () => {
    const { door, config } = await open(url())
    const rule = { key: 'ip', store: 'redis', limit: 2, window: '10s' }
    const g = gateway(
      {
        [unique('a')]: rule,
        [unique('b')]: { ...rule, algorithm: 'slidingWindow' },
        [unique('c')]: { ...rule, algorithm: 'fixedWindow' },
        [unique('d')]: { ...rule, algorithm: 'fixedWindow', cost: 2 },
      },
      door,
      config,
    )
    await redis.command('FLUSHALL')
    await g.ask()
    const keys = (await redis.command('KEYS *')).split('\r\n').filter((line) => line.startsWith('fluxor:rl:'))
    expect(keys).toHaveLength(4)
    for (const key of keys) {
      const ttl = Number((await redis.command(`PTTL ${key}`)).slice(1))
      expect(ttl).toBeGreaterThan(0)
      expect(ttl).toBeLessThanOrEqual(20_001)
    }
  })

  it('goes on when all keys and scripts are flushed', async () => {
    const { door, config } = await open(url())
    const { passes, counts } = gateway(
      { [unique('r')]: { key: 'ip', store: 'redis', limit: 5, window: '1h' } },
      door,
      config,
    )
    expect(await passes(4)).toBe(4)
    await redis.command('FLUSHALL')
    await redis.command('SCRIPT FLUSH')
    expect(await passes(4)).toBe(4)
    expect(counts.storeErrors).toBeUndefined()
  })

  it.each([
    ['gcra', 'SET', 'nonsense'],
    ['slidingWindow', 'LPUSH', 'nonsense'],
    ['fixedWindow', 'SADD', 'nonsense'],
    ['fixedWindow', 'SET', 'nonsense'],
    ['gcra', 'HSET', 'd nonsense'],
  ])('does what onStoreError says when the key holds something else (%s, %s)', async (algorithm, command, value) => {
    const { door, config } = await open(url())
    const name = unique('bad')
    await redis.command(`${command} fluxor:rl:${algorithm}:10000:{${name}:ip:192.0.2.1} ${value}`)
    const rule = { key: 'ip', store: 'redis', algorithm, limit: 2, window: '10s' }
    const local = gateway({ [name]: rule }, door, config)
    expect(await local.passes(5)).toBe(2)
    expect(local.counts.storeErrors).toBe(5)
    expect(await gateway({ [name]: { ...rule, onStoreError: 'allow' } }, door, config).passes(5)).toBe(5)
    const deny = await gateway({ [name]: { ...rule, onStoreError: 'deny' } }, door, config).ask()
    expect(deny.reply).toMatchObject({ status: 429, reason: 'LIMIT_STORE' })
    expect(door.up).toBe(true) // the server is well, one key is not
  })
})

// Not every machine has redis-server; CI does, and fails without.
describe.skipIf(services.redis === undefined)('when Redis', () => {
  let redis: TestRedis
  afterEach(() => redis.close())

  async function ready(rule: object = {}) {
    redis = await startRedis()
    const opened = await open({ url: redis.url })
    const g = gateway(
      { [unique('r')]: { key: 'ip', store: 'redis', limit: 1000, window: '1h', ...rule } },
      opened.door,
      opened.config,
    )
    await g.passes(10)
    expect(g.counts).toEqual({ allowed: 10 })
    return { ...g, door: opened.door }
  }

  /** Each answer comes from memory at once, and nothing is thrown. */
  async function answersWithoutWaiting(ask: (ip?: string) => Promise<{ ms: number; allowed: boolean }>) {
    const times: number[] = []
    for (let i = 0; i < 200; i++) times.push((await ask()).ms)
    times.sort((a, b) => a - b)
    expect(times[190]).toBeLessThan(1)
  }

  async function recovers(g: { ask: () => Promise<unknown>; counts: Record<string, number> }, door: RedisDoor) {
    const started = performance.now()
    while (!door.up && performance.now() - started < 6000) await new Promise((resolve) => setTimeout(resolve, 10))
    expect(performance.now() - started).toBeLessThan(5000)
    const errors = g.counts.storeErrors
    await g.ask()
    expect(g.counts.storeErrors).toBe(errors)
  }

  it.each(['gcra', 'fixedWindow'])(
    'is killed, no request waits or fails, and it is used again after its restart (%s)',
    async (algorithm) => {
      const g = await ready({ algorithm })
      const flying = g.passes(100)
      await redis.kill()
      expect(await flying).toBe(100)
      expect((await g.ask()).ms).toBeLessThan(100)
      await answersWithoutWaiting(g.ask)
      expect(g.door.up).toBe(false)
      await redis.start()
      await recovers(g, g.door)
    },
  )

  it.each(['gcra', 'fixedWindow'])(
    'hangs, requests wait for 50 ms, then not at all, until it answers again (%s)',
    async (algorithm) => {
      const g = await ready({ algorithm })
      redis.pause()
      const slow = await Promise.all([g.ask(), g.ask(), g.ask(), g.ask()])
      for (const { ms, allowed } of slow) {
        expect(allowed).toBe(true)
        expect(ms).toBeGreaterThan(40)
        expect(ms).toBeLessThan(300)
      }
      expect(g.door.up).toBe(false)
      await answersWithoutWaiting(g.ask)
      await new Promise((resolve) => setTimeout(resolve, 1500)) // a probe fails meanwhile
      expect(g.door.up).toBe(false)
      redis.resume()
      await recovers(g, g.door)
    },
  )

  it('is away at the start, it is used once it is there', async () => {
    redis = await startRedis()
    await redis.stop()
    const { door, config } = await open({ url: redis.url }, false)
    expect(await door.whenUp(100)).toBe(false)
    const g = gateway({ [unique('r')]: { key: 'ip', store: 'redis', limit: 5, window: '1h' } }, door, config)
    expect(await g.passes(20)).toBe(5)
    expect(g.counts.storeErrors).toBe(20)
    await redis.start()
    await recovers({ ...g, ask: () => g.ask('192.0.2.9') }, door)
  })

  it('answers nonsense, onStoreError decides', async () => {
    redis = await startRedis()
    const fake = await nonsense()
    const { door, config } = await open({ url: `redis://127.0.0.1:${fake.port}` }, false)
    await door.whenUp(500)
    const g = gateway({ [unique('r')]: { key: 'ip', store: 'redis', limit: 5, window: '1h' } }, door, config)
    expect(await g.passes(20)).toBe(5)
    expect((await g.ask()).allowed).toBe(false)
    fake.close()
  })

  it('is down and the rule says deny, the answer is 429 with Retry-After, never 500', async () => {
    const g = await ready({ onStoreError: 'deny' })
    await redis.kill()
    const { reply } = await g.ask()
    expect(reply).toMatchObject({ status: 429, reason: 'LIMIT_STORE', fields: 'Retry-After: 1\r\n' })
  })
})

// Not every machine has redis-server; CI does, and fails without.
describe.skipIf(services.redis === undefined)('in a Redis cluster', () => {
  let child: ChildProcess
  let port: number
  const folder = mkdtempSync(join(tmpdir(), 'fluxor-cluster-'))
  beforeAll(async () => {
    port = await freePort()
    child = spawn(
      services.redis!,
      [
        '--port',
        `${port}`,
        '--bind',
        '127.0.0.1',
        '--save',
        '',
        '--cluster-enabled',
        'yes',
        '--cluster-announce-ip',
        '127.0.0.1',
        '--dir',
        folder,
      ],
      { stdio: 'ignore' },
    )
    for (let state = ''; !state.includes('cluster_state:ok'); ) {
      await new Promise((resolve) => setTimeout(resolve, 50))
      await inline(port, 'CLUSTER ADDSLOTSRANGE 0 16383').catch(() => '')
      state = await inline(port, 'CLUSTER INFO').catch(() => '')
    }
  })
  afterAll(async () => {
    const ended = new Promise((resolve) => child.once('exit', resolve))
    child.kill('SIGKILL')
    await ended
    rmSync(folder, { recursive: true, force: true })
  })

  contract({
    store: 'redis',
    gateway: async (rules) => {
      const { door, config } = await open({ cluster: [`127.0.0.1:${port}`], commandTimeout: '500ms' })
      return gateway(rules, door, config)
    },
  })
})

function inline(port: number, line: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => socket.write(`${line}\r\n`))
    socket.setTimeout(2000, () => socket.destroy(new Error('no reply')))
    socket.once('error', reject)
    socket.once('data', (reply) => {
      socket.destroy()
      resolve(reply.toString('latin1'))
    })
  })
}

async function listen(onSocket: (socket: Socket) => void): Promise<{ port: number; close: () => void }> {
  const sockets = new Set<Socket>()
  const server: Server = createServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => undefined)
    onSocket(socket)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const close = () => {
    for (const socket of sockets) socket.destroy()
    server.close()
  }
  return { port: (server.address() as { port: number }).port, close }
}

/** In front of Redis: shows what a client writes, piece by piece. */
function tap(port: number, seen: (piece: Buffer) => void) {
  return listen((socket) => {
    const upstream = connect(port, '127.0.0.1')
    upstream.on('error', () => undefined)
    socket.on('data', (piece) => {
      seen(piece)
      upstream.write(piece)
    })
    upstream.pipe(socket)
    socket.on('close', () => upstream.destroy())
  })
}

/** Speaks the protocol and says "OK" to everything. */
function nonsense() {
  return listen((socket) =>
    socket.on('data', (piece) => {
      const commands = piece.toString('latin1').match(/\*\d+\r\n/g)?.length ?? 0
      socket.write('+OK\r\n'.repeat(commands))
    }),
  )
}
