/**
 * The cache through the running gateway: what the unit tests show on a clock of their own holds over real sockets, threads,
 * gateways and a Redis that fails. Staleness needs no waiting here: the origin sends an Age as large as its max-age.
 */

import { createHmac, randomBytes } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { Redis } from 'ioredis'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { type ConfigObject, startGateway, type TestGateway } from '../support/gateway.ts'
import { field } from '../support/messages.ts'
import { problem, RawClient, type RawResponse, send } from '../support/raw-client.ts'
import { startRedis, type TestRedis } from '../support/redis.ts'
import { services } from '../support/services.ts'
import { type HttpUpstream, startHttpUpstream } from '../support/upstream.ts'
import { type Condition, within } from '../support/within.ts'

type Handler = (request: IncomingMessage, response: ServerResponse) => void

let cleanup: (() => Promise<unknown> | unknown)[] = []
let origin: HttpUpstream
/** What the origin got, as `METHOD target`. */
let seen: string[] = []
let handler: Handler = () => {}

beforeAll(async () => {
  origin = await startHttpUpstream((request, response) => {
    seen.push(`${request.method} ${request.url}`)
    request.resume()
    handler(request, response)
  })
})
afterAll(() => origin.close())
beforeEach(() => {
  seen = []
})
afterEach(async () => {
  for (const close of cleanup.reverse()) await close()
  cleanup = []
})

/** A gateway whose one route caches. */
async function start(config: ConfigObject = {}, route: ConfigObject = {}): Promise<TestGateway> {
  const gateway = await startGateway({
    upstreams: { app: { endpoints: [{ url: origin.url }] } },
    routes: [{ match: { pathPrefix: '/' }, upstream: 'app', cache: {}, ...route }],
    ...config,
  })
  cleanup.push(() => gateway.close())
  return gateway
}

/** One gateway for all tests of a `describe`; each takes a path of its own. */
function shared(config: ConfigObject = {}, route: ConfigObject = {}): () => TestGateway {
  let gateway: TestGateway
  beforeAll(async () => {
    gateway = await start(config, route)
    cleanup.pop()
  })
  afterAll(() => gateway.close())
  return () => gateway
}
let paths = 0
const newPath = () => `/path/${paths++}`

interface Ask {
  method?: string
  fields?: string[]
  host?: string
}

const text = (path: string, { method = 'GET', fields = [], host = 'a.test' }: Ask = {}) =>
  [`${method} ${path} HTTP/1.1`, `Host: ${host}`, ...fields, '', ''].join('\r\n')

async function ask(gateway: TestGateway, path: string, options: Ask = {}): Promise<RawResponse> {
  const { responses } = await send(gateway.port, text(path, options), { responses: 1, timeoutMs: 10_000 })
  if (responses[0] === undefined) throw new Error(`no answer for ${path}\n${gateway.output()}`)
  return responses[0]
}

const status = (response: RawResponse) => field(response, 'cache-status')
const body = (response: RawResponse) => response.body.toString()

const until = (done: Condition, what = '') => within(15_000, done, () => what)

/** Every answer is held until `release()`. */
function hold(answer: Handler): { release: () => void } {
  let held: (() => void)[] = []
  let open = false
  handler = (request, response) => {
    if (open) answer(request, response)
    else held.push(() => answer(request, response))
  }
  return {
    release() {
      open = true
      for (const one of held) one()
      held = []
    },
  }
}

/** Connections that are there before the first request leaves. */
async function connections(gateway: TestGateway, n: number): Promise<RawClient[]> {
  const clients = Array.from({ length: n }, () => new RawClient(gateway.port))
  cleanup.push(() => {
    for (const client of clients) client.close()
  })
  await Promise.all(clients.map((client) => new Promise((resolve) => client.socket.once('connect', resolve))))
  return clients
}

const replies =
  (content: string | (() => string), fields: Record<string, string | string[]>, code = 200): Handler =>
  (_request, response) => {
    response.writeHead(code, fields)
    response.end(typeof content === 'string' ? content : content())
  }
const FRESH = { 'Cache-Control': 'max-age=600' }
/** Stale from the first moment, with a validator or not. */
const stale = (directives: string, fields: Record<string, string> = {}) => ({
  'Cache-Control': `max-age=10, ${directives}`,
  Age: '10',
  ...fields,
})

