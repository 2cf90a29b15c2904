/** One suite over every protocol that clients speak: what holds for one holds for all. */

import http, { type IncomingMessage, type ServerResponse } from 'node:http'
import http2 from 'node:http2'
import https from 'node:https'
import net, { type Socket } from 'node:net'
import tls from 'node:tls'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Certificates } from '../../support/certificates.ts'
import { startGateway, type TestGateway } from '../../support/gateway.ts'
import { type HttpUpstream, startHttpUpstream } from '../../support/upstream.ts'

interface Request {
  method?: string
  path: string
  headers?: Record<string, string | string[]>
  /** Pieces of the body. */
  body?: (string | Buffer)[]
  trailers?: Record<string, string>
}

interface Answer {
  status: number
  headers: Record<string, unknown>
  body: Buffer
  trailers: Record<string, unknown>
  informational: number[]
}

/** One client over one connection. Rejects when the answer breaks off. */
interface Client {
  ask(request: Request): Promise<Answer>
  /** Sends the request and leaves abruptly when the head, or `bytes` of the body, have come. */
  leave(request: Request, afterHead: boolean): Promise<void>
  readonly closed: boolean
  close(): void
}

let gateway: TestGateway
let upstream: HttpUpstream
let certificates: Certificates
let plainPort = 0
let securePort = 0

beforeAll(async () => {
  certificates = new Certificates()
  const files = certificates.issue('matrix', 'matrix.test', ['DNS:matrix.test'])
  upstream = await startHttpUpstream(serve)
  gateway = await startGateway({
    server: {
      listen: [{ address: '127.0.0.1:0' }, { address: '127.0.0.1:0', tls: { certificates: [files] } }],
      limits: { bodyBytes: '4MiB' },
    },
    upstreams: { app: { endpoints: [{ url: upstream.url }], timeouts: { firstByte: '2s' } } },
    routes: [
      { name: 'small', match: { path: '/small-timeout' }, upstream: 'app', timeout: '300ms' },
      { name: 'app', match: { pathPrefix: '/' }, upstream: 'app' },
      { name: 'own', match: { path: '/own' }, respond: { status: 418, body: 'own' } },
    ],
  })
  ;[plainPort, securePort] = gateway.ports as [number, number]
})
afterAll(async () => {
  await gateway.close()
  await upstream.close()
  certificates.remove()
})

function serve(request: IncomingMessage, response: ServerResponse): void {
  const url = new URL(request.url!, 'http://x')
  const n = Number(url.searchParams.get('n') ?? 0)
  switch (url.pathname) {
    case '/echo': {
      response.writeHead(200, { 'X-Method': request.method!, 'X-Length': request.headers['content-length'] ?? 'none' })
      if (request.method === 'HEAD') response.end()
      else {
        request.on('end', () => {
          response.addTrailers(request.trailers as Record<string, string>)
          response.end()
        })
        request.pipe(response, { end: false })
      }
      return
    }
    case '/headers':
      response.setHeader('Set-Cookie', ['a=1', 'b=2'])
      response.setHeader('Content-Type', 'application/json')
      response.end(JSON.stringify(request.headers))
      return
    case '/status':
      response.writeHead(n, { 'X-Status': 'yes', ...(n === 304 && { ETag: '"x"' }) })
      response.end(n === 204 || n === 304 ? undefined : `status ${n}`)
      return
    case '/big-header':
      response.setHeader('X-Big', 'b'.repeat(n))
      response.end('ok')
      return
    case '/size':
      response.setHeader('Content-Length', n)
      if (request.method === 'HEAD') response.end()
      else response.end(Buffer.alloc(n, 'abcdefgh'))
      return
    case '/chunks':
      response.writeHead(200, { Trailer: 'X-Sum' })
      for (let i = 0; i < n; i++) response.write(`${i};`)
      response.addTrailers({ 'X-Sum': String(n) })
      response.end()
      return
    case '/early-hints':
      response.writeEarlyHints({ link: '</a.css>; rel=preload' }, () => response.end('hinted'))
      return
    case '/cut':
      response.writeHead(200, { 'Content-Length': 1000 })
      response.write('x'.repeat(100), () => setTimeout(() => request.socket.resetAndDestroy(), 20))
      return
    case '/cut-chunked':
      response.write('x'.repeat(100), () => setTimeout(() => request.socket.resetAndDestroy(), 20))
      return
    case '/slow-stream': {
      const timer = setInterval(() => response.write('tick'), 20)
      response.on('close', () => clearInterval(timer))
      return
    }
    case '/refuse-early':
      response.writeHead(413, { Connection: 'close' })
      response.end('too much')
      return
    case '/small-timeout':
    case '/hang':
      return
    default:
      response.end('ok')
  }
}

