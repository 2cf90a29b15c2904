/**
 * Where a request ends (RFC 9112 §6, §7): every way to make two parties disagree about it that has been an attack. Each
 * refusal closes the connection and leaves the upstream untouched; each request that passes arrives with one framing.
 */

import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { field } from '../support/messages.ts'
import {
  expectAlive,
  expectForwarded,
  expectRefused,
  expectRefusedBody,
  type Pair,
  startPair,
} from '../support/pair.ts'
import { RawClient, send } from '../support/raw-client.ts'
import { bytes } from '../support/upstream.ts'

let pair: Pair
beforeAll(async () => {
  pair = await startPair({
    routes: [{ match: { path: '/local' }, respond: { status: 200, body: 'from the gateway' } }],
  })
})
afterAll(() => pair?.close())

const SMUGGLED = 'GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n'
const post = (fields: string, body = '', version = 'HTTP/1.1') =>
  `POST / ${version}\r\nHost: a.test\r\n${fields}\r\n\r\n${body}`
const show = (text: string) => JSON.stringify(text).slice(1, -1)

describe('Content-Length together with Transfer-Encoding is refused (smuggling matrix)', () => {
  const lengths = [
    'Content-Length: 0',
    'Content-Length: 5',
    'content-length: 46',
    'Content-Length: 4\r\nContent-Length: 4',
    'Content-Length: 4\r\nContent-Length: 46',
    'Content-Length: +4',
    'Content-Length: 0x4',
    'Content-Length: 4, 46',
    'Content-Length: ',
    'Content-Length : 4',
    'Content-Length\xa0: 4',
    'Content-Length: 4\x0b',
  ]
  const codings = [
    'Transfer-Encoding: chunked',
    'transfer-encoding: CHUNKED',
    'Transfer-Encoding:chunked',
    'Transfer-Encoding: \tchunked',
    'Transfer-Encoding: xchunked',
    'Transfer-Encoding: chunked, identity',
    'Transfer-Encoding: identity',
    'Transfer-Encoding: identity, chunked',
    'Transfer-Encoding: chunked\r\nTransfer-Encoding: identity',
    'Transfer-Encoding: identity\r\nTransfer-Encoding: chunked',
    'Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked',
    'Transfer-Encoding : chunked',
    ' Transfer-Encoding: chunked',
    'X: x\r\n Transfer-Encoding: chunked',
    'X: x\nTransfer-Encoding: chunked',
    'X: x\rTransfer-Encoding: chunked',
    'Transfer-Encoding: chunked;q=1',
    'Transfer-Encoding: "chunked"',
    'Transfer-Encoding: ',
    'Transfer-Encoding: chunked\x00',
    'Transfer-Encoding:\x0bchunked',
    'Transfer-Encoding\x00: chunked',
  ]
  const cases = lengths.flatMap((cl) => codings.flatMap((te) => [`${cl}\r\n${te}`, `${te}\r\n${cl}`]))
  it.each(cases.map((fields) => [show(fields), fields]))('%s', async (_title, fields) => {
    await expectRefused(pair, post(fields, `0\r\n\r\n${SMUGGLED}`), 400, 501)
  })
})

describe('a Transfer-Encoding that is not exactly chunked is refused', () => {
  it.each([
    'chunked, chunked',
    'chunked, identity',
    'identity',
    'identity, chunked',
    'gzip, chunked',
    'deflate, chunked',
    'gzip',
    'chunked;q=1',
    'chunked;a=b',
    'x-chunked',
    'chunkedx',
    'chunk ed',
    '"chunked"',
    "'chunked'",
    'chunked\x80',
    '\xa0chunked',
    '',
    'chunked, gzip',
    'chunked\r\nTransfer-Encoding: identity',
    'chunked\r\nTransfer-Encoding: chunked',
    'chunked\r\nTransfer-Encoding: ',
  ])('%j', async (value) => {
    await expectRefused(pair, post(`Transfer-Encoding: ${value}`, `3\r\nabc\r\n0\r\n\r\n${SMUGGLED}`), 400, 501)
  })

  it('in HTTP/1.0, whatever its value', async () => {
    const text = post(
      'Connection: keep-alive\r\nTransfer-Encoding: chunked',
      `3\r\nabc\r\n0\r\n\r\n${SMUGGLED}`,
      'HTTP/1.0',
    )
    await expectRefused(pair, text, 400, 501)
  })
})

