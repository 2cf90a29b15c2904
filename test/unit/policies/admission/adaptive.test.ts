/** The adaptive limit against simulated services: what it does when they slow down, fail, recover, or have nothing to do. */

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { AdaptiveLimit, type AdaptiveWindow } from '../../../../src/policies/admission/adaptive.ts'

const OPTIONS = { min: 10, max: 100, tolerance: 1.5, smoothing: 0.2 }
const WINDOW_MS = 1000

/** A service with so many workers of its own: beyond them requests wait inside it. */
interface Service {
  workers: number
  workMs: number
}

/** One second of `demand` concurrent clients against a service, through the limit. */
function second(limit: AdaptiveLimit, service: Service, demand: number, drops = 0): void {
  const inService = Math.min(limit.limit, demand)
  const meanMs = service.workMs * Math.max(1, inService / service.workers)
  const samples = Math.round((inService * WINDOW_MS) / meanMs)
  limit.onWindow({ samples, meanMs, drops, inService, lengthMs: WINDOW_MS })
}

function seconds(n: number, limit: AdaptiveLimit, service: Service, demand: number, drops = 0): number[] {
  const limits: number[] = []
  for (let i = 0; i < n; i++) {
    second(limit, service, demand, drops)
    limits.push(limit.limit)
  }
  return limits
}

const warm = (limit: AdaptiveLimit, service: Service) => seconds(10, limit, service, 5)

describe('a service that', () => {
  it('takes all that comes: the limit stays at the cap', () => {
    const limit = new AdaptiveLimit(OPTIONS)
    const service = { workers: 200, workMs: 20 }
    warm(limit, service)
    expect(Math.min(...seconds(120, limit, service, 500))).toBe(100)
  })

  it('slows down at once (a step): the limit falls to where answers are near the tolerance, and comes back with it', () => {
    const limit = new AdaptiveLimit(OPTIONS)
    const service = { workers: 200, workMs: 20 }
    warm(limit, service)
    service.workers = 30
    const falling = seconds(60, limit, service, 500)
    expect(falling.at(-1)).toBeGreaterThanOrEqual(30)
    expect(falling.at(-1)).toBeLessThanOrEqual(60)
    service.workers = 200
    expect(seconds(60, limit, service, 500).at(-1)).toBe(100)
  })

  it('has one bad second (a spike): the limit dips by less than a tenth and is back in ten seconds', () => {
    const limit = new AdaptiveLimit(OPTIONS)
    const service = { workers: 200, workMs: 20 }
    warm(limit, service)
    seconds(10, limit, service, 500)
    const [dip] = seconds(1, limit, { workers: 5, workMs: 20 }, 500)
    expect(dip).toBeGreaterThanOrEqual(90)
    expect(seconds(10, limit, service, 500).at(-1)).toBe(100)
  })

  it('becomes slower for good (drift): it is believed in the end, and not before minutes have passed', () => {
    const limit = new AdaptiveLimit(OPTIONS)
    const service = { workers: 200, workMs: 20 }
    warm(limit, service)
    service.workMs = 60
    const limits = seconds(60, limit, service, 500)
    expect(limits.at(-1)).toBe(10)
    expect(limit.baselineMs).toBeLessThan(22)
    seconds(25 * 60, limit, service, 500)
    expect(limit.limit).toBe(100)
  })

  it('fails: each window with failures takes a tenth, whatever the latency says', () => {
    const limit = new AdaptiveLimit(OPTIONS)
    const service = { workers: 200, workMs: 20 }
    warm(limit, service)
    expect(seconds(3, limit, service, 50, 500)).toEqual([90, 81, 73])
  })

  it('has little to do: the limit is not moved, and is there when the crowd comes', () => {
    const limit = new AdaptiveLimit(OPTIONS)
    const service = { workers: 200, workMs: 20 }
    warm(limit, service)
    expect(new Set(seconds(300, limit, service, 3))).toEqual(new Set([100]))
    expect(limit.onWindow({ samples: 9, meanMs: 9e9, drops: 0, inService: 100, lengthMs: 1000 })).toBeUndefined()
    expect(limit.limit).toBe(100)
  })
})

describe('the limit', () => {
  it('never leaves its bounds, whatever the windows say', () => {
    const window: fc.Arbitrary<AdaptiveWindow> = fc.record({
      samples: fc.nat(100_000),
      meanMs: fc.double({ min: 0.001, max: 1e6, noNaN: true }),
      drops: fc.nat(1000),
      inService: fc.double({ min: 0, max: 1e5, noNaN: true }),
      lengthMs: fc.integer({ min: 1, max: 60_000 }),
    })
    fc.assert(
      fc.property(fc.array(window, { maxLength: 50 }), (windows) => {
        const limit = new AdaptiveLimit(OPTIONS)
        for (const each of windows) {
          const before = limit.limit
          const move = limit.onWindow(each)
          expect(limit.limit).toBeGreaterThanOrEqual(10)
          expect(limit.limit).toBeLessThanOrEqual(100)
          expect(move === undefined ? limit.limit : move.from).toBe(before)
        }
      }),
    )
  })

  it('is never pinned: from the least it finds back when the service is well, without ever having been probed', () => {
    const limit = new AdaptiveLimit(OPTIONS, 10)
    const limits = seconds(150, limit, { workers: 200, workMs: 20 }, 500)
    for (let i = 1; i < limits.length; i++) expect(limits[i]).toBeGreaterThanOrEqual(limits[i - 1]!)
    expect(limits.at(-1)).toBe(100)
  })
})