function http1Client(secure: boolean): Client {
  const agent = secure
    ? new https.Agent({ keepAlive: true, maxSockets: 1, rejectUnauthorized: false })
    : new http.Agent({ keepAlive: true, maxSockets: 1 })
  let closed = false
  let connections = 0
  const start = ({ method = 'GET', path, headers = {}, body, trailers }: Request): http.ClientRequest => {
    const options = { agent, method, path, headers, host: '127.0.0.1', port: secure ? securePort : plainPort }
    const outgoing = secure ? https.request(options) : http.request(options)
    outgoing.on('socket', (socket: Socket) => {
      if (!outgoing.reusedSocket) connections++
      closed = connections > 1 || socket.destroyed
    })
    if (trailers !== undefined) outgoing.setHeader('Trailer', Object.keys(trailers).join(', '))
    if (body !== undefined && headers['Content-Length'] === undefined)
      outgoing.setHeader('Transfer-Encoding', 'chunked')
    for (const piece of body ?? []) outgoing.write(piece)
    if (trailers !== undefined) outgoing.addTrailers(trailers)
    outgoing.end()
    return outgoing
  }
  return {
    ask: (request) =>
      new Promise((resolve, reject) => {
        const outgoing = start(request)
        const informational: number[] = []
        outgoing.on('information', ({ statusCode }) => informational.push(statusCode))
        outgoing.on('error', reject)
        outgoing.on('response', (response) => {
          const body: Buffer[] = []
          response.on('data', (chunk: Buffer) => body.push(chunk))
          response.on('error', reject)
          response.on('end', () =>
            resolve({
              status: response.statusCode!,
              headers: response.headers,
              body: Buffer.concat(body),
              trailers: response.trailers,
              informational,
            }),
          )
        })
      }),
    leave: (request, afterHead) =>
      new Promise((resolve) => {
        const outgoing = start(request)
        outgoing.on('error', () => {})
        const go = () => {
          outgoing.destroy()
          resolve()
        }
        if (afterHead) outgoing.on('response', (response) => response.once('data', go))
        else setTimeout(go, 150)
      }),
    get closed() {
      return closed
    },
    close: () => agent.destroy(),
  }
}

function http2Client(secure: boolean): Client {
  const session = secure
    ? http2.connect(`https://127.0.0.1:${securePort}`, { rejectUnauthorized: false })
    : http2.connect(`http://127.0.0.1:${plainPort}`)
  session.on('error', () => {})
  const start = ({ method = 'GET', path, headers = {}, body, trailers }: Request): http2.ClientHttp2Stream => {
    const all = { ':method': method, ':path': path, ...headers }
    const stream = session.request(all, { endStream: body === undefined, waitForTrailers: trailers !== undefined })
    stream.on('wantTrailers', () => stream.sendTrailers(trailers!))
    for (const piece of body ?? []) stream.write(piece)
    if (body !== undefined) stream.end()
    return stream
  }
  return {
    ask: (request) =>
      new Promise((resolve, reject) => {
        const stream = start(request)
        const informational: number[] = []
        const body: Buffer[] = []
        let head: Record<string, unknown> = {}
        let trailers: Record<string, unknown> = {}
        stream.on('headers', (headers) => informational.push(Number(headers[':status'])))
        stream.on('response', (headers) => {
          head = headers as Record<string, unknown>
        })
        stream.on('trailers', (headers) => {
          trailers = headers as Record<string, unknown>
        })
        stream.on('data', (chunk: Buffer) => body.push(chunk))
        stream.on('error', reject)
        stream.on('close', () => {
          if (stream.rstCode !== 0) reject(new Error(`reset with ${stream.rstCode}`))
          const status = Number(head[':status'])
          resolve({ status, headers: head, body: Buffer.concat(body), trailers, informational })
        })
      }),
    leave: (request, afterHead) =>
      new Promise((resolve) => {
        const stream = start(request)
        stream.on('error', () => {})
        const go = () => {
          stream.close(http2.constants.NGHTTP2_CANCEL)
          resolve()
        }
        if (afterHead) stream.once('data', go)
        else setTimeout(go, 150)
      }),
    get closed() {
      return session.closed || session.destroyed
    },
    close: () => session.destroy(),
  }
}

const PROTOCOLS: [string, () => Client][] = [
  ['HTTP/1.1', () => http1Client(false)],
  ['HTTP/1.1 over TLS', () => http1Client(true)],
  ['HTTP/2', () => http2Client(true)],
  ['HTTP/2 by prior knowledge', () => http2Client(false)],
]

