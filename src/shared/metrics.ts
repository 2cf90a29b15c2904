/**
 * The counters of the data path, in shared memory: each thread writes its own slot without atomics, whoever renders
 * metrics sums the slots (metrics-reader.ts). One request costs a handful of additions and no allocation. Memory that no
 * route or status has touched stays untouched.
 *
 * Names become numbers at load time: `routeId()`, `series()`; a request only adds to arrays.
 */

import type { LocalReplyCode } from '../local-reply.ts'
import { ActiveUsers, createActiveUsersMemory } from './active-users.ts'
import { NameTable } from './name-table.ts'

export const METHODS = [
  'GET',
  'HEAD',
  'POST',
  'PUT',
  'DELETE',
  'PATCH',
  'OPTIONS',
  'TRACE',
  'CONNECT',
  '_OTHER',
] as const

/** Index into METHODS; every method that is not registered there is `_OTHER`, so that clients cannot make series. */
export function methodId(method: string): number {
  switch (method) {
    case 'GET':
      return 0
    case 'HEAD':
      return 1
    case 'POST':
      return 2
    case 'PUT':
      return 3
    case 'DELETE':
      return 4
    case 'PATCH':
      return 5
    case 'OPTIONS':
      return 6
    case 'TRACE':
      return 7
    case 'CONNECT':
      return 8
    default:
      return 9
  }
}

const KNOWN_STATUSES = [
  100, 101, 102, 103, 200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 307, 308,
  400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418, 421, 422, 423, 424,
  425, 426, 428, 429, 431, 451, 499, 500, 501, 502, 503, 504, 505, 506, 507, 508, 510, 511, 520, 521, 522, 523, 524,
] // biome-ignore format: a table

/** The label of each status slot: `none` (no answer was begun), the known codes, one bucket a class for the rest. */
export const STATUS_LABELS: readonly string[] = [
  'none',
  ...KNOWN_STATUSES.map(String),
  '1xx',
  '2xx',
  '3xx',
  '4xx',
  '5xx',
]

const STATUS_SLOT = new Uint8Array(600)
for (let status = 100; status < 600; status++) {
  const known = KNOWN_STATUSES.indexOf(status)
  STATUS_SLOT[status] = known >= 0 ? known + 1 : KNOWN_STATUSES.length + Math.floor(status / 100)
}

/** Upper bounds of `http_request_duration_seconds`, in milliseconds; the last bucket, +Inf, is implied. */
export const BUCKETS_MS = [1, 2.5, 5, 10, 25, 50, 75, 100, 250, 500, 750, 1000, 2500, 5000, 7500, 10_000] as const

/** Windows of the log-linear histogram; six of ten seconds are the last minute. */
export const WINDOWS = 6
export const WINDOW_MS = 10_000
/** 32 steps an octave over microseconds: a quantile is at most 3 % off, from 1 µs to 35 minutes. */
export const LOG_BUCKETS = 864
const LONGEST_US = 0x7fffffff

export function logBucket(durationMs: number): number {
  const us = durationMs > 0 ? (durationMs < LONGEST_US / 1000 ? (durationMs * 1000) | 0 : LONGEST_US) : 0
  if (us < 32) return us
  const shift = 26 - Math.clz32(us)
  return shift * 32 + (us >> shift)
}

/** The middle of a bucket, in milliseconds. */
export function logBucketMs(bucket: number): number {
  if (bucket < 64) return (bucket + 0.5) / 1000
  const shift = (bucket >> 5) - 1
  return (((bucket & 31) + 32.5) * 2 ** shift) / 1000
}

interface ScalarSpec {
  readonly metric: string
  readonly help: string
  /** A gauge is what this thread holds now: it is reset when the thread starts anew. */
  readonly type: 'counter' | 'gauge'
  readonly labels?: Readonly<Record<string, string>>
  /** Divides the stored value when it is rendered: 1000 turns milliseconds into seconds. */
  readonly divideBy?: number
  /** Rendered with the label `thread`, instead of the sum. */
  readonly perThread?: boolean
}

