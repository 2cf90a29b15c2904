/**
 * Compression through the running gateway: whatever the size, the framing and the coding, the client decodes what the origin
 * sent, and whoever does not ask for a coding in words that are understood gets the bytes themselves.
 */

import { request as httpRequest, type IncomingHttpHeaders } from 'node:http'
import { brotliDecompressSync, constants, createGunzip, gunzipSync, gzipSync, zstdDecompressSync } from 'node:zlib'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { startGateway, type TestGateway } from '../support/gateway.ts'
import { field } from '../support/messages.ts'
import { RawClient, send } from '../support/raw-client.ts'
import { type HttpUpstream, startHttpUpstream } from '../support/upstream.ts'

const MIB = 1024 * 1024
/** Text that compresses, and every eighth block noise that does not. Deterministic: xorshift. */
const CONTENT = Buffer.alloc(20 * MIB)
let state = 2463534242
for (let at = 0; at < CONTENT.length; at += 4) {
  state ^= state << 13
  state ^= state >>> 17
  state ^= state << 5
  CONTENT.writeUInt32LE(at % 32768 >= 28_672 ? state >>> 0 : (at >>> 6) % 7919, at)
}

const DECODE: Record<string, (bytes: Buffer) => Buffer> = {
  gzip: (bytes) => gunzipSync(bytes),
  br: (bytes) => brotliDecompressSync(bytes),
  zstd: (bytes) => zstdDecompressSync(bytes),
  identity: (bytes) => bytes,
}

interface Given {
  body: Buffer
  headers: Record<string, string>
  /** Sizes of the pieces of a chunked body; undefined: one body with its length. */
  pieces?: number[]
}

let given: Given
let origin: HttpUpstream
let gateway: TestGateway

beforeAll(async () => {
  origin = await startHttpUpstream(async (request, response) => {
    const { body, headers, pieces } = given
    if (pieces === undefined) {
      response.writeHead(200, { 'Content-Length': body.length, ...headers })
      response.end(request.method === 'HEAD' ? undefined : body)
      return
    }
    response.writeHead(200, headers)
    let at = 0
    for (let i = 0; at < body.length; i++) {
      const piece = body.subarray(at, (at += pieces[i % pieces.length]!))
      if (!response.write(piece)) await new Promise((resolve) => response.once('drain', resolve))
    }
    response.end()
  })
  gateway = await startGateway({
    cache: { memory: { maxBytes: '128MiB' }, maxObjectBytes: '32MiB' },
    compression: { minBytes: 1024 },
    upstreams: { app: { endpoints: [{ url: origin.url }] } },
    routes: [
      { match: { pathPrefix: '/cached' }, upstream: 'app', compression: true, cache: {} },
      {
        match: { pathPrefix: '/events' },
        upstream: 'app',
        compression: { types: ['text/event-stream'], minBytes: 0 },
      },
      { match: { pathPrefix: '/' }, upstream: 'app', compression: true },
    ],
  })
})
afterAll(async () => {
  await gateway?.close()
  await origin?.close()
})
beforeEach(() => {
  given = { body: CONTENT.subarray(0, 5000), headers: TEXT }
})

const TEXT = { 'Content-Type': 'text/plain; charset=utf-8' }

interface Got {
  status: number
  headers: IncomingHttpHeaders
  body: Buffer
}

function get(
  path: string,
  accept?: string | string[],
  more: Record<string, string> = {},
  method = 'GET',
): Promise<Got> {
  return new Promise((resolve, reject) => {
    const headers = { ...more, ...(accept !== undefined && { 'Accept-Encoding': accept }) }
    const request = httpRequest({ port: gateway.port, path, method, headers, agent: false }, (response) => {
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.on('end', () =>
        resolve({ status: response.statusCode!, headers: response.headers, body: Buffer.concat(chunks) }),
      )
      response.on('error', reject)
    })
    request.on('error', reject)
    request.end()
  })
}

const codingOf = ({ headers }: Got) => headers['content-encoding'] ?? 'identity'
/** `toEqual` on megabytes would print them. */
const isSame = (a: Buffer, b: Buffer) => a.equals(b)

