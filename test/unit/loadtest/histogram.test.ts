import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { createHistogram, mean, merge, percentile, record } from '../../../src/loadtest/histogram.ts'

const value = fc.oneof(fc.integer({ min: 0, max: 300 }), fc.integer({ min: 0, max: 2 ** 31 - 1 }))
const exact = (sorted: number[], percent: number) =>
  sorted[Math.max(0, Math.ceil((percent / 100) * sorted.length) - 1)]!

describe('histogram', () => {
  it('tells every percentile within 1 %', () => {
    fc.assert(
      fc.property(
        fc.array(value, { minLength: 1, maxLength: 200 }),
        fc.double({ min: 0, max: 100, noNaN: true }),
        (values, percent) => {
          const histogram = createHistogram()
          for (const us of values) record(histogram, us)
          const wanted = exact(
            values.toSorted((a, b) => a - b),
            percent,
          )
          expect(Math.abs(percentile(histogram, percent) - wanted)).toBeLessThanOrEqual(wanted * 0.01)
        },
      ),
    )
  })

  it('is the same whether recorded in one or added up from several', () => {
    fc.assert(
      fc.property(fc.array(value), fc.array(value), (a, b) => {
        const [one, left, right] = [createHistogram(), createHistogram(), createHistogram()]
        for (const us of [...a, ...b]) record(one, us)
        for (const us of a) record(left, us)
        for (const us of b) record(right, us)
        merge(left, right)
        expect(left).toEqual(one)
      }),
    )
  })

  it('survives the way between threads', () => {
    const histogram = createHistogram()
    for (const us of [5, 5000, 5_000_000]) record(histogram, us)
    expect(percentile(structuredClone(histogram), 100)).toBe(5_000_000)
  })

  it('has exact extremes and mean, and nothing when empty', () => {
    const histogram = createHistogram()
    expect(percentile(histogram, 50)).toBeNaN()
    expect(mean(histogram)).toBeNaN()
    for (const us of [1003, 2005, 999_999]) record(histogram, us)
    expect(percentile(histogram, 100)).toBe(999_999)
    expect(percentile(histogram, 0)).toBeGreaterThanOrEqual(1003)
    expect(mean(histogram)).toBeCloseTo((1003 + 2005 + 999_999) / 3)
  })

  it('counts what is out of range at its edges', () => {
    const histogram = createHistogram()
    for (const us of [-5, Number.MAX_SAFE_INTEGER]) record(histogram, us)
    expect(histogram.count).toBe(2)
    expect(percentile(histogram, 1)).toBe(0)
    expect(percentile(histogram, 100)).toBe(2 ** 31 - 1)
  })
})
