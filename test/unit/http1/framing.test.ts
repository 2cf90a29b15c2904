/** What a head means for the bytes behind it (RFC 9112 §3, §6): Host, target, length, persistence, Expect. */

import { describe, expect, it } from 'vitest'
import {
  CHUNKED,
  declaredLength,
  frameRequest,
  frameResponse,
  isAuthority,
  listTokens,
  newFrame,
  parseLength,
  type RequestFrame,
  UNTIL_CLOSE,
} from '../../../src/http1/framing.ts'
import { headFromText } from '../../../src/http1/message-head.ts'

function frame(text: string): { error: string | undefined; frame: RequestFrame } {
  const own: RequestFrame = {
    length: 0,
    authority: '',
    target: '',
    keepAlive: false,
    expectContinue: true,
    connectionNames: ['stale'],
  }
  const error = frameRequest(headFromText('request', text), own)
  return { error: error?.kind, frame: own }
}

const request = (fields: string, line = 'POST / HTTP/1.1') => frame(`${line}\r\n${fields}\r\n`)
const post = (fields: string) => request(`Host: a.test\r\n${fields}\r\n`)

describe('the Host of a connection that has asked before', () => {
  const next = (fields: string) => {
    const own = newFrame()
    expect(frameRequest(headFromText('request', 'GET / HTTP/1.1\r\nHost: a.test\r\n\r\n'), own)).toBeNull()
    const error = frameRequest(headFromText('request', `GET / HTTP/1.1\r\n${fields}\r\n`), own)
    return error === null ? own.authority : error.kind
  }

  it.each([
    ['Host: a.test\r\n', 'a.test'],
    ['Host: A.test\r\n', 'A.test'],
    ['Host: b.test\r\n', 'b.test'],
    ['Host: a.tes\r\n', 'a.tes'],
    ['Host: a.test \r\n', 'a.test'],
    ['Host:\r\n', 'bad'],
    ['Host: a tes\r\n', 'bad'],
    ['Host: a/test\r\n', 'bad'],
    ['Host: a.test\r\nHost: a.test\r\n', 'bad'],
    ['', 'bad'],
  ])('%j', (fields, expected) => expect(next(fields)).toBe(expected))
})

describe('the length of a request', () => {
  it.each([
    ['X: none', 0],
    ['Content-Length: 0', 0],
    ['Content-Length: 5', 5],
    ['Content-Length: 0005', 5],
    ['Content-Length: 9007199254740991', Number.MAX_SAFE_INTEGER],
    ['Transfer-Encoding: chunked', CHUNKED],
    ['Transfer-Encoding: Chunked', CHUNKED],
    ['transfer-encoding:\tchunked ', CHUNKED],
  ])('%s', (fields, length) => {
    const { error, frame } = post(fields)
    expect([error, frame.length]).toEqual([undefined, length])
  })

  it.each([
    'Content-Length:',
    'Content-Length: +5',
    'Content-Length: -5',
    'Content-Length: 0x5',
    'Content-Length: 5.0',
    'Content-Length: 1e1',
    'Content-Length: 5 5',
    'Content-Length: 5,5',
    'Content-Length: 5;a=b',
    'Content-Length: \xa05',
    'Content-Length: 9007199254740992',
    'Content-Length: 18446744073709551621',
    'Content-Length: 5\r\nContent-Length: 5',
    'Content-Length: 5\r\nContent-Length: 6',
    'Content-Length: 5\r\nTransfer-Encoding: chunked',
    'Transfer-Encoding: chunked\r\nContent-Length: 5',
    'Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked',
    'Transfer-Encoding: chunked\r\nTransfer-Encoding: identity',
    'Transfer-Encoding: identity',
    'Transfer-Encoding: chunked;q=1',
    'Transfer-Encoding: "chunked"',
    'Transfer-Encoding: ,chunked',
    'Transfer-Encoding: chunked,',
    'Transfer-Encoding: chunked, identity',
    'Transfer-Encoding: chunked\xa0',
    'Transfer-Encoding:',
  ])('%j is refused', (fields) => expect(post(fields).error).toBe('bad'))

  it.each(['gzip', 'xchunked', 'gzip, chunked', 'identity, chunked', 'chunked, chunked'])(
    'a transfer coding %j that is none of ours is told apart or refused',
    (coding) => expect(post(`Transfer-Encoding: ${coding}`).error).toBe('unsupported'),
  )

  it('Transfer-Encoding in HTTP/1.0 is refused (RFC 9112 §6.1)', () => {
    expect(request('Host: a\r\nTransfer-Encoding: chunked\r\n', 'POST / HTTP/1.0').error).toBe('bad')
  })
})