describe('a Content-Length that is not one plain number is refused', () => {
  it.each([
    '0x3',
    '1e1',
    '3,3',
    '3, 3',
    '3, 4',
    '',
    '3 3',
    '+3',
    '-3',
    '-0',
    '3.0',
    '3;',
    '"3"',
    'a',
    '3a',
    '0b11',
    '3_0',
    '\xb3',
    '3\x00',
    '9007199254740992',
    '18446744073709551616',
    '18446744073709551619',
    '99999999999999999999999999999999999999',
    '3\r\nContent-Length: 4',
    '3\r\nContent-Length: 3',
    '3\r\nContent-Length: ',
    '0\r\nContent-Length: 38',
  ])('%j', async (value) => {
    await expectRefused(pair, post(`Content-Length: ${value}`, `abc${SMUGGLED}`), 400)
  })

  it.each([
    'Content-Length : 3',
    'Content-Length\t: 3',
    'Content-Length\xa0: 3',
    ' Content-Length: 3',
    'Content Length: 3',
  ])('by its name: %j', async (line) => {
    await expectRefused(pair, post(line, 'abc'), 400)
  })
})

describe('chunk syntax that is not exactly that of RFC 9112 §7.1 is refused', () => {
  it.each([
    ['a space behind the size', '3 \r\nabc\r\n0\r\n\r\n'],
    ['a space before the size', ' 3\r\nabc\r\n0\r\n\r\n'],
    ['a tab behind the size', '3\t\r\nabc\r\n0\r\n\r\n'],
    ['a size with 0x', '0x3\r\nabc\r\n0\r\n\r\n'],
    ['a negative size', '-1\r\nabc\r\n0\r\n\r\n'],
    ['a size with a sign', '+3\r\nabc\r\n0\r\n\r\n'],
    ['a size beyond 2^53', '20000000000000\r\nabc\r\n0\r\n\r\n'],
    ['a size of 17 digits', 'fffffffffffffffff\r\nabc\r\n0\r\n\r\n'],
    ['a size that wraps at 2^64', '10000000000000003\r\nabc\r\n0\r\n\r\n'],
    ['no size', '\r\nabc\r\n0\r\n\r\n'],
    ['an extension without a size', ';a\r\nabc\r\n0\r\n\r\n'],
    ['a size that is no number', 'g\r\nabc\r\n0\r\n\r\n'],
    ['an underscore in the size', '0_3\r\nabc\r\n0\r\n\r\n'],
    ['a bare LF behind the size', '3\nabc\r\n0\r\n\r\n'],
    ['a bare CR behind the size', '3\rabc\r\n0\r\n\r\n'],
    ['CR CR LF behind the size', '3\r\r\nabc\r\n0\r\n\r\n'],
    ['a bare LF in an extension', '3;a\nb\r\nabc\r\n0\r\n\r\n'],
    ['a bare CR in an extension', '3;a\rb\r\nabc\r\n0\r\n\r\n'],
    ['a NUL in an extension', '3;a\x00\r\nabc\r\n0\r\n\r\n'],
    ['an extension of 20 000 bytes', `3;${'a'.repeat(20_000)}\r\nabc\r\n0\r\n\r\n`],
    ['more data than the size', '3\r\nabcd\r\n0\r\n\r\n'],
    ['less data than the size', '3\r\nab\r\n0\r\n\r\n'],
    ['data that ends in a bare LF', '3\r\nabc\n0\r\n\r\n'],
    ['data that ends in a bare CR', '3\r\nabc\r0\r\n\r\n'],
    ['data that ends in two other bytes', '3\r\nabcXX0\r\n\r\n'],
    ['no end of data', '3\r\nabc0\r\n\r\n'],
    ['a last chunk that ends in a bare LF', '3\r\nabc\r\n0\n\r\n'],
    ['a bare LF for the empty line', '3\r\nabc\r\n0\r\n\n'],
    ['a bare CR for the empty line', '3\r\nabc\r\n0\r\n\rX'],
    ['a trailer line without a colon', '3\r\nabc\r\n0\r\nX\r\n\r\n'],
    ['a trailer without a name', '3\r\nabc\r\n0\r\n: x\r\n\r\n'],
    ['a space before a trailer’s colon', '3\r\nabc\r\n0\r\nX : 1\r\n\r\n'],
    ['a trailer line that begins with a space', '3\r\nabc\r\n0\r\n X: 1\r\n\r\n'],
    ['obs-fold in a trailer', '3\r\nabc\r\n0\r\nX: 1\r\n 2\r\n\r\n'],
    ['a bare LF in a trailer', '3\r\nabc\r\n0\r\nX: a\nY: b\r\n\r\n'],
    ['a NUL in a trailer', '3\r\nabc\r\n0\r\nX: a\x00\r\n\r\n'],
  ])('%s', async (_title, body) => {
    await expectRefusedBody(pair, post('Transfer-Encoding: chunked', body + SMUGGLED), 400)
  })

  it('trailers larger than a head may be', async () => {
    const body = `0\r\n${`X: ${'a'.repeat(1000)}\r\n`.repeat(40)}\r\n`
    await expectRefusedBody(pair, post('Transfer-Encoding: chunked', body), 400, 431)
  })

  it('extensions without end, a little on every chunk', async () => {
    const body = `1;${'a'.repeat(200)}\r\nx\r\n`.repeat(500)
    const result = await send(pair.gateway.port, [post('Transfer-Encoding: chunked', body), '0\r\n\r\n'], {
      responses: 1,
    })
    expect([200, 400]).toContain(result.status)
    await expectAlive(pair)
  })
})

