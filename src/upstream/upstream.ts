/**
 * One named upstream as one thread sees it: its endpoints with their pools, and the mechanisms that choose among them and
 * learn from what they do. Outlives reloads: `configure()` takes new settings, endpoints are found again by their keys.
 */

import { readFileSync } from 'node:fs'
import type tls from 'node:tls'
import type { Exchange } from '../exchange.ts'
import type { Logger } from '../observability/logger.ts'
import type { Clock } from '../shared/clock.ts'
import { type Balancer, createBalancer, type PickContext } from './balancers/balancer.ts'
import { compileHashKey } from './balancers/hash.ts'
import { Breaker } from './breaker.ts'
import type { UpstreamConfig } from './config.ts'
import { DnsDiscovery, EndpointSet, type EndpointSpec } from './discovery.ts'
import { type Endpoint, parseEndpointUrl } from './endpoint.ts'
import { HealthProber, httpCheck } from './health.ts'
import { recordFailure, recordLatency } from './latency.ts'
import { Outlier } from './outlier.ts'
import { Pool, type PoolOptions, type PoolStats } from './pool.ts'
import { parseRetryConditions, RetryBudget, RetryPolicy } from './retry.ts'
import { slowStart } from './slow-start.ts'
import { Sticky } from './sticky.ts'

export interface UpstreamDeps {
  readonly clock: Clock
  readonly logger: Logger
  /** Of how many threads this is one: pool limits are shared out. */
  readonly threads: number
  readonly thread: number
  readonly streamIdleMs: number
  /** Signs sticky cookies; the same in all threads and after a restart. */
  readonly stickySecret: string
}

/** How one try ended, as far as its endpoint is concerned. */
export interface TryResult {
  readonly failed: boolean
  /** Refused by a full gateway behind this one: says nothing about health or speed. */
  readonly shed: boolean
  /** From sending to the final head, or to the failure. */
  readonly latencyMs: number
  /** -1: none. */
  readonly retryAfterMs: number
  readonly sentMs: number
}

/** What `/upstreams` shows of an endpoint. */
export interface EndpointStatus {
  readonly url: string
  readonly state: string
  readonly reason: string
  readonly inFlight: number
  readonly weight: number
  readonly breaker: string
  readonly pool: PoolStats
}

export class Upstream {
  readonly name: string
  config: UpstreamConfig
  balancer: Balancer
  breaker: Breaker | null = null
  retry: RetryPolicy
  sticky: Sticky | null = null
  hashKey: ((x: Exchange) => string) | undefined
  /** Requests sent over all endpoints, for metrics. */
  budget: RetryBudget
  readonly #deps: UpstreamDeps
  readonly #set = new EndpointSet()
  readonly #pools = new Map<Endpoint, Pool>()
  #poolOptions: PoolOptions
  #outlier: Outlier | null = null
  #health: HealthProber | null = null
  #discovery: DnsDiscovery | null = null

  constructor(name: string, config: UpstreamConfig, deps: UpstreamDeps) {
    this.name = name
    this.config = config
    this.#deps = deps
    this.#poolOptions = this.#readPoolOptions(config)
    this.budget = new RetryBudget(config.retry.budgetPercent)
    this.retry = this.compileRetry(config.retry)
    this.balancer = createBalancer(balancerName(config), { slowStart: slowStart(config.slowStart) })
    this.configure(config)
  }

  /** Takes new settings; what is learnt of endpoints that stay is kept. */
  configure(config: UpstreamConfig): void {
    const before = this.config
    this.config = config
    this.#poolOptions = this.#readPoolOptions(config)
    for (const pool of this.#pools.values()) pool.configure(this.#poolOptions)
    if (config.retry.budgetPercent !== before.retry.budgetPercent)
      this.budget = new RetryBudget(config.retry.budgetPercent)
    this.retry = this.compileRetry(config.retry)
    this.balancer = createBalancer(balancerName(config), { slowStart: slowStart(config.slowStart) })
    this.hashKey = config.balance === 'hash' ? compileHashKey(config.hashKey) : undefined
    this.sticky = config.sticky === undefined ? null : this.#createSticky(config.sticky)
    this.#outlier = config.outlier === undefined ? null : this.#createOutlier(config.outlier)
    const sameBreaker = same(config.circuitBreaker, before.circuitBreaker)
    if (!sameBreaker || (this.breaker === null) !== (config.circuitBreaker === undefined)) {
      this.breaker = config.circuitBreaker === undefined ? null : this.#createBreaker(config.circuitBreaker, '')
      for (const endpoint of this.endpoints) endpoint.breaker = null
    }
    const nowMs = this.#deps.clock.nowMs()
    for (const endpoint of this.endpoints) {
      // What nobody checks any more must not stay out for good.
      if (config.health === undefined) endpoint.markHealthy(nowMs)
      if (config.outlier === undefined) endpoint.endEjection(nowMs)
    }
    this.#health?.close()
    this.#health = null
    this.#discovery?.close()
    this.#discovery = null
    if (config.dns !== undefined) this.#discover(config.dns)
    else {
      this.#setEndpoints(
        config.endpoints!.map(({ url, ...options }) => ({ address: parseEndpointUrl(url)!, ...options })),
      )
    }
    if (config.health !== undefined) this.#startHealth(config.health)
  }

