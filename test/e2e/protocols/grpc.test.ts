/** gRPC through the gateway, by its own client and server: every kind of call, deadlines, errors, metadata, refusals. */

import { readFileSync, writeFileSync } from 'node:fs'
import http2 from 'node:http2'
import net, { type AddressInfo } from 'node:net'
import { join } from 'node:path'
import tls from 'node:tls'
import * as grpc from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Certificates } from '../../support/certificates.ts'
import { startGateway, type TestGateway } from '../../support/gateway.ts'

const PROTO = `syntax = "proto3";
package test;
message Text { string text = 1; }
service Echo {
  rpc Unary (Text) returns (Text);
  rpc Server (Text) returns (stream Text);
  rpc Client (stream Text) returns (Text);
  rpc Bidi (stream Text) returns (stream Text);
}`

interface Text {
  text: string
}
type Call = grpc.ServerDuplexStream<Text, Text>

let certificates: Certificates
let echo: grpc.ServiceClientConstructor
let server: grpc.Server
let gateway: TestGateway
let client: InstanceType<grpc.ServiceClientConstructor> & Record<string, (...args: never[]) => never>
let cancelled = 0
let overTls: grpc.Client

const implementation = {
  Unary: (call: grpc.ServerUnaryCall<Text, Text>, done: grpc.sendUnaryData<Text>) => {
    const { text } = call.request
    if (text === 'fail') {
      const metadata = new grpc.Metadata()
      metadata.set('why', 'because')
      done({ code: grpc.status.ALREADY_EXISTS, details: 'öffentlich %', metadata })
      return
    }
    call.on('cancelled', () => cancelled++)
    if (text === 'hang') return
    const metadata = new grpc.Metadata()
    metadata.set('x-seen', String(call.metadata.get('x-sent')[0] ?? ''))
    metadata.set('x-seen-bin', (call.metadata.get('x-sent-bin')[0] as Buffer) ?? Buffer.alloc(0))
    call.sendMetadata(metadata)
    const trailer = new grpc.Metadata()
    trailer.set('x-trailer', 'at the end')
    done(null, { text }, trailer)
  },
  Server: (call: grpc.ServerWritableStream<Text, Text>) => {
    for (let i = 0; i < Number(call.request.text); i++) call.write({ text: `${i}` })
    call.end()
  },
  Client: (call: grpc.ServerReadableStream<Text, Text>, done: grpc.sendUnaryData<Text>) => {
    let all = ''
    call.on('data', ({ text }: Text) => {
      all += text
    })
    call.on('end', () => done(null, { text: all }))
  },
  Bidi: (call: Call) => {
    call.on('data', (message: Text) => call.write(message))
    call.on('end', () => call.end())
    call.on('cancelled', () => cancelled++)
  },
}

