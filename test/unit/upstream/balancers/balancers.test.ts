/** What each balancer does beyond the contract (test/contract/balancer.test.ts). */

import { describe, expect, it } from 'vitest'
import { createBalancer } from '../../../../src/upstream/balancers/balancer.ts'
import { freeSlots, parseSlots, reportSlots, returnSlot, takeSlot } from '../../../../src/upstream/balancers/slots.ts'
import type { Endpoint } from '../../../../src/upstream/endpoint.ts'
import { recordFailure, recordLatency } from '../../../../src/upstream/latency.ts'
import { endpoint, random } from '../support.ts'

const NONE = { hashKey: '' }

function set(...weights: number[]): Endpoint[] {
  return weights.map((weight, i) => endpoint(`10.0.0.${i + 1}`, { weight }))
}

describe('roundRobin', () => {
  it('is smooth: 5, 1, 1 never sends five in a row', () => {
    const list = set(5, 1, 1)
    const balancer = createBalancer('roundRobin', { random: () => 0 })
    const order = Array.from({ length: 7 }, () => 'abc'[list.indexOf(balancer.pick(list, NONE, 0)!)]).join('')
    expect(order).toBe('aabacaa')
  })

  it('goes on evenly after an endpoint was away', () => {
    const list = set(1, 1, 1)
    const balancer = createBalancer('roundRobin')
    list[0]!.markUnhealthy(0, 'x')
    for (let i = 0; i < 1000; i++) balancer.pick(list, NONE, 0)
    list[0]!.markHealthy(0)
    const seen = new Map<Endpoint, number>()
    for (let i = 0; i < 30; i++) {
      const e = balancer.pick(list, NONE, 0)!
      seen.set(e, (seen.get(e) ?? 0) + 1)
    }
    expect(list.map((e) => seen.get(e))).toEqual([10, 10, 10])
  })
})

describe('leastRequest', () => {
  it('takes the less loaded of two', () => {
    const list = set(1, 1)
    list[0]!.inFlight = 3
    const balancer = createBalancer('leastRequest', { random: random(1) })
    for (let i = 0; i < 50; i++) expect(balancer.pick(list, NONE, 0)).toBe(list[1])
  })

  it('keeps in-flight counts in proportion to the weights under load', () => {
    const list = set(1, 3)
    const balancer = createBalancer('leastRequest', { random: random(1) })
    for (let i = 0; i < 400; i++) balancer.pick(list, NONE, 0)!.inFlight++
    expect(list[0]!.inFlight).toBeGreaterThan(95)
    expect(list[0]!.inFlight).toBeLessThan(105)
  })

  it('spreads a burst over many endpoints evenly', () => {
    const list = set(...Array(20).fill(1))
    const balancer = createBalancer('leastRequest', { random: random(1) })
    for (let i = 0; i < 2000; i++) balancer.pick(list, NONE, 0)!.inFlight++
    // Two choices: the fullest is log log n above the mean of 100; one choice would be at 125 or more.
    expect(Math.max(...list.map((e) => e.inFlight))).toBeLessThan(106)
  })
})

describe('peakEwma', () => {
  it('prefers the quick one and weighs its queue', () => {
    const list = set(1, 1)
    recordLatency(list[0]!, 100, 0)
    const balancer = createBalancer('peakEwma', { random: random(1) })
    expect(balancer.pick(list, NONE, 0)).toBe(list[1])
    list[1]!.inFlight = 4
    expect(balancer.pick(list, NONE, 0)).toBe(list[0])
  })

  it('an endpoint that fails fast does not attract traffic', () => {
    const list = set(1, 1)
    const balancer = createBalancer('peakEwma', { random: random(1) })
    let failed = 0
    for (let now = 0; now < 10_000; now += 10) {
      const e = balancer.pick(list, NONE, now)!
      if (e === list[0]) {
        failed++
        recordFailure(e, 1, -1, now)
      } else recordLatency(e, 40, now)
    }
    expect(failed).toBeLessThan(5)
  })
})

