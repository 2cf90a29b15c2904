/**
 * How much a service can take: the highest rate of arrivals at which the objectives still hold (the knee), found by
 * doubling until they fail and halving the gap after that; and what it means for the gateway's cap, by Little's law.
 */

import type { Slo } from './slo.ts'

export interface Step {
  /** Arrivals a second that were offered. */
  readonly rate: number
  readonly passed: boolean
  /** False: the generator could not drive it, so it says nothing of the service. */
  readonly valid: boolean
  /** Why it did not pass, or was not valid. */
  readonly reason: string
  /** Latency of what was served, milliseconds. */
  readonly meanMs: number
  readonly p95Ms: number
  readonly p99Ms: number
  /** Served, per second. */
  readonly rps: number
}

export interface KneeOptions {
  readonly startRate: number
  /** The search ends when the gap between pass and fail is this share of the rate. */
  readonly precision: number
  readonly maxSteps: number
  /** Never offers more. */
  readonly maxRate: number
  /** The user has had enough. */
  stopped?(): boolean
}

export interface Knee {
  /** The highest rate that passed; undefined when none did. */
  readonly best: Step | undefined
  /** The lowest rate that failed; undefined when none did. */
  readonly failed: Step | undefined
  /** The step that the generator could not drive, twice. */
  readonly invalid: Step | undefined
  readonly steps: readonly Step[]
}

const LOWEST_RATE = 1

export async function findKnee(measure: (rate: number) => Promise<Step>, options: KneeOptions): Promise<Knee> {
  const steps: Step[] = []
  let best: Step | undefined
  let failed: Step | undefined
  let rate = Math.min(options.startRate, options.maxRate)
  while (steps.length < options.maxSteps) {
    let step = await measure(rate)
    steps.push(step)
    if (!step.valid && !options.stopped?.()) {
      // Something else may have had the machine for a moment.
      step = await measure(rate)
      steps.push(step)
    }
    if (!step.valid) {
      // Between a pass and a fail that were both measured the knee is known, if less exactly.
      const known = best !== undefined && failed !== undefined && !options.stopped?.()
      return { best, failed, invalid: known ? undefined : step, steps }
    }
    if (step.passed) best = step
    else failed = step
    if (best !== undefined && failed !== undefined) {
      if (failed.rate - best.rate <= options.precision * best.rate) break
      rate = (best.rate + failed.rate) / 2
    } else if (best !== undefined) {
      if (rate >= options.maxRate) break
      rate = Math.min(rate * 2, options.maxRate)
    } else {
      if (rate <= LOWEST_RATE) break
      rate = Math.max(rate / 2, LOWEST_RATE)
    }
    rate = roundRate(rate)
  }
  return { best, failed, invalid: undefined, steps }
}

/** Three digits are more than a measurement is worth. */
function roundRate(rate: number): number {
  return Number(rate.toPrecision(3))
}

export interface Suggestion {
  readonly workers: number
  readonly maxCCU: number
  readonly utilizationPercent: number
  /** Longest useful wait for a place, milliseconds; undefined without an objective for latency. */
  readonly queueTimeoutMs: number | undefined
  readonly arithmetic: readonly string[]
}

/** The share of the cap that is normal capacity when no objective says how long a request may wait. */
const DEFAULT_UTILIZATION_PERCENT = 67

/**
 * Little's law: what is inside = arrivals a second × seconds inside. At the knee, rate × mean time is what the service
 * works on at once: `workers`. Rate × the longest time that the objective allows is what may be inside in all, waiting
 * included, before the last to come is served too late: `maxCCU`.
 */