describe.each(PROTOCOLS)('%s', (name, connect) => {
  const h2 = name.startsWith('HTTP/2')
  let client: Client
  beforeAll(() => {
    client = connect()
  })
  afterAll(() => client.close())

  it.each(['GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'PURGE'])('%s', async (method) => {
    const body = method === 'GET' || method === 'OPTIONS' ? undefined : ['one', 'two']
    const answer = await client.ask({ method, path: '/echo', ...(body && { body }) })
    expect(answer.status).toBe(200)
    expect(answer.headers['x-method']).toBe(method)
    expect(answer.body.toString()).toBe(body === undefined ? '' : 'onetwo')
  })

  it('HEAD has the length and no body', async () => {
    const answer = await client.ask({ method: 'HEAD', path: '/size?n=12345' })
    expect(answer).toMatchObject({ status: 200, body: Buffer.alloc(0) })
    expect(answer.headers['content-length']).toBe('12345')
  })

  it.each([200, 201, 204, 304, 404, 500])('the status %d', async (status) => {
    const answer = await client.ask({ path: `/status?n=${status}` })
    expect(answer.status).toBe(status)
    expect(answer.headers['x-status']).toBe('yes')
    expect(answer.body.toString()).toBe(status === 204 || status === 304 ? '' : `status ${status}`)
  })

  it('fields both ways, each Set-Cookie by itself, no hop-by-hop field', async () => {
    const headers = { 'X-One': 'a, b', Cookie: 'x=1; y=2', 'Accept-Language': 'de' }
    const answer = await client.ask({ path: '/headers', headers })
    const seen = JSON.parse(answer.body.toString()) as Record<string, string>
    expect(seen).toMatchObject({ 'x-one': 'a, b', cookie: 'x=1; y=2', 'accept-language': 'de' })
    expect(seen['host']).toBe(`127.0.0.1:${name.includes('TLS') || name === 'HTTP/2' ? securePort : plainPort}`)
    expect(seen['x-forwarded-proto']).toBe(name.includes('TLS') || name === 'HTTP/2' ? 'https' : 'http')
    expect(answer.headers['set-cookie']).toEqual(['a=1', 'b=2'])
    expect(answer.headers['x-request-id']).toMatch(/^[\w.-]+$/)
    if (h2)
      for (const field of ['connection', 'keep-alive', 'transfer-encoding'])
        expect(answer.headers[field]).toBeUndefined()
  })

  it('a header of 12 KiB each way', async () => {
    const big = 'v'.repeat(12 * 1024)
    const asked = await client.ask({ path: '/headers', headers: { 'X-Big': big } })
    expect(JSON.parse(asked.body.toString())['x-big']).toBe(big)
    const answer = await client.ask({ path: '/big-header?n=12288' })
    expect(String(answer.headers['x-big'])).toHaveLength(12_288)
  })

  it('1 MiB up and down, with and without a length', async () => {
    const piece = Buffer.alloc(64 * 1024, 'kilobyte')
    const body = Array.from({ length: 16 }, () => piece)
    const unknown = await client.ask({ method: 'POST', path: '/echo', body })
    expect(unknown.body.equals(Buffer.concat(body))).toBe(true)
    const known = await client.ask({
      method: 'POST',
      path: '/echo',
      body,
      headers: { 'Content-Length': String(1 << 20) },
    })
    expect(known.body.equals(Buffer.concat(body))).toBe(true)
    expect(known.headers['x-length']).toBe(String(1 << 20))
    const download = await client.ask({ path: '/size?n=1048576' })
    expect(download.body.length).toBe(1 << 20)
    expect(download.headers['content-length']).toBe('1048576')
  })

  it('trailers of the answer, and of the request', async () => {
    const answer = await client.ask({ path: '/chunks?n=5', headers: { TE: 'trailers' } })
    expect(answer.body.toString()).toBe('0;1;2;3;4;')
    expect(answer.trailers).toMatchObject({ 'x-sum': '5' })
    const sent = await client.ask({ method: 'POST', path: '/echo', body: ['a'], trailers: { 'X-Check': 'ok' } })
    expect(sent.body.toString()).toBe('a')
    expect(sent.trailers).toMatchObject({ 'x-check': 'ok' })
  })

  it('interim answers', async () => {
    const answer = await client.ask({ path: '/early-hints' })
    expect(answer).toMatchObject({ status: 200, informational: [103] })
  })

  it("the gateway's own answers and refusals", async () => {
    expect(await client.ask({ path: '/own' })).toMatchObject({ status: 418, body: Buffer.from('own') })
    const trace = await client.ask({ method: 'TRACE', path: '/' })
    expect(trace.status).toBe(405)
    expect(JSON.parse(trace.body.toString())).toMatchObject({ code: 'METHOD', status: 405 })
    expect((await client.ask({ path: '/a%2fb' })).status).toBe(400)
  })

  it('a body above the limit: 413, told before it is sent or in its middle', async () => {
    const own = connect()
    const told = own.ask({ method: 'POST', path: '/echo', headers: { 'Content-Length': '5000000' }, body: ['x'] })
    const big = await told.catch((error: Error) => error)
    if (!(big instanceof Error)) expect(big.status).toBe(413)
    own.close()
    expect((await client.ask({ path: '/' })).status).toBe(200)
  })

  it('times: a route that is too slow, a service that never answers', async () => {
    expect((await client.ask({ path: '/small-timeout' })).status).toBe(504)
    expect((await client.ask({ path: '/hang' })).status).toBe(504)
  })

  it.each(['/cut', '/cut-chunked'])('an answer that breaks off is seen as broken (%s)', async (path) => {
    const own = connect()
    await expect(own.ask({ path })).rejects.toThrow()
    own.close()
  })

  it('a client that leaves frees its place and stops the work', async () => {
    for (const [path, afterHead] of [['/hang', false], ['/slow-stream', true]] as const) {
      const own = connect()
      await own.leave({ path }, afterHead)
      await expect.poll(() => upstream.inside, { timeout: 5000 }).toBe(0)
      await expect.poll(() => gateway.metric('current_ccu'), { timeout: 5000 }).toBe(0)
      own.close()
    } // biome-ignore format: two cases
  })

  it('one connection serves many requests', async () => {
    const own = connect()
    for (let i = 0; i < 20; i++) expect((await own.ask({ path: `/size?n=${i * 100}` })).body.length).toBe(i * 100)
    expect(own.closed).toBe(false)
    own.close()
  })

  it('nothing is left in flight, and nothing was lost or made up', async () => {
    await expect.poll(() => gateway.metric('current_ccu'), { timeout: 5000 }).toBe(0)
    expect(await gateway.metric('fluxor_ccu_ledger_skew')).toBe(0)
  })
})