const cache = (result: string) =>
  ({
    metric: 'fluxor_cache_requests_total',
    help: 'Requests of cached routes by outcome.',
    type: 'counter',
    labels: { result },
  }) as const

/** Counters and gauges with a place of their own. */
export const SCALARS = {
  connectionsOpen: { metric: 'fluxor_connections', help: 'Client connections open now.', type: 'gauge' },
  connectionsAccepted: { metric: 'fluxor_connections_accepted_total', help: 'Client connections accepted.', type: 'counter' },
  connectionsRefused: { metric: 'fluxor_connections_refused_total', help: 'Client connections refused by the connection limit.', type: 'counter' },
  bytesReceived: { metric: 'fluxor_received_bytes_total', help: 'Bytes of request bodies of exchanges that have ended.', type: 'counter' },
  bytesSent: { metric: 'fluxor_sent_bytes_total', help: 'Bytes of answers of exchanges that have ended.', type: 'counter' },
  poolOpen: { metric: 'fluxor_pool_connections', help: 'Upstream connections open now.', type: 'gauge' },
  poolIdle: { metric: 'fluxor_pool_idle_connections', help: 'Upstream connections waiting to be reused.', type: 'gauge' },
  poolWaiting: { metric: 'fluxor_pool_waiting', help: 'Exchanges waiting for an upstream connection.', type: 'gauge' },
  poolWaited: { metric: 'fluxor_pool_waits_total', help: 'Exchanges that had to wait for an upstream connection.', type: 'counter' },
  poolWaitMs: { metric: 'fluxor_pool_wait_seconds_total', help: 'Time spent waiting for upstream connections.', type: 'counter', divideBy: 1000 },
  poolConnects: { metric: 'fluxor_pool_connects_total', help: 'Upstream connections opened.', type: 'counter' },
  retries: { metric: 'fluxor_retries_total', help: 'Requests sent upstream again.', type: 'counter' },
  retriesOverBudget: { metric: 'fluxor_retries_over_budget_total', help: 'Retries that the retry budget forbade.', type: 'counter' },
  cacheHits: cache('hit'),
  cacheMisses: cache('miss'),
  cacheStale: cache('stale'),
  cacheRevalidated: cache('revalidated'),
  cacheBypass: cache('bypass'),
  cacheCoalesced: { metric: 'fluxor_cache_coalesced_total', help: 'Requests that waited for the same answer instead of asking again.', type: 'counter' },
  cacheBytes: { metric: 'fluxor_cache_bytes', help: 'Bytes held by the memory cache.', type: 'gauge' },
  cacheEntries: { metric: 'fluxor_cache_entries', help: 'Answers held by the memory cache.', type: 'gauge' },
  streamsCurrent: { metric: 'current_streams', help: 'Long streams open now (WebSocket, event streams, promoted HTTP/2 streams).', type: 'gauge' },
  jwtCacheHits: { metric: 'fluxor_jwt_cache_hits_total', help: 'Tokens found verified.', type: 'counter' },
  jwtCacheMisses: { metric: 'fluxor_jwt_cache_misses_total', help: 'Tokens that had to be verified.', type: 'counter' },
  accessLogLines: { metric: 'fluxor_access_log_lines_total', help: 'Access log lines written.', type: 'counter' },
  accessLogDropped: { metric: 'fluxor_access_log_dropped_total', help: 'Access log lines lost because the log was slower than the traffic or broken.', type: 'counter' },
  traceSpans: { metric: 'fluxor_trace_spans_total', help: 'Spans that were exported.', type: 'counter' },
  traceSpansDropped: { metric: 'fluxor_trace_spans_dropped_total', help: 'Spans lost because the collector was slower than the traffic or unreachable.', type: 'counter' },
  metricsOverflow: { metric: 'fluxor_metrics_overflow_total', help: 'Names that found no place in the tables of metrics and share one series.', type: 'counter' },
  loopDelayMs: { metric: 'fluxor_thread_loop_delay_seconds', help: 'Event loop delay of the last second, 99th percentile.', type: 'gauge', divideBy: 1000, perThread: true },
  loopUtilization: { metric: 'fluxor_thread_loop_utilization', help: 'Share of the last second that the event loop was busy, 0 to 1.', type: 'gauge', perThread: true },
  cpuUtilization: { metric: 'fluxor_thread_cpu_utilization', help: 'CPU time of the last second as a share of one core, 0 to 1.', type: 'gauge', perThread: true },
} as const satisfies Record<string, ScalarSpec> // biome-ignore format: a table

