/**
 * The one door to Redis (single, Sentinel or Cluster): connections of this thread, and a circuit that knows whether
 * Redis answers. Rate limits, the second level of the cache and the fleet's admission go through `ask()`.
 *
 * No request ever waits long for Redis: a command has `commandTimeout` from the call to the reply, all queues included; while
 * the circuit is open nobody waits at all (`ask` rejects at once). ioredis' own defaults would hold a request for seconds.
 * ioredis is loaded by the first `openRedis`: a gateway without Redis does not carry it.
 */

import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import type { Cluster, ClusterNode, Redis, RedisOptions } from 'ioredis'
import type { RedisServerConfig } from './policies/rate-limit/config.ts'

export type RedisClient = Redis | Cluster

/** Failures in a row, none of them a lost connection, that open the circuit. A lost connection opens it at once. */
const FAILURES_TO_OPEN = 3
const PROBE_EVERY_MS = 1000
/** Unanswered probes on an open connection after which it is made anew: the peer may be gone without a word. */
const PROBES_TO_RECONNECT = 5
const PROBE_KEY = 'probe'
const MAX_BACKOFF_MS = 1000
/** Replies that say "not now" rather than "not so". */
const UNAVAILABLE =
  /^(?:LOADING|READONLY|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|NOREPLICAS|MISCONF|OOM|BUSY|NOAUTH|NOPERM|WRONGPASS)\b/

/** Why `ask` failed without a reply of Redis. One object for all: no stack is collected for each request. */
export class RedisUnavailable extends Error {
  override readonly name = 'RedisUnavailable'
}
const DOWN = new RedisUnavailable('Redis is down')
const TIMED_OUT = new RedisUnavailable('Redis did not answer in time')

export interface RedisDoorOptions {
  /** Told when the circuit opens or closes, for the log and metrics. */
  onChange?: (up: boolean, reason: string) => void
}

/** A subscriber's commands may wait for the connection; nobody waits for them. */
type Connect = (subscriber: boolean) => RedisClient

interface Pending {
  deadlineMs: number
  reject: (error: Error) => void
}

export class RedisDoor {
  readonly name: string
  readonly client: RedisClient
  readonly #commandTimeoutMs: number
  readonly #onChange: RedisDoorOptions['onChange']
  readonly #connect: Connect
  readonly #subscribers: RedisClient[] = []
  readonly #waiting: (() => void)[] = []
  /** In the order of their deadlines, since all have the same time. */
  readonly #pending = new Set<Pending>()
  #sweep: NodeJS.Timeout | undefined
  #probe: NodeJS.Timeout | undefined
  #up = false
  #closed = false
  #failures = 0
  #unanswered = 0
  /** What it did before it was given up, its connection being sound: a new connection says nothing against that. */
  #suspect: 'late' | 'refuses' | undefined

