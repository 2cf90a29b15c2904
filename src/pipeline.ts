/**
 * THE LIFE OF A REQUEST on its route, from the head that a listener has read to the answer. `compileRoute` puts together,
 * once, only what the route uses; a request then runs from gate to gate without waiting, unless a gate really waits.
 */

import { ANSWERED, answer, fail, type Gate, type GateResult, ownFields, type RouteHandler, refuse } from './answer.ts'
import { compileBuiltin } from './builtin/builtin.ts'
import type { RouteConfig } from './config/schema.ts'
import type { Exchange, FinishHook, ResponseSink } from './exchange.ts'
import { withoutFields } from './http/field-lines.ts'
import { type ForwardOptions, requestHead, responseFields, setsOwn } from './http/forward.ts'
import { grpcTimeoutMs, isGrpc } from './http/grpc.ts'
import { asksForWebSocket } from './http/upgrade.ts'
import { FIELD_ID } from './http1/field-names.ts'
import type { MessageHead } from './http1/message-head.ts'
import { httpDate } from './http1/status-line.ts'
import type { LocalReply } from './local-reply.ts'
import { finalStatus } from './observability/access-log.ts'
import { type Admission, compileAdmission, toStream } from './policies/admission/policy.ts'
import { compileIdentity } from './policies/auth/policy.ts'
import type { CacheRouteConfig } from './policies/cache/config.ts'
import { fillOf } from './policies/cache/fill.ts'
import { type CacheVerdict, compileCache, compileInvalidation, type RouteCache } from './policies/cache/policy.ts'
import { compilePurgeMethod } from './policies/cache/purge-method.ts'
import { type Compression, compileCompression } from './policies/compression/policy.ts'
import { compileRequestDecoding } from './policies/compression/requests.ts'
import { compileCors } from './policies/cors/policy.ts'
import { compileHeaders, compileSecurityHeaders } from './policies/headers/policy.ts'
import { compileIp } from './policies/ip/policy.ts'
import { compileRateLimits } from './policies/rate-limit/policy.ts'
import { compileRewrite } from './routing/rewrite.ts'
import type { Services } from './services.ts'
import { methodId, NO_ROUTE_ID } from './shared/metrics.ts'
import { isEventStream } from './upstream/carrier.ts'
import type { Endpoint } from './upstream/endpoint.ts'
import { compileFaults } from './upstream/faults.ts'
import { Mirror } from './upstream/mirror.ts'
import { type SendHandler, send } from './upstream/send.ts'
import { compileSplit } from './upstream/split.ts'
import type { Upstream } from './upstream/upstream.ts'

export interface RouteContext {
  readonly services: Services
  readonly forward: ForwardOptions
  /** How the route that takes a GET of the same URL caches. */
  readonly cachedBy: (x: Exchange) => CacheRouteConfig | undefined
}

export function compileRoute(config: RouteConfig, context: RouteContext): RouteHandler {
  const { services } = context
  const forwarding = config.upstream !== undefined || config.split !== undefined
  const timeoutMs = config.timeout
  const finished = compileFinished(services, services.metrics.routeId(config.name))
  const limits = compileRateLimits(config.rateLimit, services.config.rateLimits, services.rateLimitDeps(config.name))
  const identity = compileIdentity(config, services.config.identity, services.keySets)
  const admission = forwarding ? compileAdmission(config, services.admissionDeps(config)) : undefined
  const compression = compileCompression(config.compression, services.config.compression)
  const responseDrop = droppedFromAnswers(config)

  const serve = forwarding
    ? compileForwarding(config, context, {
        admission: admission!,
        compression,
        responseDrop,
        passed: (x, head, fields) => passed?.(x, head.status, fields),
      })
    : compileBuiltin(config, services)
  const afterCache = gatesOf(
    admission?.gate, // a hit takes no place
    forwarding ? compileRequestDecoding(config.compression, services.config.compression, refuse) : undefined, // only for what was let in
  )
  const cache =
    config.cache === undefined || services.cache === undefined
      ? undefined
      : compileCache(config.cache, services.cache, {
          identified: identity !== undefined,
          apart: config.match.headers === undefined && config.match.query === undefined ? undefined : config.name,
          encoder: compression,
          host: { forward: (x) => run(x, afterCache, 0), refuse, ownFields, responseDrop },
        })

  const passed =
    cache?.passed ?? (services.cache === undefined ? undefined : compileInvalidation(services.cache, context.cachedBy))

  const gates = gatesOf(
    services.tracer?.begin, // whatever becomes of it, its trace begins here
    compilePreparation(config, context.forward.names), // what every answer carries; preflights, which bring no credentials, are answered here
    compileIp(config), // who may not come in at all costs least
    cache && compilePurge(config, services, cache), // an operator's order, by address: no limit, no token
    limits?.beforeIdentity, // a flood pays for no token check
    // Certain to be refused: before tokens are checked for nothing.
    cache === undefined && (identity !== undefined || limits?.afterIdentity !== undefined)
      ? admission?.fullLook
      : undefined,
    identity?.gate, // who: limits, cache keys and tiers ask
    limits?.afterIdentity, // how often, per subject; hits count too
    cache && ((x) => (asksForWebSocket(x) ? undefined : cacheVerdict(cache.gate(x)))), // a stored answer opens no door that the token would not
    ...afterCache,
  )

  const run = (x: Exchange, steps: readonly Gate[], from: number): void => {
    try {
      for (let i = from; i < steps.length; i++) {
        const result = steps[i]!(x)
        if (result === undefined) continue
        if (result instanceof Promise) {
          result.then(
            (later) => {
              if (x.finished) return
              if (later === undefined) run(x, steps, i + 1)
              else if (later !== ANSWERED) refuse(x, later)
            },
            (error: unknown) => fail(x, error, services),
          )
          return
        }
        if (result !== ANSWERED) refuse(x, result)
        return
      }
      serve(x)
    } catch (error) {
      fail(x, error, services)
    }
  }

  return (x) => {
    x.onFinish(finished)
    if (timeoutMs > 0) x.deadlineMs = x.startedMs + timeoutMs
    if (x.request.indexOf(FIELD_ID['grpc-timeout']) >= 0) {
      x.deadlineMs = Math.min(x.deadlineMs, x.startedMs + (grpcTimeoutMs(x.request) ?? Number.POSITIVE_INFINITY))
    }
    run(x, gates, 0)
  }
}