beforeAll(async () => {
  certificates = new Certificates()
  const proto = join(certificates.folder, 'echo.proto')
  writeFileSync(proto, PROTO)
  const loaded = grpc.loadPackageDefinition(loadSync(proto)) as unknown as {
    test: { Echo: grpc.ServiceClientConstructor }
  }
  echo = loaded.test.Echo
  server = new grpc.Server()
  server.addService(echo.service, implementation)
  const port = await new Promise<number>((resolve, reject) =>
    server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (error, bound) =>
      error === null ? resolve(bound) : reject(error),
    ),
  )
  const files = certificates.issue('grpc', 'grpc.test', ['DNS:grpc.test', 'DNS:localhost'])
  gateway = await startGateway({
    server: { listen: [{ address: '127.0.0.1:0' }, { address: '127.0.0.1:0', tls: { certificates: [files] } }] },
    identity: { jwt: { main: { secret: 'a-secret-that-is-long-enough-for-hs256', algorithms: ['HS256'] } } },
    rateLimits: { none: { key: 'ip', limit: 1, window: '1h', algorithm: 'fixedWindow' } },
    upstreams: {
      app: { endpoints: [{ url: `http://127.0.0.1:${port}` }], protocol: 'h2' },
      down: { endpoints: [{ url: 'http://127.0.0.1:9' }], protocol: 'h2', retry: { attempts: 0 } },
    },
    routes: [
      { name: 'guarded', match: { pathPrefix: '/guarded' }, upstream: 'app', jwt: 'main' },
      { name: 'limited', match: { pathPrefix: '/limited' }, upstream: 'app', rateLimit: ['none'] },
      { name: 'down', match: { pathPrefix: '/down' }, upstream: 'down' },
      { name: 'slow', match: { pathPrefix: '/slow' }, upstream: 'app', timeout: '300ms', rewrite: { prefix: '/' } },
      { name: 'app', match: { pathPrefix: '/test.Echo' }, upstream: 'app', timeout: '1s' },
    ],
  })
  client = new echo(`127.0.0.1:${gateway.ports[0]}`, grpc.credentials.createInsecure()) as typeof client
  overTls = new echo(
    `localhost:${gateway.ports[1]}`,
    grpc.credentials.createSsl(readFileSync(certificates.ca.cert)),
  ) as unknown as grpc.Client
})
afterAll(async () => {
  client.close()
  overTls.close()
  server.forceShutdown()
  await gateway.close()
  certificates.remove()
})

interface Result {
  error: grpc.ServiceError | null
  text: string
  metadata: grpc.Metadata
  trailer: grpc.Metadata
}

function unary(on: grpc.Client, method: string, text: string, metadata = new grpc.Metadata(), deadlineMs?: number) {
  return new Promise<Result>((resolve) => {
    let head = new grpc.Metadata()
    let trailer = new grpc.Metadata()
    const { requestSerialize, responseDeserialize } = echo.service['Unary']!
    const options = deadlineMs === undefined ? {} : { deadline: Date.now() + deadlineMs }
    let result: [grpc.ServiceError | null, Text | undefined]
    const call = on.makeUnaryRequest(
      method,
      requestSerialize as (value: Text) => Buffer,
      responseDeserialize as (bytes: Buffer) => Text,
      { text },
      metadata,
      options,
      (error, value) => {
        result = [error, value]
      },
    )
    call.on('metadata', (value) => {
      head = value
    })
    call.on('status', (status) => {
      trailer = status.metadata
      setImmediate(() => resolve({ error: result[0], text: result[1]?.text ?? '', metadata: head, trailer }))
    })
  })
}

const UNARY = '/test.Echo/Unary'
type Duplex = grpc.ClientDuplexStream<Text, Text>
const call = <T>(method: string, ...args: unknown[]): T =>
  (client[method] as unknown as (...a: unknown[]) => T)(...args)

