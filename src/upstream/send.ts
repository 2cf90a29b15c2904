/**
 * Serves one exchange at an upstream: breaker, endpoint, connection, request, answer, and second tries where they are
 * safe, wanted and paid for. Hands the answer's head and body on as they come. Ends by itself when the client leaves.
 */

import type { BodySink, Exchange, ResponseSink } from '../exchange.ts'
import { FIELD_ID } from '../http1/field-names.ts'
import { CHUNKED } from '../http1/framing.ts'
import type { MessageHead } from '../http1/message-head.ts'
import { LocalReply } from '../local-reply.ts'
import type { PickContext } from './balancers/balancer.ts'
import { parseSlots, reportSlots, returnSlot, takeSlot } from './balancers/slots.ts'
import type { Breaker } from './breaker.ts'
import type { Attempt, FailureKind, UpstreamConnection } from './connection.ts'
import type { Endpoint } from './endpoint.ts'
import { isEndpointFailure, type TryFailure } from './outlier.ts'
import type { PoolWaiter } from './pool.ts'
import { isIdempotent, parseRetryAfter, type RetryPolicy } from './retry.ts'
import type { Upstream } from './upstream.ts'

/** What the pipeline does with what comes back. One object a route. */
export interface SendHandler {
  /** Start line and fields of the request for an endpoint, without framing. */
  requestText(x: Exchange, endpoint: Endpoint): string
  /** The final head. Returns where the body goes. @param length as in `ResponseSink.head` */
  answered(x: Exchange, head: MessageHead, length: number, extraFields: string): ResponseSink
  informational(x: Exchange, head: MessageHead): void
  /** No answer could be had. */
  failed(x: Exchange, reply: LocalReply): void
  readonly retry: RetryPolicy | undefined
  readonly replayBytes: number
}

/** Serves the exchange; returns at once. */
export function send(x: Exchange, upstream: Upstream, handler: SendHandler): void {
  new Sending(x, upstream, handler).start()
}

class Sending implements Attempt, PoolWaiter, PickContext, BodySink {
  readonly method: string
  hashKey = ''
  waitedFromMs = 0
  readonly #x: Exchange
  readonly #upstream: Upstream
  readonly #handler: SendHandler
  #endpoint: Endpoint | null = null
  #tried: Endpoint[] | null = null
  #connection: UpstreamConnection | null = null
  /** Breakers that have let this try through and are owed a result. */
  #breaker: Breaker | null = null
  #breakerEpoch = 0
  #endpointBreaker: Breaker | null = null
  #endpointEpoch = 0
  #sentMs = 0
  #retries = 0
  #staleRetried = false
  #waiting = false
  /** The last try was refused by a full gateway: the next must go elsewhere. */
  #shed = false
  #backoff: NodeJS.Timeout | undefined
  /** What was taken of the client's body, for a second try; null: it can no longer be replayed. */
  #replay: Buffer[] | null = null
  #replayBytes = 0
  #bodyTaken = false
  #bodyEnded = false
  #trailers = ''

  constructor(x: Exchange, upstream: Upstream, handler: SendHandler) {
    this.#x = x
    this.#upstream = upstream
    this.#handler = handler
    this.method = x.request.method
  }

  start(): void {
    const x = this.#x
    const upstream = this.#upstream
    x.upstream = upstream.name
    x.onAbort = () => this.#cancel()
    if (upstream.hashKey !== undefined) this.hashKey = upstream.hashKey(x)
    if (x.client.body !== null) this.#replay = []
    upstream.budget.onFirstTry(x.startedMs)
    this.#try(false)
  }

