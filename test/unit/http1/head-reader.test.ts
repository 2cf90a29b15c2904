/** Heads from the pieces of a stream. The property over all splits: test/fuzz/splits.test.ts. */

import { describe, expect, it } from 'vitest'
import { HeadReader } from '../../../src/http1/head-reader.ts'
import { type HeadLimits, NEED_MORE, PARSED, REFUSED } from '../../../src/http1/message-head.ts'

const LIMITS: HeadLimits = { headBytes: 8192, fields: 100, targetBytes: 1024 }
const HEAD = 'GET /a HTTP/1.1\r\nHost: a.test\r\n\r\n'

describe('a head reader', () => {
  it('reads in place and says where the head ends', () => {
    const reader = new HeadReader('request')
    const bytes = Buffer.from(`--${HEAD}body`)
    expect(reader.read(bytes, 2, bytes.length, LIMITS)).toBe(PARSED)
    expect(bytes.toString('latin1', reader.consumedTo)).toBe('body')
    expect(reader.partial).toBe(false)
  })

  it('goes on in the next piece; the first may be overwritten', () => {
    const reader = new HeadReader('request')
    const shared = Buffer.from(HEAD.slice(0, 10))
    expect(reader.read(shared, 0, 10, LIMITS)).toBe(NEED_MORE)
    expect(reader.partial).toBe(true)
    shared.fill('x')
    const rest = Buffer.from(`zz${HEAD.slice(10)}body`)
    expect(reader.read(rest, 2, rest.length, LIMITS)).toBe(PARSED)
    expect(rest.toString('latin1', reader.consumedTo)).toBe('body')
    expect([reader.head.target, reader.head.valueAt(0)]).toEqual(['/a', 'a.test'])
  })

  it('forgets half a head that broke off', () => {
    const reader = new HeadReader('request')
    reader.read(Buffer.from('POST /secret HTT'), 0, 16, LIMITS)
    reader.reset()
    const bytes = Buffer.from(HEAD)
    expect(reader.read(bytes, 0, bytes.length, LIMITS)).toBe(PARSED)
    expect(reader.head.target).toBe('/a')
  })

  it('keeps no more than the limit of a head that never ends', () => {
    const reader = new HeadReader('request')
    const piece = Buffer.from('a'.repeat(1000))
    expect(reader.read(Buffer.from('GET / HTTP/1.1\r\nX: '), 0, 19, LIMITS)).toBe(NEED_MORE)
    let pieces = 0
    while (reader.read(piece, 0, piece.length, LIMITS) === NEED_MORE) pieces++
    expect(pieces).toBe(8)
    expect(reader.head.error?.kind).toBe('headTooLarge')
  })

  it('refuses at the byte that is wrong, not at the end', () => {
    const reader = new HeadReader('request')
    expect(reader.read(Buffer.from('GET /'), 0, 5, LIMITS)).toBe(NEED_MORE)
    expect(reader.read(Buffer.from('\x01'), 0, 1, LIMITS)).toBe(REFUSED)
  })
})
