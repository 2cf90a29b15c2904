/**
 * Service level objectives as one writes them, `p95<200ms, errors<0.1%`, and the verdict on a run: PASS, or FAIL with
 * the objective that was missed and by how much.
 */

export type SloUnit = 'ms' | 'share' | 'perSecond'

export interface Slo {
  /** As written, without spaces. */
  readonly text: string
  /** `p95`, `p99.9`, `mean`, `max`, `refused.p99`, `errors`, `shed`, `limited`, `rps`. */
  readonly metric: string
  readonly operator: '<' | '<=' | '>' | '>='
  /** Milliseconds, a share 0…1, or requests per second. */
  readonly limit: number
  readonly unit: SloUnit
}

export interface SloVerdict {
  readonly slo: Slo
  /** NaN when the run has nothing to measure it by: then it is not met. */
  readonly value: number
  readonly passed: boolean
}

/** What a run measured, by the name of the metric. Latencies in milliseconds, shares 0…1. */
export type Measure = (metric: string) => number

const CLAUSE = /^([a-z][a-z.]*[\d.]*)(<=|>=|<|>)(\d+(?:\.\d+)?)(us|µs|ms|s|%|\/s)?$/i
const LATENCY = /^(?:refused\.)?(?:p\d{1,2}(?:\.\d+)?|p100|mean|max)$/
const SHARES = ['errors', 'shed', 'limited']
const MS: Record<string, number> = { us: 0.001, µs: 0.001, ms: 1, s: 1000 }
const KNOWN = 'p50 … p99.9, mean, max, refused.p99 (latency of 503 at capacity and 429), errors, shed, limited, rps'

/** Returns a sentence for the user when the text cannot be read. */
export function parseSlos(text: string): Slo[] | string {
  const slos: Slo[] = []
  for (const piece of text.split(/[,;]/)) {
    const clause = piece.replace(/\s+/g, '')
    if (clause === '') continue
    const match = CLAUSE.exec(clause)
    if (!match) return `cannot read the objective '${piece.trim()}': expected such as p95<200ms or errors<0.1%`
    const metric = match[1]!
      .toLowerCase()
      .replace(/^avg$/, 'mean')
      .replace(/^error$/, 'errors')
    const operator = match[2] as Slo['operator']
    const number = Number(match[3])
    const suffix = match[4]?.toLowerCase()
    if (LATENCY.test(metric)) {
      const factor = suffix === undefined ? undefined : MS[suffix]
      if (factor === undefined) return `'${clause}' needs a time with its unit, such as ${metric}${operator}200ms`
      slos.push({ text: clause, metric, operator, limit: number * factor, unit: 'ms' })
    } else if (SHARES.includes(metric)) {
      if (suffix !== undefined && suffix !== '%') return `'${clause}' needs a share, such as ${metric}${operator}0.1%`
      const limit = suffix === '%' ? number / 100 : number
      if (limit > 1) return `'${clause}' asks for more than everything: did you mean ${number}%?`
      slos.push({ text: clause, metric, operator, limit, unit: 'share' })
    } else if (metric === 'rps') {
      if (suffix !== undefined && suffix !== '/s') return `'${clause}' needs a rate, such as rps>1000`
      slos.push({ text: clause, metric, operator, limit: number, unit: 'perSecond' })
    } else {
      return `unknown metric '${match[1]}' in '${clause}'; known are ${KNOWN}`
    }
  }
  return slos.length > 0 ? slos : 'no objective was given: expected such as p95<200ms,errors<0.1%'
}

export function judge(slos: readonly Slo[], measure: Measure): SloVerdict[] {
  return slos.map((slo) => {
    const value = measure(slo.metric)
    return { slo, value, passed: meets(slo, value) }
  })
}

function meets({ operator, limit }: Slo, value: number): boolean {
  switch (operator) {
    case '<':
      return value < limit
    case '<=':
      return value <= limit
    case '>':
      return value > limit
    case '>=':
      return value >= limit
  }
}

/** A value in the unit of its objective, for a person. */
export function formatValue(unit: SloUnit, value: number): string {
  if (Number.isNaN(value)) return 'nothing to measure'
  if (unit === 'ms') return formatMs(value)
  if (unit === 'share') return formatShare(value)
  return `${formatCount(value)}/s`
}

export function formatMs(ms: number): string {
  if (Number.isNaN(ms)) return '–'
  if (ms >= 10_000) return `${(ms / 1000).toFixed(1)} s`
  if (ms >= 1000) return `${(ms / 1000).toFixed(2)} s`
  return `${ms.toFixed(ms >= 100 ? 0 : ms >= 10 ? 1 : 2)} ms`
}

export function formatShare(share: number): string {
  const percent = share * 100
  if (percent === 0) return '0 %'
  if (percent === 100) return '100 %'
  return percent < 0.01 ? '< 0.01 %' : `${percent.toFixed(percent < 1 ? 2 : 1)} %`
}

/** 12 345, with thin grouping; one decimal for small fractions. */
export function formatCount(count: number): string {
  const text = count < 100 && !Number.isInteger(count) ? count.toFixed(1) : String(Math.round(count))
  return text.replace(/\B(?=(\d{3})+(?!\d))/g, ' ')
}

/** `p95 < 200 ms`. */
export function formatSlo({ metric, operator, limit, unit }: Slo): string {
  const limitText =
    unit === 'ms'
      ? `${Number(limit.toFixed(3))} ms`
      : unit === 'share'
        ? `${Number((limit * 100).toFixed(4))} %`
        : `${limit}/s`
  return `${metric} ${operator} ${limitText}`
}
