/**
 * One request at one endpoint: takes a place there, waits for a connection, sends, and reads what the answer's head says of
 * the endpoint. Balancer, breakers and figures learn from that before its owner, the exchange's side (send.ts), hears of it
 * and decides what comes next; a connection that had gone stale teaches nothing.
 */

import type { Exchange, ResponseSink, Tunnel } from '../exchange.ts'
import { FIELD_ID } from '../http1/field-names.ts'
import { CHUNKED } from '../http1/framing.ts'
import type { MessageHead } from '../http1/message-head.ts'
import { LocalReply } from '../local-reply.ts'
import { SCALAR } from '../shared/metrics.ts'
import { parseSlots, parseSlotsCap, reportSlots, returnSlot, takeSlot } from './balancers/slots.ts'
import type { Breaker } from './breaker.ts'
import type { Attempt, Carrier, FailureKind } from './carrier.ts'
import type { Endpoint } from './endpoint.ts'
import { isEndpointFailure, type TryFailure } from './outlier.ts'
import type { EndpointPool, PoolWaiter } from './pool.ts'
import type { ProxyAddresses } from './proxy-header.ts'
import { parseRetryAfter, type RetryPolicy } from './retry.ts'
import type { Upstream } from './upstream.ts'

/** What a try needs of the pipeline. */
export interface TryHandler {
  /** Start line and fields of the request for an endpoint, without framing. */
  requestText(x: Exchange, endpoint: Endpoint): string
  informational(x: Exchange, head: MessageHead): void
}

/** Whose request it is, and who hears what becomes of a try. */
export interface TryOwner {
  readonly x: Exchange
  readonly upstream: Upstream
  readonly handler: TryHandler
  readonly method: string
  readonly retry: Pick<RetryPolicy, 'perTryTimeoutMs'>
  /** A WebSocket's handshake. */
  readonly upgrade: boolean
  /** A try has its connection, which waits for the body. */
  feed(connection: Carrier): void
  /** A try has the final head. Returns where the body goes. */
  answered(from: Try, head: MessageHead, length: number, shed: boolean, retryAfterMs: number): ResponseSink
  /** A try has its WebSocket: bytes of the client go there from now on. */
  upgraded(from: Try, head: MessageHead, tunnel: Tunnel): ResponseSink
  /** A try ended without a head. */
  failed(from: Try, failure: TryFailure, kind: FailureKind, detail: string): void
  /** The upstream closed a kept-alive connection just as it was used. True: another try runs in this one's place. */
  triedStale(from: Try): boolean
  /** A try takes longer than `perTryTimeout`. */
  expired(from: Try): void
}

/** An answer up to this size is read to its end when nobody wants it; a longer one costs its connection. */
const DRAINED_BYTES = 16 * 1024

/** One request at one endpoint. Takes a place there, and gives it back by `settle()`, however it ends. */
export class Try implements Attempt, PoolWaiter {
  readonly method: string
  endpoint: Endpoint | null = null
  /** The connection that serves it; null: it waits for one, or has ended. */
  via: Carrier | null = null
  waitedFromMs = 0
  /** It runs beside another. */
  beside = false
  readonly #owner: TryOwner
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
  constructor(owner: TryOwner, breaker: Breaker | null) {
    this.#owner = owner
    this.method = owner.method
    this.#breaker = breaker
    this.#breakerEpoch = breaker === null ? 0 : breaker.epoch
  }

  /** The endpoint's own breaker has said yes. */
  passed(breaker: Breaker): void {
    this.#endpointBreaker = breaker
    this.#endpointEpoch = breaker.epoch
  }

