/**
 * One request over HTTP/2: a stream of a session that looks like every other carrier to who sends. What the upstream
 * answers is written as HTTP/1.1 text and read by the same strict parser.
 */

import type { ClientHttp2Stream, OutgoingHttpHeaders } from 'node:http2'
import type { BodySource, ResponseSink } from '../exchange.ts'
import { FIELD_ID, LINE_BREAK, LOWER_CASE_NAME } from '../http1/field-names.ts'
import { CHUNKED, declaredLength } from '../http1/framing.ts'
import type { MessageHead } from '../http1/message-head.ts'
import { trailerLines } from '../http1/trailers.ts'
import {
  type Attempt,
  type Carrier,
  expectsBody,
  type FailureKind,
  MAX_INFORMATIONAL,
  reportFailure,
} from './carrier.ts'
import type { H2Session } from './h2-session.ts'
import { eachField, responseHead } from './head-text.ts'

const NO_ERROR = 0
const REFUSED_STREAM = 7
const CANCEL = 8
/** Left out of an HTTP/2 request: RFC 9113 §8.2.2; Host becomes `:authority`. */
const NOT_FORWARDED = new Set([
  'connection',
  'keep-alive',
  'proxy-connection',
  'transfer-encoding',
  'upgrade',
  'host',
  'te',
])

export class H2Request implements Carrier, BodySource {
  requestSource: BodySource | null = null
  deadlineMs = Number.POSITIVE_INFINITY
  readonly reused: boolean
  readonly #session: H2Session
  #stream: ClientHttp2Stream | null = null
  #attempt: Attempt | null = null
  #sink: ResponseSink | null = null
  #requestDone = false
  #informational = 0
  #idleMs = 0
  #requestTrailers = ''
  #trailers = ''
  #ended = false

  constructor(session: H2Session) {
    this.#session = session
    this.reused = session.served > 1
  }

  get connected(): boolean {
    return this.#session.connected && this.#stream !== null
  }