describe('many clients on one cold key', () => {
  it('a thousand cause one request to the origin', { timeout: 60_000 }, async () => {
    const gateway = await start()
    const { release } = hold(replies('the one answer', FRESH))
    const clients = await connections(gateway, 1000)
    for (const client of clients) client.socket.write(text('/cold'))
    await until(async () => (await gateway.metric('fluxor_cache_coalesced_total')) === 999, 'not all wait together')
    release()
    const results = await Promise.all(clients.map((client) => client.answers(1)))
    expect(new Set(results.map(({ responses }) => `${responses[0]!.status} ${body(responses[0]!)}`))).toEqual(
      new Set(['200 the one answer']),
    )
    expect(seen.length).toBe(1)
  })

  // Not every machine has redis-server; CI does, and fails without.
  it.skipIf(services.redis === undefined)(
    'three gateways with one Redis cause at most three, and a fourth none',
    { timeout: 60_000 },
    async () => {
      const redis = await startRedis()
      cleanup.push(() => redis.close())
      const config = { redis: { main: { url: redis.url } }, cache: { redis: 'main' } }
      const gateways = [await start(config), await start(config), await start(config)]
      const { release } = hold(replies('the one answer', FRESH))
      const clients = (await Promise.all(gateways.map((gateway) => connections(gateway, 334)))).flat()
      for (const client of clients) client.socket.write(text('/cold'))
      for (const gateway of gateways)
        await until(async () => (await gateway.metric('fluxor_cache_coalesced_total')) === 333)
      release()
      const results = await Promise.all(clients.map((client) => client.answers(1)))
      expect(new Set(results.map(({ responses }) => body(responses[0]!)))).toEqual(new Set(['the one answer']))
      expect(seen.length).toBeLessThanOrEqual(3)
      const before = seen.length
      const late = await start(config)
      await until(async () => (await redis.command('DBSIZE')) === ':1\r\n')
      expect(body(await ask(late, '/cold'))).toBe('the one answer')
      expect(seen.length).toBe(before)
    },
  )

  it('take one admission place together, however many wait', async () => {
    const gateway = await start({ admission: { maxCCU: 2, workers: 2, maxQueue: 0 } })
    const { release } = hold(replies('ok', FRESH))
    const clients = await connections(gateway, 50)
    for (const client of clients) client.socket.write(text('/cold'))
    await until(async () => (await gateway.metric('fluxor_cache_coalesced_total')) === 49)
    expect(origin.inside).toBe(1)
    release()
    const results = await Promise.all(clients.map((client) => client.answers(1)))
    expect(results.every(({ status: code }) => code === 200)).toBe(true)
  })

  it('get their answer whole when the one who came first leaves in the middle of it', async () => {
    const gateway = await start()
    let response: ServerResponse | undefined
    handler = (_request, out) => {
      response = out
      out.writeHead(200, FRESH)
      out.write('first half, ')
    }
    const [leader, ...followers] = await connections(gateway, 5)
    leader!.socket.write(text('/half'))
    await leader!.until(({ bytes }) => bytes.includes('first half'))
    for (const follower of followers) follower.socket.write(text('/half'))
    for (const follower of followers) await follower.until(({ bytes }) => bytes.includes('first half'))
    leader!.reset()
    await until(async () => (await gateway.metric('fluxor_connections')) === 4)
    response!.end('second half')
    for (const follower of followers) {
      const { responses } = await follower.answers(1)
      expect(body(responses[0]!)).toBe('first half, second half')
    }
    expect(status(await ask(gateway, '/half'))).toMatch(/^fluxor; hit/)
    expect(seen.length).toBe(1)
  })

  it('go their own way at once when the answer is for one alone', async () => {
    const gateway = await start()
    let n = 0
    const { release } = hold((_request, response) => {
      response.writeHead(200, { 'Cache-Control': 'private', 'Set-Cookie': `session=${n}` })
      response.end(`for ${n++}`)
    })
    const clients = await connections(gateway, 20)
    for (const client of clients) client.socket.write(text('/mine'))
    await until(async () => (await gateway.metric('fluxor_cache_coalesced_total')) === 19)
    release()
    const results = await Promise.all(clients.map((client) => client.answers(1)))
    expect(new Set(results.map(({ responses }) => body(responses[0]!))).size).toBe(20)
    expect(new Set(results.map(({ responses }) => field(responses[0]!, 'set-cookie'))).size).toBe(20)
  })
})

