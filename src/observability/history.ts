/**
 * The last fifteen minutes, a sample a second, for the dashboard and `top`. The supervisor calls `sample` each second;
 * what was counted since the call before becomes rates. Numbers are kept in columns of 32-bit floats (some 200 KiB), what
 * has no history (endpoints, threads, routes) only as it is now.
 */

import {
  BUCKETS_MS,
  FIGURE,
  FIGURES,
  type Scalar,
  type SeriesName,
  WINDOW,
  WINDOW_MS,
  WINDOW_PLACES,
} from '../shared/metrics.ts'
import { type LatencySummary, type MetricsReader, NO_LATENCY, summarise } from '../shared/metrics-reader.ts'
import { type AdmissionFigures, NO_ADMISSION, ratio, type UpstreamFigures } from './figures.ts'

export const HISTORY_SECONDS = 900
/** Refusal reasons, rules and tiers with a column of their own; the rest share `other`. */
const MAX_NAMED_COLUMNS = 64
const ROUTE_SNAPSHOT_MS = 10_000
const ROUTE_SNAPSHOTS = 6
const MAX_ROUTES_SHOWN = 200

export interface TierSample {
  readonly name: string
  readonly ccu: number
  readonly guarantee: number
  /** A second. */
  readonly refused: number
}

export interface ThreadSample {
  readonly thread: number
  readonly connections: number
  readonly loopDelayMs: number
  /** 0 to 1. */
  readonly loopUtilization: number
  readonly cpu: number
}

/** One route over the last minute. */
export interface RouteSample {
  readonly name: string
  readonly rps: number
  readonly meanMs: number
  readonly p95Ms: number
  /** Share of answers of 500 and above, 0 to 1. */
  readonly errorRate: number
  /** Bytes of answers a second. */
  readonly bytesOut: number
  /** Places it holds on average: arrivals times duration (Little's law). What a route costs. */
  readonly cost: number
}

type AdmissionNumbers = 'ccu' | 'maxCCU' | 'normalCCU' | 'inService' | 'workers' | 'queued' | 'queueCapacity'

/** Numbers with a history. Rates are a second; null: there was nothing to measure. */
export interface SampleNumbers extends Pick<AdmissionFigures, AdmissionNumbers> {
  /** Mean wait of the exchanges that left the queue. */
  readonly queueWaitMs: number | null
  readonly streams: number
  readonly connections: number
  readonly rps: number
  readonly status2xx: number
  readonly status3xx: number
  readonly status4xx: number
  readonly status5xx: number
  /** Ended without an answer, or with an interim one. */
  readonly statusNone: number
  readonly p50: number | null
  readonly p95: number | null
  readonly p99: number | null
  readonly max: number | null
  /** Answers the gateway wrote itself, for whatever reason. */
  readonly refused: number
  /** Of these, by admission. */
  readonly shed: number
  readonly limited: number
  /** Of the last whole minute; null before there was one. */
  readonly activeUsers: number | null
  readonly cacheHits: number
  readonly cacheMisses: number
  readonly cacheStale: number
  readonly cacheBypass: number
  readonly cacheBytes: number
  readonly cacheEntries: number
  readonly poolOpen: number
  readonly poolIdle: number
  readonly poolWaiting: number
  readonly retries: number
  readonly bytesIn: number
  readonly bytesOut: number
  /** The worst thread. */
  readonly loopDelayMs: number
  /** Cores. */
  readonly cpu: number
  readonly rssBytes: number
  readonly heapBytes: number
}

/** One second of the gateway. What `/dashboard/events` sends. */
export interface DashboardSample extends SampleNumbers {
  /** Milliseconds since 1970. */
  readonly t: number
  /** `CODE` or `CODE/REASON` → answers the gateway wrote itself, a second. */
  readonly refusals: Readonly<Record<string, number>>
  /** Rule → requests limited (or, in shadow mode, that would have been), a second. */
  readonly limits: Readonly<Record<string, number>>
  readonly tiers: readonly TierSample[]
  readonly upstreams: readonly UpstreamFigures[]
  readonly threads: readonly ThreadSample[]
  /** By cost, the dearest first. */
  readonly routes: readonly RouteSample[]
  readonly uptimeSec: number
  /** `starting`, `ready`, `draining`, `not ready`. */
  readonly readiness: string
}

