import { describe, expect, it } from 'vitest'
import { cookieValue } from '../../../src/http/cookie.ts'

describe('cookie value', () => {
  it.each([
    ['sid=1', '1'],
    ['xsid=0; sid=1', '1'],
    ['sid=a=b', 'a=b'],
    ['sid=', ''],
    ['sid', ''],
    [';; ;sid=1;', '1'],
    ['', ''],
    [undefined, ''],
  ])('of sid in %j', (field, expected) => {
    expect(cookieValue(field, 'sid')).toBe(expected)
  })
})
