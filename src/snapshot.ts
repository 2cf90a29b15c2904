/**
 * A checked config, compiled: the router and one handler a route, immutable. A reload builds the next one and swaps one
 * reference; exchanges that run keep theirs.
 */

import { answer, fail, type RouteHandler, refuse } from './answer.ts'
import type { Config, RouteConfig } from './config/schema.ts'
import type { Exchange } from './exchange.ts'
import { compileTrustedProxies, type TrustedProxies } from './http/client-address.ts'
import { cameSecurely, type ForwardOptions, setsOwn } from './http/forward.ts'
import { normalisePath } from './http/path.ts'
import { FIELD_ID } from './http1/field-names.ts'
import type { RequestFrame } from './http1/framing.ts'
import type { HeadError, HeadLimits } from './http1/message-head.ts'
import type { ClientTimeouts } from './listener/connection.ts'
import { LocalReply, type LocalReplyCode } from './local-reply.ts'
import { compileFinished, compileRoute, leavePlace } from './pipeline.ts'
import { type RouteMatch, Router } from './routing/router.ts'
import type { Services } from './services.ts'

export interface Route {
  readonly name: string
  readonly match: RouteConfig['match']
  readonly config: RouteConfig
  readonly handle: RouteHandler
}

/** What a listener tells about a request that never became one. */
export type Refusal = HeadError | 'headerTimeout' | 'bodyTimeout' | 'bodyTooLarge' | 'badBody'

const NO_ROUTE = new LocalReply('NO_ROUTE')
const TIMEOUT = new LocalReply('TIMEOUT')
const TRACE = new LocalReply('METHOD', {
  detail: 'TRACE is not answered here',
  fields: 'Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n',
})
const BAD_PATH = new LocalReply('BAD_REQUEST', {
  reason: 'PATH',
  detail: 'the path has a spelling that servers read differently',
})
const REQUEST_ID = /^[A-Za-z0-9._-]{1,128}$/

export class Snapshot {
  readonly config: Config
  readonly limits: HeadLimits
  readonly timeouts: ClientTimeouts
  readonly forward: ForwardOptions
  readonly router: Router<Route>
  readonly services: Services
  readonly #trusted: TrustedProxies
  readonly #trustsNobody: boolean
  readonly #finishedWithoutRoute: ReturnType<typeof compileFinished>
  #authority = ''
  #authorityLower = ''

  /** Throws when the config cannot be brought to life (a file that is gone); nothing has changed then. */
  constructor(config: Config, services: Services) {
    const { limits, trustedProxies, underscoreHeaders, forwardedHeader } = config.server
    this.config = config
    this.limits = { headBytes: limits.headerBytes, fields: limits.headers, targetBytes: limits.uriBytes }
    const { header, body, idle, request, tunnelIdle } = config.server.timeouts
    this.timeouts = {
      headerMs: header,
      bodyMs: body,
      idleMs: idle,
      requestMs: request,
      tunnelIdleMs: tunnelIdle,
      promoteMs: config.admission.promoteAfter,
    }
    this.services = services
    this.#trusted = compileTrustedProxies(trustedProxies)
    this.#trustsNobody = trustedProxies.length === 0
    const reserved = services.reservedNames(config)
    this.forward = {
      host: '',
      dropUnderscores: underscoreHeaders === 'drop',
      names: reserved,
      setsOwn: setsOwn(reserved ?? []),
      forwarded: forwardedHeader,
      startTrace: config.tracing.traceparent,
    }
    this.router = new Router(
      config.routes.map((route): Route => {
        return {
          name: route.name,
          match: route.match,
          config: route,
          handle: compileRoute(route, {
            services,
            forward: this.forward,
            cachedBy: (x) => this.#cachedBy(x)?.config.cache,
          }),
        }
      }),
    )
    this.#finishedWithoutRoute = compileFinished(services)
  }

  /** A request's head is complete and sound. */
  handle(x: Exchange, frame: RequestFrame): void {
    try {
      this.#handle(x, frame)
    } catch (error) {
      fail(x, error, this.services)
    }
  }

