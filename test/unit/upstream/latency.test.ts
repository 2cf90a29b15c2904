import { describe, expect, it } from 'vitest'
import { ewmaAt, recordFailure, recordLatency } from '../../../src/upstream/latency.ts'
import { endpoint } from './support.ts'

describe('latency estimate', () => {
  it('begins at 30 ms', () => {
    expect(ewmaAt(endpoint(), 0)).toBe(30)
  })

  it('jumps up with one slow answer', () => {
    const e = endpoint()
    recordLatency(e, 800, 10)
    expect(ewmaAt(e, 10)).toBe(800)
  })

  it('comes down by half the difference in ten seconds times ln 2', () => {
    const e = endpoint()
    recordLatency(e, 800, 0)
    recordLatency(e, 100, 10_000 * Math.LN2)
    expect(ewmaAt(e, 10_000 * Math.LN2)).toBeCloseTo(450, 6)
  })

  it('settles at a steady latency', () => {
    const e = endpoint()
    for (let t = 0; t < 200_000; t += 50) recordLatency(e, 12 + (t % 100 === 0 ? -2 : 2), t)
    expect(ewmaAt(e, 200_000)).toBeGreaterThan(10)
    expect(ewmaAt(e, 200_000)).toBeLessThan(14.1)
  })

  it('counts a fast failure as five seconds, and a Retry-After as itself up to five minutes', () => {
    const e = endpoint()
    recordFailure(e, 1, -1, 0)
    expect(ewmaAt(e, 0)).toBe(5000)
    recordFailure(e, 1, 20_000, 0)
    expect(ewmaAt(e, 0)).toBe(20_000)
    recordFailure(e, 1, 9e9, 0)
    expect(ewmaAt(e, 0)).toBe(300_000)
  })

  it('fades without news, so that a slow endpoint is asked again', () => {
    const e = endpoint()
    recordFailure(e, 1, -1, 0)
    expect(ewmaAt(e, 60_000)).toBeLessThan(13)
  })

  it('is not upset by a clock that steps back', () => {
    const e = endpoint()
    recordLatency(e, 50, 1000)
    recordLatency(e, 20, 500)
    expect(Number.isFinite(ewmaAt(e, 400))).toBe(true)
  })
})
