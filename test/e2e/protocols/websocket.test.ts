/** WebSockets through the gateway: what they carry, who may open one, how they end, and that each place comes back. */

import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import { createServer as createSecureServer } from 'node:https'
import type { AddressInfo, Socket } from 'node:net'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import WebSocket, { WebSocketServer } from 'ws'
import { Certificates } from '../../support/certificates.ts'
import { type ConfigObject, startGateway, type TestGateway } from '../../support/gateway.ts'
import { field } from '../../support/messages.ts'
import { RawClient, send } from '../../support/raw-client.ts'
import { bytes, bytesThenReset, hang, type RawUpstream, startRawUpstream } from '../../support/upstream.ts'

const KEY = 'dGhlIHNhbXBsZSBub25jZQ=='
const HANDSHAKE =
  `GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: ${KEY}\r\n` +
  'Sec-WebSocket-Version: 13\r\n\r\n'
const ACCEPT = createHash('sha1').update(`${KEY}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64')

let server: Server
let sockets: WebSocketServer
let raw: RawUpstream
let lastHandshake: { headers: Record<string, unknown>; url: string } = { headers: {}, url: '' }
beforeAll(async () => {
  server = createServer((_request, response) => response.end('plain'))
  sockets = new WebSocketServer({ noServer: true, handleProtocols: (protocols) => [...protocols][0] ?? false })
  server.on('upgrade', (request, socket, head) => {
    lastHandshake = { headers: request.headers, url: request.url! }
    if (request.url === '/refused') {
      socket.end('HTTP/1.1 403 Forbidden\r\nContent-Length: 7\r\nX-Why: no\r\nConnection: close\r\n\r\nnot you')
      return
    }
    sockets.handleUpgrade(request, socket, head, (one) => {
      one.on('error', () => {})
      one.on('message', (data, binary) => one.send(data, { binary }))
      if (request.url === '/greets') one.send('hello')
      if (request.url === '/leaves') one.close(4001, 'bye')
      if (request.url === '/vanishes') (socket as Socket).resetAndDestroy()
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  raw = await startRawUpstream()
})
afterAll(async () => {
  for (const one of sockets.clients) one.terminate()
  server.closeAllConnections()
  await new Promise((resolve) => server.close(resolve))
  await raw.close()
})

let gateway: TestGateway
let shared: TestGateway | undefined
const gateways: TestGateway[] = []
/** One gateway serves all tests that need nothing of their own. */
async function start(more?: ConfigObject): Promise<TestGateway> {
  if (more === undefined && shared !== undefined) return (gateway = shared)
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  gateway = await startGateway({
    upstreams: {
      app: { endpoints: [{ url }], timeouts: { connect: '20s' } },
      raw: {
        endpoints: [{ url: raw.url }],
        timeouts: { connect: '300ms', firstByte: '300ms' },
        retry: { attempts: 0 },
      },
      down: { endpoints: [{ url: 'http://127.0.0.1:9' }] },
    },
    routes: [
      { name: 'raw', match: { pathPrefix: '/ws' }, upstream: 'raw' },
      { name: 'down', match: { pathPrefix: '/down' }, upstream: 'down' },
      { name: 'cached', match: { pathPrefix: '/cached' }, upstream: 'app', cache: { ttl: '1m' } },
      { name: 'app', match: { pathPrefix: '/' }, upstream: 'app' },
    ],
    ...more,
  })
  if (more === undefined) shared = gateway
  else gateways.push(gateway)
  return gateway
}
afterAll(() => shared?.close())
const opened: WebSocket[] = []
afterEach(async () => {
  for (const socket of opened.splice(0)) socket.terminate()
  for (const one of gateways.splice(0)) await one.close()
})

function open(path = '/', options: WebSocket.ClientOptions = {}, protocols: string[] = []): Promise<WebSocket> {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(`ws://127.0.0.1:${gateway.port}${path}`, protocols, options)
    opened.push(socket)
    socket.on('open', () => resolve(socket))
    socket.on('error', reject)
  })
}

function next(socket: WebSocket): Promise<{ data: Buffer; binary: boolean }> {
  return new Promise((resolve, reject) => {
    socket.once('message', (data, binary) => resolve({ data: data as Buffer, binary }))
    socket.once('close', (code) => reject(new Error(`closed with ${code}`)))
  })
}