describe('a valid body arrives whole, with one framing', () => {
  it.each([
    ['by length', 'Content-Length: 3', 'abc', 'abc'],
    ['by length with leading zeros', 'Content-Length: 0003', 'abc', 'abc'],
    ['by length with space around it', 'Content-Length: \t 3 \t', 'abc', 'abc'],
    ['of length 0', 'Content-Length: 0', '', ''],
    ['in one chunk', 'Transfer-Encoding: chunked', '3\r\nabc\r\n0\r\n\r\n', 'abc'],
    ['in several chunks', 'Transfer-Encoding: chunked', '1\r\na\r\n2\r\nbc\r\n0\r\n\r\n', 'abc'],
    ['in no chunk', 'Transfer-Encoding: chunked', '0\r\n\r\n', ''],
    ['with a coding in capitals', 'TRANSFER-ENCODING: CHUNKED', '3\r\nabc\r\n0\r\n\r\n', 'abc'],
    ['with sizes in capital hex', 'Transfer-Encoding: chunked', 'A\r\n0123456789\r\n0\r\n\r\n', '0123456789'],
    ['with leading zeros in a size', 'Transfer-Encoding: chunked', '0003\r\nabc\r\n000\r\n\r\n', 'abc'],
    ['with chunk extensions', 'Transfer-Encoding: chunked', '3;a;b=c;d="e f"\r\nabc\r\n0;z=1\r\n\r\n', 'abc'],
    ['with chunk lookalikes inside', 'Transfer-Encoding: chunked', '7\r\n0\r\n\r\nab\r\n0\r\n\r\n', '0\r\n\r\nab'],
  ])('%s', async (_title, fields, body, expected) => {
    const request = await expectForwarded(pair, post(fields, body))
    expect(request.body.toString('latin1')).toBe(expected)
    expectOneFraming(request)
    expect(request.bytes.toString('latin1')).not.toContain('d="e f"')
    await expectAlive(pair)
  })

  function expectOneFraming(request: { fields: [string, string][] }): void {
    const length = field(request, 'content-length')
    const coding = field(request, 'transfer-encoding')
    if (coding === undefined) expect(length).toMatch(/^\d+$/)
    else expect([coding, length]).toEqual(['chunked', undefined])
  }

  it('with trailers, and none of those that would change the message', async () => {
    const trailers =
      'X-Sum: 1\r\nContent-Length: 5\r\nTransfer-Encoding: gzip\r\nHost: evil.test\r\nAuthorization: Bearer x\r\n'
    const request = await expectForwarded(
      pair,
      post('Transfer-Encoding: chunked\r\nTrailer: X-Sum', `3\r\nabc\r\n0\r\n${trailers}\r\n`),
    )
    expect(request.body.toString()).toBe('abc')
    expect(request.trailers).toEqual([['X-Sum', '1']])
  })

  it('when the lookalike of a framing field has another name', async () => {
    const request = await expectForwarded(
      pair,
      post('Content-Length: 3\r\nTransfer_Encoding: chunked\r\nX-Content-Length: 9', 'abc'),
    )
    expect(request.body.toString()).toBe('abc')
    expect(field(request, 'transfer_encoding')).toBeUndefined()
  })

  it.each([
    ['by length', 'POST /d HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhello'],
    [
      'in chunks',
      'POST /d HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nX-T: 1\r\n\r\n',
    ],
  ])('cut in two at any byte, %s', async (_title, text) => {
    for (let at = 1; at < text.length; at++) {
      const request = await expectForwarded(pair, [text.slice(0, at), 1, text.slice(at)])
      expect(request.body.toString(), `cut at ${at}`).toBe('hello')
      expect(request.target).toBe('/d')
    }
  })

  it('byte by byte', async () => {
    const text = post('Transfer-Encoding: chunked', '3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n')
    const request = await expectForwarded(pair, text.split(''))
    expect(request.body.toString()).toBe('hello')
  })
})

