/**
 * The promise of admission without tiers, over two threads driven by hand: never above the cap, never above the workers, first
 * come first served, no place idle while somebody waits, and a ledger that adds up after every step.
 */

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { createPlacesMemory, ENTERED, Places } from '../../../../src/policies/admission/places.ts'
import type { WaitEnd, Waiter } from '../../../../src/policies/admission/queue.ts'
import { Scope, type ScopeLimits } from '../../../../src/policies/admission/scope.ts'

function limits(over: Partial<ScopeLimits> = {}): ScopeLimits {
  return {
    maxCCU: 4,
    workers: 2,
    maxQueue: 2,
    order: [0],
    guarantees: [0],
    queueTimeoutMs: 100,
    discipline: 'fifo',
    codelTargetMs: 5,
    codelIntervalMs: 100,
    ...over,
  }
}

interface Guest {
  readonly thread: number
  readonly order: number
  state: 'serving' | 'waiting' | 'gone'
  end?: WaitEnd
  waiter?: Waiter
}

class House {
  readonly settings: ScopeLimits
  readonly memory: SharedArrayBuffer
  readonly scopes: Scope[]
  readonly guests: Guest[] = []
  /** Orders of arrival, as they came into service. */
  readonly served: number[] = []
  refused = { cap: 0, queue: 0 }

  constructor(settings = limits(), threads = 2) {
    this.settings = settings
    this.memory = createPlacesMemory(threads)
    // Signals are taken by hand: `1` keeps the scopes from listening.
    this.scopes = Array.from(
      { length: threads },
      (_, t) => new Scope('', new Places(this.memory, threads, t, settings), settings, 1),
    )
  }

  get places(): Places {
    return this.scopes[0]!.places
  }

  those(state: Guest['state']): Guest[] {
    return this.guests.filter((guest) => guest.state === state)
  }

  arrive(thread: number, nowMs = 0): Guest | undefined {
    const scope = this.scopes[thread]!
    if (scope.places.enter(0) !== ENTERED) {
      this.refused.cap++
      return undefined
    }
    const guest: Guest = { thread, order: this.guests.length, state: 'waiting' }
    this.guests.push(guest)
    if (scope.places.start(0)) this.#serve(guest)
    else {
      const waiter = scope.wait(0, '', nowMs, (end) => {
        guest.end = end
        if (end === 'served') this.#serve(guest)
        else this.#gone(guest)
      })
      if (waiter === undefined) {
        this.refused.queue++
        this.#gone(guest)
      } else guest.waiter = waiter
    }
    this.settle()
    return guest
  }

  #serve(guest: Guest): void {
    guest.state = 'serving'
    this.served.push(guest.order)
  }

  #gone(guest: Guest): void {
    guest.state = 'gone'
    this.scopes[guest.thread]!.places.leave(0, false)
  }

  finish(guest: Guest, completed = true): void {
    guest.state = 'gone'
    this.scopes[guest.thread]!.places.finish(0, completed)
    this.settle()
  }

  /** The client of a waiter goes. */
  abandon(guest: Guest): void {
    this.scopes[guest.thread]!.leave(guest.waiter!)
    this.#gone(guest)
    this.settle()
  }

  tick(nowMs: number): void {
    for (const scope of this.scopes) scope.tick(nowMs)
    this.settle()
  }

  /** What one thread has granted to another arrives. */
  settle(): void {
    for (let i = 0; i < 2; i++) for (const scope of this.scopes) scope.takeSignals()
  }

  check(): void {
    const { ccu, inService, waiting, skew } = this.places.figures()
    const { maxCCU, workers, maxQueue } = this.settings
    const serving = this.those('serving').length
    const queued = this.those('waiting').length
    expect({ ccu, inService, waiting, skew }).toEqual({
      ccu: serving + queued,
      inService: serving,
      waiting: queued,
      skew: 0,
    })
    expect(ccu).toBeLessThanOrEqual(maxCCU)
    expect(inService).toBeLessThanOrEqual(workers)
    expect(waiting).toBeLessThanOrEqual(maxQueue)
    if (queued > 0) expect(inService, 'a place is idle while somebody waits').toBe(workers)
  }
}

