import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { formatDuration, isPreset, PRESETS, parseShape, Shape } from '../../../src/loadtest/shape.ts'

const shape = (text: string) => {
  const read = parseShape(text)
  if (typeof read === 'string') throw new Error(read)
  return read
}

const stages = fc
  .array(fc.record({ to: fc.integer({ min: 0, max: 500 }), durationMs: fc.integer({ min: 1, max: 20_000 }) }), {
    minLength: 1,
    maxLength: 5,
  })
  .map((list) => {
    let from = 10
    return new Shape(
      list.map((stage) => {
        const made = { ...stage, from }
        from = stage.to
        return made
      }),
    )
  })

describe('shape', () => {
  it.each([
    [
      '100..5000/10s, hold 30s',
      [
        [100, 5000, 10_000],
        [5000, 5000, 30_000],
      ],
    ],
    ['..50/1m', [[0, 50, 60_000]]],
    [
      '20/500ms,..0/1s',
      [
        [20, 20, 500],
        [20, 0, 1000],
      ],
    ],
    ['1k..2.5k/10s', [[1000, 2500, 10_000]]],
  ])('reads %s', (text, wanted) => {
    expect(shape(text).stages.map(({ from, to, durationMs }) => [from, to, durationMs])).toEqual(wanted)
  })

  it.each([
    ['', /cannot read the stage/],
    ['100..5000', /cannot read the stage/],
    ['100..5000/ten', /cannot read the time 'ten'/],
    ['hold 30s', /no level to hold/],
    ['100..5000/10s, wait 3s', /cannot read the stage 'wait 3s'/],
    ['0/10s', /never rises above 0/],
  ])('says what is wrong with "%s"', (text, message) => {
    expect(parseShape(text)).toMatch(message)
  })

  it('is written so that it reads back the same', () => {
    for (const text of ['100..5000/10s, hold 30s, ..0/2m', ...Object.values(PRESETS).map((preset) => preset.shape)]) {
      expect(shape(shape(text).toString()).stages).toEqual(shape(text).stages)
    }
  })

  it('has the presets of the load scripts', () => {
    expect(shape(PRESETS.load.shape)).toMatchObject({ peak: 10_000, durationMs: 600_000 })
    expect(shape(PRESETS.load.shape).levelAt(60_000 + 120_000 + 120_000 + 1000)).toBe(10_000)
    expect(shape(PRESETS.spike.shape)).toMatchObject({ peak: 5000, durationMs: 160_000 })
    expect(shape(PRESETS.spike.shape).levelAt(30_000)).toBe(100)
    expect(shape(PRESETS.spike.shape).levelAt(40_000)).toBe(5000)
    expect(shape(PRESETS.stress.shape)).toMatchObject({ peak: 20_000, durationMs: 480_000 })
    expect(isPreset('soak')).toBe(true)
    expect(isPreset('__proto__')).toBe(false)
  })

  it('scales and stretches', () => {
    const small = shape(PRESETS.spike.shape).scaled(0.1).lasting(16_000)
    expect(small.durationMs).toBeCloseTo(16_000)
    expect(small.levelAt(4000)).toBeCloseTo(500)
  })

  it('knows when an area is reached', () => {
    fc.assert(
      fc.property(stages, fc.double({ min: 0, max: 1, noNaN: true }), (made, share) => {
        const area = made.area * share
        const at = made.timeOfArea(area)
        if (area === 0) return
        // The area up to there, added up in small steps, is what was asked for.
        const steps = 20_000
        let sum = 0
        for (let i = 0; i < steps; i++) sum += made.levelAt(((i + 0.5) * at) / steps) * (at / steps / 1000)
        expect(Math.abs(sum - area)).toBeLessThan(0.002 * made.area + 0.5)
      }),
      { numRuns: 40 },
    )
    expect(shape('10/1s').timeOfArea(10.1)).toBe(Number.POSITIVE_INFINITY)
    const rounded = shape('10..245/14.724s, ..83/13.599s')
    expect(rounded.timeOfArea(rounded.area)).toBeLessThanOrEqual(rounded.durationMs)
  })

  it('knows when it is above a level', () => {
    expect(shape('0..100/10s, hold 5s, ..0/10s').spansAbove(50)).toEqual([{ fromMs: 5000, toMs: 20_000 }])
    expect(shape('0..10/1s, ..0/1s, ..10/1s, ..0/1s').spansAbove(5)).toEqual([
      { fromMs: 500, toMs: 1500 },
      { fromMs: 2500, toMs: 3500 },
    ])
    expect(shape('10/1s').spansAbove(10)).toEqual([])
  })

  it('writes durations in their largest unit', () => {
    expect([500, 1500, 60_000, 90_000, 3_600_000].map(formatDuration)).toEqual(['500ms', '1.5s', '1m', '90s', '1h'])
  })
})
