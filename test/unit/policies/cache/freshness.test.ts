import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { splitFieldLines } from '../../../../src/http/field-lines.ts'
import { formatHttpDate } from '../../../../src/http/http-date.ts'
import { assessFreshness, type Freshness, type FreshnessPolicy } from '../../../../src/policies/cache/freshness.ts'

const NOW = Date.UTC(2026, 0, 1, 12)
const at = (seconds: number) => formatHttpDate(NOW + seconds * 1000)

function assess(
  fields: string[],
  policy: Partial<FreshnessPolicy> = {},
  { delayMs = 0, authorized = false, status = 200 } = {},
) {
  return assessFreshness(
    {
      status,
      lines: splitFieldLines(fields.map((line) => `${line}\r\n`).join('')),
      authorized,
      requestMs: NOW - delayMs,
      responseMs: NOW,
    },
    {
      ttlMs: 0,
      heuristicPercent: 0,
      respectOrigin: true,
      staleWhileRevalidateMs: 0,
      staleIfErrorMs: 0,
      staleIfShedMs: 0,
      ...policy,
    },
  )
}

/** Seconds for which the answer may still be used when it comes. */
function freshSec(...args: Parameters<typeof assess>): number {
  const { bornMs, lifetimeMs } = assess(...args) as Freshness
  return (bornMs + lifetimeMs - NOW) / 1000
}

describe('the freshness that is left', () => {
  it.each([
    [['Cache-Control: max-age=60'], 60],
    [['Cache-Control: max-age=60', 'Age: 20'], 40],
    [['Cache-Control: max-age=60', 'Age: 20, 50'], 40],
    [['Cache-Control: max-age=60', 'Age: -1'], 60],
    [['Cache-Control: max-age=60', 'Age: 1.5'], 60],
    [['Cache-Control: max-age=60', `Date: ${at(-30)}`], 30],
    [['Cache-Control: max-age=60', `Date: ${at(-30)}`, 'Age: 50'], 10],
    [['Cache-Control: max-age=60', `Date: ${at(30)}`], 60],
    [['Cache-Control: max-age=60', `Expires: ${at(10)}`], 60],
    [['Cache-Control: max-age=60, s-maxage=5'], 5],
    [[`Expires: ${at(10)}`, `Date: ${at(-5)}`], 10],
    [[`Expires: ${at(300)}`, `Date: ${at(400)}`], 0],
    [[`Expires: ${at(10)}`, 'Date: foo'], 10],
    [[`Expires: ${at(10)}`, `Expires: ${at(20)}`], 0],
    [['Expires: 0'], 0],
    [['CDN-Cache-Control: max-age=9', `Expires: ${at(100)}`, 'Cache-Control: no-store'], 9],
    [['CDN-Cache-Control: max-age="9"', 'Cache-Control: max-age=60'], 60],
  ])('%j is %i s', (fields, seconds) => expect(freshSec(fields)).toBe(seconds))

  it('is shorter by the time that the answer took', () => {
    expect(freshSec(['Cache-Control: max-age=60'], {}, { delayMs: 5000 })).toBe(55)
  })

  it('is the ttl where the origin says nothing, and only there', () => {
    expect(freshSec([], { ttlMs: 7000 })).toBe(7)
    expect(freshSec(['Cache-Control: max-age=60'], { ttlMs: 7000 })).toBe(60)
    expect(freshSec(['Cache-Control: max-age=60'], { ttlMs: 7000, respectOrigin: false })).toBe(7)
  })

  it('is guessed at most as a day', () => {
    const lines = ['Last-Modified: Mon, 01 Jan 2001 00:00:00 GMT']
    expect(freshSec(lines, { heuristicPercent: 10 })).toBe(86_400)
    expect(assess(lines, { heuristicPercent: 10 }, { status: 403 })).toBe('no-freshness')
    expect(freshSec([...lines, 'Cache-Control: public'], { heuristicPercent: 10 }, { status: 599 })).toBe(86_400)
  })
})

describe('stale use', () => {
  const policy = { staleWhileRevalidateMs: 1000, staleIfErrorMs: 2000, staleIfShedMs: 3000 }
  const windows = (control: string, more: Partial<FreshnessPolicy> = {}) => {
    const freshness = assess([`Cache-Control: ${control}`], { ...policy, ...more }) as Freshness
    return [
      freshness.staleWhileRevalidateMs,
      freshness.staleIfErrorMs,
      freshness.staleIfShedMs,
      freshness.staleOnRequest,
    ]
  }
  it.each([
    ['max-age=1', [1000, 2000, 3000, true]],
    ['max-age=1, stale-while-revalidate=9, stale-if-error=0', [9000, 0, 3000, true]],
    ['max-age=1, must-revalidate, stale-if-error=9', [0, 0, 0, false]],
    ['max-age=1, proxy-revalidate', [0, 0, 0, false]],
    ['no-cache', [0, 0, 0, false]],
    ['s-maxage=1', [0, 0, 0, false]],
    ['s-maxage=1, stale-while-revalidate=9', [9000, 0, 0, false]],
  ])('under %s', (control, expected) => expect(windows(control)).toEqual(expected))

  it('is the operator’s word alone where the origin is not respected', () => {
    expect(windows('no-cache, stale-if-error=0', { ttlMs: 5000, respectOrigin: false })).toEqual([
      1000,
      2000,
      3000,
      true,
    ])
  })
})

it('never stores what the origin forbids, however it is written and whatever else it says', () => {
  const forbidding = fc.constantFrom('no-store', 'private', 'No-Store', 'PRIVATE', 'no-store="x"')
  const other = fc.constantFrom('max-age=60', 'public', 's-maxage=9', 'x="a, b"', 'must-revalidate', 'immutable', '')
  fc.assert(
    fc.property(fc.array(other), forbidding, fc.array(other), fc.boolean(), (before, word, after, respectOrigin) => {
      const control = [...before, word, ...after].join(', ')
      expect(typeof assess([`Cache-Control: ${control}`], { ttlMs: 1000, respectOrigin, heuristicPercent: 10 })).toBe(
        'string',
      )
    }),
  )
})