export type Scalar = keyof typeof SCALARS
export const SCALAR_NAMES = Object.keys(SCALARS) as Scalar[]
/** The number of each scalar, for `add` and `set`. */
export const SCALAR = Object.fromEntries(SCALAR_NAMES.map((name, i) => [name, i])) as Record<Scalar, number>
export const SCALAR_SPECS: readonly ScalarSpec[] = SCALAR_NAMES.map((name) => SCALARS[name])
const SCALAR_PLACES = 64

const CACHE_SCALAR = new Map<string, number>([
  ['hit', SCALAR.cacheHits],
  ['miss', SCALAR.cacheMisses],
  ['stale', SCALAR.cacheStale],
  ['revalidated', SCALAR.cacheRevalidated],
  ['bypass', SCALAR.cacheBypass],
])

/** Counters whose label values are known when a config is loaded. */
export const SERIES = {
  fluxor_local_replies_total: { labels: ['code', 'reason'], help: 'Answers the gateway wrote itself, by code and reason.' },
  fluxor_rate_limit_decisions_total: { labels: ['rule', 'decision'], help: 'Decisions of rate limits: allowed, limited, or shadow (would have been limited).' },
  fluxor_shadow_refusals_total: { labels: ['policy', 'reason'], help: 'Requests that a policy in shadow mode would have refused.' },
  fluxor_upstream_requests_total: { labels: ['upstream', 'endpoint'], help: 'Requests sent to an endpoint, retries included.' },
  fluxor_upstream_errors_total: { labels: ['upstream', 'kind'], help: 'Failed tries: connect, reset, timeout, bad, tls.' },
  fluxor_tier_refusals_total: { labels: ['tier'], help: 'Refusals by admission, by tier.' },
} as const satisfies Record<string, { labels: readonly string[]; help: string }> // biome-ignore format: a table

export type SeriesName = keyof typeof SERIES
export type SeriesLabels<N extends SeriesName> = Record<(typeof SERIES)[N]['labels'][number], string>
const MAX_LABEL_LENGTH = 80
const REASON = /^[A-Z][A-Z0-9_]{0,39}$/

/** Places of one route in the figures section, after its buckets (the last of which is +Inf). */
export const FIGURE = {
  count: BUCKETS_MS.length + 1,
  sumMs: BUCKETS_MS.length + 2,
  requestBytes: BUCKETS_MS.length + 3,
  responseBytes: BUCKETS_MS.length + 4,
  queuedMs: BUCKETS_MS.length + 5,
  queued: BUCKETS_MS.length + 6,
  serverErrors: BUCKETS_MS.length + 7,
} as const
export const FIGURES = BUCKETS_MS.length + 8

/** Places at the head of a window, before its buckets. */
export const WINDOW = { stamp: 0, count: 1, maxMs: 2, sumMs: 3, buckets: 4 } as const
export const WINDOW_PLACES = WINDOW.buckets + LOG_BUCKETS

/** Requests that no route took. */
export const NO_ROUTE_ID = 0
/** Routes beyond the capacity of the table. */
export const OVERFLOW_ROUTE_ID = 1
const OVERFLOW_SERIES_ID = 0

/** Goes to worker threads as `workerData`; every member can be cloned or shared. */
export interface MetricsMemory {
  readonly threads: number
  readonly routes: number
  readonly series: number
  readonly routeNames: SharedArrayBuffer
  readonly seriesNames: SharedArrayBuffer
  /** One slot a thread. */
  readonly slots: readonly SharedArrayBuffer[]
  /** Distinct users, one buffer a thread (active-users.ts). */
  readonly users: readonly SharedArrayBuffer[]
}

