/** PROXY headers in and out: who is believed, what becomes of what is no header, what the service is told. */

import { createServer, type Socket } from 'node:net'
import tls from 'node:tls'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Certificates } from '../../support/certificates.ts'
import { startGateway, type TestGateway } from '../../support/gateway.ts'
import { type RawResult, send } from '../../support/raw-client.ts'
import { type HttpUpstream, startHttpUpstream } from '../../support/upstream.ts'

const V1 = 'PROXY TCP4 203.0.113.9 198.51.100.7 4711 443\r\n'
const V2 = Buffer.from([
  13, 10, 13, 10, 0, 13, 10, 81, 85, 73, 84, 10, 0x21, 0x11, 0, 12, 203, 0, 113, 9, 198, 51, 100, 7, 0x12, 0x67, 1, 187,
])
const GET = 'GET / HTTP/1.1\r\nHost: x\r\n\r\n'

let upstream: HttpUpstream
let certificates: Certificates
beforeAll(async () => {
  certificates = new Certificates()
  upstream = await startHttpUpstream((request, response) => response.end(JSON.stringify(request.headers)))
})
afterAll(async () => {
  await upstream.close()
  certificates.remove()
})

const headersOf = (result: RawResult, i = 0) =>
  JSON.parse(result.responses[i]!.body.toString()) as Record<string, string>

describe('in, from a trusted peer', () => {
  let gateway: TestGateway
  beforeAll(async () => {
    const files = certificates.issue('proxied', 'proxied.test')
    gateway = await startGateway({
      server: {
        listen: [
          { address: '127.0.0.1:0', proxyProtocol: true },
          { address: '127.0.0.1:0', proxyProtocol: true, tls: { certificates: [files] } },
        ],
        trustedProxies: ['127.0.0.1/32'],
        timeouts: { header: '500ms' },
      },
      logging: { access: { only: 'all' } },
      rateLimits: { one: { key: 'ip', limit: 1, window: '1h', algorithm: 'fixedWindow' } },
      upstreams: { app: { endpoints: [{ url: upstream.url }] } },
      routes: [
        { name: 'limited', match: { path: '/limited' }, upstream: 'app', rateLimit: ['one'] },
        { name: 'app', match: { pathPrefix: '/' }, upstream: 'app' },
      ],
    })
  })
  afterAll(() => gateway.close())

  it.each([
    ['version 1', V1],
    ['version 2', V2],
  ])(
    '%s: its address counts for the service, the log and limits, for all requests of the connection',
    async (_name, header) => {
      const result = await send(gateway.port, [header, GET, 20, GET], { responses: 2 })
      for (const i of [0, 1]) {
        expect(headersOf(result, i)).toMatchObject({ 'x-forwarded-for': '203.0.113.9', 'x-real-ip': '203.0.113.9' })
      }
      const id = result.responses[0]!.fields.find(([name]) => name.toLowerCase() === 'x-request-id')![1]
      const line = await gateway.waitForLog((entry) => JSON.stringify(entry).includes(id))
      expect(JSON.stringify(line)).toContain('203.0.113.9')
    },
  )

  it('limits count by that address', async () => {
    const from = (address: string) =>
      send(gateway.port, [`PROXY TCP4 ${address} 198.51.100.7 1 1\r\n`, GET.replace('/ ', '/limited ')], {
        responses: 1,
      })
    expect((await from('203.0.113.50')).status).toBe(200)
    expect((await from('203.0.113.51')).status).toBe(200)
    expect((await from('203.0.113.50')).status).toBe(429)
  })

  it('header and request in one piece, in many, and before a TLS handshake', async () => {
    const bytes = Buffer.concat([V2, Buffer.from(GET)])
    expect(headersOf(await send(gateway.port, bytes, { responses: 1 }))['x-real-ip']).toBe('203.0.113.9')
    const pieces = [0, 5, 12, 14, 17, 27].flatMap((at, i, all) => [bytes.subarray(at, all[i + 1]), 2])
    expect(headersOf(await send(gateway.port, pieces, { responses: 1 }))['x-real-ip']).toBe('203.0.113.9')

    const { connect } = await import('node:net')
    const plain = connect(gateway.ports[1]!, '127.0.0.1')
    plain.write(V1)
    const secure = tls.connect({ socket: plain, rejectUnauthorized: false }, () => secure.write(GET))
    let text = ''
    secure.on('data', (chunk) => {
      text += chunk.toString()
    })
    await expect.poll(() => text).toContain('"x-real-ip":"203.0.113.9"')
    secure.destroy()
  })

  it('the preface of HTTP/2 may follow', async () => {
    const { connect } = await import('node:http2')
    const net = await import('node:net')
    const session = connect(`http://127.0.0.1:${gateway.port}`, {
      createConnection: () => {
        const socket = net.connect(gateway.port, '127.0.0.1')
        socket.write(V1)
        return socket
      },
    })
    const stream = session.request({ ':path': '/' })
    let text = ''
    for await (const chunk of stream) text += String(chunk)
    expect(JSON.parse(text)['x-real-ip']).toBe('203.0.113.9')
    session.destroy()
  })

  it('LOCAL and UNKNOWN leave the address of the socket', async () => {
    const result = await send(gateway.port, ['PROXY UNKNOWN\r\n', GET], { responses: 1 })
    expect(headersOf(result)['x-real-ip']).toBe('127.0.0.1')
  })

  it.each([
    ['no header', GET],
    ['a broken one', 'PROXY TCP4 1.2.3.4\r\n'],
    ['one that never ends', 'PROXY TCP4'],
    ['nothing at all', ''],
  ])('%s: the connection is closed without a word', async (_what, bytes) => {
    const { bytes: received, ended } = await send(gateway.port, bytes, { timeoutMs: 3000 })
    expect(received.length).toBe(0)
    expect(ended).not.toBe('')
  })
})