const SIZES = [0, 1, 1023, 1024, 1025, 65_535, 65_536, 65_537, MIB, 20 * MIB]
const FRAMINGS: [string, number[] | undefined][] = [
  ['with its length', undefined],
  ['chunked', [65_536]],
  ['chunked, split anywhere', [1, 4095, 17, 70_001, 2, 131_072, 1023]],
]

describe.each(['gzip', 'br', 'zstd', 'identity'])('in %s', (coding) => {
  describe.each(FRAMINGS)('a body %s', (_how, pieces) => {
    it.each(SIZES)('of %i bytes is what the origin sent', async (size) => {
      given = { body: CONTENT.subarray(0, size), headers: TEXT, ...(pieces && { pieces }) }
      const got = await get('/plain', coding)
      const compressed = coding !== 'identity' && (size >= 1024 || pieces !== undefined)
      expect([got.status, codingOf(got)]).toEqual([200, compressed ? coding : 'identity'])
      if (size >= 1024 || pieces !== undefined) expect(got.headers['vary']).toBe('Accept-Encoding')
      expect(isSame(DECODE[codingOf(got)]!(got.body), given.body)).toBe(true)
      if (size >= 65_536 && compressed) expect(got.body.length).toBeLessThan(size)
    })
  })

  it.each(SIZES)('a stored body of %i bytes is what the origin sent, fetched once', async (size) => {
    const path = `/cached/${coding}/${size}`
    given = { body: CONTENT.subarray(0, size), headers: { ...TEXT, 'Cache-Control': 'max-age=600', ETag: `"${size}"` } }
    const before = origin.total
    let got = await get(path, coding)
    expect(isSame(DECODE[codingOf(got)]!(got.body), given.body)).toBe(true)
    const wanted = size >= 1024 ? coding : 'identity'
    // A large one is plain until its coding is ready.
    const deadline = performance.now() + 20_000
    do {
      got = await get(path, coding)
      expect(got.headers['cache-status']).toMatch(/^fluxor; hit/)
      expect(isSame(DECODE[codingOf(got)]!(got.body), given.body)).toBe(true)
    } while (codingOf(got) !== wanted && performance.now() < deadline)
    expect([codingOf(got), got.headers['content-length']]).toEqual([wanted, String(got.body.length)])
    expect(origin.total).toBe(before + 1)
  })
})

describe('Accept-Encoding', () => {
  it.each([
    [undefined],
    [''],
    [' '],
    ['identity'],
    ['deflate'],
    ['compress, deflate'],
    ['gzip;q=0'],
    ['GZIP;q=0.000, br;q=0, zstd;q=0'],
    ['*;q=0'],
    ['gzip;q=often'],
    ['gzip;q=-1'],
    ['gzip;q=1.5'],
    ['gzip;q=0.0001'],
    ['gzip;q='],
    ['identity, gzip;q=0.5'],
    [';;;,,,'],
    ['"gzip"'],
    ['gzipped'],
    ['g zip'],
    ['gzip/br'],
    ['\xff\xfe'],
    ['x'.repeat(4000)],
    ['__proto__'],
  ])('%j gets the bytes themselves, stored or not', async (accept) => {
    for (const path of ['/plain', '/cached/odd']) {
      given.headers = { ...TEXT, 'Cache-Control': 'max-age=600' }
      const got = await get(path, accept)
      expect([got.status, codingOf(got), got.headers['vary']]).toEqual([200, 'identity', 'Accept-Encoding'])
      expect(isSame(got.body, given.body)).toBe(true)
    }
  })

  it.each([
    ['GZip', 'gzip'],
    ['x-gzip', 'gzip'],
    ['*', 'zstd'],
    ['gzip, deflate, br, zstd', 'zstd'],
    ['br;q=0.5, gzip;q=0.9', 'gzip'],
    ['*;q=0.1, br', 'br'],
    ['zstd;q=0, *', 'br'],
    [' gzip ; q=1 ', 'gzip'],
    ['identity;q=0, gzip', 'gzip'],
  ])('%j gets %s, stored or not', async (accept, coding) => {
    for (const path of ['/plain', '/cached/odd']) {
      given.headers = { ...TEXT, 'Cache-Control': 'max-age=600' }
      const got = await get(path, accept)
      expect(codingOf(got)).toBe(coding)
      expect(isSame(DECODE[coding]!(got.body), given.body)).toBe(true)
    }
  })
})

