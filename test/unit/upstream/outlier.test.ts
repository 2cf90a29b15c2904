import { describe, expect, it } from 'vitest'
import type { Endpoint } from '../../../src/upstream/endpoint.ts'
import { isEndpointFailure, Outlier, type OutlierOptions } from '../../../src/upstream/outlier.ts'
import { endpoint } from './support.ts'

const BASE: OutlierOptions = { consecutiveErrors: 5, ejectForMs: 30_000, maxEjectedPercent: 50 }

function set(n: number): Endpoint[] {
  return Array.from({ length: n }, (_, i) => endpoint(`10.0.0.${i + 1}`))
}

function fail(outlier: Outlier, all: Endpoint[], i: number, times: number, nowMs: number): void {
  for (let n = 0; n < times; n++) outlier.onResult(all[i]!, true, nowMs, nowMs, all)
}

describe('what speaks against an endpoint', () => {
  it.each([
    ['connectError', 0, false, true],
    ['reset', 0, false, true],
    ['timeout', 0, false, true],
    [null, 500, false, true],
    [null, 503, false, true],
    [null, 503, true, false],
    [null, 501, false, false],
    [null, 429, false, false],
    [null, 404, false, false],
    [null, 200, false, false],
  ] as const)('failure %s, status %i, shed %s: %s', (failure, status, shed, expected) => {
    expect(isEndpointFailure(failure, status, shed)).toBe(expected)
  })
})

describe('outlier detection', () => {
  it('ejects after five failures in a row and says why', () => {
    const all = set(2)
    const outlier = new Outlier(BASE)
    fail(outlier, all, 0, 4, 0)
    outlier.onResult(all[0]!, false, 0, 0, all)
    fail(outlier, all, 0, 4, 0)
    expect(all[0]!.state).toBe('healthy')
    fail(outlier, all, 0, 1, 100)
    expect([all[0]!.state, all[0]!.reason, all[0]!.ejectedUntilMs]).toEqual(['ejected', '5 failures in a row', 30_100])
  })

  it('ejects by the share of failures once there are enough tries', () => {
    const all = set(2)
    const outlier = new Outlier({ ...BASE, consecutiveErrors: 0, errorRatio: 0.4, minRequests: 50 })
    for (let i = 0; i < 49; i++) outlier.onResult(all[0]!, i % 2 === 0, i, i, all)
    expect(all[0]!.state).toBe('healthy')
    outlier.onResult(all[0]!, true, 60, 60, all)
    expect(all[0]!.state).toBe('ejected')
  })

  it('does not add up failures that are many windows apart', () => {
    const all = set(2)
    const outlier = new Outlier({ ...BASE, consecutiveErrors: 0, errorRatio: 0.4, minRequests: 50 })
    for (let i = 0; i < 200; i++) outlier.onResult(all[0]!, true, i * 5000, i * 5000, all)
    expect(all[0]!.state).toBe('healthy')
  })

  it('ejects for longer each time, up to 300 s, and forgets with good conduct', () => {
    const all = set(2)
    const e = all[0]!
    const lengths: number[] = []
    const outlier = new Outlier({ ...BASE, onEject: (_, forMs) => lengths.push(forMs) })
    let now = 0
    for (let i = 0; i < 12; i++) {
      fail(outlier, all, 0, 5, now)
      now = e.ejectedUntilMs
      e.isAvailable(now)
    }
    expect(lengths.slice(0, 3)).toEqual([30_000, 60_000, 90_000])
    expect(lengths.at(-1)).toBe(300_000)
    outlier.onResult(e, false, now, now, all)
    fail(outlier, all, 0, 5, now + 30_000 * 20)
    expect(lengths.at(-1)).toBe(30_000)
  })

  it('ejects at the first failure on probation, and ends it with a success', () => {
    const all = set(2)
    const outlier = new Outlier(BASE)
    fail(outlier, all, 0, 5, 0)
    all[0]!.isAvailable(30_000)
    fail(outlier, all, 0, 1, 30_001)
    expect(all[0]!.state).toBe('ejected')
    all[0]!.isAvailable(90_001)
    outlier.onResult(all[0]!, false, 90_002, 90_003, all)
    fail(outlier, all, 0, 4, 90_004)
    expect(all[0]!.state).toBe('healthy')
  })

  it('does not hold late failures of tries from before its return against it', () => {
    const all = set(2)
    const outlier = new Outlier(BASE)
    fail(outlier, all, 0, 5, 0)
    all[0]!.isAvailable(30_000)
    outlier.onResult(all[0]!, true, 10, 30_010, all)
    expect(all[0]!.state).toBe('healthy')
  })

  it.each([
    [1, 100, 0],
    [2, 10, 1],
    [3, 50, 1],
    [10, 50, 5],
    [10, 0, 0],
    [4, 100, 4],
  ])('of %i endpoints with %i %% at most, ejects %i', (n, percent, expected) => {
    const all = set(n)
    const outlier = new Outlier({ ...BASE, maxEjectedPercent: percent })
    for (let i = 0; i < n; i++) fail(outlier, all, i, 10, 0)
    expect(all.filter((e) => e.state === 'ejected')).toHaveLength(expected)
  })

  it('does not count drained endpoints as a reserve', () => {
    const all = set(2)
    all[1]!.drain(0, 'x')
    fail(new Outlier(BASE), all, 0, 50, 0)
    expect(all[0]!.state).toBe('healthy')
  })
})
