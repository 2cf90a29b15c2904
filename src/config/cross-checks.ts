/** What no single key can know: names that must exist elsewhere, caps that cannot be reached, routes that never match. */

import { rateLimitProblems } from '../policies/rate-limit/config.ts'
import { isLoopback } from './host-port.ts'
import type { Path } from './problems.ts'
import type { Config } from './schema.ts'
import { didYouMean, listed } from './suggest.ts'

export interface CrossFinding {
  readonly severity: 'error' | 'warning'
  readonly path: Path
  readonly message: string
  /** Follows the message where it is shown. */
  readonly hint?: () => string
  readonly at?: 'key' | 'value'
}

/** Names as they stand in the file, also of entries that have other problems: one mistake is told once. */
export interface KnownNames {
  readonly upstreams: ReadonlySet<string>
  readonly jwt: ReadonlySet<string>
  readonly apiKeys: ReadonlySet<string>
  readonly rateLimits: ReadonlySet<string>
  readonly redis: ReadonlySet<string>
  readonly tiers: ReadonlySet<string>
}

export function crossCheck(config: Config, names: KnownNames): CrossFinding[] {
  const findings: CrossFinding[] = []
  const error = (path: Path, message: string, at?: 'key' | 'value') =>
    findings.push({ severity: 'error', path, message, at })
  const warn = (path: Path, message: string, at?: 'key' | 'value') =>
    findings.push({ severity: 'warning', path, message, at })
  const refer: Refer = (path, name, known, what, where) => {
    if (known.has(name)) return
    const hint = () => {
      if (known.size === 0) return ` There are none under "${where}".`
      return didYouMean(name, [...known]) || ` Known: ${listed([...known])}`
    }
    findings.push({ severity: 'error', path, message: `unknown ${what} "${name}".`, hint })
  }
  checkServer(config, error, warn)
  checkAdmission(config, names, refer, error, warn)
  checkPolicies(config, names, refer, error)
  checkRoutes(config, names, refer, error, warn)
  return findings
}

type Report = (path: Path, message: string, at?: 'key' | 'value') => void
type Refer = (path: Path, name: string, known: ReadonlySet<string>, what: string, where: string) => void

function checkServer({ server }: Config, error: Report, warn: Report): void {
  const bound = new Map<string, string>()
  const bind = (path: Path, { host, port }: { host: string; port: number }, what: string) => {
    const key = `${host}:${port}`
    const other = bound.get(key)
    if (other !== undefined && port !== 0) error(path, `${key} is taken by ${other}`)
    bound.set(key, what)
  }
  server.listen.forEach((listener, i) => {
    bind(['server', 'listen', i, 'address'], listener.address, `server.listen[${i}]`)
    if (listener.proxyProtocol && server.trustedProxies.length === 0) {
      warn(
        ['server', 'listen', i, 'proxyProtocol'],
        'no PROXY header is believed while "server.trustedProxies" is empty',
      )
    }
  })
  if (server.admin !== false) {
    bind(['server', 'admin', 'address'], server.admin.address, 'server.admin')
    if (!isLoopback(server.admin.address.host) && server.admin.token === undefined) {
      error(
        ['server', 'admin'],
        'an address that other machines can reach needs a "token"; for probes alone there is "server.probes"',
        'key',
      )
    }
  }
  if (server.probes !== undefined) bind(['server', 'probes', 'address'], server.probes.address, 'server.probes')
}

function checkAdmission(config: Config, names: KnownNames, refer: Refer, error: Report, warn: Report): void {
  const { admission } = config
  const seen = new Set<string>()
  admission.tiers.forEach(({ name }, i) => {
    if (seen.has(name)) error(['admission', 'tiers', i, 'name'], `a second tier is called "${name}"`)
    seen.add(name)
  })
  if (admission.defaultTier !== undefined) {
    refer(['admission', 'defaultTier'], admission.defaultTier, names.tiers, 'tier', 'admission.tiers')
  }
  if (admission.tierHeader !== undefined && admission.tiers.length === 0) {
    warn(['admission', 'tierHeader'], 'has no effect without "tiers"')
  }
  if (admission.fleet !== undefined) {
    refer(['admission', 'fleet', 'redis'], admission.fleet.redis, names.redis, 'Redis', 'redis')
  }
  checkReach(admission, ['admission'], warn)
}

/** A cap above `workers + maxQueue` is never reached: the queue says no before. */
function checkReach(
  limits: Pick<Config['admission'], 'maxCCU' | 'utilizationPercent' | 'workers' | 'maxQueue'>,
  path: Path,
  warn: Report,
): void {
  const normal = Math.max(1, Math.floor((limits.maxCCU * limits.utilizationPercent) / 100))
  const workers = limits.workers === 'auto' ? normal : limits.workers
  if (workers > limits.maxCCU) {
    warn([...path, 'workers'], `${workers} in service are never reached: "maxCCU" ends it at ${limits.maxCCU}`)
    return
  }
  const queue = limits.maxQueue === 'auto' ? limits.maxCCU - workers : limits.maxQueue
  if (workers + queue < limits.maxCCU) {
    const key = limits.maxQueue === 'auto' ? 'maxCCU' : 'maxQueue'
    warn(
      [...path, key],
      `${workers} in service and ${queue} waiting make ${workers + queue}: "maxCCU" of ${limits.maxCCU} is never reached`,
    )
  }
}