// Not every machine has redis-server; CI does, and fails without.
describe.skipIf(services.redis === undefined)('Redis', () => {
  const PATHS = Array.from({ length: 20 }, (_, i) => `/page/${i}`)
  const content: Handler = (request, response) => {
    const language = String(request.headers['accept-language'] ?? '')
    response.writeHead(200, { ...FRESH, Vary: 'Accept-Language', 'Surrogate-Key': 'pages' })
    response.end(`${request.url} in ${language}`)
  }
  const config = (redis: TestRedis) => ({ redis: { main: { url: redis.url } }, cache: { redis: 'main' } })

  /** Every page in two languages is what the origin says of it. */
  async function allRight(gateway: TestGateway): Promise<number> {
    let slowest = 0
    for (const path of PATHS) {
      for (const language of ['de', 'vi']) {
        const startedMs = performance.now()
        const answer = await ask(gateway, path, { fields: [`Accept-Language: ${language}`] })
        slowest = Math.max(slowest, performance.now() - startedMs)
        expect(`${answer.status} ${body(answer)}`).toBe(`200 ${path} in ${language}`)
      }
    }
    return slowest
  }

  async function filled(): Promise<TestRedis> {
    const redis = await startRedis()
    cleanup.push(() => redis.close())
    handler = content
    await allRight(await start(config(redis)))
    await until(async () => Number(/:(\d+)/.exec(await redis.command('DBSIZE'))![1]) > PATHS.length)
    return redis
  }

  it.each<[string, (redis: TestRedis) => Promise<unknown> | unknown]>([
    ['killed', (redis) => redis.kill()],
    ['paused', (redis) => redis.pause()],
    ['emptied', (redis) => redis.command('FLUSHALL')],
  ])('%s: every request is answered right', async (_what, happen) => {
    const redis = await filled()
    const gateway = await start(config(redis))
    await ask(gateway, PATHS[0]!, { fields: ['Accept-Language: de'] })
    expect(seen.length).toBe(2 * PATHS.length)
    await happen(redis)
    expect(await allRight(gateway)).toBeLessThan(1000)
    expect(seen.length).toBeGreaterThan(2 * PATHS.length)
  })

  it('not there at the start, and there later: every request is answered right, and then from it', async () => {
    const redis = await filled()
    await redis.stop()
    const [a, b] = [await start(config(redis)), await start(config(redis))]
    await allRight(a)
    await redis.start()
    await until(async () => {
      await ask(a, `/new/${randomBytes(4).toString('hex')}`)
      return (await redis.command('DBSIZE')) !== ':0\r\n'
    })
    await until(async () => {
      const path = `/new/${randomBytes(4).toString('hex')}`
      await ask(a, path)
      return /^fluxor; hit/.test(status(await ask(b, path))!)
    }, 'the second gateway does not find what the first has stored')
    await ask(b, '/new/kept')
    await until(async () => {
      await purge(a, { urls: ['/new/kept'] })
      return status(await ask(b, '/new/kept'))!.includes('fwd=uri-miss')
    }, 'no purge reaches the second gateway')
  })

  it.each<[string, (client: Redis, key: string, all: string[]) => Promise<unknown>]>([
    ['random bytes', (client, key) => each(client, key, async () => randomBytes(200))],
    ['other types', async (client, key) => [await client.del(key), await client.set(key, 'garbage')]],
    ['lists in place of sets', async (client, key) => [await client.del(key), await client.lpush(key, 'x', '')]],
    ['random names of Vary', (client, key) => each(client, key, async () => randomBytes(9), true)],
    ['other names of Vary', (client, key) => each(client, key, async () => Buffer.from('["host",1,null]'), true)],
    ['no names of Vary', (client, key) => each(client, key, async () => Buffer.from('[]'), true)],
    ['empty values', (client, key) => each(client, key, async () => Buffer.alloc(0))],
    ['cut values', (client, key) => each(client, key, async (value) => value.subarray(0, value.length - 2))],
    ['longer values', (client, key) => each(client, key, async (value) => Buffer.concat([value, randomBytes(3)]))],
    [
      'one changed bit',
      (client, key) =>
        each(client, key, async (value) => {
          value[Math.floor(Math.random() * value.length)]! ^= 1 << Math.floor(Math.random() * 8)
          return value
        }),
    ],
    ['JSON of another shape', (client, key) => each(client, key, async () => Buffer.from('{"status":200}\nhello'))],
    [
      'answers of other pages',
      async (client, key, all) => {
        const other = all.find((one) => one !== key && one.includes('cache:a:'))!
        if ((await client.type(key)) !== 'hash' || (await client.type(other)) !== 'hash') return
        const values = await client.hgetallBuffer(other)
        for (const [name, value] of Object.entries(values)) await client.hset(key, name, value)
      },
    ],
  ])('full of garbage (%s): every request is answered right, and purging works', async (_what, spoil) => {
    const redis = await filled()
    const client = new Redis(redis.url)
    cleanup.push(() => client.disconnect())
    const keys = await client.keys('*')
    for (const key of keys) await spoil(client, key, keys)
    const [a, b] = [await start(config(redis)), await start(config(redis))]
    await allRight(a)
    await allRight(a)
    await allRight(b)
    const before = seen.length
    await until(async () => {
      await purge(a, { tags: ['pages'] })
      await allRight(b)
      return seen.length >= before + 2 * PATHS.length
    }, 'the purge did not reach the second gateway')
    expect(a.running && b.running).toBe(true)
    expect(a.output()).not.toMatch(/an exchange failed/)
  })

  /** @param names the names of Vary, else the answers */
  async function each(
    client: Redis,
    key: string,
    spoilt: (value: Buffer) => Promise<Buffer>,
    names = false,
  ): Promise<void> {
    if ((await client.type(key)) === 'set') {
      const members = await client.smembersBuffer(key)
      await client.del(key)
      for (const member of members) await client.sadd(key, await spoilt(member))
      return
    }
    for (const [name, value] of Object.entries(await client.hgetallBuffer(key)))
      if ((name === 'v') === names) await client.hset(key, name, await spoilt(value))
  }
})

async function purge(gateway: TestGateway, order: Record<string, unknown>): Promise<number> {
  const answer = await gateway.admin('/purge', { method: 'POST', body: JSON.stringify(order) })
  if (answer.status !== 200) throw new Error(`${answer.status} ${await answer.text()}`)
  return ((await answer.json()) as { purged: number }).purged
}

/** Asks on every connection; what they got. */
async function askAll(clients: RawClient[], path: string, round: number): Promise<string[]> {
  for (const client of clients) client.socket.write(text(path))
  const results = await Promise.all(clients.map((client) => client.answers(round)))
  return results.map(({ responses }) => body(responses[round - 1]!))
}

