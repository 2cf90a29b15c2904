/**
 * The figures of a run, as the summary, the JSON, JUnit and HTML show them: one object, computed once.
 * Latencies in milliseconds, shares 0…1, times from the beginning of the run.
 */

import { createHistogram, type Histogram, mean, merge, percentile } from './histogram.ts'
import { describeLoad, type LoadPlan } from './load-plan.ts'
import type { ProbeSample } from './probe.ts'
import { ANSWERS, type AnswerClass, OUTCOMES, type Outcome, type Recording, sum } from './recording.ts'
import { formatSlo, formatValue, judge, type Measure, type Slo } from './slo.ts'
import { reasonsAgainst, stalledShare } from './validity.ts'

export type Verdict = 'PASS' | 'FAIL' | 'INVALID'

export interface Latency {
  readonly count: number
  readonly mean: number
  readonly min: number
  readonly p50: number
  readonly p75: number
  readonly p90: number
  readonly p95: number
  readonly p99: number
  readonly p999: number
  readonly max: number
}

export interface SeriesPoint {
  readonly atSec: number
  /** Users, or arrivals a second, asked for in the middle of the interval. */
  readonly level: number
  /** Requests due, per second. */
  readonly startedPerSec: number
  /** Answers that came, per second, by class. */
  readonly answersPerSec: Record<AnswerClass, number>
  readonly p50: number | null
  readonly p95: number | null
  readonly p99: number | null
  readonly max: number | null
  readonly inFlight: number
  readonly lagMs: number
}

export interface LoadResult {
  readonly name: string
  readonly verdict: Verdict
  /** Why it is invalid, or which objectives were missed. */
  readonly reasons: readonly string[]
  readonly slos: readonly { text: string; value: number | null; measured: string; passed: boolean }[]
  readonly startedAt: string
  readonly plan: {
    readonly origin: string
    readonly unit: 'users' | 'rate'
    readonly thinkMs: number
    readonly shape: string
    /** Shape, unit and think time in words. */
    readonly load: string
    readonly durationSec: number
    readonly threads: number
    readonly timeoutMs: number
  }
  readonly requests: Record<Outcome, number> & { readonly started: number; readonly answered: number }
  readonly shares: { readonly errors: number; readonly shed: number; readonly limited: number }
  /** Answers that were served, per second of the plan. */
  readonly rps: number
  /** Of what was served or timed out. */
  readonly latencyMs: Latency
  /** Of the refusals, 503 BACKPRESSURE and 429. */
  readonly refusedMs: Latency
  /** Latency by percentile, for the curve of the whole distribution. */
  readonly spectrum: readonly { readonly percent: number; readonly ms: number }[]
  readonly statuses: Record<string, number>
  readonly errors: Record<string, number>
  readonly targets: readonly (Record<Outcome, number> & { readonly name: string; readonly latencyMs: Latency })[]
  readonly generator: {
    readonly lateStarts: number
    readonly missedStarts: number
    readonly droppedStarts: number
    readonly stalledShare: number
    readonly maxLagMs: number
    readonly lateAfterMs: number
  }
  readonly intervalSec: number
  readonly series: readonly SeriesPoint[]
  /** What the gateway said of itself, or the system of it. */
  readonly gateway: readonly ProbeSample[]
  readonly machine: { readonly node: string; readonly cpus: number; readonly platform: string }
}

export interface ResultInput {
  readonly name: string
  readonly plan: LoadPlan
  readonly recording: Recording
  readonly slos: readonly Slo[]
  readonly stopped: boolean
  readonly startedAt: Date
  readonly gateway: readonly ProbeSample[]
  readonly machine: LoadResult['machine']
}

const SPECTRUM = [0, 10, 25, 50, 60, 70, 75, 80, 85, 90, 92.5, 95, 96, 97, 98, 99, 99.5, 99.75, 99.9, 99.95, 99.99, 100]

/** A number that JSON can carry: NaN (nothing measured) becomes null. */
const orNull = (value: number): number | null => (Number.isNaN(value) ? null : value)
const ratio = (part: number, whole: number): number => (whole === 0 ? 0 : part / whole)

export function latencyOf(histogram: Histogram): Latency {
  const at = (percent: number) => percentile(histogram, percent) / 1000
  return {
    count: histogram.count,
    mean: mean(histogram) / 1000,
    min: at(0),
    p50: at(50),
    p75: at(75),
    p90: at(90),
    p95: at(95),
    p99: at(99),
    p999: at(99.9),
    max: at(100),
  }
}

/** Everything that was due from `fromMs` on, in one: a step of a search leaves its warm-up out. */
export function totalsOf(recording: Recording, fromMs = 0) {
  const first = Math.ceil(fromMs / recording.intervalMs)
  const counts = Object.fromEntries(
    OUTCOMES.map((name) => [name, sum(recording.outcomes[name].subarray(first))]),
  ) as Record<Outcome, number>
  const latency = createHistogram()
  for (const histogram of recording.latency.slice(first)) if (histogram) merge(latency, histogram)
  const ended = OUTCOMES.reduce((total, name) => total + counts[name], 0)
  const seconds = (recording.durationMs - first * recording.intervalMs) / 1000
  return {
    counts,
    latency,
    ended,
    errorShare: ratio(counts.failed + counts.broken + counts.timedOut, ended),
    shedShare: ratio(counts.shed, ended),
    limitedShare: ratio(counts.limited, ended),
    rps: ratio(counts.ok, seconds),
  }
}

