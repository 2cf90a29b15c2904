/**
 * The second level in Redis, shared by a fleet. A key is a hash: `v` its Vary names, `a…` one field a variant. Two kinds
 * of sets find keys for purging: by tag, and by URL where the answers are divided by who asks. A purge removes here and
 * is published; every gateway then drops it from memory. Without Redis each call is a miss, and nothing waits.
 */

import { createHash, randomUUID } from 'node:crypto'
import type { Cluster, Redis } from 'ioredis'
import type { RedisClient, RedisDoor } from '../../redis.ts'
import type { StoredAnswer } from './entry.ts'
import type { SecondLevel } from './second-level.ts'
import { namesUrl, type PurgeRequest } from './store.ts'

const ANSWER = 'cache:a:'
const BY_TAG = 'cache:t:'
const BY_URL = 'cache:u:'
const CHANNEL = 'cache:purge'
const COUNT = 'cache:n'
/**
 * Numbers each purge and tells it in one step: who was cut off sees by the number that something was missed. A Redis that has
 * lost its data begins at another number, the time.
 */
const TELL = `
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('SET', KEYS[1], ARGV[1]) end
redis.call('PUBLISH', ARGV[2], string.format('%.0f ', redis.call('INCR', KEYS[1])) .. ARGV[3])`
const EVERYTHING: PurgeRequest = { prefixes: ['/'] }
/** Indexes outlive the answers they lead to. */
const INDEX_MS = 2 * 86_400_000
const MAX_VARIANTS = 32
const SCAN_COUNT = 1000
/** A purge is an order: it is tried again where a request would do without Redis. */
const PURGE_TRIES = 3
const RESUBSCRIBE_MS = 1000
/** Answers of this thread that may still be on their way to Redis: how many are remembered, and for how long. */
const RECENT = 256
const RECENT_MS = 1000

export function createRedisLevel(door: RedisDoor): SecondLevel {
  return new RedisLevel(door)
}