/** Where the sections of a slot begin, in Float64 places. */
export function layoutOf(memory: { routes: number; series: number }) {
  const series = SCALAR_PLACES
  const statuses = series + memory.series
  const windows = statuses + STATUS_LABELS.length
  const figures = windows + WINDOWS * WINDOW_PLACES
  const requests = figures + memory.routes * FIGURES
  const length = requests + memory.routes * METHODS.length * STATUS_LABELS.length
  return { series, statuses, windows, figures, requests, length }
}

export function createMetricsMemory(options: { threads: number; routes?: number; series?: number }): MetricsMemory {
  const { threads, routes = 1024, series = 2048 } = options
  const bytes = layoutOf({ routes, series }).length * 8
  const memory: MetricsMemory = {
    threads,
    routes,
    series,
    routeNames: new SharedArrayBuffer(NameTable.byteLength(routes)),
    seriesNames: new SharedArrayBuffer(NameTable.byteLength(series)),
    slots: Array.from({ length: threads }, () => new SharedArrayBuffer(bytes)),
    users: createActiveUsersMemory(threads),
  }
  const names = new NameTable(memory.routeNames)
  names.id('_none')
  names.id('_overflow')
  new NameTable(memory.seriesNames).id('_overflow')
  return memory
}

/** What one thread counts. Make one a thread, at its start. */
export class ThreadMetrics {
  readonly thread: number
  readonly #scalars: Float64Array
  readonly #series: Float64Array
  readonly #statuses: Float64Array
  readonly #windows: Float64Array
  readonly #figures: Float64Array
  readonly #requests: Float64Array
  readonly #routeNames: NameTable
  readonly #seriesNames: NameTable
  readonly #replies = new Map<LocalReplyCode, Map<string | undefined, number>>()
  readonly #originMs: number
  readonly #users: ActiveUsers
  /** The window that takes durations now, and when it ends on the clock of `nowMs`. */
  #windowAt = 0
  #windowEndsMs = Number.NEGATIVE_INFINITY

  /** @param originMs `performance.timeOrigin` of this thread: the clocks of threads differ, the sum does not */
  constructor(memory: MetricsMemory, thread: number, originMs: number = performance.timeOrigin) {
    const buffer = memory.slots[thread]
    if (buffer === undefined) throw new RangeError(`metrics have ${memory.threads} slots, there is no ${thread}`)
    const at = layoutOf(memory)
    const view = (start: number, end: number) => new Float64Array(buffer, start * 8, end - start)
    this.thread = thread
    this.#scalars = view(0, at.series)
    this.#series = view(at.series, at.statuses)
    this.#statuses = view(at.statuses, at.windows)
    this.#windows = view(at.windows, at.figures)
    this.#figures = view(at.figures, at.requests)
    this.#requests = view(at.requests, at.length)
    this.#routeNames = new NameTable(memory.routeNames)
    this.#seriesNames = new NameTable(memory.seriesNames)
    this.#originMs = originMs
    this.#users = new ActiveUsers(memory.users[thread]!, originMs)
    // A thread that is started again finds the counters of its predecessor, but holds nothing of what it held
    for (const [i, spec] of SCALAR_SPECS.entries()) if (spec.type === 'gauge') this.#scalars[i] = 0
  }

  /** The number of a route for `count`, by its stable name. At load time. */
  routeId(name: string): number {
    const id = this.#routeNames.id(name)
    if (id >= 0) return id
    this.#scalars[SCALAR.metricsOverflow]!++
    return OVERFLOW_ROUTE_ID
  }

  /** The number of a series for `inc`. At load time, or kept: it formats and searches. */
  series<N extends SeriesName>(name: N, labels: SeriesLabels<N>): number {
    const values = SERIES[name].labels.map((label) =>
      String(labels[label as keyof typeof labels] ?? '').slice(0, MAX_LABEL_LENGTH),
    )
    const id = this.#seriesNames.id(JSON.stringify([name, ...values]))
    if (id >= 0) return id
    this.#scalars[SCALAR.metricsOverflow]!++
    return OVERFLOW_SERIES_ID
  }