describe('Host', () => {
  it.each([
    ['', 'bad'],
    ['Host: a\r\nHost: a\r\n', 'bad'],
    ['Host: a\r\nhost: b\r\n', 'bad'],
    ['Host:\r\n', 'bad'],
    ['Host: a b\r\n', 'bad'],
    ['Host: a.test\r\n', undefined],
  ])('%j', (fields, error) => expect(request(fields, 'GET / HTTP/1.1').error).toBe(error))

  it('may be missing in HTTP/1.0', () => {
    expect(request('', 'GET / HTTP/1.0')).toMatchObject({ error: undefined, frame: { authority: '' } })
  })

  it.each([
    'a', 'a.test', 'A.TEST', 'a.test.', 'a_b', 'a-b.test:80', '127.0.0.1', '127.0.0.1:65535', '[::1]', '[::1]:0', '[::ffff:1.2.3.4]:8080',
    'a.test:00080', 'xn--bcher-kva', 'a%20b', 'a'.repeat(255),
  ])('%s is an authority', (text) => expect(isAuthority(text)).toBe(true)) // biome-ignore format: a table

  it.each([
    '', ' ', 'a b', 'a\t', 'u@a', 'u:p@a', 'a/b', 'a?b', 'a#b', 'a\\b', 'a,b', 'a:b', 'a:', ':80', 'a:80:80', 'a:65536', 'a:99999',
    'a:123456', 'a:-1', 'a:+80', '[::1', '::1', '[::1]x', '[]', '[:]', '[::1::2]', '[1.2.3.4]', '[fe80::1%25eth0]', 'http://a', 'a"', 'a<b',
    '\xe4', 'a'.repeat(256),
  ])('%j is none', (text) => expect(isAuthority(text)).toBe(false)) // biome-ignore format: a table
})

describe('the request-target', () => {
  it.each([
    ['GET', '/', '/', 'h'],
    ['GET', '/a?b', '/a?b', 'h'],
    ['GET', '//x/y', '//x/y', 'h'],
    ['GET', 'http://x', '/', 'x'],
    ['GET', 'http://x:81/a?b', '/a?b', 'x:81'],
    ['GET', 'https://x?b', '/?b', 'x'],
    ['GET', 'HTTP://[::1]:8/', '/', '[::1]:8'],
    ['OPTIONS', '*', '*', 'h'],
    ['OPTIONS', '/a', '/a', 'h'],
  ])('%s %s', (method, target, path, authority) => {
    const { error, frame } = request('Host: h\r\n', `${method} ${target} HTTP/1.1`)
    expect([error, frame.target, frame.authority]).toEqual([undefined, path, authority])
  })

  it.each([
    ['GET', '*'],
    ['GET', 'a'],
    ['GET', '?a'],
    ['GET', 'http://'],
    ['GET', 'http:///a'],
    ['GET', 'http:/a'],
    ['GET', 'http:a'],
    ['GET', 'http://u@x/'],
    ['GET', 'http://x:y/'],
    ['GET', 'http://x\\y/'],
    ['GET', 'ws://x/'],
    ['GET', 'ftp://x/'],
    ['GET', 'x:443'],
    ['OPTIONS', '**'],
  ])('%s %s is refused', (method, target) => {
    expect(request('Host: h\r\n', `${method} ${target} HTTP/1.1`).error).toBe('bad')
  })

  it('an absolute one does not excuse a missing Host', () => {
    expect(request('', 'GET http://x/ HTTP/1.1').error).toBe('bad')
  })

  it.each(['x:443', '/', '*'])('CONNECT %s is not supported', (target) => {
    expect(request('Host: h\r\n', `CONNECT ${target} HTTP/1.1`).error).toBe('unsupported')
  })
})

describe('Connection', () => {
  it.each([
    [1, '', true, null],
    [0, '', false, null],
    [1, 'close', false, null],
    [1, 'Close', false, null],
    [1, 'keep-alive', true, null],
    [0, 'keep-alive', true, null],
    [0, 'Keep-Alive', true, null],
    [0, 'keep-alive, close', false, null],
    [1, 'keep-alive, close', false, null],
    [1, 'X-A, ,\tx-b ,close', false, ['x-a', 'x-b']],
    [0, 'foo, keep-alive', true, ['foo']],
    [1, 'upgrade', true, ['upgrade']],
    [1, 'foo\r\nConnection: bar', true, ['foo', 'bar']],
    [1, '', true, null],
  ])('HTTP/1.%i %j', (minor, value, keepAlive, names) => {
    const fields = value === '' ? 'Host: h\r\n' : `Host: h\r\nConnection: ${value}\r\n`
    const { frame } = request(fields, `GET / HTTP/1.${minor}`)
    expect([frame.keepAlive, frame.connectionNames]).toEqual([keepAlive, names])
  })
})