function gatesOf(...gates: (Gate | undefined)[]): readonly Gate[] {
  return gates.filter((gate) => gate !== undefined)
}

/** PURGE of a cached route. */
function compilePurge(config: RouteConfig, services: Services, { urlOf }: RouteCache): Gate | undefined {
  const gate = compilePurgeMethod(services.config.cache?.purgeFrom, config.match.methods, {
    urlOf,
    purge: (url) => services.purge({ urls: [url] }, 'all'),
    answer: (x, purged) => answer(x, 200, 'Content-Type: application/json\r\n', `{"purged":${purged}}`),
    fail: (x, error) => fail(x, error, services),
  })
  return gate && ((x) => cacheVerdict(gate(x) ?? 'pass'))
}

function cacheVerdict(verdict: CacheVerdict | LocalReply): GateResult {
  return verdict === 'pass' ? undefined : verdict === 'taken' ? ANSWERED : verdict
}

/** Headers, security headers and CORS of a route; undefined when it has none of them. */
function compilePreparation(config: RouteConfig, reserved: ReadonlySet<string> | null): Gate | undefined {
  const cors = config.cors === undefined ? undefined : compileCors(config.cors)
  const headers = compileHeaders(config.headers, reserved ?? undefined)
  const security = compileSecurityHeaders(config.securityHeaders)
  if (cors === undefined && headers === undefined && security === undefined) return undefined
  return (x) => {
    if (security) x.responseFields += security.fields(x.client.listener.secure)
    if (headers) {
      x.responseFields += headers.responseFields
      headers.applyRequest?.(x)
    }
    if (!cors) return undefined
    const preflight = cors.preflight(x)
    if (preflight) return answer(x, preflight.status, preflight.fields, '')
    x.responseFields += cors.fields(x)
    return undefined
  }
}

/** What happens to an upstream's answer on its way. */
interface WayBack {
  readonly admission: Admission
  readonly compression: Compression | undefined
  readonly responseDrop: ReadonlySet<string> | null
  /** An answer that does not come from the cache's own fetch, before the client has it. */
  readonly passed: (x: Exchange, head: MessageHead, fields: string) => void
}