  start(endpoint: Endpoint, fresh: boolean, nowMs: number): void {
    const { x, upstream, retry } = this.#owner
    this.endpoint = endpoint
    this.#settled = false
    endpoint.inFlight++
    if (upstream.config.slots) takeSlot(endpoint)
    x.endpoint = endpoint.key
    x.attempts++
    upstream.countRequest(endpoint)
    if (retry.perTryTimeoutMs > 0) this.#timer = setTimeout(() => this.#owner.expired(this), retry.perTryTimeoutMs)
    if (endpoint.connectFailures > 0) endpoint.holdBack(nowMs)
    this.#waiting = true
    this.#sentMs = nowMs
    const pool = (this.#pool = upstream.pool(endpoint))
    if (this.#owner.upgrade) pool.openTunnel(this)
    else if (fresh) pool.acquireFresh(this)
    else pool.acquire(this)
  }

  connection(connection: Carrier): void {
    const { x, upstream, handler } = this.#owner
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
    if (body !== null) this.#owner.feed(connection)
  }

  /** What a PROXY header says: the client as the gateway sees it, and the port that it came to. */
  proxyAddresses(): ProxyAddresses {
    const { client, clientAddress } = this.#owner.x
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
    this.#owner.handler.informational(this.#owner.x, head)
  }

  head(head: MessageHead, length: number): ResponseSink {
    clearTimeout(this.#timer)
    const { status } = head
    const nowMs = (this.headMs = performance.now())
    const shed = status === 503 && head.indexOf(FIELD_ID['fluxor-shed']) >= 0
    if (this.#owner.upstream.config.slots) {
      const field = head.value(FIELD_ID['fluxor-slots']) ?? ''
      const free = parseSlots(field)
      const { inFlight } = this.endpoint!
      // What was refused held no place there, yet gives one back here when it is settled.
      if (free >= 0 && !shed) reportSlots(this.endpoint!, free, nowMs, parseSlotsCap(field), inFlight)
      else if (free >= 0) reportSlots(this.endpoint!, free - 1, nowMs, parseSlotsCap(field), inFlight - 1)
    }
    const retryAfterMs = status >= 400 ? parseRetryAfter(head.value(FIELD_ID['retry-after']), Date.now()) : -1
    this.#learn(null, status, shed, retryAfterMs, nowMs)
    return this.#owner.answered(this, head, length, shed, retryAfterMs)
  }

  upgraded(head: MessageHead, tunnel: Tunnel): ResponseSink {
    clearTimeout(this.#timer)
    this.headMs = performance.now()
    this.#learn(null, head.status, false, -1, this.headMs)
    return this.#owner.upgraded(this, head, tunnel)
  }

  failed(kind: FailureKind, detail: string): void {
    clearTimeout(this.#timer)
    if (kind === 'reset' && this.via!.reused && this.#owner.triedStale(this)) return
    this.#owner.upstream.countError(kind, detail)
    const failure: TryFailure = kind === 'connect' || kind === 'connectTimeout' ? 'connectError' : kind
    this.#learn(failure, 0, false, -1, performance.now())
    this.#owner.failed(this, failure, kind, detail)
  }

  broken(kind: FailureKind, detail: string): void {
    if (this.#released) return
    this.#owner.upstream.countError(kind, detail)
    this.#owner.x.reply = failureReply(kind, detail)
    this.settle()
  }

  done(): void {
    if (this.#released) return
    this.settle()
    this.#owner.x.onAbort = null
  }

  // What becomes of it.

  #learn(failure: TryFailure | null, status: number, shed: boolean, retryAfterMs: number, nowMs: number): void {
    const sentMs = this.#sentMs
    const latencyMs = nowMs - sentMs
    const failed = isEndpointFailure(failure, status, shed)
    this.#owner.upstream.learn(
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
    this.#owner.upstream.countError('timeout', '')
    this.#learn('timeout', 0, false, -1, performance.now())
  }

  /** Another answered first: all that is known is that this one takes at least so long. */
  learnLoss(): void {
    const nowMs = performance.now()
    if (this.via !== null) this.#owner.upstream.learnSlow(this.endpoint!, nowMs - this.#sentMs, nowMs)
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
    const { upstream } = this.#owner
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
    if (this.#owner.upstream.config.slots) returnSlot(this.endpoint!)
  }
}

/** What the client is told when no other try follows; of an answer that broke off only the log tells it. */
export function failureReply(kind: FailureKind, detail: string): LocalReply {
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
