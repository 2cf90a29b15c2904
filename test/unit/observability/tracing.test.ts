import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { Exchange } from '../../../src/exchange.ts'
import { MessageHead } from '../../../src/http1/message-head.ts'
import { LocalReply } from '../../../src/local-reply.ts'
import { createTracer, type Tracer } from '../../../src/observability/tracing.ts'
import { createMetricsMemory, ThreadMetrics } from '../../../src/shared/metrics.ts'
import { MetricsReader } from '../../../src/shared/metrics-reader.ts'

const TRACE = '0af7651916cd43dd8448eb211c80319c'
const PARENT = 'b7ad6b7169203331'

interface Span {
  traceId: string
  spanId: string
  parentSpanId?: string
  name: string
  kind: number
  startTimeUnixNano: string
  endTimeUnixNano: string
  attributes: { key: string; value: Record<string, unknown> }[]
  status?: { code: number }
}

let tracer: Tracer | undefined
afterEach(async () => {
  await tracer?.close()
  vi.useRealTimers()
})

function setUp(config: object = {}, post?: (body: string) => Promise<{ ok: boolean; status: number }>) {
  const memory = createMetricsMemory({ threads: 1, routes: 4, series: 4 })
  const bodies: string[] = []
  const warnings: string[] = []
  const log = { debug() {}, info() {}, error() {}, fatal() {}, warn: (msg: string) => void warnings.push(msg), child: () => log } // biome-ignore format: short
  tracer = createTracer(
    { endpoint: 'http://127.0.0.1:1/v1/traces', headers: {}, serviceName: 'shop', samplePercent: 100, ...config },
    {
      metrics: new ThreadMetrics(memory, 0),
      logger: log,
      origin: () => 1_700_000_000_000,
      post: post ?? (async (body) => ({ ok: bodies.push(body) > 0, status: 200 })),
    },
  )
  const spans = async (): Promise<Span[]> => {
    await tracer!.close()
    return bodies.flatMap((body) => JSON.parse(body).resourceSpans[0].scopeSpans[0].spans as Span[])
  }
  return { tracer, spans, bodies, warnings, reader: new MetricsReader(memory) }
}

function exchange(fields = '', over: Partial<Exchange> = {}): Exchange {
  const request = new MessageHead('request')
  const bytes = Buffer.from(`GET /orders?token=s3cret HTTP/1.1\r\nHost: shop.test\r\n${fields}\r\n`)
  request.parse(bytes, 0, bytes.length, { headBytes: 16_384, fields: 100, targetBytes: 8192 })
  const client = { listener: { secure: true }, headSent: true } as unknown as Exchange['client']
  const x = new Exchange(request, client, 1000)
  return Object.assign(x, {
    path: '/orders', query: '?token=s3cret', authority: 'shop.test', clientAddress: '203.0.113.7', requestId: 'r1',
    status: 200, upstream: 'app', endpoint: 'http://10.0.0.1:80', attempts: 1, upstreamHeadMs: 1008, queuedMs: 2,
    route: { name: 'orders' }, ...over,
  }) // biome-ignore format: a table
}

const attribute = (span: Span, key: string) => Object.values(span.attributes.find((a) => a.key === key)?.value ?? {})[0]
const sent = (x: Exchange) => /^traceparent: 00-(\w{32})-(\w{16})-(\w\w)\r\n$/.exec(x.requestFields)!

