import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { parseRange } from '../../../src/http/range.ts'

describe('parseRange', () => {
  it.each([
    ['bytes=0-1', { start: 0, end: 1 }],
    ['bytes=1-', { start: 1, end: 9 }],
    ['bytes=-1', { start: 9, end: 9 }],
    ['bytes=-99', { start: 0, end: 9 }],
    ['bytes=5-99', { start: 5, end: 9 }],
    ['BYTES=0-0', { start: 0, end: 0 }],
    ['bytes=10-', 'unsatisfiable'],
    ['bytes=-0', 'unsatisfiable'],
    ['bytes=5-4', undefined],
    ['bytes=0-1,3-4', undefined],
    ['lines=0-1', undefined],
    ['bytes=', undefined],
    ['bytes=-', undefined],
  ])('%s of ten bytes', (header, expected) => expect(parseRange(header, 10)).toEqual(expected))

  it('never leaves the body', () => {
    fc.assert(
      fc.property(fc.nat(), fc.nat(), fc.nat(100), (a, b, length) => {
        const range = parseRange(`bytes=${a}-${b}`, length)
        if (typeof range !== 'object') return
        expect(range.start).toBeLessThanOrEqual(range.end)
        expect(range.end).toBeLessThan(length)
      }),
    )
  })
})
