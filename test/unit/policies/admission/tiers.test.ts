/** Tiers over two threads: the counts of random traffic add up at every step, and who goes before whom. */

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  createPlacesMemory,
  ENTERED,
  Places,
  REFUSED_FULL,
  REFUSED_PRESSURE,
  REFUSED_TIER,
} from '../../../../src/policies/admission/places.ts'
import type { Waiter } from '../../../../src/policies/admission/queue.ts'
import { Scope, type ScopeLimits } from '../../../../src/policies/admission/scope.ts'

const PREMIUM = 1
const STANDARD = 2
const BATCH = 3
const TIERS = [PREMIUM, STANDARD, BATCH]

function limits(over: Partial<ScopeLimits> = {}): ScopeLimits {
  const guarantees = new Array<number>(32).fill(0)
  guarantees[PREMIUM] = 0.5
  guarantees[STANDARD] = 0.3
  return {
    maxCCU: 10,
    workers: 6,
    maxQueue: 4,
    order: [PREMIUM, STANDARD, BATCH, 0],
    guarantees,
    queueTimeoutMs: 0,
    discipline: 'fifo',
    codelTargetMs: 5,
    codelIntervalMs: 100,
    ...over,
  }
}

type State = 'serving' | 'waiting' | 'gone'

/** An exchange as the policy would carry it. */
interface Guest {
  thread: number
  tier: number
  state: State
  ousted: boolean
  waiter: Waiter | undefined
}

/** Two threads on one memory, driven by hand. */
class House {
  readonly scopes: Scope[]
  guests: Guest[] = []

  constructor(settings: ScopeLimits = limits(), threads = 2) {
    const memory = createPlacesMemory(threads)
    this.scopes = Array.from(
      { length: threads },
      (_, t) => new Scope('', new Places(memory, threads, t, settings), settings, 1),
    )
  }

  get places(): Places {
    return this.scopes[0]!.places
  }

  come(thread: number, tier: number): { entry: number; guest: Guest | undefined } {
    const scope = this.scopes[thread]!
    const entry = scope.places.enterAndStart(tier)
    if (entry !== ENTERED) return { entry, guest: undefined }
    const guest: Guest = { thread, tier, state: 'waiting', ousted: false, waiter: undefined }
    this.guests.push(guest)
    if (scope.places.started) guest.state = 'serving'
    else {
      guest.waiter = scope.wait(tier, '', 0, (end) => {
        if (end === 'served') guest.state = 'serving'
        else {
          guest.ousted = end === 'ousted'
          this.#gone(guest)
        }
      })
      if (guest.waiter === undefined) this.#gone(guest)
    }
    return { entry, guest }
  }

  leave(guest: Guest): void {
    const scope = this.scopes[guest.thread]!
    if (guest.state === 'serving') {
      guest.state = 'gone'
      scope.places.finish(guest.tier, true)
    } else if (guest.state === 'waiting') {
      guest.ousted = scope.leave(guest.waiter!)
      this.#gone(guest)
    }
    this.guests = this.guests.filter(({ state }) => state !== 'gone')
  }

  #gone(guest: Guest): void {
    guest.state = 'gone'
    if (!guest.ousted) this.scopes[guest.thread]!.places.leave(guest.tier, true)
    this.guests = this.guests.filter(({ state }) => state !== 'gone')
  }

  signals(): void {
    for (let i = 0; i < 3; i++) for (const scope of this.scopes) scope.takeSignals()
  }

  of(tier: number, state: State): number {
    return this.guests.filter((guest) => guest.tier === tier && guest.state === state).length
  }

  fill(tier: number, n: number): void {
    for (let i = 0; i < n; i++) this.come(i % this.scopes.length, tier)
    this.signals()
  }
}