describe('a refusal does not depend on how the bytes arrive', () => {
  it.each([
    ['both framings', post('Content-Length: 3\r\nTransfer-Encoding: chunked', '0\r\n\r\n')],
    ['a bare CR in a value', post('X: a\rb')],
    ['CR CR LF', 'GET / HTTP/1.1\r\r\nHost: a.test\r\n\r\n'],
    ['a space before the colon', post('X : a')],
  ])('%s, cut in two at any byte', async (_title, text) => {
    const end = text.indexOf('\r\n\r\n') + 4
    for (let at = 1; at < end; at++) {
      pair.upstream.clear()
      const result = await send(pair.gateway.port, [text.slice(0, at), 1, text.slice(at)])
      expect(result.status, `cut at ${at}`).toBe(400)
      expect(result.ended).not.toBe('')
      expect(pair.upstream.received().length).toBe(0)
    }
  })

  it('a chunk that is too long, byte by byte', async () => {
    pair.upstream.clear()
    const result = await send(pair.gateway.port, post('Transfer-Encoding: chunked', '3\r\nabcd\r\n0\r\n\r\n').split(''))
    expect(result.status).toBe(400)
    expect(pair.upstream.requests).toHaveLength(0)
  })
})

describe('what looks like a request inside a body stays a body', () => {
  const length = SMUGGLED.length
  const inChunks = `${length.toString(16)}\r\n${SMUGGLED}\r\n0\r\n\r\n`
  it.each([
    ['GET with a length (CL.0)', `GET / HTTP/1.1\r\nHost: a.test\r\nContent-Length: ${length}\r\n\r\n${SMUGGLED}`],
    ['DELETE with a length', `DELETE / HTTP/1.1\r\nHost: a.test\r\nContent-Length: ${length}\r\n\r\n${SMUGGLED}`],
    ['OPTIONS with a length', `OPTIONS / HTTP/1.1\r\nHost: a.test\r\nContent-Length: ${length}\r\n\r\n${SMUGGLED}`],
    ['GET in chunks (TE.0)', `GET / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n${inChunks}`],
    ['DELETE in chunks', `DELETE / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n${inChunks}`],
    ['OPTIONS in chunks', `OPTIONS / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n${inChunks}`],
    [
      'POST with Connection: close',
      `POST / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\nContent-Length: ${length}\r\n\r\n${SMUGGLED}`,
    ],
    [
      'POST with Connection: content-length',
      `POST / HTTP/1.1\r\nHost: a.test\r\nConnection: content-length\r\nContent-Length: ${length}\r\n\r\n${SMUGGLED}`,
    ],
    [
      'POST with Connection: transfer-encoding',
      `POST / HTTP/1.1\r\nHost: a.test\r\nConnection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n\r\n${inChunks}`,
    ],
  ])('%s', async (_title, text) => {
    const request = await expectForwarded(pair, text)
    expect(request.body.toString('latin1')).toBe(SMUGGLED)
    await expectAlive(pair)
    expect(pair.upstream.requests.map((r) => r.target)).toEqual(['/', '/probe'])
  })

  it.each([
    [
      'an answer of the gateway',
      `POST /local HTTP/1.1\r\nHost: a.test\r\nContent-Length: ${length}\r\n\r\n${SMUGGLED}`,
    ],
    [
      'an answer of the gateway, in chunks',
      `POST /local HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n${inChunks}`,
    ],
    ['GET with a length', `GET /local HTTP/1.1\r\nHost: a.test\r\nContent-Length: ${length}\r\n\r\n${SMUGGLED}`],
    ['OPTIONS *', `OPTIONS * HTTP/1.1\r\nHost: a.test\r\nContent-Length: ${length}\r\n\r\n${SMUGGLED}`],
    ['TRACE', `TRACE / HTTP/1.1\r\nHost: a.test\r\nContent-Length: ${length}\r\n\r\n${SMUGGLED}`],
    ['CONNECT', `CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\nContent-Length: ${length}\r\n\r\n${SMUGGLED}`],
  ])('behind an answer that needed no upstream: %s', async (_title, text) => {
    pair.upstream.clear()
    const result = await send(
      pair.gateway.port,
      text + 'GET /next HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n',
    )
    expect(result.ended).not.toBe('')
    // Either the body was read and the next request answered, or the connection closed behind the first answer.
    expect(result.responses.length).toBeLessThanOrEqual(2)
    expect(['', '/next']).toContain(pair.upstream.requests.map((request) => request.target).join(' '))
  })

  it('behind a refusal', async () => {
    await expectRefused(
      pair,
      `POST /a/..;/b HTTP/1.1\r\nHost: a.test\r\nContent-Length: ${length}\r\n\r\n${SMUGGLED}`,
      400,
    )
  })

  it('bytes behind a body that are no request are refused after its answer', async () => {
    pair.upstream.clear()
    const result = await send(pair.gateway.port, post('Content-Length: 3', 'abcGARBAGE\r\n\r\n'))
    expect(result.responses.map((response) => response.status)).toEqual([200, 400])
    expect(result.ended).not.toBe('')
    expect(pair.upstream.requests.map((request) => request.target)).toEqual(['/'])
  })
})

