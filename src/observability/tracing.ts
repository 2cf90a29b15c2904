/**
 * Spans of exchanges, exported as OTLP over HTTP (JSON), for the thread that has them. An own exporter of one file:
 * the OpenTelemetry SDK would carry a context through every request to make the same two objects of it.
 *
 * A trace begins as the first gate of a route: `begin` writes the W3C trace context that goes upstream. Everything else is
 * read back from it when the exchange has ended, so that nothing is kept for it meanwhile. An exchange has one span; when
 * it went upstream, a second one below it, whose id went along. Spans leave in batches, one at a time, by a timer; when the
 * collector is slow or gone, spans are lost and counted, and requests never wait.
 */

import { randomBytes } from 'node:crypto'
import type { Exchange, Outcome } from '../exchange.ts'
import { FIELD_ID } from '../http1/field-names.ts'
import { wallOriginMs } from '../shared/clock.ts'
import { SCALAR, type ThreadMetrics } from '../shared/metrics.ts'
import { VERSION } from '../version.ts'
import { finalStatus } from './access-log.ts'
import type { TracingConfig } from './config.ts'
import { redactQuery } from './log-text.ts'
import type { Logger } from './logger.ts'

const MAX_WAITING = 2048
const MAX_BATCH = 512
const EXPORT_EVERY_MS = 1000
const EXPORT_TIMEOUT_MS = 5000
const COMPLAIN_EVERY_MS = 60_000
const FIELD = 'traceparent: '
/** W3C Trace Context §3.2: a later version may have more behind the flags. */
const TRACEPARENT = /^(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-|$)/
const KIND = { server: 2, client: 3 } as const
const STATUS_ERROR = 2

export interface Tracer {
  /** Takes the request's trace up, or begins one. For the first gate of a route. */
  readonly begin: (x: Exchange) => undefined
  /** An exchange has ended. @param nowMs `performance.now()` */
  readonly end: (x: Exchange, outcome: Outcome, nowMs: number) => void
  /** Sends what is left, for at most five seconds. */
  close(): Promise<void>
}

type OtlpConfig = NonNullable<TracingConfig['otlp']>

export interface TracerOptions {
  readonly metrics: ThreadMetrics
  readonly logger: Logger
  readonly origin?: () => number
  /** For tests. Rejects or answers not-ok when the spans were not taken. */
  readonly post?: (body: string) => Promise<{ ok: boolean; status: number }>
}

interface Span {
  readonly traceId: string
  readonly spanId: string
  readonly parentSpanId?: string
  readonly name: string
  readonly kind: number
  readonly startTimeUnixNano: string
  readonly endTimeUnixNano: string
  readonly attributes: readonly Attribute[]
  readonly status?: { code: number }
}

interface Attribute {
  readonly key: string
  readonly value: { stringValue: string } | { intValue: string } | { doubleValue: number }
}

export function createTracer(config: OtlpConfig, options: TracerOptions): Tracer {
  const { metrics, logger, origin = wallOriginMs } = options
  const post = options.post ?? poster(config)
  const ids = new Ids()
  let waiting: Span[] = []
  let sending: Promise<void> | undefined
  let complainedMs = Number.NEGATIVE_INFINITY
  let closed = false

  const lost = (spans: number, reason: string): void => {
    metrics.add(SCALAR.traceSpansDropped, spans)
    const nowMs = performance.now()
    if (nowMs - complainedMs < COMPLAIN_EVERY_MS) return
    complainedMs = nowMs
    logger.warn('spans were not exported', { endpoint: config.endpoint, spans, reason })
  }

  const exportBatch = async (): Promise<void> => {
    const batch = waiting.splice(0, MAX_BATCH)
    try {
      const { ok, status } = await post(bodyOf(batch, config.serviceName))
      if (ok) metrics.add(SCALAR.traceSpans, batch.length)
      else lost(batch.length, `answered ${status}`)
    } catch (error) {
      lost(batch.length, (error as Error).message)
    }
  }

  const exportSome = (): void => {
    if (sending !== undefined || waiting.length === 0) return
    sending = exportBatch().finally(() => {
      sending = undefined
      if (waiting.length >= MAX_BATCH && !closed) exportSome()
    })
  }
  const timer = setInterval(exportSome, EXPORT_EVERY_MS).unref()

  const add = (span: Span): void => {
    if (waiting.length >= MAX_WAITING) lost(1, 'the collector is slower than the traffic')
    else waiting.push(span)
  }

  return {
    begin(x) {
      const given = TRACEPARENT.exec(x.request.value(FIELD_ID.traceparent) ?? '')
      const traceId = given?.[1] ?? ids.trace()
      // A caller who decided for the whole trace is followed
      const sampled = given === null ? Math.random() * 100 < config.samplePercent : (Number(`0x${given[3]}`) & 1) === 1
      x.requestFields += `${FIELD}00-${traceId}-${ids.span()}-${sampled ? '01' : '00'}\r\n`
      return undefined
    },

    end(x, outcome, nowMs) {
      const at = x.requestFields.indexOf(FIELD)
      if (at < 0) return // no route took it
      const own = TRACEPARENT.exec(x.requestFields.slice(at + FIELD.length, at + FIELD.length + 55))
      if (own === null || own[3] !== '01') return
      const [, traceId, upstreamSpan] = own as unknown as [string, string, string]
      const parent = TRACEPARENT.exec(x.request.value(FIELD_ID.traceparent) ?? '')?.[2]
      const originMs = origin()
      const nano = (ms: number) => String(BigInt(Math.round((originMs + ms) * 1000)) * 1000n)
      const status = finalStatus(x, outcome)
      const spanId = sibling(upstreamSpan)
      add({
        traceId,
        spanId,
        ...(parent !== undefined && { parentSpanId: parent }),
        name: `${x.request.method} ${x.route?.name ?? ''}`.trimEnd(),
        kind: KIND.server,
        startTimeUnixNano: nano(x.startedMs),
        endTimeUnixNano: nano(nowMs),
        attributes: serverAttributes(x, status),
        ...((status >= 500 || outcome === 'aborted') && { status: { code: STATUS_ERROR } }),
      })
      if (x.attempts === 0) return
      add({
        traceId,
        spanId: upstreamSpan,
        parentSpanId: spanId,
        name: `${x.request.method} ${x.upstream}`,
        kind: KIND.client,
        startTimeUnixNano: nano(x.startedMs + x.queuedMs),
        endTimeUnixNano: nano(nowMs),
        attributes: clientAttributes(x),
        ...((x.upstreamHeadMs === 0 || status >= 500) && { status: { code: STATUS_ERROR } }),
      })
    },

    async close() {
      clearInterval(timer)
      closed = true
      await sending
      // What comes while this waits is sent too, but no more than was bounded
      for (let i = 0; i <= MAX_WAITING / MAX_BATCH && waiting.length > 0; i++) await exportBatch()
      waiting = []
    },
  }
}

