/**
 * Serves one exchange at an upstream: breaker, endpoint, connection, request, answer, and second tries where they are
 * safe, wanted and paid for. Hands the answer's head and body on as they come. Ends by itself when the client leaves.
 *
 * This is the exchange's side: the client's body, what was tried, what comes next. A `Try` is one request at one endpoint.
 * There is one at a time; with `hedging` a second may run beside the first, and the first answer wins.
 */

import type { BodySink, Exchange, ResponseSink, Tunnel } from '../exchange.ts'
import { asksForWebSocket } from '../http/upgrade.ts'
import type { MessageHead } from '../http1/message-head.ts'
import { LocalReply } from '../local-reply.ts'
import { SCALAR } from '../shared/metrics.ts'
import type { PickContext } from './balancers/balancer.ts'
import type { Carrier, FailureKind } from './carrier.ts'
import type { Endpoint } from './endpoint.ts'
import type { Mirror } from './mirror.ts'
import { NOWHERE } from './nowhere.ts'
import type { TryFailure } from './outlier.ts'
import { isIdempotent, type RetryPolicy } from './retry.ts'
import { failureReply, Try, type TryHandler, type TryOwner } from './try.ts'
import type { Upstream } from './upstream.ts'

/** What the pipeline does with what comes back. One object a route. */
export interface SendHandler extends TryHandler {
  /** The final head. Returns where the body goes. @param length as in `ResponseSink.head` */
  answered(x: Exchange, head: MessageHead, length: number, extraFields: string): ResponseSink
  /** The trailers that may go upstream. */
  requestTrailers(trailers: string): string
  /** The upstream took the WebSocket. Returns where its bytes go. */
  upgraded(x: Exchange, head: MessageHead, tunnel: Tunnel, extraFields: string): ResponseSink
  /** No answer could be had. */
  failed(x: Exchange, reply: LocalReply): void
  readonly retry: RetryPolicy | undefined
  readonly replayBytes: number
  readonly mirror: Mirror | undefined
}

/** Serves the exchange; returns at once. */
export function send(x: Exchange, upstream: Upstream, handler: SendHandler): void {
  new Sending(x, upstream, handler).start()
}

class Sending implements PickContext, BodySink, TryOwner {
  readonly x: Exchange
  readonly upstream: Upstream
  readonly handler: SendHandler
  readonly method: string
  readonly retry: RetryPolicy
  readonly upgrade: boolean
  hashKey = ''
  #current: Try | null = null
  /** Runs beside the current one. */
  #hedge: Try | null = null
  #tried: Endpoint[] | null = null
  #retries = 0
  #staleRetried = false
  /** The last try was refused by a full gateway: the next must go elsewhere. */
  #shed = false
  /** For the pause before a retry, or until a hedge. */
  #timer: NodeJS.Timeout | undefined
  #deadlineMs = Number.POSITIVE_INFINITY
  /** What was taken of the client's body, for a second try; null: it can no longer be replayed. */
  #replay: Buffer[] | null = null
  #replayBytes = 0
  #bodyTaken = false
  #bodyEnded = false
  #trailers = ''
  /** Takes the body too. */
  #copy: BodySink | null = null

  constructor(x: Exchange, upstream: Upstream, handler: SendHandler) {
    this.x = x
    this.upstream = upstream
    this.handler = handler
    this.method = x.request.method
    this.retry = handler.retry ?? upstream.retry
    this.upgrade = upstream.config.protocol === 'http1' && asksForWebSocket(x)
  }

