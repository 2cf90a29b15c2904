/**
 * The upstream as an adversary, or broken: what it does never kills the gateway, never reaches another client, and a
 * client never takes a cut answer for a whole one.
 */

import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { freePort } from '../support/free-port.ts'
import { field } from '../support/messages.ts'
import { expectAlive, type Pair, startPair } from '../support/pair.ts'
import { problem, RawClient, send } from '../support/raw-client.ts'
import { answer, bytes, bytesThenClose, bytesThenReset, hang, type Script, slowly } from '../support/upstream.ts'

let pair: Pair
beforeAll(async () => {
  pair = await startPair({
    app: { timeouts: { connect: '1s', firstByte: '1s', idle: '1s' } },
    upstreams: {
      dead: { endpoints: [{ url: `http://127.0.0.1:${await freePort()}` }] },
    },
    routes: [{ match: { pathPrefix: '/dead' }, upstream: 'dead' }],
  })
})
afterAll(() => pair?.close())

const get = (target: string) => `GET ${target} HTTP/1.1\r\nHost: a.test\r\n\r\n`
const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'

async function expectBadGateway(script: Script, request = get('/case'), code?: string): Promise<void> {
  pair.upstream.on('/case', script)
  const result = await send(pair.gateway.port, request, { responses: 1 })
  expect(result.status, result.bytes.toString('latin1')).toBe(502)
  const { code: found } = problem(result.responses[0]!)
  expect(code === undefined ? ['UP_BAD', 'UP_RESET'] : [code]).toContain(found)
  await expectAlive(pair)
}

