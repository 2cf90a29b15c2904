/**
 * What would become of a request, and why: every decision of the data path, asked without sending, counting or storing
 * anything. Made possible by decisions being functions of snapshot, head and counters; used by `explain` on a file and by
 * the admin endpoint on the running gateway.
 */

import type { RouteConfig } from './config/schema.ts'
import { type ClientStream, Exchange } from './exchange.ts'
import { cameSecurely, requestHead } from './http/forward.ts'
import { normalisePath } from './http/path.ts'
import { frameRequest, newFrame } from './http1/framing.ts'
import { MessageHead, PARSED } from './http1/message-head.ts'
import { LocalReply } from './local-reply.ts'
import { forwardOptions } from './pipeline.ts'
import { compileIdentity } from './policies/auth/policy.ts'
import { compileUrl } from './policies/cache/cache-key.ts'
import { compileIp } from './policies/ip/policy.ts'
import { compileRateLimitLook, type RateLimitLook } from './policies/rate-limit/look.ts'
import { Matcher, type Mismatch } from './routing/matcher.ts'
import { compileRewrite } from './routing/rewrite.ts'
import { GLOBAL_SCOPE } from './services.ts'
import type { Snapshot } from './snapshot.ts'

export interface ExplainRequest {
  readonly method: string
  /** A URL, or a path. */
  readonly url: string
  /** `Name: value` each. */
  readonly headers?: readonly string[]
  /** Address of the peer; default 127.0.0.1. */
  readonly peer?: string
}

export interface Verdict {
  readonly code: string
  readonly status: number
  readonly reason?: string
  readonly detail?: string
}

export interface Explanation {
  readonly request: {
    readonly method: string
    readonly path: string
    readonly query: string
    readonly host: string
    readonly client: string
  }
  /** Set when the request is refused before it is routed. */
  readonly refused?: Verdict
  readonly route?: { readonly name: string; readonly match: string; readonly action: string }
  /** Routes that came close, and the first condition that failed. */
  readonly nearMisses: readonly { readonly name: string; readonly match: string; readonly failed: Mismatch }[]
  readonly steps: readonly { readonly step: string; readonly result: string }[]
  readonly limits: readonly RateLimitLook[]
  /** What the gateway would do in the end. */
  readonly outcome: string
  /** The request as the upstream would get it. */
  readonly forwarded?: string
}

/** Throws an Error with a sentence for people when the request cannot be read as one. */
export async function explain(snapshot: Snapshot, request: ExplainRequest): Promise<Explanation> {
  const x = exchangeOf(snapshot, request)
  const frame = newFrame()
  const error = frameRequest(x.request, frame)
  if (error !== null) throw new Error(`not a valid request: ${error.detail}`)
  snapshot.identify(x)
  x.authority = frame.authority
  x.connectionNames = frame.connectionNames
  const question = frame.target.indexOf('?')
  const path = normalisePath(
    question < 0 ? frame.target : frame.target.slice(0, question),
    snapshot.config.server.encodedSlashes === 'keep',
  )
  x.query = question < 0 ? '' : frame.target.slice(question)
  const shown = {
    method: request.method,
    path: path ?? frame.target,
    query: x.query,
    host: x.authority,
    client: x.clientAddress,
  }
  if (path === undefined) {
    const detail = 'the path has a spelling that servers read differently'
    return {
      request: shown,
      refused: { code: 'BAD_REQUEST', status: 400, reason: 'PATH', detail },
      nearMisses: [],
      steps: [],
      limits: [],
      outcome: '400 BAD_REQUEST: ' + detail,
    }
  }
  x.path = path
  const { route, allow } = snapshot.find(x)
  const nearMisses = findNearMisses(snapshot, x, route?.name)
  if (route === undefined) {
    const refused =
      allow === null
        ? { code: 'NO_ROUTE', status: 404 }
        : { code: 'METHOD', status: 405, detail: `allowed: ${allow.join(', ')}` }
    return { request: shown, refused, nearMisses, steps: [], limits: [], outcome: `${refused.status} ${refused.code}` }
  }
  x.route = route
  return { request: shown, nearMisses, ...(await follow(snapshot, x, route.config)) }
}

