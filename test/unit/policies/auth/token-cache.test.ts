import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { TokenCache } from '../../../../src/policies/auth/token-cache.ts'

describe('the memory of tokens', () => {
  it('gives back what it was given', () => {
    const cache = new TokenCache<number>(10, 1000)
    cache.set('a', 1, 500, 1)
    expect(cache.get('a')).toMatchObject({ value: 1, untilMs: 500 })
    expect(cache.get('b')).toBeUndefined()
    cache.delete('a')
    expect(cache.get('a')).toBeUndefined()
  })

  it('keeps what is asked for while others come and go', () => {
    const cache = new TokenCache<number>(10, 1e9)
    cache.set('kept', 1, 0, 1)
    for (let i = 0; i < 1000; i++) {
      cache.set(`t${i}`, i, 0, 1)
      expect(cache.get('kept')?.value).toBe(1)
    }
    expect(cache.get('t0')).toBeUndefined()
  })

  it('is empty after the keys changed, and only then', () => {
    const cache = new TokenCache<number>(10, 1000)
    cache.keep(1)
    cache.set('a', 1, 0, 1)
    cache.keep(1)
    expect(cache.size).toBe(1)
    cache.keep(2)
    expect(cache.get('a')).toBeUndefined()
  })

  it('takes nothing that is larger than half of it', () => {
    const cache = new TokenCache<number>(10, 100)
    cache.set('a', 1, 0, 51)
    expect(cache.size).toBe(0)
  })

  it('never holds more entries or weight than it may', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(30), fc.integer({ min: 1, max: 60 }), fc.boolean())), (steps) => {
        const cache = new TokenCache<number>(10, 100)
        for (const [name, weight, ask] of steps) {
          const key = String(name)
          if (ask) cache.get(key)
          else cache.set(key, weight, 0, weight)
          expect(cache.size).toBeLessThanOrEqual(10)
          expect(cache.weight).toBeLessThanOrEqual(100)
        }
      }),
    )
  })
})