describe('a purge', () => {
  const plain = shared()
  let version = 1
  const versioned: Handler = (request, response) => {
    response.writeHead(200, { ...FRESH, 'Surrogate-Key': `news front ${request.url}`, ETag: `"${version}"` })
    response.end(`version ${version}`)
  }
  beforeEach(() => {
    version = 1
    handler = versioned
  })

  /** One connection in each thread at least: as long as a thread has no answer of its own, it asks the origin. */
  async function inBothThreads(gateway: TestGateway, path: string): Promise<RawClient[]> {
    const clients = await connections(gateway, 32)
    for (const client of clients) {
      client.socket.write(text(path))
      await client.answers(1)
    }
    return clients
  }

  it('by tag reaches both threads', async () => {
    const gateway = await start({ server: { threads: 2 } })
    const clients = await inBothThreads(gateway, '/front')
    expect(seen.length).toBe(2)
    version = 2
    expect(await purge(gateway, { tags: ['news'] })).toBe(2)
    expect(new Set(await askAll(clients, '/front', 2))).toEqual(new Set(['version 2']))
  })

  /** A connection in each of the two threads: the ids that a thread gives to requests begin alike. */
  async function oneInEach(gateway: TestGateway): Promise<RawClient[]> {
    const byThread = new Map<string, RawClient>()
    for (const client of await connections(gateway, 32)) {
      client.socket.write(text('/'))
      const { responses } = await client.answers(1)
      byThread.set(field(responses[0]!, 'x-request-id')!.split('-')[0]!, client)
      if (byThread.size === 2) return [...byThread.values()]
    }
    throw new Error('all connections went to one thread')
  }

  // Set NUMBERS=1 to have the times of twenty purges printed.
  // Not every machine has redis-server; CI does, and fails without.
  it.skipIf(services.redis === undefined)('by tag reaches both threads of another gateway', async ({ annotate }) => {
    const redis = await startRedis()
    cleanup.push(() => redis.close())
    const config = { server: { threads: 2 }, redis: { main: { url: redis.url } }, cache: { redis: 'main' } }
    const [a, b] = [await start(config), await start(config)]
    const clients = [...(await oneInEach(a)), ...(await oneInEach(b))]
    const asked = clients.map(() => 1)
    const askOne = async (path: string, c: number) => {
      clients[c]!.socket.write(text(path))
      const { responses } = await clients[c]!.answers(++asked[c]!)
      return body(responses[asked[c]! - 1]!)
    }
    await a.admin('/upstreams') // its connection is there
    const answered: number[] = []
    const lastOld: number[] = []
    for (let i = 0; i < (process.env['NUMBERS'] ? 20 : 1); i++) {
      const path = `/front/${i}` // what a purge has found before is dropped once more for a while
      const old = `version ${version}`
      for (const c of clients.keys()) expect(await askOne(path, c)).toBe(old)
      version++
      const startedMs = performance.now()
      const sinceStart = () => performance.now() - startedMs
      const order = purge(a, { tags: [path] }).then(() => answered.push(sinceStart()))
      const olds = clients.map(async (_client, c) => {
        for (let oldMs = 0; ; oldMs = sinceStart()) {
          if ((await askOne(path, c)) !== old) return oldMs
          if (sinceStart() > 10_000) throw new Error('the purge did not get everywhere')
        }
      })
      lastOld.push(Math.max(...(await Promise.all(olds))))
      await order
      for (const c of clients.keys()) expect(await askOne(path, c)).toBe(`version ${version}`)
    }
    const of = (ms: number[]) => {
      const sorted = ms.toSorted((x, y) => x - y)
      return `${sorted[sorted.length >> 1]!.toFixed(1)} ms (at most ${sorted.at(-1)!.toFixed(1)} ms)`
    }
    const line =
      `${lastOld.length} purges by tag, two gateways of two threads: answered after ${of(answered)}; ` +
      `the last old answer of any thread came after ${of(lastOld)}`
    if (process.env['NUMBERS']) console.log(line)
    await annotate(line)
  })

  it.each([
    [{ urls: ['http://a.test/news/1?x=1'] }, 1],
    [{ urls: ['/news/1'] }, 1],
    [{ prefixes: ['http://a.test/news/'] }, 3],
    [{ prefixes: ['/news'] }, 3],
    [{ urls: ['/news/2'], tags: ['nothing'] }, 1],
    [{ urls: ['/news'] }, 0],
  ])('of %j removes %i, and only those are fetched anew', async (order, removed) => {
    const gateway = plain()
    await purge(gateway, { prefixes: ['/'] })
    const paths = ['/news/1', '/news/1?x=1', '/news/2', '/other']
    for (const path of paths) await ask(gateway, path)
    expect(await purge(gateway, order)).toBe(removed)
    version = 2
    const answers = await Promise.all(paths.map(async (path) => body(await ask(gateway, path))))
    expect(answers.filter((one) => one === 'version 2')).toHaveLength(removed)
    expect(seen.length).toBe(paths.length + removed)
  })

  it('that is soft keeps the answer for when the origin fails, and has it confirmed when it does not', async () => {
    const gateway = await start({}, { cache: { staleIfError: '5m' } })
    await ask(gateway, '/front')
    expect(await purge(gateway, { tags: ['news'], soft: true })).toBe(1)
    handler = replies('broken', {}, 500)
    const kept = await ask(gateway, '/front')
    expect([kept.status, body(kept), status(kept)]).toEqual([
      200,
      'version 1',
      expect.stringContaining('detail=stale-if-error'),
    ])
    handler = (request, response) => {
      response.writeHead(request.headers['if-none-match'] === '"1"' ? 304 : 500, { ...FRESH, ETag: '"1"' })
      response.end()
    }
    expect(status(await ask(gateway, '/front'))).toContain('fwd=stale; fwd-status=304')
    expect(status(await ask(gateway, '/front'))).toMatch(/^fluxor; hit/)
  })

  describe('by PURGE', () => {
    it('from an allowed address takes the URL out of both threads, whoever its answers are for', async () => {
      const gateway = await start({ server: { threads: 2 }, cache: { purgeFrom: '127.0.0.0/8' } })
      const clients = await inBothThreads(gateway, '/front')
      await ask(gateway, '/front?other')
      version = 2
      const answer = await ask(gateway, '/front', { method: 'PURGE' })
      expect([answer.status, body(answer)]).toEqual([200, '{"purged":2}'])
      expect(new Set(await askAll(clients, '/front', 2))).toEqual(new Set(['version 2']))
      expect(seen.filter((line) => line.startsWith('PURGE'))).toEqual([])
    })

    it('needs neither a token nor a method list that names it', async () => {
      const gateway = await start(
        { cache: { purgeFrom: ['127.0.0.1'] }, identity: { jwt: { main: { secret: SECRET } } } },
        { jwt: 'main', match: { pathPrefix: '/', methods: ['GET'] } },
      )
      const fields = [`Authorization: Bearer ${token('ann')}`]
      await ask(gateway, '/front', { fields })
      expect(body(await ask(gateway, '/front', { method: 'PURGE' }))).toBe('{"purged":1}')
      expect(status(await ask(gateway, '/front', { fields }))).toMatch(/fwd=uri-miss/)
    })

    it('from any other address is refused and removes nothing, whatever address it claims', async () => {
      const gateway = await start({ cache: { purgeFrom: ['10.0.0.0/8'] } })
      await ask(gateway, '/front')
      for (const fields of [[], ['X-Forwarded-For: 10.1.2.3'], ['Content-Length: 2\r\n\r\nhi']]) {
        const refused = await ask(gateway, '/front', { method: 'PURGE', fields })
        expect([refused.status, problem(refused)['code']]).toEqual([403, 'IP_DENIED'])
      }
      expect(status(await ask(gateway, '/front'))).toMatch(/^fluxor; hit/)
    })

    it('is judged by the address that a trusted proxy names', async () => {
      const gateway = await start({
        server: { trustedProxies: ['127.0.0.1/32'] },
        cache: { purgeFrom: ['10.0.0.0/8'] },
      })
      await ask(gateway, '/front')
      const as = (address: string) =>
        ask(gateway, '/front', { method: 'PURGE', fields: [`X-Forwarded-For: ${address}`] })
      expect((await as('192.0.2.1')).status).toBe(403)
      expect(body(await as('10.1.2.3'))).toBe('{"purged":1}')
    })

    it('is no method of a cached route without cache.purgeFrom, and passes where nothing is cached', async () => {
      const gateway = await start({
        routes: [
          { match: { pathPrefix: '/plain' }, upstream: 'app' },
          { match: { pathPrefix: '/' }, upstream: 'app', cache: {} },
        ],
      })
      await ask(gateway, '/front')
      const refused = await ask(gateway, '/front', { method: 'PURGE' })
      expect([refused.status, problem(refused)['code'], field(refused, 'allow')]).toEqual([
        405,
        'METHOD',
        'GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS',
      ])
      expect(status(await ask(gateway, '/front'))).toMatch(/^fluxor; hit/)
      expect((await ask(gateway, '/plain', { method: 'PURGE' })).status).toBe(200)
      expect(seen).toEqual(['GET /front', 'PURGE /plain'])
    })
  })
})