describe('calls', () => {
  it.each([
    ['plain', () => client as grpc.Client],
    ['over TLS', () => overTls],
  ])('unary, with metadata both ways and trailers (%s)', async (_name, on) => {
    const metadata = new grpc.Metadata()
    metadata.set('x-sent', 'hello')
    metadata.set('x-sent-bin', Buffer.from([0, 255, 13, 10]))
    const result = await unary(on(), UNARY, 'grüße', metadata)
    expect(result.error).toBeNull()
    expect(result.text).toBe('grüße')
    expect(result.metadata.get('x-seen')).toEqual(['hello'])
    expect(result.metadata.get('x-seen-bin')).toEqual([Buffer.from([0, 255, 13, 10])])
    expect(result.trailer.get('x-trailer')).toEqual(['at the end'])
  })

  it('server streaming', async () => {
    const stream = call<grpc.ClientReadableStream<Text>>('Server', { text: '1000' })
    const all: string[] = []
    for await (const { text } of stream as AsyncIterable<Text>) all.push(text)
    expect(all).toHaveLength(1000)
    expect(all.at(-1)).toBe('999')
  })

  it('client streaming', async () => {
    const text = await new Promise((resolve, reject) => {
      const stream = call<grpc.ClientWritableStream<Text>>('Client', (error: Error | null, value: Text) =>
        error === null ? resolve(value.text) : reject(error),
      )
      for (let i = 0; i < 100; i++) stream.write({ text: `${i},` })
      stream.end()
    })
    expect(text).toBe(Array.from({ length: 100 }, (_, i) => `${i},`).join(''))
  })

  it('bidirectional, each message as it comes, and for longer than the route gives an answer', async () => {
    const stream = call<Duplex>('Bidi')
    for (let i = 0; i < 8; i++) {
      const back = new Promise<Text>((resolve) => stream.once('data', resolve))
      stream.write({ text: `m${i}` })
      expect((await back).text).toBe(`m${i}`)
      await new Promise((resolve) => setTimeout(resolve, 150))
    }
    const status = new Promise<grpc.StatusObject>((resolve) => stream.once('status', resolve))
    stream.on('data', () => {})
    stream.end()
    expect((await status).code).toBe(grpc.status.OK)
  })

  it('50 calls at once share few connections', async () => {
    const results = await Promise.all(Array.from({ length: 50 }, (_, i) => unary(client, UNARY, `n${i}`)))
    expect(results.map(({ text }) => text)).toEqual(Array.from({ length: 50 }, (_, i) => `n${i}`))
    expect(await gateway.metric('fluxor_pool_connections')).toBeLessThanOrEqual(2)
  })

  it("the service's own error passes as it is", async () => {
    const { error } = await unary(client, UNARY, 'fail')
    expect(error).toMatchObject({ code: grpc.status.ALREADY_EXISTS, details: 'öffentlich %' })
    expect(error!.metadata.get('why')).toEqual(['because'])
  })

  it('a deadline ends the call everywhere, and so does a client that cancels', async () => {
    cancelled = 0
    const { error } = await unary(client, UNARY, 'hang', new grpc.Metadata(), 200)
    expect(error?.code).toBe(grpc.status.DEADLINE_EXCEEDED)
    await expect.poll(() => cancelled).toBe(1)
    const stream = call<Duplex>('Bidi')
    stream.on('error', () => {})
    stream.write({ text: 'x' })
    await new Promise((resolve) => stream.once('data', resolve))
    stream.cancel()
    await expect.poll(() => cancelled).toBe(2)
    await expect.poll(() => gateway.metric('current_ccu')).toBe(0)
  })
})

describe('refusals, in the words of gRPC', () => {
  it.each([
    ['no token', '/guarded/x', grpc.status.UNAUTHENTICATED],
    ['no route', '/nothing.Here/Unary', grpc.status.UNIMPLEMENTED],
    ['a service that is down', '/down/x', grpc.status.UNAVAILABLE],
    ['a route that is too slow', '/slow/test.Echo/Unary', grpc.status.DEADLINE_EXCEEDED],
  ])('%s', async (_what, method, code) => {
    const { error } = await unary(client, method, 'hang')
    expect(error?.code).toBe(code)
    expect(error?.details).not.toBe('')
  })

  it('too many calls: RESOURCE_EXHAUSTED, while metrics keep the status', async () => {
    await unary(client, '/limited/x', 'x')
    const { error } = await unary(client, '/limited/x', 'x')
    expect(error?.code).toBe(grpc.status.RESOURCE_EXHAUSTED)
    expect(await gateway.metric('http_requests_total', { route: 'limited', status: '429' })).toBe(1)
  })

  it('grpc-timeout holds also for a client that does not keep it itself', async () => {
    const session = http2.connect(`http://127.0.0.1:${gateway.ports[0]}`)
    const stream = session.request({
      ':method': 'POST',
      ':path': UNARY,
      'content-type': 'application/grpc',
      te: 'trailers',
      'grpc-timeout': '150m',
    })
    stream.end(Buffer.from([0, 0, 0, 0, 6, 10, 4, ...Buffer.from('hang')]))
    const headers = await new Promise<http2.IncomingHttpHeaders>((resolve) => stream.on('response', resolve))
    expect(headers).toMatchObject({ ':status': 200, 'grpc-status': '4' })
    session.destroy()
  })
})