describe('whatever comes and goes', () => {
  const step = fc.tuple(
    fc.constantFrom('arrive', 'arrive', 'finish', 'abandon', 'tick'),
    fc.nat(1),
    fc.nat(20),
    fc.boolean(),
  )

  it('the cap, the workers and the queue are exact, the order is that of arrival, the ledger adds up', () => {
    const seen = { cap: 0, queue: 0, timeouts: 0, waits: 0 }
    fc.assert(
      fc.property(
        fc.record({
          maxCCU: fc.integer({ min: 1, max: 6 }),
          workers: fc.integer({ min: 1, max: 4 }),
          maxQueue: fc.nat(4),
        }),
        fc.array(step, { maxLength: 80, size: 'max' }),
        (numbers, steps) => {
          const house = new House(limits({ ...numbers, queueTimeoutMs: 50 }))
          let nowMs = 0
          for (const [what, thread, which, completed] of steps) {
            nowMs += 7
            const before = house.places.ccu
            if (what === 'arrive') {
              const { cap } = house.refused
              house.arrive(thread, nowMs)
              // Refused by the cap exactly when it was reached.
              expect(house.refused.cap - cap).toBe(before >= numbers.maxCCU ? 1 : 0)
            } else if (what === 'tick') house.tick(nowMs)
            else {
              const those = house.those(what === 'finish' ? 'serving' : 'waiting')
              const guest = those[which % (those.length || 1)]
              if (guest !== undefined && what === 'finish') house.finish(guest, completed)
              else if (guest !== undefined) house.abandon(guest)
            }
            house.check()
          }
          expect(house.served, 'first come, first served').toEqual([...house.served].sort((a, b) => a - b))
          for (const guest of house.those('waiting')) house.abandon(guest)
          for (const guest of house.those('serving')) house.finish(guest)
          const { ccu, admitted, completed, aborted } = house.places.figures()
          expect([ccu, admitted, completed + aborted]).toEqual([0, house.guests.length, house.guests.length])
          seen.cap += house.refused.cap
          seen.queue += house.refused.queue
          seen.timeouts += house.guests.filter(({ end }) => end === 'timeout').length
          seen.waits += house.guests.filter(({ end }) => end === 'served').length
        },
      ),
      { numRuns: 500 },
    )
    for (const [what, times] of Object.entries(seen)) expect(times, what).toBeGreaterThan(10)
  })
})

describe('a thread that is slow to look at what it was granted', () => {
  const step = fc.tuple(fc.constantFrom('arrive', 'arrive', 'finish', 'abandon', 'look'), fc.nat(2), fc.nat(20))

  it('nobody is overtaken by another thread, whenever each looks', () => {
    let unseen = 0
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 6 }),
        fc.array(step, { minLength: 10, maxLength: 120, size: 'max' }),
        (workers, steps) => {
          const house = new House(limits({ maxCCU: 40, workers, maxQueue: 40 }), 3)
          house.settle = () => {}
          // Who serves and who waits, had each thread looked at once.
          const serving = new Set<Guest>()
          const waiting: Guest[] = []
          const serveNext = () => {
            const next = waiting.shift()
            if (next !== undefined) serving.add(next)
          }
          for (const [what, thread, which] of steps) {
            if (what === 'arrive') {
              const guest = house.arrive(thread)
              if (guest === undefined) continue
              if (serving.size < workers) serving.add(guest)
              else waiting.push(guest)
            } else if (what === 'look') house.scopes[thread]!.takeSignals()
            else {
              const those = house.those(what === 'finish' ? 'serving' : 'waiting')
              const guest = those[which % (those.length || 1)]
              if (guest === undefined) continue
              if (what === 'finish') house.finish(guest)
              else house.abandon(guest)
              if (serving.delete(guest)) serveNext()
              else waiting.splice(waiting.indexOf(guest), 1)
            }
            if ([...serving].some(({ state }) => state === 'waiting')) unseen++
          }
          for (let i = 0; i < 2; i++) for (const scope of house.scopes) scope.takeSignals()
          expect(new Set(house.those('serving').map(({ order }) => order))).toEqual(
            new Set([...serving].map(({ order }) => order)),
          )
          house.check()
        },
      ),
      { numRuns: 500 },
    )
    expect(unseen, 'grants that were not looked at').toBeGreaterThan(100)
  })

  it('has so many at most; what falls free beyond goes to those of other threads, and comes to it when it looks', () => {
    const house = new House(limits({ maxCCU: 60, workers: 20, maxQueue: 40 }))
    for (let i = 0; i < 20; i++) house.arrive(0)
    house.settle = () => {}
    for (let i = 0; i < 15; i++) house.arrive(1)
    const late = house.arrive(0)!
    for (const guest of house.those('serving').slice(0, 10)) house.finish(guest)
    expect(late.state).toBe('serving')
    expect(house.places.inService).toBe(19)
    house.scopes[1]!.takeSignals()
    expect(house.those('serving')).toHaveLength(20)
    house.check()
  })
})

