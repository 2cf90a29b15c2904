/** What every balancer promises, whatever it looks at: run over all of them. */

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type Balancer, type BalancerName, createBalancer } from '../../src/upstream/balancers/balancer.ts'
import { Endpoint } from '../../src/upstream/endpoint.ts'
import { random as seeded } from '../unit/upstream/support.ts'

const NAMES: BalancerName[] = ['roundRobin', 'leastRequest', 'peakEwma', 'hash', 'first', 'slots']
const NOW = 1_000_000

function endpoints(...weights: number[]): Endpoint[] {
  return weights.map((weight, i) => new Endpoint({ host: `10.0.0.${i + 1}`, port: 80, secure: false }, { weight }, NOW))
}

let keys = 0
function pickFrom(
  balancer: Balancer,
  list: readonly Endpoint[],
  exclude?: Endpoint | Endpoint[],
): Endpoint | undefined {
  return balancer.pick(list, { hashKey: `client-${keys++}` }, NOW, exclude)
}

function counts(balancer: Balancer, list: readonly Endpoint[], times: number): number[] {
  const seen = new Map<Endpoint | undefined, number>()
  for (let i = 0; i < times; i++) {
    const endpoint = pickFrom(balancer, list)
    seen.set(endpoint, (seen.get(endpoint) ?? 0) + 1)
  }
  return list.map((endpoint) => seen.get(endpoint) ?? 0)
}

describe.each(NAMES)('balance: %s', (name) => {
  const create = (options = {}) => createBalancer(name, { random: seeded(7), ...options })

  it('finds nothing in an empty set', () => {
    expect(pickFrom(create(), [])).toBeUndefined()
  })

  it('sends all to the only endpoint', () => {
    const list = endpoints(1)
    expect(pickFrom(create(), list)).toBe(list[0])
  })

  it('sends nothing new to weight 0, drained, unhealthy and ejected endpoints', () => {
    const list = endpoints(0, 1, 1, 1, 1)
    list[1]!.drain(NOW, 'by an operator')
    list[2]!.markUnhealthy(NOW, 'GET /health answered 500')
    list[3]!.eject(NOW, NOW + 1000, '5 failures in a row')
    expect(counts(create(), list, 200)).toEqual([0, 0, 0, 0, 200])
  })

  it('uses an endpoint again once its ejection is over', () => {
    const list = endpoints(1)
    list[0]!.eject(NOW - 2000, NOW - 1, '5 failures in a row')
    const balancer = create()
    expect(pickFrom(balancer, list)).toBe(list[0])
    expect(balancer.panic).toBe(false)
    expect(list[0]!.state).toBe('healthy')
  })

  it('passes over an endpoint whose breaker is open', () => {
    const list = endpoints(1, 1)
    list[0]!.breaker = { wouldAllow: () => false } as unknown as Endpoint['breaker']
    expect(counts(create(), list, 100)).toEqual([0, 100])
  })

  it('uses backups only when no primary is available', () => {
    const list = endpoints(1, 1, 1)
    list[2]!.backup = true
    const balancer = create()
    expect(counts(balancer, list, 100)[2]).toBe(0)
    list[0]!.markUnhealthy(NOW, 'x')
    expect(counts(balancer, list, 100)[2]).toBe(0)
    list[1]!.markUnhealthy(NOW, 'x')
    expect(counts(balancer, list, 100)).toEqual([0, 0, 100])
    expect(balancer.panic).toBe(false)
  })

  it('tries unhealthy endpoints when there is no other, but never drained ones', () => {
    const list = endpoints(1, 1, 0, 1)
    list[0]!.markUnhealthy(NOW, 'x')
    list[1]!.markUnhealthy(NOW, 'x')
    list[3]!.drain(NOW, 'x')
    const balancer = create()
    const seen = counts(balancer, list, 100)
    expect(seen[0]! + seen[1]!).toBe(100)
    expect(balancer.panic).toBe(true)
  })

  it('spreads over all primaries when fewer than panicShare are available', () => {
    const list = endpoints(1, 1, 1, 1)
    for (const i of [0, 1, 2]) list[i]!.markUnhealthy(NOW, 'x')
    const balancer = create({ panicShare: 0.5, fillTo: 1 })
    pickFrom(balancer, list)
    expect(balancer.panic).toBe(true)
    list[2]!.markHealthy(NOW)
    pickFrom(balancer, list)
    expect(balancer.panic).toBe(false)
  })

  it('never returns an excluded endpoint, given alone or in a list', () => {
    const list = endpoints(1, 2, 3)
    const balancer = create()
    for (let i = 0; i < 100; i++) {
      expect(pickFrom(balancer, list, list[0])).not.toBe(list[0])
      expect(pickFrom(balancer, list, [list[0]!, list[1]!])).toBe(list[2])
    }
    expect(pickFrom(balancer, list, list)).toBeUndefined()
  })

  it('tries a backup second, but no unhealthy endpoint while a healthy one was only excluded', () => {
    const list = endpoints(1, 1, 1)
    list[1]!.backup = true
    list[2]!.markUnhealthy(NOW, 'x')
    expect(pickFrom(create(), list, list[0])).toBe(list[1])
    expect(pickFrom(create(), [list[0]!, list[2]!], list[0])).toBeUndefined()
  })

  it('changes no count of an endpoint', () => {
    const list = endpoints(1, 2)
    for (let i = 0; i < 50; i++) pickFrom(create(), list)
    expect(list.map((e) => [e.inFlight, e.weight, e.freeSlots])).toEqual([
      [0, 1, -1],
      [0, 2, -1],
    ])
  })

  it('returns an available endpoint whenever there is one, whatever the states', () => {
    const anyEndpoint = fc.record({
      weight: fc.constantFrom(0, 1, 3),
      backup: fc.boolean(),
      state: fc.constantFrom('healthy', 'unhealthy', 'ejected', 'draining'),
      inFlight: fc.nat(500),
    })
    fc.assert(
      fc.property(fc.array(anyEndpoint, { maxLength: 8 }), fc.string(), (all, hashKey) => {
        const list = all.map((one, i) => {
          const e = new Endpoint({ host: `h${i}`, port: 80, secure: false }, one, NOW)
          e.inFlight = one.inFlight
          if (one.state === 'unhealthy') e.markUnhealthy(NOW, '')
          if (one.state === 'ejected') e.eject(NOW, NOW + 1, '')
          if (one.state === 'draining') e.drain(NOW, '')
          return e
        })
        const picked = create().pick(list, { hashKey }, NOW)
        const possible = list.filter((e) => e.isAvailable(NOW))
        const last = list.filter((e) => e.weight > 0 && !e.draining)
        if (possible.length > 0) {
          expect(possible).toContain(picked)
          if (possible.some((e) => !e.backup)) expect(picked!.backup).toBe(false)
        } else if (last.length > 0) expect(last).toContain(picked)
        else expect(picked).toBeUndefined()
      }),
      { numRuns: 300 },
    )
  })
})

