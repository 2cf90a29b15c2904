/**
 * What one route asks of a request, compiled: host, path, method, header fields, query. A condition says why it does not
 * hold, so that `explain` and the request path share one truth.
 */

import type { MessageHead } from '../http1/message-head.ts'
import type { MatchCondition, MatchConfig } from './config.ts'

export interface MatchInput {
  /** Normalised. */
  readonly path: string
  /** With its `?`, or ''. */
  readonly query: string
  readonly method: string
  /** Lower case, as the client sent it, with a port if any. */
  readonly authority: string
  readonly head: MessageHead
  /** The client came over TLS, to us or to a trusted proxy. */
  readonly secure?: boolean
}

/** What kept a route from matching, the first that failed; '' when it matches. */
export type Mismatch = '' | 'scheme' | 'host' | 'path' | 'method' | 'header' | 'query'

type ValueTest = (value: string | undefined) => boolean

interface Condition {
  readonly name: string
  readonly test: ValueTest
}

export class Matcher {
  readonly config: MatchConfig
  /** Methods that the route takes; null: all. HEAD is in it where GET is (RFC 9110 §9.3.2). */
  readonly methods: ReadonlySet<string> | null
  readonly #hosts: readonly HostPattern[] | null
  readonly #path: ((path: string) => boolean) | null
  readonly #headers: readonly Condition[]
  readonly #query: readonly Condition[]

  constructor(config: MatchConfig) {
    this.config = config
    this.methods = config.methods === undefined ? null : new Set(config.methods)
    if (config.methods?.includes('GET')) (this.methods as Set<string>).add('HEAD')
    this.#hosts = config.host === undefined || config.host.includes('*') ? null : config.host.map(parseHostPattern)
    const test = compilePath(config)
    this.#path = test && ((path) => test(path) || (path.includes(PARAMETERS) && test(withoutParameters(path))))
    this.#headers = compileConditions(config.headers)
    this.#query = compileConditions(config.query)
  }

