/** The three algorithms on a virtual clock: each holds the bound that its comment states. */

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  type Algorithm,
  createDecision,
  createRule,
  GIVE_BACK,
  type LimiterRule,
  PEEK,
  TAKE,
} from '../../../../src/policies/rate-limit/algorithms.ts'

const MINUTE = 60_000

function limiter(rule: LimiterRule) {
  const state = { time: 0, a: 0, b: 0 }
  const out = createDecision()
  const run = (nowMs: number, operation: 0 | 1 | 2 = TAKE, by = rule) => {
    by.step(state, nowMs, by, operation, out)
    return { ...out }
  }
  return { take: run, peek: (nowMs: number) => run(nowMs, PEEK), giveBack: (nowMs: number) => run(nowMs, GIVE_BACK) }
}

/** Most that passed in any half-open window that begins with an allowed request. */
function most(allowedAt: number[], windowMs: number): number {
  let best = 0
  for (let first = 0, last = 0; first < allowedAt.length; first++) {
    while (last < allowedAt.length && allowedAt[last]! < allowedAt[first]! + windowMs) last++
    best = Math.max(best, last - first)
  }
  return best
}

function passed(rule: LimiterRule, arrivals: number[]): number[] {
  const { take } = limiter(rule)
  return arrivals.filter((at) => take(at).allowed)
}

const limits = fc.record({
  limit: fc.integer({ min: 1, max: 40 }),
  burst: fc.integer({ min: 1, max: 40 }),
  windowMs: fc.constantFrom(1, 7, 100, 1000, MINUTE),
})
/** Clumps and pauses: gaps from none to two windows, as shares of a window. */
const gaps = fc.array(
  fc.oneof(
    { weight: 6, arbitrary: fc.constant(0) },
    { weight: 3, arbitrary: fc.double({ min: 0, max: 0.2, noNaN: true }) },
    { weight: 1, arbitrary: fc.double({ min: 0, max: 2, noNaN: true }) },
  ),
  { minLength: 1, maxLength: 300 },
)

function arrivalsOf(shares: number[], windowMs: number, startMs = 1e9 + 0.123): number[] {
  let at = startMs
  return shares.map((share) => (at += share * windowMs))
}

describe('gcra', () => {
  it('lets burst through at once and then one every window / limit', () => {
    const { take } = limiter(createRule('gcra', 1000, MINUTE, 1, 5))
    for (let i = 0; i < 5; i++) expect(take(1000)).toMatchObject({ allowed: true, remaining: 4 - i })
    expect(take(1000)).toMatchObject({ allowed: false, remaining: 0, retryAfterMs: 60 })
    expect(take(1059).allowed).toBe(false)
    expect(take(1060).allowed).toBe(true)
    expect(take(1060).allowed).toBe(false)
  })

  it('passes exactly the limit at once when burst is left out, whatever the rounding of window / limit', () => {
    for (const limit of [1, 3, 7, 1000, 5000, 99_999]) {
      const { take } = limiter(createRule('gcra', limit, MINUTE))
      let n = 0
      while (take(8.64e9 + 1 / 3).allowed) n++
      expect(n).toBe(limit)
    }
  })

  it('does not refill in one go each second, as "1000 per minute" once did', () => {
    const rule = createRule('gcra', 1000, MINUTE)
    const arrivals = Array.from({ length: 120_000 }, (_, i) => 1e6 + i) // 1000 a second for two minutes
    const at = passed(rule, arrivals)
    expect(most(at, MINUTE)).toBeLessThanOrEqual(2000)
    expect(at.length).toBeLessThanOrEqual(1000 + 2000)
    expect(at.length).toBeGreaterThanOrEqual(2999)
  })

  it('holds limit + burst in any window for any arrivals', () => {
    fc.assert(
      fc.property(limits, gaps, ({ limit, burst, windowMs }, shares) => {
        const at = passed(createRule('gcra', limit, windowMs, 1, burst), arrivalsOf(shares, windowMs))
        expect(most(at, windowMs)).toBeLessThanOrEqual(limit + burst)
      }),
    )
  })
})

