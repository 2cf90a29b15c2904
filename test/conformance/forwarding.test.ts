/** What of a message is passed on and what is not (RFC 9110 §7.6, RFC 9112 §9), in both directions, over raw sockets. */

import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { field, fieldNames } from '../support/messages.ts'
import { expectAlive, expectForwarded, type Pair, startPair } from '../support/pair.ts'
import { RawClient, send } from '../support/raw-client.ts'
import { answer, bytes, bytesThenClose, chunked } from '../support/upstream.ts'

let pair: Pair
beforeAll(async () => {
  pair = await startPair()
})
afterAll(() => pair?.close())

const get = (fields = '', target = '/p', version = 'HTTP/1.1') =>
  `GET ${target} ${version}\r\nHost: a.test\r\n${fields}\r\n`
const GATEWAY_FIELDS = [
  'host',
  'via',
  'x-forwarded-for',
  'x-forwarded-host',
  'x-forwarded-port',
  'x-forwarded-proto',
  'x-real-ip',
  'x-request-id',
]

describe('a request on its way to the upstream', () => {
  it('carries the gateway’s fields and nothing else of its own', async () => {
    const request = await expectForwarded(pair, get())
    expect(request.startLine).toBe('GET /p HTTP/1.1')
    expect(fieldNames(request).filter((name) => name !== 'traceparent')).toEqual(GATEWAY_FIELDS)
    expect(field(request, 'host')).toBe('a.test')
    expect(field(request, 'via')).toMatch(/^1\.1 \S+$/)
    expect(field(request, 'x-forwarded-for')).toBe('127.0.0.1')
    expect(field(request, 'x-forwarded-host')).toBe('a.test')
    expect(field(request, 'x-forwarded-proto')).toBe('http')
    expect(field(request, 'x-forwarded-port')).toBe(String(pair.gateway.port))
    expect(field(request, 'x-real-ip')).toBe('127.0.0.1')
    expect(field(request, 'x-request-id')).toMatch(/^[A-Za-z0-9._-]{1,128}$/)
  })

  it('keeps end-to-end fields as they are, in their order', async () => {
    const request = await expectForwarded(
      pair,
      get(
        'Accept: text/html;q=0.5, */*\r\nX-A: 1\r\nX-B:2\r\nx-a: 3\r\nCookie: a=b; c="d e"\r\nX-Empty:\r\nX-Latin: caf\xe9\r\n',
      ),
    )
    expect(field(request, 'accept')).toBe('text/html;q=0.5, */*')
    expect(request.fields.filter(([name]) => name.toLowerCase() === 'x-a').map(([, value]) => value)).toEqual([
      '1',
      '3',
    ])
    expect(field(request, 'x-b')).toBe('2')
    expect(field(request, 'cookie')).toBe('a=b; c="d e"')
    expect(field(request, 'x-empty')).toBe('')
    expect(field(request, 'x-latin')).toBe('caf\xe9')
  })

  it.each([
    ['Connection and what it lists', 'Connection: foo, Bar\r\nFoo: 1\r\nbar: 2\r\n', ['connection', 'foo', 'bar']],
    [
      'two Connection fields',
      'Connection: foo\r\nFoo: 1\r\nBar: 2\r\nConnection: bar\r\n',
      ['connection', 'foo', 'bar'],
    ],
    ['a list with holes', 'Connection: ,, foo ,\r\nFoo: 1\r\n', ['foo']],
    ['Keep-Alive', 'Keep-Alive: timeout=5\r\n', ['keep-alive']],
    ['Proxy-Connection', 'Proxy-Connection: keep-alive\r\n', ['proxy-connection']],
    ['Proxy-Authorization', 'Proxy-Authorization: Basic eDp5\r\n', ['proxy-authorization']],
    ['Upgrade', 'Connection: upgrade\r\nUpgrade: foo\r\n', ['upgrade', 'connection']],
    [
      'h2c',
      'Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n',
      ['upgrade', 'http2-settings', 'connection'],
    ],
    ['Upgrade without Connection', 'Upgrade: h2c\r\n', ['upgrade']],
    [
      'names with an underscore',
      'X_Real_Ip: 6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\n',
      ['x_real_ip', 'x_forwarded_for'],
    ],
    ['Trailer without a body', 'Trailer: X\r\n', ['trailer']],
  ])('loses %s', async (_title, fields, gone) => {
    const request = await expectForwarded(pair, get(`${fields}X-Kept: 1\r\n`))
    for (const name of gone) expect(field(request, name), name).toBeUndefined()
    expect(field(request, 'x-kept')).toBe('1')
    await expectAlive(pair)
  })

  it.each([
    'x-request-id',
    'x-forwarded-for',
    'x-real-ip',
    'x-forwarded-proto',
    'via',
    'host',
    'content-length',
    'transfer-encoding',
  ])('keeps the gateway’s own %s when Connection lists it', async (name) => {
    const request = await expectForwarded(
      pair,
      `POST /p HTTP/1.1\r\nHost: a.test\r\nConnection: ${name}\r\nContent-Length: 3\r\n\r\nabc`,
    )
    for (const own of GATEWAY_FIELDS) expect(field(request, own), own).toBeDefined()
    expect(request.body.toString()).toBe('abc')
  })

  it('passes TE only as trailers', async () => {
    for (const te of ['trailers', 'gzip, trailers;q=0.5', 'gzip']) {
      const request = await expectForwarded(pair, get(`TE: ${te}\r\nConnection: TE\r\n`))
      expect([undefined, 'trailers']).toContain(field(request, 'te'))
    }
  })

  it('replaces what an untrusted client says about where it comes from', async () => {
    const spoofed = [
      'X-Forwarded-For',
      'X-Real-IP',
      'X-Forwarded-Host',
      'X-Forwarded-Proto',
      'X-Forwarded-Port',
      'Forwarded',
    ]
    const request = await expectForwarded(pair, get(spoofed.map((name) => `${name}: for=6.6.6.6\r\n`).join('')))
    expect(request.bytes.toString('latin1')).not.toContain('6.6.6.6')
    expect(field(request, 'x-forwarded-for')).toBe('127.0.0.1')
    expect(field(request, 'x-forwarded-proto')).toBe('http')
  })

  it('keeps a well-formed X-Request-ID and replaces any other', async () => {
    expect(field(await expectForwarded(pair, get('X-Request-ID: abc-1.2_3\r\n')), 'x-request-id')).toBe('abc-1.2_3')
    for (const value of ['a b', 'a"b', 'x'.repeat(129), '']) {
      expect(field(await expectForwarded(pair, get(`X-Request-ID: ${value}\r\n`)), 'x-request-id')).not.toBe(value)
    }
  })

  it.each(['__proto__', 'constructor', 'toString', 'hasOwnProperty', 'prototype'])(
    'takes a field called %s as any other',
    async (name) => {
      const request = await expectForwarded(pair, get(`${name}: 1\r\nConnection: ${name}x\r\n`))
      expect(request.fields.filter(([n]) => n === name).length).toBe(name.includes('_') ? 0 : 1)
      await expectAlive(pair)
    },
  )

  it.each(['__proto__', 'constructor', 'toString'])('survives Connection: %s', async (name) => {
    await expectForwarded(pair, get(`Connection: ${name}\r\n`))
    await expectAlive(pair)
  })

  it('does not copy a Trailer announcement of a body by length (it has killed proxies)', async () => {
    const request = await expectForwarded(
      pair,
      'POST /p HTTP/1.1\r\nHost: a.test\r\nTrailer: X\r\nContent-Length: 3\r\n\r\nabc',
    )
    expect(request.body.toString()).toBe('abc')
    await expectAlive(pair)
  })
})

