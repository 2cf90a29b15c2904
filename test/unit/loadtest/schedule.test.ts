import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { createRandom } from '../../../src/loadtest/random.ts'
import { RateSchedule, type Schedule, UserSchedule } from '../../../src/loadtest/schedule.ts'
import { parseShape, type Shape } from '../../../src/loadtest/shape.ts'

const shape = (text: string) => parseShape(text) as Shape
const part = (n = 0, parts = 1, seed = 1) => ({ part: n, parts, random: createRandom(seed) })

function all(schedule: Schedule): { dueMs: number; user: number }[] {
  const starts: { dueMs: number; user: number }[] = []
  while (schedule.nextMs !== Number.POSITIVE_INFINITY) {
    const dueMs = schedule.nextMs
    starts.push({ dueMs, user: schedule.take() })
  }
  return starts
}

describe('arrivals at a rate', () => {
  it('come at equal distances when asked to', () => {
    const starts = all(new RateSchedule(shape('10/1s'), { ...part(), even: true }))
    expect(starts.map(({ dueMs }) => Math.round(dueMs))).toEqual([50, 150, 250, 350, 450, 550, 650, 750, 850, 950])
  })

  it('follow a ramp: twice the time, four times the arrivals', () => {
    const starts = all(new RateSchedule(shape('0..100/10s'), { ...part(), even: true }))
    expect(starts).toHaveLength(500)
    expect(starts.filter(({ dueMs }) => dueMs < 5000)).toHaveLength(125)
  })

  it('follow a spike', () => {
    const starts = all(new RateSchedule(shape('10/1s, ..1000/100ms, hold 1s'), { ...part(), even: true }))
    expect(starts.filter(({ dueMs }) => dueMs < 1000)).toHaveLength(10)
    expect(starts.filter(({ dueMs }) => dueMs > 1101)).toHaveLength(999)
  })

  it('as strangers are about as many, and bunched', () => {
    const starts = all(new RateSchedule(shape('1000/10s'), part()))
    expect(Math.abs(starts.length - 10_000)).toBeLessThan(400)
    const gaps = starts.slice(1).map(({ dueMs }, i) => dueMs - starts[i]!.dueMs)
    const meanGap = gaps.reduce((a, b) => a + b, 0) / gaps.length
    const variance = gaps.reduce((a, gap) => a + (gap - meanGap) ** 2, 0) / gaps.length
    // The gaps of a Poisson process vary as much as they last.
    expect(Math.sqrt(variance) / meanGap).toBeGreaterThan(0.9)
    expect(Math.sqrt(variance) / meanGap).toBeLessThan(1.1)
  })

  it('are the same in parts as in one', () => {
    const whole = all(new RateSchedule(shape('0..50/2s, hold 1s'), { ...part(), even: true })).map(({ dueMs }) => dueMs)
    const parts = [0, 1, 2].flatMap((n) =>
      all(new RateSchedule(shape('0..50/2s, hold 1s'), { ...part(n, 3), even: true })),
    )
    expect(parts.map(({ dueMs }) => dueMs).toSorted((a, b) => a - b)).toEqual(whole)
  })
})

describe('users', () => {
  it('ask once in a think time each, in the order of time', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 60 }),
        fc.integer({ min: 50, max: 500 }),
        fc.integer(),
        (users, thinkMs, seed) => {
          const starts = all(new UserSchedule(shape(`${users}/10s`), { ...part(0, 1, seed), thinkMs }))
          const times = starts.map(({ dueMs }) => dueMs)
          expect(times).toEqual(times.toSorted((a, b) => a - b))
          expect(new Set(starts.map(({ user }) => user)).size).toBe(users)
          const mine = starts.filter(({ user }) => user === 0).map(({ dueMs }) => dueMs)
          for (let i = 1; i < mine.length; i++) {
            const gap = mine[i]! - mine[i - 1]!
            expect(gap).toBeGreaterThanOrEqual(thinkMs * 0.5 - 1e-6)
            expect(gap).toBeLessThanOrEqual(thinkMs * 1.5 + 1e-6)
          }
        },
      ),
      { numRuns: 30 },
    )
  })

  it('offer users divided by think time', () => {
    const starts = all(new UserSchedule(shape('200/20s'), { ...part(), thinkMs: 500 }))
    expect(Math.abs(starts.length - 8000)).toBeLessThan(240)
  })

  it('come and go with the level', () => {
    const starts = all(new UserSchedule(shape('0..100/10s, ..0/10s'), { ...part(), thinkMs: 100 }))
    const usersIn = (from: number, to: number) =>
      new Set(starts.filter(({ dueMs }) => dueMs >= from && dueMs < to).map(({ user }) => user)).size
    expect(usersIn(0, 1000)).toBeLessThanOrEqual(10)
    expect(usersIn(9700, 10_300)).toBeGreaterThan(90)
    expect(usersIn(19_000, 20_000)).toBeLessThanOrEqual(10)
    // The last to come is the first to go.
    expect(Math.max(...starts.filter(({ dueMs }) => dueMs > 15_000).map(({ user }) => user))).toBeLessThan(51)
  })

  it('come back when the level rises again', () => {
    const starts = all(new UserSchedule(shape('0..10/1s, ..0/1s, ..10/1s, hold 1s'), { ...part(), thinkMs: 50 }))
    const last = starts.filter(({ user }) => user === 9).map(({ dueMs }) => dueMs)
    expect(last.some((ms) => ms < 1100)).toBe(true)
    expect(last.some((ms) => ms > 1100 && ms < 2900)).toBe(false)
    expect(last.some((ms) => ms > 3000)).toBe(true)
  })

  it('are dealt out to threads, each to one', () => {
    const users = [0, 1, 2].map(
      (n) => new Set(all(new UserSchedule(shape('10/2s'), { ...part(n, 3, n), thinkMs: 100 })).map(({ user }) => user)),
    )
    expect([...users[0]!].toSorted((a, b) => a - b)).toEqual([0, 3, 6, 9])
    expect([...users[1]!].toSorted((a, b) => a - b)).toEqual([1, 4, 7])
    expect([...users[2]!].toSorted((a, b) => a - b)).toEqual([2, 5, 8])
  })

  it('may be none at all in a part', () => {
    expect(all(new UserSchedule(shape('1/1s'), { ...part(2, 3), thinkMs: 100 }))).toEqual([])
  })
})