/** What `/dashboard/history` sends: one array a column, oldest first, and the newest sample whole. */
export interface DashboardHistory {
  readonly version: string
  readonly t: readonly number[]
  readonly numbers: Readonly<Record<string, readonly (number | null)[]>>
  readonly refusals: Readonly<Record<string, readonly (number | null)[]>>
  readonly limits: Readonly<Record<string, readonly (number | null)[]>>
  readonly tiers: Readonly<Record<string, readonly (number | null)[]>>
  readonly latest: DashboardSample | null
}

export interface HistoryOptions {
  readonly reader: MetricsReader
  readonly version: string
  readonly admission?: () => AdmissionFigures
  readonly upstreams?: () => readonly UpstreamFigures[]
  readonly readiness?: () => string
  /** `performance.timeOrigin` of the caller of `sample`. */
  readonly originMs?: number
  /** For tests: CPU time and memory of the process. */
  readonly process?: () => { cpuMs: number; rssBytes: number; heapBytes: number }
}

const COUNTERS = {
  cacheHits: 'cacheHits', cacheRevalidated: 'cacheRevalidated', cacheMisses: 'cacheMisses', cacheStale: 'cacheStale',
  cacheBypass: 'cacheBypass', retries: 'retries', bytesIn: 'bytesReceived', bytesOut: 'bytesSent',
} as const satisfies Record<string, Scalar> // biome-ignore format: a table

export class History {
  readonly #options: HistoryOptions
  readonly #originMs: number
  readonly #startedMs: number
  readonly #columns = new Columns()
  readonly #refusals = new Columns(MAX_NAMED_COLUMNS)
  readonly #limits = new Columns(MAX_NAMED_COLUMNS)
  readonly #tiers = new Columns(MAX_NAMED_COLUMNS)
  readonly #times = new Float64Array(HISTORY_SECONDS)
  readonly #rates = new Rates()
  readonly #latency: LatencyPerSecond
  readonly #routes: RoutesPerMinute
  readonly #listeners = new Set<(sample: DashboardSample) => void>()
  #count = 0
  #latest: DashboardSample | null = null

  /** @param nowMs `performance.now()` at the start of the gateway */
  constructor(options: HistoryOptions, nowMs: number) {
    this.#options = options
    this.#originMs = options.originMs ?? performance.timeOrigin
    this.#startedMs = nowMs
    this.#latency = new LatencyPerSecond(options.reader)
    this.#routes = new RoutesPerMinute(options.reader)
    this.#measure(nowMs) // what was counted before is no rate
  }

  get latest(): DashboardSample | null {
    return this.#latest
  }

