/**
 * Serves one exchange at an upstream: breaker, endpoint, connection, request, answer, and second tries where they are
 * safe, wanted and paid for. Hands the answer's head and body on as they come. Ends by itself when the client leaves.
 *
 * `Sending` is the exchange's side: the client's body, what was tried, what comes next. A `Try` is one request at one
 * endpoint. There is one at a time; with `hedging` a second may run beside the first, and the first answer wins.
 */

import type { BodySink, Exchange, ResponseSink, Tunnel } from '../exchange.ts'
import { asksForWebSocket } from '../http/upgrade.ts'
import { FIELD_ID } from '../http1/field-names.ts'
import { CHUNKED } from '../http1/framing.ts'
import type { MessageHead } from '../http1/message-head.ts'
import { LocalReply } from '../local-reply.ts'
import { SCALAR } from '../shared/metrics.ts'
import type { PickContext } from './balancers/balancer.ts'
import { parseSlots, parseSlotsCap, reportSlots, returnSlot, takeSlot } from './balancers/slots.ts'
import type { Breaker } from './breaker.ts'
import type { Attempt, Carrier, FailureKind } from './carrier.ts'
import type { Endpoint } from './endpoint.ts'
import type { Mirror } from './mirror.ts'
import { NOWHERE } from './nowhere.ts'
import { isEndpointFailure, type TryFailure } from './outlier.ts'
import type { EndpointPool, PoolWaiter } from './pool.ts'
import type { ProxyAddresses } from './proxy-header.ts'
import { isIdempotent, parseRetryAfter, type RetryPolicy } from './retry.ts'
import type { Upstream } from './upstream.ts'

/** What the pipeline does with what comes back. One object a route. */
export interface SendHandler {
  /** Start line and fields of the request for an endpoint, without framing. */
  requestText(x: Exchange, endpoint: Endpoint): string
  /** The final head. Returns where the body goes. @param length as in `ResponseSink.head` */
  answered(x: Exchange, head: MessageHead, length: number, extraFields: string): ResponseSink
  informational(x: Exchange, head: MessageHead): void
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

class Sending implements PickContext, BodySink {
  readonly x: Exchange
  readonly upstream: Upstream
  readonly handler: SendHandler
  readonly method: string
  readonly retry: RetryPolicy
  /** A WebSocket's handshake. */
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
    this.#try(false, performance.now())
    const { hedging } = upstream.config
    if (hedging !== undefined && !this.upgrade && this.#current !== null && x.client.body === null)
      this.#watchForHedge(hedging.after)
  }

  #try(fresh: boolean, nowMs: number): void {
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

  /** A try has its connection: it gets what was taken of the body, and then the rest. */
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

  /** A try has the final head. Returns where the body goes. */
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

  /** A try has its WebSocket: bytes of the client go there from now on. */
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

