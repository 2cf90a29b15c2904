import { describe, expect, it } from 'vitest'
import { Generator, LONGEST_SLEEP_MS, type Sent, type Transport } from '../../../src/loadtest/generator.ts'
import { createHistogram, merge, percentile } from '../../../src/loadtest/histogram.ts'
import { createRandom } from '../../../src/loadtest/random.ts'
import { createRecording, type Recording, sum } from '../../../src/loadtest/recording.ts'
import { RateSchedule } from '../../../src/loadtest/schedule.ts'
import { parseShape, type Shape } from '../../../src/loadtest/shape.ts'
import { reasonsAgainst, stalledShare } from '../../../src/loadtest/validity.ts'

const LATE_AFTER_MS = 25

interface World {
  /** How long a request takes that is sent at this time. */
  serviceMs?: (nowMs: number) => number
  /** When the loop of the generator stands still, and for how long. */
  standstill?: { atMs: number; forMs: number }
  maxInFlight?: number
  weights?: number[]
}

/** Runs a generator on a virtual clock: time jumps to whatever happens next. */
function simulate(shapeText: string, world: World = {}): { recording: Recording; sent: Sent[] } {
  const { serviceMs = () => 5, standstill, maxInFlight = Number.POSITIVE_INFINITY, weights = [1] } = world
  const shape = parseShape(shapeText) as Shape
  const recording = createRecording(shape.durationMs, weights.length)
  const sent: Sent[] = []
  let answers: { atMs: number; request: Sent }[] = []
  let inFlight = 0
  const transport: Transport = {
    send(request, _user, nowMs) {
      if (inFlight >= maxInFlight) return false
      inFlight++
      sent.push(request)
      answers.push({ atMs: nowMs + serviceMs(nowMs), request })
      return true
    },
  }
  const generator = new Generator(
    {
      schedule: new RateSchedule(shape, { part: 0, parts: 1, random: createRandom(1), even: true }),
      recording,
      weights,
      random: createRandom(7),
      lateAfterMs: LATE_AFTER_MS,
    },
    transport,
  )
  let nowMs = 0
  let stood = false
  for (;;) {
    if (standstill && !stood && nowMs >= standstill.atMs) {
      nowMs += standstill.forMs
      stood = true
    }
    for (const { atMs, request } of answers.filter(({ atMs }) => atMs <= nowMs)) {
      inFlight--
      generator.ended(request, atMs, 200, 'ok')
    }
    answers = answers.filter(({ atMs }) => atMs > nowMs)
    const next = generator.tick(nowMs)
    if (next === Number.POSITIVE_INFINITY && answers.length === 0) return { recording, sent }
    nowMs = Math.max(nowMs, Math.min(next, nowMs + LONGEST_SLEEP_MS, ...answers.map(({ atMs }) => atMs)))
  }
}

function latency(recording: Recording) {
  const all = createHistogram()
  for (const histogram of recording.latency) if (histogram) merge(all, histogram)
  return all
}

const limits = { lateAfterMs: LATE_AFTER_MS, maxLateShare: 0.01, maxConnections: 100 }

