/**
 * What one thread keeps over reloads, found by stable keys: connections and what is learnt of endpoints, admission counts,
 * metrics, logs. Limits come from the snapshot; counts live here.
 */

import type { Config, RouteConfig } from './config/schema.ts'
import { parseYaml } from './config/yaml-text.ts'
import { type AccessLog, compileAccessLog } from './observability/access-log.ts'
import type { AdmissionFigures } from './observability/figures.ts'
import { LineWriter } from './observability/line-writer.ts'
import { createLogger, type Logger } from './observability/logger.ts'
import { startThreadProbe } from './observability/process-figures.ts'
import { createTracer, type Tracer } from './observability/tracing.ts'
import { admissionFigures } from './policies/admission/figures.ts'
import { KeyCounts } from './policies/admission/key-counts.ts'
import { Places } from './policies/admission/places.ts'
import { type AdmissionDeps, scopeLimits } from './policies/admission/policy.ts'
import { Scope } from './policies/admission/scope.ts'
import type { KeySetStatus } from './policies/auth/jwks.ts'
import { createKeySets, type KeySets } from './policies/auth/key-sets.ts'
import { allForwardedNames } from './policies/auth/policy.ts'
import { type Cache, createCache } from './policies/cache/cache.ts'
import { createRedisLevel } from './policies/cache/redis-level.ts'
import { Siblings } from './policies/cache/siblings.ts'
import type { PurgeRequest } from './policies/cache/store.ts'
import type { RateLimitDeps, RateLimitEvent } from './policies/rate-limit/policy.ts'
import { openRedis, type RedisDoor } from './redis.ts'
import { Clock } from './shared/clock.ts'
import { KeyHash, LimiterTable } from './shared/limiter-table.ts'
import type { SharedMemory } from './shared/memory.ts'
import { SCALAR, ThreadMetrics } from './shared/metrics.ts'
import { Upstream } from './upstream/upstream.ts'

export interface ThreadInfo {
  readonly thread: number
  readonly threads: number
}

export interface Readiness {
  readonly ready: boolean
  readonly reason: string
}

/** How often files with keys are looked at. */
const FILE_CHECK_MS = 1000

/** Longest wait at the start for Redis and key sets. */
const START_WAIT_MS = 1000

/** The scope of the whole gateway; routes' scopes carry the route's name. */
export const GLOBAL_SCOPE = ''

export class Services {
  readonly clock = new Clock()
  readonly info: ThreadInfo
  readonly metrics: ThreadMetrics
  logger: Logger
  accessLog: AccessLog | undefined
  tracer: Tracer | undefined
  readonly upstreams = new Map<string, Upstream>()
  readonly scopes = new Map<string, Scope>()
  config: Config
  memory: SharedMemory
  /** Whether the process takes traffic, and if not, why. The supervisor knows; a worker is told. */
  readiness: () => Readiness = () => ({ ready: true, reason: '' })
  readonly keySets: KeySets
  readonly limiterTable: LimiterTable
  cache: Cache | undefined
  /** Keys in files have changed: routes that use them must be compiled again. */
  onKeysChanged: () => void = () => {}
  readonly #log: LineWriter
  readonly #redis = new Map<string, RedisDoor>()
  /** The settings of each door; one with others takes its place at a reload. */
  readonly #redisKeys = new Map<string, string>()
  readonly #redisLeaving: RedisDoor[] = []
  /** Scopes of routes that are no more, while somebody is inside. */
  readonly #leaving = new Set<Scope>()
  #cacheDoor: RedisDoor | undefined
  #filesCheckedMs = 0
  #accessWriter: LineWriter | undefined
  #accessKey = ''
  #tracerKey = ''
  readonly #probe: { close(): void }
  /** Totals of parts that come and go, as they were at the tick before. */
  readonly #totals = new Map<number, number>()

