/**
 * HTTP/2 in front of an HTTP/1.1 service: lengths are frames there and text here, so whatever a field may hold in
 * HTTP/2 must not become a line, a second length or a second request. Frames are written by hand; the upstream's bytes
 * are judged.
 */

import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { field } from '../support/messages.ts'
import { expectAlive, type Pair, startPair } from '../support/pair.ts'
import { type H2Fields, type H2Request, sendH2 } from '../support/raw-h2.ts'
import type { UpstreamRequest } from '../support/upstream.ts'

let pair: Pair
beforeAll(async () => {
  pair = await startPair()
})
afterAll(() => pair?.close())

const show = (text: string) => JSON.stringify(text).slice(1, -1)
const head = (more: H2Fields = [], method = 'GET', path = '/p'): H2Fields => [
  [':method', method],
  [':scheme', 'http'],
  [':path', path],
  [':authority', 'a.test'],
  ...more,
]

/** No answer but 400 or 501, and no byte upstream. */
async function expectRefused(request: H2Request): Promise<void> {
  pair.upstream.clear()
  const outcome = await sendH2(pair.gateway.port, request)
  expect(outcome.ended, 'it is refused, not left waiting').not.toBe('timeout')
  expect([0, 400, 501]).toContain(outcome.status)
  expect(pair.upstream.received().toString('latin1')).toBe('')
  await expectAlive(pair)
}

/** As above for what shows in the body alone: the upstream may have seen a beginning, but no whole request. */
async function expectRefusedBody(request: H2Request): Promise<void> {
  pair.upstream.clear()
  const outcome = await sendH2(pair.gateway.port, request)
  expect(outcome.ended).not.toBe('timeout')
  expect([0, 400, 413, 501]).toContain(outcome.status)
  await expectAlive(pair)
  expect(pair.upstream.requests.filter(({ target }) => target !== '/probe' && target !== '/p')).toEqual([])
  for (const { body } of pair.upstream.requests) expect(body.toString()).not.toContain('smuggled')
}

/** Exactly one request arrives, and no byte beside it. */
async function expectOne(request: H2Request): Promise<UpstreamRequest> {
  pair.upstream.clear()
  const outcome = await sendH2(pair.gateway.port, request)
  expect([outcome.status, outcome.body]).toEqual([200, 'ok'])
  expect(pair.upstream.requests).toHaveLength(1)
  expect(pair.upstream.received().equals(pair.upstream.requests[0]!.bytes)).toBe(true)
  return pair.upstream.requests[0]!
}

/**
 * Refused, or served without that field: nghttp2 leaves fields out that are not valid (it asks nobody), where RFC 9113
 * §8.2.1 calls for an error. Either way no byte of it goes upstream.
 */
async function expectNothingOfIt(fields: H2Fields): Promise<void> {
  pair.upstream.clear()
  const outcome = await sendH2(pair.gateway.port, { fields })
  expect(outcome.ended).not.toBe('timeout')
  if (outcome.status === 200) {
    expect(pair.upstream.requests).toHaveLength(1)
    const request = pair.upstream.requests[0]!
    expect(pair.upstream.received().equals(request.bytes)).toBe(true)
    expect([request.startLine, field(request, 'host')]).toEqual(['GET /p HTTP/1.1', 'a.test'])
    expect(request.fields.map(([name]) => name.toLowerCase()).filter((name) => !OURS.test(name))).toEqual(['host'])
  } else {
    expect([0, 400]).toContain(outcome.status)
    expect(pair.upstream.received().toString('latin1')).toBe('')
  }
  await expectAlive(pair)
}

const OURS = /^(?:via|x-forwarded-(?:for|proto|port|host)|x-real-ip|x-request-id|traceparent)$/
const SMUGGLED = 'GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n'

describe('a field that would be more than one line never is', () => {
  const breaks = ['\r\n', '\n', '\r', '\0', '\r\n ', '\r\n\r\n']
  it.each(
    breaks.flatMap((end) => [
      [`a value with ${show(end)}`, head([['x-a', `b${end}x-injected: 1`]])],
      [`a name with ${show(end)}`, head([[`x-a: b${end}x-injected`, '1']])],
      [`:path with ${show(end)}`, head([], 'GET', `/p HTTP/1.1${end}x-injected: 1${end}x: y`)],
      [`:method with ${show(end)}`, head([], `GET / HTTP/1.1${end}x-injected: 1${end}GET`)],
      [`cookie with ${show(end)}`, head([['cookie', `a=b${end}x-injected: 1`]])],
      [
        `:authority with ${show(end)}`,
        [
          [':method', 'GET'],
          [':scheme', 'http'],
          [':path', '/p'],
          [':authority', `a.test${end}x-injected: 1`],
        ] as H2Fields,
      ],
    ]) as [string, H2Fields][],
  )('%s', async (_title, fields) => {
    await expectNothingOfIt(fields)
  })
})

describe('a name that is none goes nowhere', () => {
  it.each([
    'x:y',
    'host: b.test',
    'transfer-encoding: chunked',
    'x y',
    ' x',
    'x ',
    '',
    'X-Upper',
    'x\x7f',
    'x\xe9',
    'x(y)',
    '::path',
  ])('%j', async (name) => {
    await expectNothingOfIt(head([[name, '1']]))
  })
})

