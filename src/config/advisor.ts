/**
 * What is allowed in a config and still unlikely to be meant: numbered rules for `check --strict`. Each looks at a checked
 * config alone, with its defaults, and says where, what happens, and what to write instead. A rule never changes its
 * number; docs/advisor.md has a section for each. `# check: allow A02` in the file accepts a finding.
 */

import { parseCidr } from '../http/client-address.ts'
import type { MessageHead } from '../http1/message-head.ts'
import { Router } from '../routing/router.ts'
import { isLoopback } from './host-port.ts'
import type { Path } from './problems.ts'
import type { Config, RouteConfig } from './schema.ts'

export interface Advice {
  readonly rule: Rule
  readonly path: Path
  readonly message: string
  readonly at?: 'key' | 'value'
}

/** Number and subject, as in docs/advisor.md. */
export const RULES = {
  A01: 'tries that do not fit into the time of the route',
  A02: 'a cap that the connection pool cannot carry',
  A03: 'tokens that are meant for somebody else',
  A04: 'a secret that can be guessed',
  A05: 'every peer may say who the client is',
  A06: 'the admin listener is open to the network',
  A07: 'a route that no request reaches',
  A08: 'keys fetched without protection',
  A09: 'tokens for everybody',
  A10: 'certificates that are not verified',
  A11: 'a wait without an end',
  A12: 'a drain shorter than a request may take',
  A13: 'credentials in the URL',
  A14: 'several endpoints and nothing that notices a dead one',
  A15: 'waiting for a place longer than the request may take',
  A16: 'faults on purpose',
  A17: 'not ready and gone in the same moment',
  A18: 'answers for one subject in a store for all',
} as const
export type Rule = keyof typeof RULES

type Say = (rule: Rule, path: Path, message: string, at?: 'key' | 'value') => void

/** In the order of the rules' subjects in the file: server, identity, upstreams, routes. */
export function advise(config: Config): Advice[] {
  const advice: Advice[] = []
  const seen = new Set<string>()
  const say: Say = (rule, path, message, at) => {
    // Many routes may trip over one key: its place is told once.
    const key = `${rule} ${JSON.stringify(path)}`
    if (seen.has(key)) return
    seen.add(key)
    advice.push({ rule, path, message, ...(at !== undefined && { at }) })
  }
  adviseServer(config, say)
  adviseIdentity(config, say)
  adviseUpstreams(config, say)
  adviseRoutes(config, say)
  return advice
}

function adviseServer({ server, admission, routes }: Config, say: Say): void {
  server.trustedProxies.forEach((block, i) => {
    if (parseCidr(block)?.bits !== 0) return
    const message = `${block} is everybody: any client chooses the address that limits and logs see`
    say('A05', ['server', 'trustedProxies', i], message)
  })
  if (server.admin !== false && !isLoopback(server.admin.address.host)) {
    const message = 'other machines reach it, in plain HTTP: for probes and metrics alone there is "server.probes"'
    say('A06', ['server', 'admin', 'address'], message)
    if (server.admin.token !== undefined && server.admin.token.length < 16) {
      say('A04', ['server', 'admin', 'token'], 'is shorter than 16 characters')
    }
  }
  for (const key of ['header', 'body', 'request', 'idle'] as const) {
    if (server.timeouts[key] !== 0) continue
    say('A11', ['server', 'timeouts', key], 'is off: a client that stops in the middle holds its connection for ever')
  }
  if (server.limits.bodyBytes === 0) say('A11', ['server', 'limits', 'bodyBytes'], 'is off: a body has no end')
  const longest = routes.reduce((most, { timeout }) => Math.max(most, timeout), 0)
  if (server.shutdown.drain < longest) {
    const message = `${seconds(server.shutdown.drain)} cut what a route lets take ${seconds(longest)}`
    say('A12', ['server', 'shutdown', 'drain'], message)
  }
  if (server.probes !== undefined && server.shutdown.readinessDelay === 0) {
    const message =
      'is 0: load balancers send requests for a few seconds after "not ready", and nobody listens any more; 5s is usual'
    say('A17', ['server', 'shutdown', 'readinessDelay'], message)
  }
  if (server.allowFaults) say('A16', ['server', 'allowFaults'], 'is for tests: routes may delay and fail requests')
  const shortest = routes.reduce((least, { timeout }) => (timeout > 0 ? Math.min(least, timeout) : least), Infinity)
  if (admission.queueTimeout >= shortest) {
    const message = `${seconds(admission.queueTimeout)} in the queue leave nothing of a timeout of ${seconds(shortest)}`
    say('A15', ['admission', 'queueTimeout'], message)
  }
}