describe('whatever comes and goes on two threads', () => {
  it('no cap is passed, the ledger adds up, and nobody is forgotten', () => {
    const step = fc.record({
      what: fc.constantFrom(
        ...new Array<string>(9).fill('come'),
        'leave',
        'leave',
        'leave',
        'signals',
        'one',
        'share',
        'window',
      ),
      thread: fc.integer({ min: 0, max: 1 }),
      tier: fc.constantFrom(...TIERS),
      pick: fc.nat(1000),
    })
    fc.assert(
      fc.property(
        fc.array(step, { minLength: 30, maxLength: 150 }),
        fc.constantFrom('fifo', 'lifo'),
        fc.boolean(),
        (steps, discipline, dies) => {
          const house = new House(limits({ discipline: discipline as 'fifo' | 'lifo' }))
          const { places } = house
          let stamp = 0
          for (const { what, thread, tier, pick } of steps) {
            const before = places.ccu
            if (what === 'come') {
              const cap = places.cap
              house.come(thread, tier)
              expect(places.ccu).toBeLessThanOrEqual(Math.max(before, cap))
            } else if (what === 'leave' && house.guests.length > 0)
              house.leave(house.guests[pick % house.guests.length]!)
            else if (what === 'signals') house.signals()
            else if (what === 'one') house.scopes[thread]!.takeSignals()
            else if (what === 'share') house.scopes[thread]!.places.setShare(pick % 4 === 0 ? 0.5 : 1)
            else if (what === 'window') places.turnWindow(++stamp)
            const figures = places.figures()
            expect(figures.skew).toBe(0)
            expect(figures.ccu).toBeLessThanOrEqual(10)
            expect(figures.inService).toBeLessThanOrEqual(6)
            expect(figures.waiting).toBeLessThanOrEqual(4)
          }
          house.signals()
          const figures = places.figures()
          expect(figures.ccu).toBe(house.guests.length)
          expect(figures.inService).toBe(house.guests.filter(({ state }) => state === 'serving').length)
          for (const tier of TIERS) {
            expect(places.tier(tier).ccu).toBe(house.guests.filter((guest) => guest.tier === tier).length)
          }
          if (dies) {
            house.guests = house.guests.filter(({ thread }) => thread === 0)
            places.reclaim(1)
            house.signals()
            expect(places.figures()).toMatchObject({ ccu: house.guests.length, skew: 0 })
          }
          while (house.guests.length > 0) {
            house.leave(house.guests[0]!)
            house.signals()
          }
          expect(places.figures()).toMatchObject({ ccu: 0, inService: 0, waiting: 0, skew: 0 })
        },
      ),
      { numRuns: 300 },
    )
  })

  it('a thread that dies gives back what it held, and the other goes on', () => {
    const house = new House()
    house.fill(STANDARD, 10)
    const mine = house.guests.filter(({ thread }) => thread === 0)
    const supervisor = new Places(createPlacesMemory(1), 1, -1)
    expect(supervisor.ccu).toBe(0)
    house.scopes[0]!.places.reclaim(1)
    house.signals()
    const figures = house.places.figures()
    expect(figures).toMatchObject({ ccu: mine.length, waiting: 0, inService: mine.length, skew: 0 })
    for (const guest of mine) house.leave(guest)
    expect(house.places.figures()).toMatchObject({ ccu: 0, inService: 0, skew: 0 })
  })
})

