/** The chunked coding, rule by rule (RFC 9112 §7.1). */

import { describe, expect, it } from 'vitest'
import { ChunkedDecoder } from '../../../src/http1/chunked.ts'

interface Decoded {
  body: string
  trailers: string
  error: string
  done: boolean
  /** Where it stopped. */
  at: number
}

function decode(text: string, pieceBytes = text.length || 1, decoder = new ChunkedDecoder()): Decoded {
  const bytes = Buffer.from(text, 'latin1')
  let body = ''
  let at = 0
  decoder.reset()
  while (at < bytes.length && !decoder.done && decoder.error === '') {
    const end = Math.min(bytes.length, at + pieceBytes - (at % pieceBytes))
    at = decoder.next(bytes, at, end)
    body += bytes.toString('latin1', decoder.dataStart, decoder.dataEnd)
  }
  return { body, trailers: decoder.done ? decoder.trailers : '', error: decoder.error, done: decoder.done, at }
}

/** In one piece and byte by byte. */
function both(text: string): Decoded {
  const whole = decode(text)
  expect(decode(text, 1), 'byte by byte').toEqual(whole)
  return whole
}

describe('a chunked body', () => {
  it.each([
    ['0\r\n\r\n', ''],
    ['3\r\nabc\r\n0\r\n\r\n', 'abc'],
    ['1\r\na\r\n2\r\nbc\r\n0\r\n\r\n', 'abc'],
    ['A\r\n0123456789\r\na\r\nabcdefghij\r\n0\r\n\r\n', '0123456789abcdefghij'],
    ['0000000000003\r\nabc\r\n0000000000000\r\n\r\n', 'abc'],
    ['3;a=b\r\nabc\r\n0;c\r\n\r\n', 'abc'],
    ['3;a="\xfc\t"\r\nabc\r\n0\r\n\r\n', 'abc'],
    ['5\r\n\r\n0\r\n\r\n0\r\n\r\n', '\r\n0\r\n'],
  ])('%j', (text, body) => {
    expect(both(text)).toEqual({ body, trailers: '', error: '', done: true, at: text.length })
  })

  it('ends where it ends: what follows is left for the next message', () => {
    const text = '1\r\na\r\n0\r\n\r\n'
    expect(both(`${text}GET / HTTP/1.1`).at).toBe(text.length)
  })

  it.each(['3', '3\r', '3\r\nab', '3\r\nabc', '3\r\nabc\r\n', '3\r\nabc\r\n0\r\n', '0\r\nX: 1\r\n', '0\r\n\r'])(
    '%j is not the end',
    (text) => expect(both(text)).toMatchObject({ done: false, error: '' }),
  )

  it.each([
    ['no size', '\r\n'],
    ['an extension without a size', ';a\r\n'],
    ['0x', '0x3\r\nabc\r\n'],
    ['a sign', '+3\r\nabc\r\n'],
    ['a minus', '-1\r\n'],
    ['a space behind the size', '3 \r\nabc\r\n'],
    ['a space before the size', ' 3\r\nabc\r\n'],
    ['a tab behind the size', '3\t\r\nabc\r\n'],
    ['a size that is no number', 'g\r\n'],
    ['a size of 14 digits', '00000000000003\r\nabc\r\n'],
    ['a size beyond 2^52', 'fffffffffffffffff\r\n'],
    ['a bare LF behind the size', '3\nabc\r\n'],
    ['a bare CR behind the size', '3\rabc\r\n'],
    ['a bare LF in an extension', '3;a\nb\r\nabc\r\n'],
    ['a bare CR in an extension', '3;a\rb\r\nabc\r\n'],
    ['a NUL in an extension', '3;a\0\r\nabc\r\n'],
    ['a chunk longer than its size', '3\r\nabcd\r\n'],
    ['a chunk shorter than its size', '4\r\nabc\r\n0\r\n\r\n'],
    ['a bare LF behind the data', '3\r\nabc\n0\r\n\r\n'],
    ['a bare CR behind the data', '3\r\nabc\r0\r\n\r\n'],
    ['a bare LF for the end', '0\r\n\n'],
    ['CR x for the end', '0\r\n\rx'],
    ['a trailer without a name', '0\r\n: a\r\n\r\n'],
    ['a trailer without a colon', '0\r\nX\r\n\r\n'],
    ['a space before a trailer’s colon', '0\r\nX : a\r\n\r\n'],
    ['a folded trailer', '0\r\nX: a\r\n b\r\n\r\n'],
    ['a bare LF in a trailer', '0\r\nX: a\nY: b\r\n\r\n'],
    ['a bare CR in a trailer', '0\r\nX: a\rY: b\r\n\r\n'],
    ['a NUL in a trailer', '0\r\nX: a\0\r\n\r\n'],
    ['a byte that no name has', '0\r\nX\xfc: a\r\n\r\n'],
    ['a request in place of trailers', '0\r\nGET / HTTP/1.1\r\n\r\n'],
  ])('%s is refused', (_title, text) => {
    const { error, done } = both(text)
    expect(error).not.toBe('')
    expect(done).toBe(false)
  })

  it('says at which byte it stopped', () => {
    expect(both('3\r\nabcX').at).toBe(6)
    expect(both('3\r\nabc\r\nG').at).toBe(8)
  })

  it('is read by the same decoder after another that broke off', () => {
    const decoder = new ChunkedDecoder()
    decode('5;abc\r\nab', 3, decoder)
    decode('0\r\nX: y', 3, decoder)
    decode('!', 3, decoder)
    expect(decode('1\r\na\r\n0\r\nY: z\r\n\r\n', 3, decoder)).toMatchObject({
      body: 'a',
      trailers: 'Y: z\r\n',
      done: true,
    })
  })
})