/** The gates of a route in their order, until one refuses. */
async function follow(
  snapshot: Snapshot,
  x: Exchange,
  config: RouteConfig,
): Promise<Omit<Explanation, 'request' | 'nearMisses'>> {
  const { services } = snapshot
  const action = actionOf(config)
  const route = { name: config.name, match: matchText(config), action }
  const steps: { step: string; result: string }[] = []
  const stop = (limits: RateLimitLook[], reply: LocalReply) => ({ route, steps, limits, outcome: replyText(reply) })

  const denied = compileIp(config)?.(x)
  if (config.ipAllow.length + config.ipDeny.length > 0)
    steps.push({ step: 'address', result: denied ? replyText(denied) : `${x.clientAddress} may pass` })
  if (denied !== undefined) return stop([], denied)

  const identity = compileIdentity(config, services.config.identity, services.keySets)
  if (identity !== undefined) {
    const reply = await identity.gate(x)
    steps.push({ step: 'identity', result: reply ? replyText(reply) : identityText(x) })
    if (reply !== undefined) return stop([], reply)
  }

  const limits = compileRateLimitLook(
    config.rateLimit,
    services.config.rateLimits,
    services.rateLimitDeps(config.name),
  )(x)
  const over = limits.find(({ allowed, shadow }) => allowed === false && !shadow)
  if (over !== undefined) return stop(limits, new LocalReply('RATE_LIMITED', { reason: over.rule }))

  if (config.upstream === undefined && config.split === undefined)
    return { route, steps, limits, outcome: `answered by the gateway: ${action}` }

  if (config.cache !== undefined) {
    const ttl = config.cache.ttl > 0 ? `, ${config.cache.ttl / 1000} s when the origin says nothing` : ''
    steps.push({
      step: 'cache',
      result: `${compileUrl(config.cache)(x)}${identity === undefined ? '' : ', apart for each subject'}${ttl}`,
    })
  }
  const scope = services.scopes.get(GLOBAL_SCOPE)!
  const { places, limits: cap } = scope
  steps.push({
    step: 'admission',
    result: `${places.ccu} of ${cap.maxCCU} places taken, ${places.inService} of ${cap.workers} in service, ${places.waiting} waiting${x.tier === '' ? '' : `, tier ${x.tier}`}`,
  })
  if (places.ccu >= cap.maxCCU) return stop(limits, new LocalReply('BACKPRESSURE', { reason: 'CCU_FULL' }))

  const names = config.split?.map(({ upstream, weight }) => `${upstream} (${weight})`) ?? [config.upstream!]
  const upstream = services.upstreams.get(config.upstream ?? config.split![0]!.upstream)!
  const nowMs = performance.now()
  const endpoints = upstream
    .status(nowMs)
    .map(
      ({ url, state, reason, inFlight, weight }) =>
        `${url} ${state}${reason === '' ? '' : ` (${reason})`}, ${inFlight} in flight, weight ${weight}`,
    )
  steps.push({
    step: 'upstream',
    result: `${names.join(' or ')}, balance ${upstream.config.balance}: ${endpoints.join('; ') || 'no endpoint'}`,
  })
  const endpoint = upstream.endpoints.find((each) => each.isAvailable(nowMs)) ?? upstream.endpoints[0]
  if (endpoint === undefined) return stop(limits, new LocalReply('NO_ENDPOINT'))
  const rewritten = compileRewrite(config)?.(x.path) ?? x.path
  const options = forwardOptions(config, upstream, snapshot.forward, services)
  const forwarded = requestHead(x, rewritten, endpoint.authority, options)
  return { route, steps, limits, outcome: `forwarded to ${names.join(' or ')}`, forwarded: redactHead(forwarded) }
}

function findNearMisses(snapshot: Snapshot, x: Exchange, found: string | undefined): Explanation['nearMisses'] {
  const input = {
    path: x.path,
    query: x.query,
    method: x.request.method,
    authority: x.authority.toLowerCase(),
    head: x.request,
    secure: cameSecurely(x),
  }
  const misses: { name: string; match: string; failed: Mismatch; closeness: number }[] = []
  for (const route of snapshot.router.routes) {
    if (route.name === found) break // those after it were not asked
    const failed = new Matcher(route.match).mismatch(input)
    const closeness = failed === 'path' ? sharedPath(route.match, x.path) : 1
    if (failed !== '' && closeness >= NEAR)
      misses.push({ name: route.name, match: matchText(route.config), failed, closeness })
  }
  return misses
    .sort((a, b) => b.closeness - a.closeness)
    .slice(0, 5)
    .map(({ name, match, failed }) => ({ name, match, failed }))
}

/** Share of a route's path that must agree for the route to be called near. */
const NEAR = 0.7

