import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  type FailedTry,
  isReplayable,
  parseRetryAfter,
  parseRetryConditions,
  RetryBudget,
  type RetryConditions,
  type RetryOptions,
  RetryPolicy,
} from '../../../src/upstream/retry.ts'

const ON = parseRetryConditions(['connectError', 'reset', '503']) as RetryConditions
const TRY: FailedTry = {
  method: 'GET',
  retries: 0,
  failure: 'reset',
  status: 0,
  sent: true,
  bodyReplayable: true,
  shed: false,
  retryAfterMs: -1,
}

function next(over: Partial<FailedTry>, options: Partial<RetryOptions> = {}, budget = new RetryBudget(20)): number {
  return new RetryPolicy({ attempts: 2, on: ON, random: () => 0.5, ...options }, budget).next({ ...TRY, ...over }, 0)
}

describe('retry conditions', () => {
  it('takes names, statuses as text and number, and 5xx', () => {
    const on = parseRetryConditions(['timeout', 503, '429', '5xx']) as RetryConditions
    expect([on.connectError, on.reset, on.timeout]).toEqual([false, false, true])
    expect([429, 499, 500, 503, 599].map((s) => on.statuses[s])).toEqual([1, 0, 1, 1, 1])
  })

  it.each(['conectError', '99', '600', '', '50x'])('refuses "%s"', (text) => {
    expect(parseRetryConditions([text])).toContain(`"${text}"`)
  })
})

describe('whether a request may be sent twice', () => {
  it.each([
    ['GET', true, true],
    ['PUT', true, true],
    ['DELETE', true, true],
    ['POST', true, false],
    ['PATCH', true, false],
    ['POST', false, true],
    ['FOO', true, false],
    ['constructor', true, false],
  ])('%s, sent %s: %s', (method, sent, expected) => {
    expect(isReplayable(method, sent)).toBe(expected)
  })
})

describe('retry', () => {
  it('tries another connection at once when nothing was sent, whatever the method', () => {
    expect(next({ method: 'POST', failure: 'connectError', sent: false })).toBe(0)
  })

  it('backs off with jitter when the request was sent, longer each time', () => {
    expect(next({})).toBe(12.5)
    expect(next({ retries: 1 })).toBe(25)
    expect(next({ retries: 8 }, { attempts: 10 })).toBe(125)
  })

  it.each([
    ['a POST that was sent', { method: 'POST' }],
    ['beyond the attempts', { retries: 2 }],
    ['a body that is gone', { bodyReplayable: false }],
    ['a timeout that is not listed', { failure: 'timeout' }],
    ['an invalid answer', { failure: 'bad' }],
    ['a status that is not listed', { failure: null, status: 500 }],
    ['a Retry-After beyond the bound', { failure: null, status: 503, retryAfterMs: 1001 }],
  ] as [string, Partial<FailedTry>][])('does not retry %s', (_, over) => {
    expect(next(over)).toBe(-1)
  })

  it('waits at least as long as Retry-After says', () => {
    expect(next({ failure: null, status: 503, retryAfterMs: 800 })).toBe(1000)
    expect(next({ failure: null, status: 503, retryAfterMs: 800 }, { random: () => 0 })).toBe(800)
  })

  it('tries a shed request at once elsewhere, whatever its method and Retry-After, within attempts and budget', () => {
    const shed = { failure: null, status: 503, shed: true, method: 'POST', retryAfterMs: 60_000 }
    const no503 = { on: parseRetryConditions([]) as RetryConditions }
    expect(next(shed, no503)).toBe(0)
    expect(next({ ...shed, retries: 2 }, no503)).toBe(-1)
    expect(next({ ...shed, bodyReplayable: false }, no503)).toBe(-1)
    expect(next({ ...shed, elsewhere: false }, no503)).toBe(-1)
    expect(next(shed, no503, new RetryBudget(0, 0))).toBe(-1)
  })
})

/** Bursts and pauses of all sizes; each request fails, and wants so many retries. */
const traffic = fc.array(
  fc.record({
    afterMs: fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 50 }), fc.integer({ min: 51, max: 15_000 })),
    burst: fc.oneof(fc.integer({ min: 1, max: 3 }), fc.integer({ min: 4, max: 200 })),
    wants: fc.integer({ min: 0, max: 3 }),
  }),
  { minLength: 1, maxLength: 60 },
)

it('what found no connection is tried once elsewhere, also when the budget is spent; not twice', () => {
  const budget = new RetryBudget(20)
  while (budget.tryRetry(0));
  const unconnected = { failure: 'connectError', sent: false } as const
  expect(next(unconnected, {}, budget)).toBe(0)
  expect(next({ ...unconnected, retries: 1 }, {}, budget)).toBe(-1)
  expect(next({}, {}, budget)).toBe(-1)
})

