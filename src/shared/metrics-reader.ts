/**
 * The reading side of the counters in shared memory: sums the slots of all threads. Any thread may read at any time; a
 * figure may be one request behind another, never torn (aligned 64-bit places).
 */

import { type MinuteOfUsers, readActiveUsers } from './active-users.ts'
import {
  BUCKETS_MS,
  FIGURE,
  FIGURES,
  LOG_BUCKETS,
  layoutOf,
  logBucketMs,
  METHODS,
  type MetricsMemory,
  SCALAR,
  type Scalar,
  SERIES,
  type SeriesName,
  STATUS_LABELS,
  WINDOW,
  WINDOW_MS,
  WINDOW_PLACES,
  WINDOWS,
} from './metrics.ts'
import { NameTable } from './name-table.ts'

/** What is known of one route since the start. `buckets` are not cumulative; the last is +Inf. */
export interface RouteFigures {
  readonly id: number
  readonly name: string
  count: number
  sumMs: number
  requestBytes: number
  responseBytes: number
  queuedMs: number
  queued: number
  /** Answers of 500 and above, the gateway's own included. */
  serverErrors: number
  readonly buckets: Float64Array
}

/** Durations in milliseconds; all are 0 when nothing was counted. */
export interface LatencySummary {
  readonly count: number
  readonly perSecond: number
  readonly mean: number
  readonly p50: number
  readonly p75: number
  readonly p95: number
  readonly p99: number
  readonly max: number
}

export interface SeriesValue {
  readonly name: SeriesName
  readonly labels: Readonly<Record<string, string>>
  readonly value: number
}

export class MetricsReader {
  readonly threads: number
  readonly #slots: readonly Float64Array[]
  readonly #at: ReturnType<typeof layoutOf>
  readonly #routeNames: NameTable
  readonly #seriesNames: NameTable
  readonly #users: readonly SharedArrayBuffer[]
  readonly #seriesKeys: { name: SeriesName; labels: Record<string, string> }[] = []

  constructor(memory: MetricsMemory) {
    this.threads = memory.threads
    this.#slots = memory.slots.map((buffer) => new Float64Array(buffer))
    this.#at = layoutOf(memory)
    this.#routeNames = new NameTable(memory.routeNames)
    this.#seriesNames = new NameTable(memory.seriesNames)
    this.#users = memory.users
  }