function checkPolicies(config: Config, names: KnownNames, refer: Refer, error: Report): void {
  for (const { path, message } of rateLimitProblems(config)) error(path, message)
  if (config.cache?.redis !== undefined) refer(['cache', 'redis'], config.cache.redis, names.redis, 'Redis', 'redis')
  if (names.tiers.size === 0) return
  for (const [set, { keys }] of Object.entries(config.identity.apiKeys)) {
    keys.forEach(({ tier }, i) => {
      if (tier === undefined) return
      refer(['identity', 'apiKeys', set, 'keys', i, 'tier'], tier, names.tiers, 'tier', 'admission.tiers')
    })
  }
  for (const [rule, { tiers }] of Object.entries(config.rateLimits)) {
    for (const tier of Object.keys(tiers ?? {})) {
      refer(['rateLimits', rule, 'tiers', tier], tier, names.tiers, 'tier', 'admission.tiers')
    }
  }
}

function checkRoutes(config: Config, names: KnownNames, refer: Refer, error: Report, warn: Report): void {
  const used = new Set<string>()
  const upstream = (path: Path, name: string) => {
    used.add(name)
    refer(path, name, names.upstreams, 'upstream', 'upstreams')
  }
  const routeNames = new Map<string, number>()
  const matches = new Map<string, { index: number; methods: string[] | undefined }[]>()
  config.routes.forEach((route, i) => {
    const at = (...path: (string | number)[]): Path => ['routes', i, ...path]
    const twin = routeNames.get(route.name)
    if (twin !== undefined) error(at('name'), `routes[${twin}] is called "${route.name}" as well`)
    routeNames.set(route.name, i)
    if (route.upstream !== undefined) upstream(at('upstream'), route.upstream)
    route.split?.forEach((part, n) => {
      upstream(at('split', n, 'upstream'), part.upstream)
    })
    if (route.faults !== undefined && !config.server.allowFaults) {
      error(at('faults'), 'needs "server.allowFaults: true", which no gateway of a real service should have', 'key')
    }
    if (route.mirror !== undefined) upstream(at('mirror', 'upstream'), route.mirror.upstream)
    route.jwt?.forEach((name, n) => {
      refer(at('jwt', n), name, names.jwt, 'JWT policy', 'identity.jwt')
    })
    if (route.apiKey !== undefined) refer(at('apiKey'), route.apiKey, names.apiKeys, 'API key set', 'identity.apiKeys')
    if (route.auth !== 'required' && route.jwt === undefined && route.apiKey === undefined) {
      error(at('auth'), 'needs "jwt" or "apiKey" on the same route')
    }
    route.rateLimit?.forEach((name, n) => {
      refer(at('rateLimit', n), name, names.rateLimits, 'rate limit', 'rateLimits')
      checkLimitKey(config, route, name, at('rateLimit', n), warn)
    })
    if (route.token !== undefined) checkToken(config, route.token, at('token'), names, refer, error)
    if (route.admission !== undefined) {
      checkReach(route.admission, at('admission'), warn)
      if (route.admission.maxCCU > config.admission.maxCCU) {
        warn(
          at('admission', 'maxCCU'),
          `is above the global "admission.maxCCU" of ${config.admission.maxCCU}, which holds as well`,
        )
      }
    }
    checkReachable(route, i, matches, warn)
  })
  for (const name of Object.keys(config.upstreams)) {
    if (!used.has(name)) warn(['upstreams', name], 'no route uses this upstream', 'key')
  }
}

function checkLimitKey(config: Config, route: Config['routes'][number], name: string, path: Path, warn: Report): void {
  for (const part of config.rateLimits[name]?.key ?? []) {
    if (part === 'apiKey' && route.apiKey === undefined) {
      warn(path, `"${name}" counts by API key, but this route asks for none: it counts by client address here`)
    } else if (part.startsWith('claim:') && route.jwt === undefined) {
      warn(path, `"${name}" counts by ${part}, but this route asks for no token: it counts by client address here`)
    }
  }
}

function checkToken(
  config: Config,
  token: NonNullable<Config['routes'][number]['token']>,
  path: Path,
  names: KnownNames,
  refer: Refer,
  error: Report,
): void {
  refer([...path, 'jwt'], token.jwt, names.jwt, 'JWT policy', 'identity.jwt')
  const policy = config.identity.jwt[token.jwt]
  if (policy !== undefined && policy.secret === undefined) {
    error([...path, 'jwt'], `"${token.jwt}" has no "secret" to sign with`)
  }
  if (token.allow === undefined) {
    error(
      path,
      `whoever gets a token here passes "jwt: ${token.jwt}": "allow" must say which client addresses may`,
      'key',
    )
  }
}

/** Two routes with the same conditions: the first one in the file takes all that the second would. */
function checkReachable(
  { match, name }: Config['routes'][number],
  index: number,
  seen: Map<string, { index: number; methods: string[] | undefined }[]>,
  warn: Report,
): void {
  const { methods, ...conditions } = match
  const hosts = conditions.host === undefined || conditions.host.includes('*') ? [''] : conditions.host
  for (const host of hosts) {
    const sorted = (record: object | undefined) => Object.entries(record ?? {}).sort(([a], [b]) => (a < b ? -1 : 1))
    const path = [
      conditions.path,
      conditions.pathPrefix,
      conditions.pathTemplate?.replace(/\{[^}.]+/g, '{'),
      conditions.pathRegex,
    ]
    const key = JSON.stringify([host, path, sorted(conditions.headers), sorted(conditions.query)])
    const earlier = seen.get(key) ?? []
    const winner = earlier.find(
      (other) =>
        (other.methods === undefined && methods === undefined) ||
        (other.methods !== undefined && methods?.every((method) => other.methods!.includes(method))),
    )
    if (winner !== undefined && hosts.length === 1) {
      warn(
        ['routes', index],
        `"${name}" is never reached: routes[${winner.index}] matches the same requests and comes first`,
      )
      return
    }
    earlier.push({ index, methods })
    seen.set(key, earlier)
  }
}