describe('the queue', () => {
  const full = (over: Partial<ScopeLimits> = {}) => {
    const house = new House(limits({ maxCCU: 10, workers: 1, maxQueue: 5, ...over }))
    house.arrive(0)
    return house
  }

  it('is one over all threads, in the order of arrival', () => {
    const house = full()
    for (const thread of [1, 0, 1, 1, 0]) house.arrive(thread)
    for (let i = 0; i < 5; i++) house.finish(house.those('serving')[0]!)
    expect(house.served).toEqual([0, 1, 2, 3, 4, 5])
  })

  it('who leaves is passed over', () => {
    const house = full()
    const [, second, third, fourth] = [0, 1, 0, 1].map((thread) => house.arrive(thread)!)
    house.abandon(second!)
    house.abandon(fourth!)
    for (let i = 0; i < 2; i++) house.finish(house.those('serving')[0]!)
    expect(house.served).toEqual([0, 1, third!.order])
    house.check()
  })

  it('has a bound; who comes beyond it is told at once and holds nothing', () => {
    const house = full({ maxQueue: 2 })
    for (let i = 0; i < 4; i++) house.arrive(i % 2)
    expect(house.refused.queue).toBe(2)
    house.check()
  })

  it('may have no room at all', () => {
    const house = full({ maxQueue: 0 })
    house.arrive(0)
    expect(house.refused.queue).toBe(1)
    house.check()
  })

  it('lets go who has waited for its time, not a millisecond before', () => {
    const house = full({ queueTimeoutMs: 100 })
    const early = house.arrive(0, 1000)!
    const late = house.arrive(1, 1050)!
    house.tick(1099)
    expect([early.state, late.state]).toEqual(['waiting', 'waiting'])
    house.tick(1100)
    expect([early.end, late.state]).toEqual(['timeout', 'waiting'])
    house.tick(1150)
    expect(late.end).toBe('timeout')
    house.check()
    expect(house.places.figures()).toMatchObject({ aborted: 2, ccu: 1 })
  })

  it('without a time lets nobody go', () => {
    const house = full({ queueTimeoutMs: 0 })
    house.arrive(0, 0)
    house.tick(1e9)
    expect(house.those('waiting')).toHaveLength(1)
  })

  it('is emptied at the end of the drain', () => {
    const house = full()
    for (const thread of [0, 1, 0]) house.arrive(thread)
    expect(house.scopes.map((scope) => scope.refuseAll())).toEqual([2, 1])
    house.check()
    expect(house.those('waiting')).toEqual([])
  })
})

describe('limits that change under load', () => {
  it('more workers: those who wait are served at once', () => {
    const house = new House(limits({ maxCCU: 10, workers: 1, maxQueue: 9 }))
    for (let i = 0; i < 5; i++) house.arrive(i % 2)
    for (const scope of house.scopes) scope.limits = { ...house.settings, workers: 4 }
    house.settle()
    expect(house.those('serving')).toHaveLength(4)
  })

  it('a lower cap: nobody is thrown out, nobody comes in until it fits', () => {
    const house = new House(limits({ maxCCU: 4, workers: 4 }))
    for (let i = 0; i < 4; i++) house.arrive(0)
    for (const scope of house.scopes) scope.limits = { ...house.settings, maxCCU: 2 }
    expect(house.places.ccu).toBe(4)
    for (let i = 0; i < 2; i++) {
      house.finish(house.those('serving')[0]!)
      expect(house.arrive(1)).toBeUndefined()
    }
    house.finish(house.those('serving')[0]!)
    expect(house.arrive(1)).toBeDefined()
  })
})

describe('an exchange refused by a cap inside this one', () => {
  it('was never admitted', () => {
    const { places } = new House()
    expect(places.enter(0)).toBe(ENTERED)
    places.undoEnter(0)
    expect(places.figures()).toMatchObject({ ccu: 0, admitted: 0, aborted: 0, skew: 0 })
  })
})

describe('a thread that dies', () => {
  it('gives back what it held; who waits elsewhere gets it; its exchanges count as aborted', () => {
    const house = new House(limits({ maxCCU: 10, workers: 2, maxQueue: 8 }))
    for (const thread of [0, 0, 0, 1, 0, 1]) house.arrive(thread)
    const supervisor = new Places(house.memory, 2, -1, house.settings)
    supervisor.reclaim(0)
    house.scopes[1]!.takeSignals()
    expect(house.guests.filter(({ thread, state }) => thread === 1 && state === 'serving')).toHaveLength(2)
    expect(supervisor.figures()).toMatchObject({
      ccu: 2,
      inService: 2,
      waiting: 0,
      admitted: 6,
      completed: 0,
      aborted: 4,
      skew: 0,
    })
  })
})

describe('Retry-After', () => {
  it('is at least a second, at most a minute, and longer the more wait', () => {
    const house = new House(limits({ maxCCU: 1000, workers: 1, maxQueue: 900, queueTimeoutMs: 0 }))
    const [scope] = house.scopes
    expect(scope!.retryAfterSec(0)).toBe(1)
    for (let i = 0; i < 41; i++) house.arrive(0)
    house.tick(1000)
    for (let i = 0; i < 10; i++) house.finish(house.those('serving')[0]!)
    house.tick(2000)
    // Ten a second went, thirty wait: three seconds and a bit, with jitter up to half as much again.
    const [least, most] = [scope!.retryAfterSec(0), scope!.retryAfterSec(0.999)]
    expect(least).toBeGreaterThanOrEqual(3)
    expect(most).toBeGreaterThan(least)
    expect(most).toBeLessThanOrEqual(60)
  })
})