  /** Distinct users and requests of the last whole minute. @param wallMs `performance.timeOrigin + performance.now()` */
  users(wallMs: number): MinuteOfUsers {
    return readActiveUsers(this.#users, wallMs)
  }

  /** Over all threads; with `thread`, of that one. */
  scalar(name: Scalar, thread?: number): number {
    return thread === undefined ? this.#sum(SCALAR[name]) : this.#slots[thread]![SCALAR[name]]!
  }

  /** The largest value of a gauge over the threads. */
  worst(name: Scalar): number {
    let worst = 0
    for (const slot of this.#slots) if (slot[SCALAR[name]]! > worst) worst = slot[SCALAR[name]]!
    return worst
  }

  /** Figures of one route since the start, by its number: buckets, then the places of FIGURE. */
  figures(routeId: number, into = new Float64Array(FIGURES)): Float64Array {
    const at = this.#at.figures + routeId * FIGURES
    for (let i = 0; i < FIGURES; i++) into[i] = this.#sum(at + i)
    return into
  }

  get routeCount(): number {
    return this.#routeNames.size
  }

  routeName(routeId: number): string {
    return this.#routeNames.name(routeId) ?? ''
  }

  /** Every series that was ever registered, also those at 0. */
  *series(only?: SeriesName): Iterable<SeriesValue> {
    const size = this.#seriesNames.size
    for (let id = 1; id < size; id++) {
      const key = this.#seriesKey(id)
      if (key === undefined || (only !== undefined && key.name !== only)) continue
      yield { ...key, value: this.#sum(this.#at.series + id) }
    }
  }

  #seriesKey(id: number) {
    const known = this.#seriesKeys[id]
    if (known !== undefined) return known
    const text = this.#seriesNames.name(id)
    if (text === undefined) return undefined
    const [name, ...values] = JSON.parse(text) as [SeriesName, ...string[]]
    const labels: Record<string, string> = Object.create(null)
    for (const [i, label] of SERIES[name].labels.entries()) labels[label] = values[i] ?? ''
    return (this.#seriesKeys[id] = { name, labels })
  }

  /** Every route that has ended a request. */
  *routes(): Iterable<RouteFigures> {
    const size = this.#routeNames.size
    for (let id = 0; id < size; id++) {
      const at = this.#at.figures + id * FIGURES
      const count = this.#sum(at + FIGURE.count)
      const name = this.#routeNames.name(id)
      if (count === 0 || name === undefined) continue
      const buckets = new Float64Array(BUCKETS_MS.length + 1)
      for (let i = 0; i < buckets.length; i++) buckets[i] = this.#sum(at + i)
      yield {
        id,
        name,
        count,
        sumMs: this.#sum(at + FIGURE.sumMs),
        requestBytes: this.#sum(at + FIGURE.requestBytes),
        responseBytes: this.#sum(at + FIGURE.responseBytes),
        queuedMs: this.#sum(at + FIGURE.queuedMs),
        queued: this.#sum(at + FIGURE.queued),
        serverErrors: this.#sum(at + FIGURE.serverErrors),
        buckets,
      }
    }
  }

  /** Requests of one route by method and status, where there were any. */
  *requests(routeId: number): Iterable<{ method: string; status: string; value: number }> {
    for (let method = 0; method < METHODS.length; method++) {
      const at = this.#at.requests + (routeId * METHODS.length + method) * STATUS_LABELS.length
      for (let slot = 0; slot < STATUS_LABELS.length; slot++) {
        const value = this.#sum(at + slot)
        if (value > 0) yield { method: METHODS[method]!, status: STATUS_LABELS[slot]!, value }
      }
    }
  }

  /** Answers of admission's code since the start. */
  refusedByAdmission(): number {
    let refused = 0
    for (const { labels, value } of this.series('fluxor_local_replies_total')) {
      if (labels['code'] === 'BACKPRESSURE') refused += value
    }
    return refused
  }

  /** Exchanges that waited for an admission place since the start, and how long in all. */
  queueTotals(): { waits: number; waitMs: number } {
    let waits = 0
    let waitMs = 0
    for (let id = 0; id < this.routeCount; id++) {
      const at = this.#at.figures + id * FIGURES
      waits += this.#sum(at + FIGURE.queued)
      waitMs += this.#sum(at + FIGURE.queuedMs)
    }
    return { waits, waitMs }
  }

  /** Requests by status class since the start: none, 1xx … 5xx at index 0 … 5. */
  statusClasses(): number[] {
    const classes = [0, 0, 0, 0, 0, 0]
    for (let slot = 0; slot < STATUS_LABELS.length; slot++) {
      const label = STATUS_LABELS[slot]!
      classes[label === 'none' ? 0 : Number(label[0])]! += this.#sum(this.#at.statuses + slot)
    }
    return classes
  }

  /** The last minute, or since `sinceMs` when that is shorter. @param wallMs `performance.timeOrigin + performance.now()` */
  lastMinute(wallMs: number, sinceMs = 0): LatencySummary {
    const stamp = Math.floor(wallMs / WINDOW_MS)
    const from = Math.max((stamp - WINDOWS + 1) * WINDOW_MS, sinceMs)
    const merged = new Float64Array(WINDOW_PLACES)
    for (let age = 0; age < WINDOWS; age++) this.addWindow(merged, stamp - age)
    return summarise(merged, Math.max(wallMs - from, 1000))
  }

  /** Adds the window with this stamp, of all threads, to `into`; false when none has it: it is gone, or nothing came. */
  addWindow(into: Float64Array, stamp: number): boolean {
    let found = false
    const at = this.#at.windows + (stamp % WINDOWS) * WINDOW_PLACES
    for (const slot of this.#slots) {
      if (slot[at] !== stamp) continue
      found = true
      into[WINDOW.count]! += slot[at + WINDOW.count]!
      into[WINDOW.sumMs]! += slot[at + WINDOW.sumMs]!
      into[WINDOW.maxMs] = Math.max(into[WINDOW.maxMs]!, slot[at + WINDOW.maxMs]!)
      for (let i = WINDOW.buckets; i < WINDOW_PLACES; i++) into[i]! += slot[at + i]!
    }
    return found
  }

  #sum(at: number): number {
    let sum = 0
    for (const slot of this.#slots) sum += slot[at]!
    return sum
  }
}

export const NO_LATENCY: LatencySummary = { count: 0, perSecond: 0, mean: 0, p50: 0, p75: 0, p95: 0, p99: 0, max: 0 }

/** Quantiles of a merged window over `spanMs`. Where no maximum was kept, the highest bucket stands for it. */
export function summarise(window: Float64Array, spanMs: number): LatencySummary {
  // The buckets are summed rather than `count` believed: a writer may stand between the two
  let count = 0
  for (let i = WINDOW.buckets; i < WINDOW_PLACES; i++) count += window[i]!
  if (count === 0) return NO_LATENCY
  const max = window[WINDOW.maxMs]! || highest(window)
  const quantile = (q: number) => {
    const rank = Math.max(1, Math.ceil(q * count))
    let seen = 0
    for (let bucket = 0; bucket < LOG_BUCKETS; bucket++) {
      seen += window[WINDOW.buckets + bucket]!
      if (seen >= rank) return Math.min(logBucketMs(bucket), max)
    }
    return max
  }
  return {
    count,
    perSecond: (count * 1000) / spanMs,
    mean: window[WINDOW.sumMs]! / count,
    p50: quantile(0.5),
    p75: quantile(0.75),
    p95: quantile(0.95),
    p99: quantile(0.99),
    max,
  }
}

function highest(window: Float64Array): number {
  for (let bucket = LOG_BUCKETS - 1; bucket >= 0; bucket--) {
    if (window[WINDOW.buckets + bucket]! > 0) return logBucketMs(bucket)
  }
  return 0
}
