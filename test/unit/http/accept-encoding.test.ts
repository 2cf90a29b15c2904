import { describe, expect, it } from 'vitest'
import { normaliseAcceptEncoding, pickEncoding } from '../../../src/http/accept-encoding.ts'

const OURS = ['zstd', 'br', 'gzip']

describe('pickEncoding', () => {
  it.each([
    [undefined, 'identity'],
    ['', 'identity'],
    ['gzip, deflate, br, zstd', 'zstd'],
    ['gzip, deflate, br', 'br'],
    ['GZIP', 'gzip'],
    ['x-gzip', 'gzip'],
    ['br;q=0.5, gzip;q=0.9', 'gzip'],
    ['*', 'zstd'],
    ['*;q=0', 'identity'],
    ['zstd;q=0, *', 'br'],
    ['gzip;q=0', 'identity'],
    ['gzip;q=nonsense', 'identity'],
    ['identity, gzip;q=0.5', 'identity'],
    ['identity;q=0.5, gzip;q=0.5', 'gzip'],
    ['deflate', 'identity'],
  ])('%s → %s', (header, expected) => expect(pickEncoding(header, OURS)).toBe(expected))

  it('follows the order of the operator among equals', () => {
    expect(pickEncoding('gzip, br, zstd', ['gzip', 'br'])).toBe('gzip')
  })
})

describe('normaliseAcceptEncoding', () => {
  it('gives one text to what means the same', () => {
    expect(normaliseAcceptEncoding('gzip, deflate, br')).toBe(normaliseAcceptEncoding('BR,gzip;q=1.0 , deflate'))
  })
  it('keeps apart what differs', () => {
    expect(normaliseAcceptEncoding('gzip')).not.toBe(normaliseAcceptEncoding('gzip;q=0.5'))
    expect(normaliseAcceptEncoding('identity;q=0')).not.toBe(normaliseAcceptEncoding(''))
  })
})
