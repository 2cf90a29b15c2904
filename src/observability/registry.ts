/**
 * The Prometheus page. Nothing is counted here: at each scrape the figures are read from the shared counters and from
 * the sources, and handed to prom-client, which knows the text format. This is the only file that touches prom-client,
 * and it loads it at the first scrape.
 */

import { BUCKETS_MS, SCALAR_NAMES, SCALAR_SPECS, SERIES, type SeriesName } from '../shared/metrics.ts'
import type { MetricsReader } from '../shared/metrics-reader.ts'
import { type AdmissionFigures, type GaugeSource, type GaugeValue, NO_ADMISSION, ratio } from './figures.ts'
import { processValues } from './process-figures.ts'

interface Value {
  readonly labels: Readonly<Record<string, string | number>>
  readonly value: number
  /** When it differs from the name of the metric: `…_bucket`. */
  readonly metricName?: string
}

interface Group {
  readonly name: string
  readonly help: string
  readonly type: 'counter' | 'gauge' | 'histogram'
  readonly values: Value[]
}

export interface MetricsOptions {
  readonly reader: MetricsReader
  readonly version: string
  readonly admission?: () => AdmissionFigures
  /** The last reload: whether it was taken, and when one was taken last (milliseconds since 1970). */
  readonly reload?: () => { success: boolean; lastSuccessMs: number }
}

const METRIC_NAME = /^[a-zA-Z_:][a-zA-Z0-9_:]*$/

export class MetricsPage {
  readonly contentType = 'text/plain; version=0.0.4; charset=utf-8'
  readonly #options: MetricsOptions
  readonly #sources = new Set<GaugeSource>()
  #failures = 0

  constructor(options: MetricsOptions) {
    this.#options = options
  }

  /** @returns removes it again */
  addSource(source: GaugeSource): () => void {
    this.#sources.add(source)
    return () => this.#sources.delete(source)
  }

  /** The text of `/metrics`. */
  async render(): Promise<string> {
    const { Registry } = await import('prom-client')
    const registry = new Registry()
    for (const group of this.#groups()) {
      const metric = { name: group.name, get: async () => group }
      // prom-client reads no more of a metric than its name and get(), which its types do not say
      registry.registerMetric(metric as never)
    }
    return registry.metrics()
  }

  #groups(): Iterable<Group> {
    const { reader } = this.#options
    const groups = new Groups()
    addRequests(groups, reader)
    addAdmission(groups, this.#options.admission?.() ?? NO_ADMISSION, reader)
    addCounters(groups, reader)
    const reload = this.#options.reload?.()
    if (reload !== undefined) {
      groups.gauge(
        'config_last_reload_success',
        'Whether the last reload of the config was taken.',
        Number(reload.success),
      )
      groups.gauge(
        'fluxor_config_last_reload_success_timestamp_seconds',
        'When a config was taken last.',
        reload.lastSuccessMs / 1000,
      )
    }
    groups.add('fluxor_build_info', 'Version of the gateway and of Node.', 'gauge', {
      labels: { version: this.#options.version, node: process.versions.node },
      value: 1,
    })
    for (const value of processValues()) groups.addValue(value)
    for (const source of this.#sources) {
      try {
        // Read whole before the first value counts: half of a source would look like the whole
        for (const value of [...source()]) groups.addValue(value)
      } catch {
        this.#failures++
      }
    }
    groups.add(
      'fluxor_metrics_source_failures_total',
      'Parts that could not tell their figures at a scrape.',
      'counter',
      {
        labels: {},
        value: this.#failures,
      },
    )
    return groups.values()
  }
}

/** Metrics by name, in the order of their first value. */
class Groups {
  readonly #byName = new Map<string, Group>()

  values(): Iterable<Group> {
    return this.#byName.values()
  }

  add(name: string, help: string, type: Group['type'], value?: Value): void {
    let group = this.#byName.get(name)
    if (group === undefined) this.#byName.set(name, (group = { name, help, type, values: [] }))
    if (value !== undefined) group.values.push(value)
  }

  gauge(name: string, help: string, value: number): void {
    this.add(name, help, 'gauge', { labels: {}, value })
  }