  /** A try ended without a head. */
  failed(from: Try, failure: TryFailure, kind: FailureKind, detail: string): void {
    if (this.#isSecondBest(from, failure, 0, false, -1, -1)) return
    from.settle()
    this.#give(failureReply(kind, detail))
  }

  /** The upstream closed a kept-alive connection just as it was used: once on a fresh one, whatever `retry` says. */
  triedStale(from: Try): boolean {
    if (this.#staleRetried || !isIdempotent(this.method) || !this.#bodyReplayable) return false
    if (this.#other(from) !== null) return false
    this.#staleRetried = true
    from.settle()
    this.#current = null
    this.#tried = null
    this.x.attempts--
    this.#try(true, performance.now())
    return true
  }

  /** A try takes too long. One that none can follow goes on: its answer may still come. */
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
    if (delayMs < 1) this.#try(fresh, performance.now())
    else {
      clearTimeout(this.#timer)
      this.#timer = setTimeout(() => this.#try(fresh, performance.now()), delayMs)
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

const DRAINED_BYTES = 16 * 1024

/** One request at one endpoint. Takes a place there, and gives it back by `settle()`, however it ends. */
class Try implements Attempt, PoolWaiter {
  readonly method: string
  endpoint: Endpoint | null = null
  /** The connection that serves it; null: it waits for one, or has ended. */
  via: Carrier | null = null
  waitedFromMs = 0
  /** It runs beside another. */
  beside = false
  readonly #sending: Sending
  /** Breakers that have let it through and are owed a result. */
  #breaker: Breaker | null
  readonly #breakerEpoch: number
  #endpointBreaker: Breaker | null = null
  #endpointEpoch = 0
  #sentMs = 0
  /** When its final head was complete. */
  headMs = 0
  #pool: EndpointPool | null = null
  #waiting = false
  #settled = true
  #released = false
  #timer: NodeJS.Timeout | undefined

  /** @param breaker has said yes */
  constructor(sending: Sending, breaker: Breaker | null) {
    this.#sending = sending
    this.method = sending.method
    this.#breaker = breaker
    this.#breakerEpoch = breaker === null ? 0 : breaker.epoch
  }

  /** The endpoint's own breaker has said yes. */
  passed(breaker: Breaker): void {
    this.#endpointBreaker = breaker
    this.#endpointEpoch = breaker.epoch
  }

  start(endpoint: Endpoint, fresh: boolean, nowMs: number): void {
    const { x, upstream, retry } = this.#sending
    this.endpoint = endpoint
    this.#settled = false
    endpoint.inFlight++
    if (upstream.config.slots) takeSlot(endpoint)
    x.endpoint = endpoint.key
    x.attempts++
    upstream.countRequest(endpoint)
    if (retry.perTryTimeoutMs > 0) this.#timer = setTimeout(() => this.#sending.expired(this), retry.perTryTimeoutMs)
    if (endpoint.connectFailures > 0) endpoint.holdBack(nowMs)
    this.#waiting = true
    this.#sentMs = nowMs
    const pool = (this.#pool = upstream.pool(endpoint))
    if (this.#sending.upgrade) pool.openTunnel(this)
    else if (fresh) pool.acquireFresh(this)
    else pool.acquire(this)
  }

  connection(connection: Carrier): void {
    const { x, upstream, handler } = this.#sending
    this.#waiting = false
    this.via = connection
    if (this.waitedFromMs > 0) {
      this.#sentMs = performance.now()
      upstream.countWait(this.#sentMs - this.waitedFromMs)
    }
    const { body } = x.client
    const length = body === null ? 0 : body.length === CHUNKED ? CHUNKED : body.length
    connection.send(this, handler.requestText(x, this.endpoint!), length)
    if (!connection.reused) upstream.metrics.add(SCALAR.poolConnects)
    if (body !== null) this.#sending.feed(connection)
  }

  /** What a PROXY header says: the client as the gateway sees it, and the port that it came to. */
  proxyAddresses(): ProxyAddresses {
    const { client, clientAddress } = this.#sending.x
    return {
      source: clientAddress,
      sourcePort: clientAddress === client.remoteAddress ? (client.remotePort ?? 0) : 0,
      destination: client.localAddress ?? '',
      destinationPort: client.listener.port,
    }
  }

  /** A byte of it may have reached the endpoint. */
  get sent(): boolean {
    return this.via?.connected ?? false
  }

  // What the connection reports.

  informational(head: MessageHead): void {
    this.#sending.handler.informational(this.#sending.x, head)
  }

  head(head: MessageHead, length: number): ResponseSink {
    clearTimeout(this.#timer)
    const { status } = head
    const nowMs = (this.headMs = performance.now())
    const shed = status === 503 && head.indexOf(FIELD_ID['fluxor-shed']) >= 0
    if (this.#sending.upstream.config.slots) {
      const field = head.value(FIELD_ID['fluxor-slots']) ?? ''
      const free = parseSlots(field)
      const { inFlight } = this.endpoint!
      // What was refused held no place there, yet gives one back here when it is settled.
      if (free >= 0 && !shed) reportSlots(this.endpoint!, free, nowMs, parseSlotsCap(field), inFlight)
      else if (free >= 0) reportSlots(this.endpoint!, free - 1, nowMs, parseSlotsCap(field), inFlight - 1)
    }
    const retryAfterMs = status >= 400 ? parseRetryAfter(head.value(FIELD_ID['retry-after']), Date.now()) : -1
    this.#learn(null, status, shed, retryAfterMs, nowMs)
    return this.#sending.answered(this, head, length, shed, retryAfterMs)
  }

  upgraded(head: MessageHead, tunnel: Tunnel): ResponseSink {
    clearTimeout(this.#timer)
    this.headMs = performance.now()
    this.#learn(null, head.status, false, -1, this.headMs)
    return this.#sending.upgraded(this, head, tunnel)
  }

  failed(kind: FailureKind, detail: string): void {
    clearTimeout(this.#timer)
    if (kind === 'reset' && this.via!.reused && this.#sending.triedStale(this)) return
    this.#sending.upstream.countError(kind, detail)
    const failure: TryFailure = kind === 'connect' || kind === 'connectTimeout' ? 'connectError' : kind
    this.#learn(failure, 0, false, -1, performance.now())
    this.#sending.failed(this, failure, kind, detail)
  }

  broken(kind: FailureKind, detail: string): void {
    if (this.#released) return
    this.#sending.upstream.countError(kind, detail)
    this.#sending.x.reply = failureReply(kind, detail)
    this.settle()
  }

  done(): void {
    if (this.#released) return
    this.settle()
    this.#sending.x.onAbort = null
  }

  // What becomes of it.

  #learn(failure: TryFailure | null, status: number, shed: boolean, retryAfterMs: number, nowMs: number): void {
    const sentMs = this.#sentMs
    const latencyMs = nowMs - sentMs
    const failed = isEndpointFailure(failure, status, shed)
    this.#sending.upstream.learn(
      this.endpoint!,
      { failed, unconnected: failure === 'connectError', shed, latencyMs, retryAfterMs, sentMs },
      nowMs,
    )
    if (shed) return // a full house says nothing; `settle` tells the breakers so
    this.#breaker?.onResult(!failed, latencyMs, nowMs, this.#breakerEpoch)
    this.#endpointBreaker?.onResult(!failed, latencyMs, nowMs, this.#endpointEpoch)
    this.#breaker = this.#endpointBreaker = null
  }

  /** Given up on, because no head came in time. Waiting for a connection is not the endpoint's silence. */
  learnTimeout(): void {
    if (this.via === null) return
    this.#sending.upstream.countError('timeout', '')
    this.#learn('timeout', 0, false, -1, performance.now())
  }

  /** Another answered first: all that is known is that this one takes at least so long. */
  learnLoss(): void {
    const nowMs = performance.now()
    if (this.via !== null) this.#sending.upstream.learnSlow(this.endpoint!, nowMs - this.#sentMs, nowMs)
  }

  /**
   * Another try answers in its place. A short answer is read to its end, so that its connection can be used again.
   * @param length of its body; -1: not known, or it must not go on
   */
  letGo(length: number): void {
    if (length < 0 || length > DRAINED_BYTES) {
      this.cancel()
      return
    }
    this.#released = true
    this.via = null
    this.settle()
  }

  /** Nobody waits for it any more. */
  cancel(): void {
    const { via } = this
    const { upstream } = this.#sending
    this.via = null
    if (this.#waiting) {
      this.#waiting = false
      this.#pool!.leave(this)
      if (this.waitedFromMs > 0) upstream.countWait(performance.now() - this.waitedFromMs)
    }
    via?.cancel()
    this.settle()
  }

  /** The endpoint no longer carries it. */
  settle(): void {
    clearTimeout(this.#timer)
    this.#breaker?.onCancel(this.#breakerEpoch)
    this.#endpointBreaker?.onCancel(this.#endpointEpoch)
    this.#breaker = this.#endpointBreaker = null
    if (this.#settled) return
    this.#settled = true
    this.endpoint!.inFlight--
    if (this.#sending.upstream.config.slots) returnSlot(this.endpoint!)
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