export type Totals = ReturnType<typeof totalsOf>

/** What the objectives are held against. */
export const measureOf =
  (totals: Totals, refused: Histogram): Measure =>
  (metric) => {
    if (metric === 'errors') return totals.ended === 0 ? Number.NaN : totals.errorShare
    if (metric === 'shed') return totals.shedShare
    if (metric === 'limited') return totals.limitedShare
    if (metric === 'rps') return totals.rps
    const histogram = metric.startsWith('refused.') ? refused : totals.latency
    const name = metric.replace('refused.', '')
    if (name === 'mean') return mean(histogram) / 1000
    return percentile(histogram, name === 'max' ? 100 : Number(name.slice(1))) / 1000
  }

export function resultOf(input: ResultInput): LoadResult {
  const { name, plan, recording, slos, stopped, startedAt, gateway, machine } = input
  const totals = totalsOf(recording)
  const invalid = reasonsAgainst(recording, plan, stopped)
  // Nothing was refused: then an objective on refusals is met.
  const measure = measureOf(totals, recording.refused)
  const verdicts = judge(slos, (metric) =>
    metric.startsWith('refused.') && recording.refused.count === 0 ? 0 : measure(metric),
  )
  const missed = verdicts.filter(({ passed }) => !passed)
  const started = sum(recording.started)
  return {
    name,
    verdict: invalid.length > 0 ? 'INVALID' : missed.length > 0 ? 'FAIL' : 'PASS',
    reasons:
      invalid.length > 0
        ? invalid
        : missed.map(({ slo, value }) => `${formatSlo(slo)} was not met: ${formatValue(slo.unit, value)}`),
    slos: verdicts.map(({ slo, value, passed }) => ({
      text: formatSlo(slo),
      value: orNull(value),
      measured: formatValue(slo.unit, value),
      passed,
    })),
    startedAt: startedAt.toISOString(),
    plan: {
      origin: plan.targets[0]!.request.origin,
      unit: plan.unit,
      thinkMs: plan.thinkMs,
      shape: plan.shape.toString(),
      load: describeLoad(plan),
      durationSec: plan.shape.durationMs / 1000,
      threads: plan.threads,
      timeoutMs: plan.timeoutMs,
    },
    requests: { ...totals.counts, started, answered: totals.ended - totals.counts.broken - totals.counts.timedOut },
    shares: { errors: totals.errorShare, shed: totals.shedShare, limited: totals.limitedShare },
    rps: totals.rps,
    latencyMs: latencyOf(totals.latency),
    refusedMs: latencyOf(recording.refused),
    spectrum:
      totals.latency.count === 0
        ? []
        : SPECTRUM.map((percent) => ({ percent, ms: percentile(totals.latency, percent) / 1000 })),
    statuses: Object.fromEntries([...recording.statuses].sort(([a], [b]) => a - b)),
    errors: Object.fromEntries([...recording.errors].sort(([, a], [, b]) => b - a)),
    targets: recording.targets.map(({ outcomes, latency }, i) => ({
      name: plan.targets[i]!.name,
      ...outcomes,
      latencyMs: latencyOf(latency),
    })),
    generator: {
      lateStarts: recording.late,
      missedStarts: recording.missed,
      droppedStarts: recording.dropped,
      stalledShare: stalledShare(recording),
      maxLagMs: recording.lagMs.reduce((most, lag) => Math.max(most, lag), 0),
      lateAfterMs: plan.lateAfterMs,
    },
    intervalSec: recording.intervalMs / 1000,
    series: seriesOf(plan, recording),
    gateway,
    machine,
  }
}

function seriesOf({ shape }: LoadPlan, recording: Recording): SeriesPoint[] {
  return Array.from({ length: recording.intervals }, (_, i) => {
    const fromMs = i * recording.intervalMs
    const seconds = Math.min(recording.intervalMs, recording.durationMs - fromMs) / 1000
    const histogram = recording.latency[i]
    const at = (percent: number) => (histogram ? percentile(histogram, percent) / 1000 : null)
    return {
      atSec: fromMs / 1000,
      level: shape.levelAt(fromMs + (seconds * 1000) / 2),
      startedPerSec: recording.started[i]! / seconds,
      answersPerSec: Object.fromEntries(ANSWERS.map((name) => [name, recording.answers[name][i]! / seconds])) as Record<
        AnswerClass,
        number
      >,
      p50: at(50),
      p95: at(95),
      p99: at(99),
      max: at(100),
      inFlight: recording.inFlight[i]!,
      lagMs: recording.lagMs[i]!,
    }
  })
}
