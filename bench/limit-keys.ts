/**
 * A flood of clients that each come once: every one is a key of a rate limit. The table of the limits has a fixed size and
 * forgets the stalest, so memory has a bound; with Redis the keys are there and expire.
 */

import { freePort } from '../test/support/free-port.ts'
import { startGateway, type TestGateway } from '../test/support/gateway.ts'
import { TestRedis } from '../test/support/redis.ts'
import { services } from '../test/support/services.ts'
import { sendAll } from './harness/pipelined.ts'
import { usageOfTree } from './harness/process-tree.ts'
import type { Figures, Question } from './harness/question.ts'
import { GATEWAY_MAIN } from './harness/subjects.ts'

const KEYS = Number(process.env['LIMIT_KEYS'] ?? 1_000_000)
/** The table, 131 072 keys of 32.5 bytes. */
const TABLE_MIB = 4.1
/** Beside the table: pages that are not full. */
const ROOM_MIB = 8
/** A signal makes the gateway collect its garbage: what is left is what it keeps. How much lies about is V8's choice. */
const COLLECT = 'SIGWINCH'
const COLLECTS = `data:text/javascript,process.on('${COLLECT}',()=>gc({type:'major',flavor:'last-resort',execution:'sync'}))`
const SETTLE_MS = 3000

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))
const mib = (bytes: number) => bytes / 2 ** 20

/** Another client each time. */
const addressed = (n: number) =>
  `GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 20.${(n >> 16) & 255}.${(n >> 8) & 255}.${n & 255}\r\n\r\n`
const keyed = (n: number) =>
  `GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 20.0.0.1\r\nX-Api-Key: key-${n.toString(36).padStart(24, '0')}\r\n\r\n`

interface Case {
  title: string
  key: string
  textOf(n: number): string
  store: 'memory' | 'redis'
}

const CASES: Case[] = [
  { title: 'addresses, memory', key: 'ip', textOf: addressed, store: 'memory' },
  { title: 'API keys, memory', key: 'header:x-api-key', textOf: keyed, store: 'memory' },
  { title: 'addresses, Redis', key: 'ip', textOf: addressed, store: 'redis' },
]

async function run({ title, key, textOf, store }: Case): Promise<{ row: string[]; grownMib: number }> {
  const redis = store === 'redis' ? new TestRedis(await freePort()) : undefined
  let gateway: TestGateway | undefined
  try {
    await redis?.start()
    gateway = await startGateway(
      {
        server: { trustedProxies: ['127.0.0.1'] },
        // Long enough for Redis on a core that the load shares: a decision without it would leave no key there.
        ...(redis && { redis: { main: { url: redis.url, commandTimeout: '10s' } } }),
        // A window that counts from the first request: each key is remembered for all of it.
        rateLimits: { each: { key, limit: 1_000_000_000, window: '10m', algorithm: 'fixedWindow', store } },
        routes: [{ match: { pathPrefix: '/' }, respond: { status: 204 }, rateLimit: 'each' }],
      },
      { main: GATEWAY_MAIN, env: { NODE_OPTIONS: `--expose-gc --import=${COLLECTS}` } },
    )
    const { pid, port } = gateway
    const rss = async () => {
      await pause(SETTLE_MS)
      process.kill(pid, COLLECT)
      await pause(SETTLE_MS)
      return mib(usageOfTree(pid).rssBytes)
    }
    // The same load by one client, before the first look: what so many requests take is there then.
    await sendAll(port, KEYS, () => textOf(0))
    const before = await rss()
    const started = performance.now()
    await sendAll(port, KEYS, textOf)
    const seconds = (performance.now() - started) / 1000
    const after = await rss()
    const evicted = (await gateway.metric('fluxor_rate_limit_evictions_total')) ?? 0
    const errors = (await gateway.metric('fluxor_rate_limit_decisions_total', { decision: 'storeErrors' })) ?? 0
    const size = redis === undefined ? 0 : Number(/\d+/.exec(await redis.command('DBSIZE'))?.[0] ?? 0)
    const redisMib = redis === undefined ? '' : mib(usageOfTree(redis.pid!).rssBytes).toFixed(0)
    const row = [title, before.toFixed(1), after.toFixed(1), (after - before).toFixed(1), `${evicted}`, `${errors}`]
    row.push(`${size}`, redisMib, seconds.toFixed(0))
    process.stderr.write(`  ${row.join('  ')}\n`)
    return { row, grownMib: after - before }
  } finally {
    await gateway?.close()
    await redis?.stop()
  }
}

async function measure(): Promise<Figures> {
  const head = ['', 'RSS before, MiB', 'after', 'more', 'evicted', 'without Redis', 'keys in Redis', 'Redis, MiB', 's']
  const figures: Figures = { rows: [head], verdicts: [], notes: [] }
  for (const one of CASES) {
    if (one.store === 'redis' && services.redis === undefined) {
      figures.notes!.push(`${one.title}: there is no redis-server on PATH`)
      continue
    }
    const { row, grownMib } = await run(one)
    figures.rows.push(row)
    const most = TABLE_MIB + ROOM_MIB
    figures.verdicts.push({
      text: `${one.title}: at most ${most.toFixed(1)} MiB more after ${KEYS} keys: ${grownMib.toFixed(1)}`,
      met: grownMib <= most,
    })
  }
  figures.notes!.push(
    `before: after ${KEYS} requests of one key, garbage collected; the table itself is ${TABLE_MIB} MiB`,
  )
  return figures
}

export const question: Question = { asks: `what do ${KEYS} keys of a rate limit leave in memory?`, measure }
