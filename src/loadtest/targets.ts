/**
 * What a load test asks for: one URL, a list of paths, or the routes of a gateway's config that can be asked with a plain
 * GET. Routes that cannot (a prefix names no path, a token cannot be made) are named with the reason, never left out in
 * silence.
 */

import type { Config, RouteConfig } from '../config/schema.ts'
import type { Target } from './load-plan.ts'
import { mintToken } from './mint-token.ts'

export interface AskOptions {
  /** Sent with every request; names in lower case. */
  readonly headers: Readonly<Record<string, string>>
  readonly method: string
  readonly body: string | null
  /** Sent as `Authorization: Bearer` in place of a minted one. */
  readonly token: string | undefined
}

export interface Targets {
  readonly targets: Target[]
  readonly skipped: { readonly name: string; readonly reason: string }[]
}

/** `[METHOD] PATH [WEIGHT]`: `/api/users`, `POST /api/echo 2`. Returns a sentence when it cannot be read. */
export function parseTarget(text: string, origin: string, options: AskOptions): Target | string {
  const match = /^(?:([A-Z]+) +)?(\/[^\s#]*)(?: +(\d+(?:\.\d+)?))?$/.exec(text.trim())
  if (!match) return `cannot read the target '${text}': expected [METHOD] PATH [WEIGHT], such as 'POST /api/echo 2'`
  const method = match[1] ?? options.method
  return targetOf(`${method} ${match[2]}`, origin, match[2]!, Number(match[3] ?? 1), { ...options, method })
}

export function targetOf(name: string, origin: string, path: string, weight: number, options: AskOptions): Target {
  const { method, token } = options
  const headers: Record<string, string> = { 'user-agent': 'fluxor-gateway-loadtest', ...options.headers }
  if (token !== undefined) headers['authorization'] = `Bearer ${token}`
  const body = method === 'GET' || method === 'HEAD' ? null : options.body
  if (body !== null && !('content-type' in headers)) headers['content-type'] = 'application/json'
  return { name, weight, request: { origin, path, method, headers, body } }
}

/** The mix of the classic load script: mostly health, the metrics least. Every other route counts as much as `ready`. */
const BUILTIN_WEIGHTS: Partial<Record<keyof RouteConfig, number>> = { health: 30, metrics: 10 }
const WEIGHT = 20

/** Where a config listens, as a client of this machine would ask it. */
export function originOf(config: Pick<Config, 'server'>): string {
  const { address, tls } = config.server.listen[0]!
  const host = address.host === '0.0.0.0' ? '127.0.0.1' : address.host === '::' ? '::1' : address.host
  return `${tls === undefined ? 'http' : 'https'}://${host.includes(':') ? `[${host}]` : host}:${address.port}`
}

/** @param lifetimeSec how long minted tokens must last */
export function targetsOfConfig(
  config: Pick<Config, 'routes' | 'identity'>,
  origin: string,
  options: AskOptions,
  nowSec: number,
  lifetimeSec: number,
): Targets {
  const targets: Target[] = []
  const skipped: Targets['skipped'] = []
  for (const route of config.routes) {
    const asked = askOf(route, config, options, nowSec, lifetimeSec)
    if (typeof asked === 'string') {
      skipped.push({ name: route.name, reason: asked })
      continue
    }
    const builtin = Object.entries(BUILTIN_WEIGHTS).find(([key]) => route[key as keyof RouteConfig] !== undefined)
    const query = asked.query.size === 0 ? '' : `?${asked.query}`
    const headers = { ...asked.headers, ...options.headers }
    const target = targetOf(route.name, origin, asked.path + query, builtin?.[1] ?? WEIGHT, {
      ...options,
      headers,
      method: 'GET',
    })
    targets.push(target)
  }
  return { targets, skipped }
}

interface Ask {
  path: string
  query: URLSearchParams
  headers: Record<string, string>
}

/** The request that takes this route, or the reason why there is none. */
function askOf(
  route: RouteConfig,
  config: Pick<Config, 'identity'>,
  { headers: given, token }: AskOptions,
  nowSec: number,
  lifetimeSec: number,
): Ask | string {
  const { match } = route
  if (match.methods !== undefined && !match.methods.includes('GET')) return 'it takes no GET'
  if (route.token !== undefined) return 'it makes tokens'
  if (match.path === undefined) return 'it names no exact path; give one with --target'
  if (route.respond !== undefined && route.respond.status >= 400) return `it always answers ${route.respond.status}`
  const ask: Ask = { path: match.path, query: new URLSearchParams(), headers: {} }

  const host = match.host?.find((name) => !name.startsWith('*'))
  if (match.host !== undefined && !match.host.includes('*')) {
    if (host === undefined) return `it takes only ${match.host.join(', ')}`
    ask.headers['host'] = host
  }
  for (const [name, condition] of Object.entries(match.headers ?? {})) {
    if (typeof condition === 'string') ask.headers[name] = condition
    else if (condition.regex !== undefined) return `its header ${name} must match a pattern`
    else if (condition.present) ask.headers[name] = '1'
  }
  for (const [name, condition] of Object.entries(match.query ?? {})) {
    if (typeof condition === 'string') ask.query.set(name, condition)
    else if (condition.regex !== undefined) return `its query parameter ${name} must match a pattern`
    else if (condition.present) ask.query.set(name, '1')
  }

  if (route.auth === 'optional') return ask
  const needsKey = route.apiKey !== undefined && !(route.auth === 'any' && route.jwt !== undefined)
  if (needsKey) {
    const set = config.identity.apiKeys[route.apiKey!]
    const header = set?.header ?? 'x-api-key'
    if (!(header in given)) return `it needs an API key; give one with --header '${header}: …'`
  }
  const policies = route.jwt ?? []
  if (policies.length === 0 || token !== undefined || 'authorization' in given) return ask
  if (mint(ask, policies, config, nowSec, lifetimeSec)) return ask
  return `it needs a token, and ${policies.join(', ')} has no secret to sign one; give one with --token`
}

/** Adds a token that one of the policies accepts; false when none can be made. */
function mint(
  ask: Ask,
  policies: readonly string[],
  { identity }: Pick<Config, 'identity'>,
  nowSec: number,
  lifetimeSec: number,
): boolean {
  for (const name of policies) {
    const policy = identity.jwt[name]
    const token = policy && mintToken(policy, nowSec, lifetimeSec)
    if (token === undefined) continue
    carry(ask, policy!.from[0] ?? 'header', token)
    return true
  }
  return false
}

/**
 * A target as its user wrote it, with the token that the route of its path wants, when the config can make one and the
 * user gave none. Which route that is goes by the path alone: whole, else by the longest prefix.
 */
export function withToken(
  target: Target,
  config: Pick<Config, 'routes' | 'identity'>,
  { headers: given, token }: AskOptions,
  nowSec: number,
  lifetimeSec: number,
): Target {
  if (token !== undefined || 'authorization' in given) return target
  const [path, query] = target.request.path.split(/\?(.*)/s) as [string, string?]
  let route: RouteConfig | undefined
  let longest = -1
  for (const one of config.routes) {
    const { path: whole, pathPrefix: prefix } = one.match
    const length = whole === path ? Number.POSITIVE_INFINITY : isUnder(path, prefix) ? prefix!.length : -1
    if (length > longest) [route, longest] = [one, length]
  }
  if (route?.jwt === undefined || route.auth === 'optional') return target
  const ask: Ask = { path, query: new URLSearchParams(query), headers: { ...target.request.headers } }
  if (!mint(ask, route.jwt, config, nowSec, lifetimeSec)) return target
  const search = ask.query.size === 0 ? '' : `?${ask.query}`
  return { ...target, request: { ...target.request, path: path + search, headers: ask.headers } }
}

/** Whole segments, as routes match. */
const isUnder = (path: string, prefix: string | undefined): boolean =>
  prefix !== undefined && (path === prefix || path.startsWith(prefix.endsWith('/') ? prefix : `${prefix}/`))

/** Puts a token where the policy looks for it. */
function carry(ask: Ask, from: string, token: string): void {
  const [kind, name] = from.split(/:(.*)/s)
  if (kind === 'cookie') ask.headers['cookie'] = `${name}=${token}`
  else if (kind === 'query') ask.query.set(name!, token)
  else if (kind === 'header' && name) ask.headers[name.toLowerCase()] = token
  else ask.headers['authorization'] = `Bearer ${token}`
}