/** From admission to the client: choose an upstream, send, hand the answer on. */
function compileForwarding(config: RouteConfig, context: RouteContext, back: WayBack): RouteHandler {
  const { services } = context
  const parts = (config.split ?? [{ upstream: config.upstream!, weight: 1 }]).map(({ upstream, weight }) => {
    return { name: upstream, weight, target: services.upstreams.get(upstream)! }
  })
  const chooseUpstream = compileSplit(parts, config.splitBy, config.name)
  const rewrite = compileRewrite(config)
  const { admission, compression, responseDrop, passed } = back

  const answered = (x: Exchange, head: MessageHead, length: number, extraFields: string): ResponseSink => {
    if (isEventStream(head)) becomesStream(x)
    else if (isGrpc(x.request)) x.deadlineMs = grpcDeadline(x)
    x.status = head.status
    if (fillOf(x) !== undefined) {
      // What the cache fetches for itself is stored as received; each client's answer is made of it.
      x.client.head(head.status, responseFields(head, null) + dateIfMissing(head), length)
      return x.client
    }
    const fields = responseFields(head, responseDrop) + extraFields + dateIfMissing(head)
    passed(x, head, fields)
    const sink = compression === undefined ? x.client : compression.wrap(x, x.client)
    sink.head(head.status, fields + ownFields(x) + admission.answerFields(), length)
    return sink
  }

  const upgraded: SendHandler['upgraded'] = (x, head, tunnel, extraFields) => {
    becomesStream(x)
    x.status = head.status
    x.client.upgrade!(responseFields(head, responseDrop) + extraFields + ownFields(x), tunnel)
    return x.client
  }

  const requestTextFor = (upstream: Upstream) => {
    const forward = forwardOptions(config, upstream, context.forward, services)
    return (x: Exchange, endpoint: Endpoint) =>
      requestHead(x, rewrite === undefined ? x.path : rewrite(x.path), endpoint.authority, forward)
  }
  const copies = config.mirror === undefined ? undefined : services.upstreams.get(config.mirror.upstream)!
  const mirror =
    copies === undefined ? undefined : new Mirror(copies, config.mirror!, requestTextFor(copies), services.info.threads)

  const { names } = forwardOptions(config, parts[0]!.target, context.forward, services)
  const requestTrailers = (trailers: string) =>
    names === null ? trailers : withoutFields(trailers, (name) => names.has(name))

  const handlers = new Map<Upstream, SendHandler>()
  for (const { target: upstream } of parts) {
    const retryConfig = config.retry ?? upstream.config.retry
    handlers.set(upstream, {
      retry: config.retry === undefined ? undefined : upstream.compileRetry(config.retry),
      replayBytes: retryConfig.attempts > 0 ? retryConfig.bodyBytes : 0,
      requestText: requestTextFor(upstream),
      mirror,
      answered,
      informational: (x: Exchange, head: MessageHead) =>
        x.client.informational(head.status, responseFields(head, null)),
      requestTrailers,
      upgraded,
      failed: refuse,
    })
  }
  const forward: RouteHandler = (x) => {
    const upstream = chooseUpstream(x)
    send(x, upstream, handlers.get(upstream)!)
  }
  if (config.faults === undefined) return forward
  const fault = compileFaults(config.faults)
  return (x) => fault(x, forward, refuse)
}

/** How a route's requests are written for an upstream. @param base what holds for all routes */
export function forwardOptions(
  config: RouteConfig,
  upstream: Upstream,
  base: ForwardOptions,
  services: Services,
): ForwardOptions {
  const traced = services.tracer !== undefined // whose span it is then, see tracing.ts
  const own = [...(compileHeaders(config.headers)?.requestDrop ?? []), ...(traced ? ['traceparent'] : [])]
  return {
    ...base,
    host: upstream.config.host ?? '',
    startTrace: base.startTrace && !traced,
    names: base.names === null && own.length === 0 ? null : new Set([...(base.names ?? []), ...own]),
    setsOwn: base.setsOwn || setsOwn(own),
  }
}

/** What the gateway says of limits is its own: an upstream's would contradict it. */
const LIMIT_FIELDS = [
  'ratelimit',
  'ratelimit-policy',
  'x-ratelimit-limit',
  'x-ratelimit-remaining',
  'x-ratelimit-reset',
]

/** Names that the route replaces in the upstream's answers; null: none. */
function droppedFromAnswers(config: RouteConfig): ReadonlySet<string> | null {
  const names = new Set([
    ...(config.rateLimit === undefined ? [] : LIMIT_FIELDS),
    ...(compileHeaders(config.headers)?.responseDrop ?? []),
    ...(compileSecurityHeaders(config.securityHeaders)?.responseDrop ?? []),
    ...(config.cors === undefined ? [] : compileCors(config.cors).responseDrop),
  ])
  return names.size === 0 ? null : names
}

/** RFC 9110 §6.6.1: who has a clock adds the Date that an answer lacks. */
function dateIfMissing(head: MessageHead): string {
  return head.indexOf(FIELD_ID.date) >= 0 ? '' : `Date: ${httpDate()}\r\n`
}

/** A long stream ends when it ends, and leaves its place to others. */
function becomesStream(x: Exchange): void {
  x.deadlineMs = Number.POSITIVE_INFINITY
  leavePlace(x)
}

/** Moves the exchange to the pool of long streams, where that has room. */
export function leavePlace(x: Exchange): void {
  toStream(x)
}

/** A gRPC call may stream: what it says of its own time holds, the route's timeout up to the head alone. */
function grpcDeadline(x: Exchange): number {
  const timeoutMs = grpcTimeoutMs(x.request)
  return timeoutMs === undefined ? Number.POSITIVE_INFINITY : x.startedMs + timeoutMs
}

/** What is counted and logged when an exchange ends. */
export function compileFinished(services: Services, routeId: number = NO_ROUTE_ID): FinishHook {
  const { metrics } = services
  return (outcome, x) => {
    const nowMs = performance.now()
    const { request, client, reply } = x
    const requestBytes = client.body?.received ?? 0
    metrics.count(
      routeId,
      methodId(request.method),
      finalStatus(x, outcome),
      nowMs - x.startedMs,
      requestBytes,
      client.bytesSent,
      x.queuedMs,
      nowMs,
    )
    metrics.user(x.identity === undefined ? x.clientAddress : x.identity.subject, nowMs)
    if (x.cacheStatus !== '') metrics.cacheOutcome(x.cacheStatus)
    if (reply !== undefined) metrics.localReply(reply.code, reply.reason)
    services.accessLog?.(x, outcome, nowMs)
    services.tracer?.end(x, outcome, nowMs)
  }
}
