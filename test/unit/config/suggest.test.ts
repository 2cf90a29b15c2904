import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { editDistance, suggest } from '../../../src/config/suggest.ts'

describe('a suggestion', () => {
  const known = ['upstream', 'upstreams', 'maxCCU', 'maxQueue', 'rateLimit', 'compression', 'match']

  it.each([
    ['upsteam', 'upstream'],
    ['max_ccu', 'maxCCU'],
    ['MAXCCU', 'maxCCU'],
    ['macth', 'match'],
    ['compress', 'compression'],
    ['rate-limit', 'rateLimit'],
  ])('for %s is %s', (word, expected) => {
    expect(suggest(word, known)).toBe(expected)
  })

  it.each(['', 'x', 'timeout', '日本語', 'a'.repeat(10_000)])('is not made for what is far from all', (word) => {
    expect(suggest(word, known)).toBeUndefined()
  })

  it('counts edits the same in both directions', () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 12 }), fc.string({ maxLength: 12 }), (a, b) => {
        expect(editDistance(a, b)).toBe(editDistance(b, a))
        expect(editDistance(a, a)).toBe(0)
        expect(editDistance(a, b)).toBeLessThanOrEqual(Math.max(a.length, b.length))
      }),
    )
  })
})