/** Names of the OpenTelemetry semantic conventions for HTTP, 1.23 and later; the gateway's own begin with `fluxor.`. */
function serverAttributes(x: Exchange, status: number): Attribute[] {
  const attributes = [
    text('http.request.method', x.request.method),
    text('url.path', x.path.slice(0, 2048)),
    text('url.scheme', x.client.listener.secure ? 'https' : 'http'),
    text('server.address', x.authority),
    text('client.address', x.clientAddress),
    text('fluxor.request_id', x.requestId),
  ]
  if (status > 0) attributes.push(whole('http.response.status_code', status))
  if (x.query !== '') attributes.push(text('url.query', redactQuery(x.query).slice(1, 2048)))
  if (x.route !== undefined) attributes.push(text('http.route', x.route.name))
  if (x.queuedMs > 0) attributes.push(decimal('fluxor.queue_ms', x.queuedMs))
  if (x.cacheStatus !== '') attributes.push(text('fluxor.cache', x.cacheStatus))
  if (x.tier !== '') attributes.push(text('fluxor.tier', x.tier))
  if (x.reply !== undefined) {
    attributes.push(text('error.type', x.reply.code))
    if (x.reply.reason !== undefined) attributes.push(text('fluxor.reason', x.reply.reason))
  }
  return attributes
}

function clientAttributes(x: Exchange): Attribute[] {
  const attributes = [
    text('http.request.method', x.request.method),
    text('fluxor.upstream', x.upstream),
    text('server.address', x.endpoint),
    whole('fluxor.attempts', x.attempts),
  ]
  if (x.upstreamHeadMs > 0)
    attributes.push(decimal('fluxor.first_byte_ms', x.upstreamHeadMs - x.startedMs - x.queuedMs))
  return attributes
}

const text = (key: string, value: string): Attribute => ({ key, value: { stringValue: value } })
const whole = (key: string, value: number): Attribute => ({ key, value: { intValue: String(value) } })
const decimal = (key: string, value: number): Attribute => ({ key, value: { doubleValue: value } })

function bodyOf(spans: readonly Span[], serviceName: string): string {
  return JSON.stringify({
    resourceSpans: [
      {
        resource: {
          attributes: [
            text('service.name', serviceName),
            text('telemetry.sdk.name', 'fluxor-gateway'),
            text('telemetry.sdk.language', 'nodejs'),
          ],
        },
        scopeSpans: [{ scope: { name: 'fluxor-gateway', version: VERSION }, spans }],
      },
    ],
  })
}

function poster({ endpoint, headers }: OtlpConfig): (body: string) => Promise<{ ok: boolean; status: number }> {
  return async (body) => {
    const response = await fetch(endpoint, {
      method: 'POST',
      headers: { ...headers, 'content-type': 'application/json' },
      body,
      redirect: 'error',
      signal: AbortSignal.timeout(EXPORT_TIMEOUT_MS),
    })
    await response.body?.cancel()
    return response
  }
}

/** The id of the exchange's own span, from that of its upstream span: they differ in one bit. */
function sibling(spanId: string): string {
  const last = Number.parseInt(spanId[15]!, 16) ^ 1
  return spanId.slice(0, 15) + last.toString(16)
}

/** Random bytes in bulk: asking the system for each id would cost more than the rest of the span. */
class Ids {
  #hex = ''
  #at = 0

  trace(): string {
    return this.#next(32)
  }

  /** Never all zero, and neither is its sibling. */
  span(): string {
    const id = this.#next(16)
    return id.startsWith('000000000000000') ? this.span() : id
  }

  #next(length: number): string {
    if (this.#at + length > this.#hex.length) {
      this.#hex = randomBytes(2048).toString('hex')
      this.#at = 0
    }
    const id = this.#hex.slice(this.#at, this.#at + length)
    this.#at += length
    return id === '0'.repeat(length) ? this.#next(length) : id
  }
}