  /** Adds to a counter or gauge: `add(SCALAR.retries)`. */
  add(scalar: number, amount = 1): void {
    this.#scalars[scalar]! += amount
  }

  /** Sets a gauge of this thread. */
  set(scalar: number, value: number): void {
    this.#scalars[scalar] = value
  }

  /** Counts on a series. */
  inc(series: number, amount = 1): void {
    this.#series[series]! += amount
  }

  /**
   * Counts an answer that the gateway wrote itself. A reason that is not a stable word counts under its code alone.
   */
  localReply(code: LocalReplyCode, reason?: string): void {
    let byReason = this.#replies.get(code)
    if (byReason === undefined) this.#replies.set(code, (byReason = new Map()))
    let id = byReason.get(reason)
    if (id === undefined) {
      const known = reason !== undefined && REASON.test(reason)
      id = this.series('fluxor_local_replies_total', { code, reason: known ? reason : '' })
      if (known || reason === undefined) byReason.set(reason, id)
    }
    this.#series[id]!++
  }

  /** Counts a request of a user: the subject, or the client's address. @param nowMs `performance.now()` of this thread */
  user(user: string, nowMs: number): void {
    this.#users.count(user, nowMs)
  }

  /** Counts what the cache did for an exchange: the exchange's `cacheStatus`. */
  cacheOutcome(status: string): void {
    const scalar = CACHE_SCALAR.get(status)
    if (scalar !== undefined) this.#scalars[scalar]!++
  }

  /**
   * Counts one exchange that has ended. `status`: as sent, 499 when the client left before, 0 when there was none.
   * @param nowMs `performance.now()` of this thread
   */
  count(
    routeId: number,
    methodId: number,
    status: number,
    durationMs: number,
    requestBytes: number,
    responseBytes: number,
    queuedMs: number,
    nowMs: number,
  ): void {
    const slot = status > 0 && status < 600 ? STATUS_SLOT[status]! : 0
    this.#requests[(routeId * METHODS.length + methodId) * STATUS_LABELS.length + slot]!++
    this.#statuses[slot]!++
    this.#scalars[SCALAR.bytesReceived]! += requestBytes
    this.#scalars[SCALAR.bytesSent]! += responseBytes

    const figures = this.#figures
    const at = routeId * FIGURES
    let bucket = 0
    while (bucket < BUCKETS_MS.length && durationMs > BUCKETS_MS[bucket]!) bucket++
    figures[at + bucket]!++
    figures[at + FIGURE.count]!++
    figures[at + FIGURE.sumMs]! += durationMs
    figures[at + FIGURE.requestBytes]! += requestBytes
    figures[at + FIGURE.responseBytes]! += responseBytes
    if (status >= 500) figures[at + FIGURE.serverErrors]!++
    if (queuedMs > 0) {
      figures[at + FIGURE.queuedMs]! += queuedMs
      figures[at + FIGURE.queued]!++
    }

    if (nowMs >= this.#windowEndsMs) this.#turnWindow(nowMs)
    const windows = this.#windows
    const window = this.#windowAt
    windows[window + WINDOW.count]!++
    windows[window + WINDOW.sumMs]! += durationMs
    if (durationMs > windows[window + WINDOW.maxMs]!) windows[window + WINDOW.maxMs] = durationMs
    windows[window + WINDOW.buckets + logBucket(durationMs)]!++
  }

  #turnWindow(nowMs: number): void {
    const stamp = Math.floor((this.#originMs + nowMs) / WINDOW_MS)
    this.#windowEndsMs = (stamp + 1) * WINDOW_MS - this.#originMs
    this.#windowAt = (stamp % WINDOWS) * WINDOW_PLACES
    // A thread started anew within ten seconds goes on with the window it finds
    if (this.#windows[this.#windowAt] === stamp) return
    this.#windows.fill(0, this.#windowAt, this.#windowAt + WINDOW_PLACES)
    this.#windows[this.#windowAt] = stamp
  }
}
