/**
 * One named upstream as one thread sees it: its endpoints with their pools, and the mechanisms that choose among them and
 * learn from what they do. Outlives reloads: `configure()` takes new settings, endpoints are found again by their keys.
 */

import type tls from 'node:tls'
import type { Exchange } from '../exchange.ts'
import type { Logger } from '../observability/logger.ts'
import type { Clock } from '../shared/clock.ts'
import { SCALAR, type ThreadMetrics } from '../shared/metrics.ts'
import { type Balancer, createBalancer, type PickContext } from './balancers/balancer.ts'
import { compileHashKey } from './balancers/hash-key.ts'
import { Breaker } from './breaker.ts'
import type { FailureKind } from './carrier.ts'
import type { UpstreamConfig } from './config.ts'
import { DnsDiscovery, EndpointSet, type EndpointSpec } from './discovery.ts'
import { type Endpoint, endpointKey, parseEndpointUrl } from './endpoint.ts'
import { H2Pool } from './h2-pool.ts'
import { HealthProber, httpCheck, tcpCheck } from './health.ts'
import { Http1Pool } from './http1-pool.ts'
import { ewmaAt, recordFailure, recordLatency } from './latency.ts'
import { Outlier } from './outlier.ts'
import type { EndpointPool, PoolOptions, PoolStats } from './pool.ts'
import { parseRetryConditions, RetryBudget, RetryPolicy } from './retry.ts'
import { slowStart } from './slow-start.ts'
import type { EndpointStatus } from './status.ts'
import { Sticky } from './sticky.ts'
import { readUpstreamTls } from './tls.ts'

export interface UpstreamDeps {
  readonly clock: Clock
  readonly logger: Logger
  /** Of how many threads this is one: pool limits are shared out. */
  readonly threads: number
  readonly thread: number
  readonly streamIdleMs: number
  readonly tunnelLifetimeMs: number
  /** Where relative names of TLS files start. */
  readonly baseDir: string
  readonly metrics: ThreadMetrics
}

/** How one try ended, as far as its endpoint is concerned. */
export interface TryResult {
  readonly failed: boolean
  /** It failed because no connection could be made. */
  readonly unconnected: boolean
  /** Refused by a full gateway behind this one: says nothing about health or speed. */
  readonly shed: boolean
  /** From sending to the final head, or to the failure. */
  readonly latencyMs: number
  /** -1: none. */
  readonly retryAfterMs: number
  readonly sentMs: number
}

/** What an operator wants of an endpoint, in place of what the config says. Absent: as in the config. */
export interface EndpointOrder {
  readonly weight?: number
  readonly drain?: boolean
}

export class Upstream {
  readonly name: string
  readonly metrics: ThreadMetrics
  config: UpstreamConfig
  balancer: Balancer
  breaker: Breaker | null = null
  retry: RetryPolicy
  sticky: Sticky | null = null
  hashKey: ((x: Exchange) => string) | undefined
  /** What retries and hedges may cost. */
  budget: RetryBudget
  readonly #deps: UpstreamDeps
  readonly #set = new EndpointSet()
  readonly #pools = new Map<Endpoint, EndpointPool>()
  readonly #orders = new Map<string, EndpointOrder>()
  readonly #errorSeries = new Map<string, number>()
  #poolOptions: PoolOptions
  #tls: tls.ConnectionOptions | undefined
  #outlier: Outlier | null = null
  #health: HealthProber | null = null
  #discovery: DnsDiscovery | null = null
  #discovered: Promise<void> | undefined

  /** @throws TlsFileError */
  constructor(name: string, config: UpstreamConfig, deps: UpstreamDeps) {
    this.name = name
    this.metrics = deps.metrics
    this.config = config
    this.#deps = deps
    this.#tls = this.#readTls(config)
    this.#poolOptions = this.#readPoolOptions(config)
    this.budget = this.#createBudget(config)
    this.retry = this.compileRetry(config.retry)
    this.balancer = createBalancer(balancerName(config), { slowStart: slowStart(config.slowStart) })
    this.#apply(config, config)
  }

