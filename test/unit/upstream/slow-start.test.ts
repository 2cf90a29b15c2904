import { describe, expect, it } from 'vitest'
import { slowStart, slowStartFactor } from '../../../src/upstream/slow-start.ts'

describe('slow start', () => {
  it('is off at 0', () => {
    expect(slowStart(0)).toBeUndefined()
  })

  it('grows in a line from a tenth to all', () => {
    const ramp = slowStart(10_000)!
    expect([0, 500, 2500, 9999, 10_000, 1e9].map((t) => slowStartFactor(t, ramp))).toEqual([
      0.1, 0.1, 0.25, 0.9999, 1, 1,
    ])
  })

  it('grows faster at first with an aggression above 1', () => {
    expect(slowStartFactor(2500, slowStart(10_000, 2)!)).toBe(0.5)
  })

  it('gives the least share before its beginning', () => {
    expect(slowStartFactor(-5, slowStart(10_000)!)).toBe(0.1)
  })
})