describe('guarantees', () => {
  it('an unused guarantee is lent: one tier alone may have every place', () => {
    const house = new House()
    house.fill(BATCH, 12)
    expect(house.guests).toHaveLength(10)
    expect(house.come(0, BATCH).entry).toBe(REFUSED_FULL)
  })

  it('who is within its guarantee takes the place of a waiter that borrows, also one of another thread', () => {
    const house = new House()
    house.fill(BATCH, 10)
    expect(house.places.waiting).toBe(4)
    for (let i = 0; i < 4; i++) expect(house.come(0, PREMIUM).entry).toBe(ENTERED)
    house.signals()
    expect(house.places.ccu).toBe(10)
    expect(house.of(BATCH, 'waiting')).toBe(0)
    expect(house.of(PREMIUM, 'waiting')).toBe(4)
    // What is in service is lent until it ends.
    expect(house.come(0, PREMIUM).entry).toBe(REFUSED_TIER)
    for (const guest of house.guests.filter(({ tier }) => tier === BATCH)) {
      house.leave(guest)
      house.signals()
    }
    expect(house.of(PREMIUM, 'serving')).toBe(4)
  })

  it('what has come back is not lent again while its tier asks for it', () => {
    const house = new House(limits({ workers: 10, maxQueue: 0 }))
    house.fill(BATCH, 10)
    expect(house.come(0, PREMIUM).entry).toBe(REFUSED_TIER)
    house.leave(house.guests[0]!)
    expect(house.come(0, BATCH).entry).toBe(REFUSED_TIER)
    expect(house.come(1, PREMIUM).entry).toBe(ENTERED)
    // When it has not asked for two windows, the place is lent again.
    house.leave(house.guests.at(-1)!)
    house.places.turnWindow(1)
    house.places.turnWindow(2)
    house.places.turnWindow(3)
    expect(house.come(0, BATCH).entry).toBe(ENTERED)
  })

  it('for every mix of load a tier within its guarantee is refused only while its places are lent', () => {
    for (const others of [
      [0, 50],
      [50, 0],
      [50, 50],
    ]) {
      const house = new House(limits({ workers: 10, maxQueue: 0 }))
      let refused = 0
      for (let round = 0; round < 40; round++) {
        for (let i = 0; i < 50; i++) {
          // Whoever has just ended may be followed by anybody: the others ask first.
          if (i % 5 === 0 && house.guests.length > 0) house.leave(house.guests[(i * 7) % house.guests.length]!)
          if (i < others[0]!) house.come(0, STANDARD)
          if (i < others[1]!) house.come(1, BATCH)
          if (house.of(PREMIUM, 'serving') < 5 && house.come(0, PREMIUM).guest === undefined && round >= 5) refused++
        }
        house.places.turnWindow(round)
      }
      expect(refused, `standard ${others[0]}, batch ${others[1]}`).toBe(0)
    }
  })

  it('borrowing follows the order of the tiers: the lowest is shed first', () => {
    const house = new House(limits({ guarantees: new Array<number>(32).fill(0) }))
    house.fill(BATCH, 10)
    for (let i = 0; i < 3; i++) expect(house.come(1, STANDARD).entry).toBe(ENTERED)
    expect(house.come(0, PREMIUM).entry).toBe(ENTERED)
    house.signals()
    expect(house.of(BATCH, 'waiting')).toBe(0)
    // No batch waits any more: standard gives way to premium, never the other way round.
    expect(house.come(0, PREMIUM).entry).toBe(ENTERED)
    house.signals()
    expect(house.of(STANDARD, 'waiting')).toBe(2)
    expect(house.come(0, STANDARD).entry).toBe(REFUSED_FULL)
  })

  it('under pressure the cap shrinks, and the lowest tier is told so first', () => {
    const house = new House(limits({ workers: 10, maxQueue: 0 }))
    house.fill(PREMIUM, 2)
    house.fill(STANDARD, 1)
    house.scopes[1]!.places.setShare(0.5)
    expect(house.places.cap).toBe(5)
    house.fill(BATCH, 1)
    expect(house.come(0, BATCH).entry).toBe(REFUSED_PRESSURE)
    house.leave(house.guests.at(-1)!)
    house.scopes[1]!.places.setShare(1)
    expect(house.come(0, BATCH).entry).toBe(ENTERED)
  })
})

describe('the queue', () => {
  it('serves the tiers in order, but each up to its guarantee first', () => {
    const house = new House(limits({ workers: 2, maxQueue: 8 }))
    const order: string[] = []
    const names = ['', 'premium', 'standard', 'batch']
    house.fill(PREMIUM, 2)
    for (const tier of [BATCH, STANDARD, PREMIUM]) {
      const { guest } = house.come(0, tier)
      Object.assign(guest!.waiter!, {
        done: () => {
          guest!.state = 'serving'
          order.push(names[tier]!)
        },
      })
    }
    for (let i = 0; i < 3; i++) house.leave(house.guests.find(({ state }) => state === 'serving')!)
    expect(order).toEqual(['premium', 'standard', 'batch'])
  })
})