  start(): void {
    const { x, upstream } = this
    x.upstream = upstream.name
    x.onAbort = () => this.#cancel()
    this.#deadlineMs = x.deadlineMs
    if (upstream.hashKey !== undefined) this.hashKey = upstream.hashKey(x)
    if (x.client.body !== null) this.#replay = []
    upstream.budget.onFirstTry(x.startedMs)
    if (this.handler.mirror !== undefined && !this.upgrade) this.#copy = this.handler.mirror.begin(x)
    this.#try(false)
    const { hedging } = upstream.config
    if (hedging !== undefined && !this.upgrade && this.#current !== null && x.client.body === null)
      this.#watchForHedge(hedging.after)
  }

  #try(fresh: boolean): void {
    const nowMs = performance.now()
    const { breaker } = this.upstream
    if (breaker !== null && !breaker.allow(nowMs)) {
      const waitSec = Math.max(1, Math.ceil(breaker.retryAfterMs(nowMs) / 1000))
      this.#give(new LocalReply('BREAKER_OPEN', { fields: `Retry-After: ${waitSec}\r\n` }))
      return
    }
    const next = new Try(this, breaker)
    const endpoint = this.#pick(next, nowMs)
    if (endpoint === undefined) {
      next.settle()
      this.#give(new LocalReply('NO_ENDPOINT', { fields: 'Retry-After: 1\r\n' }))
      return
    }
    this.#current = next
    next.start(endpoint, fresh && (this.#tried === null || this.#tried.includes(endpoint)), nowMs)
  }

  /** An endpoint whose own breaker lets the try through; with none left, one is chosen against its breaker (panic). */
  #pick(next: Try, nowMs: number): Endpoint | undefined {
    const { upstream } = this
    let tried = this.#tried
    for (;;) {
      const endpoint = upstream.pick(this.x, this, nowMs, tried, !this.#shed)
      if (endpoint === undefined || endpoint.breaker === null) return endpoint
      if (endpoint.breaker.allow(nowMs)) {
        next.passed(endpoint.breaker)
        return endpoint
      }
      if (upstream.balancer.panic || tried?.includes(endpoint)) return endpoint
      tried = [...(tried ?? []), endpoint]
    }
  }

  // The client's body on its way to the connection.

  /** The connection gets what was taken of the body, and then the rest. */
  feed(connection: Carrier): void {
    const { body } = this.x.client
    if (body === null) return
    connection.requestSource = body
    if (!this.#bodyTaken) {
      body.sink = this
      body.resume()
      return
    }
    for (const chunk of this.#replay ?? []) connection.write(chunk)
    if (this.#bodyEnded) connection.end(this.#trailers)
    else {
      connection.flush()
      body.resume()
    }
  }

  write(chunk: Uint8Array): boolean {
    this.#bodyTaken = true
    this.#copy?.write(chunk)
    const connection = this.#current?.via ?? null
    if (this.#replay !== null) this.#keep(chunk, connection)
    return connection === null ? false : connection.write(chunk)
  }

  /**
   * Kept while a second try may need it: up to a bound, and until bytes of a request that must not be repeated are on
   * their way. A gateway behind this one may refuse any request before its service has seen it. Between two tries
   * everything is kept: the next one needs it.
   */
  #keep(chunk: Uint8Array, connection: Carrier | null): void {
    this.#replayBytes += chunk.length
    if (connection !== null) {
      const once = connection.connected && !isIdempotent(this.method) && !this.upstream.config.slots
      if (once || this.#replayBytes > this.handler.replayBytes) {
        this.#replay = null
        return
      }
    }
    this.#replay!.push(Buffer.from(chunk))
  }

  end(received: string): void {
    const trailers = received === '' ? '' : this.handler.requestTrailers(received)
    this.#bodyTaken = true
    this.#bodyEnded = true
    this.#trailers = trailers
    this.#copy?.end(trailers)
    this.#current?.via?.end(trailers)
  }

  flush(): void {
    this.#current?.via?.flush()
  }

  /** The client's body broke off. The listener answers or closes. */
  abort(): void {
    this.#cancel()
  }

  get #bodyReplayable(): boolean {
    return this.x.client.body === null || !this.#bodyTaken || this.#replay !== null
  }

  /** The request has left as a whole: from here on the endpoint is being waited for, not the client. */
  get #bodyDone(): boolean {
    return this.x.client.body === null || this.#bodyEnded
  }

  // What tries report. Each has been learnt from already.

  answered(from: Try, head: MessageHead, length: number, shed: boolean, retryAfterMs: number): ResponseSink {
    const { x, upstream } = this
    const { status } = head
    if (status >= 400 && this.#isSecondBest(from, null, status, shed, retryAfterMs, length)) return NOWHERE
    this.#end(from)
    x.upstreamHeadMs = from.headMs
    x.endpoint = from.endpoint!.key
    const { sticky } = upstream
    const cookie = sticky === null || from.beside ? '' : sticky.bind(x.request.get('cookie'), from.endpoint!)
    this.#replay = null
    return this.handler.answered(x, head, length, cookie)
  }

  upgraded(from: Try, head: MessageHead, tunnel: Tunnel): ResponseSink {
    const { x, upstream } = this
    this.#end(from)
    x.upstreamHeadMs = from.headMs
    x.endpoint = from.endpoint!.key
    const cookie = upstream.sticky === null ? '' : upstream.sticky.bind(x.request.get('cookie'), from.endpoint!)
    const sink = this.handler.upgraded(x, head, tunnel, cookie)
    if (from.via !== null) from.via.requestSource = x.client.body
    return sink
  }

  failed(from: Try, failure: TryFailure, kind: FailureKind, detail: string): void {
    if (this.#isSecondBest(from, failure, 0, false, -1, -1)) return
    from.settle()
    this.#give(failureReply(kind, detail))
  }

  /** Once on a fresh connection, whatever `retry` says. */
  triedStale(from: Try): boolean {
    if (this.#staleRetried || !isIdempotent(this.method) || !this.#bodyReplayable) return false
    if (this.#other(from) !== null) return false
    this.#staleRetried = true
    from.settle()
    this.#current = null
    this.#tried = null
    this.x.attempts--
    this.#try(true)
    return true
  }

  /** One that none can follow goes on: its answer may still come. */
  expired(from: Try): void {
    if (!this.#bodyDone && from.sent) return
    if (this.#other(from) === null) {
      const delayMs = this.#retryDelay(from, 'timeout', 0, false, -1)
      if (delayMs < 0) return
      from.learnTimeout()
      from.cancel()
      this.#again(from, delayMs, false)
    } else {
      from.learnTimeout()
      from.cancel()
      this.#drop(from)
    }
  }

  /** True when another try answers in this one's place: the one beside it, or the next. */
  #isSecondBest(
    from: Try,
    failure: TryFailure | null,
    status: number,
    shed: boolean,
    retryAfterMs: number,
    length: number,
  ): boolean {
    if (this.#other(from) !== null) {
      if (failure === null && status < 500) return false
      from.letGo(this.#bodyDone ? length : -1)
      this.#drop(from)
      return true
    }
    const delayMs = this.#retryDelay(from, failure, status, shed, retryAfterMs)
    if (delayMs < 0) return false
    this.#shed = shed
    from.letGo(this.#bodyDone ? length : -1)
    this.#again(from, delayMs, failure !== null)
    return true
  }

  /** Milliseconds to wait before another try; -1: none. */
  #retryDelay(from: Try, failure: TryFailure | null, status: number, shed: boolean, retryAfterMs: number): number {
    const { upstream } = this
    const nowMs = performance.now()
    if (upstream.breaker !== null && !upstream.breaker.wouldAllow(nowMs)) return -1
    const { budget } = upstream
    const overBudget = budget.exhausted
    const delayMs = this.retry.next(
      {
        method: this.method,
        retries: this.#retries,
        failure,
        status,
        sent: from.sent,
        bodyReplayable: this.#bodyReplayable,
        shed,
        elsewhere: shed && upstream.hasOther(nowMs, [...(this.#tried ?? []), from.endpoint!]),
        retryAfterMs,
      },
      nowMs,
    )
    if (budget.exhausted > overBudget) upstream.metrics.add(SCALAR.retriesOverBudget)
    return delayMs
  }

  #again(from: Try, delayMs: number, fresh: boolean): void {
    this.#drop(from)
    this.#retries++
    this.upstream.metrics.add(SCALAR.retries)
    if (delayMs < 1) this.#try(fresh)
    else {
      clearTimeout(this.#timer)
      this.#timer = setTimeout(() => this.#try(fresh), delayMs)
    }
  }

  // Two tries at once.

  #watchForHedge(afterMs: number): void {
    if (this.method !== 'GET' && this.method !== 'HEAD') return
    this.#timer = setTimeout(() => this.#startHedge(), afterMs)
  }

  /** Nothing is risked for it: no breaker that is not closed, no endpoint against its state. */
  #startHedge(): void {
    const { upstream } = this
    const { breaker, budget } = upstream
    const first = this.#current
    if (first === null) return
    const nowMs = performance.now()
    if (breaker !== null && breaker.state !== 'closed') return
    const exclude = [...(this.#tried ?? []), first.endpoint!]
    const endpoint = upstream.hasOther(nowMs, exclude) ? upstream.pick(this.x, this, nowMs, exclude, false) : undefined
    if (endpoint === undefined || (endpoint.breaker !== null && endpoint.breaker.state !== 'closed')) return
    if (breaker !== null && !breaker.allow(nowMs)) return
    const second = new Try(this, breaker)
    second.beside = true
    if (!budget.tryRetry(nowMs) || endpoint.breaker?.allow(nowMs) === false) {
      second.settle()
      upstream.metrics.add(SCALAR.retriesOverBudget)
      return
    }
    if (endpoint.breaker !== null) second.passed(endpoint.breaker)
    upstream.metrics.add(SCALAR.retries)
    this.#hedge = second
    second.start(endpoint, false, nowMs)
  }

  #other(than: Try): Try | null {
    return this.#current === than ? this.#hedge : this.#current
  }

  /** A try is out of the race, and its endpoint is not the next one's. */
  #drop(from: Try): void {
    if (this.#tried === null) this.#tried = [from.endpoint!]
    else this.#tried.push(from.endpoint!)
    if (this.#current === from) {
      this.#current = this.#hedge
      this.#hedge = null
    } else if (this.#hedge === from) this.#hedge = null
  }

  /** One try has won: nothing else is waited for. */
  #end(winner: Try): void {
    clearTimeout(this.#timer)
    const other = this.#other(winner)
    if (other !== null) {
      other.learnLoss()
      other.cancel()
    }
    this.#current = winner
    this.#hedge = null
  }

  #give(reply: LocalReply): void {
    const { x } = this
    this.#current = this.#hedge = null
    clearTimeout(this.#timer)
    x.onAbort = null
    x.client.body?.cancel()
    if (!this.#bodyEnded) this.#copy?.abort()
    this.handler.failed(x, reply)
  }

  /** The client has left, or the time of the whole exchange is up: only then the endpoint is to blame. */
  #cancel(): void {
    clearTimeout(this.#timer)
    const { x } = this
    const late = this.#bodyDone && x.upstreamHeadMs === 0 && performance.now() >= this.#deadlineMs
    const first = this.#current
    const second = this.#hedge
    this.#current = this.#hedge = null
    for (const each of [first, second]) {
      if (each === null) continue
      if (late && each.sent) each.learnTimeout()
      each.cancel()
    }
    if (!this.#bodyEnded) this.#copy?.abort()
  }
}