describe('bounds', () => {
  const extension = (bytes: number) => `1;${'x'.repeat(bytes)}\r\na\r\n`

  it('an extension of 1 KiB passes, one byte more is refused', () => {
    expect(both(extension(1024)).error).toBe('')
    expect(both(extension(1025)).error).toBe('chunk extensions are too long')
  })

  it('tiny chunks with long extensions are refused in the end', () => {
    expect(both(extension(1000).repeat(16)).error).toBe('')
    expect(both(extension(1000).repeat(17)).error).toBe('chunk extensions are too long')
  })

  it('chunks that carry more than their extensions may go on for ever', () => {
    const signed = `1000;chunk-signature=${'a'.repeat(64)}\r\n${'d'.repeat(4096)}\r\n`
    expect(decode(signed.repeat(500)).error).toBe('')
  })

  const trailers = (bytes: number) => `0\r\nX: ${'v'.repeat(bytes - 6)}\r\n\r\n`
  it('trailers of 8 KiB pass, one byte more is refused, at the same byte', () => {
    expect(both(trailers(8192)).done).toBe(true)
    expect(both(trailers(8193))).toMatchObject({ error: 'the trailers are too large', at: 8192 })
    expect(both(`0\r\n${'N'.repeat(9000)}`).error).toBe('the trailers are too large')
  })

  it('many short trailers are bounded too', () => {
    expect(both(`0\r\n${'X:\r\n'.repeat(1600)}\r\n`).done).toBe(true)
    expect(both(`0\r\n${'X:\r\n'.repeat(1700)}\r\n`).error).toBe('the trailers are too large')
  })

  it('white space inside a trailer costs no time', () => {
    const startedMs = performance.now()
    for (let i = 0; i < 50; i++) decode(`0\r\nX: a${' '.repeat(8000)}b\r\n\r\n`)
    expect(performance.now() - startedMs).toBeLessThan(500)
  })
})

describe('trailers', () => {
  it.each([
    ['X-Checksum: abc', 'X-Checksum: abc\r\n'],
    ['X:a', 'X: a\r\n'],
    ['X: \t a b \t', 'X: a b\r\n'],
    ['X:', 'X: \r\n'],
    ['X: \xfc', 'X: \xfc\r\n'],
    ['A: 1\r\nB: 2\r\nA: 3', 'A: 1\r\nB: 2\r\nA: 3\r\n'],
    ['__proto__: 1\r\nconstructor: 1', 'constructor: 1\r\n'],
    ['ETag: "x"', 'ETag: "x"\r\n'],
    ['grpc-status: 0\r\ngrpc-message: ok', 'grpc-status: 0\r\ngrpc-message: ok\r\n'],
  ])('%j go on', (text, expected) => expect(both(`0\r\n${text}\r\n\r\n`).trailers).toBe(expected))

  it.each([
    'Transfer-Encoding: chunked',
    'content-length: 5',
    'Host: x',
    'Connection: close',
    'Trailer: x',
    'TE: trailers',
    'Upgrade: h2c',
    'Keep-Alive: timeout=5',
    'Authorization: x',
    'Proxy-Authorization: x',
    'Cookie: a=b',
    'Set-Cookie: a=b',
    'Content-Encoding: gzip',
    'Content-Type: text/html',
    'Content-Range: bytes 0-1/2',
    'Cache-Control: max-age=9',
    'Expect: 100-continue',
    'X-Forwarded-For: 1.2.3.4',
    'X-Real-IP: 1.2.3.4',
    'Forwarded: for=1.2.3.4',
    'X-Request-ID: x',
    'X-API-Key: x',
    'Location: /',
    'Vary: *',
    'under_score: 1',
  ])('%s has no place there (RFC 9110 §6.5.1)', (line) => {
    expect(both(`0\r\n${line}\r\nX: y\r\n\r\n`)).toMatchObject({ trailers: 'X: y\r\n', done: true })
  })
})