  /** Takes new settings; what is learnt of endpoints that stay is kept. Throws before anything has changed. */
  configure(config: UpstreamConfig): void {
    const before = this.config
    const tlsOptions = this.#readTls(config)
    const retry = this.compileRetry(config.retry)
    this.config = config
    const terms = ({ tls, protocol, proxyProtocol }: UpstreamConfig) => [tls, protocol, proxyProtocol]
    if (!same([tlsOptions, terms(config)], [this.#tls, terms(before)])) {
      // What was opened under other terms ends with its exchange.
      for (const pool of this.#pools.values()) pool.retire()
      this.#pools.clear()
    }
    this.#tls = tlsOptions
    this.#poolOptions = this.#readPoolOptions(config)
    for (const pool of this.#pools.values()) pool.configure(this.#poolOptions)
    if (config.retry.budgetPercent !== before.retry.budgetPercent) {
      this.budget = this.#createBudget(config)
      this.retry = this.compileRetry(config.retry)
    } else this.retry = retry
    this.balancer = createBalancer(balancerName(config), { slowStart: slowStart(config.slowStart) })
    this.#apply(config, before)
  }

  /** What is had whatever the share, three retries a second, is shared out over time: each thread can have three at once. */
  #createBudget(config: UpstreamConfig): RetryBudget {
    return new RetryBudget(config.retry.budgetPercent, 3, 1000 * this.#deps.threads)
  }

  #apply(config: UpstreamConfig, before: UpstreamConfig): void {
    this.hashKey = config.balance === 'hash' ? compileHashKey(config.hashKey) : undefined
    this.sticky = config.sticky === undefined ? null : this.#createSticky(config.sticky)
    this.#outlier = config.outlier === undefined ? null : this.#createOutlier(config.outlier)
    if (!same(config.circuitBreaker, before.circuitBreaker) || config === before) {
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
    this.#health = config.health === undefined ? null : this.#createHealth(config.health)
    this.#discovery?.close()
    this.#discovery = null
    if (config.dns !== undefined) this.#discover(config.dns)
    else {
      this.#setEndpoints(
        config.endpoints!.map(({ url, ...options }) => ({ address: parseEndpointUrl(url)!, ...options })),
      )
    }
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
    this.#equip()
    for (const endpoint of this.endpoints) this.#obey(endpoint)
  }

  /** What every endpoint of now needs around it. */
  #equip(): void {
    const { circuitBreaker } = this.config
    for (const endpoint of this.endpoints) {
      // One endpoint is the upstream: its breaker is the upstream's.
      if (circuitBreaker === undefined || this.endpoints.length === 1) endpoint.breaker = null
      else endpoint.breaker ??= this.#createBreaker(circuitBreaker, endpoint.key)
    }
    this.sticky?.update(this.endpoints)
    this.#health?.update(this.endpoints)
  }

  /**
   * Takes an operator's order about an endpoint; it holds over reloads and DNS answers, until it is taken back. Empty:
   * as in the config. False when there is no such endpoint.
   */
  order(url: string, order: EndpointOrder): boolean {
    const address = parseEndpointUrl(url)
    const key = address === undefined ? url : endpointKey(address)
    const endpoint = this.endpoints.find((each) => each.key === key)
    if (endpoint === undefined) return false
    if (order.weight === undefined && order.drain === undefined) this.#orders.delete(key)
    else this.#orders.set(key, order)
    endpoint.weight = this.#set.weightOf(endpoint)
    this.#obey(endpoint)
    return true
  }

  #obey(endpoint: Endpoint): void {
    const order = this.#orders.get(endpoint.key)
    const nowMs = this.#deps.clock.nowMs()
    if (order?.weight !== undefined) endpoint.weight = order.weight
    if (order?.drain === true) endpoint.drain(nowMs, 'drained by an operator')
    else endpoint.undrain(nowMs)
  }

  compileRetry(config: UpstreamConfig['retry']): RetryPolicy {
    const on = parseRetryConditions(config.on)
    if (typeof on === 'string') throw new Error(on)
    return new RetryPolicy({ attempts: config.attempts, on, perTryTimeoutMs: config.perTryTimeout }, this.budget)
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

  /** Whether a try has somewhere to go but `exclude`, without taking a chance. */
  hasOther(nowMs: number, exclude: readonly Endpoint[]): boolean {
    return this.endpoints.some((endpoint) => endpoint.isAvailable(nowMs) && !exclude.includes(endpoint))
  }

  /** Resolves when DNS has answered for the first time, good or bad, or after so long. Never rejects. */
  async ready(timeoutMs: number): Promise<void> {
    if (this.#discovered === undefined) return
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, timeoutMs)
    })
    await Promise.race([this.#discovered, late])
    clearTimeout(timer)
  }

  pool(endpoint: Endpoint): EndpointPool {
    let pool = this.#pools.get(endpoint)
    if (pool === undefined) {
      const Pool = this.#poolOptions.protocol === 'h2' ? H2Pool : Http1Pool
      pool = new Pool(endpoint, this.#poolOptions, this.#deps.clock)
      this.#pools.set(endpoint, pool)
    }
    return pool
  }

  /** One try has ended. */
  learn(endpoint: Endpoint, result: TryResult, nowMs: number): void {
    const { failed, unconnected, shed, latencyMs, retryAfterMs, sentMs } = result
    if (unconnected) endpoint.connectFailed(nowMs)
    else if (endpoint.connectFailures > 0) endpoint.reached()
    if (this.config.balance === 'peakEwma' && !shed) {
      if (failed) recordFailure(endpoint, latencyMs, retryAfterMs, nowMs)
      else recordLatency(endpoint, latencyMs, nowMs)
    }
    if (!shed) this.#outlier?.onResult(endpoint, failed, sentMs, nowMs, this.endpoints)
  }

  /** An endpoint has not answered for so long, and another one was quicker. */
  learnSlow(endpoint: Endpoint, elapsedMs: number, nowMs: number): void {
    if (this.config.balance === 'peakEwma' && elapsedMs > ewmaAt(endpoint, nowMs)) {
      recordLatency(endpoint, elapsedMs, nowMs)
    }
  }

  countRequest(endpoint: Endpoint): void {
    if (endpoint.series < 0) {
      endpoint.series = this.metrics.series('fluxor_upstream_requests_total', {
        upstream: this.name,
        endpoint: endpoint.key,
      })
    }
    this.metrics.inc(endpoint.series)
  }

  countError(kind: FailureKind, detail: string): void {
    const name = kind === 'connect' && TLS_ERROR.test(detail) ? 'tls' : kind === 'connectTimeout' ? 'connect' : kind
    let id = this.#errorSeries.get(name)
    if (id === undefined) {
      id = this.metrics.series('fluxor_upstream_errors_total', { upstream: this.name, kind: name })
      this.#errorSeries.set(name, id)
    }
    this.metrics.inc(id)
  }

  /** An exchange has waited for a connection. */
  countWait(waitedMs: number): void {
    this.metrics.add(SCALAR.poolWaited)
    this.metrics.add(SCALAR.poolWaitMs, waitedMs)
  }

  status(nowMs: number): EndpointStatus[] {
    return this.endpoints.map((endpoint) => {
      endpoint.isAvailable(nowMs) // ends an ejection whose time is over
      const breaker = endpoint.breaker ?? this.breaker
      return {
        url: endpoint.key,
        ...describeState(endpoint, nowMs),
        inFlight: endpoint.inFlight,
        weight: endpoint.weight,
        ...(endpoint.backup && { backup: true }),
        ...(breaker !== null && { breaker: breaker.state }),
        pool: this.#pools.get(endpoint)?.stats() ?? NO_POOL,
      }
    })
  }

  /** Figures of all its pools. */
  poolStats(): PoolStats {
    const sum = { ...NO_POOL }
    for (const pool of this.#pools.values()) {
      const stats = pool.stats()
      for (const key of Object.keys(sum) as (keyof PoolStats)[]) sum[key] += stats[key]
    }
    return sum
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
      ...(sticky.secret !== undefined && { secret: sticky.secret }),
      maxAgeSec: Math.floor(sticky.ttl / 1000),
    })
  }

  #createOutlier(outlier: NonNullable<UpstreamConfig['outlier']>): Outlier {
    const { logger } = this.#deps
    return new Outlier({
      consecutiveErrors: outlier.consecutiveErrors,
      ...(outlier.errorRatio !== undefined && { errorRatio: outlier.errorRatio }),
      minRequests: outlier.minRequests,
      windowMs: outlier.window,
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
      ...(breaker.slowCallRatio !== undefined && { slowCallRatio: breaker.slowCallRatio }),
      slowCallMs: breaker.slowCall,
      successes: breaker.probes,
      rampMs: breaker.ramp,
      onTransition: (from, to, reason) =>
        logger.warn('circuit breaker', { upstream: this.name, endpoint, from, to, reason }),
    })
  }

