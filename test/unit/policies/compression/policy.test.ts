import zlib from 'node:zlib'
import { describe, expect, it } from 'vitest'
import { type BodySource, Exchange, type ResponseSink } from '../../../../src/exchange.ts'
import { headFromText } from '../../../../src/http1/message-head.ts'
import { compressionConfig, compressionRouteConfig } from '../../../../src/policies/compression/config.ts'
import { compileCompression } from '../../../../src/policies/compression/policy.ts'
import { Bench, FakeClient } from '../cache/harness.ts'

const TEXT = 'Content-Type: text/plain\r\n'
const DECODE: Record<string, (body: Buffer) => Buffer> = {
  gzip: (body) => zlib.gunzipSync(body),
  br: (body) => zlib.brotliDecompressSync(body),
  zstd: (body) => zlib.zstdDecompressSync(body),
  identity: (body) => body,
}

function compile(global: object = {}, route: unknown = true) {
  return compileCompression(compressionRouteConfig.parse(route), compressionConfig.parse(global))!
}

function client(accept: string | undefined, method = 'GET'): FakeClient {
  const made = new FakeClient()
  const line = accept === undefined ? '' : `Accept-Encoding: ${accept}\r\n`
  made.x = new Exchange(headFromText('request', `${method} / HTTP/1.1\r\nHost: a\r\n${line}\r\n`), made, 0)
  return made
}

function source(): BodySource & { resumed: number; cancelled: number } {
  return {
    resumed: 0,
    cancelled: 0,
    pause() {},
    resume() {
      this.resumed++
    },
    cancel() {
      this.cancelled++
    },
  }
}

/** A whole answer of known length through the stage. */
function send(
  accept: string | undefined,
  fields: string,
  body: string,
  { status = 200, method = 'GET', stage = compile() } = {},
) {
  const to = client(accept, method)
  const sink = stage.wrap(to.x, to)
  sink.head(status, fields, body.length)
  if (method !== 'HEAD' && body !== '') sink.write(Buffer.from(body))
  sink.end('')
  return to
}

const until = async (done: () => boolean) => {
  while (!done()) await new Promise((resolve) => setImmediate(resolve))
}

const LARGE = 'the quick brown fox '.repeat(200)

describe('an answer', () => {
  it.each([
    ['gzip, deflate, br, zstd', 'zstd'],
    ['gzip, br', 'br'],
    ['gzip', 'gzip'],
    ['br;q=0.1, gzip;q=0.9', 'gzip'],
  ])('for %s leaves as %s, whole and with its length', (accept, coding) => {
    const to = send(accept, TEXT, LARGE)
    expect([to.status, to.get('content-encoding'), to.get('vary'), to.ended]).toEqual([
      200,
      coding,
      'Accept-Encoding',
      true,
    ])
    expect(to.length).toBe(to.text.length)
    expect(to.length).toBeLessThan(LARGE.length)
    expect(DECODE[coding]!(Buffer.from(to.text, 'latin1')).toString()).toBe(LARGE)
  })

  it.each([
    ['no Accept-Encoding', undefined, TEXT, LARGE, {}],
    ['a client that wants none', 'identity', TEXT, LARGE, {}],
  ])('stays plain for %s, but varies', (_why, accept, fields, body, options) => {
    const to = send(accept, fields, body, options)
    expect([to.text, to.get('content-encoding'), to.get('vary')]).toEqual([body, undefined, 'Accept-Encoding'])
  })

  it.each([
    ['a body below minBytes', TEXT, 'x'.repeat(1023), {}],
    ['an image', 'Content-Type: image/png\r\n', LARGE, {}],
    ['no type', '', LARGE, {}],
    ['a body encoded already', `${TEXT}Content-Encoding: br\r\n`, LARGE, {}],
    ['no-transform', `${TEXT}Cache-Control: public, no-transform\r\n`, LARGE, {}],
    ['a part', `${TEXT}Content-Range: bytes 0-1/2\r\n`, LARGE, { status: 206 }],
    ['an event stream', 'Content-Type: text/event-stream; charset=utf-8\r\n', LARGE, {}],
  ])('passes untouched: %s', (_why, fields, body, options) => {
    const to = send('gzip', fields, body, options)
    expect([to.text, to.fields, to.length]).toEqual([body, fields, body.length])
  })

  it.each([204, 304])('of status %i passes untouched', (status) => {
    expect(send('gzip', TEXT, '', { status }).fields).toBe(TEXT)
  })

  it('gets a weak tag, and loses what was true of the bytes', () => {
    const to = send('gzip', `${TEXT}ETag: "a"\r\nAccept-Ranges: bytes\r\nVary: Origin\r\n`, LARGE)
    expect([to.get('etag'), to.get('accept-ranges'), to.get('vary')]).toEqual([
      'W/"a"',
      undefined,
      'Origin, Accept-Encoding',
    ])
    expect(send('gzip', `${TEXT}ETag: W/"a"\r\nVary: accept-encoding\r\n`, LARGE).fields).toBe(
      `${TEXT}ETag: W/"a"\r\nVary: accept-encoding\r\nContent-Encoding: gzip\r\n`,
    )
  })

  it('to HEAD has the fields of GET and no length that would be wrong', () => {
    const to = send('gzip', TEXT, LARGE, { method: 'HEAD' })
    expect([to.get('content-encoding'), to.length, to.text, to.ended]).toEqual(['gzip', -1, '', true])
  })

  it('follows the types, order and size of the route', () => {
    const stage = compile({ level: 1 }, { encodings: ['gzip', 'br'], minBytes: 10, types: ['image/*', '*/*+json'] })
    const type = (text: string) =>
      send('br, gzip', `Content-Type: ${text}\r\n`, 'x'.repeat(100), { stage }).get('content-encoding')
    expect([type('image/bmp'), type('application/hal+json; charset=utf-8'), type('text/plain')]).toEqual([
      'gzip',
      'gzip',
      undefined,
    ])
  })

  it('is off unless the route says so', () => {
    expect(compileCompression(undefined, compressionConfig.parse({}))).toBeUndefined()
    expect(compileCompression(false, compressionConfig.parse({}))).toBeUndefined()
  })
})

