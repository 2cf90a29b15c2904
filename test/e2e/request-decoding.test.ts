/**
 * Encoded bodies of requests through the running gateway: the service gets plain ones, byte for byte, whatever the coding,
 * the framing and the pieces; what blows up, breaks off or is not what it says never reaches it as a whole.
 */

import { createHash, randomBytes } from 'node:crypto'
import type { IncomingHttpHeaders, IncomingMessage } from 'node:http'
import { connect as connectHttp2 } from 'node:http2'
import { brotliCompressSync, constants, createGzip, deflateSync, gzipSync, zstdCompressSync } from 'node:zlib'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { expectAtRest, measure, type Rest } from '../support/at-rest.ts'
import { freePort } from '../support/free-port.ts'
import { startGateway, type TestGateway } from '../support/gateway.ts'
import { field } from '../support/messages.ts'
import { problem, RawClient, type RawResponse, send } from '../support/raw-client.ts'
import { type HttpUpstream, startHttpUpstream } from '../support/upstream.ts'
import { type Condition, within } from '../support/within.ts'

const MIB = 1024 * 1024
const MAX_BYTES = 4 * MIB

const ENCODE: Record<string, (body: Uint8Array) => Buffer> = {
  gzip: (body) => gzipSync(body),
  'x-gzip': (body) => gzipSync(body),
  deflate: (body) => deflateSync(body),
  br: (body) => brotliCompressSync(body, { params: { [constants.BROTLI_PARAM_QUALITY]: 4 } }),
  zstd: (body) => zstdCompressSync(body),
}

/** What the service got of one request. */
interface Got {
  method: string
  headers: IncomingHttpHeaders
  trailers: NodeJS.Dict<string>
  bytes: number
  sum: string
  /** The request came to its end; else the gateway broke it off. */
  whole: boolean
}

let got: Got[] = []
/** Set: the service answers when the head is there, or reads nothing until told. */
let early: ((request: IncomingMessage) => void) | undefined
let upstream: HttpUpstream
let gateway: TestGateway
let before: Rest

beforeAll(async () => {
  upstream = await startHttpUpstream((request, response) => {
    const hash = createHash('sha256')
    let bytes = 0
    const tell = (whole: boolean) => {
      const { method, headers, trailers } = request
      got.push({ method: method!, headers, trailers, bytes, sum: hash.copy().digest('hex'), whole })
    }
    if (request.url === '/early') response.writeHead(200).write('begun')
    request.on('data', (chunk: Buffer) => {
      hash.update(chunk)
      bytes += chunk.length
    })
    request.on('end', () => {
      tell(true)
      response.end(`got ${bytes}`)
    })
    request.on('error', () => tell(false))
    early?.(request)
  })
  const dead = await freePort()
  const requests = { decompress: true, maxBytes: MAX_BYTES, maxRatio: 0 }
  gateway = await startGateway({
    server: { limits: { bodyBytes: '64MiB' } },
    compression: { requests },
    upstreams: {
      app: { endpoints: [{ url: upstream.url }] },
      half: { endpoints: [{ url: `http://127.0.0.1:${dead}` }, { url: upstream.url }], balance: 'first' },
    },
    routes: [
      { match: { pathPrefix: '/' }, upstream: 'app', compression: true },
      { match: { pathPrefix: '/plain' }, upstream: 'app' },
      { match: { pathPrefix: '/half' }, upstream: 'half', compression: true },
      { match: { pathPrefix: '/cached' }, upstream: 'app', compression: true, cache: {} },
      {
        match: { pathPrefix: '/ratio' },
        upstream: 'app',
        compression: { requests: { maxBytes: '1GiB', maxRatio: 100 } },
      },
      { match: { pathPrefix: '/large' }, upstream: 'app', compression: { requests: { maxBytes: '1GiB' } } },
      { match: { pathPrefix: '/others' }, upstream: 'app', compression: { requests: { others: 'pass' } } },
    ],
  })
  before = await measure(gateway)
})
afterAll(async () => {
  await gateway?.close()
  await upstream?.close()
})
beforeEach(() => {
  got = []
  early = undefined
})
/** Whatever happened: no place is held, no connection open. */
afterEach(() => expectAtRest(gateway, { ...before, descriptors: before.descriptors + 16 }))

const until = (done: Condition, what: string) => within(15_000, done, () => what)

type Framing = 'length' | 'chunked'