describe.each(['/plain/tags', '/cached/tags'])('on %s', (path) => {
  beforeEach(() => {
    given.headers = { ...TEXT, ETag: '"v"', 'Cache-Control': 'max-age=600', Vary: 'Origin', 'Accept-Ranges': 'bytes' }
  })

  it('a strong ETag is weak when encoded and strong when not, and Vary tells both', async () => {
    for (let i = 0; i < 2; i++) {
      const encoded = await get(path, 'gzip')
      const plain = await get(path)
      const facts = ({ headers }: Got) => [headers['etag'], headers['vary'], headers['accept-ranges']]
      expect(facts(encoded)).toEqual(['W/"v"', 'Origin, Accept-Encoding', undefined])
      expect(facts(plain)).toEqual(['"v"', 'Origin, Accept-Encoding', 'bytes'])
    }
  })

  it('HEAD tells what GET would, and no length that would be wrong', async () => {
    await get(path, 'br')
    for (const accept of ['br', 'identity']) {
      const [whole, head] = [await get(path, accept), await get(path, accept, {}, 'HEAD')]
      const facts = ({ headers }: Got) => {
        const { 'cache-status': _status, age: _age, date: _date, ...rest } = headers
        for (const name of ['x-request-id', 'content-length', 'transfer-encoding', 'connection']) delete rest[name]
        return rest
      }
      expect(facts(head)).toEqual(facts(whole))
      expect(head.body).toHaveLength(0)
      expect([undefined, whole.headers['content-length']]).toContain(head.headers['content-length'])
    }
  })

  it('no-transform passes untouched', async () => {
    given.headers = { ...given.headers, 'Cache-Control': 'max-age=600, no-transform' }
    for (let i = 0; i < 2; i++) {
      const got = await get(`${path}/untouched`, 'gzip')
      expect([codingOf(got), got.headers['etag'], got.headers['vary']]).toEqual(['identity', '"v"', 'Origin'])
      expect(isSame(got.body, given.body)).toBe(true)
    }
  })

  it('what the origin has encoded passes as it is', async () => {
    const encoded = gzipSync(given.body)
    given = { body: encoded, headers: { ...given.headers, 'Content-Encoding': 'gzip' } }
    for (let i = 0; i < 2; i++) {
      const got = await get(`${path}/encoded`, 'br, gzip')
      expect([codingOf(got), got.headers['etag']]).toEqual(['gzip', '"v"'])
      expect(isSame(got.body, encoded)).toBe(true)
    }
  })
})

it('a copy that is known by its weak tag is confirmed from the store, and a part is one of the origin’s bytes', async () => {
  given.headers = { ...TEXT, ETag: '"v"', 'Cache-Control': 'max-age=600' }
  await get('/cached/copy', 'gzip')
  const confirmed = await get('/cached/copy', 'gzip', { 'If-None-Match': 'W/"v"' })
  expect([confirmed.status, confirmed.headers['etag'], confirmed.headers['vary'], confirmed.body.length]).toEqual([
    304,
    'W/"v"',
    'Accept-Encoding',
    0,
  ])
  const part = await get('/cached/copy', 'gzip', { Range: 'bytes=100-199' })
  expect([part.status, codingOf(part), part.headers['content-range'], part.headers['etag']]).toEqual([
    206,
    'identity',
    'bytes 100-199/5000',
    '"v"',
  ])
  expect(isSame(part.body, CONTENT.subarray(100, 200))).toBe(true)
  const weak = await get('/cached/copy', 'gzip', { Range: 'bytes=100-199', 'If-Range': 'W/"v"' })
  expect(weak.status).toBe(200)
})

/** An origin that writes when it is told to. */
async function stepwise(headers: Record<string, string>) {
  let response!: import('node:http').ServerResponse
  const upstream = await startHttpUpstream((_request, out) => {
    response = out
    out.writeHead(200, headers)
    out.flushHeaders()
  })
  return { upstream, write: (text: string) => response.write(text), break: () => response.destroy() }
}

async function gatewayFor(upstream: HttpUpstream): Promise<TestGateway> {
  return startGateway({
    upstreams: { app: { endpoints: [{ url: upstream.url }] } },
    routes: [
      {
        match: { pathPrefix: '/named' },
        upstream: 'app',
        compression: { types: ['text/event-stream', 'text/plain'], minBytes: 0 },
      },
      { match: { pathPrefix: '/' }, upstream: 'app', compression: { types: ['*/*', 'text/*'], minBytes: 0 } },
    ],
  })
}