class RedisLevel implements SecondLevel {
  readonly #door: RedisDoor
  readonly #id = randomUUID()
  readonly #prefix: string
  #subscriber: RedisClient | undefined
  #resubscribe: NodeJS.Timeout | undefined
  /** What was stored last: a ring. */
  readonly #recent: (
    | { readonly url: string; readonly tags: readonly string[]; readonly untilMs: number }
    | undefined
  )[] = []
  #sets = 0
  /** Number of the last purge heard of; undefined: not known yet. */
  #heard: number | undefined
  /** Subscribed once: from then on the numbers tell what was missed. */
  #listens = false
  /** Memory got something before that. */
  #early = false
  #waiting: (() => void)[] = []

  constructor(door: RedisDoor) {
    this.#door = door
    this.#prefix = (door.client as Redis).options.keyPrefix ?? ''
  }

  async get(key: string, variantOf: (varyNames: readonly string[]) => string): Promise<StoredAnswer | undefined> {
    if (!this.#door.up) return undefined
    this.#early ||= !this.#listens
    try {
      const at = answerKey(key)
      const [names, plain] = await this.#door.ask((client) => client.hmgetBuffer(at, 'v', 'a'))
      if (!names) return undefined
      const varyNames = JSON.parse(names.toString()) as string[]
      if (varyNames.length === 0) return plain ? decode(at, plain) : undefined
      const variant = variantOf(varyNames)
      const found = await this.#door.ask((client) => client.hgetBuffer(at, `a${variant}`))
      const answer = found === null ? undefined : decode(at, found)
      return answer?.variantKey === variant ? answer : undefined
    } catch {
      return undefined
    }
  }

  set(key: string, url: string, answer: StoredAnswer, keepMs: number): void {
    this.#early ||= !this.#listens
    if (!this.#door.up) return
    const at = answerKey(key)
    const names = JSON.stringify(answer.varyNames)
    const value = encode(at, answer)
    this.#recent[this.#sets++ % RECENT] = { url, tags: answer.tags, untilMs: performance.now() + RECENT_MS }
    this.#quietly(async (client) => {
      const commands: Promise<unknown>[] = [
        client.hset(at, 'v', names, `a${answer.variantKey}`, value),
        client.pexpire(at, Math.ceil(keepMs)),
      ]
      for (const tag of answer.tags) {
        commands.push(client.sadd(BY_TAG + tag, at), client.pexpire(BY_TAG + tag, INDEX_MS))
      }
      if (key !== url) commands.push(client.sadd(BY_URL + url, at), client.pexpire(BY_URL + url, INDEX_MS))
      await Promise.all(commands)
      if (answer.varyNames.length > 0 && (await client.hlen(at)) > MAX_VARIANTS + 1) await client.del(at)
    })
  }

  async purge(request: PurgeRequest): Promise<number | undefined> {
    for (let i = 0; i < PURGE_TRIES && this.#door.up; i++) {
      try {
        return await this.#purge(request)
      } catch {
        // Once more. What this try removed before it failed stays uncounted.
      }
    }
    return undefined
  }

  /**
   * Two turns, so that the others hear of it soon on a busy machine too: what is there; then the removal and, behind it on
   * the same connection, the word to the others. Told before it is gone they would find it here again. The nodes of a
   * cluster keep no order among them: there the word waits for the removal.
   */
  async #purge(request: PurgeRequest): Promise<number> {
    const { client } = this.#door
    const urls = (request.urls ?? []).filter((url) => !url.startsWith('/'))
    const sets = [...(request.tags ?? []).map((tag) => BY_TAG + tag), ...urls.map((url) => BY_URL + url)]
    const found = await Promise.all(sets.map((set) => members(client, set)))
    const matching = (request.prefixes?.length ?? 0) > 0 || request.urls?.some((url) => url.startsWith('/'))
    const scanned = matching ? await this.#dropMatching(request) : 0
    const removal = Promise.all([
      drop(client, new Set([...urls.map(answerKey), ...found.flat()])),
      ...sets.map((set, i) => forget(client, set, found[i]!)),
    ])
    if (isCluster(client)) await removal
    const [[removed]] = await Promise.all([removal, this.#publish(request)])
    return removed + scanned
  }

  invalidate(url: string): void {
    if (this.#door.up) this.#quietly(() => this.#purge({ urls: [url] }))
  }

  onPurge(listener: (request: PurgeRequest) => void): void {
    const subscriber = (this.#subscriber ??= this.#door.subscriber())
    subscriber.on('message', (_channel: string, text: string) => {
      try {
        const space = text.indexOf(' ')
        const { from, request } = JSON.parse(text.slice(space)) as { from: string; request: PurgeRequest }
        const missed = this.#hear(Number(text.slice(0, space)), 1)
        if (missed) listener(EVERYTHING)
        if (from === this.#id) return
        listener(request)
        this.#dropRecent(request)
      } catch {
        // Not one of ours.
      }
    })
    subscriber.on('ready', () => this.#subscribe(subscriber, listener))
    if (subscriber.status === 'ready') this.#subscribe(subscriber, listener)
  }

  ready(timeoutMs: number): Promise<void> {
    if (this.#listens) return Promise.resolve()
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, timeoutMs)
      this.#waiting.push(() => {
        clearTimeout(timer)
        resolve()
      })
    })
  }

  /** True when purges were missed: the number is not `step` above the last one heard. */
  #hear(number: number, step: 0 | 1): boolean {
    const before = this.#heard
    this.#heard = number
    return before !== undefined && number !== before + step
  }

  /** A subscription that fails (a slow start) is tried again: without it no purge of others arrives. */
  #subscribe(subscriber: RedisClient, listener: (request: PurgeRequest) => void): void {
    clearTimeout(this.#resubscribe)
    const subscribed = async () => {
      await subscriber.subscribe(this.#prefix + CHANNEL)
      const count = await this.#door.client.get(COUNT)
      // Without a number nobody has purged since Redis began: it holds nothing, and memory is as good as before.
      const missed = count !== null && this.#hear(Number(count), 0)
      if (missed || (!this.#listens && this.#early)) listener(EVERYTHING)
      this.#listens = true
      for (const waiting of this.#waiting.splice(0)) waiting()
    }
    subscribed().catch(() => {
      if (subscriber !== this.#subscriber || subscriber.status !== 'ready') return
      this.#resubscribe = setTimeout(() => this.#subscribe(subscriber, listener), RESUBSCRIBE_MS)
      this.#resubscribe.unref()
    })
  }

  /** What was on its way to Redis while another gateway purged there has come after it: it goes again. */
  #dropRecent(request: PurgeRequest): void {
    const nowMs = performance.now()
    for (const [i, set] of this.#recent.entries()) {
      if (set === undefined || set.untilMs < nowMs) continue
      if (!namesUrl(request, set.url) && !request.tags?.some((tag) => set.tags.includes(tag))) continue
      this.#recent[i] = undefined
      this.invalidate(set.url)
    }
  }

  close(): void {
    clearTimeout(this.#resubscribe)
    this.#subscriber?.disconnect()
    this.#subscriber = undefined
  }

  /** In the background: what is not stored or dropped is told by nobody, and expires. */
  #quietly(work: (client: RedisClient) => Promise<unknown>): void {
    this.#door.ask(work).catch(() => {})
  }

  #publish(request: PurgeRequest): Promise<unknown> {
    const message = JSON.stringify({ from: this.#id, request })
    return this.#door.client.eval(TELL, 1, COUNT, Date.now() * 1000, this.#prefix + CHANNEL, message)
  }

  /** Walks all keys; for operators, not for requests. */
  async #dropMatching(request: PurgeRequest): Promise<number> {
    const { client } = this.#door
    const nodes = isCluster(client) ? client.nodes('master') : [client]
    const start = this.#prefix + ANSWER
    let count = 0
    for (const node of nodes) {
      let cursor = '0'
      do {
        const [next, keys] = await node.scan(cursor, 'MATCH', `${escapeGlob(start)}*`, 'COUNT', SCAN_COUNT)
        cursor = next
        const found = keys
          .filter((key) => namesUrl(request, urlOfKey(key.slice(start.length))))
          .map((key) => key.slice(this.#prefix.length))
        count += await drop(client, found)
      } while (cursor !== '0')
    }
    return count
  }
}

/** The URL in clear, so that prefixes can be found; what divides its answers only as a digest. */
function answerKey(key: string): string {
  const at = key.indexOf('\0')
  if (at < 0) return ANSWER + key
  return `${ANSWER}${key.slice(0, at)}\n${createHash('sha256').update(key.slice(at)).digest('base64url')}`
}

function urlOfKey(key: string): string {
  const at = key.indexOf('\n')
  return at < 0 ? key : key.slice(0, at)
}

/** A key that holds something else is not one of ours: nothing is found there, and the purge goes on. */
async function members(client: RedisClient, set: string): Promise<string[]> {
  try {
    return await client.smembers(set)
  } catch (error) {
    if (!(error as Error).message.startsWith('WRONGTYPE')) throw error
    await client.del(set)
    return []
  }
}

/** One by one: in a cluster they lie on different nodes. They still travel together. */
async function drop(client: RedisClient, keys: Iterable<string>): Promise<number> {
  const removed = await Promise.all(Array.from(keys, (key) => client.del(key)))
  return removed.reduce((sum, one) => sum + one, 0)
}

/** Takes members out of an index; one that came meanwhile stays, and can be purged another time. */
async function forget(client: RedisClient, set: string, found: readonly string[]): Promise<void> {
  const commands: Promise<unknown>[] = []
  for (let i = 0; i < found.length; i += SCAN_COUNT) commands.push(client.srem(set, ...found.slice(i, i + SCAN_COUNT)))
  await Promise.all(commands)
}

function isCluster(client: RedisClient): client is Cluster {
  return 'nodes' in client
}

function escapeGlob(text: string): string {
  return text.replace(/[*?[\]\\]/g, '\\$&')
}

const NEWLINE = 10
const CRC_CHARS = 8
const FIELD_LINES = /^(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[^\r\n\0]*\r\n)*$/

/** Checksum, head as JSON, newline, body. The checksum is over the key too: an answer is good under its own key alone. */
function encode(key: string, answer: StoredAnswer): Buffer {
  const { status, fields, etag, lastModified, modifiedMs, freshness, variantKey, varyNames, tags, body } = answer
  const head = JSON.stringify({
    status,
    fields,
    etag,
    lastModified,
    modifiedMs,
    freshness,
    variantKey,
    varyNames,
    tags,
  })
  const rest = Buffer.from(`${head}\n`)
  return Buffer.concat([Buffer.from(checksum(key, rest, body)), rest, body])
}

function checksum(key: string, head: Uint8Array, body: Uint8Array): string {
  const { crc32 } = process.getBuiltinModule('node:zlib')
  return crc32(body, crc32(head, crc32(key)))
    .toString(16)
    .padStart(CRC_CHARS, '0')
}

/** Undefined, or throws, when it is not an answer that was stored under this key: a miss. */
function decode(key: string, bytes: Buffer): StoredAnswer | undefined {
  const at = bytes.indexOf(NEWLINE)
  if (at < CRC_CHARS) return undefined
  const rest = bytes.subarray(CRC_CHARS, at + 1)
  const body = bytes.subarray(at + 1)
  if (bytes.toString('latin1', 0, CRC_CHARS) !== checksum(key, rest, body)) return undefined
  const head = JSON.parse(rest.toString()) as Omit<StoredAnswer, 'body'>
  if (!isSound(head)) return undefined
  // NaN is null in JSON.
  return { ...head, modifiedMs: head.modifiedMs ?? Number.NaN, body: Buffer.from(body) }
}

/** A checksum tells damage; another version of the gateway, with another idea of a head, computes it as well. */
function isSound({ status, fields, freshness, variantKey, varyNames, tags }: Omit<StoredAnswer, 'body'>): boolean {
  return (
    Number.isInteger(status) &&
    status >= 200 &&
    status < 600 &&
    typeof fields === 'string' &&
    FIELD_LINES.test(fields) &&
    typeof variantKey === 'string' &&
    Array.isArray(varyNames) &&
    Array.isArray(tags) &&
    [
      freshness.bornMs,
      freshness.lifetimeMs,
      freshness.staleWhileRevalidateMs,
      freshness.staleIfErrorMs,
      freshness.staleIfShedMs,
    ].every(Number.isFinite)
  )
}