  #handle(x: Exchange, frame: RequestFrame): void {
    this.identify(x)
    x.authority = frame.authority
    x.connectionNames = frame.connectionNames
    const { target } = frame
    const { request } = x
    if (target === '*') {
      x.onFinish(this.#finishedWithoutRoute)
      answer(x, 204, 'Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n', '')
      return
    }
    const question = target.indexOf('?')
    const path = normalisePath(
      question < 0 ? target : target.slice(0, question),
      this.config.server.encodedSlashes === 'keep',
    )
    x.query = question < 0 ? '' : target.slice(question)
    if (path === undefined) {
      x.onFinish(this.#finishedWithoutRoute)
      refuse(x, BAD_PATH)
      return
    }
    x.path = path
    const { route, allow } = this.find(x)
    if (route === undefined || request.method === 'TRACE') {
      x.onFinish(this.#finishedWithoutRoute)
      if (request.method === 'TRACE') refuse(x, TRACE)
      else if (allow === null) refuse(x, NO_ROUTE)
      else refuse(x, new LocalReply('METHOD', { fields: `Allow: ${allow.join(', ')}\r\n` }))
      return
    }
    x.route = route
    route.handle(x)
  }

  /** The route of an exchange whose path and authority are known. */
  find(x: Exchange): RouteMatch<Route> {
    const { path, query, request } = x
    const { method } = request
    const input = {
      path,
      query,
      method,
      authority: this.#lowerCase(x.authority),
      head: request,
      secure: cameSecurely(x),
    }
    const announced =
      method === 'OPTIONS' && request.indexOf(FIELD_ID.origin) >= 0
        ? request.value(FIELD_ID['access-control-request-method'])
        : undefined
    if (announced !== undefined) {
      // A preflight (Fetch §3.2.2) belongs to the route of the request that it announces.
      const match = this.router.find({ ...input, method: announced })
      if (match.route?.config.cors !== undefined) return match
    }
    const match = this.router.find(input)
    if (method === 'PURGE' && match.route?.config.match.methods?.includes('PURGE') !== true) {
      // An order to the cache belongs to the route whose answers it means, whatever methods that takes.
      const route = this.#cachedBy(x)
      if (route !== undefined) return { route, allow: null }
    }
    return match
  }

  /** The route that a GET of the same URL would take, when that has a cache. */
  #cachedBy(x: Exchange): Route | undefined {
    const { path, query, request } = x
    const input = {
      path,
      query,
      method: 'GET',
      authority: this.#lowerCase(x.authority),
      head: request,
      secure: cameSecurely(x),
    }
    const { route } = this.router.find(input)
    return route?.config.cache === undefined ? undefined : route
  }

  /** Most requests are for the same host as the one before. */
  #lowerCase(authority: string): string {
    if (authority === this.#authority) return this.#authorityLower
    this.#authority = authority
    this.#authorityLower = authority.toLowerCase()
    return this.#authorityLower
  }

  /** A peer that may say where the client is, by a PROXY header too. */
  trusts(address: string): boolean {
    return !this.#trustsNobody && this.#trusted.isTrusted(address)
  }

  /** Who and which: what logs need even of a request that is refused. */
  identify(x: Exchange): void {
    const { client, request } = x
    const { clientFields } = client.listener
    if (clientFields !== undefined) x.requestFields += clientFields
    const id = request.value(FIELD_ID['x-request-id'])
    x.requestId = id !== undefined && REQUEST_ID.test(id) ? id : nextRequestId()
    if (this.#trustsNobody) x.clientAddress = client.remoteAddress
    else {
      x.peerTrusted = this.#trusted.isTrusted(client.remoteAddress)
      x.clientAddress = this.#trusted.clientAddress(client.remoteAddress, request.value(FIELD_ID['x-forwarded-for']))
    }
  }

  /** A request that the listener could not take. */
  refuse(x: Exchange, refusal: Refusal, detail: string): void {
    if (x.requestId === '') this.identify(x)
    if (x.route === undefined) x.onFinish(this.#finishedWithoutRoute)
    const code = typeof refusal === 'string' ? REFUSAL_CODES[refusal] : ERROR_CODES[refusal.kind]
    refuse(x, new LocalReply(code, { detail, close: true }))
  }

  /** The exchange has turned out to be a long stream: its place is free for others. */
  promote(x: Exchange): void {
    leavePlace(x)
  }

  /** The exchange has taken longer than its route allows. */
  expire(x: Exchange): void {
    x.abort()
    refuse(x, TIMEOUT)
  }
}

const ERROR_CODES: Record<HeadError['kind'], LocalReplyCode> = {
  bad: 'BAD_REQUEST',
  version: 'BAD_REQUEST',
  targetTooLong: 'URI_TOO_LONG',
  headTooLarge: 'HEAD_TOO_LARGE',
  unsupported: 'UNSUPPORTED',
  expectation: 'EXPECTATION',
}
const REFUSAL_CODES: Record<Extract<Refusal, string>, LocalReplyCode> = {
  headerTimeout: 'REQUEST_TIMEOUT',
  bodyTimeout: 'REQUEST_TIMEOUT',
  bodyTooLarge: 'TOO_LARGE',
  badBody: 'BAD_REQUEST',
}

const requestIdPrefix = `${process.pid.toString(36)}${Math.random().toString(36).slice(2, 12)}-`
let requestIds = 0

function nextRequestId(): string {
  return requestIdPrefix + (requestIds++).toString(36)
}
