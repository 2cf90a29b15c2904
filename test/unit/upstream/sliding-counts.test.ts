import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { SlidingCounts } from '../../../src/upstream/sliding-counts.ts'

describe('counts over a sliding window', () => {
  it('forgets a tenth of the window at a time', () => {
    const counts = new SlidingCounts(2, 10_000)
    counts.advance(999)
    counts.add(0)
    counts.advance(1000)
    counts.add(0)
    counts.add(1)
    counts.advance(9_999)
    expect([counts.sum(0), counts.sum(1)]).toEqual([2, 1])
    counts.advance(10_000)
    expect([counts.sum(0), counts.sum(1)]).toEqual([1, 1])
    counts.advance(11_000)
    expect([counts.sum(0), counts.sum(1)]).toEqual([0, 0])
  })

  it('starts from nothing when it is cleared, at the time where it is', () => {
    const counts = new SlidingCounts(1, 10_000)
    counts.advance(5_000)
    counts.add(0)
    counts.clear()
    expect(counts.sum(0)).toBe(0)
    counts.add(0)
    counts.advance(14_999)
    expect(counts.sum(0)).toBe(1)
    counts.advance(15_000)
    expect(counts.sum(0)).toBe(0)
  })

  it('counts what a list of all events would, of each kind, after pauses of any length and a clock that steps back', () => {
    const event = fc.record({ waitMs: fc.integer({ min: -200, max: 3000 }), kind: fc.nat(2) })
    fc.assert(
      fc.property(fc.array(event), fc.constantFrom(5, 100, 2000, 10_000), (events, windowMs) => {
        const bucketMs = Math.max(1, windowMs / 10)
        const counts = new SlidingCounts(3, windowMs)
        const seen: { bucket: number; kind: number }[] = []
        let nowMs = 0
        let newest = 0
        for (const { waitMs, kind } of events) {
          nowMs = Math.max(0, nowMs + waitMs)
          newest = Math.max(newest, Math.floor(nowMs / bucketMs))
          counts.advance(nowMs)
          counts.add(kind)
          seen.push({ bucket: newest, kind })
          for (let each = 0; each < 3; each++) {
            const expected = seen.filter((one) => one.kind === each && one.bucket > newest - 10).length
            expect(counts.sum(each)).toBe(expected)
          }
        }
      }),
    )
  })
})