  constructor(info: ThreadInfo, memory: SharedMemory, config: Config) {
    this.info = info
    this.config = config
    this.memory = memory
    this.metrics = new ThreadMetrics(memory.metrics, info.thread)
    this.#log = new LineWriter(this.#writerOptions(config.logging.file))
    this.logger = this.#createLogger(config)
    this.limiterTable = new LimiterTable(memory.limiter, info.thread)
    this.keySets = createKeySets({ baseDir: config.baseDir, parseYaml, report: (status) => this.#reportKeys(status) })
    this.#probe = startThreadProbe(this.metrics)
    this.clock.add({ tick: (nowMs) => this.#tick(nowMs) })
    this.clock.start()
  }

  /**
   * Takes the settings of the next snapshot: makes what is new, changes what stays, lets nothing go yet. When it throws, or
   * the snapshot cannot be compiled, the settings of before are taken again.
   */
  configure(config: Config, memory: SharedMemory): void {
    this.config = config
    this.memory = memory
    this.logger = this.#createLogger(config)
    this.#configureAccessLog(config)
    this.#configureTracer(config)
    this.#configureScopes(config)
    this.#configureUpstreams(config)
    this.#configureRedis(config)
    this.#configureCache(config)
  }

  /** After a snapshot was compiled: what only earlier ones used is let go. */
  settle(config: Config): void {
    this.keySets.retain(config.identity)
    if (config.cache === undefined && this.cache !== undefined) {
      this.cache.retire()
      this.cache = this.#cacheDoor = undefined
    }
    for (const [name, upstream] of this.upstreams) {
      if (config.upstreams[name] !== undefined) continue
      this.upstreams.delete(name)
      upstream.retire()
    }
    for (const [name, door] of this.#redis) {
      if (config.redis[name] !== undefined) continue
      this.#redis.delete(name)
      void door.close()
    }
    for (const door of this.#redisLeaving.splice(0)) void door.close()
    const scoped = new Set([GLOBAL_SCOPE, ...config.routes.filter((r) => r.admission !== undefined).map((r) => r.name)])
    for (const [name, scope] of this.scopes) {
      if (scoped.has(name)) continue
      this.scopes.delete(name)
      this.#leaving.add(scope)
    }
  }

  /** What the first requests would miss: connections to Redis, key sets. Bounded: a service that is down delays no start. */
  async ready(): Promise<void> {
    const doors: Promise<unknown>[] = [...this.#redis.values()].map((door) => door.whenUp(START_WAIT_MS))
    doors.push(this.cache?.second?.ready?.(START_WAIT_MS) ?? Promise.resolve())
    const keys = Promise.race([
      this.keySets.ready(),
      new Promise((resolve) => setTimeout(resolve, START_WAIT_MS).unref()),
    ])
    const addresses = [...this.upstreams.values()].map((upstream) => upstream.ready(START_WAIT_MS))
    await Promise.all([...doors, keys, ...addresses])
  }

  /** Header names that only the gateway may set; null: none. */
  reservedNames(config: Config): ReadonlySet<string> | null {
    const names = [
      ...allForwardedNames(config.identity, this.keySets),
      ...config.server.listen.flatMap(({ tls }) => Object.keys(tls?.clientHeaders ?? {})),
    ]
    return names.length === 0 ? null : new Set(names)
  }

  rateLimitDeps(routeName: string): RateLimitDeps {
    const { metrics } = this
    /** By decision, then by rule: nothing is put together on the way of a request. */
    const series: Record<RateLimitEvent, Map<string, number>> = {
      allowed: new Map(),
      limited: new Map(),
      shadow: new Map(),
      storeErrors: new Map(),
    }
    return {
      table: this.limiterTable,
      redisConfig: this.config.redis,
      redis: (name) => this.#redis.get(name),
      routeName,
      headers: this.config.rateLimitHeaders,
      count: (rule, decision) => {
        const ids = series[decision]
        let id = ids.get(rule)
        if (id === undefined)
          ids.set(rule, (id = metrics.series('fluxor_rate_limit_decisions_total', { rule, decision })))
        metrics.inc(id)
      },
    }
  }

  #reportKeys(status: KeySetStatus): void {
    if (status.lastError) this.logger.warn('JWKS not refreshed', { ...status })
    else this.logger.info('JWKS changed', { ...status })
  }

  #configureRedis(config: Config): void {
    for (const [name, settings] of Object.entries(config.redis)) {
      const key = JSON.stringify(settings)
      const before = this.#redis.get(name)
      if (before !== undefined && this.#redisKeys.get(name) === key) continue
      if (before !== undefined) this.#redisLeaving.push(before)
      this.#redisKeys.set(name, key)
      const onChange = (up: boolean, reason: string) =>
        this.logger.warn(up ? 'redis is back' : 'redis is down', { redis: name, reason })
      this.#redis.set(name, openRedis(name, settings, { onChange }))
    }
  }

  #configureCache(config: Config): void {
    if (config.cache === undefined) return
    if (this.cache === undefined) {
      const { thread, threads } = this.info
      this.cache = createCache(config.cache)
      if (threads > 1) this.cache.siblings = new Siblings(this.cache, thread, threads)
    } else this.cache.configure(config.cache)
    const door = config.cache.redis === undefined ? undefined : this.#redis.get(config.cache.redis)
    if (door === this.#cacheDoor) return
    this.#cacheDoor = door
    this.cache.second?.close()
    this.cache.setSecondLevel(door === undefined ? undefined : createRedisLevel(door))
  }

  /** Takes answers out of this thread's cache, and of Redis, which tells the fleet; or also of the other threads' caches. */
  async purge(request: PurgeRequest, reach: 'thread' | 'fleet' | 'all'): Promise<number> {
    const { cache } = this
    if (cache === undefined) return 0
    if (reach === 'thread') return cache.purge(request)
    const { purged, told } = await (reach === 'all' ? cache.purgeAll(request) : cache.purgeFleet(request))
    if (!told) this.logger.warn('a purge did not reach Redis, nor the other gateways: purge again', { ...request })
    return purged
  }

  #writerOptions(file: string | undefined) {
    return { ...(file !== undefined && { file }), turn: this.memory.logTurn, id: this.info.thread + 1 }
  }

  #createLogger(config: Config): Logger {
    const fields = this.info.threads > 1 ? { thread: this.info.thread } : {}
    return createLogger({ level: config.logging.level, write: (line) => this.#log.write(line), fields })
  }

  #configureAccessLog(config: Config): void {
    const { access } = config.logging
    const key = JSON.stringify(access.file ?? '')
    if (key !== this.#accessKey || this.#accessWriter === undefined) {
      const before = this.#accessWriter
      this.#accessKey = key
      this.#accessWriter = new LineWriter({
        ...this.#writerOptions(access.file),
        onWritten: (lines) => this.metrics.add(SCALAR.accessLogLines, lines),
        onDropped: (lines) => this.metrics.add(SCALAR.accessLogDropped, lines),
      })
      void before?.close()
    }
    const writer = this.#accessWriter
    this.accessLog = compileAccessLog(access, (line) => writer.write(line))
  }

  /** One tracer for as long as its settings stay: what it has collected is not lost at a reload. */
  #configureTracer(config: Config): void {
    const { otlp } = config.tracing
    const key = JSON.stringify(otlp ?? '')
    if (key === this.#tracerKey) return
    this.#tracerKey = key
    void this.tracer?.close()
    this.tracer = otlp && createTracer(otlp, { metrics: this.metrics, logger: this.logger })
  }

  #configureScopes(config: Config): void {
    const { admission } = config
    const limitsOf = (of: typeof admission | NonNullable<RouteConfig['admission']>) =>
      scopeLimits(of, admission, this.memory.tierIds)
    const wanted = new Map([[GLOBAL_SCOPE, limitsOf(admission)]])
    for (const route of config.routes)
      if (route.admission !== undefined) wanted.set(route.name, limitsOf(route.admission))
    const { thread, threads } = this.info
    for (const [name, limits] of wanted) {
      const scope = this.scopes.get(name)
      if (scope === undefined) {
        const places = new Places(this.memory.places.get(name)!, threads, thread)
        this.scopes.set(name, new Scope(name, places, limits, threads))
      } else scope.limits = limits
    }
  }

  #configureUpstreams(config: Config): void {
    for (const [name, settings] of Object.entries(config.upstreams)) {
      const upstream = this.upstreams.get(name)
      if (upstream !== undefined) upstream.configure(settings)
      else {
        const { clock, logger, metrics, info } = this
        const timeouts = () => this.config.server.timeouts
        const deps = {
          clock,
          logger,
          metrics,
          ...info,
          get streamIdleMs() {
            return timeouts().tunnelIdle
          },
          get tunnelLifetimeMs() {
            return timeouts().tunnelLifetime
          },
          baseDir: config.baseDir,
        }
        this.upstreams.set(name, new Upstream(name, settings, deps))
      }
    }
  }

