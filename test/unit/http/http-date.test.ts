import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { formatHttpDate, parseHttpDate } from '../../../src/http/http-date.ts'

const NOW = Date.UTC(2026, 0, 1)
const AT = Date.UTC(2050, 7, 18, 2, 1, 18)

describe('parseHttpDate', () => {
  it.each([
    ['Thu, 18 Aug 2050 02:01:18 GMT', AT],
    ['THU, 18 AUG 2050 02:01:18 gMT', AT],
    ['Thursday, 18-Aug-50 02:01:18 GMT', AT],
    ['Thu Aug 18 02:01:18 2050', AT],
    ['Thu Aug  8 02:01:18 2050', AT - 10 * 86_400_000],
    ['Sunday, 06-Nov-94 08:49:37 GMT', Date.UTC(1994, 10, 6, 8, 49, 37)],
    ['Sat, 31 Dec 2016 23:59:60 GMT', Date.UTC(2017, 0, 1)],
  ])('reads %s', (text, ms) => expect(parseHttpDate(text, NOW)).toBe(ms))

  it.each([
    '',
    '0',
    'foo',
    'Thu, 18 Aug 2050 02:01:18 UTC',
    'Thu, 18 Aug 2050 02:01:18 AEST',
    'Thu, 18 Aug 50 02:01:18 GMT',
    'Thu 18 Aug 2050 02:01:18 GMT',
    'Thu, 18  Aug  2050 02:01:18 GMT',
    'Thu, 18-Aug-2050 02:01:18 GMT',
    'Thu, 18 Aug 2050 02.01.18 GMT',
    'Thu, 18 Aug 2050 2:01:18 GMT',
    'Thu, 31 Feb 2050 02:01:18 GMT',
    'Thu, 18 Aug 2050 24:01:18 GMT',
    'Thu, 18 Aug 2050 02:01:18 GMT, Thu, 18 Aug 2050 02:01:19 GMT',
  ])('refuses %j', (text) => expect(parseHttpDate(text, NOW)).toBeNaN())

  it('reads back every date it writes', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 4_102_444_800 }), (seconds) => {
        expect(parseHttpDate(formatHttpDate(seconds * 1000 + 999), NOW)).toBe(seconds * 1000)
      }),
    )
  })
})