/** @param pieces sizes, over and over: of chunks, or of what is written at once */
function requestOf(
  path: string,
  coding: string,
  body: Buffer,
  { framing = 'length', pieces = [body.length || 1], fields = [] }: RequestOptions = {},
): Buffer[] {
  const frame = framing === 'length' ? `Content-Length: ${body.length}` : 'Transfer-Encoding: chunked'
  const lines = [`POST ${path} HTTP/1.1`, 'Host: a.test', `Content-Encoding: ${coding}`, frame, ...fields, '', '']
  const out: Buffer[] = [Buffer.from(lines.join('\r\n'))]
  for (let at = 0, i = 0; at < body.length; i++) {
    const piece = body.subarray(at, (at += pieces[i % pieces.length]!))
    if (framing === 'length') out.push(piece)
    else out.push(Buffer.from(`${piece.length.toString(16)}\r\n`), piece, Buffer.from('\r\n'))
  }
  if (framing === 'chunked') out.push(Buffer.from('0\r\n\r\n'))
  return out
}
interface RequestOptions {
  framing?: Framing
  pieces?: number[]
  fields?: string[]
}

async function post(path: string, coding: string, body: Buffer, options: RequestOptions = {}): Promise<RawResponse> {
  const pieces = requestOf(path, coding, body, options)
  const { responses } = await send(gateway.port, pieces, { responses: 1, timeoutMs: 20_000 })
  if (responses[0] === undefined) throw new Error(`no answer\n${gateway.output()}`)
  return responses[0]
}

const sumOf = (body: Buffer) => createHash('sha256').update(body).digest('hex')
const said = (response: RawResponse) => {
  const { code, reason } = problem(response)
  return `${response.status} ${code} ${reason}`
}

const CONTENT = Buffer.alloc(MAX_BYTES)
for (let at = 0; at < CONTENT.length; at += 4)
  CONTENT.writeUInt32LE(at % 4096 >= 3000 ? Math.imul(at, 2654435761) >>> 0 : at >>> 8, at)

describe.each(Object.keys(ENCODE))('a body in %s', (coding) => {
  const encode = ENCODE[coding]!

  it.each<[Framing, number, number[] | undefined]>([
    ['length', 0, undefined],
    ['length', 1, undefined],
    ['length', 5000, [1]],
    ['length', 65_536, [3, 1000]],
    ['length', MAX_BYTES, undefined],
    ['chunked', 1, undefined],
    ['chunked', 5000, [1]],
    ['chunked', 65_537, [17, 4095, 1]],
    ['chunked', MAX_BYTES, [70_001, 2, 131_072]],
  ])('(%s) of %i bytes, in pieces of %j, reaches the service plain', async (framing, size, pieces) => {
    const body = CONTENT.subarray(0, size)
    const answer = await post('/x?y', coding, encode(body), {
      framing,
      ...(pieces && { pieces }),
      fields: ['Content-Type: text/x', 'Content-Digest: sha-256=:YQ==:', 'Content-MD5: YQ==', 'X-Kept: 1'],
    })
    expect([answer.status, answer.body.toString()]).toEqual([200, `got ${size}`])
    expect(got).toMatchObject([{ method: 'POST', bytes: size, sum: sumOf(body), whole: true }])
    const { headers } = got[0]!
    expect(headers).toMatchObject({ 'transfer-encoding': 'chunked', 'content-type': 'text/x', 'x-kept': '1' })
    for (const name of ['content-encoding', 'content-length', 'content-digest', 'content-md5'])
      expect(headers[name], name).toBeUndefined()
  })

  it('that breaks off is answered 400, and the service never has it whole', async () => {
    const encoded = encode(CONTENT)
    for (const length of [1, 100, encoded.length >> 1, encoded.length - 1]) {
      for (const framing of ['length', 'chunked'] as const)
        expect(said(await post('/', coding, encoded.subarray(0, length), { framing }))).toBe(
          '400 CONTENT_CODING BROKEN_CODING',
        )
    }
    await until(() => upstream.inside === 0, 'the service still waits for the rest')
    expect(got.filter(({ whole }) => whole)).toEqual([])
  })

  it('that is something else, or has something behind it, is answered 400', async () => {
    for (const body of [Buffer.from('{"plain":"text"}'), Buffer.concat([encode(CONTENT), Buffer.from('more')])])
      expect(said(await post('/', coding, body))).toBe('400 CONTENT_CODING BROKEN_CODING')
    await until(() => upstream.inside === 0, 'the service still waits for the rest')
    expect(got.filter(({ whole }) => whole)).toEqual([])
  })
})

