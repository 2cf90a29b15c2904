import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { parseCacheControl, parseTargetedCacheControl } from '../../../src/http/cache-control.ts'

describe('parseCacheControl', () => {
  it('reads directives in any case, with spaces and unknown ones between', () => {
    const cc = parseCacheControl('foobar, MaX-aGe=003600 ,No-StOrE,, x="a,b", s-maxage=5, public')
    expect(cc).toMatchObject({ maxAge: 3600, noStore: true, sMaxAge: 5, public: true })
  })

  it('does not look into quoted strings', () => {
    expect(parseCacheControl('extension="max-age=3600", max-age=1').maxAge).toBe(1)
    expect(parseCacheControl('max-age=1, extension="max-age=3600"').maxAge).toBe(1)
    expect(parseCacheControl('extension="a\\", no-store"').noStore).toBe(false)
  })

  it.each(["'3600'", '-3600', '3600.0', 'a3600', '3600a', ' 3600', ''])('counts max-age=%s as stale', (value) => {
    expect(parseCacheControl(`max-age=${value}`).maxAge).toBe(0)
  })

  it('counts max-age with a space before its sign as stale', () => {
    expect(parseCacheControl('max-age =3600').maxAge).toBe(0)
  })

  it('accepts a quoted number, takes the first of two, and bounds large ones', () => {
    expect(parseCacheControl('max-age="3600"').maxAge).toBe(3600)
    expect(parseCacheControl('max-age=1, max-age=1800').maxAge).toBe(1)
    expect(parseCacheControl('max-age=99999999999').maxAge).toBe(2 ** 31)
  })

  it('tells a list of fields from the whole answer', () => {
    expect(parseCacheControl('no-cache="a, B"').noCache).toEqual(['a', 'b'])
    expect(parseCacheControl('no-cache="a", no-cache').noCache).toBe(true)
    expect(parseCacheControl('private').private).toBe(true)
  })

  it('reads max-stale without a value as any staleness', () => {
    expect(parseCacheControl('max-stale').maxStale).toBe(Number.POSITIVE_INFINITY)
    expect(parseCacheControl('max-stale=10').maxStale).toBe(10)
  })

  it('ends on any input', () => {
    fc.assert(fc.property(fc.string(), (text) => void parseCacheControl(text)))
    fc.assert(
      fc.property(fc.array(fc.constantFrom('"', ',', '=', ' ', 'max-age', '\\', '1')), (parts) => {
        parseCacheControl(parts.join(''))
      }),
    )
  })
})

describe('parseTargetedCacheControl', () => {
  it('reads a structured dictionary', () => {
    expect(parseTargetedCacheControl('foobar, max-age=3600;x=1, private')).toMatchObject({
      maxAge: 3600,
      private: true,
    })
    expect(parseTargetedCacheControl('max-age=99999999999')?.maxAge).toBe(2 ** 31)
  })

  it.each([
    '',
    'max-age=10000, &&&&&',
    'max-age="10000"',
    'MaX-aGe=3600',
    'max-age =100',
    'max-age= 100',
    'no-store=1',
    'max-age=-1',
  ])('ignores %j whole', (text) => expect(parseTargetedCacheControl(text)).toBeUndefined())
})
