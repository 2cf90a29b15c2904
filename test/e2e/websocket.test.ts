/** WebSockets: the tunnel opens only after the upstream's 101, carries every byte, and counts while it lives. */

import { createHash, randomBytes } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startGateway, type TestGateway } from '../support/gateway.ts'
import { field } from '../support/messages.ts'
import { RawClient } from '../support/raw-client.ts'
import { answer, bytesThenClose, hang, type RawUpstream, type Script, startRawUpstream } from '../support/upstream.ts'

const KEY = 'dGhlIHNhbXBsZSBub25jZQ=='
const ACCEPT = createHash('sha1').update(`${KEY}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64')
const SWITCH = `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${ACCEPT}\r\n\r\n`

let upstream: RawUpstream
let gateway: TestGateway
beforeAll(async () => {
  upstream = await startRawUpstream()
  gateway = await startGateway({
    admission: { maxCCU: 5, workers: 5, maxQueue: 0, maxStreams: 3 },
    upstreams: { app: { endpoints: [{ url: upstream.url }], timeouts: { firstByte: '1s' } } },
    routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
  })
})
afterAll(async () => {
  await gateway?.close()
  await upstream?.close()
})

const handshake = (path: string, fields = '') =>
  `GET ${path} HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${KEY}\r\n${fields}\r\n`

/** Switches, then sends every byte back. */
const echo: Script = (socket, request) => {
  socket.removeAllListeners('data')
  socket.write(SWITCH)
  socket.write(request.rest)
  socket.on('data', (chunk) => socket.write(chunk))
}

async function open(path = '/ws'): Promise<RawClient> {
  upstream.on('/ws', echo)
  const client = new RawClient(gateway.port)
  await client.send(handshake(path))
  const result = await client.until(({ bytes }) => bytes.includes('\r\n\r\n'))
  expect(result.bytes.toString('latin1')).toMatch(/^HTTP\/1\.1 101 /)
  return client
}

async function eventually(done: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 10_000
  while (!(await done())) {
    if (performance.now() > deadline) throw new Error('it did not happen in time')
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

const afterHead = (bytes: Buffer) => bytes.subarray(bytes.indexOf('\r\n\r\n') + 4)

describe('a WebSocket', () => {
  it('opens with the upstream’s own 101, and the gateway’s fields go up with the handshake', async () => {
    upstream.clear()
    const client = await open()
    const head = client.bytes.toString('latin1').toLowerCase()
    expect(head).toContain(`sec-websocket-accept: ${ACCEPT.toLowerCase()}`)
    const request = upstream.requests[0]!
    expect(field(request, 'upgrade')).toBe('websocket')
    expect(field(request, 'connection')?.toLowerCase()).toBe('upgrade')
    expect(field(request, 'sec-websocket-key')).toBe(KEY)
    expect(field(request, 'x-forwarded-for')).toBe('127.0.0.1')
    client.close()
  })

  it('carries a megabyte both ways, byte for byte', async () => {
    const client = await open()
    const sent = randomBytes(1 << 20)
    await client.send(sent)
    const result = await client.until(({ bytes }) => afterHead(bytes).length >= sent.length, 10_000)
    expect(afterHead(result.bytes).equals(sent)).toBe(true)
    client.close()
  })

  it('takes the bytes that come with the handshake', async () => {
    upstream.on('/ws', echo)
    const client = new RawClient(gateway.port)
    await client.send(`${handshake('/ws')}early bytes`)
    const result = await client.until(({ bytes }) => bytes.includes('early bytes'))
    expect(afterHead(result.bytes).toString()).toBe('early bytes')
    client.close()
  })

  it('ends on both sides when one side ends it', async () => {
    const before = upstream.open.size
    const client = await open()
    client.close()
    await eventually(() => upstream.open.size <= before)
    const other = await open()
    upstream.dropConnections()
    expect((await other.end()).ended).not.toBe('')
  })

  it('moves from the exchanges to the streams once it is open, and gives its place back', async () => {
    await eventually(async () => (await gateway.metric('current_streams')) === 0)
    const clients = [await open(), await open()]
    await eventually(async () => (await gateway.metric('current_streams')) === 2)
    expect(await gateway.metric('current_ccu')).toBe(0)
    for (const client of clients) client.close()
    await eventually(async () => (await gateway.metric('current_streams')) === 0)
    expect(await gateway.metric('fluxor_ccu_ledger_skew')).toBe(0)
  })
})

describe('what is no WebSocket', () => {
  it('an upstream that answers 403 is believed; what follows is not tunnelled', async () => {
    upstream.on('/refused', answer(403, 'no'))
    upstream.clear()
    const client = new RawClient(gateway.port)
    await client.send(handshake('/refused'))
    const result = await client.answers(1)
    expect([result.status, result.responses[0]?.body.toString()]).toEqual([403, 'no'])
    await client.send('raw bytes of a tunnel that is not there\r\n\r\n', 100)
    client.close()
    expect(upstream.received().toString('latin1')).not.toContain('raw bytes')
  })

  it('an upstream that never answers the handshake is 504', async () => {
    upstream.on('/hang', hang)
    const client = new RawClient(gateway.port)
    await client.send(handshake('/hang'))
    expect((await client.answers(1)).status).toBe(504)
    client.close()
  })

  it('an upstream that closes instead of answering is 502', async () => {
    upstream.on('/closed', bytesThenClose())
    const client = new RawClient(gateway.port)
    await client.send(handshake('/closed'))
    expect((await client.answers(1)).status).toBe(502)
    client.close()
  })

  it.each([
    ['POST', (text: string) => text.replace('GET', 'POST').replace('\r\n\r\n', '\r\nContent-Length: 0\r\n\r\n')],
    ['HTTP/1.0', (text: string) => text.replace('HTTP/1.1', 'HTTP/1.0')],
    ['without Connection: upgrade', (text: string) => text.replace('Connection: Upgrade', 'Connection: keep-alive')],
    ['another protocol', (text: string) => text.replace('Upgrade: websocket', 'Upgrade: foo')],
  ])('%s is served as a plain request, without the upgrade', async (_title, change) => {
    upstream.clear()
    const client = new RawClient(gateway.port)
    await client.send(change(handshake('/plain')))
    const result = await client.answers(1)
    client.close()
    expect(result.status).toBe(200)
    expect(field(upstream.requests[0]!, 'upgrade')).toBeUndefined()
  })
})