function adviseIdentity({ identity, routes }: Config, say: Say): void {
  for (const [name, jwt] of Object.entries(identity.jwt)) {
    const at = (...path: Path): Path => ['identity', 'jwt', name, ...path]
    if (jwt.audience === undefined) {
      say('A03', at(), 'has no "audience": a token that its issuer made for another service passes here', 'key')
    }
    if (jwt.secret !== undefined && Buffer.byteLength(jwt.secret) < 32) {
      say('A04', at('secret'), 'is shorter than 32 bytes, the least for HS256 (RFC 7518 §3.2)')
    }
    if (jwt.jwks !== undefined && new URL(jwt.jwks.url).protocol === 'http:') {
      const { hostname } = new URL(jwt.jwks.url)
      const message = 'plain HTTP: who stands between can put in keys of his own, and sign'
      if (!isLoopback(hostname.replace(/^\[|\]$/g, ''))) say('A08', at('jwks', 'url'), message)
    }
    jwt.from.forEach((source, i) => {
      if (!source.startsWith('query:')) return
      say('A13', at('from', i), 'URLs stand in logs, histories and Referer fields of others: a token should not')
    })
  }
  for (const [name, keys] of Object.entries(identity.apiKeys)) {
    if (keys.query === undefined) continue
    const message = 'URLs stand in logs, histories and Referer fields of others: a key should not'
    say('A13', ['identity', 'apiKeys', name, 'query'], message)
  }
  routes.forEach(({ token }, i) => {
    token?.allow?.forEach((block, n) => {
      if (parseCidr(block)?.bits !== 0) return
      say('A09', ['routes', i, 'token', 'allow', n], `${block} is everybody, and a token passes "jwt: ${token.jwt}"`)
    })
  })
}

function adviseUpstreams({ upstreams, admission }: Config, say: Say): void {
  const normal = Math.max(1, Math.floor((admission.maxCCU * admission.utilizationPercent) / 100))
  const inService = admission.workers === 'auto' ? normal : admission.workers
  for (const [name, upstream] of Object.entries(upstreams)) {
    const at = (...path: Path): Path => ['upstreams', name, ...path]
    const { endpoints, pool, timeouts, tls } = upstream
    // How many addresses DNS will give is not known here; the pool's own default belongs to nobody's decision.
    if (endpoints !== undefined && upstream.protocol === 'http1' && pool.maxOpenConns !== DEFAULT_POOL) {
      const connections = endpoints.length * pool.maxOpenConns
      if (connections < inService) {
        const message =
          `${connections} connections for ${inService} exchanges in service: the rest waits once more, unseen by the queue; ` +
          `raise it, or lower "admission.workers" or the route's own cap`
        say('A02', at('pool', 'maxOpenConns'), message)
      }
    }
    if (tls?.verify === false) say('A10', at('tls', 'verify'), 'accepts any certificate: give its "ca" instead')
    for (const key of ['connect', 'firstByte', 'idle'] as const) {
      if (timeouts[key] !== 0) continue
      say('A11', at('timeouts', key), 'is off: a service that hangs holds its exchanges for ever')
    }
    if (endpoints !== undefined && endpoints.length > 1 && !upstream.health && !upstream.outlier) {
      const message = `${endpoints.length} endpoints without "health" or "outlier": a dead one keeps its share of the requests`
      say('A14', at(), message, 'key')
    }
  }
}

const DEFAULT_POOL = 1000