describe('an answer on its way to the client', () => {
  it('keeps status and end-to-end fields, also repeated ones', async () => {
    pair.upstream.on(
      '/fields',
      answer(418, 'tea', ['X-A: 1', 'Set-Cookie: a=1', 'Set-Cookie: b=2, c', 'X-Latin: caf\xe9', 'ETag: "x"']),
    )
    const result = await send(pair.gateway.port, get('', '/fields'), { responses: 1 })
    const response = result.responses[0]!
    expect(response.status).toBe(418)
    expect(response.body.toString()).toBe('tea')
    expect(response.fields.filter(([name]) => name.toLowerCase() === 'set-cookie').map(([, value]) => value)).toEqual([
      'a=1',
      'b=2, c',
    ])
    expect(field(response, 'x-latin')).toBe('caf\xe9')
    expect(field(response, 'etag')).toBe('"x"')
    expect(field(response, 'content-length')).toBe('3')
    expect(field(response, 'x-request-id')).toMatch(/./)
  })

  it.each([
    [
      'Connection and what it lists',
      ['Connection: bar, keep-alive', 'Bar: 1', 'Keep-Alive: timeout=5'],
      ['bar', 'keep-alive'],
    ],
    ['Proxy-Authenticate', ['Proxy-Authenticate: Basic'], ['proxy-authenticate']],
    ['Proxy-Connection', ['Proxy-Connection: close'], ['proxy-connection']],
    ['Upgrade', ['Connection: upgrade', 'Upgrade: h2c'], ['upgrade']],
    ['Trailer with a length', ['Trailer: X'], ['trailer']],
  ])('loses %s', async (_title, fields, gone) => {
    pair.upstream.on('/hop', answer(200, 'ok', fields))
    const client = new RawClient(pair.gateway.port)
    await client.send(get('', '/hop'))
    const response = (await client.answers(1)).responses[0]!
    expect(response.status).toBe(200)
    for (const name of gone) expect(field(response, name), name).toBeUndefined()
    // What the upstream said about its own connection does not concern the client's.
    await client.send(get('', '/hop'))
    expect((await client.answers(2)).responses).toHaveLength(2)
    client.close()
    await expectAlive(pair)
  })

  it('takes a field called __proto__ as any other', async () => {
    pair.upstream.on('/proto', answer(200, 'ok', ['__proto__: 1', 'Connection: __proto__', 'constructor: x']))
    const result = await send(pair.gateway.port, get('', '/proto'), { responses: 1 })
    expect(result.status).toBe(200)
    expect(field(result.responses[0]!, 'constructor')).toBe('x')
    await expectAlive(pair)
  })

  it.each([
    ['with its length', answer(200, 'hello'), 'hello'],
    ['in chunks', chunked(['hel', 'lo']), 'hello'],
    ['until the upstream closes', bytesThenClose('HTTP/1.1 200 OK\r\n\r\nhello'), 'hello'],
    ['until an HTTP/1.0 upstream closes', bytesThenClose('HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nhello'), 'hello'],
    ['with length 0', answer(200, ''), ''],
    ['in no chunk', chunked([]), ''],
    [
      'in chunks with extensions',
      bytes('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=1\r\nhello\r\n0;y\r\n\r\n'),
      'hello',
    ],
    ['a status line without a reason', bytes('HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\nhello'), 'hello'],
  ])('has the body whole: %s', async (_title, script, body) => {
    pair.upstream.on('/body', script)
    const client = new RawClient(pair.gateway.port)
    for (const n of [1, 2]) {
      await client.send(get('', '/body'))
      const result = await client.answers(n)
      expect(result.responses[n - 1]?.status).toBe(200)
      expect(result.responses[n - 1]?.body.toString()).toBe(body)
    }
    client.close()
  })

  it('brings its trailers', async () => {
    pair.upstream.on('/trailers', chunked(['hello'], ['X-Sum: 1', 'Content-Length: 9']))
    const result = await send(pair.gateway.port, get('TE: trailers\r\n', '/trailers'), { responses: 1 })
    expect(result.responses[0]?.body.toString()).toBe('hello')
    expect(result.responses[0]?.trailers).toEqual([['X-Sum', '1']])
  })

  it.each([204, 304])('has no body with status %i, and the connection goes on', async (status) => {
    pair.upstream.on('/empty', bytes(`HTTP/1.1 ${status} X\r\nETag: "x"\r\n\r\n`))
    const client = new RawClient(pair.gateway.port)
    await client.send(get('', '/empty'), get('', '/p'))
    const result = await client.answers(2)
    client.close()
    expect(result.responses.map((response) => response.status)).toEqual([status, 200])
    expect(field(result.responses[0]!, 'transfer-encoding')).toBeUndefined()
  })

  it('to HEAD has the fields of GET and no body, and the connection goes on', async () => {
    pair.upstream.on('/head', answer(200, 'hello'))
    const client = new RawClient(pair.gateway.port, ['HEAD', 'GET'])
    await client.send('HEAD /head HTTP/1.1\r\nHost: a.test\r\n\r\n', get('', '/p'))
    const result = await client.answers(2)
    client.close()
    expect(result.responses.map((response) => response.status)).toEqual([200, 200])
    expect(field(result.responses[0]!, 'content-length')).toBe('5')
    expect(result.responses[1]?.body.toString()).toBe('ok')
  })

  it('to HEAD with chunked announced has no body either', async () => {
    pair.upstream.on('/head2', bytes('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n'))
    const client = new RawClient(pair.gateway.port, ['HEAD', 'GET'])
    await client.send('HEAD /head2 HTTP/1.1\r\nHost: a.test\r\n\r\n', get('', '/p'))
    const result = await client.answers(2)
    client.close()
    expect(result.responses.map((response) => response.status)).toEqual([200, 200])
  })

  it('comes after its interim answers', async () => {
    pair.upstream.on(
      '/hints',
      bytes('HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'),
    )
    const result = await send(pair.gateway.port, get('', '/hints'), { responses: 1 })
    expect(result.informational.map((response) => [response.status, field(response, 'link')])).toEqual([
      [103, '</a.css>'],
    ])
    expect(result.status).toBe(200)
  })

  it('comes also after five hundred 100 Continue', async () => {
    pair.upstream.on(
      '/continues',
      bytes('HTTP/1.1 100 Continue\r\n\r\n'.repeat(500) + 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'),
    )
    const result = await send(pair.gateway.port, get('', '/continues'), { responses: 1 })
    expect(result.status).toBe(200)
    await expectAlive(pair)
  })

  it('does not bring interim answers to an HTTP/1.0 client', async () => {
    const result = await send(pair.gateway.port, get('', '/hints', 'HTTP/1.0'))
    expect(result.informational).toEqual([])
    expect(result.status).toBe(200)
  })
})

describe('HTTP/1.0 clients', () => {
  it.each([
    ['a body with its length', answer(200, 'hello')],
    ['a chunked body, which ends with the connection', chunked(['hel', 'lo'], ['X: 1'])],
  ])('get %s', async (_title, script) => {
    pair.upstream.on('/old', script)
    const result = await send(pair.gateway.port, get('', '/old', 'HTTP/1.0'))
    expect(result.ended).toBe('fin')
    const response = result.responses[0]!
    expect(response.body.toString()).toBe('hello')
    expect(field(response, 'transfer-encoding')).toBeUndefined()
    expect(response.trailers).toEqual([])
  })

  it('stay connected when they ask for it and the answer has a length', async () => {
    pair.upstream.on('/old', answer(200, 'hello'))
    const client = new RawClient(pair.gateway.port)
    await client.send(get('Connection: keep-alive\r\n', '/old', 'HTTP/1.0'))
    const first = await client.answers(1)
    expect(first.status).toBe(200)
    if (/keep-alive/i.test(field(first.responses[0]!, 'connection') ?? '')) {
      await client.send(get('Connection: keep-alive\r\n', '/old', 'HTTP/1.0'))
      expect((await client.answers(2)).responses).toHaveLength(2)
    } else {
      expect((await client.end()).ended).toBe('fin')
    }
    client.close()
  })
})

describe('the connections', () => {
  it('of client and upstream are reused', async () => {
    const before = pair.upstream.connections
    const client = new RawClient(pair.gateway.port)
    for (let n = 1; n <= 20; n++) {
      await client.send(get())
      await client.answers(n)
    }
    expect(client.result().responses).toHaveLength(20)
    client.close()
    expect(pair.upstream.connections - before).toBeLessThanOrEqual(1)
  })

  it('close when the client says so', async () => {
    const result = await send(pair.gateway.port, get('Connection: close\r\n'))
    expect(result.ended).toBe('fin')
    expect(field(result.responses[0]!, 'connection')).toBe('close')
  })

  it('close when the client says so among other things', async () => {
    const result = await send(pair.gateway.port, get('Connection: foo\r\nConnection: x, CLOSE\r\n'))
    expect(result.ended).toBe('fin')
    expect(result.status).toBe(200)
  })

  it('of a client that ended its side are closed, and its work stops: a FIN is all that a client who left sends', async () => {
    let closed: () => void = () => {}
    const upstreamClosed = new Promise<void>((resolve) => {
      closed = resolve
    })
    pair.upstream.on('/left', (socket) => void socket.on('close', closed))
    const client = new RawClient(pair.gateway.port)
    client.socket.end(get('', '/left'))
    expect((await client.end()).ended).not.toBe('')
    await upstreamClosed
    client.close()
    await expectAlive(pair)
  })
})

describe('trailers of a request', () => {
  it('cannot say what the route says itself', async () => {
    const own = await startPair({
      routes: [
        {
          match: { pathPrefix: '/' },
          upstream: 'app',
          headers: { request: { set: { 'x-role': 'guest' }, remove: ['x-gone'] } },
        },
      ],
    })
    try {
      const request = await expectForwarded(
        own,
        'POST /p HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Role: admin\r\nX-Gone: 1\r\nX-Sum: 2\r\n\r\n',
      )
      expect(field(request, 'x-role')).toBe('guest')
      expect(request.trailers).toEqual([['X-Sum', '2']])
    } finally {
      await own.close()
    }
  })
})
