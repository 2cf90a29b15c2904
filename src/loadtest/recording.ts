/**
 * What a run has seen, in columns over time. Plain data: each thread fills its own, the main thread adds them up.
 *
 * Starts, outcomes and latencies stand in the interval in which the request was due, so that a stall shows when it was
 * suffered; answers by status stand in the interval in which they came, so that they show what the service gave out.
 * Answers that come after the end are in the totals, and in no interval.
 */

import { createHistogram, type Histogram, merge, record } from './histogram.ts'

/**
 * `ok`: an expected status. `shed`: 503 with the code BACKPRESSURE, the gateway at its cap. `limited`: 429. Both are
 * refusals, not errors. `failed`: any other status. `broken`: no answer. `timedOut`: none within the time allowed.
 */
export const OUTCOMES = ['ok', 'shed', 'limited', 'failed', 'broken', 'timedOut'] as const
export type Outcome = (typeof OUTCOMES)[number]

/** Classes of answers in the plot of statuses. `shed` is apart from the other 5xx, `429` from the other 4xx. */
export const ANSWERS = ['2xx', '3xx', '4xx', '429', 'shed', '5xx', 'none'] as const
export type AnswerClass = (typeof ANSWERS)[number]

export interface TargetRecord {
  readonly outcomes: Record<Outcome, number>
  readonly latency: Histogram
}

export interface Recording {
  readonly intervalMs: number
  readonly durationMs: number
  readonly intervals: number
  readonly started: Float64Array
  readonly outcomes: Record<Outcome, Float64Array>
  readonly answers: Record<AnswerClass, Float64Array>
  /** Latency of what was served or timed out, from the due time. A quick error must not make the percentiles look better. */
  readonly latency: (Histogram | undefined)[]
  /** Most exchanges under way at once. */
  readonly inFlight: Float64Array
  /** The longest that a start was behind its due time. */
  readonly lagMs: Float64Array
  /** Latency of the refusals: they promise to be immediate. */
  readonly refused: Histogram
  readonly statuses: Map<number, number>
  readonly errors: Map<string, number>
  readonly targets: TargetRecord[]
  /** Starts that were sent, but later than allowed: by the generator's fault alone. */
  late: number
  /** Starts that were due and never sent. */
  missed: number
  /** Starts given up because every connection allowed was busy. */
  dropped: number
  /** How long the generator's own event loop stood still. */
  stalledMs: number
  /** Errors of the generator's machine: out of descriptors or ports. */
  exhausted: number
  /** When the last answer came or was given up, in milliseconds from the beginning. */
  endedMs: number
}

const NICE_INTERVALS_MS = [100, 250, 500, 1000, 2000, 5000, 10_000, 15_000, 30_000, 60_000, 300_000]

/** About a hundred intervals a run, of a length that people count in. */
export function intervalFor(durationMs: number): number {
  const wanted = durationMs / 120
  return NICE_INTERVALS_MS.find((ms) => ms >= wanted) ?? Math.ceil(wanted)
}

export function createRecording(durationMs: number, targets: number, intervalMs = intervalFor(durationMs)): Recording {
  const intervals = Math.max(1, Math.ceil(durationMs / intervalMs - 1e-9))
  const column = () => new Float64Array(intervals)
  return {
    intervalMs,
    durationMs,
    intervals,
    started: column(),
    outcomes: Object.fromEntries(OUTCOMES.map((name) => [name, column()])) as Recording['outcomes'],
    answers: Object.fromEntries(ANSWERS.map((name) => [name, column()])) as Recording['answers'],
    latency: new Array<Histogram | undefined>(intervals).fill(undefined),
    inFlight: column(),
    lagMs: column(),
    refused: createHistogram(),
    statuses: new Map(),
    errors: new Map(),
    targets: Array.from({ length: targets }, () => ({
      outcomes: Object.fromEntries(OUTCOMES.map((name) => [name, 0])) as TargetRecord['outcomes'],
      latency: createHistogram(),
    })),
    late: 0,
    missed: 0,
    dropped: 0,
    stalledMs: 0,
    exhausted: 0,
    endedMs: 0,
  }
}

/** The interval of a time; what comes after the end counts to the last one. */
export const intervalOf = (recording: Recording, ms: number): number =>
  Math.min(recording.intervals - 1, Math.max(0, Math.floor(ms / recording.intervalMs)))

/** One exchange that has ended. `status` is 0 without an answer; `error` names what broke it. */
export interface Ended {
  readonly target: number
  readonly dueMs: number
  readonly endMs: number
  readonly status: number
  readonly outcome: Outcome
  readonly error?: string
}

export function recordEnd(recording: Recording, { target, dueMs, endMs, status, outcome, error }: Ended): void {
  const interval = intervalOf(recording, dueMs)
  const latencyUs = (endMs - dueMs) * 1000
  const ofTarget = recording.targets[target]!
  recording.outcomes[outcome][interval]!++
  ofTarget.outcomes[outcome]++
  if (endMs < recording.durationMs) recording.answers[answerClass(status, outcome)][intervalOf(recording, endMs)]!++
  if (outcome === 'ok' || outcome === 'timedOut') {
    recording.latency[interval] ??= createHistogram()
    record(recording.latency[interval], latencyUs)
    record(ofTarget.latency, latencyUs)
  } else if (outcome === 'shed' || outcome === 'limited') {
    record(recording.refused, latencyUs)
  }
  if (status !== 0) recording.statuses.set(status, (recording.statuses.get(status) ?? 0) + 1)
  if (error !== undefined) recording.errors.set(error, (recording.errors.get(error) ?? 0) + 1)
  if (endMs > recording.endedMs) recording.endedMs = endMs
}

function answerClass(status: number, outcome: Outcome): AnswerClass {
  if (outcome === 'shed') return 'shed'
  if (status === 429) return '429'
  if (status >= 500) return '5xx'
  if (status >= 400) return '4xx'
  if (status >= 300) return '3xx'
  return status >= 200 ? '2xx' : 'none'
}

/** Adds another thread's recording of the same plan. */
export function mergeRecording(into: Recording, from: Recording): void {
  addColumn(into.started, from.started)
  for (const name of OUTCOMES) addColumn(into.outcomes[name], from.outcomes[name])
  for (const name of ANSWERS) addColumn(into.answers[name], from.answers[name])
  addColumn(into.inFlight, from.inFlight)
  for (let i = 0; i < into.intervals; i++) {
    into.lagMs[i] = Math.max(into.lagMs[i]!, from.lagMs[i]!)
    const histogram = from.latency[i]
    if (histogram) merge((into.latency[i] ??= createHistogram()), histogram)
  }
  merge(into.refused, from.refused)
  for (const [status, count] of from.statuses) into.statuses.set(status, (into.statuses.get(status) ?? 0) + count)
  for (const [error, count] of from.errors) into.errors.set(error, (into.errors.get(error) ?? 0) + count)
  into.targets.forEach((target, i) => {
    const other = from.targets[i]!
    for (const name of OUTCOMES) target.outcomes[name] += other.outcomes[name]
    merge(target.latency, other.latency)
  })
  into.late += from.late
  into.missed += from.missed
  into.dropped += from.dropped
  into.exhausted += from.exhausted
  // Threads stand still side by side: the worst one is what the run suffered.
  into.stalledMs = Math.max(into.stalledMs, from.stalledMs)
  into.endedMs = Math.max(into.endedMs, from.endedMs)
}

function addColumn(into: Float64Array, from: Float64Array): void {
  for (let i = 0; i < into.length; i++) into[i]! += from[i]!
}

export const sum = (column: Float64Array): number => column.reduce((total, value) => total + value, 0)