function closed(socket: WebSocket): Promise<number> {
  return new Promise((resolve) => socket.once('close', resolve))
}

async function places(): Promise<{ ccu: number; streams: number; skew: number }> {
  const text = await (await gateway.admin('/metrics')).text()
  const value = (name: string) =>
    Number(new RegExp(`^${name}(?:\\{[^}]*\\})? (\\S+)`, 'm').exec(text)?.[1] ?? Number.NaN)
  return { ccu: value('current_ccu'), streams: value('current_streams'), skew: value('fluxor_ccu_ledger_skew') }
}

const NOBODY = { ccu: 0, streams: 0, skew: 0 }
const empty = () => expect.poll(places, { timeout: 5000 }).toEqual(NOBODY)

describe('what goes through', () => {
  it('text, binary, 1 MiB and fragments come back as they were sent', async () => {
    await start()
    const socket = await open('/', { perMessageDeflate: false })
    socket.send('grüße')
    expect(await next(socket)).toEqual({ data: Buffer.from('grüße'), binary: false })
    const large = Buffer.alloc(1 << 20, 7)
    large.writeUInt32BE(0xdeadbeef, 500_000)
    socket.send(large)
    const { data, binary } = await next(socket)
    expect(binary).toBe(true)
    expect(data.equals(large)).toBe(true)
    socket.send('one ', { fin: false })
    socket.send('two ', { fin: false })
    socket.send('three', { fin: true })
    expect((await next(socket)).data.toString()).toBe('one two three')
    socket.ping('are you there')
    await new Promise((resolve) => socket.once('pong', resolve))
    expect(await places()).toEqual({ ccu: 0, streams: 1, skew: 0 })
    socket.close(1000)
    await closed(socket)
    await empty()
  })

  it('compression and a protocol are negotiated end to end', async () => {
    await start()
    const socket = await open('/', { perMessageDeflate: true }, ['chat.v2', 'chat.v1'])
    expect(socket.protocol).toBe('chat.v2')
    socket.send('a'.repeat(10_000))
    expect((await next(socket)).data.length).toBe(10_000)
    socket.terminate()
    await empty()
  })

  it('a message that the service sends right behind its 101 is not lost', async () => {
    await start()
    const socket = new WebSocket(`ws://127.0.0.1:${gateway.port}/greets`)
    expect((await next(socket)).data.toString()).toBe('hello')
    socket.terminate()
  })

  it('the service sees the headers of every other request, and the path that was routed', async () => {
    await start()
    const socket = await open('/a//b/./c?x=1?y=2', { headers: { 'Proxy-Authorization': 'secret', 'X-App': 'yes' } })
    expect(lastHandshake.url).toBe('/a/b/c?x=1?y=2')
    expect(lastHandshake.headers).toMatchObject({ 'x-app': 'yes', 'x-forwarded-for': '127.0.0.1', via: '1.1 fluxor' })
    expect(lastHandshake.headers).not.toHaveProperty('proxy-authorization')
    socket.terminate()
  })

  it('on a route with a cache, no stored answer stands in its way', async () => {
    await start()
    expect(await (await fetch(`${gateway.url}/cached`)).text()).toBe('plain')
    const socket = await open('/cached')
    socket.send('x')
    expect((await next(socket)).data.toString()).toBe('x')
    socket.terminate()
  })

  it('over TLS on both sides', async () => {
    const certificates = new Certificates()
    const files = certificates.issue('ws', 'localhost', ['DNS:localhost', 'IP:127.0.0.1'])
    const service = createSecureServer({ cert: readFileSync(files.cert), key: readFileSync(files.key) })
    const secure = new WebSocketServer({ server: service })
    secure.on('connection', (one) => one.on('message', (data) => one.send(data)))
    await new Promise<void>((resolve) => service.listen(0, '127.0.0.1', resolve))
    const url = `https://127.0.0.1:${(service.address() as AddressInfo).port}`
    await start({
      server: { listen: [{ address: '127.0.0.1:0', tls: { certificates: [files] } }] },
      upstreams: { app: { endpoints: [{ url }], tls: { ca: certificates.ca.cert } } },
      routes: [{ name: 'app', match: { pathPrefix: '/' }, upstream: 'app' }],
    })
    const socket = new WebSocket(`wss://localhost:${gateway.port}`, { ca: readFileSync(certificates.ca.cert) })
    opened.push(socket)
    await new Promise((resolve, reject) => socket.on('open', resolve).on('error', reject))
    socket.send(Buffer.alloc(300_000, 3))
    expect((await next(socket)).data.length).toBe(300_000)
    socket.close(4003)
    expect(await closed(socket)).toBe(4003)
    await empty()
    secure.close()
    service.close()
    certificates.remove()
  })

  it('1 000 at once', async () => {
    await start()
    const all: WebSocket[] = []
    while (all.length < 1000) all.push(...(await Promise.all(Array.from({ length: 50 }, () => open()))))
    expect((await places()).streams).toBe(1000)
    const echoes = all.map(async (socket, i) => {
      socket.send(`n${i}`)
      expect((await next(socket)).data.toString()).toBe(`n${i}`)
    })
    await Promise.all(echoes)
    for (const socket of all) socket.terminate()
    await empty()
    expect((await fetch(gateway.url)).status).toBe(200)
  })
})

