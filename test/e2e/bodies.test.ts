/** Bodies of every size, in every framing, both ways, arrive byte for byte; a slow reader costs no memory. */

import { createHash, type Hash } from 'node:crypto'
import { request as httpRequest, type IncomingMessage, type RequestOptions } from 'node:http'
import { connect } from 'node:net'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startGateway, type TestGateway } from '../support/gateway.ts'
import { type HttpUpstream, startHttpUpstream } from '../support/upstream.ts'

const KIB = 1024
const MIB = 1024 * KIB

let upstream: HttpUpstream
let gateway: TestGateway
beforeAll(async () => {
  upstream = await startHttpUpstream((request, response) => {
    const url = new URL(request.url!, 'http://x')
    if (url.pathname === '/download') {
      const bytes = Number(url.searchParams.get('bytes'))
      if (url.searchParams.get('framing') === 'length') response.setHeader('content-length', bytes)
      if (url.searchParams.has('trailers')) response.setHeader('trailer', 'x-sum')
      void writeBody(bytes, response).then((sum) => {
        if (url.searchParams.has('trailers')) response.addTrailers({ 'x-sum': sum })
        response.end()
      })
      return
    }
    if (url.pathname === '/echo') {
      response.writeHead(
        200,
        request.headers['content-length'] ? { 'content-length': request.headers['content-length'] } : {},
      )
      request.pipe(response)
      return
    }
    const hash = createHash('sha256')
    request.on('data', (chunk: Buffer) => hash.update(chunk))
    request.on('end', () => {
      const { 'content-length': length, 'transfer-encoding': coding } = request.headers
      response.end(JSON.stringify({ sum: hash.digest('hex'), length, coding, trailers: request.trailers }))
    })
  })
  gateway = await startGateway({
    server: { limits: { bodyBytes: '128MiB' } },
    upstreams: { app: { endpoints: [{ url: upstream.url }] } },
    routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
  })
})
afterAll(async () => {
  await gateway?.close()
  await upstream?.close()
})

/** The n-th 64 KiB of every test body: no two pieces are the same, so that a lost, doubled or swapped one shows. */
function piece(n: number): Buffer {
  const bytes = Buffer.alloc(64 * KIB)
  let state = (n + 1) * 2654435761
  for (let i = 0; i < bytes.length; i += 4) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0
    bytes.writeInt32LE(state, i)
  }
  return bytes
}

function* body(bytes: number): Generator<Buffer> {
  for (let n = 0, left = bytes; left > 0; n++) {
    const next = piece(n)
    yield left >= next.length ? next : next.subarray(0, left)
    left -= next.length
  }
}

function sumOf(bytes: number): string {
  const hash = createHash('sha256')
  for (const part of body(bytes)) hash.update(part)
  return hash.digest('hex')
}

interface Writable {
  write(chunk: Buffer): boolean
  once(event: 'drain' | 'close', listener: () => void): unknown
  destroyed: boolean
}

/** Writes the test body with back-pressure and gives its checksum. */
async function writeBody(bytes: number, target: Writable, onWritten?: (bytes: number) => void): Promise<string> {
  const hash: Hash = createHash('sha256')
  for (const part of body(bytes)) {
    if (target.destroyed) break
    hash.update(part)
    onWritten?.(part.length)
    if (!target.write(part)) {
      await new Promise<void>((resolve) => {
        target.once('drain', resolve)
        target.once('close', resolve)
      })
    }
  }
  return hash.digest('hex')
}

async function upload(
  path: string,
  bytes: number,
  headers: RequestOptions['headers'],
  trailers?: Record<string, string>,
) {
  const outgoing = httpRequest({ port: gateway.port, host: '127.0.0.1', method: 'POST', path, headers, agent: false })
  const answered = new Promise<IncomingMessage>((resolve, reject) => {
    outgoing.once('response', resolve)
    outgoing.once('error', reject)
  })
  outgoing.flushHeaders()
  const reading = answered.then(async (response) => ({ response, ...(await read(response)) }))
  await writeBody(bytes, outgoing)
  if (trailers !== undefined) outgoing.addTrailers(trailers)
  outgoing.end()
  return reading
}

function download(path: string): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    httpRequest({ port: gateway.port, host: '127.0.0.1', path, agent: false, headers: { te: 'trailers' } })
      .once('response', resolve)
      .once('error', reject)
      .end()
  })
}

async function read(response: IncomingMessage): Promise<{ sum: string; bytes: number; text: string }> {
  const hash = createHash('sha256')
  let bytes = 0
  let text = ''
  for await (const chunk of response as AsyncIterable<Buffer>) {
    hash.update(chunk)
    bytes += chunk.length
    if (bytes < 4096) text += chunk.toString('latin1')
  }
  return { sum: hash.digest('hex'), bytes, text }
}

const SIZES = [0, 1, 100, 16 * KIB, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, MIB + 7, 64 * MIB]

