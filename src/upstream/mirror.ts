/**
 * `mirror`: a sample of a route's requests goes to a second upstream too, and what that answers is dropped. The copy has
 * its own time and its own bound, takes no place of admission, is never tried again, and nothing that becomes of it
 * reaches the client. Its body is kept until it is complete, so that a copy is whole or is not sent.
 *
 * A copy is made when the exchange is sent upstream, and outlives it.
 */

import type { BodySink, Exchange, ResponseSink } from '../exchange.ts'
import { FIELD_ID } from '../http1/field-names.ts'
import type { MessageHead } from '../http1/message-head.ts'
import { SCALAR } from '../shared/metrics.ts'
import type { PickContext } from './balancers/balancer.ts'
import type { Attempt, Carrier, FailureKind } from './carrier.ts'
import type { MirrorConfig } from './config.ts'
import type { Endpoint } from './endpoint.ts'
import { NOWHERE } from './nowhere.ts'
import { isEndpointFailure, type TryFailure } from './outlier.ts'
import type { EndpointPool, PoolWaiter } from './pool.ts'
import type { Upstream } from './upstream.ts'

/** Copies that are under way in this thread. */
interface Counter {
  count: number
}

export class Mirror {
  readonly #upstream: Upstream
  readonly #config: MirrorConfig
  readonly #max: number
  readonly #requestText: (x: Exchange, endpoint: Endpoint) => string
  readonly #random: () => number
  readonly #underWay: Counter = { count: 0 }

  /** @param requestText start line and fields for an endpoint of `upstream` @param threads share the bound */
  constructor(
    upstream: Upstream,
    config: MirrorConfig,
    requestText: (x: Exchange, endpoint: Endpoint) => string,
    threads: number,
    random: () => number = Math.random,
  ) {
    this.#upstream = upstream
    this.#config = config
    this.#requestText = requestText
    this.#max = Math.ceil(config.maxInFlight / threads)
    this.#random = random
  }

  /** Copies the exchange, or does not. Returns who must be given its body; null: nobody. */
  begin(x: Exchange): BodySink | null {
    const { percent, bodyBytes, timeout } = this.#config
    const { body } = x.client
    if (percent < 100 && this.#random() * 100 >= percent) return null
    if (this.#underWay.count >= this.#max || (body !== null && body.length > bodyBytes)) return null
    const nowMs = performance.now()
    const upstream = this.#upstream
    if (upstream.breaker !== null && upstream.breaker.state !== 'closed') return null
    const endpoint = upstream.balancer.pick(upstream.endpoints, NO_KEY, nowMs)
    if (endpoint === undefined) return null
    const copy = new Copy(
      x.request.method,
      upstream,
      endpoint,
      this.#requestText(x, endpoint),
      bodyBytes,
      this.#underWay,
    )
    copy.expireIn(timeout)
    if (body === null) copy.end('')
    return body === null ? null : copy
  }
}

const NO_KEY: PickContext = { hashKey: '' }

class Copy implements BodySink, PoolWaiter, Attempt {
  readonly method: string
  waitedFromMs = 0
  readonly #upstream: Upstream
  readonly #endpoint: Endpoint
  readonly #text: string
  readonly #maxBytes: number
  readonly #underWay: Counter
  #body: Buffer[] = []
  #bytes = 0
  #timer: NodeJS.Timeout | undefined
  #pool: EndpointPool | null = null
  #via: Carrier | null = null
  #sentMs = 0
  #ended = false

  constructor(
    method: string,
    upstream: Upstream,
    endpoint: Endpoint,
    text: string,
    maxBytes: number,
    underWay: Counter,
  ) {
    this.method = method
    this.#upstream = upstream
    this.#endpoint = endpoint
    this.#text = text
    this.#maxBytes = maxBytes
    this.#underWay = underWay
    underWay.count++
    endpoint.inFlight++
  }

  expireIn(timeoutMs: number): void {
    if (timeoutMs > 0) this.#timer = setTimeout(() => this.#expire(), timeoutMs)
  }

  // The request's body.

  write(chunk: Uint8Array): boolean {
    if (this.#ended) return true
    this.#bytes += chunk.length
    if (this.#bytes > this.#maxBytes) this.#end()
    else this.#body.push(Buffer.from(chunk))
    return true
  }

  /** The request is whole. Its trailers are not copied. */
  end(_trailers: string): void {
    if (this.#ended || this.#pool !== null) return
    this.#upstream.countRequest(this.#endpoint)
    this.#pool = this.#upstream.pool(this.#endpoint)
    this.#pool.acquire(this)
  }

  /** The request broke off. */
  abort(): void {
    this.#end()
  }

  flush(): void {}

  connection(connection: Carrier): void {
    this.#via = connection
    this.#sentMs = performance.now()
    connection.send(this, this.#text, this.#bytes)
    if (!connection.reused) this.#upstream.metrics.add(SCALAR.poolConnects)
    if (this.#bytes === 0) return
    for (const chunk of this.#body) connection.write(chunk)
    connection.end('')
    this.#body = []
  }

  // The answer.

  informational(): void {}

  head(head: MessageHead): ResponseSink {
    const shed = head.status === 503 && head.indexOf(FIELD_ID['fluxor-shed']) >= 0
    this.#learn(null, head.status, shed)
    return NOWHERE
  }

  failed(kind: FailureKind, detail: string): void {
    this.#upstream.countError(kind, detail)
    this.#learn(kind === 'connect' || kind === 'connectTimeout' ? 'connectError' : kind, 0, false)
    this.#end()
  }

  broken(kind: FailureKind, detail: string): void {
    this.#upstream.countError(kind, detail)
    this.#end()
  }

  done(): void {
    this.#via = null
    this.#end()
  }

  #learn(failure: TryFailure | null, status: number, shed: boolean): void {
    const nowMs = performance.now()
    const failed = isEndpointFailure(failure, status, shed)
    const unconnected = failure === 'connectError'
    const result = {
      failed,
      unconnected,
      shed,
      latencyMs: nowMs - this.#sentMs,
      retryAfterMs: -1,
      sentMs: this.#sentMs,
    }
    this.#upstream.learn(this.#endpoint, result, nowMs)
  }

  #expire(): void {
    if (this.#via !== null) this.#upstream.countError('timeout', '')
    this.#end()
  }

  #end(): void {
    if (this.#ended) return
    this.#ended = true
    clearTimeout(this.#timer)
    this.#body = []
    this.#underWay.count--
    this.#endpoint.inFlight--
    const via = this.#via
    this.#via = null
    if (via !== null) via.cancel()
    else this.#pool?.leave(this)
  }
}
