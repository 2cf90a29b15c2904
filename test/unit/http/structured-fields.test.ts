import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { parseDictionary, Token } from '../../../src/http/structured-fields.ts'

describe('parseDictionary', () => {
  it('reads every kind of item', () => {
    const members = parseDictionary(
      'a, b=?0, c=-12.5, d="x\\"y", e=tok/en;p=1, f=:aGk=:, g=(1 "two" three);q, h=@1659578233',
    )
    expect(members).toEqual(
      new Map<string, unknown>([
        ['a', true],
        ['b', false],
        ['c', -12.5],
        ['d', 'x"y'],
        ['e', new Token('tok/en')],
        ['f', Buffer.from('hi')],
        ['g', [1, 'two', new Token('three')]],
        ['h', 1659578233],
      ]),
    )
  })

  it('lets the last of two members count', () => {
    expect(parseDictionary('a=1, b, a=2')).toEqual(
      new Map<string, unknown>([
        ['b', true],
        ['a', 2],
      ]),
    )
  })

  it.each([
    'A',
    'a=',
    'a,',
    'a b',
    'a=1.',
    'a=1234567890123456',
    'a="x',
    'a=(1',
    'a=(1 2)x',
    'a;B',
    'a=?2',
    '=1',
    ',a',
  ])('refuses %j', (text) => expect(parseDictionary(text)).toBeUndefined())

  it('never throws, and keeps __proto__ a key', () => {
    fc.assert(fc.property(fc.string(), (text) => void parseDictionary(text)))
    expect(parseDictionary('*proto=1')?.get('*proto')).toBe(1)
  })
})