describe('in, from anybody else', () => {
  it.each([
    ['version 1', V1],
    ['version 2', V2],
  ])('%s is answered 400; without a header the peer is served', async (_name, header) => {
    const gateway = await startGateway({
      server: { listen: [{ address: '127.0.0.1:0', proxyProtocol: true }], trustedProxies: ['192.0.2.0/24'] },
      upstreams: { app: { endpoints: [{ url: upstream.url }] } },
      routes: [{ name: 'app', match: { pathPrefix: '/' }, upstream: 'app' }],
    })
    try {
      const result = await send(gateway.port, [header, GET])
      expect(result.responses.map(({ status }) => status)).toEqual([400])
      const plain = await send(gateway.port, GET, { responses: 1 })
      expect(headersOf(plain)['x-real-ip']).toBe('127.0.0.1')
    } finally {
      await gateway.close()
    }
  })
})

describe('out', () => {
  it.each(['v1', 'v2'] as const)(
    '%s: the service is told who asks, by a connection of its own each',
    async (version) => {
      const firsts: Buffer[] = []
      const sockets: Socket[] = []
      const service = createServer((socket) => {
        sockets.push(socket)
        socket.on('error', () => {})
        let seen = Buffer.alloc(0)
        let answered = false
        socket.on('data', (chunk) => {
          seen = Buffer.concat([seen, chunk])
          if (answered || !seen.includes('\r\n\r\n', 16)) return
          answered = true
          firsts.push(seen)
          socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok')
        })
      })
      await new Promise<void>((resolve) => service.listen(0, '127.0.0.1', resolve))
      const { port } = service.address() as { port: number }
      const gateway = await startGateway({
        server: { trustedProxies: ['127.0.0.1'] },
        upstreams: { app: { endpoints: [{ url: `http://127.0.0.1:${port}` }], proxyProtocol: version } },
        routes: [{ name: 'app', match: { pathPrefix: '/' }, upstream: 'app' }],
      })
      try {
        const from = (address: string) => GET.replace('\r\n\r\n', `\r\nX-Forwarded-For: ${address}\r\n\r\n`)
        await send(gateway.port, [from('203.0.113.1'), 50, from('2001:db8::7')], { responses: 2 })
        expect(firsts).toHaveLength(2)
        const { parseProxyHeader } = await import('../../../src/listener/proxy-protocol.ts')
        expect(parseProxyHeader(firsts[0]!)).toMatchObject({ address: '203.0.113.1' })
        expect(parseProxyHeader(firsts[1]!)).toMatchObject({ address: '2001:db8::7' })
        expect(firsts[0]!.subarray(parseProxyHeader(firsts[0]!)!.length).toString()).toMatch(/^GET \/ HTTP\/1\.1\r\n/)
        await expect.poll(() => sockets.every((socket) => socket.destroyed || socket.readableEnded)).toBe(true)
      } finally {
        await gateway.close()
        service.close()
        for (const socket of sockets) socket.destroy()
      }
    },
  )
})
