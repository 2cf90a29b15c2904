import { describe, expect, it } from 'vitest'
import { ifRangeHolds, isNotModified, matchesEntityTag, weaken } from '../../../src/http/conditional.ts'

const NOW = Date.UTC(2026, 0, 1)
const LM = 'Wed, 01 Jan 2020 00:00:00 GMT'
const stored = { etag: '"abc"', lastModified: LM, modifiedMs: Date.UTC(2020, 0, 1) }

describe('matchesEntityTag', () => {
  it.each([
    ['"abc"', '"abc"', true],
    ['W/"abc"', '"abc"', true],
    ['"abc"', 'W/"abc"', true],
    ['"1", "abc", "2"', '"abc"', true],
    ['"a,bc", "abc"', '"abc"', true],
    ['"1"', '"abc"', false],
    ['abc', '"abc"', false],
    ['abc', 'abc', true],
    ['w/"abc"', 'w/"abc"', true],
    ['*', undefined, true],
    ['"abc"', undefined, false],
    ['', '"abc"', false],
  ])('%s against %s', (header, etag, expected) => expect(matchesEntityTag(header, etag)).toBe(expected))
})

describe('isNotModified', () => {
  it('lets If-None-Match decide alone when it is there', () => {
    expect(isNotModified('"abc"', 'Mon, 01 Jan 2001 00:00:00 GMT', stored, NOW)).toBe(true)
    expect(isNotModified('"x"', 'Thu, 01 Jan 2026 00:00:00 GMT', stored, NOW)).toBe(false)
  })
  it('compares dates, the obsolete form too, and ignores what is none', () => {
    expect(isNotModified(undefined, LM, stored, NOW)).toBe(true)
    expect(isNotModified(undefined, 'Wednesday, 01-Jan-20 00:00:00 GMT', stored, NOW)).toBe(true)
    expect(isNotModified(undefined, 'Tue, 31 Dec 2019 23:59:59 GMT', stored, NOW)).toBe(false)
    expect(isNotModified(undefined, 'nonsense', stored, NOW)).toBe(false)
    expect(isNotModified(undefined, undefined, stored, NOW)).toBe(false)
  })
})

describe('ifRangeHolds', () => {
  it('wants a strong match', () => {
    expect(ifRangeHolds('"abc"', stored)).toBe(true)
    expect(ifRangeHolds('W/"abc"', stored)).toBe(false)
    expect(ifRangeHolds('W/"abc"', { ...stored, etag: 'W/"abc"' })).toBe(false)
    expect(ifRangeHolds(LM, stored)).toBe(true)
    expect(ifRangeHolds('Thu, 02 Jan 2020 00:00:00 GMT', stored)).toBe(false)
  })
})

it('weakens a tag once', () => {
  expect(weaken('"a"')).toBe('W/"a"')
  expect(weaken('W/"a"')).toBe('W/"a"')
})
