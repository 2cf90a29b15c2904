import { describe, expect, it } from 'vitest'
import {
  capacityResult,
  findKnee,
  type Step,
  suggestAdmission,
  suggestionYaml,
} from '../../../src/loadtest/capacity.ts'
import { parseSlos, type Slo } from '../../../src/loadtest/slo.ts'

const slos = (text: string) => parseSlos(text) as Slo[]
const OPTIONS = { startRate: 50, precision: 0.05, maxSteps: 24, maxRate: 100_000 }

function step(rate: number, capacity: number, more: Partial<Step> = {}): Step {
  const passed = rate <= capacity
  const reason = passed ? '' : 'p95 was 412 ms'
  return {
    rate,
    passed,
    valid: true,
    reason,
    meanMs: 30,
    p95Ms: passed ? 90 : 412,
    p99Ms: 120,
    rps: Math.min(rate, capacity),
    ...more,
  }
}

describe('the search for capacity', () => {
  it.each([37, 50, 240, 1234, 9999, 3.3])('finds a knee at %d requests a second within 5 %%', async (capacity) => {
    const knee = await findKnee(async (rate) => step(rate, capacity), OPTIONS)
    expect(knee.best!.rate).toBeLessThanOrEqual(capacity)
    expect(knee.failed!.rate).toBeGreaterThan(capacity)
    expect(knee.failed!.rate / knee.best!.rate).toBeLessThan(1.06)
    expect(knee.steps.length).toBeLessThan(18)
  })

  it('fails when even one request a second is too much', async () => {
    const knee = await findKnee(async (rate) => step(rate, 0), OPTIONS)
    expect(knee.best).toBeUndefined()
    expect(capacityResult(knee, slos('p95<200ms'), 'http://h', new Date(0))).toMatchObject({
      verdict: 'FAIL',
      reasons: ['even 1 requests a second do not meet the objectives: p95 was 412 ms'],
      yaml: null,
    })
  })

  it('is invalid when the generator gives up before the service does', async () => {
    const knee = await findKnee(async (rate) => step(rate, 1e9, { valid: rate < 1000, reason: 'fell behind' }), OPTIONS)
    const result = capacityResult(knee, slos('p95<200ms'), 'http://h', new Date(0))
    expect(result.verdict).toBe('INVALID')
    expect(result.reasons.join()).toMatch(/at 1600 .* could not keep up: fell behind.*at least 800 requests a second/)
  })

  it('asks twice before it believes that the generator cannot keep up', async () => {
    let first = true
    const knee = await findKnee(async (rate) => {
      const hiccup = rate === 200 && first
      if (rate === 200) first = false
      return step(rate, 300, { valid: !hiccup })
    }, OPTIONS)
    expect(knee.invalid).toBeUndefined()
    expect(knee.best!.rate).toBeGreaterThan(280)
  })
})

describe('the suggestion', () => {
  const knee = step(1000, 1000, { meanMs: 40, rps: 1000 })

  it('follows from Little: rate × time', () => {
    const suggestion = suggestAdmission(knee, slos('p95<200ms,errors<0.1%'))
    // 1000/s × 40 ms in service; 1000/s × 200 ms may be inside before the last is too late.
    expect(suggestion).toMatchObject({ workers: 40, maxCCU: 200, utilizationPercent: 20, queueTimeoutMs: 160 })
  })

  it('keeps normal capacity at workers or above', () => {
    for (const meanMs of [1, 7, 33, 61, 150, 199]) {
      const { workers, maxCCU, utilizationPercent } = suggestAdmission({ ...knee, meanMs }, slos('p95<200ms'))
      expect(Math.floor((maxCCU * utilizationPercent) / 100)).toBeGreaterThanOrEqual(workers)
      expect(maxCCU).toBeGreaterThanOrEqual(workers)
    }
  })

  it('takes the default share when no objective says how long a request may take', () => {
    expect(suggestAdmission(knee, slos('errors<1%'))).toMatchObject({ workers: 40, maxCCU: 60, utilizationPercent: 67 })
  })

  it('leaves no room to wait when there is none', () => {
    expect(suggestAdmission({ ...knee, meanMs: 300 }, slos('p99<200ms'))).toMatchObject({
      workers: 300,
      maxCCU: 300,
      utilizationPercent: 100,
    })
  })

  it('is a piece of gateway.yaml with its arithmetic', () => {
    const objectives = slos('p95<200ms')
    const found = { best: knee, failed: step(1050, 1000), invalid: undefined, steps: [] }
    expect(
      suggestionYaml(found, suggestAdmission(knee, objectives), objectives),
    ).toBe(`# 1000 requests a second meet p95<200ms; 1050 do not: p95 was 412 ms.
# Little's law: inside = arrivals a second × seconds inside.
#   workers = 1000/s × 0.04 s (mean time at the knee) = 40.0, rounded up
#   maxCCU = 1000/s × 0.2 s (p95<200ms) = 200.0, rounded down
#   utilizationPercent = 40 / 200 = 20.0 %, rounded up: normal capacity is 40
#   queueTimeout = 200 ms − 40.0 ms of service
admission:
  maxCCU: 200
  utilizationPercent: 20
  workers: 40
  queueTimeout: 160ms
`)
  })
})
