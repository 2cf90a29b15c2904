import { describe, expect, it } from 'vitest'
import { normaliseField, parseVary, variantKey } from '../../../src/http/vary.ts'

describe('parseVary', () => {
  it('sorts, lower-cases, and takes each name once', () => expect(parseVary('Foo, bar,, FOO')).toEqual(['bar', 'foo']))
  it.each(['*', '*, *', ', *', '*, Foo', 'Foo, *'])('sees the star in %j', (value) =>
    expect(parseVary(value)).toBe('*'),
  )
  it('has no names without the field', () => expect(parseVary(undefined)).toEqual([]))
})

describe('variantKey', () => {
  const key = (fields: Record<string, string>) => variantKey(['a', 'b'], (name) => fields[name])
  it('tells an absent field from an empty one', () => expect(key({ a: '' })).not.toBe(key({})))
  it('does not let values run into one another', () => expect(key({ a: '1', b: '2' })).not.toBe(key({ a: '1\n+2' })))
  it('ignores what is not listed', () => expect(key({ a: '1', c: '2' })).toBe(key({ a: '1' })))
})

describe('normaliseField', () => {
  it('drops white space around commas', () => expect(normaliseField('foo', ' 1, 2 ')).toBe('1,2'))
  it('leaves quoted text and cookies alone', () => {
    expect(normaliseField('foo', '"a, b"')).toBe('"a, b"')
    expect(normaliseField('cookie', 'a=1, 2')).toBe('a=1, 2')
  })
  it('ignores the case of languages, not their order', () => {
    expect(normaliseField('accept-language', 'eN ; q=0.5 , De')).toBe('en;q=0.5,de')
    expect(normaliseField('accept-language', 'en,de')).not.toBe(normaliseField('accept-language', 'de,en'))
  })
})