describe('fields of a connection make a request malformed (RFC 9113 §8.2.2)', () => {
  it.each([
    ['transfer-encoding', 'chunked'],
    ['transfer-encoding', 'identity'],
    ['connection', 'close'],
    ['connection', 'x-real-ip'],
    ['keep-alive', 'timeout=5'],
    ['proxy-connection', 'close'],
    ['upgrade', 'websocket'],
    ['upgrade', 'h2c'],
  ])('%s: %s', async (name, value) => {
    await expectRefused({ fields: head([[name, value]], 'POST'), body: `0\r\n\r\n${SMUGGLED}` })
  })
})

describe('pseudo-fields', () => {
  const without = (name: string) => head().filter(([other]) => other !== name)
  it.each([
    ['no :method', without(':method')],
    ['no :path', without(':path')],
    ['no :scheme', without(':scheme')],
    ['two :path', [[':path', '/a'], ...head()] as H2Fields],
    ['two :method', [[':method', 'POST'], ...head()] as H2Fields],
    ['two :authority', [[':authority', 'b.test'], ...head()] as H2Fields],
    ['one behind a field', [['x-a', '1'], ...head()] as H2Fields],
    ['one that is unknown', [...head(), [':x', '1']] as H2Fields],
    ['that of an answer', [...head(), [':status', '200']] as H2Fields],
    ['an empty path', head([], 'GET', '')],
    ['a path that is none', head([], 'GET', 'p')],
    ['a path with a space', head([], 'GET', '/p x')],
    ['a path that ends a request line', head([], 'GET', '/p HTTP/1.1')],
    ['a path with a fragment', head([], 'GET', '/p#x')],
    ['* for GET', head([], 'GET', '*')],
    ['a method with a space', head([], 'GET /admin')],
    ['an empty method', head([], '')],
    ['a method in lower case', head([], 'get')],
    ['CONNECT', head([], 'CONNECT')],
    ['another host', head([['host', 'b.test']])],
    ['two hosts', [...without(':authority'), ['host', 'a.test'], ['host', 'b.test']] as H2Fields],
    ['no host at all', without(':authority')],
    ['a host with a path', [...without(':authority'), ['host', 'a.test/x']] as H2Fields],
    ['a host with user information', [...without(':authority'), [':authority', 'u@a.test']] as H2Fields],
    ['a path that leaves its tree', head([], 'GET', '/a/..%2fprivate')],
  ])('%s: refused', async (_title, fields) => {
    // A pseudo-field behind another must stand before it to be that: order is what these cases are about.
    await expectRefused({ fields })
  })

  it('a target in absolute form counts as one of HTTP/1.1 would, or is refused', async () => {
    pair.upstream.clear()
    const outcome = await sendH2(pair.gateway.port, { fields: head([], 'GET', 'http://evil.test/x') })
    if (outcome.status === 200) {
      const request = pair.upstream.requests[0]!
      expect([request.target, field(request, 'host')]).toEqual(['/x', 'evil.test'])
    } else expect(pair.upstream.received().length).toBe(0)
  })
})

describe('a length that its frames belie', () => {
  it.each([
    ['shorter than the data', '5', `hello${SMUGGLED}`],
    ['zero, with data', '0', SMUGGLED],
    ['longer than the data', '100', 'hello'],
    ['no number', 'x', 'hello'],
    ['signed', '+5', 'hello'],
    ['a list', '5, 5', 'hello'],
    ['hexadecimal', '0x5', 'hello'],
  ])('%s', async (_title, length, body) => {
    await expectRefusedBody({ fields: head([['content-length', length]], 'POST'), body })
  })

  it('two of them', async () => {
    await expectRefusedBody({
      fields: head(
        [
          ['content-length', '5'],
          ['content-length', '50'],
        ],
        'POST',
      ),
      body: 'hello',
    })
  })

  it('without any data', async () => {
    await expectRefused({ fields: head([['content-length', '5']], 'POST') })
  })
})

describe('what is allowed arrives as one request', () => {
  it.each(['GET', 'POST', 'DELETE'])('a %s with data that look like a request, without a length', async (method) => {
    const request = await expectOne({ fields: head([], method), body: `0\r\n\r\n${SMUGGLED}` })
    expect(request.body.toString()).toBe(`0\r\n\r\n${SMUGGLED}`)
    expect(field(request, 'content-length')).toBeUndefined()
    expect(field(request, 'transfer-encoding')).toBe('chunked')
  })

  it('with a length', async () => {
    const request = await expectOne({ fields: head([['content-length', '5']], 'POST'), body: 'hello' })
    expect([request.body.toString(), field(request, 'transfer-encoding')]).toEqual(['hello', undefined])
  })

  it('cookies in pieces', async () => {
    const request = await expectOne({
      fields: head([
        ['cookie', 'a=1'],
        ['cookie', 'b=2'],
      ]),
    })
    expect(field(request, 'cookie')).toBe('a=1; b=2')
  })

  it('trailers, but none that would change the message', async () => {
    const request = await expectOne({
      fields: head([], 'POST'),
      body: 'hello',
      trailers: [
        ['x-sum', '1'],
        ['host', 'b.test'],
        ['authorization', 'Bearer x'],
      ],
    })
    expect(request.trailers.map(([name]) => name.toLowerCase())).toEqual(['x-sum'])
  })

  it('trailers with a line break are left out or refused', async () => {
    pair.upstream.clear()
    await sendH2(pair.gateway.port, {
      fields: head([], 'POST'),
      body: 'hello',
      trailers: [['x-sum', `1\r\n\r\n${SMUGGLED}`]],
    })
    await expectAlive(pair)
    expect(pair.upstream.received().toString('latin1')).not.toContain('smuggled')
  })
})