function adviseRoutes(config: Config, say: Say): void {
  const router = new Router(config.routes)
  config.routes.forEach((route, i) => {
    const at = (...path: Path): Path => ['routes', i, ...path]
    const names = [route.upstream, ...(route.split?.map(({ upstream }) => upstream) ?? [])]
    if (names.some((name) => name !== undefined) && route.timeout === 0) {
      say('A11', at('timeout'), 'is off: an exchange has no end of its own')
    }
    for (const name of new Set(names)) if (name !== undefined) adviseTries(config, route, name, at, say)
    if (route.admission !== undefined && route.timeout > 0 && route.admission.queueTimeout >= route.timeout) {
      const { queueTimeout } = route.admission
      const message = `${seconds(queueTimeout)} in the queue leave nothing of its timeout of ${seconds(route.timeout)}`
      say('A15', at('admission', 'queueTimeout'), message)
    }
    if (route.cache?.scope === 'shared' && (route.jwt !== undefined || route.apiKey !== undefined)) {
      const message = 'one stored answer for all subjects of a route that asks who they are; `private` keeps them apart'
      say('A18', at('cache', 'scope'), message)
    }
    const winner = winnerOver(router, route)
    if (winner !== undefined)
      say(
        'A07',
        at(),
        `"${route.name}" is never reached: "${winner.name}" is more specific and takes all of its requests`,
      )
  })
}

/** Tries that cannot all have their time, as far as the config gives each try a time at all. */
function adviseTries(config: Config, route: RouteConfig, name: string, at: (...path: Path) => Path, say: Say): void {
  const upstream = config.upstreams[name]
  if (upstream === undefined || route.timeout === 0) return
  const retry = route.retry ?? upstream.retry
  const own = route.retry !== undefined
  const path = (key: string): Path => (own ? at('retry', key) : ['upstreams', name, 'retry', key])
  const tries = retry.attempts + 1
  const room = `the timeout of ${seconds(route.timeout)}${own ? '' : ` of "${route.name}"`}`
  if (retry.perTryTimeout > 0) {
    if (tries * retry.perTryTimeout <= route.timeout) return
    const message = `${tries} tries of ${seconds(retry.perTryTimeout)} do not fit into ${room}`
    say('A01', path('perTryTimeout'), message)
  } else if (retry.attempts > 0 && retry.on.includes('timeout')) {
    const perTry = upstream.timeouts.firstByte
    if (perTry === 0 || tries * perTry <= route.timeout) return
    const message =
      `${tries} tries of up to ${seconds(perTry)} ("timeouts.firstByte") do not fit into ${room}: ` +
      'give "perTryTimeout"'
    say('A01', path('on'), message)
  }
}

/**
 * The route that takes every request this one would, found by asking the router about requests made of its conditions.
 * Only where these stand for all: routes with regular expressions or `present` conditions are not judged.
 */
function winnerOver(router: Router<RouteConfig>, route: RouteConfig): RouteConfig | undefined {
  const { match } = route
  if (match.pathRegex !== undefined || !hasPlainConditions(route)) return undefined
  const fields = new Map(Object.entries(match.headers ?? {}).map(([name, value]) => [name, String(value)]))
  const head = { get: (name: string) => fields.get(name) }
  const pairs = Object.entries(match.query ?? {}).map(([name, value]): [string, string] => [name, String(value)])
  const query = pairs.length === 0 ? '' : `?${new URLSearchParams(pairs)}`
  let winner: RouteConfig | undefined
  for (const authority of match.host?.map((host) => host.replace(/^\*\.?/, `${FILLER}.`)) ?? [`${FILLER}.example`]) {
    for (const method of match.methods ?? ['GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'PROPFIND']) {
      for (const path of samplePaths(match)) {
        const found = router.find({ path, query, method, authority, head: head as MessageHead }).route
        if (found === undefined || found === route || !hasPlainConditions(found)) return undefined
        winner = found
      }
    }
  }
  return winner
}

const FILLER = 'a-segment-nobody-names'

function samplePaths(match: RouteConfig['match']): string[] {
  if (match.path !== undefined) return [match.path]
  if (match.pathTemplate !== undefined) {
    const short = match.pathTemplate.replace(/\{[^}]+\}/g, FILLER)
    return match.pathTemplate.endsWith('...}') ? [short, `${short}/${FILLER}/${FILLER}`] : [short]
  }
  const prefix = (match.pathPrefix ?? '').replace(/\/$/, '')
  return [prefix === '' ? '/' : prefix, `${prefix}/${FILLER}`, `${prefix}/${FILLER}/${FILLER}/${FILLER}`]
}

function hasPlainConditions({ match }: RouteConfig): boolean {
  return Object.values({ ...match.headers, ...match.query }).every((value) => typeof value === 'string')
}

function seconds(ms: number): string {
  return ms % 1000 === 0 ? `${ms / 1000}s` : `${ms}ms`
}
