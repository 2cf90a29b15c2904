/** Who is served next among those who wait, and when it is too late for them. */

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { createPlacesMemory, Places } from '../../../../src/policies/admission/places.ts'
import { type WaitEnd, type Waiter, WaitQueue } from '../../../../src/policies/admission/queue.ts'
import { Scope, type ScopeLimits } from '../../../../src/policies/admission/scope.ts'

function waiter(ticket: number, key = ''): Waiter {
  const links = { before: null, after: null, line: null, lineBefore: null, lineAfter: null }
  return { ticket, tier: 0, sinceMs: ticket, key, done: () => {}, ...links }
}

function drain(queue: WaitQueue, newestFirst = false): string {
  let order = ''
  for (let next = queue.take(newestFirst); next !== null; next = queue.take(newestFirst))
    order += `${next.key}${next.ticket} `
  return order.trim()
}

describe('the order', () => {
  it('is that of arrival, or the reverse', () => {
    for (const [newestFirst, order] of [
      [false, '1 2 3'],
      [true, '3 2 1'],
    ] as const) {
      const queue = new WaitQueue()
      for (const ticket of [1, 2, 3]) queue.push(waiter(ticket))
      expect(drain(queue, newestFirst)).toBe(order)
    }
  })

  it('is in turn between keys: ten requests of one do not stand before one of another', () => {
    const queue = new WaitQueue()
    for (let i = 0; i < 4; i++) queue.push(waiter(i, 'a'))
    queue.push(waiter(4, 'b'))
    queue.push(waiter(5, 'c'))
    queue.push(waiter(6, 'b'))
    expect(drain(queue)).toBe('a0 b4 c5 a1 b6 a2 a3')
  })

  it('holds whatever leaves in between', () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.record({
            op: fc.constantFrom('push', 'push', 'take', 'remove'),
            key: fc.constantFrom('', 'a', 'b'),
            at: fc.nat(),
          }),
        ),
        fc.boolean(),
        (ops, newestFirst) => {
          const queue = new WaitQueue()
          let inside: Waiter[] = []
          let ticket = 0
          for (const { op, key, at } of ops) {
            if (op === 'push') {
              const next = waiter(ticket++, key)
              inside.push(next)
              queue.push(next)
            } else if (op === 'take') {
              const taken = queue.take(newestFirst)
              expect(taken === null).toBe(inside.length === 0)
              inside = inside.filter((other) => other !== taken)
            } else if (inside.length > 0) {
              const gone = inside[at % inside.length]!
              queue.remove(gone)
              inside = inside.filter((other) => other !== gone)
            }
            expect(queue.size).toBe(inside.length)
            expect(queue.oldest).toBe(inside[0] ?? null)
            expect(queue.newest).toBe(inside.at(-1) ?? null)
          }
          const left = new Set<Waiter>()
          for (let next = queue.take(newestFirst); next !== null; next = queue.take(newestFirst)) left.add(next)
          expect(left).toEqual(new Set(inside))
        },
      ),
    )
  })
})

function limits(over: Partial<ScopeLimits>): ScopeLimits {
  return {
    maxCCU: 100,
    workers: 1,
    maxQueue: 50,
    order: [0],
    guarantees: new Array<number>(32).fill(0),
    queueTimeoutMs: 1000,
    discipline: 'fifo',
    codelTargetMs: 5,
    codelIntervalMs: 100,
    ...over,
  }
}

/** A scope with its one worker busy. */
function busy(over: Partial<ScopeLimits>) {
  const settings = limits(over)
  const scope = new Scope('', new Places(createPlacesMemory(1), 1, 0, settings), settings, 1)
  scope.places.enterAndStart(0)
  const ends: string[] = []
  const wait = (name: string, nowMs: number) => {
    scope.places.enter(0)
    return scope.wait(0, '', nowMs, (end: WaitEnd) => ends.push(`${name} ${end}`))
  }
  return { scope, ends, wait, next: () => scope.places.endService(0) }
}

describe('a scope whose worker is busy', () => {
  it('fifo serves the oldest, and refuses who has waited for queueTimeout', () => {
    const { scope, ends, wait, next } = busy({})
    wait('a', 0)
    wait('b', 600)
    wait('c', 700)
    next()
    scope.tick(1650)
    expect(ends).toEqual(['a served', 'b timeout'])
    scope.tick(1700)
    expect(ends.at(-1)).toBe('c timeout')
    expect(scope.size).toBe(0)
    expect(scope.places.waiting).toBe(0)
  })

  it('lifo serves the newest', () => {
    const { ends, wait, next } = busy({ discipline: 'lifo' })
    for (const name of ['a', 'b', 'c']) wait(name, 0)
    next()
    next()
    expect(ends).toEqual(['c served', 'b served'])
  })

  it('adaptive is fifo in a burst; when the queue does not empty, the newest go first and the old are dropped', () => {
    const { scope, ends, wait, next } = busy({ discipline: 'adaptive' })
    scope.tick(0)
    wait('a', 0)
    wait('b', 1)
    next()
    expect(ends).toEqual(['a served'])
    // The interval ends with somebody waiting longer than the target: overload.
    wait('c', 98)
    scope.tick(105)
    expect(scope.places.overloaded).toBe(true)
    expect(ends.at(-1)).toBe('b timeout')
    wait('d', 106)
    next()
    expect(ends.at(-1)).toBe('d served')
    scope.leave(wait('e', 107)!)
    next()
    // Empty again: back to the order of arrival.
    scope.tick(300)
    expect(scope.places.overloaded).toBe(false)
    wait('f', 301)
    wait('g', 302)
    next()
    expect(ends.at(-1)).toBe('f served')
  })

  it('predicts the wait from what waits and how fast places fall free', () => {
    const { scope, wait, next } = busy({})
    scope.tick(0)
    expect(scope.predictedWaitMs(0)).toBe(0)
    for (let i = 0; i < 20; i++) {
      wait('x', i)
      next()
    }
    scope.tick(1000)
    for (let i = 0; i < 9; i++) wait('y', 1000)
    expect(scope.predictedWaitMs(0)).toBeCloseTo(500, -1)
    expect(scope.retryAfterSec(0)).toBe(1)
  })

  it('at the end of a drain everybody who waits is told', () => {
    const { scope, ends, wait } = busy({})
    wait('a', 0)
    wait('b', 0)
    expect(scope.refuseAll()).toBe(2)
    expect(ends).toEqual(['a timeout', 'b timeout'])
  })
})
