import { describe, expect, it } from 'vitest'
import { Scale, type ScaleSample } from '../../../src/observability/scale.ts'

const CALM: ScaleSample = {
  ccu: 0,
  queued: 0,
  queueCapacity: 30,
  normalCCU: 100,
  maxCCU: 150,
  refusedPerSec: 0,
  durationMs: 50,
}

function hold(seconds: number, sample: Partial<ScaleSample>, scale = new Scale()): Scale {
  for (let i = 0; i < seconds; i++) scale.sample({ ...CALM, ...sample })
  return scale
}

describe('the scaling figure', () => {
  it('is the exchanges inside over what one instance should carry', () => {
    expect(hold(60, { ccu: 50 }).answer()).toMatchObject({ load: 0.5, desiredReplicas: 1, reason: 'concurrency' })
    expect(hold(60, { ccu: 90 }).answer(4)).toMatchObject({ load: 0.9, desiredReplicas: 4 })
    expect(hold(60, { ccu: 140 }).answer(4)).toMatchObject({ load: 1.4, desiredReplicas: 6 })
  })

  it('counts the refused as if they were inside: arrivals times duration', () => {
    // 1000 refused a second of 200 ms each would be 200 more inside
    const { load, reason } = hold(120, { ccu: 150, refusedPerSec: 1000, durationMs: 200 }).answer()
    expect(load).toBeCloseTo(3.5, 1)
    expect(reason).toBe('refusals')
  })

  it('asks for one more at once when it refuses or its queue is nearly full, whatever the mean says', () => {
    expect(hold(1, { ccu: 1, refusedPerSec: 1 }, hold(60, { ccu: 1 })).answer().desiredReplicas).toBe(2)
    expect(hold(1, { ccu: 1, queued: 27 }).answer()).toMatchObject({ desiredReplicas: 2, reason: 'queue' })
  })

  it('is not moved by one second of noise', () => {
    const scale = hold(60, { ccu: 50 })
    expect(hold(1, { ccu: 100 }, scale).answer().load).toBeLessThan(0.6)
  })

  it('comes down only when five minutes were lower', () => {
    const scale = hold(60, { ccu: 150 })
    expect(hold(250, { ccu: 10 }, scale).answer()).toMatchObject({ desiredReplicas: 2, reason: 'held' })
    expect(hold(100, { ccu: 10 }, scale).answer().load).toBeLessThan(0.2)
  })

  it('keeps headroom free when asked to', () => {
    expect(hold(60, { ccu: 90 }).answer(1, 0.25).desiredReplicas).toBe(2)
  })

  it('says one instance before anything is known', () => {
    expect(new Scale().answer()).toMatchObject({ load: 0, desiredReplicas: 1, reason: 'idle' })
  })
})