  admissionFigures(): AdmissionFigures {
    return admissionFigures(this.scopes.get(GLOBAL_SCOPE)!.places, this.config.admission, this.memory.tierIds)
  }

  /** What admission of a route is compiled with. */
  admissionDeps(route: RouteConfig): AdmissionDeps {
    const { metrics, memory, info } = this
    const global = this.scopes.get(GLOBAL_SCOPE)!
    const series = new Map<string, number>()
    return {
      scopes: route.admission === undefined ? [global] : [global, this.scopes.get(route.name)!],
      config: this.config.admission,
      tierIds: memory.tierIds,
      routeName: route.name,
      keys: memory.keys === undefined ? undefined : new KeyCounts(memory.keys.memory, info.threads, info.thread),
      hash: new KeyHash(),
      tierRefused: (tier) => {
        let id = series.get(tier)
        if (id === undefined) series.set(tier, (id = metrics.series('fluxor_tier_refusals_total', { tier })))
        metrics.inc(id)
      },
      streams: (change) => metrics.add(SCALAR.streamsCurrent, change),
    }
  }

  #tick(nowMs: number): void {
    this.cache?.tick(nowMs)
    if (nowMs - this.#filesCheckedMs >= FILE_CHECK_MS) {
      this.#filesCheckedMs = nowMs
      if (this.keySets.files().length > 0) this.#checkKeyFiles()
    }
    for (const scope of this.scopes.values()) scope.tick(nowMs)
    for (const scope of this.#leaving) {
      scope.tick(nowMs)
      if (scope.places.ccu === 0) this.#leaving.delete(scope)
    }
    let open = 0
    let idle = 0
    let waiting = 0
    for (const upstream of this.upstreams.values()) {
      const stats = upstream.poolStats()
      open += stats.open
      idle += stats.idle
      waiting += stats.waiting
    }
    this.metrics.set(SCALAR.poolOpen, open)
    this.metrics.set(SCALAR.poolIdle, idle)
    this.metrics.set(SCALAR.poolWaiting, waiting)
    this.#measure()
  }

  /** Figures that their owners count for themselves. */
  #measure(): void {
    const { metrics, cache } = this
    if (cache !== undefined) {
      metrics.set(SCALAR.cacheBytes, cache.store.bytes)
      metrics.set(SCALAR.cacheEntries, cache.store.size)
      this.#total(SCALAR.cacheCoalesced, cache.stats.collapsed)
    }
    const { hits, misses } = this.keySets.tokenStats()
    this.#total(SCALAR.jwtCacheHits, hits)
    this.#total(SCALAR.jwtCacheMisses, misses)
  }

  /** A counter never falls, also when a reload takes a part of the sum away. */
  #total(scalar: number, total: number): void {
    const before = this.#totals.get(scalar) ?? 0
    if (total > before) this.metrics.add(scalar, total - before)
    this.#totals.set(scalar, total)
  }

  #checkKeyFiles(): void {
    const { changed, errors, undo } = this.keySets.reload()
    for (const error of errors) this.logger.error('key file not taken', { error })
    if (!changed) return
    try {
      this.onKeysChanged()
      this.logger.info('keys reloaded')
    } catch (err) {
      undo()
      this.logger.error('key file not taken', { err })
    }
  }

  /** Opens the log files anew, after they were renamed. */
  async reopenLogs(): Promise<void> {
    await this.#log.reopen()
    await this.#accessWriter?.reopen()
  }

  async close(): Promise<void> {
    for (const upstream of this.upstreams.values()) upstream.close()
    for (const door of this.#redis.values()) void door.close()
    this.keySets.close()
    this.cache?.close()
    this.clock.stop()
    this.#probe.close()
    await this.tracer?.close()
    await this.#accessWriter?.close()
    await this.#log.close()
  }
}
