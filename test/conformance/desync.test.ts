/**
 * Connections that two sides could read differently although each message is well-formed: upgrades that were not
 * granted, waits for 100 Continue that did not happen, requests behind a body that nobody read. What the upstream got is
 * judged by its bytes, and what the client gets by the count of its answers.
 */

import { createHash } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { field } from '../support/messages.ts'
import { expectAlive, type Pair, startPair } from '../support/pair.ts'
import { RawClient, send } from '../support/raw-client.ts'
import { answer, bytes, bytesThenClose, type Script } from '../support/upstream.ts'

const KEY = 'dGhlIHNhbXBsZSBub25jZQ=='
const ACCEPT = createHash('sha1').update(`${KEY}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64')
const LIMIT = 65_536

let pair: Pair
beforeAll(async () => {
  pair = await startPair({
    server: { limits: { bodyBytes: LIMIT } },
    identity: { apiKeys: { main: { keys: [{ name: 'a', sha256: createHash('sha256').update('k').digest('hex') }] } } },
    app: { timeouts: { firstByte: '1s' } },
    routes: [{ match: { pathPrefix: '/keyed' }, upstream: 'app', apiKey: 'main' }],
  })
})
afterAll(() => pair?.close())

const SMUGGLED = 'GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n'
const handshake = (path: string, more = '') =>
  `GET ${path} HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${KEY}\r\n${more}\r\n`
const targets = () => pair.upstream.requests.map(({ target }) => target)

/** The upstream has seen these requests and no byte beside them. */
function expectOnly(...expected: string[]): void {
  expect(targets()).toEqual(expected)
  expect(pair.upstream.received().equals(Buffer.concat(pair.upstream.requests.map((request) => request.bytes)))).toBe(
    true,
  )
}

describe('an upgrade that the service did not grant', () => {
  it.each([200, 204, 400, 401, 403, 404, 426, 500, 503])('%i: what follows is not tunnelled', async (status) => {
    pair.upstream.on('/ws', answer(status, status === 204 ? '' : 'no'))
    pair.upstream.clear()
    const client = new RawClient(pair.gateway.port)
    await client.send(handshake('/ws'))
    expect((await client.answers(1)).status).toBe(status)
    await client.send('\x81\x85\x00\x00\x00\x00hello', 20)
    client.close()
    await expectAlive(pair)
    expectOnly('/ws', '/probe')
  })

  it('bytes sent with the handshake are, at the most, a request of their own', async () => {
    pair.upstream.on('/ws', answer(403, 'no'))
    pair.upstream.clear()
    const client = new RawClient(pair.gateway.port)
    await client.send(handshake('/ws') + SMUGGLED, 50)
    const result = client.result()
    client.close()
    // Either answered as the pipelined request that it is, through every gate, or dropped: never raw.
    expect(result.responses.map((response) => response.status)).toEqual(
      targets().includes('/smuggled') ? [403, 200] : [403],
    )
    if (targets().includes('/smuggled')) {
      const request = pair.upstream.requests.find(({ target }) => target === '/smuggled')!
      expect(field(request, 'x-forwarded-for')).toBe('127.0.0.1')
    }
    await expectAlive(pair)
  })

  const switching = (fields: string) => `HTTP/1.1 101 Switching Protocols\r\n${fields}\r\nraw of the service`
  it.each([
    ['for another protocol', 'Upgrade: h2c\r\nConnection: Upgrade\r\n'],
    ['without Upgrade', 'Connection: Upgrade\r\n'],
    ['without Connection', `Upgrade: websocket\r\nSec-WebSocket-Accept: ${ACCEPT}\r\n`],
    ['without an accept key', 'Upgrade: websocket\r\nConnection: Upgrade\r\n'],
    ['with a wrong accept key', 'Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: AAAA\r\n'],
  ])('a 101 %s is 502, and no tunnel', async (_title, fields) => {
    pair.upstream.on('/ws', bytes(switching(fields)))
    pair.upstream.clear()
    const client = new RawClient(pair.gateway.port)
    await client.send(handshake('/ws'))
    const result = await client.answers(1)
    await client.send('tunnelled?', 20)
    client.close()
    expect(result.status).toBe(502)
    expect(client.bytes.toString('latin1')).not.toContain('raw of the service')
    expect(pair.upstream.received().toString('latin1')).not.toContain('tunnelled?')
    await expectAlive(pair)
  })
})

describe('a handshake that is also something else', () => {
  it.each([
    ['a length', `Content-Length: ${SMUGGLED.length}\r\n`, SMUGGLED],
    ['chunked', 'Transfer-Encoding: chunked\r\n', `${SMUGGLED.length.toString(16)}\r\n${SMUGGLED}\r\n0\r\n\r\n`],
  ])('with a body by %s: the body stays one', async (_title, fields, body) => {
    pair.upstream.on('/both', answer(200, 'ok'))
    pair.upstream.clear()
    const result = await send(pair.gateway.port, handshake('/both', fields) + body, { responses: 1 })
    expect([200, 400]).toContain(result.status)
    await expectAlive(pair)
    expect(targets()).toEqual(result.status === 200 ? ['/both', '/probe'] : ['/probe'])
  })

  it.each(['websocket, h2c', 'h2c, websocket', 'WebSocket\r\nUpgrade: h2c', 'websocket/13'])(
    'Upgrade: %j never passes h2c on',
    async (value) => {
      pair.upstream.on('/mixed', answer(200, 'ok'))
      pair.upstream.clear()
      const text = handshake('/mixed').replace('Upgrade: websocket', `Upgrade: ${value}`)
      await send(pair.gateway.port, text, { responses: 1 })
      expect(pair.upstream.received().toString('latin1').toLowerCase()).not.toContain('h2c')
      await expectAlive(pair)
    },
  )

  it('HTTP2-Settings and Upgrade: h2c go nowhere (RFC 9113 §3.1)', async () => {
    pair.upstream.clear()
    const text =
      'GET /h2c HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n'
    expect((await send(pair.gateway.port, text, { responses: 1 })).status).toBe(200)
    expect(pair.upstream.received().toString('latin1')).not.toMatch(/h2c\r|http2-settings|upgrade/i)
  })
})

describe('Expect: 100-continue', () => {
  const waiting = (path: string, length: number, more = '') =>
    `POST ${path} HTTP/1.1\r\nHost: a.test\r\nContent-Length: ${length}\r\nExpect: 100-continue\r\n${more}\r\n`

  it.each([
    ['the service refuses early', '/early', 403],
    ['the gateway refuses', '/keyed', 401],
  ])('%s: what comes instead of the body is no request', async (_title, path, status) => {
    pair.upstream.on('/early', bytes('HTTP/1.1 403 X\r\nContent-Length: 2\r\n\r\nno'), { early: true })
    pair.upstream.clear()
    const client = new RawClient(pair.gateway.port)
    await client.send(waiting(path, SMUGGLED.length + 10))
    // The client was refused, or told to go on: then the body is one.
    const result = await client.answers(1)
    expect(result.status).toBe(status)
    await client.send(SMUGGLED, 20)
    const end = await client.end(3000)
    client.close()
    expect(end.responses).toHaveLength(1)
    expect(end.ended).not.toBe('')
    await expectAlive(pair)
    expect(targets().filter((target) => target === '/smuggled')).toEqual([])
  })

  it.each([
    ['with a length of nought', 'Content-Length: 0\r\nExpect: 100-continue\r\n'],
    ['without a body', 'Expect: 100-continue\r\n'],
  ])('%s: the next request is the next request', async (_title, fields) => {
    pair.upstream.clear()
    const text = `POST /a HTTP/1.1\r\nHost: a.test\r\n${fields}\r\nGET /b HTTP/1.1\r\nHost: a.test\r\n\r\n`
    const result = await send(pair.gateway.port, text, { responses: 2 })
    expect(result.responses.map((response) => response.status)).toEqual([200, 200])
    expectOnly('/a', '/b')
  })

  it('in HTTP/1.0 is ignored (RFC 9110 §10.1.1)', async () => {
    pair.upstream.clear()
    const client = new RawClient(pair.gateway.port)
    await client.send(
      'POST /old HTTP/1.0\r\nHost: a.test\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n',
      30,
      'ab',
    )
    const result = await client.answers(1)
    client.close()
    expect([result.status, result.informational.length]).toEqual([200, 0])
    expect(pair.upstream.requests[0]?.body.toString()).toBe('ab')
  })

  it('in other spellings, with chunks, in one write with the next request', async () => {
    pair.upstream.clear()
    const text =
      'POST /a HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nexpect:\t100-Continue\r\n\r\n3\r\nabc\r\n0\r\n\r\n'
    const result = await send(pair.gateway.port, `${text}GET /b HTTP/1.1\r\nHost: a.test\r\n\r\n`, { responses: 2 })
    expect(result.responses.map((response) => response.status)).toEqual([200, 200])
    expect(targets()).toEqual(['/a', '/b'])
    expect(pair.upstream.requests[0]?.body.toString()).toBe('abc')
  })

  it('a service that says 100 and then 200 without reading (0.CL) leaves no half request behind', async () => {
    const early: Script = (socket) => void socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok')
    pair.upstream.on('/deaf', early, { early: true })
    pair.upstream.clear()
    const client = new RawClient(pair.gateway.port)
    await client.send(waiting('/deaf', SMUGGLED.length))
    expect((await client.answers(1)).status).toBe(200)
    await client.send(SMUGGLED, 20)
    client.close()
    for (let i = 0; i < 3; i++) {
      const next = await send(pair.gateway.port, 'GET /next HTTP/1.1\r\nHost: a.test\r\n\r\n', { responses: 1 })
      expect([next.status, next.responses[0]?.body.toString()]).toEqual([200, 'ok'])
    }
    expect(targets().filter((target) => target === '/smuggled')).toEqual([])
  })
})

describe('requests behind a body that was refused', () => {
  const next = 'GET /behind HTTP/1.1\r\nHost: a.test\r\n\r\n'
  it.each([
    [
      '401, by length',
      `POST /keyed HTTP/1.1\r\nHost: a.test\r\nContent-Length: ${SMUGGLED.length}\r\n\r\n${SMUGGLED}`,
      401,
    ],
    [
      '401, in chunks',
      `POST /keyed HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n${SMUGGLED.length.toString(16)}\r\n${SMUGGLED}\r\n0\r\n\r\n`,
      401,
    ],
    ['413, by length', `POST /p HTTP/1.1\r\nHost: a.test\r\nContent-Length: ${LIMIT + 1}\r\n\r\n${SMUGGLED}`, 413],
    [
      '413, by a chunk',
      `POST /p HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n${(LIMIT + 1).toString(16)}\r\n${SMUGGLED.padEnd(LIMIT + 1)}`,
      413,
    ],
    [
      '400, by a chunk',
      `POST /p HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n0x4\r\n${SMUGGLED}`,
      400,
    ],
    ['417', `POST /p HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\nExpect: x\r\n\r\n${SMUGGLED}`, 417],
  ])('%s: read after the body, or never', async (_title, text, status) => {
    pair.upstream.clear()
    const result = await send(pair.gateway.port, text + next, { timeoutMs: 2000 })
    expect(result.status).toBe(status)
    await expectAlive(pair)
    // `/p` may have begun, but is not whole: it is not among the requests.
    const seen = targets().filter((target) => target !== '/probe')
    expect(result.responses).toHaveLength(1 + seen.length)
    expect(['', '/behind']).toContain(seen.join(' '))
    if (seen.length === 0) expect(result.ended).not.toBe('')
  })

  it('bytes of an unread body do not become an answer for the next client upstream', async () => {
    // TE.0 / CL.0: the service answers at the head and treats the rest of its connection as the next request.
    pair.upstream.on('/zero', bytesThenClose('HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nzero'), { early: true })
    pair.upstream.clear()
    const text = `POST /zero HTTP/1.1\r\nHost: a.test\r\nContent-Length: ${SMUGGLED.length}\r\n\r\n${SMUGGLED}`
    const result = await send(pair.gateway.port, text, { responses: 1 })
    expect(result.responses[0]?.body.toString()).toBe('zero')
    await expectAlive(pair)
    expect(targets()).not.toContain('/smuggled')
  })
})