describe('Expect', () => {
  it.each([
    ['Content-Length: 5\r\nExpect: 100-continue', undefined, true],
    ['Content-Length: 5\r\nExpect: 100-Continue', undefined, true],
    ['Transfer-Encoding: chunked\r\nExpect: 100-continue', undefined, true],
    ['Expect: 100-continue', undefined, false],
    ['Content-Length: 5\r\nExpect: 100-continue, x', 'expectation', undefined],
    ['Expect: something', 'expectation', undefined],
    ['Expect: 100-continue\r\nExpect: 100-continue', 'expectation', undefined],
    ['X: none', undefined, false],
  ])('%j', (fields, error, expectContinue) => {
    const result = post(fields)
    expect(result.error).toBe(error)
    if (error === undefined) expect(result.frame.expectContinue).toBe(expectContinue)
  })

  it('of HTTP/1.0 is ignored (RFC 9110 §10.1.1)', () => {
    const { error, frame } = request('Content-Length: 5\r\nExpect: 100-continue\r\n', 'POST / HTTP/1.0')
    expect([error, frame.expectContinue]).toEqual([undefined, false])
  })
})

describe('the length of an answer', () => {
  const answer = (text: string, method = 'GET') => {
    const length = frameResponse(headFromText('response', `HTTP/1.1 ${text}\r\n\r\n`), method)
    return typeof length === 'number' ? length : length.kind
  }

  it.each<[string, string, number]>([
    ['GET', '200 OK\r\nContent-Length: 5', 5],
    ['GET', '200 OK\r\nContent-Length: 5\r\nContent-Length: 5', 5],
    ['GET', '200 OK\r\nContent-Length: 5 ,\t5', 5],
    ['GET', '200 OK\r\nTransfer-Encoding: Chunked', CHUNKED],
    ['GET', '200 OK', UNTIL_CLOSE],
    ['HEAD', '200 OK\r\nContent-Length: 5', 0],
    ['HEAD', '200 OK\r\nTransfer-Encoding: chunked', 0],
    ['GET', '204 No Content\r\nContent-Length: 5', 0],
    ['GET', '304 Not Modified\r\nTransfer-Encoding: chunked', 0],
    ['GET', '103 Early Hints\r\nContent-Length: 5', 0],
  ])('%s %j', (method, text, length) => expect(answer(text, method)).toBe(length))

  it.each([
    '200 OK\r\nContent-Length: 5\r\nContent-Length: 6',
    '200 OK\r\nContent-Length: 5, 6',
    '200 OK\r\nContent-Length: 5, ',
    '200 OK\r\nContent-Length: 5, 5\xa0',
    '200 OK\r\nContent-Length: -1',
    '200 OK\r\nContent-Length:',
    '200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked',
    '200 OK\r\nTransfer-Encoding: gzip',
    '200 OK\r\nTransfer-Encoding: gzip, chunked',
    '200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked',
    '200 OK\r\nTransfer-Encoding: identity',
    '200 OK\r\nTransfer-Encoding:',
  ])('%j is refused', (text) => expect(answer(text)).toBe('bad'))

  it('chunked in HTTP/1.0 is refused', () => {
    const head = headFromText('response', 'HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n')
    expect(frameResponse(head, 'GET')).toMatchObject({ kind: 'bad' })
  })

  it('is known of answers without a body too', () => {
    const declared = (fields: string) => declaredLength(headFromText('response', `HTTP/1.1 304 x\r\n${fields}\r\n`))
    expect(declared('Content-Length: 7\r\n')).toBe(7)
    expect(declared('')).toBe(-1)
    expect(declared('Content-Length: x\r\n')).toMatchObject({ kind: 'bad' })
  })
})

it('a length is digits up to 2^53 - 1', () => {
  expect(['0', '7', '0000000000000007', '9007199254740991'].map(parseLength)).toEqual([0, 7, 7, 9007199254740991])
  const none = ['', ' 7', '7 ', '+7', '-0', '٣', '00000000000000007', '9007199254740992', '9999999999999999', 'NaN']
  expect(none.map(parseLength)).toEqual(none.map(() => -1))
})

it('a list loses case, empty elements, spaces and tabs, nothing else', () => {
  expect(listTokens(' A ,,\tb\t, C D,\xa0e')).toEqual(['a', 'b', 'c d', '\xa0e'])
  expect(listTokens('')).toEqual([])
})