  #createHealth(health: NonNullable<UpstreamConfig['health']>): HealthProber {
    const { logger } = this.#deps
    const { path, body, status } = health
    const host = health.host ?? this.config.host
    const tlsOptions = this.#tls
    return new HealthProber({
      check:
        path === undefined
          ? tcpCheck()
          : httpCheck({
              path,
              statuses: status,
              h2: this.config.protocol === 'h2',
              ...(host !== undefined && { host }),
              ...(body !== undefined && { bodyContains: body }),
              ...(tlsOptions !== undefined && { tls: tlsOptions }),
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
  }

  #discover(dns: NonNullable<UpstreamConfig['dns']>): void {
    const { logger } = this.#deps
    this.#discovery = new DnsDiscovery({
      name: dns.name,
      ...(dns.port !== undefined && { port: dns.port }),
      type: dns.type,
      ...(dns.servers !== undefined && { servers: dns.servers }),
      refreshMs: dns.refresh,
      secure: this.config.tls !== undefined,
      onUpdate: (specs) => this.#setEndpoints(specs),
      onError: (error, kept) =>
        logger.warn('name not resolved', { upstream: this.name, name: dns.name, error: error.message, kept }),
    })
    this.#discovered = this.#discovery.start()
    this.#equip() // with the addresses that are known from before
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
        tunnelLifetimeMs: this.#deps.tunnelLifetimeMs,
      },
      tls: this.#tls,
      protocol: config.protocol,
      proxyProtocol: config.proxyProtocol,
    }
  }

  #readTls(config: UpstreamConfig): tls.ConnectionOptions | undefined {
    return readUpstreamTls(config.tls, this.#deps.baseDir, `upstreams.${this.name}.tls`)
  }

  /** This thread's part of a number that holds for all; every thread needs at least one. */
  #share(total: number): number {
    return Math.max(1, Math.floor((total + this.#deps.thread) / this.#deps.threads))
  }
}

function balancerName(config: UpstreamConfig) {
  return config.slots ? 'slots' : config.balance
}

function describeState(endpoint: Endpoint, nowMs: number): { state: string; reason: string } {
  const { state, reason, weight } = endpoint
  if (state !== 'healthy') return { state, reason }
  if (weight === 0) return { state: 'draining', reason: 'its weight is 0' }
  if (nowMs < endpoint.unreachableUntilMs)
    return { state: 'unhealthy', reason: 'the last connection could not be made' }
  return { state, reason }
}

function same(a: unknown, b: unknown): boolean {
  return JSON.stringify(a) === JSON.stringify(b)
}

const NO_POOL: Readonly<PoolStats> = { open: 0, idle: 0, inUse: 0, waiting: 0, waitCount: 0, waitMs: 0 }

/** Codes of OpenSSL and Node where a connection fails in its handshake. */
const TLS_ERROR = /CERT|SSL|TLS|EPROTO|SIGNATURE|UNABLE_TO/