describe('a bomb', () => {
  /** 1 MiB that is 1 GiB: members of gzip, each 16 MiB of zeros. */
  const bomb = Buffer.concat(Array.from({ length: 64 }, () => gzipSync(Buffer.alloc(16 * MIB), { level: 9 })))

  it.each<Framing>(['length', 'chunked'])(
    '(%s) is answered 413, costs no memory, and stops at the limit',
    async (framing) => {
      const rss = gateway.rssBytes()
      expect(said(await post('/', 'gzip', bomb, { framing, pieces: [10_000] }))).toBe('413 TOO_LARGE DECODED_SIZE')
      expect(gateway.rssBytes() - rss).toBeLessThan(64 * MIB)
      await until(() => upstream.inside === 0, 'the service still waits for the rest')
      expect(got.filter(({ whole }) => whole)).toEqual([])
      for (const { bytes } of got) expect(bytes).toBeLessThanOrEqual(MAX_BYTES)
    },
  )

  it('is answered 413 by its ratio, long before the limit of bytes', async () => {
    const answer = await post('/ratio', 'gzip', bomb)
    expect(said(answer)).toBe('413 TOO_LARGE DECODED_RATIO')
    expect(problem(answer)['detail']).toBe('the body decodes to more than 100 times its size')
    await until(() => upstream.inside === 0, 'the service still waits for the rest')
    expect(got.filter(({ whole, bytes }) => whole || bytes > 200 * MIB)).toEqual([])
  })

  it.each([
    ['br', (body: Uint8Array) => brotliCompressSync(body)],
    ['zstd', (body: Uint8Array) => zstdCompressSync(body)],
    ['deflate', (body: Uint8Array) => deflateSync(body)],
  ])('in %s is answered 413 too', async (coding, encode) => {
    const body = encode(Buffer.alloc(64 * MIB))
    expect(said(await post('/', coding, body))).toBe('413 TOO_LARGE DECODED_SIZE')
    expect(said(await post('/ratio', coding, body))).toBe('413 TOO_LARGE DECODED_RATIO')
    expect(said(await post('/', coding, encode(Buffer.alloc(MAX_BYTES + 1))))).toBe('413 TOO_LARGE DECODED_SIZE')
  })

  it('that goes off after the service has begun to answer resets the connection', async () => {
    const { responses, rest, ended } = await send(gateway.port, requestOf('/early', 'gzip', bomb), {
      timeoutMs: 10_000,
    })
    expect([responses.length, ended]).toEqual([0, 'reset'])
    expect(rest.toString()).not.toContain('\r\n0\r\n')
    await until(() => upstream.inside === 0, 'the service still waits for the rest')
    expect(got.filter(({ whole }) => whole)).toEqual([])
  })

  it('over HTTP/2 is answered 413 too, and the connection lives on', async () => {
    const session = connectHttp2(gateway.url)
    const ask = (body: Buffer) =>
      new Promise<[number, string]>((resolve, reject) => {
        const stream = session.request({ ':method': 'POST', ':path': '/', 'content-encoding': 'gzip' })
        let status = 0
        let text = ''
        stream.on('response', (headers) => {
          status = headers[':status']!
        })
        stream.on('data', (chunk: Buffer) => {
          text += chunk.toString()
        })
        stream.on('end', () => resolve([status, text]))
        stream.on('error', reject)
        stream.end(body)
      })
    const [status, text] = await ask(gzipSync(Buffer.alloc(64 * MIB)))
    expect([status, JSON.parse(text)]).toMatchObject([413, { code: 'TOO_LARGE', reason: 'DECODED_SIZE' }])
    expect(await ask(gzipSync('plain'))).toEqual([200, 'got 5'])
    expect(await ask(gzipSync('plain').subarray(0, 12))).toMatchObject([400, expect.stringContaining('BROKEN_CODING')])
    session.destroy()
  })
})

describe('a coding', () => {
  it.each([
    ['compress', 'UNKNOWN_CODING'],
    ['gzip;q=1', 'UNKNOWN_CODING'],
    ['gzip, gzip', 'STACKED_CODINGS'],
    ['gzip\r\nContent-Encoding: gzip', 'STACKED_CODINGS'],
    ['identity, br, gzip', 'STACKED_CODINGS'],
  ])('of %j is answered 415, and the service is not asked', async (coding, reason) => {
    const { total } = upstream
    const answer = await post('/', coding, gzipSync(gzipSync('twice')))
    expect([said(answer), field(answer, 'accept-encoding')]).toEqual([
      `415 CONTENT_CODING ${reason}`,
      'gzip, deflate, br, zstd',
    ])
    expect(upstream.total).toBe(total)
  })

  it('that is unknown passes as it is where others may, but not one over another', async () => {
    const body = randomBytes(100)
    expect((await post('/others', 'compress', body)).status).toBe(200)
    expect(got).toMatchObject([
      { sum: sumOf(body), headers: { 'content-encoding': 'compress', 'content-length': '100' } },
    ])
    expect(said(await post('/others', 'compress, gzip', body))).toBe('415 CONTENT_CODING STACKED_CODINGS')
  })

  it('passes untouched on a route that does not decode', async () => {
    const bodies = [gzipSync(gzipSync('twice')), Buffer.from('no gzip at all')]
    for (const body of bodies) expect((await post('/plain', 'gzip, gzip', body)).status).toBe(200)
    expect(got.map(({ sum, headers }) => [sum, headers['content-encoding']])).toEqual(
      bodies.map((body) => [sumOf(body), 'gzip, gzip']),
    )
  })

  it('of no body is left alone', async () => {
    const text = 'GET / HTTP/1.1\r\nHost: a.test\r\nContent-Encoding: gzip\r\n\r\n'
    expect((await send(gateway.port, text, { responses: 1 })).status).toBe(200)
    expect(got).toMatchObject([{ bytes: 0, headers: { 'content-encoding': 'gzip' } }])
  })
})