  /** All conditions but the method: what 405 and `Allow` are made of. */
  mismatchButMethod(input: MatchInput): Mismatch {
    if (this.#path !== null && !this.#path(input.path)) return 'path'
    if (this.#hosts !== null && !this.#hosts.some((pattern) => matchesHost(pattern, input.authority))) return 'host'
    const { scheme } = this.config
    if (scheme !== undefined && (scheme === 'https') !== (input.secure ?? false)) return 'scheme'
    for (const { name, test } of this.#headers) if (!test(input.head.get(name))) return 'header'
    if (this.#query.length > 0) {
      const query = new URLSearchParams(input.query)
      for (const { name, test } of this.#query) if (!test(query.get(name) ?? undefined)) return 'query'
    }
    return ''
  }

  takesMethod(method: string): boolean {
    return this.methods === null || this.methods.has(method)
  }

  mismatch(input: MatchInput): Mismatch {
    const mismatch = this.mismatchButMethod(input)
    return mismatch === '' && !this.takesMethod(input.method) ? 'method' : mismatch
  }
}

interface HostPattern {
  readonly name: string
  /** `.example.com` of `*.example.com`; '' when exact. */
  readonly suffix: string
  readonly port: string
}

function parseHostPattern(text: string): HostPattern {
  const { name, port } = splitAuthority(text)
  return { name, suffix: name.startsWith('*.') ? name.slice(1) : '', port }
}

function matchesHost(pattern: HostPattern, authority: string): boolean {
  const { name, port } = splitAuthority(authority)
  if (pattern.port !== '' && pattern.port !== port) return false
  return pattern.suffix === ''
    ? name === pattern.name
    : name.length > pattern.suffix.length && name.endsWith(pattern.suffix)
}

/** Host and port of `host:port` or `[v6]:port`, both as text; a trailing dot of the name is dropped. */
export function splitAuthority(authority: string): { name: string; port: string } {
  const colon = authority.lastIndexOf(':')
  const hasPort = colon > authority.lastIndexOf(']')
  const name = hasPort ? authority.slice(0, colon) : authority
  return { name: name.endsWith('.') ? name.slice(0, -1) : name, port: hasPort ? authority.slice(colon + 1) : '' }
}

export const PARAMETERS = ';'

/**
 * The path as many services read it, dropping the parameters of its segments (RFC 3986 §3.3). What is decided about
 * `/private` is decided about `/private;x` and `/;x/private` as well; they are forwarded as they came.
 */
export function withoutParameters(path: string): string {
  return path.replace(/;[^/]*/g, '').replace(/\/{2,}/g, '/')
}

function compilePath(config: MatchConfig): ((path: string) => boolean) | null {
  const { path, pathPrefix, pathTemplate, pathRegex } = config
  if (path !== undefined) return (actual) => actual === path
  if (pathPrefix !== undefined) {
    const prefix = pathPrefix.endsWith('/') ? pathPrefix.slice(0, -1) : pathPrefix
    if (prefix === '') return null
    return (actual) =>
      actual.startsWith(prefix) && (actual.length === prefix.length || actual.charCodeAt(prefix.length) === 47)
  }
  const regex = pathPattern(pathTemplate, pathRegex)
  return regex === null ? null : (actual) => regex.test(actual)
}

/** The pattern of a template or regex, with named groups for what the template takes; null for neither. */
export function pathPattern(pathTemplate: string | undefined, pathRegex: string | undefined): RegExp | null {
  if (pathTemplate !== undefined) {
    const source = pathTemplate.replaceAll(/\{(\w+)(\.\.\.)?\}|[.*+?^${}()|[\]\\/-]/g, (match, name, rest) =>
      name === undefined ? `\\${match}` : rest === undefined ? `(?<${name}>[^/]+)` : `(?<${name}>.*)`,
    )
    return new RegExp(`^${source}$`)
  }
  return pathRegex === undefined ? null : new RegExp(`^(?:${pathRegex})$`, 'u')
}

function compileConditions(conditions: Readonly<Record<string, MatchCondition>> = {}): Condition[] {
  return Object.entries(conditions).map(([name, condition]) => ({ name, test: compileCondition(condition) }))
}

function compileCondition(condition: MatchCondition): ValueTest {
  if (typeof condition === 'string') return (value) => value === condition
  const regex = condition.regex === undefined ? undefined : new RegExp(`^(?:${condition.regex})$`, 'u')
  const present = condition.present ?? true
  return (value) =>
    (value !== undefined) === present && (regex === undefined || value === undefined || regex.test(value))
}

/**
 * How specific a match is, most significant first: host (exact, wildcard by length, any), path (exact, template by its
 * literal length, prefix by length, regex, any), then the number of further conditions. The prefix `/` counts as any:
 * the route for all the rest must not hide those that say more.
 */
export function specificity(config: MatchConfig): number[] {
  const hosts = config.host === undefined || config.host.includes('*') ? [] : config.host
  const exactHosts = hosts.filter((host) => !host.startsWith('*.'))
  const host = hosts.length === 0 ? 0 : exactHosts.length > 0 ? 1000 : Math.min(...hosts.map((name) => name.length))
  const { path, pathTemplate, pathPrefix, pathRegex } = config
  const kind =
    path !== undefined
      ? 4
      : pathTemplate !== undefined
        ? 3
        : pathPrefix !== undefined && pathPrefix !== '/'
          ? 2
          : pathRegex !== undefined
            ? 1
            : 0
  const length = (path ?? pathTemplate?.replaceAll(/\{[^}]*\}/g, '') ?? pathPrefix ?? '').length
  const named = Object.keys(config.headers ?? {}).length + Object.keys(config.query ?? {}).length
  const conditions = named + (config.scheme === undefined ? 0 : 1)
  return [host, kind, length, conditions, config.methods === undefined ? 0 : 1]
}