describe('an answer that comes in steps', () => {
  let origins: Awaited<ReturnType<typeof stepwise>>
  let through: TestGateway
  const begin = async (type: string) => {
    origins = await stepwise({ 'Content-Type': type })
    through = await gatewayFor(origins.upstream)
  }
  const end = async () => {
    await through.close()
    await origins.upstream.close()
  }
  const ask = (path: string) => {
    const client = new RawClient(through.port)
    client.socket.write(`GET ${path} HTTP/1.1\r\nHost: a.test\r\nAccept-Encoding: gzip\r\n\r\n`)
    return client
  }

  it('is untouched when it is an event stream, and each event is there before the next is sent', async () => {
    await begin('text/event-stream')
    const client = ask('/')
    await client.until(({ bytes }) => bytes.includes('\r\n\r\n'))
    for (const event of ['data: one\n\n', 'data: two\n\n']) {
      origins.write(event)
      expect((await client.until(({ bytes }) => bytes.includes(event))).bytes.includes(event)).toBe(true)
    }
    expect(client.bytes.toString('latin1')).not.toMatch(/content-encoding|^vary/im)
    client.close()
    await end()
  })

  it('is encoded when the route names event streams, and still each event is there before the next is sent', async () => {
    await begin('text/event-stream')
    const client = ask('/named')
    await client.until(({ bytes }) => bytes.includes('\r\n\r\n'))
    expect(client.bytes.toString('latin1')).toMatch(/content-encoding: gzip/i)
    let text = ''
    const decoder = createGunzip({ flush: constants.Z_SYNC_FLUSH }).on('data', (chunk) => (text += String(chunk)))
    let fed = 0
    for (const event of ['data: one\n\n', 'data: two\n\n']) {
      origins.write(event)
      const deadline = performance.now() + 10_000
      while (!text.endsWith(event) && performance.now() < deadline) {
        await new Promise((resolve) => setTimeout(resolve, 5))
        const body = unchunked(client.bytes)
        decoder.write(body.subarray(fed))
        fed = body.length
      }
      expect(text.endsWith(event)).toBe(true)
    }
    client.close()
    await end()
  })

  it('is broken for the client too when the origin breaks off', async () => {
    await begin('text/plain')
    const client = ask('/named')
    await client.until(({ bytes }) => bytes.includes('\r\n\r\n'))
    origins.write('some of it')
    await client.until(({ bytes }) => unchunked(bytes).length > 10)
    origins.break()
    const result = await client.end(5000)
    expect(result.ended).not.toBe('')
    expect(result.responses).toHaveLength(0)
    expect(result.bytes.toString('latin1').endsWith('0\r\n\r\n')).toBe(false)
    await end()
  })
})

/** What has come of a chunked body so far. */
function unchunked(bytes: Buffer): Buffer {
  let at = bytes.indexOf('\r\n\r\n') + 4
  const chunks: Buffer[] = []
  for (;;) {
    const lineEnd = bytes.indexOf('\r\n', at)
    if (lineEnd < 0) break
    const size = Number.parseInt(bytes.toString('latin1', at, lineEnd), 16)
    if (!(size > 0) || bytes.length < lineEnd + 2 + size) break
    chunks.push(bytes.subarray(lineEnd + 2, lineEnd + 2 + size))
    at = lineEnd + 4 + size
  }
  return Buffer.concat(chunks)
}

it('an answer without a body has no coding', async () => {
  const empty = await startHttpUpstream((request, response) => {
    const code = Number(request.url!.slice(1))
    response.writeHead(code, { 'Content-Type': 'text/plain', ETag: '"v"' })
    response.end()
  })
  const through = await gatewayFor(empty)
  for (const code of [204, 304]) {
    const { responses, rest } = await send(
      through.port,
      `GET /${code} HTTP/1.1\r\nHost: a.test\r\nAccept-Encoding: gzip\r\n\r\n`,
      { responses: 1 },
    )
    const [answer] = responses
    expect([answer!.status, field(answer!, 'content-encoding'), rest.length]).toEqual([code, undefined, 0])
  }
  await through.close()
  await empty.close()
})