describe('hash', () => {
  const keys = Array.from({ length: 5000 }, (_, i) => `203.0.113.${i % 256}:${i}`)
  const idle = { random: random(1), boundedLoad: Infinity }

  it('sends a key to the same endpoint, whatever the order of the list and in every gateway', () => {
    const list = set(1, 1, 1, 1)
    for (const hashKey of keys.slice(0, 200)) {
      const one = createBalancer('hash', idle).pick(list, { hashKey }, 0)
      expect(createBalancer('hash', idle).pick([...list].reverse(), { hashKey }, 0)).toBe(one)
    }
  })

  it('moves only the keys of the endpoint that left, and brings them back with it', () => {
    const list = set(...Array(10).fill(1))
    const balancer = createBalancer('hash', idle)
    const before = keys.map((hashKey) => balancer.pick(list, { hashKey }, 0))
    list[4]!.markUnhealthy(0, 'x')
    const during = keys.map((hashKey) => balancer.pick(list, { hashKey }, 0))
    const moved = before.filter((e, i) => e !== during[i])
    expect(new Set(moved)).toEqual(new Set([list[4]]))
    expect(moved.length / keys.length).toBeLessThan(0.12)
    list[4]!.markHealthy(0)
    expect(keys.map((hashKey) => balancer.pick(list, { hashKey }, 0))).toEqual(before)
  })

  it('a new endpoint takes no more than its share', () => {
    const list = set(...Array(10).fill(1))
    const balancer = createBalancer('hash', idle)
    const before = keys.map((hashKey) => balancer.pick(list.slice(0, 9), { hashKey }, 0))
    const after = keys.map((hashKey) => balancer.pick(list, { hashKey }, 0))
    const moved = after.filter((e, i) => e !== before[i])
    expect(new Set(moved)).toEqual(new Set([list[9]]))
    expect(moved.length / keys.length).toBeLessThan(0.12)
  })

  it('a hot key cannot load an endpoint above the bound', () => {
    const list = set(1, 1, 1, 1)
    const balancer = createBalancer('hash', { random: random(1), boundedLoad: 1.25 })
    for (let i = 0; i < 400; i++) balancer.pick(list, { hashKey: 'hot' }, 0)!.inFlight++
    expect(Math.max(...list.map((e) => e.inFlight))).toBeLessThanOrEqual(126)
  })

  it('keeps a key at its endpoint while that is below the bound', () => {
    const list = set(1, 1, 1, 1)
    for (const e of list) e.inFlight = 10
    const balancer = createBalancer('hash', { random: random(1) })
    const home = balancer.pick(list, { hashKey: 'k' }, 0)!
    home.inFlight = 12
    expect(balancer.pick(list, { hashKey: 'k' }, 0)).toBe(home)
    home.inFlight = 15
    expect(balancer.pick(list, { hashKey: 'k' }, 0)).not.toBe(home)
  })

  it('spreads requests without a key by load', () => {
    const list = set(1, 1)
    list[0]!.inFlight = 1
    expect(createBalancer('hash').pick(list, NONE, 0)).toBe(list[1])
  })
})

describe('first', () => {
  it('fills one endpoint before the next gets any, then balances', () => {
    const list = set(1, 2, 1)
    const balancer = createBalancer('first', { fillTo: 10, random: random(1) })
    for (let i = 0; i < 10; i++) balancer.pick(list, NONE, 0)!.inFlight++
    expect(list.map((e) => e.inFlight)).toEqual([10, 0, 0])
    for (let i = 0; i < 25; i++) balancer.pick(list, NONE, 0)!.inFlight++
    expect(list.map((e) => e.inFlight)).toEqual([10, 20, 5])
    for (let i = 0; i < 45; i++) balancer.pick(list, NONE, 0)!.inFlight++
    expect(list[1]!.inFlight).toBeGreaterThan(30)
    expect(list[0]!.inFlight).toBeLessThan(30)
  })
})

describe('slots', () => {
  it('sends to where more places are free and passes over full endpoints', () => {
    const list = set(1, 1, 1)
    reportSlots(list[0]!, 0, 0)
    reportSlots(list[1]!, 0, 0)
    reportSlots(list[2]!, 3, 0)
    const balancer = createBalancer('slots', { random: random(1) })
    for (let i = 0; i < 50; i++) expect(balancer.pick(list, NONE, 0)).toBe(list[2])
  })

  it('with one of four at half capacity, none is full before the sum of capacities is reached', () => {
    const capacity = [100, 100, 100, 50]
    const list = set(1, 1, 1, 1)
    list.forEach((e, i) => {
      reportSlots(e, capacity[i]!, 0)
    })
    const balancer = createBalancer('slots', { random: random(1) })
    for (let i = 0; i < 345; i++) {
      const e = balancer.pick(list, NONE, 0)!
      takeSlot(e)
      e.inFlight++
    }
    for (const [i, e] of list.entries()) expect(e.inFlight).toBeLessThanOrEqual(capacity[i]!)
  })

  it('asks a full endpoint again when its report is old', () => {
    const e = endpoint()
    reportSlots(e, 0, 0)
    expect(freeSlots(e, 1000)).toBe(0)
    expect(freeSlots(e, 2001)).toBeGreaterThan(0)
  })

  it('gets a place back when its exchange ends', () => {
    const e = endpoint()
    reportSlots(e, 1, 0)
    takeSlot(e)
    expect(freeSlots(e, 1)).toBe(0)
    returnSlot(e)
    expect(freeSlots(e, 1)).toBe(1)
  })

  it.each([
    ['free=37;cap=100;tier=free:0', 37],
    ['cap=100; free=0', 0],
    ['free=-1', -1],
    ['free=', -1],
    ['xfree=4', -1],
    ['free=99999999999', -1],
    ['', -1],
  ])('reads "%s"', (field, expected) => {
    expect(parseSlots(field)).toBe(expected)
  })
})
