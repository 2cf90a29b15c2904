/**
 * What one thread keeps over reloads, found by stable keys: connections and what is learnt of endpoints, admission counts,
 * metrics, logs. Limits come from the snapshot; counts live here.
 */

import type { Config } from './config/schema.ts'
import { type AccessLog, compileAccessLog } from './observability/access-log.ts'
import { type AdmissionFigures, NO_ADMISSION } from './observability/figures.ts'
import { LineWriter } from './observability/line-writer.ts'
import { createLogger, type Logger } from './observability/logger.ts'
import { Places } from './policies/admission/places.ts'
import { normalCapacity, scopeLimits } from './policies/admission/policy.ts'
import { Scope } from './policies/admission/scope.ts'
import { Clock } from './shared/clock.ts'
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

/** The scope of the whole gateway; routes' scopes carry the route's name. */
export const GLOBAL_SCOPE = ''

export class Services {
  readonly clock = new Clock()
  readonly info: ThreadInfo
  readonly metrics: ThreadMetrics
  logger: Logger
  accessLog: AccessLog | undefined
  readonly upstreams = new Map<string, Upstream>()
  readonly scopes = new Map<string, Scope>()
  config: Config
  memory: SharedMemory
  /** Whether the process takes traffic, and if not, why. The supervisor knows; a worker is told. */
  readiness: () => Readiness = () => ({ ready: true, reason: '' })
  readonly #log: LineWriter
  #accessWriter: LineWriter | undefined
  #accessKey = ''

  constructor(info: ThreadInfo, memory: SharedMemory, config: Config) {
    this.info = info
    this.config = config
    this.memory = memory
    this.metrics = new ThreadMetrics(memory.metrics, info.thread)
    this.#log = new LineWriter(this.#writerOptions(config.logging.file))
    this.logger = this.#createLogger(config)
    this.clock.add({ tick: (nowMs) => this.#tick(nowMs) })
    this.clock.start()
  }

  /** Takes the settings of the next snapshot. Throws before anything has changed, or not at all. */
  configure(config: Config, memory: SharedMemory): void {
    this.config = config
    this.memory = memory
    this.logger = this.#createLogger(config)
    this.#configureAccessLog(config)
    this.#configureScopes(config)
    this.#configureUpstreams(config)
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

  #configureScopes(config: Config): void {
    const wanted = new Map([[GLOBAL_SCOPE, scopeLimits(config.admission)]])
    for (const route of config.routes)
      if (route.admission !== undefined) wanted.set(route.name, scopeLimits(route.admission))
    const { thread, threads } = this.info
    for (const [name, limits] of wanted) {
      const scope = this.scopes.get(name)
      if (scope === undefined) {
        const places = new Places(this.memory.places.get(name)!, threads, thread)
        this.scopes.set(name, new Scope(name, places, limits, threads))
      } else {
        scope.limits = limits
        scope.places.pump(limits.workers)
      }
    }
  }

  #configureUpstreams(config: Config): void {
    for (const [name, settings] of Object.entries(config.upstreams)) {
      const upstream = this.upstreams.get(name)
      if (upstream !== undefined) upstream.configure(settings)
      else {
        const { clock, logger, info } = this
        const streamIdleMs = config.server.timeouts.tunnelIdle
        this.upstreams.set(
          name,
          new Upstream(name, settings, { clock, logger, ...info, streamIdleMs, stickySecret: this.memory.secret }),
        )
      }
    }
    for (const [name, upstream] of this.upstreams) {
      if (config.upstreams[name] !== undefined) continue
      this.upstreams.delete(name)
      upstream.retire()
    }
  }

  admissionFigures(): AdmissionFigures {
    const { maxCCU, workers, maxQueue } = this.scopes.get(GLOBAL_SCOPE)!.limits
    const places = this.scopes.get(GLOBAL_SCOPE)!.places.figures()
    return {
      ...NO_ADMISSION,
      ...places,
      queued: places.waiting,
      maxCCU,
      workers,
      queueCapacity: maxQueue,
      normalCCU: normalCapacity(this.config.admission),
    }
  }

  #tick(nowMs: number): void {
    for (const scope of this.scopes.values()) scope.tick(nowMs)
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
  }

  /** Opens the log files anew, after they were renamed. */
  async reopenLogs(): Promise<void> {
    await this.#log.reopen()
    await this.#accessWriter?.reopen()
  }

  async close(): Promise<void> {
    for (const upstream of this.upstreams.values()) upstream.close()
    this.clock.stop()
    await this.#accessWriter?.close()
    await this.#log.close()
  }
}