describe('generator', () => {
  it('starts everything at its time', () => {
    const { recording, sent } = simulate('100/2s')
    expect(sent).toHaveLength(200)
    expect(sum(recording.started)).toBe(200)
    expect(sum(recording.outcomes.ok)).toBe(200)
    expect(Math.max(...recording.lagMs)).toBeLessThan(1)
    expect(percentile(latency(recording), 100)).toBeCloseTo(5000, -2)
    expect(reasonsAgainst(recording, limits)).toEqual([])
  })

  it('does not wait for a service that stands still: what was due meanwhile counts', () => {
    // The service stops for a second in the middle; everything sent in that second is answered at its end.
    const stall = (nowMs: number) => (nowMs >= 2000 && nowMs < 3000 ? 3000 - nowMs + 5 : 5)
    const { recording, sent } = simulate('100/5s', { serviceMs: stall })
    expect(sent).toHaveLength(500)
    const all = latency(recording)
    // A fifth of all requests met the stall: a closed loop would have sent one, and told of one.
    expect(percentile(all, 79) / 1000).toBeCloseTo(5, 0)
    expect(percentile(all, 90) / 1000).toBeGreaterThan(400)
    expect(percentile(all, 99.9) / 1000).toBeGreaterThan(950)
    expect(reasonsAgainst(recording, limits)).toEqual([])
  })

  it('shows a stall in the interval in which it was suffered', () => {
    const { recording } = simulate('100/5s', { serviceMs: (nowMs) => (nowMs >= 2000 && nowMs < 2100 ? 2500 : 5) })
    const slow = recording.latency.map((histogram, i) => ({
      at: (i * recording.intervalMs) / 1000,
      max: histogram?.maxUs ?? 0,
    }))
    expect(slow.filter(({ max }) => max > 1_000_000).map(({ at }) => at)).toEqual([2])
  })

  it('counts latency from the due time when the generator itself was late, and says so', () => {
    const { recording } = simulate('100/5s', { standstill: { atMs: 1000, forMs: 500 } })
    expect(sum(recording.started)).toBe(500)
    expect(recording.late).toBeGreaterThan(45)
    expect(recording.late).toBeLessThan(50)
    expect(recording.stalledMs).toBeGreaterThanOrEqual(500)
    expect(percentile(latency(recording), 100) / 1000).toBeGreaterThan(490)
    const reasons = reasonsAgainst(recording, limits)
    expect(reasons).toHaveLength(2)
    expect(reasons[0]).toMatch(/the generator fell behind: 9\.\d % of the starts were more than 25 ms late/)
    expect(reasons[1]).toMatch(/stood still for 10\.\d %/)
  })

  it('counts what it never started', () => {
    const { recording, sent } = simulate('100/2s', { standstill: { atMs: 1000, forMs: 5000 } })
    expect(sent.length + recording.missed).toBe(200)
    expect(recording.missed).toBeGreaterThan(90)
    expect(reasonsAgainst(recording, limits).join()).toMatch(/fell behind/)
  })

  it('stands still for the whole of the run at most, however late it ends', () => {
    const { recording } = simulate('100/2s', { standstill: { atMs: 10, forMs: 9000 } })
    expect(stalledShare(recording)).toBeLessThanOrEqual(1)
    expect(stalledShare(recording)).toBeGreaterThan(0.9)
  })

  it('forgives a tick, not a pause', () => {
    const { recording } = simulate('1000/1s', { standstill: { atMs: 500, forMs: 2 } })
    expect(recording.late).toBe(0)
    expect(recording.stalledMs).toBe(0)
    expect(reasonsAgainst(recording, limits)).toEqual([])
  })

  it('says when all connections were busy', () => {
    const { recording } = simulate('100/2s', { serviceMs: () => 1500, maxInFlight: 100 })
    expect(recording.dropped).toBeGreaterThan(0)
    expect(sum(recording.started) + recording.dropped).toBe(200)
    expect(Math.max(...recording.inFlight)).toBe(100)
    expect(reasonsAgainst(recording, limits)).toEqual([expect.stringMatching(/found all 100 connections busy/)])
  })

  it('mixes targets by their weights', () => {
    const { recording } = simulate('1000/2s', { weights: [30, 60, 10] })
    const counts = recording.targets.map(({ outcomes }) => outcomes.ok / 2000)
    expect(counts[0]).toBeCloseTo(0.3, 1)
    expect(counts[1]).toBeCloseTo(0.6, 1)
    expect(counts[2]).toBeCloseTo(0.1, 1)
  })

  it('calls a run without requests none, and a stopped one unfinished', () => {
    expect(reasonsAgainst(simulate('0..0.1/1s').recording, limits)).toEqual([
      expect.stringMatching(/no request at all/),
    ])
    expect(reasonsAgainst(simulate('10/1s').recording, limits, true)).toEqual([
      expect.stringMatching(/stopped before its end/),
    ])
  })
})