/** How much of a route's path this one begins with, 0 to 1. */
function sharedPath({ path, pathPrefix, pathTemplate }: RouteConfig['match'], actual: string): number {
  const own = path ?? pathPrefix ?? pathTemplate?.replace(/\{.*$/, '') ?? ''
  let i = 0
  while (i < own.length && own[i] === actual[i]) i++
  return own.length < 2 ? 0 : i / own.length
}

export function matchText({ match }: RouteConfig): string {
  const { scheme, host, path, pathPrefix, pathTemplate, pathRegex, methods, headers, query } = match
  const parts = [
    scheme,
    methods?.join('|'),
    host && `host ${host.join('|')}`,
    path && `path ${path}`,
    pathPrefix && `prefix ${pathPrefix}`,
    pathTemplate && `template ${pathTemplate}`,
    pathRegex && `regex ${pathRegex}`,
    headers && `headers ${Object.keys(headers).join(', ')}`,
    query && `query ${Object.keys(query).join(', ')}`,
  ].filter((part) => part !== undefined)
  return parts.join(', ') || 'everything'
}

function actionOf(config: RouteConfig): string {
  if (config.upstream !== undefined) return `upstream ${config.upstream}`
  if (config.split !== undefined)
    return `split ${config.split.map(({ upstream, weight }) => `${upstream}:${weight}`).join(', ')}`
  return BUILTINS.find((name) => config[name] !== undefined)!
}

const BUILTINS = ['home', 'health', 'ready', 'metrics', 'echo', 'token', 'respond', 'redirect'] as const

function identityText(x: Exchange): string {
  const { identity } = x
  if (identity === undefined) return 'anonymous'
  const tier = identity.tier === undefined ? '' : `, tier ${identity.tier}`
  return `${identity.subject || '(no subject)'}${identity.apiKey === undefined ? '' : `, API key of ${identity.apiKey}`}${tier}`
}

function replyText({ status, code, reason, detail }: LocalReply): string {
  return `${status} ${code}${reason === undefined ? '' : ` ${reason}`}${detail === undefined ? '' : `: ${detail}`}`
}

const SECRET_LINES = /^(authorization|cookie|proxy-authorization|x-api-key): .*$/gim

function redactHead(text: string): string {
  return text.replaceAll('\r\n', '\n').replaceAll(SECRET_LINES, '$1: ***').trimEnd()
}

function exchangeOf(snapshot: Snapshot, { method, url, headers = [], peer = '127.0.0.1' }: ExplainRequest): Exchange {
  const absolute = /^https?:\/\//i.exec(url) !== null
  const parsed = absolute ? new URL(url) : undefined
  const rest = absolute
    ? url.slice(url.indexOf('/', url.indexOf('//') + 2) < 0 ? url.length : url.indexOf('/', url.indexOf('//') + 2))
    : url
  const target = rest === '' ? '/' : rest.replace(/#.*$/s, '')
  const hasHost = headers.some((line) => /^host:/i.test(line))
  const lines = [
    ...(hasHost ? [] : [`Host: ${parsed?.host ?? 'localhost'}`]),
    ...headers.map((line) => line.replace(/^([^:]+):\s*/, '$1: ')),
  ]
  const head = new MessageHead('request')
  const bytes = Buffer.from(
    `${method} ${target} HTTP/1.1\r\n${lines.map((line) => `${line}\r\n`).join('')}\r\n`,
    'latin1',
  )
  if (head.parse(bytes, 0, bytes.length, snapshot.limits) !== PARSED)
    throw new Error(`not a valid request: ${head.error?.detail ?? 'it is incomplete'}`)
  return new Exchange(head, dryClient(peer, parsed?.protocol === 'https:'), performance.now())
}

/** A client that is never answered. */
function dryClient(remoteAddress: string, secure: boolean): ClientStream {
  return {
    listener: { name: 'explain', secure, port: secure ? 443 : 80 },
    remoteAddress,
    forwarded: null,
    body: null,
    bytesSent: 0,
    headSent: false,
    source: null,
    head() {},
    informational() {},
    respond() {},
    write: () => true,
    end() {},
    flush() {},
    abort() {},
    destroy() {},
    closeAfter() {},
  }
}

/** For terminals and logs: one line a fact. */
export function explanationText(e: Explanation): string {
  const lines = [
    `${e.request.method} ${e.request.host}${e.request.path}${e.request.query}  from ${e.request.client}`,
    '',
  ]
  const row = (name: string, text: string) => lines.push(`${name.padEnd(10)} ${text}`)
  if (e.route !== undefined) row('route', `${e.route.name}  (${e.route.match})  → ${e.route.action}`)
  for (const { name, match, failed } of e.nearMisses) row('near miss', `${name}  (${match})  ${failed} does not match`)
  const early = e.steps.filter(({ step }) => step === 'address' || step === 'identity')
  for (const { step, result } of early) row(step, result)
  for (const { rule, key, policy, remaining, shadow } of e.limits) {
    row(
      'limit',
      `${rule}  ${policy.replace(/^"[^"]*";/, '')}  key ${key}  ${remaining === undefined ? 'counted in Redis' : `${remaining} left`}${shadow ? '  (shadow)' : ''}`,
    )
  }
  for (const { step, result } of e.steps) if (!early.some((other) => other.step === step)) row(step, result)
  row('outcome', e.outcome)
  if (e.forwarded !== undefined) lines.push('', ...e.forwarded.split('\n').map((line) => `  ${line}`))
  return `${lines.join('\n')}\n`
}