describe('a stale answer', () => {
  const plain = shared()

  it('is given while a new one is fetched, once', async () => {
    const gateway = await start()
    handler = replies('old', stale('stale-while-revalidate=600'))
    await ask(gateway, '/')
    const { release } = hold(replies('new', FRESH))
    for (let i = 0; i < 3; i++) {
      const answer = await ask(gateway, '/')
      expect([body(answer), status(answer)]).toEqual([
        'old',
        expect.stringMatching(/^fluxor; hit; ttl=-?\d+; detail=stale-while-revalidate$/),
      ])
    }
    await until(() => seen.length === 2)
    release()
    await until(async () => body(await ask(gateway, '/')) === 'new')
    expect(seen.length).toBe(2)
  })

  it.each<[string, () => void]>([
    ['answers 500', () => (handler = replies('broken', {}, 500))],
    ['answers 503', () => (handler = replies('broken', {}, 503))],
    ['breaks off', () => (handler = (request) => request.socket.destroy())],
  ])('is given when the origin %s', async (_what, fail) => {
    const [kept, strict] = [newPath(), newPath()]
    handler = replies('old', stale('stale-if-error=600'))
    await ask(plain(), kept)
    handler = replies('strict', stale('must-revalidate, stale-if-error=600'))
    await ask(plain(), strict)
    fail()
    const answer = await ask(plain(), kept)
    expect([answer.status, body(answer), status(answer)]).toEqual([
      200,
      'old',
      expect.stringContaining('detail=stale-if-error'),
    ])
    expect((await ask(plain(), strict)).status).toBeGreaterThanOrEqual(500)
  })

  it('is given when the origin cannot be reached', async () => {
    const other = await startHttpUpstream(replies('old', stale('stale-if-error=600')))
    const gateway = await start({ upstreams: { app: { endpoints: [{ url: other.url }] } } })
    await ask(gateway, '/kept')
    await other.close()
    const answer = await ask(gateway, '/kept')
    expect([answer.status, body(answer)]).toEqual([200, 'old'])
  })

  it('is given when there is no place, and says so; what must be revalidated is not', async () => {
    const gateway = await start(
      { admission: { maxCCU: 1, workers: 1, maxQueue: 0 } },
      { cache: { staleIfShed: '10m' } },
    )
    handler = replies('old', stale('public'))
    await ask(gateway, '/kept')
    handler = replies('strict', stale('must-revalidate'))
    await ask(gateway, '/strict')
    const { release } = hold(replies('slow', {}))
    const [slow] = await connections(gateway, 1)
    slow!.socket.write(text('/slow'))
    await until(() => origin.inside === 1)
    const answer = await ask(gateway, '/kept')
    expect([answer.status, body(answer), status(answer)]).toEqual([
      200,
      'old',
      expect.stringMatching(/^fluxor; hit; ttl=-?\d+; detail=stale-if-shed$/),
    ])
    const shed = await ask(gateway, '/strict')
    expect([shed.status, problem(shed)['code']]).toEqual([503, 'BACKPRESSURE'])
    release()
    expect((await slow!.answers(1)).status).toBe(200)
  })
})