describe('what only a server of all of them can get wrong', () => {
  it('http2: false answers the preface with 400 and offers HTTP/1.1 alone by ALPN', async () => {
    const files = certificates.issue('plain', 'plain.test')
    const only1 = await startGateway({
      server: {
        listen: [
          { address: '127.0.0.1:0', http2: false },
          { address: '127.0.0.1:0', http2: false, tls: { certificates: [files] } },
        ],
      },
      routes: [{ match: { pathPrefix: '/' }, respond: { status: 200, body: 'ok' } }],
    })
    try {
      const socket = net.connect(only1.ports[0]!, '127.0.0.1')
      socket.write('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n')
      let text = ''
      socket.on('data', (chunk) => {
        text += chunk.toString()
      })
      await new Promise((resolve) => socket.on('close', resolve))
      expect(text).toMatch(/^HTTP\/1\.1 400 /)
      const secure = tls.connect({
        port: only1.ports[1]!,
        host: '127.0.0.1',
        ALPNProtocols: ['h2', 'http/1.1'],
        rejectUnauthorized: false,
      })
      await new Promise((resolve) => secure.on('secureConnect', resolve))
      expect(secure.alpnProtocol).toBe('http/1.1')
      secure.destroy()
    } finally {
      await only1.close()
    }
  })

  it('a drain lets streams end, says GOAWAY, and takes what comes until then', async () => {
    const other = await startGateway({
      upstreams: { app: { endpoints: [{ url: upstream.url }] } },
      routes: [{ match: { pathPrefix: '/' }, upstream: 'app', timeout: '0s' }],
    })
    const session = http2.connect(`http://127.0.0.1:${other.port}`)
    session.on('error', () => {})
    const goaway = new Promise((resolve) => session.once('goaway', resolve))
    const stream = session.request({ ':path': '/slow-stream' })
    await new Promise((resolve) => stream.once('data', resolve))
    const stopped = other.stop()
    await goaway
    const late = session.destroyed || session.closed ? undefined : session.request({ ':path': '/' })
    if (late !== undefined) {
      const status = await new Promise((resolve) => {
        late.on('response', (headers) => resolve(headers[':status']))
        late.on('error', resolve)
      })
      expect(status).toBe(200)
    }
    stream.close()
    expect(await stopped).toBe(0)
  })
})