describe('a traced exchange', () => {
  it('begins a trace where there is none, and its way upstream is the span below', async () => {
    const { tracer, spans } = setUp()
    const x = exchange()
    tracer.begin(x)
    const [, traceId, upstreamSpan, flags] = sent(x)
    expect(flags).toBe('01')
    tracer.end(x, 'completed', 1010)
    const [server, client] = await spans()
    expect(server).toMatchObject({
      traceId, name: 'GET orders', kind: 2,
      startTimeUnixNano: '1700000001000000000', endTimeUnixNano: '1700000001010000000',
    }) // biome-ignore format: short
    expect(server!.parentSpanId).toBeUndefined()
    expect(server!.status).toBeUndefined()
    expect(client).toMatchObject({ traceId, spanId: upstreamSpan, parentSpanId: server!.spanId, kind: 3 })
    expect(client!.startTimeUnixNano).toBe('1700000001002000000')
    expect(attribute(client!, 'fluxor.first_byte_ms')).toBe(6)
    expect(attribute(server!, 'http.response.status_code')).toBe('200')
    expect(attribute(server!, 'http.route')).toBe('orders')
    expect(attribute(server!, 'url.scheme')).toBe('https')
  })

  it('goes on with the trace that came, and follows the decision of who began it', async () => {
    const { tracer, spans } = setUp({ samplePercent: 0 })
    const taken = exchange(`traceparent: 00-${TRACE}-${PARENT}-01\r\n`)
    const left = exchange(`traceparent: 00-${TRACE}-${PARENT}-00\r\n`)
    for (const x of [taken, left]) {
      tracer.begin(x)
      expect(sent(x)[1]).toBe(TRACE)
      expect(sent(x)[2]).not.toBe(PARENT)
      tracer.end(x, 'completed', 1010)
    }
    expect([sent(taken)[3], sent(left)[3]]).toEqual(['01', '00'])
    const all = await spans()
    expect(all.map(({ kind }) => kind)).toEqual([2, 3])
    expect(all[0]).toMatchObject({ traceId: TRACE, parentSpanId: PARENT })
  })

  it.each([
    `00-${'0'.repeat(32)}-${PARENT}-01`,
    `00-${TRACE}-${'0'.repeat(16)}-01`,
    `ff-${TRACE}-${PARENT}-01`,
    `00-${TRACE}-${PARENT}-01extra`,
    'nonsense',
  ])('begins anew when what came is not valid: %s', (value) => {
    const { tracer } = setUp()
    const x = exchange(`traceparent: ${value}\r\n`)
    tracer.begin(x)
    expect(sent(x)[1]).not.toBe(TRACE)
  })

  it('carries no secret, and says why it was refused', async () => {
    const { tracer, spans, bodies } = setUp()
    const reply = new LocalReply('BACKPRESSURE', { reason: 'CCU_FULL' })
    const x = exchange('', { attempts: 0, upstream: '', status: 503, reply })
    tracer.begin(x)
    tracer.end(x, 'completed', 1001)
    const [server, none] = await spans()
    expect(none).toBeUndefined()
    expect(server!.status).toEqual({ code: 2 })
    expect(attribute(server!, 'error.type')).toBe('BACKPRESSURE')
    expect(attribute(server!, 'fluxor.reason')).toBe('CCU_FULL')
    expect(bodies.join('')).not.toContain('s3cret')
  })

  it('is not exported when no route took it', async () => {
    const { tracer, spans } = setUp()
    tracer.end(exchange(), 'completed', 1001)
    expect(await spans()).toEqual([])
  })

  it('takes the share that is asked for', () => {
    const { tracer } = setUp({ samplePercent: 25 })
    let taken = 0
    for (let i = 0; i < 4000; i++) {
      const x = exchange()
      tracer.begin(x)
      if (sent(x)[3] === '01') taken++
    }
    expect(taken).toBeGreaterThan(800)
    expect(taken).toBeLessThan(1200)
  })
})

describe('the export', () => {
  it('holds no more than its bound while the collector says nothing, and counts what is lost', async () => {
    vi.useFakeTimers()
    let posts = 0
    let let_go: () => void = () => {}
    const silent = () => {
      posts++
      return new Promise<{ ok: boolean; status: number }>(
        (resolve) => (let_go = () => resolve({ ok: true, status: 200 })),
      )
    }
    const { tracer, reader, warnings } = setUp({}, silent)
    for (let i = 0; i < 5000; i++) {
      const x = exchange('', { attempts: 0 })
      tracer.begin(x)
      tracer.end(x, 'completed', 1010)
      if (i === 600) vi.advanceTimersByTime(1000)
    }
    vi.advanceTimersByTime(60_000)
    expect(posts).toBe(1)
    expect(reader.scalar('traceSpansDropped')).toBe(5000 - 512 - 2048)
    expect(warnings).toHaveLength(1)
    vi.useRealTimers()
    const closing = tracer.close()
    for (let i = 0; i < 20; i++) {
      let_go()
      await new Promise((resolve) => setImmediate(resolve))
    }
    await closing
    expect(reader.scalar('traceSpans')).toBe(512 + 2048)
  })

  it('counts what the collector refuses', async () => {
    const { tracer, reader, warnings } = setUp({}, async () => ({ ok: false, status: 429 }))
    const x = exchange()
    tracer.begin(x)
    tracer.end(x, 'completed', 1010)
    await tracer.close()
    expect(reader.scalar('traceSpansDropped')).toBe(2)
    expect(warnings).toEqual(['spans were not exported'])
  })

  it('is OTLP over HTTP to a collector', async () => {
    const got: { url: string | undefined; type: string | undefined; key: string | undefined; body: string }[] = []
    const collector: Server = createServer((request, response) => {
      let body = ''
      request.on('data', (chunk) => (body += String(chunk)))
      request.on('end', () => {
        const { 'content-type': type, 'x-key': key } = request.headers
        got.push({ url: request.url, type, key: String(key), body })
        response.end('{}')
      })
    })
    await new Promise<void>((resolve) => collector.listen(0, '127.0.0.1', resolve))
    const memory = createMetricsMemory({ threads: 1, routes: 4, series: 4 })
    const { port } = collector.address() as AddressInfo
    const endpoint = `http://127.0.0.1:${port}/v1/traces`
    tracer = createTracer(
      { endpoint, headers: { 'x-key': 'k' }, serviceName: 'shop', samplePercent: 100 },
      { metrics: new ThreadMetrics(memory, 0), logger: undefined as never },
    )
    const x = exchange()
    tracer.begin(x)
    tracer.end(x, 'completed', 1010)
    await tracer.close()
    collector.close()
    expect(got).toHaveLength(1)
    expect(got[0]).toMatchObject({ url: '/v1/traces', type: 'application/json', key: 'k' })
    const [resource] = JSON.parse(got[0]!.body).resourceSpans
    expect(resource.resource.attributes[0]).toEqual({ key: 'service.name', value: { stringValue: 'shop' } })
    expect(resource.scopeSpans[0].spans).toHaveLength(2)
  })
})
