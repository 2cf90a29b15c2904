import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { Breaker, type BreakerOptions } from '../../../src/upstream/breaker.ts'

const BASE: BreakerOptions = { errorRatio: 0.5, minRequests: 20, windowMs: 10_000, openForMs: 5_000 }

function run(breaker: Breaker, ok: boolean, nowMs: number, latencyMs = 1): boolean {
  if (!breaker.allow(nowMs)) return false
  breaker.onResult(ok, latencyMs, nowMs, breaker.epoch)
  return true
}

describe('circuit breaker', () => {
  it('opens at the error ratio, not before enough requests', () => {
    const breaker = new Breaker(BASE)
    for (let i = 0; i < 19; i++) run(breaker, false, 100)
    expect(breaker.state).toBe('closed')
    run(breaker, false, 100)
    expect(breaker.state).toBe('open')
    expect(breaker.allow(5_099)).toBe(false)
    expect(breaker.retryAfterMs(1_100)).toBe(4_000)
  })

  it('stays closed below the ratio', () => {
    const breaker = new Breaker(BASE)
    for (let i = 0; i < 1000; i++) run(breaker, i % 5 < 3, i)
    expect(breaker.state).toBe('closed')
    expect(breaker.errorRatio(1000)).toBeCloseTo(0.4, 5)
  })

  it('forgets what is older than the window', () => {
    const breaker = new Breaker(BASE)
    for (let i = 0; i < 19; i++) run(breaker, false, 100)
    run(breaker, false, 10_500)
    expect(breaker.state).toBe('closed')
    expect(breaker.errorRatio(10_500)).toBe(1)
    for (let i = 0; i < 19; i++) run(breaker, false, 10_600)
    expect(breaker.state).toBe('open')
  })

  it('opens when too many calls are slow, although none fails', () => {
    const breaker = new Breaker({ ...BASE, slowCallMs: 1000, slowCallRatio: 0.8 })
    for (let i = 0; i < 10; i++) run(breaker, true, 0, 5)
    for (let i = 0; i < 39; i++) run(breaker, true, 0, 2000)
    expect(breaker.state).toBe('closed')
    run(breaker, true, 0, 2000)
    expect(breaker.state).toBe('open')
  })

  it('lets single probes through after openFor and closes after three good ones', () => {
    const moves: string[] = []
    const breaker = new Breaker({ ...BASE, minRequests: 1, onTransition: (from, to) => moves.push(`${from}>${to}`) })
    run(breaker, false, 0)
    expect(breaker.wouldAllow(4_999)).toBe(false)
    expect(breaker.allow(5_000)).toBe(true)
    const epoch = breaker.epoch
    expect(breaker.allow(5_001)).toBe(false)
    breaker.onResult(true, 1, 5_002, epoch)
    expect(run(breaker, true, 5_003)).toBe(true)
    expect(breaker.state).toBe('halfOpen')
    expect(run(breaker, true, 5_004)).toBe(true)
    expect(breaker.state).toBe('closed')
    expect(moves).toEqual(['closed>open', 'open>halfOpen', 'halfOpen>closed'])
  })

  it('opens again, for longer, when a probe fails', () => {
    const breaker = new Breaker({ ...BASE, minRequests: 1, maxOpenForMs: 15_000 })
    run(breaker, false, 0)
    run(breaker, false, 5_000)
    expect(breaker.state).toBe('open')
    expect(breaker.retryAfterMs(5_000)).toBe(10_000)
    run(breaker, false, 15_000)
    expect(breaker.retryAfterMs(15_000)).toBe(15_000)
  })

  it('gives the probe back when it says nothing', () => {
    const breaker = new Breaker({ ...BASE, minRequests: 1 })
    run(breaker, false, 0)
    expect(breaker.allow(5_000)).toBe(true)
    breaker.onCancel(breaker.epoch)
    expect(breaker.allow(5_001)).toBe(true)
  })

  it('sends a new probe when one is lost', () => {
    const breaker = new Breaker({ ...BASE, minRequests: 1 })
    run(breaker, false, 0)
    expect(breaker.allow(5_000)).toBe(true)
    expect(breaker.allow(64_000)).toBe(false)
    expect(breaker.allow(65_001)).toBe(true)
  })

  it('does not take late answers from before the opening for probes', () => {
    const breaker = new Breaker({ ...BASE, minRequests: 2 })
    expect([breaker.allow(0), breaker.allow(0), breaker.allow(0), breaker.allow(0)]).not.toContain(false)
    const old = breaker.epoch
    breaker.onResult(false, 1, 0, old)
    breaker.onResult(false, 1, 0, old)
    expect(breaker.allow(5_000)).toBe(true)
    breaker.onResult(false, 9_000, 5_001, old)
    breaker.onResult(true, 9_000, 5_001, old)
    expect(breaker.state).toBe('halfOpen')
    expect(breaker.allow(5_002)).toBe(false)
  })

  it('ramps up from a tenth after recovery', () => {
    const ramp = { ...BASE, minRequests: 1, successes: 1, rampMs: 10_000 }
    let dice = 0
    const breaker = new Breaker({ ...ramp, random: () => dice })
    run(breaker, false, 0)
    run(breaker, true, 5_000)
    expect(breaker.state).toBe('closed')
    dice = 0.12
    expect(breaker.allow(5_000)).toBe(false)
    dice = 0.5
    expect(breaker.allow(9_000)).toBe(false)
    expect(breaker.allow(10_000)).toBe(true)
    dice = 0.999
    expect(breaker.allow(15_000)).toBe(true)
  })

  it('never has more probes out than allowed, and always comes back when the service does', () => {
    const step = fc.record({ ok: fc.boolean(), waitMs: fc.nat(4000), cancel: fc.boolean() })
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
        const breaker = new Breaker({ ...BASE, minRequests: 3 })
        let now = 0
        for (const { ok, waitMs, cancel } of steps) {
          now += waitMs
          const would = breaker.wouldAllow(now)
          expect(breaker.allow(now)).toBe(would)
          if (!would) continue
          const epoch = breaker.epoch
          if (breaker.state === 'halfOpen') expect(breaker.allow(now)).toBe(false)
          if (cancel) breaker.onCancel(epoch)
          else breaker.onResult(ok, 1, now, epoch)
          expect(breaker.errorRatio(now)).toBeGreaterThanOrEqual(0)
          expect(breaker.errorRatio(now)).toBeLessThanOrEqual(1)
        }
        now += 100_000
        for (let i = 0; i < 3; i++) run(breaker, true, now)
        expect(breaker.state).toBe('closed')
      }),
      { numRuns: 200 },
    )
  })
})