describe('an answer that is no valid HTTP is 502', () => {
  it.each([
    ['garbage', 'HELLO\r\n\r\n'],
    ['an SMTP banner', '220 smtp.example.com ESMTP\r\n'],
    ['an empty line first', `\r\n${OK}`],
    ['HTTP/2.0', 'HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok'],
    ['HTTP/0.9', '<html>hello</html>'],
    ['a status of four digits', 'HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok'],
    ['a status of two digits', 'HTTP/1.1 99 OK\r\nContent-Length: 2\r\n\r\nok'],
    ['the status 600', 'HTTP/1.1 600 X\r\nContent-Length: 2\r\n\r\nok'],
    ['the status 000', 'HTTP/1.1 000 X\r\nContent-Length: 2\r\n\r\nok'],
    ['two lengths', 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!'],
    ['a length that is a list', 'HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nok!'],
    ['a length that is no number', 'HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok'],
    ['a negative length', 'HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok'],
    ['a length beyond 2^53', 'HTTP/1.1 200 OK\r\nContent-Length: 9007199254740993\r\n\r\nok'],
    ['an unknown transfer coding', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n'],
    [
      'chunked twice',
      'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n',
    ],
    ['a NUL in a value', 'HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 2\r\n\r\nok'],
    [
      'a bare CR in a value (response splitting)',
      'HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: evil=1\r\nContent-Length: 2\r\n\r\nok',
    ],
    [
      'a bare LF in a value (response splitting)',
      'HTTP/1.1 200 OK\r\nX: a\nSet-Cookie: evil=1\r\nContent-Length: 2\r\n\r\nok',
    ],
    ['a line without a colon', 'HTTP/1.1 200 OK\r\nfoo\r\nContent-Length: 2\r\n\r\nok'],
    ['a name that is no token', 'HTTP/1.1 200 OK\r\nX(y): 1\r\nContent-Length: 2\r\n\r\nok'],
    ['101 unasked', 'HTTP/1.1 101 Switching Protocols\r\nUpgrade: foo\r\nConnection: upgrade\r\n\r\nraw bytes'],
    ['a head of 2 MB', `HTTP/1.1 200 OK\r\nX: ${'a'.repeat(2_000_000)}\r\nContent-Length: 2\r\n\r\nok`],
    ['ten thousand fields', `HTTP/1.1 200 OK\r\n${'X: 1\r\n'.repeat(10_000)}Content-Length: 2\r\n\r\nok`],
  ])('%s', async (_title, text) => {
    await expectBadGateway(bytes(text))
  })

  it('a head that is cut', async () => {
    await expectBadGateway(bytesThenClose('HTTP/1.1 200 OK\r\nContent-Le'))
  })

  it('a close instead of an answer', async () => {
    await expectBadGateway(bytesThenClose(), get('/case'), 'UP_RESET')
  })

  it('a reset instead of an answer', async () => {
    await expectBadGateway(bytesThenReset(), get('/case'), 'UP_RESET')
  })

  it('a close behind an interim answer', async () => {
    await expectBadGateway(bytesThenClose('HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n'))
  })
})

it('an answer with length and chunked never reaches the client with both', async () => {
  pair.upstream.on(
    '/case',
    bytes('HTTP/1.1 200 OK\r\nContent-Length: 100\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n'),
  )
  const result = await send(pair.gateway.port, get('/case'), { responses: 1 })
  expect([200, 502]).toContain(result.status)
  const response = result.responses[0]!
  if (response.status === 200) expect(response.body.toString()).toBe('ok')
  expect(field(response, 'content-length') !== undefined && field(response, 'transfer-encoding') !== undefined).toBe(
    false,
  )
  await expectAlive(pair)
})

it('obs-fold in an answer is refused or becomes one line, never two', async () => {
  pair.upstream.on('/case', bytes('HTTP/1.1 200 OK\r\nX: a\r\n Set-Cookie: evil=1\r\nContent-Length: 2\r\n\r\nok'))
  const result = await send(pair.gateway.port, get('/case'), { responses: 1 })
  expect([200, 502]).toContain(result.status)
  expect(field(result.responses[0]!, 'set-cookie')).toBeUndefined()
})

it('white space before a colon in an answer is removed or the answer refused (RFC 9112 §5.1)', async () => {
  pair.upstream.on('/case', bytes('HTTP/1.1 200 OK\r\nX-A : 1\r\nContent-Length : 2\r\n\r\nok'))
  const result = await send(pair.gateway.port, get('/case'), { responses: 1 })
  expect([200, 502]).toContain(result.status)
  expect(result.bytes.toString('latin1')).not.toContain(' :')
  if (result.status === 200) expect(result.responses[0]?.body.toString()).toBe('ok')
})

describe('an answer that breaks in its body cuts the client’s connection', () => {
  const length = 'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n'
  const inChunks = 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n'
  it.each([
    ['closed before its length', bytesThenClose(`${length}half`)],
    ['reset before its length', bytesThenReset(`${length}half`)],
    ['closed between chunks', bytesThenClose(`${inChunks}4\r\nhalf\r\n`)],
    ['closed in a chunk', bytesThenClose(`${inChunks}ff\r\nhalf`)],
    ['reset between chunks', bytesThenReset(`${inChunks}4\r\nhalf\r\n`)],
    ['closed before the last empty line', bytesThenClose(`${inChunks}4\r\nhalf\r\n0\r\n`)],
    ['a bad chunk size', bytes(`${inChunks}4\r\nhalf\r\nxyz\r\n`)],
    ['a chunk that is too long', bytes(`${inChunks}4\r\nhalf and more\r\n0\r\n\r\n`)],
    ['a chunk line with a bare LF', bytes(`${inChunks}4\r\nhalf\r\n0;a\nb\r\n\r\n`)],
    ['a trailer without a colon', bytes(`${inChunks}4\r\nhalf\r\n0\r\nX\r\n\r\n`)],
    ['silence before its length', bytes(`${length}half`)],
    ['silence between chunks', bytes(`${inChunks}4\r\nhalf\r\n`)],
  ])('%s', async (_title, script) => {
    pair.upstream.on('/case', script)
    const result = await send(pair.gateway.port, get('/case'), { timeoutMs: 4000 })
    expect(result.ended, 'the connection ends').not.toBe('')
    // Either nothing had been sent yet, and the client is told; or what was sent is visibly incomplete.
    if (result.responses.length > 0) expect(result.status).toBe(502)
    else expect(result.rest.length).toBeGreaterThan(0)
    await expectAlive(pair)
  })

  it('also when the length of the answer was not known and the upstream resets', async () => {
    pair.upstream.on('/case', bytesThenReset('HTTP/1.1 200 OK\r\n\r\nhalf'))
    const result = await send(pair.gateway.port, get('/case'))
    expect(result.responses.filter((response) => response.status === 200)).toHaveLength(0)
    await expectAlive(pair)
  })
})

describe('nobody gets what was meant for another', () => {
  const evil = 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nEVIL!'
  it.each([
    ['a second answer behind the first', bytes(OK + evil)],
    ['surplus bytes behind the length', bytes(`${OK}surplus`)],
    [
      'surplus bytes behind the last chunk',
      bytes('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nsurplus'),
    ],
    ['a second answer a little later', slowly([OK, evil], 30)],
    ['a body behind 204', bytes(`HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n${evil}`)],
    ['a body behind 304', bytes(`HTTP/1.1 304 Not Modified\r\nContent-Length: 74\r\n\r\n${evil}`)],
  ])('%s', async (_title, script) => {
    pair.upstream.on('/case', script)
    const client = new RawClient(pair.gateway.port)
    await client.send(get('/case'))
    const first = await client.answers(1)
    expect([200, 204, 304, 502]).toContain(first.status)
    await client.send(60)
    for (let i = 0; i < 5; i++) {
      const next = await send(pair.gateway.port, get('/next'), { responses: 1 })
      expect(next.responses[0]?.body.toString()).toBe('ok')
    }
    const rest = client.result()
    client.close()
    expect(rest.bytes.toString('latin1')).not.toMatch(/EVIL|surplus/)
    await expectAlive(pair)
  })

  it('a body behind the answer to HEAD', async () => {
    pair.upstream.on('/case', bytes(`HTTP/1.1 200 OK\r\nContent-Length: ${evil.length}\r\n\r\n${evil}`))
    const client = new RawClient(pair.gateway.port, ['HEAD'])
    await client.send('HEAD /case HTTP/1.1\r\nHost: a.test\r\n\r\n')
    expect((await client.answers(1)).status).toBe(200)
    const next = await send(pair.gateway.port, get('/next'), { responses: 1 })
    client.close()
    expect(next.responses[0]?.body.toString()).toBe('ok')
  })
})

describe('time', () => {
  async function timed(script: Script): Promise<{ status: number; ms: number; code: unknown }> {
    pair.upstream.on('/case', script)
    const startedMs = performance.now()
    const result = await send(pair.gateway.port, get('/case'), { responses: 1, timeoutMs: 8000 })
    const ms = performance.now() - startedMs
    return { status: result.status, ms, code: result.responses[0] && problem(result.responses[0])['code'] }
  }

  it.each([
    ['never answers', hang],
    [
      'drips its head',
      slowly([...'HTTP/1.1 200 OK\r\nX-Long-Field: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'], 100),
    ],
    [
      'sends interim answers for ever',
      slowly(Array<string>(60).fill('HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n'), 100),
    ],
  ])('an upstream that %s is 504 when firstByte is over', async (_title, script) => {
    const { status, ms, code } = await timed(script)
    expect([status, code]).toEqual([504, 'UP_TIMEOUT'])
    expect(ms).toBeGreaterThan(900)
    expect(ms).toBeLessThan(2500)
    await expectAlive(pair)
  })

  it('an upstream that refuses connections is 502 at once', async () => {
    const startedMs = performance.now()
    const result = await send(pair.gateway.port, get('/dead'), { responses: 1 })
    expect([result.status, problem(result.responses[0]!)['code']]).toEqual([502, 'UP_CONNECT'])
    expect(performance.now() - startedMs).toBeLessThan(1000)
  })
})

describe('trying again', () => {
  it('a GET that meets a connection closed just now is answered', async () => {
    pair.upstream.on('/stale', bytesThenClose(OK))
    const client = new RawClient(pair.gateway.port)
    for (let n = 1; n <= 150; n++) {
      await client.send(get('/stale'))
      const result = await client.answers(n)
      expect(result.responses[n - 1]?.status).toBe(200)
    }
    client.close()
  })

  it('a GET whose kept connection is reset by its very request is answered', async () => {
    await expectAlive(pair)
    let resets = 0
    pair.upstream.on('/once', (socket, request) => {
      if (resets++ === 0) socket.resetAndDestroy()
      else answer(200, 'ok')(socket, request)
    })
    const result = await send(pair.gateway.port, get('/once'), { responses: 1 })
    expect([result.status, resets]).toEqual([200, 2])
  })

  it.each(['POST', 'PATCH'])('a %s that was read and then reset is not sent twice', async (method) => {
    await expectAlive(pair)
    pair.upstream.on('/case', bytesThenReset())
    pair.upstream.clear()
    const result = await send(
      pair.gateway.port,
      `${method} /case HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabc`,
      { responses: 1 },
    )
    expect(result.status).toBe(502)
    expect(pair.upstream.requests).toHaveLength(1)
  })

  it('ends after one more try', async () => {
    pair.upstream.on('/case', bytesThenReset())
    pair.upstream.clear()
    const result = await send(pair.gateway.port, get('/case'), { responses: 1 })
    expect(result.status).toBe(502)
    expect(pair.upstream.requests.length).toBeLessThanOrEqual(2)
  })
})

describe('an answer before the request’s body has ended', () => {
  it.each([
    [200, 'kept open'],
    [413, 'kept open'],
    [401, 'closed'],
  ])('%i, the upstream’s connection %s: the client gets it, the rest is no request', async (status, then) => {
    const text = `HTTP/1.1 ${status} X\r\nContent-Length: 5\r\n\r\nearly`
    pair.upstream.on('/early', then === 'closed' ? bytesThenClose(text) : bytes(text), { early: true })
    pair.upstream.clear()
    const client = new RawClient(pair.gateway.port)
    const body = 'GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n'
    await client.send(`POST /early HTTP/1.1\r\nHost: a.test\r\nContent-Length: ${body.length + 1000}\r\n\r\n`, 20)
    await client.send(body)
    const result = await client.answers(1)
    expect(result.status).toBe(status)
    expect(result.responses[0]?.body.toString()).toBe('early')
    await client.send(get('/smuggled2'), 50)
    client.close()
    await expectAlive(pair)
    expect(pair.upstream.requests.filter((request) => request.target.startsWith('/smuggled'))).toEqual([])
  })

  it('a client that goes on sending for ever is cut', async () => {
    pair.upstream.on('/early', bytes('HTTP/1.1 413 X\r\nContent-Length: 5\r\n\r\nearly'), { early: true })
    const client = new RawClient(pair.gateway.port)
    await client.send(`POST /early HTTP/1.1\r\nHost: a.test\r\nContent-Length: 9000000\r\n\r\n`)
    const sending = (async () => {
      for (let i = 0; i < 80 && client.ended === ''; i++) await client.send('x'.repeat(16_384), 40)
    })()
    const result = await client.end(4000)
    expect(result.ended).not.toBe('')
    expect(result.status).toBe(413)
    client.close()
    await sending
    await expectAlive(pair)
  })
})

describe('a request that is not complete', () => {
  it.each([
    ['by length', 'Content-Length: 100\r\n\r\nhalf'],
    ['in chunks', 'Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n'],
    ['in a chunk', 'Transfer-Encoding: chunked\r\n\r\nff\r\nhalf'],
  ])('never looks complete to the upstream: %s', async (_title, rest) => {
    for (const how of ['end', 'reset'] as const) {
      pair.upstream.clear()
      const client = new RawClient(pair.gateway.port)
      await client.send(`POST /p HTTP/1.1\r\nHost: a.test\r\n${rest}`, 30)
      if (how === 'end') client.socket.end()
      else client.reset()
      await client.end(3000)
      client.close()
      await expectAlive(pair)
      expect(pair.upstream.requests.map((request) => request.target)).toEqual(['/probe'])
    }
  })

  it('a client that leaves while the upstream works frees the upstream’s connection', async () => {
    let closed: () => void = () => {}
    const upstreamClosed = new Promise<void>((resolve) => {
      closed = resolve
    })
    pair.upstream.on('/leave', (socket) => void socket.on('close', closed))
    const client = new RawClient(pair.gateway.port)
    await client.send(get('/leave'), 50)
    client.reset()
    await upstreamClosed
    await expectAlive(pair)
  })
})