it('requests on one connection are decoded one after the other, plain ones between them', async () => {
  const client = new RawClient(gateway.port)
  const plain = 'POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nplain'
  await client.send(
    ...requestOf('/', 'gzip', gzipSync('first')),
    plain,
    ...requestOf('/', 'br', brotliCompressSync('second'), { framing: 'chunked', pieces: [1] }),
    plain,
  )
  const { responses } = await client.answers(4, 10_000)
  client.close()
  expect(responses.map(({ body }) => body.toString())).toEqual(['got 5', 'got 5', 'got 6', 'got 5'])
  expect(got.map(({ sum }) => sum)).toEqual(
    ['first', 'plain', 'second', 'plain'].map((text) => sumOf(Buffer.from(text))),
  )
})

it('100-continue is said, trailers pass, and a service that is not there is tried again elsewhere', async () => {
  const encoded = gzipSync('hello')
  const client = new RawClient(gateway.port)
  await client.send(requestOf('/half', 'gzip', encoded, { fields: ['Expect: 100-continue'] })[0]!)
  await client.until(({ informational }) => informational.length === 1, 10_000)
  await client.send(encoded)
  expect((await client.answers(1, 10_000)).responses[0]!.body.toString()).toBe('got 5')
  client.close()
  const [head, ...rest] = requestOf('/half', 'gzip', encoded, { framing: 'chunked', fields: ['Trailer: X-Sum'] })
  rest[rest.length - 1] = Buffer.from('0\r\nX-Sum: 1\r\n\r\n')
  expect((await send(gateway.port, [head!, ...rest], { responses: 1 })).status).toBe(200)
  expect(got.map(({ sum, trailers }) => [sum, trailers])).toEqual([
    [sumOf(Buffer.from('hello')), {}],
    [sumOf(Buffer.from('hello')), { 'x-sum': '1' }],
  ])
})

it('a cached route decodes what it does not cache', async () => {
  expect((await post('/cached', 'zstd', zstdCompressSync('hello'))).body.toString()).toBe('got 5')
  expect(got).toMatchObject([{ sum: sumOf(Buffer.from('hello')), whole: true }])
})

it('a client that leaves in the middle takes the request at the service with it', async () => {
  for (const leave of ['close', 'reset'] as const) {
    got = []
    const { total } = upstream
    const client = new RawClient(gateway.port)
    const [head, ...pieces] = requestOf('/', 'gzip', gzipSync(CONTENT), { pieces: [50_000] })
    await client.send(head!, ...pieces.slice(0, pieces.length >> 1))
    await until(() => upstream.total > total, 'the service was not asked')
    client[leave]()
    await until(() => upstream.inside === 0, 'the service still waits for the rest')
    expect(got.map(({ whole }) => whole)).toEqual([false])
  }
})

it('a slow service slows the client down, and gets all of it in the end', async () => {
  const body = Buffer.alloc(48 * MIB, randomBytes(1_000_003))
  const encoded = await new Promise<Buffer>((resolve, reject) => {
    const gzip = createGzip({ level: 1 })
    const chunks: Buffer[] = []
    gzip.on('data', (chunk: Buffer) => chunks.push(chunk))
    gzip.on('end', () => resolve(Buffer.concat(chunks)))
    gzip.on('error', reject)
    gzip.end(body)
  })
  let release = () => {}
  early = (request) => {
    request.pause()
    release = () => request.resume()
  }
  const rss = gateway.rssBytes()
  const client = new RawClient(gateway.port)
  const [head, rest] = requestOf('/large', 'gzip', encoded)
  const sent = client.send(head!, rest!)
  const { total } = upstream
  await until(() => upstream.total > total, 'the service was not asked')
  // Nothing moves any more: all buffers on the way are full, and they are small.
  let written = -1
  await until(() => {
    const now = client.socket.bytesWritten - client.socket.writableLength
    const same = now === written
    written = now
    return same && client.socket.writableLength > 0
  }, 'the client was not slowed down')
  expect(gateway.rssBytes() - rss).toBeLessThan(64 * MIB)
  release()
  await sent
  const { responses } = await client.answers(1, 60_000)
  client.close()
  expect(responses[0]!.body.toString()).toBe(`got ${48 * MIB}`)
  expect(got).toMatchObject([{ sum: sumOf(body), whole: true }])
}, 90_000)