  /** Takes the sample of the second that ends at `nowMs`. */
  sample(nowMs: number): DashboardSample {
    const sample = this.#measure(nowMs)
    const at = this.#count++ % HISTORY_SECONDS
    this.#times[at] = sample.t
    for (const name of NUMBERS) this.#columns.set(name, at, sample[name])
    for (const [columns, values] of [[this.#refusals, sample.refusals], [this.#limits, sample.limits]] as const) {
      columns.clear(at, 0)
      for (const name in values) columns.add(name, at, values[name]!)
    } // biome-ignore format: short
    this.#tiers.clear(at, Number.NaN)
    for (const tier of sample.tiers) this.#tiers.set(tier.name, at, tier.ccu)
    this.#latest = sample
    for (const listener of this.#listeners) listener(sample)
    return sample
  }

  /** @returns ends it */
  subscribe(listener: (sample: DashboardSample) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** Everything that is remembered. */
  history(): DashboardHistory {
    const length = Math.min(this.#count, HISTORY_SECONDS)
    const first = this.#count - length
    const order = Array.from({ length }, (_, i) => (first + i) % HISTORY_SECONDS)
    return {
      version: this.#options.version,
      t: order.map((i) => this.#times[i]!),
      numbers: this.#columns.inOrder(order),
      refusals: this.#refusals.inOrder(order),
      limits: this.#limits.inOrder(order),
      tiers: this.#tiers.inOrder(order),
      latest: this.#latest,
    }
  }

  #measure(nowMs: number): DashboardSample {
    const { reader, readiness, upstreams } = this.#options
    const a = this.#options.admission?.() ?? NO_ADMISSION
    const wallMs = this.#originMs + nowMs
    const rates = this.#rates
    rates.begin(wallMs)
    const [none, s1, s2, s3, s4, s5] = reader.statusClasses().map((total, i) => rates.of(`status${i}`, total)) as [number, number, number, number, number, number] // biome-ignore format: short
    const latency = this.#latency.next(wallMs)
    const measured = latency.count > 0
    const { cpuMs, rssBytes, heapBytes } = (this.#options.process ?? ownProcess)()
    const counted = Object.fromEntries(
      Object.entries(COUNTERS).map(([name, scalar]) => [name, rates.of(name, reader.scalar(scalar))]),
    ) as Record<keyof typeof COUNTERS, number>
    const refusals = namedRates(reader, 'fluxor_local_replies_total', rates, ({ code, reason }) => (reason ? `${code}/${reason}` : code!)) // biome-ignore format: short
    const limits = namedRates(reader, 'fluxor_rate_limit_decisions_total', rates, ({ rule, decision }) => (decision === 'allowed' ? undefined : decision === 'shadow' ? `${rule} (shadow)` : rule)) // biome-ignore format: short
    const tierRefusals = namedRates(reader, 'fluxor_tier_refusals_total', rates, ({ tier }) => tier)
    const queue = reader.queueTotals()
    const waits = rates.of('queueWaits', queue.waits)
    const waitMs = rates.of('queueWaitMs', queue.waitMs)
    const minuteEndedMs = Math.floor(wallMs / 60_000) * 60_000
    return {
      t: Math.round(wallMs),
      ccu: a.ccu,
      maxCCU: a.maxCCU,
      normalCCU: a.normalCCU,
      inService: a.inService,
      workers: a.workers,
      queued: a.queued,
      queueCapacity: a.queueCapacity,
      queueWaitMs: waits > 0 ? waitMs / waits : null,
      streams: reader.scalar('streamsCurrent'),
      connections: reader.scalar('connectionsOpen'),
      rps: none + s1 + s2 + s3 + s4 + s5,
      status2xx: s2,
      status3xx: s3,
      status4xx: s4,
      status5xx: s5,
      statusNone: none + s1,
      p50: measured ? latency.p50 : null,
      p95: measured ? latency.p95 : null,
      p99: measured ? latency.p99 : null,
      max: measured ? latency.max : null,
      refused: sum(refusals),
      shed: sum(refusals, 'BACKPRESSURE'),
      limited: sum(limits),
      activeUsers: minuteEndedMs > this.#originMs + this.#startedMs ? reader.users(wallMs).users : null,
      cacheHits: counted.cacheHits + counted.cacheRevalidated,
      cacheMisses: counted.cacheMisses,
      cacheStale: counted.cacheStale,
      cacheBypass: counted.cacheBypass,
      cacheBytes: reader.scalar('cacheBytes'),
      cacheEntries: reader.scalar('cacheEntries'),
      poolOpen: reader.scalar('poolOpen'),
      poolIdle: reader.scalar('poolIdle'),
      poolWaiting: reader.scalar('poolWaiting'),
      retries: counted.retries,
      bytesIn: counted.bytesIn,
      bytesOut: counted.bytesOut,
      loopDelayMs: reader.worst('loopDelayMs'),
      cpu: rates.of('cpu', cpuMs) / 1000,
      rssBytes,
      heapBytes,
      refusals,
      limits,
      tiers: a.tiers.map((tier) => ({ ...tier, refused: tierRefusals[tier.name] ?? 0 })),
      upstreams: upstreams?.() ?? [],
      threads: Array.from({ length: reader.threads }, (_, thread) => ({
        thread,
        connections: reader.scalar('connectionsOpen', thread),
        loopDelayMs: reader.scalar('loopDelayMs', thread),
        loopUtilization: reader.scalar('loopUtilization', thread),
        cpu: reader.scalar('cpuUtilization', thread),
      })),
      routes: this.#routes.next(wallMs),
      uptimeSec: Math.floor((nowMs - this.#startedMs) / 1000),
      readiness: readiness?.() ?? 'ready',
    }
  }
}

const NUMBERS = [
  'ccu', 'maxCCU', 'normalCCU', 'inService', 'workers', 'queued', 'queueCapacity', 'queueWaitMs', 'streams',
  'connections', 'rps', 'status2xx', 'status3xx', 'status4xx', 'status5xx', 'statusNone', 'p50', 'p95', 'p99', 'max',
  'refused', 'shed', 'limited', 'activeUsers', 'cacheHits', 'cacheMisses', 'cacheStale', 'cacheBypass', 'cacheBytes', 'cacheEntries',
  'poolOpen', 'poolIdle', 'poolWaiting', 'retries', 'bytesIn', 'bytesOut', 'loopDelayMs', 'cpu', 'rssBytes', 'heapBytes',
] as const satisfies (keyof SampleNumbers)[] // biome-ignore format: a table

function ownProcess() {
  const cpu = process.cpuUsage()
  const { rss, heapUsed } = process.memoryUsage()
  return { cpuMs: (cpu.user + cpu.system) / 1000, rssBytes: rss, heapBytes: heapUsed }
}

function sum(values: Readonly<Record<string, number>>, prefix = ''): number {
  let total = 0
  for (const name in values) if (name.startsWith(prefix)) total += values[name]!
  return total
}

/** Rates of the labelled counters by a name made of their labels; what did not move is left out. */
function namedRates(
  reader: MetricsReader,
  series: SeriesName,
  rates: Rates,
  nameOf: (labels: Readonly<Record<string, string>>) => string | undefined,
): Record<string, number> {
  const named: Record<string, number> = Object.create(null)
  for (const { labels, value } of reader.series(series)) {
    const name = nameOf(labels)
    if (name === undefined) continue
    const rate = rates.of(`${series} ${name}`, value)
    if (rate > 0) named[name] = rate
  }
  return named
}

/** Totals become rates a second. */
class Rates {
  readonly #previous = new Map<string, number>()
  #atMs = Number.NaN
  #perSecond = 0

  begin(wallMs: number): void {
    const spanMs = wallMs - this.#atMs
    this.#perSecond = spanMs > 0 ? 1000 / spanMs : 0
    this.#atMs = wallMs
  }

  of(name: string, total: number): number {
    const previous = this.#previous.get(name) ?? 0
    this.#previous.set(name, total)
    return Math.max(0, total - previous) * this.#perSecond
  }
}

/** Columns of one float a second by name. Beyond `most` names they share the column `other`. */
class Columns {
  readonly #byName = new Map<string, Float32Array>()
  readonly #most: number

  constructor(most = Number.POSITIVE_INFINITY) {
    this.#most = most
  }

  set(name: string, at: number, value: number | null): void {
    this.#column(name)[at] = value ?? Number.NaN
  }

  add(name: string, at: number, value: number): void {
    this.#column(name)[at]! += value
  }

  clear(at: number, value: number): void {
    for (const column of this.#byName.values()) column[at] = value
  }

  #column(name: string): Float32Array {
    let column = this.#byName.get(name)
    if (column !== undefined) return column
    if (this.#byName.size >= this.#most) return this.#column('other')
    column = new Float32Array(HISTORY_SECONDS)
    this.#byName.set(name, column)
    return column
  }

  /** Columns without a value other than 0 are left out, unless they are all there can be. */
  inOrder(order: readonly number[]): Record<string, (number | null)[]> {
    const columns: Record<string, (number | null)[]> = Object.create(null)
    for (const [name, column] of this.#byName) {
      if (Number.isFinite(this.#most) && !order.some((i) => column[i]! > 0)) continue
      columns[name] = order.map((i) => (Number.isNaN(column[i]!) ? null : Number(column[i]!.toPrecision(6))))
    }
    return columns
  }
}

/** Quantiles of what ended since the call before, from the difference of two looks at the histogram's windows. */
class LatencyPerSecond {
  readonly #reader: MetricsReader
  #stamp = 0
  #seen = new Float64Array(WINDOW_PLACES)

  constructor(reader: MetricsReader) {
    this.#reader = reader
  }

  next(wallMs: number): LatencySummary {
    const stamp = Math.floor(wallMs / WINDOW_MS)
    const fresh = new Float64Array(WINDOW_PLACES)
    // After a pause only the window that was being read and the present one count
    const before = this.#stamp !== stamp && this.#stamp !== 0 && this.#reader.addWindow(fresh, this.#stamp)
    const current = new Float64Array(WINDOW_PLACES)
    const now = this.#reader.addWindow(current, stamp)
    this.#stamp = stamp
    if (!before && !now) {
      this.#seen = current
      return NO_LATENCY
    }
    for (let i = 0; i < WINDOW_PLACES; i++) fresh[i] = Math.max(0, fresh[i]! + current[i]! - this.#seen[i]!)
    fresh[WINDOW.maxMs] = 0
    this.#seen = current
    return summarise(fresh, 1000)
  }
}

/** Routes over the last minute, against looks taken every ten seconds. */
class RoutesPerMinute {
  readonly #reader: MetricsReader
  readonly #looks: { atMs: number; figures: Float64Array }[] = []

  constructor(reader: MetricsReader) {
    this.#reader = reader
  }

  next(wallMs: number): RouteSample[] {
    const figures = this.#look()
    const oldest = this.#looks[0]
    const routes: RouteSample[] = []
    if (oldest !== undefined) {
      for (let id = 0; id * FIGURES < figures.length; id++) {
        const route = this.#route(id, figures, oldest.figures, wallMs - oldest.atMs)
        if (route !== undefined) routes.push(route)
      }
    }
    const newest = this.#looks.at(-1)
    if (newest === undefined || wallMs - newest.atMs >= ROUTE_SNAPSHOT_MS - 500) {
      this.#looks.push({ atMs: wallMs, figures })
      if (this.#looks.length > ROUTE_SNAPSHOTS) this.#looks.shift()
    }
    return routes.sort((a, b) => b.cost - a.cost).slice(0, MAX_ROUTES_SHOWN)
  }

  #look(): Float64Array {
    const count = this.#reader.routeCount
    const all = new Float64Array(count * FIGURES)
    for (let id = 0; id < count; id++) this.#reader.figures(id, all.subarray(id * FIGURES, (id + 1) * FIGURES))
    return all
  }

  #route(id: number, now: Float64Array, then: Float64Array, spanMs: number): RouteSample | undefined {
    const figure = (place: number) => now[id * FIGURES + place]! - (then[id * FIGURES + place] ?? 0)
    const count = figure(FIGURE.count)
    if (count <= 0 || spanMs <= 0) return undefined
    const sumMs = figure(FIGURE.sumMs)
    return {
      name: this.#reader.routeName(id),
      rps: (count * 1000) / spanMs,
      meanMs: sumMs / count,
      p95Ms: bucketQuantile(0.95, count, figure),
      errorRate: ratio(figure(FIGURE.serverErrors), count),
      bytesOut: (figure(FIGURE.responseBytes) * 1000) / spanMs,
      cost: sumMs / spanMs,
    }
  }
}

/** As Prometheus does it: linear inside a bucket, the last bound for what is beyond. */
function bucketQuantile(q: number, count: number, bucket: (i: number) => number): number {
  let rank = q * count
  for (let i = 0; i < BUCKETS_MS.length; i++) {
    const inside = bucket(i)
    if (rank <= inside && inside > 0) {
      const from = i === 0 ? 0 : BUCKETS_MS[i - 1]!
      return from + (BUCKETS_MS[i]! - from) * (rank / inside)
    }
    rank -= inside
  }
  return BUCKETS_MS.at(-1)!
}