describe('an HTTP/2 upstream that misbehaves', () => {
  it.each([
    ['closes in the middle of an answer', (stream: http2.ServerHttp2Stream): void => {
      stream.respond({ ':status': 200 })
      stream.write('half')
      setTimeout(() => stream.session!.destroy(), 30)
    }, 'broken'],
    ['resets the stream', (stream: http2.ServerHttp2Stream): void => stream.close(http2.constants.NGHTTP2_INTERNAL_ERROR), 502],
    ['closes before it answers', (stream: http2.ServerHttp2Stream): void => void stream.session!.socket.destroy(), 502],
    ['answers before it has read the request', (stream: http2.ServerHttp2Stream): void => {
      stream.respond({ ':status': 403 })
      stream.end('no')
    }, 403],
  ] as const)('%s', async (_what, script, expected) => {
    const bad = http2.createServer()
    bad.on('stream', (stream) => {
      stream.on('error', () => {})
      script(stream)
    })
    bad.on('sessionError', () => {})
    await new Promise<void>((resolve) => bad.listen(0, '127.0.0.1', resolve))
    const url = `http://127.0.0.1:${(bad.address() as AddressInfo).port}`
    const own = await startGateway({
      upstreams: { app: { endpoints: [{ url }], protocol: 'h2', retry: { attempts: 0 } } },
      routes: [{ name: 'all', match: { pathPrefix: '/' }, upstream: 'app' }],
    })
    try {
      const asked = fetch(own.url, { method: 'POST', body: 'x'.repeat(100_000) }).then(async (response) => {
        await response.text()
        return response.status
      })
      expect(await asked.catch(() => 'broken')).toBe(expected)
      await expect.poll(() => own.metric('current_ccu')).toBe(0)
    } finally {
      await own.close()
      bad.close()
    }
  }) // biome-ignore format: a table

  it('over TLS it is asked for by ALPN; a service that does not offer it is a 502', async () => {
    const files = certificates.issue('h2-service', 'localhost', ['DNS:localhost', 'IP:127.0.0.1'])
    const options = { cert: readFileSync(files.cert), key: readFileSync(files.key) }
    const good = http2.createSecureServer(options, (request, response) => {
      response.setHeader('x-version', request.httpVersion)
      response.end('ok')
    })
    const old = tls.createServer({ ...options, ALPNProtocols: ['http/1.1'] }, (socket) => socket.on('error', () => {}))
    for (const one of [good, old]) await new Promise<void>((resolve) => one.listen(0, '127.0.0.1', resolve))
    const upstream = (one: net.Server) => ({
      endpoints: [{ url: `https://127.0.0.1:${(one.address() as AddressInfo).port}` }],
      protocol: 'h2',
      tls: { ca: certificates.ca.cert },
      retry: { attempts: 0 },
    })
    const own = await startGateway({
      upstreams: { good: upstream(good), old: upstream(old) },
      routes: [
        { name: 'old', match: { pathPrefix: '/old' }, upstream: 'old' },
        { name: 'good', match: { pathPrefix: '/' }, upstream: 'good' },
      ],
    })
    try {
      for (let i = 0; i < 3; i++) expect((await fetch(own.url)).headers.get('x-version')).toBe('2.0')
      expect((await fetch(`${own.url}/old`)).status).toBe(502)
    } finally {
      await own.close()
      good.close()
      old.close()
    }
  })

  it('speaks no HTTP/2 at all: 502, and nothing hangs', async () => {
    const other = net.createServer((socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'))
    await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve))
    const url = `http://127.0.0.1:${(other.address() as AddressInfo).port}`
    const own = await startGateway({
      upstreams: { app: { endpoints: [{ url }], protocol: 'h2' } },
      routes: [{ name: 'all', match: { pathPrefix: '/' }, upstream: 'app' }],
    })
    try {
      expect((await fetch(own.url)).status).toBe(502)
    } finally {
      await own.close()
      other.close()
    }
  })
})
