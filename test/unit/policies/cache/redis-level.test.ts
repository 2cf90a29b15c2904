import fc from 'fast-check'
import { Redis } from 'ioredis'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { createCache } from '../../../../src/policies/cache/cache.ts'
import { cacheConfig } from '../../../../src/policies/cache/config.ts'
import { createRedisLevel } from '../../../../src/policies/cache/redis-level.ts'
import { openRedis, type RedisDoor } from '../../../../src/redis.ts'
import { freePort } from '../../../support/free-port.ts'
import { startRedis, TestRedis } from '../../../support/redis.ts'
import { type Condition, within } from '../../../support/within.ts'
import { Bench, type BenchOptions } from './harness.ts'

const FRESH = { 'Cache-Control': 'max-age=600' }
let redis: TestRedis
const doors: RedisDoor[] = []

beforeAll(async () => {
  redis = await startRedis()
})
beforeEach(async () => {
  await redis.command('FLUSHALL')
})
afterEach(() => {
  for (const door of doors.splice(0)) door.close()
})
afterAll(() => redis.close())

/** A gateway with a memory of its own on the shared Redis. */
async function gateway(config: Record<string, unknown> = {}, options: BenchOptions = {}): Promise<Bench> {
  const [bench, door] = await gatewayOn(redis.url, config, options)
  await door.whenUp(5000)
  await bench.cache.second!.ready!(5000)
  return bench
}

async function gatewayOn(
  url: string,
  config: Record<string, unknown> = {},
  options: BenchOptions = {},
): Promise<[Bench, RedisDoor]> {
  const door = openRedis('main', {
    url,
    keyPrefix: 'fluxor:',
    connectTimeout: 1000,
    commandTimeout: 500,
  } as Parameters<typeof openRedis>[1])
  doors.push(door)
  let nowMs = () => Date.now()
  const cache = createCache(cacheConfig.parse({}), { clock: () => nowMs(), second: createRedisLevel(door) })
  const bench = new Bench(config, { ...options, cache })
  nowMs = () => bench.nowMs
  return [bench, door]
}

const until = (done: Condition) => within(5000, done)

const keys = async () => Number(/:(\d+)/.exec(await redis.command('DBSIZE'))![1])

describe('two gateways on one Redis', () => {
  it('fetch an answer once, variants and all', async () => {
    const [a, b] = [await gateway(), await gateway()]
    const of = (foo: string) => ({ path: '/v', fields: { Foo: foo } })
    a.ask(of('1'))
    await until(() => a.origin.length === 1)
    a.last.reply(200, { ...FRESH, Date: a.date, Vary: 'Foo', ETag: '"é"' }, 'one\xff')
    await until(async () => (await keys()) === 1)
    const hit = b.ask(of('1'))
    await until(() => hit.ended)
    expect([hit.text, hit.get('etag'), hit.x.cacheStatus]).toEqual(['one\xff', '"é"', 'hit'])
    b.ask(of('2'))
    await until(() => b.origin.length === 1)
    expect(b.ask(of('1')).text).toBe('one\xff')
  })

  it('keep the answers of different subjects apart', async () => {
    const options = { identified: true }
    const [a, b] = [await gateway({ ttl: '60s' }, options), await gateway({ ttl: '60s' }, options)]
    a.ask({ subject: 'ann' })
    await until(() => a.origin.length === 1)
    a.last.reply(200, { Date: a.date }, 'of ann')
    await until(async () => (await keys()) === 2)
    b.ask({ subject: 'bob' })
    await until(() => b.origin.length === 1)
    const ann = b.ask({ subject: 'ann' })
    await until(() => ann.ended)
    expect(ann.text).toBe('of ann')
  })

  it.each([
    { urls: ['http://example.com/a'] },
    { urls: ['/a'] },
    { prefixes: ['http://example.com/'] },
    { tags: ['t'] },
  ])('purge together: %j', async (request) => {
    const [a, b] = [await gateway(), await gateway()]
    a.ask({ path: '/a' })
    await until(() => a.origin.length === 1)
    a.last.reply(200, { ...FRESH, Date: a.date, 'Cache-Tag': 't' }, 'old')
    await until(async () => (await keys()) === 2)
    const hit = b.ask({ path: '/a' })
    await until(() => hit.ended)
    a.cache.purge(request)
    expect(await a.cache.second!.purge(request)).toBe(1)
    await until(() => b.cache.store.size === 0)
    b.ask({ path: '/a' })
    await until(() => b.origin.length === 1)
  })

  it('drop together what an unsafe request has changed', async () => {
    const [a, b] = [await gateway(), await gateway()]
    a.ask({ path: '/a' })
    await until(() => a.origin.length === 1)
    a.last.reply(200, { ...FRESH, Date: a.date }, 'old')
    await until(async () => (await keys()) === 1)
    const hit = b.ask({ path: '/a' })
    await until(() => hit.ended)
    a.ask({ path: '/a', method: 'POST' })
    a.last.reply(200, {}, '')
    await until(() => b.cache.store.size === 0)
    expect(await redis.command('EXISTS fluxor:cache:a:http://example.com/a')).toBe(':0\r\n')
  })

  it('keep in the index of a tag what was stored while that tag was purged', async () => {
    const [[a, door], b] = [await gatewayOn(redis.url), await gateway()]
    await door.whenUp(5000)
    await a.cache.second!.ready!(5000)
    const store = async (path: string) => {
      const before = b.origin.length
      b.ask({ path })
      await until(() => b.origin.length > before)
      b.last.reply(200, { ...FRESH, Date: b.date, 'Cache-Tag': 't' }, path)
      await until(async () => (await redis.command(`EXISTS fluxor:cache:a:http://example.com${path}`)) === ':1\r\n')
      await until(async () => (await redis.command('SMEMBERS fluxor:cache:t:t')).includes(path))
    }
    await store('/first')
    // Between what the purge has found and its removal.
    const client = door.client as Redis
    const smembers = client.smembers.bind(client) as (key: string) => Promise<string[]>
    client.smembers = (async (key: string) => {
      const found = await smembers(key)
      if (key === 'cache:t:t') await store('/second')
      return found
    }) as typeof client.smembers
    expect(await a.cache.second!.purge({ tags: ['t'] })).toBe(1)
    expect(await redis.command('SMEMBERS fluxor:cache:t:t')).toContain('/second')
  })

  it('take out again what was on its way to Redis while it was purged there', async () => {
    const [a, b] = [await gateway(), await gateway()]
    a.ask({ path: '/a' })
    await until(() => a.origin.length === 1)
    a.last.reply(200, { ...FRESH, Date: a.date, 'Cache-Tag': 't' }, 'old')
    await until(async () => (await keys()) === 2)
    const hit = b.ask({ path: '/a' })
    await until(() => hit.ended)
    // As if this purge had found nothing: the answer came after it.
    await redis.command(`PUBLISH fluxor:cache:purge '1 {"from":"another","request":{"tags":["t"]}}'`)
    await until(async () => a.cache.store.size === 0 && b.cache.store.size === 0)
    b.ask({ path: '/a' })
    await until(() => b.origin.length === 1)
  })
})