describe('bodies arrive whole', () => {
  it.each(SIZES)('up, by length: %i bytes', async (bytes) => {
    const { text } = await upload('/sum', bytes, { 'content-length': bytes })
    expect(JSON.parse(text)).toMatchObject({ sum: sumOf(bytes), length: String(bytes) })
  })

  it.each(SIZES)('up, in chunks, with trailers: %i bytes', async (bytes) => {
    const headers = { 'transfer-encoding': 'chunked', trailer: 'x-sum' }
    const { text } = await upload('/sum', bytes, headers, { 'x-sum': 'of the client' })
    expect(JSON.parse(text)).toMatchObject({
      sum: sumOf(bytes),
      coding: 'chunked',
      trailers: { 'x-sum': 'of the client' },
    })
  })

  it.each(SIZES)('down, by length: %i bytes', async (bytes) => {
    const response = await download(`/download?bytes=${bytes}&framing=length`)
    expect(response.headers['content-length']).toBe(String(bytes))
    expect(await read(response)).toMatchObject({ sum: sumOf(bytes), bytes })
  })

  it.each(SIZES)('down, in chunks, with trailers: %i bytes', async (bytes) => {
    const response = await download(`/download?bytes=${bytes}&framing=chunked&trailers=1`)
    expect(await read(response)).toMatchObject({ sum: sumOf(bytes), bytes })
    expect(response.trailers).toEqual({ 'x-sum': sumOf(bytes) })
  })

  it.each(SIZES)('both ways at once: %i bytes', async (bytes) => {
    for (const headers of [{ 'content-length': bytes }, { 'transfer-encoding': 'chunked' }]) {
      const result = await upload('/echo', bytes, headers)
      expect(result).toMatchObject({ sum: sumOf(bytes), bytes })
    }
  })

  it('up, cut at arbitrary places', async () => {
    const bytes = 300 * KIB + 13
    const whole = Buffer.concat([...body(bytes)])
    // A fixed seed: a failure is the same failure the next time.
    let seed = 42
    const random = (below: number) => (seed = (Math.imul(seed, 1103515245) + 12345) >>> 0) % below
    for (let round = 0; round < 10; round++) {
      const socket = connect({ port: gateway.port, host: '127.0.0.1', noDelay: true })
      let answer = ''
      socket.on('data', (chunk: Buffer) => {
        answer += chunk.toString('latin1')
      })
      const head = `POST /sum HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\nContent-Length: ${bytes}\r\n\r\n`
      const text = Buffer.concat([Buffer.from(head), whole])
      for (let at = 0; at < text.length; ) {
        const size = 1 + random(random(4) === 0 ? 60_000 : 900)
        await new Promise<void>((resolve) => {
          socket.write(text.subarray(at, at + size), () => resolve())
        })
        at += size
      }
      await new Promise((resolve) => socket.once('close', resolve))
      expect(answer).toContain(sumOf(bytes))
    }
  })
})

describe('a slow reader costs no memory', () => {
  const BYTES = 64 * MIB
  // Kernel socket buffers on loopback hold a few MiB a side; the gateway's own share is what must stay small.
  const MOST_IN_FLIGHT = 24 * MIB
  const MOST_GROWTH = 24 * MIB

  it('the gateway stops reading from the upstream while the client does not read', async () => {
    await read(await download(`/download?bytes=${16 * MIB}&framing=length`)) // its buffers are as large as they get
    let written = 0
    const slow = await startHttpUpstream((_request, response) => {
      response.setHeader('content-length', BYTES)
      void writeBody(BYTES, response, (bytes) => {
        written += bytes
      }).then(() => response.end())
    })
    const other = await startGateway({
      upstreams: { app: { endpoints: [{ url: slow.url }] } },
      routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
    })
    try {
      const before = other.rssBytes()
      const socket = connect({ port: other.port, host: '127.0.0.1' })
      socket.pause()
      socket.write('GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n')
      await untilSteady(() => written)
      expect(written).toBeGreaterThan(0)
      expect(written).toBeLessThan(MOST_IN_FLIGHT)
      expect(other.rssBytes() - before).toBeLessThan(MOST_GROWTH)
      let received = 0
      socket.on('data', (chunk: Buffer) => {
        received += chunk.length
      })
      socket.resume()
      await new Promise((resolve) => socket.once('close', resolve))
      expect(received).toBeGreaterThan(BYTES)
    } finally {
      await other.close()
      await slow.close()
    }
  })

  it('the gateway stops reading from the client while the upstream does not read', async () => {
    let resume: () => void = () => {}
    let received = 0
    const slow = await startHttpUpstream((request, response) => {
      request.pause()
      resume = () => {
        request.on('data', (chunk: Buffer) => {
          received += chunk.length
        })
        request.resume()
      }
      request.on('end', () => response.end('done'))
    })
    const other = await startGateway({
      server: { limits: { bodyBytes: '128MiB' } },
      upstreams: { app: { endpoints: [{ url: slow.url }] } },
      routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
    })
    try {
      const before = other.rssBytes()
      let written = 0
      const outgoing = httpRequest({
        port: other.port,
        host: '127.0.0.1',
        method: 'POST',
        headers: { 'content-length': BYTES },
        agent: false,
      })
      const answered = new Promise<IncomingMessage>((resolve, reject) => {
        outgoing.once('response', resolve)
        outgoing.once('error', reject)
      })
      const sending = writeBody(BYTES, outgoing, (bytes) => {
        written += bytes
      }).then(() => outgoing.end())
      await untilSteady(() => written)
      expect(written).toBeLessThan(MOST_IN_FLIGHT)
      expect(other.rssBytes() - before).toBeLessThan(MOST_GROWTH)
      resume()
      await sending
      expect((await read(await answered)).text).toBe('done')
      expect(received).toBe(BYTES)
    } finally {
      await other.close()
      await slow.close()
    }
  })

  /** Waits until `value` is positive and has not changed for half a second; at most 15 s. */
  async function untilSteady(value: () => number): Promise<void> {
    let last = -1
    for (let i = 0; i < 30; i++) {
      await new Promise((resolve) => setTimeout(resolve, 500))
      const now = value()
      if (now > 0 && now === last) return
      last = now
    }
  }
})