describe('pipelining', () => {
  it('answers in the order of the requests', async () => {
    pair.upstream.on('/slow', (socket) => {
      setTimeout(() => socket.write('HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow'), 100)
    })
    const get = (path: string) => `GET ${path} HTTP/1.1\r\nHost: a.test\r\n\r\n`
    const result = await send(pair.gateway.port, get('/slow') + get('/local') + get('/x'), { responses: 3 })
    expect(result.responses.map((response) => response.body.toString())).toEqual(['slow', 'from the gateway', 'ok'])
  })

  it('answers the good requests before a malformed one, then refuses and closes', async () => {
    const result = await send(
      pair.gateway.port,
      'GET /x HTTP/1.1\r\nHost: a.test\r\n\r\nGET / HTTP/1.1\r\nHost: a.test\r\nX : 1\r\n\r\n',
    )
    expect(result.responses.map((response) => response.status)).toEqual([200, 400])
    expect(result.ended).not.toBe('')
  })

  it('stops reading behind Connection: close', async () => {
    pair.upstream.clear()
    const result = await send(
      pair.gateway.port,
      'GET /x HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\nGET /never HTTP/1.1\r\nHost: a.test\r\n\r\n',
    )
    expect(result.responses).toHaveLength(1)
    expect(field(result.responses[0]!, 'connection')).toBe('close')
    expect(pair.upstream.requests.map((request) => request.target)).toEqual(['/x'])
  })

  it('takes two hundred requests in one write', async () => {
    const result = await send(pair.gateway.port, 'GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n'.repeat(200), {
      responses: 200,
    })
    expect(result.responses).toHaveLength(200)
    expect(new Set(result.responses.map((response) => response.status))).toEqual(new Set([200]))
  })
})

describe('Expect', () => {
  it('100-continue: the client is told to go on, and the body arrives', async () => {
    pair.upstream.on('/expect', bytes('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'), {
      onHead: (socket, request) => {
        if (field(request, 'expect') !== undefined) socket.write('HTTP/1.1 100 Continue\r\n\r\n')
      },
    })
    pair.upstream.clear()
    const client = new RawClient(pair.gateway.port)
    await client.send('POST /expect HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n')
    const told = await client.until((result) => result.informational.length > 0 || result.status > 0)
    expect(told.informational.map((response) => response.status)).toEqual([100])
    await client.send('abc')
    const result = await client.answers(1)
    client.close()
    expect(result.status).toBe(200)
    expect(result.informational).toHaveLength(1)
    expect(pair.upstream.requests[0]?.body.toString()).toBe('abc')
  })

  it('100-continue from a client that does not wait', async () => {
    const request = await expectForwarded(
      pair,
      'POST /expect HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\nExpect: 100-Continue\r\n\r\nabc',
    )
    expect(request.body.toString()).toBe('abc')
  })

  it('100-continue on a request without a body is no reason to wait', async () => {
    await expectForwarded(pair, 'GET /x HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\n\r\n')
  })

  it.each(['x', '200-ok', '100-continue, x', 'y 100-continue', '100-continue\r\nExpect: x', '100-continue;a=b'])(
    'anything else is refused: %j',
    async (value) => {
      await expectRefused(pair, post(`Content-Length: ${length(SMUGGLED)}\r\nExpect: ${value}`, SMUGGLED), 400, 417)
    },
  )

  function length(text: string): number {
    return text.length
  }
})