describe('retry budget', () => {
  it('a quiet upstream has three retries a second', () => {
    const budget = new RetryBudget(20)
    expect([1, 2, 3, 4].map(() => budget.tryRetry(0))).toEqual([true, true, true, false])
    expect(budget.tryRetry(999)).toBe(false)
    expect([1, 2, 3, 4].map(() => budget.tryRetry(1000))).toEqual([true, true, true, false])
    expect(budget.exhausted).toBe(3)
  })

  it('the few that are always had are part of the share under load, not on top of it', () => {
    const budget = new RetryBudget(20)
    let sent = 0
    for (let i = 0; i < 1015; i++) {
      const now = (i * 950) / 1015
      budget.onFirstTry(now)
      sent++
      if (budget.tryRetry(now)) sent++
    }
    expect(sent).toBe(1015 + 203)
  })

  it('from the first request on it never costs more than the share and three for each second begun', () => {
    fc.assert(
      fc.property(traffic, fc.constantFrom(0, 10, 20, 50, 100), fc.constantFrom(1, 2, 4), (gaps, percent, threads) => {
        const floorMs = 1000 * threads
        const budget = new RetryBudget(percent, 3, floorMs)
        /** Sums up to each event. */
        const events: { atMs: number; tries: number; retries: number }[] = []
        let [nowMs, tries, retries] = [12_345.6, 0, 0]
        for (const { afterMs, burst, wants } of gaps) {
          nowMs += afterMs
          for (let i = 0; i < burst; i++) {
            budget.onFirstTry(nowMs)
            tries++
            for (let k = 0; k < wants; k++) if (budget.tryRetry(nowMs)) retries++
            events.push({ atMs: nowMs, tries, retries })
          }
        }
        const share = percent / 100
        const begun = (fromMs: number, toMs: number) => 3 * (Math.floor((toMs - fromMs) / floorMs) + 1)
        for (const end of events) {
          expect(end.retries).toBeLessThanOrEqual(share * end.tries + begun(events[0]!.atMs, end.atMs) + 1e-9)
        }
        // Any other window may besides spend the share of the ten seconds before it.
        const step = Math.ceil(events.length / 40)
        for (let i = step; i < events.length; i += step) {
          const before = events[i - 1]!
          const earlier = events.findLast(({ atMs }) => atMs < events[i]!.atMs - 11_000)?.tries ?? 0
          for (let k = i; k < events.length; k += step) {
            const end = events[k]!
            expect(end.retries - before.retries).toBeLessThanOrEqual(
              share * (end.tries - earlier) + begun(events[i]!.atMs, end.atMs) + 1e-9,
            )
          }
        }
      }),
      { numRuns: 300 },
    )
  })

  it('three a second are had whatever the share and however much was retried before', () => {
    fc.assert(
      fc.property(traffic, (gaps) => {
        const budget = new RetryBudget(20)
        let nowMs = 0
        for (const { afterMs, burst, wants } of gaps) {
          nowMs += afterMs
          for (let i = 0; i < burst; i++) {
            budget.onFirstTry(nowMs)
            for (let k = 0; k < wants; k++) budget.tryRetry(nowMs)
          }
        }
        expect([1, 2, 3].map(() => budget.tryRetry(nowMs + 1000))).toEqual([true, true, true])
      }),
    )
  })

  it('forgets first tries after ten seconds', () => {
    const budget = new RetryBudget(20, 0)
    for (let i = 0; i < 100; i++) budget.onFirstTry(0)
    expect(budget.tryRetry(9_000)).toBe(true)
    expect(budget.tryRetry(10_001)).toBe(false)
  })

  it('allows none at 0 % and 0 a second', () => {
    const budget = new RetryBudget(0, 0)
    budget.onFirstTry(0)
    expect(budget.tryRetry(1)).toBe(false)
  })
})

describe('Retry-After', () => {
  const now = Date.UTC(2026, 0, 1)
  it.each([
    ['120', 120_000],
    ['0', 0],
    ['Thu, 01 Jan 2026 00:00:05 GMT', 5000],
    ['Wed, 31 Dec 2025 00:00:00 GMT', 0],
    ['-1', -1],
    ['1.5', -1],
    ['soon', -1],
    ['', -1],
    ['9999999999', -1],
    [undefined, -1],
  ])('%s', (value, expected) => {
    expect(parseRetryAfter(value, now)).toBe(expected)
  })
})