describe.each(NAMES.filter((name) => name !== 'first'))('shares of balance: %s', (name) => {
  it.each([[[1, 1, 1, 1]], [[5, 1, 1]], [[95, 5]], [[1, 2, 3, 4]]])(
    'an idle upstream with weights %j shares by weight',
    (weights) => {
      const list = endpoints(...weights)
      const total = weights.reduce((a, b) => a + b)
      const times = 20_000
      const seen = counts(createBalancer(name, { random: seeded(3) }), list, times)
      for (const [i, weight] of weights.entries()) {
        const share = weight / total
        // Five standard deviations of a fair lottery.
        expect(Math.abs(seen[i]! / times - share)).toBeLessThan(5 * Math.sqrt((share * (1 - share)) / times))
      }
    },
  )

  it('gives an endpoint that has just come back a small share, and the whole one after the ramp', () => {
    const list = endpoints(1, 1)
    list[1]!.slowStartFromMs = NOW - 2_000
    const ramp = { windowMs: 10_000, aggression: 1, minShare: 0.1 }
    const during = counts(createBalancer(name, { random: seeded(3), slowStart: ramp }), list, 6000)[1]!
    expect(during / 6000).toBeCloseTo(0.2 / 1.2, 1)
    list[1]!.slowStartFromMs = NOW - 10_000
    const after = counts(createBalancer(name, { random: seeded(3), slowStart: ramp }), list, 6000)[1]!
    expect(after / 6000).toBeCloseTo(0.5, 1)
  })
})