describe('who may open one', () => {
  const refusal = (path: string) =>
    new Promise<{ status: number; body: string; headers: Record<string, unknown> }>((resolve, reject) => {
      const socket = new WebSocket(`ws://127.0.0.1:${gateway.port}${path}`)
      socket.on('open', () => reject(new Error('it opened')))
      socket.on('error', reject)
      socket.on('unexpected-response', (_request, response) => {
        let body = ''
        response.on('data', (chunk: Buffer) => {
          body += chunk.toString()
        })
        response.on('end', () => resolve({ status: response.statusCode!, body, headers: response.headers }))
      })
    })

  it('limits hold for handshakes as for requests', async () => {
    await start({
      upstreams: { app: { endpoints: [{ url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` }] } },
      rateLimits: { two: { key: 'ip', limit: 2, window: '1m', algorithm: 'fixedWindow' } },
      routes: [{ name: 'app', match: { pathPrefix: '/' }, upstream: 'app', rateLimit: ['two'] }],
    })
    const both = [await open(), await open()]
    expect((await refusal('/')).status).toBe(429)
    for (const socket of both) socket.terminate()
  })

  it("the service's own refusal is relayed as it is, and nothing behind it is tunnelled", async () => {
    await start()
    const { status, body, headers } = await refusal('/refused')
    expect({ status, body, why: headers['x-why'] }).toEqual({ status: 403, body: 'not you', why: 'no' })
    // What a client sends behind a refused handshake is its next request, read as strictly as the first.
    raw.on('/ws', bytes('HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno'))
    const result = await send(gateway.port, [HANDSHAKE, 'GET /down HTTP/1.1\r\nHost: x\r\n\r\n'], { responses: 2 })
    expect(result.responses.map((response) => response.status)).toEqual([403, 502])
    await empty()
  })

  it.each([
    ['no answer', () => raw.on('/ws', hang), 504],
    ['a reset', () => raw.on('/ws', bytesThenReset()), 502],
    ['a wrong accept key', () => raw.on('/ws', bytes('HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: AAAA\r\n\r\n')), 502],
    ['another protocol', () => raw.on('/ws', bytes(`HTTP/1.1 101 X\r\nUpgrade: irc\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${ACCEPT}\r\n\r\n`)), 502],
    ['something that is no HTTP', () => raw.on('/ws', bytes('hello\r\n\r\n')), 502],
  ])('%s to the handshake is an honest error, and the place is free again', async (_what, prepare, status) => {
    await start()
    prepare()
    expect((await refusal('/ws')).status).toBe(status)
    await empty()
    expect((await fetch(`${gateway.url}/`)).status).toBe(200)
  }) // biome-ignore format: a table

  it('a service that is down: 502', async () => {
    await start()
    expect((await refusal('/down')).status).toBe(502)
    await empty()
  })

  it.each([
    ['another protocol', HANDSHAKE.replace('Upgrade: websocket', 'Upgrade: h2c')],
    ['no key', HANDSHAKE.replace(/Sec-WebSocket-Key: .*\r\n/, '')],
    ['Upgrade that Connection does not name', HANDSHAKE.replace('Connection: Upgrade', 'Connection: keep-alive')],
    ['POST', HANDSHAKE.replace('GET', 'POST').replace('\r\n\r\n', '\r\nContent-Length: 0\r\n\r\n')],
    ['HTTP/1.0', HANDSHAKE.replace('HTTP/1.1', 'HTTP/1.0')],
  ])('%s is served plainly', async (_what, request) => {
    await start()
    const { responses } = await send(gateway.port, request.replace('/ws', '/'), { responses: 1 })
    expect(responses[0]!.status).toBe(200)
    expect(responses[0]!.body.toString()).toBe('plain')
    expect(field(responses[0]!, 'upgrade')).toBeUndefined()
  })
})

describe('how one ends', () => {
  it('the codes of both sides pass', async () => {
    await start()
    const leaving = new WebSocket(`ws://127.0.0.1:${gateway.port}/leaves`)
    expect(await closed(leaving)).toBe(4001)
    const socket = await open()
    const served = [...sockets.clients].at(-1)!
    socket.close(4002)
    expect(await closed(served)).toBe(4002)
    await empty()
  })

  it('a service that vanishes resets the client, a client that vanishes frees the service', async () => {
    await start()
    const socket = new WebSocket(`ws://127.0.0.1:${gateway.port}/vanishes`)
    socket.on('error', () => {})
    expect(await closed(socket)).toBe(1006)
    const other = await open()
    const served = [...sockets.clients].at(-1)!
    ;(other as unknown as { _socket: Socket })._socket.resetAndDestroy()
    await closed(served)
    await empty()
  })

  it('a client that leaves during the handshake frees its place', async () => {
    await start()
    raw.on('/ws', hang)
    const client = new RawClient(gateway.port)
    await client.send(HANDSHAKE)
    await expect.poll(async () => (await places()).ccu).toBe(1)
    client.reset()
    await empty()
  })

  it('silence for longer than tunnelIdle ends it with 1001, traffic in one direction keeps it', async () => {
    await start({ server: { timeouts: { tunnelIdle: '600ms' } } })
    const busy = await open()
    const silent = await open()
    const since = performance.now()
    const timer = setInterval(() => busy.send('x'), 100)
    expect(await closed(silent)).toBe(1001)
    expect(performance.now() - since).toBeGreaterThan(500)
    await new Promise((resolve) => setTimeout(resolve, 300))
    clearInterval(timer)
    expect(busy.readyState).toBe(WebSocket.OPEN)
    busy.terminate()
    await empty()
  })

  it('tunnelLifetime ends it with 1001 whatever the traffic', async () => {
    await start({ server: { timeouts: { tunnelLifetime: '500ms' } } })
    const socket = await open()
    const timer = setInterval(() => socket.readyState === WebSocket.OPEN && socket.send('x'), 50)
    expect(await closed(socket)).toBe(1001)
    clearInterval(timer)
    await empty()
  })

  it('a reload does not cut it; the drain does, with 1001, to client and service', async () => {
    await start({ server: { shutdown: { drain: '500ms' } } })
    const socket = await open()
    const served = [...sockets.clients].at(-1)!
    gateway.signal('SIGHUP')
    await gateway.waitForLog(({ msg }) => msg === 'config reloaded')
    socket.send('still here')
    expect((await next(socket)).data.toString()).toBe('still here')
    const codes = Promise.all([closed(socket), closed(served)])
    const stopped = gateway.stop()
    await new Promise((resolve) => setTimeout(resolve, 200))
    socket.send('during the drain')
    expect((await next(socket)).data.toString()).toBe('during the drain')
    expect(await codes).toEqual([1001, 1001])
    expect(await stopped).toBe(1)
  })

  it('a slow reader costs no memory', async () => {
    await start()
    const socket = await open('/', { perMessageDeflate: false })
    const underneath = (socket as unknown as { _socket: Socket })._socket
    const before = gateway.rssBytes()
    underneath.pause()
    const served = [...sockets.clients].at(-1)!
    const piece = Buffer.alloc(1 << 20)
    for (let i = 0; i < 64; i++) served.send(piece)
    await new Promise((resolve) => setTimeout(resolve, 1500))
    expect(gateway.rssBytes() - before).toBeLessThan(32 << 20)
    let received = 0
    const all = new Promise<void>((resolve) => {
      socket.on('message', () => {
        if (++received === 64) resolve()
      })
    })
    underneath.resume()
    await all
    socket.terminate()
    await empty()
  })
})
