/**
 * From a config file to a checked `Config`, or to all of its problems at once. The only way in: start, reload, `check`
 * and the quick form use it. Importing this module loads zod and yaml, so nothing on the data path does.
 */

import { readFileSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { cacheConfig } from '../policies/cache/config.ts'
import { type CrossFinding, crossCheck, type KnownNames } from './cross-checks.ts'
import { type Finding, findingsOf, valueAt } from './issues.ts'
import { ConfigError, firstOf, formatPath, type Path, type Problem } from './problems.ts'
import { nameRoutes } from './route-names.ts'
import { type Config, configSchema, type ParsedConfig } from './schema.ts'
import { isSecretAt, wantsText } from './schema-walk.ts'
import { ConfigSource } from './source.ts'

export interface LoadedConfig {
  readonly config: Config
  readonly warnings: readonly Problem[]
  /** Absolute paths of what was read: the file itself and every `${file:…}`. What `watchConfig` watches. */
  readonly files: readonly string[]
}

export type Environment = Readonly<Record<string, string | undefined>>

/** Reads and checks a file. Throws `ConfigError`, also when the file is missing or empty. */
export function loadConfig(path: string, env: Environment = process.env): LoadedConfig {
  const absolute = resolve(path)
  let text: string
  try {
    text = readFileSync(absolute, 'utf8')
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    const message = code === 'ENOENT' ? 'there is no such file' : `the file cannot be read (${code ?? 'error'})`
    throw new ConfigError([{ severity: 'error', file: path, line: 0, column: 0, path: '', message }])
  }
  return parse(text, path, absolute, env)
}

/** Checks a text. `fileName` stands in the problems; `${file:…}` is relative to its directory. */
export function parseConfig(text: string, fileName = 'gateway.yaml', env: Environment = process.env): LoadedConfig {
  return parse(text, fileName, resolve(fileName), env)
}

export interface QuickOptions {
  /** `http://127.0.0.1:3000` */
  readonly upstream: string
  /** `:8080` */
  readonly listen?: string
  /** Another address than loopback needs the environment variable ADMIN_TOKEN. */
  readonly admin?: string
  readonly maxCcu?: number
}

/** The config of the quick form: everything goes to one upstream. Throws `ConfigError`. */
export function quickConfig(options: QuickOptions, env: Environment = process.env): LoadedConfig {
  const url = /^[a-z][a-z0-9+.-]*:\/\//i.test(options.upstream) ? options.upstream : `http://${options.upstream}`
  const data = {
    version: 1,
    server: {
      listen: [{ address: options.listen ?? '0.0.0.0:8080' }],
      ...(options.admin === undefined ? {} : { admin: { address: options.admin, token: env['ADMIN_TOKEN'] } }),
    },
    ...(options.maxCcu === undefined ? {} : { admission: { maxCCU: options.maxCcu } }),
    upstreams: { app: { endpoints: [{ url }] } },
    routes: [{ name: 'all', match: { pathPrefix: '/' }, upstream: 'app' }],
  }
  const { config, findings } = check(data, process.cwd())
  const problems = findings.map((finding): Problem => {
    const flag = QUICK_FLAGS.find(([path]) => formatPath(finding.path).startsWith(path))?.[1] ?? ''
    return {
      severity: finding.severity,
      file: 'command line',
      line: 0,
      column: 0,
      path: flag,
      message: told(finding).replace('a "token"', 'a token in the environment variable ADMIN_TOKEN'),
    }
  })
  return settle(config, problems, [])
}

const QUICK_FLAGS = [
  ['server.listen', '--listen'],
  ['server.admin', '--admin'],
  ['admission', '--max-ccu'],
  ['upstreams', '--upstream'],
] as const

const HINTS = {
  wantsText: (path: Path) => wantsText(configSchema, path),
  isSecret: (path: Path) => path.some((_, i) => isSecretAt(configSchema, path.slice(0, i + 1))),
}

function parse(text: string, fileName: string, absolute: string, env: Environment): LoadedConfig {
  const files = new Set([absolute])
  const source = new ConfigSource(text, fileName, { env, directory: dirname(absolute), files }, HINTS)
  const problems: Placed[] = source.problems
  let config: Config | undefined
  if (source.data !== undefined) {
    const checked = check(source.data, dirname(absolute), source.unresolved)
    config = checked.config
    for (const finding of checked.findings) problems.push(place(source, finding))
  } else if (problems.length === 0) {
    const message = 'the file is empty: at least "version: 1" and a route are needed'
    problems.push({ severity: 'error', file: fileName, line: 0, column: 0, path: '', message })
  }
  return settle(config, dedupe(problems), [...files])
}

function settle(config: Config | undefined, problems: readonly Placed[], files: readonly string[]): LoadedConfig {
  const [errors, warnings] = (['error', 'warning'] as const).map((kind) =>
    firstOf(problems.filter(({ severity }) => severity === kind)).map(finished),
  ) as [Problem[], Problem[]]
  if (errors.length > 0 || config === undefined) throw new ConfigError(errors, warnings)
  return { config, warnings, files }
}

/** Puts what others find about a file that was loaded at its place in it, in the order of the file. */
export function placeFindings<F extends CrossFinding>(
  path: string,
  findings: readonly F[],
  env: Environment = process.env,
): { finding: F; problem: Problem }[] {
  if (findings.length === 0) return []
  const absolute = resolve(path)
  const context = { env, directory: dirname(absolute), files: new Set<string>() }
  const source = new ConfigSource(readFileSync(absolute, 'utf8'), path, context, HINTS)
  return findings
    .map((finding) => ({ finding, problem: finished(place(source, finding)) }))
    .sort((a, b) => byPlace(a.problem, b.problem))
}

type SomeFinding = (Finding & { severity: 'error' }) | CrossFinding

/** A problem whose hint is not searched for yet. */
type Placed = Problem & { hint?: () => string }

function finished({ hint, ...problem }: Placed): Problem {
  return hint === undefined ? problem : { ...problem, message: problem.message + hint() }
}

function told({ message, hint }: SomeFinding): string {
  return message + (hint?.() ?? '')
}

/**
 * One round finds what stands at its place in the wrong form; the checks across keys need a value that has the right
 * form. So what was found is taken out and the rest checked again, until nothing new comes up.
 */
function check(
  data: unknown,
  baseDir: string,
  unusable: readonly Path[] = [],
): { config: Config | undefined; findings: SomeFinding[] } {
  const findings: SomeFinding[] = []
  const pruned = new Pruned()
  const candidate = structuredClone(data)
  for (const path of unusable) {
    const gone = takeOut(candidate, path)
    if (gone !== undefined) pruned.add(gone)
  }
  for (let round = 0; round < 32; round++) {
    const result = configSchema.safeParse(candidate)
    if (result.success) {
      const config = finish(result.data, baseDir)
      for (const finding of crossCheck(config, knownNames(data))) {
        // A warning may come of what was taken out; an error stands, unless it is about that very place.
        if (pruned.size > 0 && finding.severity === 'warning') continue
        if (!pruned.concerns(finding.path)) findings.push(finding)
      }
      return { config: findings.some(({ severity }) => severity === 'error') ? undefined : config, findings }
    }
    const found = findingsOf(result.error.issues, configSchema, candidate)
    for (const finding of found) {
      if (!pruned.concerns(finding.path)) findings.push({ ...finding, severity: 'error' })
    }
    // The deepest first: what lies inside goes before what holds it.
    const targets = found.map(({ prune }) => prune).sort((a, b) => b.length - a.length)
    for (const target of targets) {
      const gone = takeOut(candidate, target)
      if (gone === undefined) return { config: undefined, findings }
      pruned.add(gone)
    }
  }
  return { config: undefined, findings }
}

/** Takes out a key, or the nearest key around it, and says which; undefined when nothing sound can be left. */
function takeOut(data: unknown, path: Path): Path | undefined {
  if (typeof data !== 'object' || data === null || Array.isArray(data)) return undefined
  const root = data as Record<string, unknown>
  for (let length = path.length; length > 0; length--) {
    const key = path[length - 1]!
    const parent = valueAt(data, path.slice(0, length - 1))
    if (length === 2 && path[0] === 'routes' && Array.isArray(parent)) {
      // The numbers of the other routes must stay what they are in the file.
      parent[key as number] = standIn(key as number)
      return path.slice(0, 2)
    }
    if (typeof parent !== 'object' || parent === null || Array.isArray(parent) || !Object.hasOwn(parent, key)) continue
    delete (parent as Record<string, unknown>)[key]
    return path.slice(0, length)
  }
  if (root['version'] !== 1) {
    root['version'] = 1
    return ['version']
  }
  if (Array.isArray(root['routes']) && root['routes'].length > 0) return undefined
  root['routes'] = [standIn(0)]
  return ['routes']
}

function standIn(index: number): object {
  return { match: { path: `/stand-in-${index}` }, respond: {} }
}

/** What was taken out. */
class Pruned {
  readonly #gone = new Set<string>()
  readonly #holders = new Set<string>()

  get size(): number {
    return this.#gone.size
  }

  add(path: Path): void {
    this.#gone.add(JSON.stringify(path))
    this.#holders.add(JSON.stringify(path.slice(0, -1)))
  }

  /** What stands in it, and what held it: `routes[0]` lacks an answer because `upsteam` is none. */
  concerns(path: Path): boolean {
    if (this.#holders.has(JSON.stringify(path))) return true
    return path.some((_, i) => this.#gone.has(JSON.stringify(path.slice(0, i + 1))))
  }
}

function finish(parsed: ParsedConfig, baseDir: string): Config {
  const config: Config = { ...parsed, routes: nameRoutes(parsed.routes), baseDir }
  for (const { tls } of Object.values(config.redis)) if (typeof tls === 'object') tls.ca = resolve(baseDir, tls.ca)
  // A route that caches needs a store; its defaults do.
  if (config.cache === undefined && config.routes.some(({ cache }) => cache !== undefined)) {
    config.cache = cacheConfig.parse({})
  }
  return config
}

function knownNames(data: unknown): KnownNames {
  const keys = (...path: string[]) => {
    const value = valueAt(data, path)
    return new Set(typeof value === 'object' && value !== null ? Object.keys(value) : [])
  }
  const tiers = valueAt(data, ['admission', 'tiers'])
  return {
    upstreams: keys('upstreams'),
    jwt: keys('identity', 'jwt'),
    apiKeys: keys('identity', 'apiKeys'),
    rateLimits: keys('rateLimits'),
    redis: keys('redis'),
    tiers: new Set(
      Array.isArray(tiers) ? tiers.flatMap((tier) => (typeof tier?.name === 'string' ? [tier.name] : [])) : [],
    ),
  }
}

function place(source: ConfigSource, finding: SomeFinding): Placed {
  const { path, message, severity, hint } = finding
  const { line, column, depth } = source.locate(path, finding.at)
  // A single value stands for a list of one: `rateLimit: perIp` has no entry 0 to point at.
  const inFile = depth < path.length && typeof path[depth] === 'number' ? path.slice(0, depth) : path
  return {
    severity,
    file: source.fileName,
    line,
    column,
    path: formatPath(inFile),
    message,
    source: source.lineText(line),
    hint,
  }
}

function dedupe(problems: Placed[]): Placed[] {
  const seen = new Set<string>()
  return problems
    .filter((problem) => {
      const key = `${problem.line}:${problem.column}:${problem.path}:${problem.message}`
      return seen.has(key) ? false : seen.add(key)
    })
    .sort(byPlace)
}

function byPlace(a: Problem, b: Problem): number {
  return a.line - b.line || a.column - b.column
}