describe('fixedWindow', () => {
  it('holds the limit in each window, which begins with the first request', () => {
    const { take } = limiter(createRule('fixedWindow', 3, 1000))
    expect([700, 700, 1600, 1650].map((at) => take(at).allowed)).toEqual([true, true, true, false])
    expect(take(1699.9)).toMatchObject({ allowed: false })
    expect(take(1700)).toMatchObject({ allowed: true, remaining: 2, resetMs: 1000 })
  })

  it('holds 2 x limit in any window for any arrivals', () => {
    fc.assert(
      fc.property(limits, gaps, ({ limit, windowMs }, shares) => {
        const at = passed(createRule('fixedWindow', limit, windowMs), arrivalsOf(shares, windowMs))
        expect(most(at, windowMs)).toBeLessThanOrEqual(2 * limit)
      }),
    )
  })
})

describe('slidingWindow', () => {
  it('passes exactly the limit in every window when arrivals are even', () => {
    const rule = createRule('slidingWindow', 1000, MINUTE)
    const arrivals = Array.from({ length: 60_000 }, (_, i) => 6e6 + i * 10) // 6000 a minute for ten minutes
    const at = passed(rule, arrivals)
    expect(at.length).toBeGreaterThan(9900)
    expect(at.length).toBeLessThanOrEqual(10_000 + 1000)
    for (let minute = 0; minute < 10; minute++) {
      const from = 6e6 + minute * MINUTE
      expect(at.filter((t) => t >= from && t < from + MINUTE).length).toBeLessThanOrEqual(1000)
    }
  })

  it('remembers the window before, in proportion', () => {
    const { take } = limiter(createRule('slidingWindow', 10, 1000))
    for (let i = 0; i < 10; i++) expect(take(5900).allowed).toBe(true)
    expect(take(5999).allowed).toBe(false)
    const refused = take(6050) // 10 x 0.95 + 1 > 10
    expect(refused).toMatchObject({ allowed: false, remaining: 0 })
    expect(refused.retryAfterMs).toBeCloseTo(50)
    expect(take(6100)).toMatchObject({ allowed: true, remaining: 0 })
    expect(take(6500)).toMatchObject({ allowed: true, remaining: 3 })
  })

  it('holds less than 2 x limit in any window, and the limit in each aligned one', () => {
    fc.assert(
      fc.property(limits, gaps, ({ limit, windowMs }, shares) => {
        const at = passed(createRule('slidingWindow', limit, windowMs), arrivalsOf(shares, windowMs))
        expect(most(at, windowMs)).toBeLessThanOrEqual(Math.max(1, 2 * limit))
        const aligned = new Map<number, number>()
        for (const t of at) aligned.set(Math.floor(t / windowMs), (aligned.get(Math.floor(t / windowMs)) ?? 0) + 1)
        for (const n of aligned.values()) expect(n).toBeLessThanOrEqual(limit)
      }),
    )
  })
})