  addValue({ name, help, type, labels, value }: GaugeValue): void {
    if (METRIC_NAME.test(name) && !Number.isNaN(value)) this.add(name, help, type, { labels, value })
  }
}

const ROUTE_TOTALS = [
  ['fluxor_request_body_bytes_total', 'Bytes of request bodies, by route.', 'requestBytes', 1],
  ['fluxor_response_bytes_total', 'Bytes of answers, by route.', 'responseBytes', 1],
  ['fluxor_queued_requests_total', 'Exchanges that waited for an admission place, by route.', 'queued', 1],
  ['fluxor_queue_wait_seconds_total', 'Time spent waiting for an admission place, by route.', 'queuedMs', 1000],
] as const

function addRequests(groups: Groups, reader: MetricsReader): void {
  const duration = 'http_request_duration_seconds'
  groups.add('http_requests_total', 'Exchanges that have ended, by method, route and status.', 'counter')
  groups.add(duration, 'From the end of the request head to the end of the answer, by route.', 'histogram')
  for (const [name, help] of ROUTE_TOTALS) groups.add(name, help, 'counter')
  for (const route of reader.routes()) {
    for (const { method, status, value } of reader.requests(route.id)) {
      groups.add('http_requests_total', '', 'counter', { labels: { method, route: route.name, status }, value })
    }
    let below = 0
    for (const [i, count] of route.buckets.entries()) {
      below += count
      const le = i < BUCKETS_MS.length ? BUCKETS_MS[i]! / 1000 : '+Inf'
      groups.add(duration, '', 'histogram', {
        metricName: `${duration}_bucket`,
        labels: { route: route.name, le },
        value: below,
      })
    }
    const labels = { route: route.name }
    groups.add(duration, '', 'histogram', { metricName: `${duration}_sum`, labels, value: route.sumMs / 1000 })
    // The sum of the buckets, not the count: a writer may stand between the two, and +Inf must equal the count
    groups.add(duration, '', 'histogram', { metricName: `${duration}_count`, labels, value: below })
    for (const [name, help, figure, divideBy] of ROUTE_TOTALS) {
      groups.add(name, help, 'counter', { labels, value: route[figure] / divideBy })
    }
  }
}

function addAdmission(groups: Groups, a: AdmissionFigures, reader: MetricsReader): void {
  groups.gauge('queue_size', 'Exchanges waiting for an admission place.', a.queued)
  groups.gauge('queue_capacity', 'Waiting places.', a.queueCapacity)
  groups.gauge('current_ccu', 'Exchanges admitted and not finished: in service and queued.', a.ccu)
  groups.gauge('max_ccu', 'Hard cap on concurrent exchanges.', a.maxCCU)
  groups.gauge('normal_ccu', 'Normal capacity.', a.normalCCU)
  groups.gauge('ccu_utilization', 'current_ccu as a share of max_ccu, 0 to 1.', ratio(a.ccu, a.maxCCU))
  groups.gauge(
    'worker_utilization',
    'Exchanges in service as a share of the workers, 0 to 1.',
    ratio(a.inService, a.workers),
  )
  groups.gauge('fluxor_in_service', 'Exchanges in service.', a.inService)
  groups.gauge('fluxor_workers', 'Most exchanges in service at once.', a.workers)
  const total = (name: string, help: string, value: number) => groups.add(name, help, 'counter', { labels: {}, value })
  total('fluxor_admission_admitted_total', 'Exchanges admitted.', a.admitted)
  total('fluxor_admission_completed_total', 'Admitted exchanges whose answer was sent whole.', a.completed)
  total('fluxor_admission_aborted_total', 'Admitted exchanges that ended in any other way.', a.aborted)
  total('fluxor_admission_refused_total', 'Exchanges refused by admission.', reader.refusedByAdmission())
  groups.gauge(
    'fluxor_ccu_ledger_skew',
    'Admitted less completed, aborted and in flight: 0, or places were lost or made up.',
    a.admitted - a.completed - a.aborted - a.ccu,
  )
  for (const tier of a.tiers) {
    const value = (v: number) => ({ labels: { tier: tier.name }, value: v })
    groups.add('fluxor_tier_ccu', 'Concurrent exchanges by tier.', 'gauge', value(tier.ccu))
    groups.add('fluxor_tier_guarantee', 'Guaranteed places by tier.', 'gauge', value(tier.guarantee))
  }
}

function addCounters(groups: Groups, reader: MetricsReader): void {
  groups.gauge('fluxor_threads', 'Threads that carry traffic.', reader.threads)
  for (const [i, spec] of SCALAR_SPECS.entries()) {
    const name = SCALAR_NAMES[i]!
    const { metric, help, type, divideBy = 1, perThread = false, labels = {} } = spec
    if (!perThread) groups.add(metric, help, type, { labels, value: reader.scalar(name) / divideBy })
    else {
      for (let thread = 0; thread < reader.threads; thread++) {
        const value = reader.scalar(name, thread) / divideBy
        groups.add(metric, help, type, { labels: { ...labels, thread: String(thread) }, value })
      }
    }
  }
  for (const name of Object.keys(SERIES) as SeriesName[]) groups.add(name, SERIES[name].help, 'counter')
  for (const { name, labels, value } of reader.series()) {
    groups.add(name, SERIES[name].help, 'counter', { labels, value })
  }
}