it('a gateway that was cut off while others purged lets go what it has, and one that missed nothing does not', async () => {
  const [a, b] = [await gateway(), await gateway()]
  for (const bench of [a, b]) {
    bench.ask({ path: '/a' })
    await until(
      () =>
        bench.origin.some(({ x }) => x.path === '/a') || bench.cache.store.get('http://example.com/a') !== undefined,
    )
    const asked = bench.origin.find(({ x }) => x.path === '/a')
    asked?.reply(200, { ...FRESH, Date: bench.date }, 'old')
    await until(() => bench.cache.store.get('http://example.com/a') !== undefined)
  }
  const listening = async () => Number(/:(\d+)\r\n$/.exec(await redis.command('PUBSUB NUMSUB fluxor:cache:purge'))![1])
  const all = await listening()
  await a.cache.second!.purge({ urls: ['/nothing'] })
  await redis.command('CLIENT KILL TYPE pubsub')
  await until(async () => (await listening()) === all)
  expect(b.cache.store.get('http://example.com/a')).toBeDefined()
  await redis.command('CLIENT KILL TYPE pubsub')
  await a.cache.second!.purge({ urls: ['/nothing'] })
  await until(() => b.cache.store.size === 0)
})

it('what memory got before purges of others could arrive is let go when they can', async () => {
  const late = new TestRedis(await freePort())
  const [a, door] = await gatewayOn(late.url)
  a.ask({ path: '/early' })
  await until(() => a.origin.length === 1)
  a.last.reply(200, { ...FRESH, Date: a.date }, 'early')
  expect(a.cache.store.size).toBe(1)
  await late.start()
  await until(() => a.cache.store.size === 0)
  door.close()
  await late.close()
})

describe('a value in Redis', () => {
  const AT = 'fluxor:cache:a:http://example.com/a'

  it('that is not byte for byte what was stored under its key is a miss', async () => {
    const a = await gateway()
    a.ask({ path: '/a' })
    await until(() => a.origin.length === 1)
    a.last.reply(200, { ...FRESH, Date: a.date, ETag: '"e"' }, 'the body')
    await until(async () => (await keys()) === 1)
    const client = new Redis(redis.url)
    const whole = (await client.hgetBuffer(AT, 'a'))!
    const level = a.cache.second!
    const read = async (bytes: Uint8Array, key = 'http://example.com/a') => {
      await client.hset(`fluxor:cache:a:${key}`, 'v', '[]', 'a', Buffer.from(bytes))
      return level.get(key, () => '')
    }
    expect((await read(whole))?.body.toString()).toBe('the body')
    expect(await read(whole, 'http://example.com/b')).toBeUndefined()
    const changed = fc.oneof(
      fc.uint8Array({ maxLength: 400 }),
      fc.nat(whole.length - 1).map((length) => whole.subarray(0, length)),
      fc.tuple(fc.nat(whole.length - 1), fc.integer({ min: 1, max: 255 })).map(([at, xor]) => {
        const bytes = Buffer.from(whole)
        bytes[at]! ^= xor
        return bytes
      }),
      fc.uint8Array({ minLength: 1, maxLength: 9 }).map((more) => Buffer.concat([whole, more])),
    )
    await fc.assert(
      fc.asyncProperty(changed, async (bytes) => {
        expect(await read(bytes)).toBeUndefined()
      }),
      { numRuns: 200 },
    )
    client.disconnect()
  })
})

it('without Redis a miss is a miss, at once', async () => {
  const a = await gateway()
  await redis.kill()
  await until(() => doors.at(-1)!.up === false)
  const client = a.ask()
  await until(() => a.origin.length === 1)
  a.last.reply(200, FRESH, 'body')
  expect(client.text).toBe('body')
  expect(a.ask().x.cacheStatus).toBe('hit')
  expect(await a.cache.second!.purge({ urls: ['/'] })).toBeUndefined()
})