  constructor(name: string, connect: Connect, commandTimeoutMs: number, options: RedisDoorOptions = {}) {
    this.name = name
    this.#connect = connect
    this.#commandTimeoutMs = commandTimeoutMs
    this.#onChange = options.onChange
    this.client = connect(false)
    this.client.on('ready', () => {
      if (this.#suspect === undefined) this.#opened() // else a probe will tell
    })
    this.client.on('close', () => this.#down('the connection was lost'))
    this.client.on('end', () => this.#down('the connection has ended'))
    // Without a listener ioredis prints, and an EventEmitter throws. The 'close' that follows says the rest.
    this.client.on('error', (error: Error) => this.#down(error.message))
    this.client.connect().catch(ignore)
    this.#scheduleProbe()
  }

  /** False while Redis is known not to answer: do without it. */
  get up(): boolean {
    return this.#up
  }

  /**
   * Sends commands and waits for their reply, at most `commandTimeout`. Commands of one tick travel together. Rejects with a
   * `RedisUnavailable` without a reply, with ioredis' ReplyError when Redis refuses the command. Never throws.
   */
  ask<T>(send: (client: RedisClient) => Promise<T>): Promise<T> {
    if (!this.#up) return Promise.reject(DOWN)
    return new Promise<T>((resolve, reject) => {
      const entry: Pending = { deadlineMs: performance.now() + this.#commandTimeoutMs, reject }
      let sent: Promise<T>
      try {
        sent = send(this.client)
      } catch (error) {
        reject(error)
        return
      }
      this.#pending.add(entry)
      this.#sweep ??= setTimeout(this.#overdue, this.#commandTimeoutMs)
      sent.then(
        (value) => {
          this.#failures = 0
          if (this.#pending.delete(entry)) resolve(value)
        },
        (error: Error) => {
          const known = this.#pending.delete(entry)
          if (error?.name === 'ReplyError' && !UNAVAILABLE.test(error.message)) this.#failures = 0
          else if (known) this.#failed(String(error?.message), error?.name === 'ReplyError' ? 'refuses' : undefined)
          reject(error)
        },
      )
    })
  }

  /** Resolves with `up` as soon as Redis answers, at the latest after `timeoutMs`. For the start of the gateway. */
  whenUp(timeoutMs: number): Promise<boolean> {
    if (this.#up) return Promise.resolve(true)
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer)
        resolve(this.#up)
      }
      const timer = setTimeout(done, timeoutMs)
      this.#waiting.push(done)
    })
  }

  /** A connection of its own that may subscribe, at each `ready`; closed with the door. */
  subscriber(): RedisClient {
    const client = this.#connect(true)
    client.on('error', ignore)
    client.connect().catch(ignore)
    this.#subscribers.push(client)
    return client
  }

  /** It answers, and will not do what we need: given up until a write succeeds, whatever connections do meanwhile. */
  refused(reason: string): void {
    if (!this.#up) return
    this.#suspect = 'refuses'
    this.#down(reason)
  }

  close(): void {
    this.#closed = true
    clearTimeout(this.#probe)
    this.#down('closed')
    for (const client of [this.client, ...this.#subscribers]) client.disconnect()
  }

  readonly #overdue = (): void => {
    // When the loop was blocked, replies may lie in the socket unread: they are read before anybody is given up.
    setImmediate(() => {
      this.#sweep = undefined
      const nowMs = performance.now()
      for (const entry of this.#pending) {
        if (entry.deadlineMs > nowMs) {
          this.#sweep = setTimeout(this.#overdue, Math.ceil(entry.deadlineMs - nowMs))
          return
        }
        this.#pending.delete(entry)
        entry.reject(TIMED_OUT)
        this.#failed(TIMED_OUT.message, 'late')
      }
    })
  }

  #failed(reason: string, suspect: 'late' | 'refuses' | undefined): void {
    if (!this.#up || (this.client.status === 'ready' && ++this.#failures < FAILURES_TO_OPEN)) return
    this.#suspect = suspect
    this.#down(reason)
  }

  #opened(): void {
    if (this.#closed) return
    this.#failures = 0
    this.#unanswered = 0
    this.#suspect = undefined
    clearTimeout(this.#probe)
    this.#probe = undefined
    if (this.#up) return
    this.#up = true
    for (const waiting of this.#waiting.splice(0)) waiting()
    this.#onChange?.(true, 'Redis answers')
  }

  #down(reason: string): void {
    if (!this.#up) return
    this.#up = false
    clearTimeout(this.#sweep)
    this.#sweep = undefined
    for (const entry of this.#pending) entry.reject(DOWN)
    this.#pending.clear()
    this.#scheduleProbe()
    if (!this.#closed) this.#onChange?.(false, reason)
  }

  /** While down: one probe about every second; ioredis reconnects by itself meanwhile. */
  #scheduleProbe(): void {
    if (this.#closed || this.#probe !== undefined) return
    this.#probe = setTimeout(() => void this.#sendProbe(), PROBE_EVERY_MS * (0.8 + Math.random() * 0.4))
    this.#probe.unref()
  }

  /** PING; after refusals a write, since who is full or a replica answers a PING all the same. */
  async #sendProbe(): Promise<void> {
    const { client } = this
    if (client.status === 'ready') {
      let timer: NodeJS.Timeout | undefined
      const late = new Promise<'late'>((resolve) => {
        timer = setTimeout(resolve, this.#commandTimeoutMs, 'late')
      })
      const probe: Promise<unknown> =
        this.#suspect === 'refuses' ? client.set(PROBE_KEY, '', 'PX', PROBE_EVERY_MS) : client.ping()
      const answer = probe.then(
        () => 'well' as const,
        // A user who may do no more than we need may be told that.
        (error: Error) => (/^NOPERM\b/.test(error?.message) ? 'well' : 'not'),
      )
      const outcome = await Promise.race([answer, late])
      clearTimeout(timer)
      if (outcome === 'well' && !this.#closed) return this.#opened()
      if (outcome === 'late' && ++this.#unanswered >= PROBES_TO_RECONNECT) {
        this.#unanswered = 0
        client.disconnect(true)
      }
    }
    this.#probe = undefined
    if (!this.#up) this.#scheduleProbe()
  }
}

/** Connects in the background; nothing waits for it. `config` has been checked: exactly one of url, sentinels, cluster. */
export function openRedis(name: string, config: RedisServerConfig, options?: RedisDoorOptions): RedisDoor {
  const { Redis, Cluster } = createRequire(import.meta.url)('ioredis') as typeof import('ioredis')
  const { keyPrefix, connectTimeout, commandTimeout } = config
  const tls = typeof config.tls === 'object' ? { ca: readFileSync(config.tls.ca) } : config.tls ? {} : undefined
  const retryStrategy = (times: number) =>
    Math.min(MAX_BACKOFF_MS, 25 * 2 ** Math.min(times, 10)) * (0.8 + Math.random() * 0.2)
  let door: RedisDoor | undefined
  const shared: RedisOptions = {
    connectTimeout,
    // A backstop that clears ioredis' own state; `ask` has given up long before, and reads waiting replies first.
    commandTimeout: commandTimeout * 2,
    enableOfflineQueue: false,
    maxRetriesPerRequest: 1,
    retryStrategy,
    // After a failover the old master refuses to write: find the new one.
    reconnectOnError: (error) => {
      const refuses = error.message.startsWith('READONLY')
      if (refuses) door?.refused(error.message)
      return refuses
    },
    lazyConnect: true,
    username: config.username,
    password: config.password,
    db: config.db,
    ...(tls && { tls }),
  }
  const whole: RedisOptions = { ...shared, keyPrefix, enableAutoPipelining: true }
  const connect: Connect = (subscriber) => {
    // autoResubscribe: the library waits for its own subscriptions nowhere, and a Redis that leaves meanwhile would end
    // the process with their rejection. Who subscribes does so at each `ready`.
    const own = subscriber
      ? { enableOfflineQueue: true, maxRetriesPerRequest: null, enableAutoPipelining: false, autoResubscribe: false }
      : {}
    if (config.url !== undefined) return new Redis(config.url, urlOptions({ ...whole, ...own }))
    if (config.sentinels !== undefined) {
      return new Redis({
        ...whole,
        ...own,
        sentinels: config.sentinels.map(hostPort),
        name: config.name!,
        sentinelPassword: config.sentinelPassword,
        sentinelRetryStrategy: retryStrategy,
        ...(tls && { sentinelTLS: tls, enableTLSForSentinelMode: true }),
      })
    }
    return new Cluster(config.cluster!.map(hostPort), {
      keyPrefix,
      enableAutoPipelining: !subscriber,
      enableOfflineQueue: subscriber,
      lazyConnect: true,
      clusterRetryStrategy: retryStrategy,
      slotsRefreshTimeout: connectTimeout,
      maxRedirections: 4,
      redisOptions: shared,
    })
  }
  door = new RedisDoor(name, connect, commandTimeout, options)
  return door
}

/** What stands in the URL must not be overwritten by an option that is there but undefined. */
function urlOptions({ username, password, db, ...options }: RedisOptions): RedisOptions {
  return options
}

function hostPort(text: string): ClusterNode & { host: string; port: number } {
  const colon = text.lastIndexOf(':')
  return { host: text.slice(0, colon).replace(/^\[|\]$/g, ''), port: Number(text.slice(colon + 1)) }
}

function ignore(): void {}