it('a hit takes no admission place', async () => {
  const gateway = await start({ admission: { maxCCU: 1, workers: 1, maxQueue: 0 } })
  handler = replies('ok', FRESH)
  await ask(gateway, '/known')
  const { release } = hold(replies('slow', {}))
  const [slow] = await connections(gateway, 1)
  slow!.socket.write(text('/slow'))
  await until(() => origin.inside === 1)
  expect((await ask(gateway, '/unknown')).status).toBe(503)
  for (let i = 0; i < 10; i++) expect((await ask(gateway, '/known')).status).toBe(200)
  expect(await gateway.metric('current_ccu')).toBe(1)
  release()
  await slow!.answers(1)
})

const SECRET = 'a-secret-of-more-than-thirty-two-bytes'
function token(subject: string): string {
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const text = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ sub: subject, exp: Math.floor(Date.now() / 1000) + 600 })}`
  return `${text}.${createHmac('sha256', SECRET).update(text).digest('base64url')}`
}

describe('whose answer it is', () => {
  const withTtl = shared({}, { cache: { ttl: '60s' } })

  it('on a route with tokens: one for each subject, whatever the token; never for nobody', async () => {
    const gateway = await start({ identity: { jwt: { main: { secret: SECRET } } } }, { jwt: 'main' })
    handler = (request, response) => {
      response.writeHead(200, FRESH)
      const claims = String(request.headers.authorization).split('.')[1]!
      response.end((JSON.parse(Buffer.from(claims, 'base64url').toString()) as { sub: string }).sub)
    }
    const as = (subject: string) => ask(gateway, '/me', { fields: [`Authorization: Bearer ${token(subject)}`] })
    for (const subject of ['ann', 'bob', 'ann', 'bob']) expect(body(await as(subject))).toBe(subject)
    expect(status(await as('ann'))).toMatch(/^fluxor; hit/)
    expect(seen.length).toBe(2)
    expect((await ask(gateway, '/me')).status).toBe(401)
    expect((await ask(gateway, '/me', { fields: ['Authorization: Bearer x.y.z'] })).status).toBe(401)
  })

  it.each<[string, Record<string, string>, string[], boolean]>([
    ['Set-Cookie with freshness of the origin', { ...FRESH, 'Set-Cookie': 'a=1' }, [], true],
    ['Set-Cookie under the ttl of the route', { 'Set-Cookie': 'a=1' }, [], false],
    ['private', { 'Cache-Control': 'private, max-age=60' }, [], false],
    ['no-store', { 'Cache-Control': 'no-store' }, [], false],
    ['to Authorization', FRESH, ['Authorization: Basic eDp5'], false],
    ['to Authorization, under the ttl of the route', {}, ['Authorization: Basic eDp5'], false],
    ['to Authorization, public', { 'Cache-Control': 'public, max-age=60' }, ['Authorization: Basic eDp5'], true],
    ['to Authorization, s-maxage', { 'Cache-Control': 's-maxage=60' }, ['Authorization: Basic eDp5'], true],
    ['that varies by everything', { ...FRESH, Vary: '*' }, [], false],
    ['to which the ttl of the route applies', {}, [], true],
  ])('an answer %s (%j, %j) is stored: %s', async (_what, fields, asked, stored) => {
    const path = newPath()
    let n = 0
    handler = (_request, response) => {
      response.writeHead(200, fields)
      response.end(String(n++))
    }
    await ask(withTtl(), path, { fields: asked })
    expect(body(await ask(withTtl(), path, { fields: asked }))).toBe(stored ? '0' : '1')
  })

  it('host and query tell answers apart', async () => {
    const gateway = await start()
    handler = (request, response) => {
      response.writeHead(200, FRESH)
      response.end(`${request.headers.host} ${request.url}`)
    }
    for (let i = 0; i < 2; i++) {
      for (const [host, path] of [
        ['a.test', '/x'],
        ['b.test', '/x'],
        ['a.test', '/x?y'],
        ['a.test', '/x?'],
      ] as const)
        expect(body(await ask(gateway, path, { host }))).toBe(`${host} ${path}`)
    }
    expect(seen.length).toBe(4)
  })

  it('a page is cached by what it says, not by how its name ends', async () => {
    const gateway = await start()
    let n = 0
    handler = (request, response) => {
      response.writeHead(200, request.url!.startsWith('/account') ? { 'Set-Cookie': 'a=1' } : FRESH)
      response.end(String(n++))
    }
    for (const path of ['/account/x.css', '/account/me/%2e%2e/y.js', '/account;/z.png']) {
      const first = body(await ask(gateway, path))
      expect(body(await ask(gateway, path))).not.toBe(first)
    }
    const asset = body(await ask(gateway, '/x.css'))
    expect(body(await ask(gateway, '/x.css'))).toBe(asset)
  })

  it('routes that share a URL and differ by a header keep their answers apart', async () => {
    const gateway = await start({
      routes: [
        { name: 'beta', match: { pathPrefix: '/', headers: { 'x-beta': '1' } }, upstream: 'app', cache: {} },
        { name: 'all', match: { pathPrefix: '/' }, upstream: 'app', cache: {} },
      ],
      cache: { purgeFrom: '127.0.0.1' },
    })
    handler = (request, response) => {
      response.writeHead(200, FRESH)
      response.end(request.headers['x-beta'] === '1' ? 'beta' : 'stable')
    }
    for (let i = 0; i < 2; i++) {
      expect(body(await ask(gateway, '/', { fields: ['X-Beta: 1'] }))).toBe('beta')
      expect(body(await ask(gateway, '/'))).toBe('stable')
    }
    expect(seen.length).toBe(2)
    expect(body(await ask(gateway, '/', { method: 'PURGE' }))).toBe('{"purged":2}')
  })
})

it('a hit for a GET that has a body leaves the connection in step', async () => {
  const gateway = await start()
  handler = (request, response) => {
    response.writeHead(200, FRESH)
    response.end(request.url)
  }
  await ask(gateway, '/a')
  const smuggled = 'GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n'
  for (const framed of [
    `Content-Length: ${smuggled.length}\r\n\r\n${smuggled}`,
    `Transfer-Encoding: chunked\r\n\r\n${smuggled.length.toString(16)}\r\n${smuggled}\r\n0\r\n\r\n`,
  ]) {
    const first = `GET /a HTTP/1.1\r\nHost: a.test\r\n${framed}`
    const { responses, rest } = await send(gateway.port, first + text('/b'), { responses: 2 })
    expect(responses.map(body)).toEqual(['/a', '/b'])
    expect(rest).toHaveLength(0)
  }
  expect(seen.some((line) => line.includes('smuggled'))).toBe(false)
})

it('a hundred misses at once are one fetch', async () => {
  const gateway = await start()
  const { release } = hold(replies('ok', FRESH))
  const clients = await connections(gateway, 100)
  for (const client of clients) client.socket.write(text('/'))
  await until(async () => (await gateway.metric('fluxor_cache_coalesced_total')) === 99)
  release()
  for (const client of clients) expect((await client.answers(1)).status).toBe(200)
  expect(seen.length).toBe(1)
})

describe('from one stored GET', () => {
  const CONTENT = Buffer.from(Array.from({ length: 100_000 }, (_, i) => i % 251))
  const gateway = shared()
  beforeAll(async () => {
    handler = (_request, response) => {
      response.writeHead(200, { ...FRESH, ETag: '"v"', 'Last-Modified': 'Mon, 05 Jan 2026 10:00:00 GMT' })
      response.end(CONTENT)
    }
    await ask(gateway(), '/file')
  })
  afterEach(() => expect(seen).toEqual([]))

  it('HEAD, with the length and no body', async () => {
    const answer = await ask(gateway(), '/file', { method: 'HEAD' })
    expect([answer.status, field(answer, 'content-length'), answer.body.length]).toEqual([200, '100000', 0])
    expect(status(answer)).toMatch(/^fluxor; hit/)
  })

  it.each<[string, number, string | undefined, Buffer]>([
    ['bytes=0-0', 206, 'bytes 0-0/100000', CONTENT.subarray(0, 1)],
    ['bytes=70000-', 206, 'bytes 70000-99999/100000', CONTENT.subarray(70_000)],
    ['bytes=-5', 206, 'bytes 99995-99999/100000', CONTENT.subarray(-5)],
    ['bytes=100000-', 416, 'bytes */100000', Buffer.alloc(0)],
    ['lines=1-2', 200, undefined, CONTENT],
  ])('Range %s: %i', async (range, code, contentRange, bytes) => {
    const answer = await ask(gateway(), '/file', { fields: [`Range: ${range}`] })
    expect([answer.status, field(answer, 'content-range')]).toEqual([code, contentRange])
    expect(answer.body.equals(bytes)).toBe(true)
  })

  it.each([
    ['If-None-Match: "v"', 304],
    ['If-None-Match: W/"v", "w"', 304],
    ['If-None-Match: *', 304],
    ['If-None-Match: "w"', 200],
    ['If-Modified-Since: Mon, 05 Jan 2026 10:00:00 GMT', 304],
    ['If-Modified-Since: Mon, 05 Jan 2026 09:59:59 GMT', 200],
    ['If-None-Match: "w"\r\nIf-Modified-Since: Mon, 05 Jan 2026 10:00:00 GMT', 200],
    ['Range: bytes=0-1\r\nIf-Range: "v"', 206],
    ['Range: bytes=0-1\r\nIf-Range: "w"', 200],
  ])('%s: %i', async (condition, code) => {
    const answer = await ask(gateway(), '/file', { fields: [condition] })
    expect(answer.status).toBe(code)
    if (code === 304) expect([answer.body.length, field(answer, 'etag')]).toEqual([0, '"v"'])
  })
})

describe('an unsafe request', () => {
  it.each([
    ['by the same route', [{ match: { pathPrefix: '/' }, upstream: 'app', cache: {} }]],
    [
      'by a route of its own, without a cache',
      [
        {
          match: { pathPrefix: '/', methods: ['GET'] },
          upstream: 'app',
          cache: { key: { query: { exclude: ['utm'] } } },
        },
        { match: { pathPrefix: '/', methods: ['POST', 'DELETE'] }, upstream: 'app' },
      ],
    ],
  ])('%s drops the answers of its URL in both threads', async (_how, routes) => {
    const gateway = await start({ server: { threads: 2 }, routes })
    let version = 1
    handler = (request, response) => {
      if (request.method === 'POST') version++
      response.writeHead(request.headers['x-fail'] ? 500 : 200, FRESH)
      response.end(`version ${version}`)
    }
    const clients = await connections(gateway, 32)
    let round = 1
    await askAll(clients, '/items', round++)
    const before = seen.length
    await ask(gateway, '/items', { method: 'POST', fields: ['Content-Length: 0', 'X-Fail: 1'] })
    expect(new Set(await askAll(clients, '/items', round++))).toEqual(new Set(['version 1']))
    expect(seen.length).toBe(before + 1)
    await ask(gateway, '/items', { method: 'POST', fields: ['Content-Length: 0'] })
    await until(async () => (await askAll(clients, '/items', round++)).every((one) => one === 'version 3'))
  })
})

describe('a reload', () => {
  const config = (cache: ConfigObject | undefined, more: ConfigObject = {}): ConfigObject => ({
    upstreams: { app: { endpoints: [{ url: origin.url }] } },
    routes: [{ match: { pathPrefix: '/' }, upstream: 'app', ...(cache && { cache }) }],
    ...more,
  })
  const reloaded = async (gateway: TestGateway, to: ConfigObject) => {
    const admin = { server: { listen: [{ address: '127.0.0.1:0' }], admin: { address: '127.0.0.1:0' } } }
    const { writeFileSync } = await import('node:fs')
    writeFileSync(
      gateway.configFile,
      JSON.stringify({ version: 1, logging: { access: { only: 'none' } }, ...admin, ...to }),
    )
    const answer = await gateway.admin('/reload', { method: 'POST' })
    expect(await answer.json()).toEqual({ reloaded: true })
  }

  it('that takes the cache away lets nothing stored be seen again, and breaks no answer on its way', async () => {
    const gateway = await start(config({}))
    handler = replies('old', FRESH)
    await ask(gateway, '/known')
    let response: ServerResponse | undefined
    handler = (_request, out) => {
      response = out
      out.writeHead(200, FRESH)
      out.write('first half, ')
    }
    const [leader, follower] = await connections(gateway, 2)
    leader!.socket.write(text('/half'))
    follower!.socket.write(text('/half'))
    await leader!.until(({ bytes }) => bytes.includes('first half'))
    await follower!.until(({ bytes }) => bytes.includes('first half'))
    await reloaded(gateway, config(undefined))
    handler = replies('new', FRESH)
    const passed = await ask(gateway, '/known')
    expect([body(passed), status(passed)]).toEqual(['new', undefined])
    response!.end('second half')
    for (const client of [leader!, follower!])
      expect(body((await client.answers(1)).responses[0]!)).toBe('first half, second half')
    await reloaded(gateway, config({}))
    expect(status(await ask(gateway, '/known'))).toMatch(/fwd=uri-miss/)
    expect(status(await ask(gateway, '/half'))).toMatch(/fwd=uri-miss/)
  })

  it('keeps what is stored where the cache stays, but not for requests that are told apart since', async () => {
    const gateway = await start(config({ ttl: '60s' }))
    handler = (request, response) => response.end(String(request.headers['accept-language']))
    const of = async (language: string) => body(await ask(gateway, '/', { fields: [`Accept-Language: ${language}`] }))
    expect([await of('de'), await of('vi')]).toEqual(['de', 'de'])
    await reloaded(gateway, config({ ttl: '60s' }, { cache: { memory: { maxBytes: '1MiB' } } }))
    expect(await of('vi')).toBe('de')
    await reloaded(gateway, config({ ttl: '60s', vary: ['accept-language'] }))
    expect([await of('vi'), await of('de'), await of('vi')]).toEqual(['vi', 'de', 'vi'])
    expect(seen.length).toBe(3)
  })
})