  get endpoints(): readonly Endpoint[] {
    return this.#set.endpoints
  }

  /** The addresses of now. Endpoints that are gone finish what they have. */
  #setEndpoints(specs: readonly EndpointSpec[]): void {
    const serverName = this.config.tls?.serverName
    const named =
      serverName === undefined ? specs : specs.map((spec) => ({ ...spec, address: { ...spec.address, serverName } }))
    const { removed } = this.#set.update(named, this.#deps.clock.nowMs())
    for (const endpoint of removed) {
      this.#pools.get(endpoint)?.retire()
      this.#pools.delete(endpoint)
    }
    // One endpoint is the upstream: its breaker is the upstream's.
    const { circuitBreaker } = this.config
    if (circuitBreaker !== undefined && this.endpoints.length > 1) {
      for (const endpoint of this.endpoints) endpoint.breaker ??= this.#createBreaker(circuitBreaker, endpoint.key)
    }
    this.sticky?.update(this.endpoints)
    this.#health?.update(this.endpoints)
  }

  compileRetry(config: UpstreamConfig['retry']): RetryPolicy {
    const on = parseRetryConditions(config.on)
    if (typeof on === 'string') throw new Error(on)
    return new RetryPolicy({ attempts: config.attempts, on }, this.budget)
  }

  /**
   * The endpoint for one try; undefined when there is none.
   * @param exclude those tried already
   * @param again with all tried, one of them is better than none
   */
  pick(
    x: Exchange,
    context: PickContext,
    nowMs: number,
    exclude: readonly Endpoint[] | null,
    again: boolean,
  ): Endpoint | undefined {
    if (this.sticky !== null && exclude === null) {
      const bound = this.sticky.find(x.request.get('cookie'), nowMs)
      if (bound !== undefined) return bound
    }
    const endpoint = this.balancer.pick(this.endpoints, context, nowMs, exclude)
    return endpoint === undefined && exclude !== null && again
      ? this.balancer.pick(this.endpoints, context, nowMs)
      : endpoint
  }

  pool(endpoint: Endpoint): Pool {
    let pool = this.#pools.get(endpoint)
    if (pool === undefined) {
      pool = new Pool(endpoint, this.#poolOptions, this.#deps.clock)
      this.#pools.set(endpoint, pool)
    }
    return pool
  }

  /** One try has ended. */
  learn(endpoint: Endpoint, result: TryResult, nowMs: number): void {
    const { failed, shed, latencyMs, retryAfterMs, sentMs } = result
    if (this.config.balance === 'peakEwma' && !shed) {
      if (failed) recordFailure(endpoint, latencyMs, retryAfterMs, nowMs)
      else recordLatency(endpoint, latencyMs, nowMs)
    }
    this.#outlier?.onResult(endpoint, failed, sentMs, nowMs, this.endpoints)
  }

  status(nowMs: number): EndpointStatus[] {
    return this.endpoints.map((endpoint) => {
      endpoint.isAvailable(nowMs)
      return {
        url: endpoint.key,
        state: endpoint.weight === 0 && endpoint.state === 'healthy' ? 'draining' : endpoint.state,
        reason: endpoint.reason,
        inFlight: endpoint.inFlight,
        weight: endpoint.weight,
        breaker: endpoint.breaker?.state ?? this.breaker?.state ?? 'closed',
        pool: this.pool(endpoint).stats(),
      }
    })
  }

  /** Figures of all its pools. */
  poolStats(): PoolStats {
    const sum: PoolStats = { open: 0, idle: 0, inUse: 0, waiting: 0, waitCount: 0, waitMs: 0 }
    for (const pool of this.#pools.values()) {
      const stats = pool.stats()
      for (const key of Object.keys(sum) as (keyof PoolStats)[]) sum[key] += stats[key]
    }
    return sum
  }

  get hasHealthyEndpoint(): boolean {
    const nowMs = this.#deps.clock.nowMs()
    return this.endpoints.some((endpoint) => endpoint.isAvailable(nowMs))
  }

  /** Removed from the config: connections end with their exchanges. */
  retire(): void {
    this.#health?.close()
    this.#discovery?.close()
    for (const pool of this.#pools.values()) pool.retire()
  }

  close(): void {
    this.retire()
    for (const pool of this.#pools.values()) pool.close()
  }

  #createSticky(sticky: NonNullable<UpstreamConfig['sticky']>): Sticky {
    return new Sticky({
      upstream: this.name,
      cookie: sticky.cookie,
      secret: this.#deps.stickySecret,
      maxAgeSec: Math.floor(sticky.ttl / 1000),
    })
  }

  #createOutlier(outlier: NonNullable<UpstreamConfig['outlier']>): Outlier {
    const { logger } = this.#deps
    return new Outlier({
      consecutiveErrors: outlier.consecutiveErrors,
      ejectForMs: outlier.ejectFor,
      maxEjectedPercent: outlier.maxEjectedPercent,
      onEject: (endpoint, forMs, reason) =>
        logger.warn('endpoint ejected', {
          upstream: this.name,
          endpoint: endpoint.key,
          forMs: Math.round(forMs),
          reason,
        }),
    })
  }

  #createBreaker(breaker: NonNullable<UpstreamConfig['circuitBreaker']>, endpoint: string): Breaker {
    const { logger } = this.#deps
    return new Breaker({
      errorRatio: breaker.errorRatio,
      minRequests: breaker.minRequests,
      windowMs: breaker.window,
      openForMs: breaker.openFor,
      onTransition: (from, to, reason) =>
        logger.warn('circuit breaker', { upstream: this.name, endpoint, from, to, reason }),
    })
  }

  #startHealth(health: NonNullable<UpstreamConfig['health']>): void {
    const { logger } = this.#deps
    const { tls } = this.#poolOptions
    const host = health.host ?? this.config.host
    this.#health = new HealthProber({
      check: httpCheck({
        path: health.path,
        statuses: [health.status].flat(),
        ...(host && { host }),
        ...(tls && { tls }),
      }),
      intervalMs: health.interval,
      timeoutMs: health.timeout,
      rise: health.rise,
      fall: health.fall,
      onChange: (endpoint, healthy, reason) =>
        logger.warn(healthy ? 'endpoint healthy' : 'endpoint unhealthy', {
          upstream: this.name,
          endpoint: endpoint.key,
          reason,
        }),
    })
    this.#health.update(this.endpoints)
  }

  #discover(dns: NonNullable<UpstreamConfig['dns']>): void {
    const { logger } = this.#deps
    this.#discovery = new DnsDiscovery({
      name: dns.name,
      ...(dns.port !== undefined && { port: dns.port }),
      type: dns.type,
      refreshMs: dns.refresh,
      secure: this.config.tls !== undefined,
      onUpdate: (specs) => this.#setEndpoints(specs),
      onError: (error, kept) =>
        logger.warn('name not resolved', { upstream: this.name, name: dns.name, error: error.message, kept }),
    })
    void this.#discovery.start()
  }

  #readPoolOptions(config: UpstreamConfig): PoolOptions {
    const { pool, timeouts } = config
    return {
      maxOpenConns: this.#share(pool.maxOpenConns),
      maxIdleConns: pool.maxIdleConns === 0 ? 0 : this.#share(pool.maxIdleConns),
      connMaxLifetimeMs: pool.connMaxLifetime,
      connMaxIdleTimeMs: pool.connMaxIdleTime,
      timeouts: {
        connectMs: timeouts.connect,
        firstByteMs: timeouts.firstByte,
        idleMs: timeouts.idle,
        streamIdleMs: this.#deps.streamIdleMs,
      },
      tls: readTls(config.tls),
    }
  }

  /** This thread's part of a number that holds for all; every thread needs at least one. */
  #share(total: number): number {
    return Math.max(1, Math.floor((total + this.#deps.thread) / this.#deps.threads))
  }
}

function balancerName(config: UpstreamConfig) {
  return config.slots ? 'slots' : config.balance
}

function readTls(config: UpstreamConfig['tls']): tls.ConnectionOptions | undefined {
  if (config === undefined) return undefined
  return {
    ...(config.ca !== undefined && { ca: readFileSync(config.ca) }),
    ...(config.cert !== undefined && { cert: readFileSync(config.cert), key: readFileSync(config.key!) }),
    minVersion: config.minVersion,
    rejectUnauthorized: config.verify,
  }
}

function same(a: unknown, b: unknown): boolean {
  return JSON.stringify(a) === JSON.stringify(b)
}