describe.each<Algorithm>(['gcra', 'slidingWindow', 'fixedWindow'])('%s', (algorithm) => {
  it('says exactly when the same request may pass: not a moment earlier', () => {
    fc.assert(
      fc.property(limits, gaps, fc.integer({ min: 1, max: 5 }), ({ limit, windowMs }, shares, cost) => {
        const { take, peek } = limiter(createRule(algorithm, limit, windowMs, Math.min(cost, limit)))
        for (const at of arrivalsOf(shares, windowMs)) {
          const { allowed, retryAfterMs } = take(at)
          if (allowed) expect(retryAfterMs).toBe(0)
          else {
            expect(retryAfterMs).toBeGreaterThan(0)
            expect(retryAfterMs).toBeLessThanOrEqual(2 * windowMs)
            expect(peek(at + retryAfterMs + windowMs * 1e-4 + 1e-5).allowed).toBe(true)
            expect(peek(at + retryAfterMs * 0.99 - windowMs * 1e-3).allowed).toBe(false)
          }
        }
      }),
    )
  })

  it('never shows more remaining than it lets through, nor less', () => {
    fc.assert(
      fc.property(limits, gaps, ({ limit, windowMs }, shares) => {
        const { take } = limiter(createRule(algorithm, limit, windowMs))
        const arrivals = arrivalsOf(shares, windowMs)
        let { remaining } = take(arrivals[0]!)
        for (const at of arrivals.slice(1)) remaining = take(at).remaining
        const last = arrivals.at(-1)!
        for (; remaining > 0; remaining--) expect(take(last).allowed).toBe(true)
        expect(take(last).allowed).toBe(false)
      }),
    )
  })

  it('charges what a request costs', () => {
    const { take } = limiter(createRule(algorithm, 10, 1000, 4))
    expect(take(5000)).toMatchObject({ allowed: true, remaining: 6 })
    expect(take(5000)).toMatchObject({ allowed: true, remaining: 2 })
    expect(take(5000)).toMatchObject({ allowed: false, remaining: 2 })
  })

  it('takes nothing for a refused request', () => {
    const { take, peek } = limiter(createRule(algorithm, 2, 1000))
    take(5000)
    take(5000)
    const before = peek(5000)
    for (let i = 0; i < 100; i++) take(5000)
    expect(peek(5000)).toEqual(before)
  })

  it('gives back what was taken', () => {
    const { take, giveBack } = limiter(createRule(algorithm, 2, 1000))
    take(5000)
    take(5000)
    giveBack(5000)
    expect(take(5000).allowed).toBe(true)
    expect(take(5000).allowed).toBe(false)
  })

  it('gives nothing away when more is given back than taken', () => {
    const { take, giveBack } = limiter(createRule(algorithm, 2, 1000))
    giveBack(5000)
    take(5000)
    for (let i = 0; i < 5; i++) giveBack(5000)
    expect([take(5000).allowed, take(5000).allowed, take(5000).allowed]).toEqual([true, true, false])
  })

  it('lets a tier pass its own number on the same counter', () => {
    const base = createRule(algorithm, 2, 1000)
    const premium = createRule(algorithm, 4, 1000)
    const { take } = limiter(base)
    expect(take(5000).allowed).toBe(true)
    expect(take(5000).allowed).toBe(true)
    expect(take(5000).allowed).toBe(false)
    expect(limiterPasses(premium)).toBe(4)
    expect(take(5000, TAKE, createRule(algorithm, 100, 1000)).allowed).toBe(true)
  })

  it('does not block longer than its rule explains when the clock is set back, nor open the gates', () => {
    const { take } = limiter(createRule(algorithm, 3, 1000))
    for (let i = 0; i < 3; i++) expect(take(3_600_000).allowed).toBe(true)
    const back = 7_000
    const refused = take(back)
    expect(refused.allowed).toBe(false)
    expect(refused.retryAfterMs).toBeLessThanOrEqual(2000)
    let n = 0
    for (let at = back; at < back + 3000; at += 10) if (take(at).allowed) n++
    expect(n).toBeGreaterThanOrEqual(3)
    expect(n).toBeLessThanOrEqual(3 * 4)
  })

  it('counts requests of threads that read the clock a moment earlier as if they came now', () => {
    const { take } = limiter(createRule(algorithm, 3, 10_000))
    expect([40_000, 39_999.5, 39_999].map((at) => take(at).allowed)).toEqual([true, true, true])
    expect(take(39_999.9).allowed).toBe(false)
  })
})

function limiterPasses(rule: LimiterRule): number {
  const { take } = limiter(rule)
  let n = 0
  while (take(5000).allowed) n++
  return n
}