export function suggestAdmission(knee: Step, slos: readonly Slo[]): Suggestion {
  const seconds = (ms: number) => `${(ms / 1000).toFixed(4).replace(/0+$/, '').replace(/\.$/, '')} s`
  const rate = Number(knee.rps.toPrecision(4))
  const inService = (rate * knee.meanMs) / 1000
  const workers = Math.max(1, Math.ceil(inService))
  const arithmetic = [
    `workers = ${rate}/s × ${seconds(knee.meanMs)} (mean time at the knee) = ${inService.toFixed(1)}, rounded up`,
  ]
  const limit = slos
    .filter(({ unit, metric, operator }) => unit === 'ms' && operator.startsWith('<') && !metric.startsWith('refused.'))
    .sort((a, b) => a.limit - b.limit)[0]
  let maxCCU: number
  if (limit === undefined) {
    maxCCU = Math.ceil((workers * 100) / DEFAULT_UTILIZATION_PERCENT)
    arithmetic.push(
      `maxCCU = ${workers} / ${DEFAULT_UTILIZATION_PERCENT} % (no objective says how long a request may take)`,
    )
  } else {
    const allowed = (rate * limit.limit) / 1000
    maxCCU = Math.max(workers, Math.floor(allowed))
    arithmetic.push(
      `maxCCU = ${rate}/s × ${seconds(limit.limit)} (${limit.text}) = ${allowed.toFixed(1)}, rounded down`,
    )
    if (allowed < workers) arithmetic.push('  less than workers: no room to wait, so maxCCU = workers')
  }
  // The gateway takes the whole part of maxCCU × percent: rounding up keeps normal capacity at workers or above.
  const utilizationPercent = Math.min(100, Math.ceil((workers * 100) / maxCCU))
  arithmetic.push(
    `utilizationPercent = ${workers} / ${maxCCU} = ${((workers * 100) / maxCCU).toFixed(1)} %, rounded up: ` +
      `normal capacity is ${Math.floor((maxCCU * utilizationPercent) / 100)}`,
  )
  const queueTimeoutMs = limit && Math.max(1, Math.floor(limit.limit - knee.meanMs))
  if (limit && queueTimeoutMs !== undefined) {
    arithmetic.push(`queueTimeout = ${limit.limit} ms − ${knee.meanMs.toFixed(1)} ms of service`)
  }
  return { workers, maxCCU, utilizationPercent, queueTimeoutMs, arithmetic }
}

/** The suggestion as a piece of gateway.yaml, its arithmetic above it. */
export function suggestionYaml(knee: Knee, suggestion: Suggestion, slos: readonly Slo[]): string {
  const { best, failed } = knee
  const objectives = slos.map(({ text }) => text).join(', ')
  const lines = [
    `# ${best!.rate} requests a second meet ${objectives}` +
      (failed === undefined ? '; more was not tried.' : `; ${failed.rate} do not: ${failed.reason}.`),
    "# Little's law: inside = arrivals a second × seconds inside.",
    ...suggestion.arithmetic.map((line) => `#   ${line}`),
    'admission:',
    `  maxCCU: ${suggestion.maxCCU}`,
    `  utilizationPercent: ${suggestion.utilizationPercent}`,
    `  workers: ${suggestion.workers}`,
  ]
  if (suggestion.queueTimeoutMs !== undefined) lines.push(`  queueTimeout: ${suggestion.queueTimeoutMs}ms`)
  return `${lines.join('\n')}\n`
}

/** The outcome of a search, as it is reported. */
export interface CapacityResult {
  readonly verdict: 'PASS' | 'FAIL' | 'INVALID'
  readonly reasons: readonly string[]
  readonly startedAt: string
  readonly origin: string
  readonly best: Step | null
  readonly failed: Step | null
  readonly suggestion: Suggestion | null
  readonly yaml: string | null
  readonly steps: readonly Step[]
}

/** PASS: the knee lies between a step that passed and one that did not, both measured. */
export function capacityResult(knee: Knee, slos: readonly Slo[], origin: string, startedAt: Date): CapacityResult {
  const { best, failed, invalid, steps } = knee
  const suggestion = best === undefined ? null : suggestAdmission(best, slos)
  const reasons: string[] = []
  if (invalid !== undefined) {
    reasons.push(`at ${invalid.rate} requests a second the generator could not keep up: ${invalid.reason}`)
    if (best !== undefined && failed === undefined) {
      reasons.push(`the service takes at least ${best.rate} requests a second; where its knee is was not reached`)
    }
  } else if (best === undefined) {
    reasons.push(`even ${failed?.rate ?? 0} requests a second do not meet the objectives: ${failed?.reason ?? ''}`)
  }
  return {
    verdict: invalid !== undefined ? 'INVALID' : best === undefined ? 'FAIL' : 'PASS',
    reasons,
    startedAt: startedAt.toISOString(),
    origin,
    best: best ?? null,
    failed: failed ?? null,
    suggestion,
    yaml: best === undefined || suggestion === null ? null : suggestionYaml(knee, suggestion, slos),
    steps,
  }
}