  send(attempt: Attempt, headText: string, length: number): void {
    this.#attempt = attempt
    this.#requestDone = length === 0
    const headers = requestHeaders(headText, this.#session.scheme)
    if (length > 0 || (length === 0 && expectsBody(attempt.method))) headers.push('content-length', String(length))
    let stream: ClientHttp2Stream
    try {
      stream = this.#session.http2.request(headers as unknown as OutgoingHttpHeaders, {
        endStream: length === 0,
        waitForTrailers: length === CHUNKED,
      })
    } catch (error) {
      // Not a byte has left: the session is closing, or Node does not take the head.
      process.nextTick(() => this.fail('connect', (error as NodeJS.ErrnoException).code ?? String(error)))
      return
    }
    this.#stream = stream
    stream.on('response', (_headers, flags, raw) => this.#onHead(raw as unknown as string[], flags))
    stream.on('headers', (_headers, _flags, raw) => this.#onInformational(raw as unknown as string[]))
    stream.on('trailers', (_headers, _flags, raw) => {
      this.#trailers = trailerLines(raw as unknown as string[])
    })
    stream.on('data', (chunk: Buffer) => this.#onData(chunk))
    stream.on('end', () => this.#onEnd())
    stream.on('wantTrailers', () => stream.sendTrailers(headersOf(this.#requestTrailers)))
    stream.on('drain', () => this.requestSource?.resume())
    stream.on('error', () => {}) // `close` follows
    stream.on('close', () => this.#onClose())
    if (this.#requestDone) this.#watchFirstByte()
  }

  connectionReady(): void {
    if (this.#requestDone) this.#watchFirstByte()
  }

  #watchFirstByte(): void {
    if (!this.#session.connected || this.#sink !== null) return
    const { firstByteMs } = this.#session.owner.timeouts
    this.deadlineMs = firstByteMs > 0 ? this.#session.owner.now() + firstByteMs : Number.POSITIVE_INFINITY
  }

  #watchIdle(): void {
    this.deadlineMs = this.#idleMs > 0 ? this.#session.owner.now() + this.#idleMs : Number.POSITIVE_INFINITY
  }

  // The request's body, as a sink.

  write(chunk: Uint8Array): boolean {
    const stream = this.#stream
    if (stream === null || stream.destroyed || stream.writableEnded) return true
    return stream.write(Buffer.from(chunk))
  }

  end(trailers: string): void {
    this.#requestDone = true
    this.#requestTrailers = trailers
    const stream = this.#stream
    if (stream !== null && !stream.destroyed && !stream.writableEnded) stream.end()
    this.#watchFirstByte()
  }

  flush(): void {}

  abort(): void {
    this.cancel()
  }

  // The answer.

  #onInformational(raw: readonly string[]): void {
    const attempt = this.#attempt
    if (attempt === null) return
    const head = readHead(raw)
    if (head === undefined || ++this.#informational > MAX_INFORMATIONAL) {
      this.fail('bad', 'an interim answer is not valid')
      return
    }
    if (head.status !== 100 && head.status !== 101) attempt.informational(head)
  }

  #onHead(raw: readonly string[], flags: number): void {
    const attempt = this.#attempt
    if (attempt === null) return
    const head = readHead(raw)
    const declared = head === undefined ? undefined : declaredLength(head)
    if (head === undefined || head.status < 200 || typeof declared !== 'number') {
      this.fail('bad', 'the head of the answer is not valid')
      return
    }
    const endStream = (flags & 1) !== 0
    const { status } = head
    const bodiless = endStream || attempt.method === 'HEAD' || status === 204 || status === 304
    const type = head.value(FIELD_ID['content-type'])
    const { idleMs, streamIdleMs } = this.#session.owner.timeouts
    this.#idleMs = type !== undefined && /^(?:application\/grpc|text\/event-stream)/i.test(type) ? streamIdleMs : idleMs
    const isAnswerToHead = attempt.method === 'HEAD' || status === 304
    const sink = attempt.head(head, bodiless ? (isAnswerToHead ? declared : 0) : declared)
    if (this.#attempt !== attempt) return
    this.#sink = sink
    sink.source = this
    this.#watchIdle()
  }

  #onData(chunk: Buffer): void {
    const sink = this.#sink
    if (sink === null) {
      if (this.#attempt !== null) this.fail('bad', 'a body without a head')
      return
    }
    const more = sink.write(chunk)
    this.#sink?.flush()
    if (this.#sink === null) return
    if (more) this.#watchIdle()
    else this.pause()
  }

  #onEnd(): void {
    const stream = this.#stream!
    if (stream.aborted || stream.rstCode !== NO_ERROR) return // `close` follows
    const attempt = this.#attempt
    const sink = this.#sink
    if (attempt === null || sink === null) return
    this.#finish()
    // RFC 9113 §8.1: an answer may be complete before the request is; the rest of that is of no use any more.
    if (!this.#requestDone) stream.close(NO_ERROR)
    attempt.done()
    sink.end(this.#trailers)
    sink.flush()
  }

  #onClose(): void {
    const stream = this.#stream!
    if (this.#ended) return
    const { rstCode } = stream
    if (this.#session.http2.destroyed || this.#session.error !== '') {
      // The session says why, when it closes: in this turn of the loop.
      setImmediate(() =>
        this.fail(this.#session.connected ? 'reset' : 'connect', this.#session.error || 'the connection was closed'),
      )
      return
    }
    if (rstCode === REFUSED_STREAM) this.fail('connect', 'the upstream took no more streams')
    else this.fail('reset', `the upstream reset the stream (${rstCode})`)
  }

  pause(): void {
    this.#stream?.pause()
    this.deadlineMs = Number.POSITIVE_INFINITY
  }

  resume(): void {
    if (this.#ended) return
    this.#watchIdle()
    this.#stream?.resume()
  }

  expire(): void {
    this.fail(
      'timeout',
      this.#sink === null ? 'the head of the answer did not come in time' : 'the body of the answer stalled',
    )
  }

  cancel(): void {
    this.#finish()
    this.#reset()
  }

  #reset(): void {
    const stream = this.#stream
    if (stream !== null && !stream.destroyed) stream.close(CANCEL)
  }

  #finish(): void {
    this.#ended = true
    this.#attempt = null
    this.#sink = null
    this.requestSource = null
    this.deadlineMs = Number.POSITIVE_INFINITY
    this.#session.ended(this)
  }

  fail(kind: FailureKind, detail: string): void {
    if (this.#ended) return
    const attempt = this.#attempt
    const sink = this.#sink
    this.#finish()
    this.#reset()
    reportFailure(attempt, sink, kind, detail)
  }
}

/** A flat list of names and values, pseudo fields first. */
function requestHeaders(headText: string, scheme: string): string[] {
  const [startLine, ...lines] = headText.split('\r\n')
  const [method, path] = startLine!.split(' ')
  const headers = [':method', method!, ':path', path!, ':scheme', scheme, ':authority', '']
  let grpc = false
  eachField(lines, (name, value) => {
    if (name === 'host') headers[7] = value
    if (NOT_FORWARDED.has(name)) return
    if (name === 'content-type' && value.toLowerCase().startsWith('application/grpc')) grpc = true
    headers.push(name, value)
  })
  if (grpc) headers.push('te', 'trailers') // gRPC servers ask for it, and it holds: trailers pass here
  return headers
}

function headersOf(lines: string): OutgoingHttpHeaders {
  const headers: Record<string, string[]> = Object.create(null)
  eachField(lines.split('\r\n'), (name, value) => {
    ;(headers[name] ??= []).push(value)
  })
  return headers
}

/** Undefined when it is not valid. */
function readHead(raw: readonly string[]): MessageHead | undefined {
  let status = ''
  let fields = ''
  for (let i = 0; i < raw.length; i += 2) {
    const name = raw[i]!
    const value = raw[i + 1]!
    if (name === ':status') status = value
    else if (!LOWER_CASE_NAME.test(name) || LINE_BREAK.test(value)) return undefined
    else fields += `${name}: ${value}\r\n`
  }
  return responseHead(status, fields)
}