describe('a body of unknown length', () => {
  it.each(['gzip', 'br', 'zstd'])('streams as %s; what was flushed arrives before the end', async (coding) => {
    const to = client(coding)
    const sink = compile().wrap(to.x, to)
    sink.head(200, TEXT, -1)
    sink.source = source()
    expect([to.get('content-encoding'), to.length]).toEqual([coding, -1])
    const memory = Buffer.from('first ')
    sink.write(memory)
    sink.flush()
    await until(() => to.writes > 0)
    memory.fill(0)
    sink.write(Buffer.from('second'))
    sink.end('')
    await until(() => to.ended)
    expect(DECODE[coding]!(Buffer.from(to.text, 'latin1')).toString()).toBe('first second')
  })

  it('waits for a slow client, and goes on when it reads', async () => {
    const to = client('gzip')
    to.slow = true
    const sink = compile().wrap(to.x, to)
    sink.head(200, TEXT, -1)
    const from = source()
    sink.source = from
    const noise = Buffer.from(Array.from({ length: 200_000 }, (_, i) => (i * 7919 + ((i * i) % 251)) & 0xff))
    let wanted = true
    for (let i = 0; i < 50 && wanted; i++) wanted = sink.write(noise)
    expect(wanted).toBe(false)
    await until(() => to.writes === 1)
    await new Promise((resolve) => setTimeout(resolve, 20))
    expect(to.writes).toBe(1)
    to.slow = false
    to.source!.resume()
    await until(() => from.resumed > 0)
    sink.end('')
    await until(() => to.ended)
  })

  it('is broken off when the upstream breaks off, and nothing follows', async () => {
    const to = client('gzip')
    const sink = compile().wrap(to.x, to)
    sink.head(200, TEXT, -1)
    sink.write(Buffer.from(LARGE))
    sink.abort()
    expect([to.aborted, to.ended]).toEqual([true, false])
    await new Promise((resolve) => setTimeout(resolve, 10))
    expect(to.writes).toBe(0)
  })

  it('goes out as it is beyond the bound on streams at once', () => {
    const stage = compile()
    const open: ResponseSink[] = []
    for (let i = 0; i < 256; i++) {
      const to = client('gzip')
      const sink = stage.wrap(to.x, to)
      sink.head(200, TEXT, -1)
      open.push(sink)
    }
    const to = client('gzip')
    stage.wrap(to.x, to).head(200, TEXT, -1)
    expect([to.get('content-encoding'), to.get('vary')]).toEqual([undefined, 'Accept-Encoding'])
    for (const sink of open) sink.abort()
    const again = client('gzip')
    const sink = stage.wrap(again.x, again)
    sink.head(200, TEXT, -1)
    expect(again.get('content-encoding')).toBe('gzip')
    sink.abort()
  })
})

describe('with a cache', () => {
  const fields = { 'Cache-Control': 'max-age=60', 'Content-Type': 'text/plain', ETag: '"a"' }

  it('each coding is made once, from one stored body', () => {
    const made: string[] = []
    const stage = compile()
    const encoder = {
      ...stage,
      encodeNow(body: Uint8Array, coding: string) {
        made.push(coding)
        return stage.encodeNow(body, coding)
      },
    }
    const bench = new Bench({}, { encoder })
    const accept = (coding: string) => ({ fields: { 'Accept-Encoding': coding } })
    const first = bench.fetch(accept('gzip'), 200, fields, LARGE)
    expect(first.get('content-encoding')).toBe('gzip')
    for (const coding of ['gzip', 'br', 'gzip', 'br', 'identity']) {
      const hit = bench.ask(accept(coding))
      expect([hit.get('content-encoding') ?? 'identity', hit.get('vary')]).toEqual([coding, 'Accept-Encoding'])
      expect(DECODE[coding]!(Buffer.from(hit.text, 'latin1')).toString()).toBe(LARGE)
      expect(hit.length).toBe(hit.text.length)
    }
    expect([bench.origin.length, made]).toEqual([1, ['gzip', 'br']])
    expect(bench.ask({ fields: { 'Accept-Encoding': 'gzip', 'If-None-Match': 'W/"a"' } }).get('etag')).toBe('W/"a"')
    const part = bench.ask({ fields: { 'Accept-Encoding': 'gzip', Range: 'bytes=0-2' } })
    expect([part.status, part.text, part.get('content-encoding')]).toEqual([206, 'the', undefined])
  })

  it('a large stored body is plain until its coding is ready', async () => {
    const bench = new Bench({}, { encoder: compile(), maxObjectBytes: 1_000_000 })
    const body = LARGE.repeat(50)
    bench.fetch({}, 200, fields, body)
    const accept = { fields: { 'Accept-Encoding': 'gzip' } }
    expect(bench.ask(accept).text).toBe(body)
    await until(() => bench.ask(accept).get('content-encoding') === 'gzip')
    const hit = bench.ask(accept)
    expect(DECODE.gzip!(Buffer.from(hit.text, 'latin1')).toString()).toBe(body)
    expect(bench.cache.store.bytes).toBeGreaterThan(body.length + hit.length)
  })
})