  #try(fresh: boolean): void {
    const x = this.#x
    const upstream = this.#upstream
    const nowMs = performance.now()
    const { breaker } = upstream
    if (breaker !== null) {
      if (!breaker.allow(nowMs)) {
        const waitSec = Math.max(1, Math.ceil(breaker.retryAfterMs(nowMs) / 1000))
        this.#give(new LocalReply('BREAKER_OPEN', { fields: `Retry-After: ${waitSec}\r\n` }))
        return
      }
      this.#breaker = breaker
      this.#breakerEpoch = breaker.epoch
    }
    const endpoint = this.#pick(nowMs)
    if (endpoint === undefined) {
      this.#cancelBreakers()
      this.#give(new LocalReply('NO_ENDPOINT', { fields: 'Retry-After: 1\r\n' }))
      return
    }
    this.#endpoint = endpoint
    endpoint.inFlight++
    if (upstream.config.slots) takeSlot(endpoint)
    x.endpoint = endpoint.key
    x.attempts++
    this.#waiting = true
    const pool = upstream.pool(endpoint)
    if (fresh) pool.acquireFresh(this)
    else pool.acquire(this)
  }

  /** An endpoint whose own breaker lets the try through; with none left, one is chosen against its breaker (panic). */
  #pick(nowMs: number): Endpoint | undefined {
    const upstream = this.#upstream
    let tried = this.#tried
    for (;;) {
      const endpoint = upstream.pick(this.#x, this, nowMs, tried, !this.#shed)
      if (endpoint === undefined || endpoint.breaker === null) return endpoint
      if (endpoint.breaker.allow(nowMs)) {
        this.#endpointBreaker = endpoint.breaker
        this.#endpointEpoch = endpoint.breaker.epoch
        return endpoint
      }
      if (upstream.balancer.panic || tried?.includes(endpoint)) return endpoint
      tried = [...(tried ?? []), endpoint]
    }
  }

  connection(connection: UpstreamConnection): void {
    const x = this.#x
    this.#waiting = false
    this.#connection = connection
    this.#sentMs = performance.now()
    const { body } = x.client
    const length = body === null ? 0 : body.length === CHUNKED ? CHUNKED : body.length
    connection.send(this, this.#handler.requestText(x, this.#endpoint!), length)
    if (body === null) return
    connection.requestSource = body
    if (this.#bodyTaken) {
      for (const chunk of this.#replay!) connection.write(chunk)
      if (this.#bodyEnded) connection.end(this.#trailers)
      else connection.flush()
      if (!this.#bodyEnded) body.resume()
    } else {
      body.sink = this
      body.resume()
    }
  }

  // The client's body on its way to the connection.

  write(chunk: Uint8Array): boolean {
    this.#bodyTaken = true
    if (this.#replay !== null) this.#keep(chunk)
    return this.#connection === null ? false : this.#connection.write(chunk)
  }

  /** Kept while a second try may need it: until bytes of a request that must not be repeated are on their way. */
  #keep(chunk: Uint8Array): void {
    this.#replayBytes += chunk.length
    const sent = this.#connection?.connected ?? false
    if (this.#replayBytes > this.#handler.replayBytes || (sent && !isIdempotent(this.method))) this.#replay = null
    else this.#replay!.push(Buffer.from(chunk))
  }

  end(trailers: string): void {
    this.#bodyTaken = true
    this.#bodyEnded = true
    this.#trailers = trailers
    this.#connection?.end(trailers)
  }

  flush(): void {
    this.#connection?.flush()
  }

  /** The client's body broke off. The listener answers or closes. */
  abort(): void {
    this.#cancel()
  }

  // What the connection reports.

  informational(head: MessageHead): void {
    this.#handler.informational(this.#x, head)
  }

  head(head: MessageHead, length: number): ResponseSink {
    const x = this.#x
    const nowMs = performance.now()
    const { status } = head
    const { config: upstreamConfig } = this.#upstream
    const shed = status === 503 && head.indexOf(FIELD_ID['fluxor-shed']) >= 0
    const endpoint = this.#endpoint!
    if (upstreamConfig.slots) {
      const free = parseSlots(head.value(FIELD_ID['fluxor-slots']) ?? '')
      if (free >= 0) reportSlots(endpoint, free, nowMs)
    }
    const retryAfterMs = status >= 400 ? parseRetryAfter(head.value(FIELD_ID['retry-after']), Date.now()) : -1
    this.#learn(null, status, shed, retryAfterMs, nowMs)
    if (status >= 400) {
      const delayMs = this.#retryDelay(null, status, shed, retryAfterMs, nowMs)
      if (delayMs >= 0) {
        this.#connection!.cancel()
        this.#shed = shed
        this.#again(delayMs, false)
        return NOWHERE
      }
    }
    x.upstreamHeadMs = nowMs
    const { sticky } = this.#upstream
    const cookie = sticky === null ? '' : sticky.bind(x.request.get('cookie'), endpoint)
    this.#replay = null
    return this.#handler.answered(x, head, length, cookie)
  }

  failed(kind: FailureKind, detail: string): void {
    const connection = this.#connection!
    const x = this.#x
    const nowMs = performance.now()
    const sent = connection.connected
    this.#connection = null
    // The upstream closed a kept-alive connection just as it was used: once on a fresh one, whatever `retry` says.
    const stale = kind === 'reset' && connection.reused && !this.#staleRetried
    if (stale && isIdempotent(this.method) && this.#bodyReplayable) {
      this.#staleRetried = true
      this.#settle()
      this.#tried = null
      x.attempts--
      this.#try(true)
      return
    }
    const failure: TryFailure = kind === 'connect' || kind === 'connectTimeout' ? 'connectError' : kind
    this.#learn(failure, 0, false, -1, nowMs)
    const delayMs = this.#retryDelay(failure, 0, false, -1, nowMs, sent)
    if (delayMs >= 0) {
      this.#again(delayMs, true)
      return
    }
    this.#settle()
    this.#give(failureReply(kind, detail))
  }

  broken(kind: FailureKind, detail: string): void {
    this.#x.reply = failureReply(kind, detail)
    this.#settle()
  }

  done(): void {
    this.#settle()
    this.#x.onAbort = null
  }

  #learn(failure: TryFailure | null, status: number, shed: boolean, retryAfterMs: number, nowMs: number): void {
    const latencyMs = nowMs - this.#sentMs
    const failed = isEndpointFailure(failure, status, shed)
    this.#upstream.learn(this.#endpoint!, { failed, shed, latencyMs, retryAfterMs, sentMs: this.#sentMs }, nowMs)
    this.#breaker?.onResult(!failed, latencyMs, nowMs, this.#breakerEpoch)
    this.#endpointBreaker?.onResult(!failed, latencyMs, nowMs, this.#endpointEpoch)
    this.#breaker = this.#endpointBreaker = null
  }

  #cancelBreakers(): void {
    this.#breaker?.onCancel(this.#breakerEpoch)
    this.#endpointBreaker?.onCancel(this.#endpointEpoch)
    this.#breaker = this.#endpointBreaker = null
  }

  get #bodyReplayable(): boolean {
    return this.#x.client.body === null || !this.#bodyTaken || this.#replay !== null
  }

  /** Milliseconds to wait before another try; -1: none. */
  #retryDelay(
    failure: TryFailure | null,
    status: number,
    shed: boolean,
    retryAfterMs: number,
    nowMs: number,
    sent = true,
  ): number {
    const policy = this.#handler.retry ?? this.#upstream.retry
    return policy.next(
      {
        method: this.method,
        retries: this.#retries,
        failure,
        status,
        sent,
        bodyReplayable: this.#bodyReplayable,
        shed,
        elsewhere:
          shed &&
          this.#upstream.pick(this.#x, this, nowMs, [...(this.#tried ?? []), this.#endpoint!], false) !== undefined,
        retryAfterMs,
      },
      nowMs,
    )
  }

  #again(delayMs: number, fresh: boolean): void {
    const endpoint = this.#endpoint!
    this.#settle()
    this.#retries++
    if (this.#tried === null) this.#tried = [endpoint]
    else this.#tried.push(endpoint)
    this.#connection = null
    if (delayMs < 1) this.#try(fresh)
    else this.#backoff = setTimeout(() => this.#try(fresh), delayMs)
  }

  /** The endpoint no longer carries this try. */
  #settle(): void {
    if (this.#endpoint === null) return
    this.#endpoint.inFlight--
    if (this.#upstream.config.slots) returnSlot(this.#endpoint)
    this.#endpoint = null
    this.#cancelBreakers()
  }

  #give(reply: LocalReply): void {
    this.#x.onAbort = null
    this.#x.client.body?.cancel()
    this.#handler.failed(this.#x, reply)
  }

  #cancel(): void {
    clearTimeout(this.#backoff)
    const connection = this.#connection
    this.#connection = null
    if (this.#waiting && this.#endpoint !== null) this.#upstream.pool(this.#endpoint).leave(this)
    this.#waiting = false
    connection?.cancel()
    this.#settle()
  }
}

function failureReply(kind: FailureKind, detail: string): LocalReply {
  switch (kind) {
    case 'connect':
      return new LocalReply('UP_CONNECT', { detail: `no connection: ${detail}` })
    case 'connectTimeout':
      return new LocalReply('UP_CONNECT', { status: 504, reason: 'CONNECT_TIMEOUT', detail })
    case 'reset':
      return new LocalReply('UP_RESET', { detail })
    case 'bad':
      return new LocalReply('UP_BAD', { detail })
    case 'timeout':
      return new LocalReply('UP_TIMEOUT', { detail })
  }
}

/** Where the body of an answer goes that is tried again elsewhere. */
const NOWHERE: ResponseSink = {
  source: null,
  head() {},
  informational() {},
  write: () => true,
  end() {},
  abort() {},
  flush() {},
}
