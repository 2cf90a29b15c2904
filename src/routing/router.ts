/**
 * Finds the route of a request: the first that matches, most specific first (ties in the order of the file). An index
 * over exact paths and first segments names the few candidates; the property test holds it against a linear search.
 */

import type { MatchConfig } from './config.ts'
import { Matcher, type MatchInput, PARAMETERS, specificity, withoutParameters } from './matcher.ts'

export interface RouteMatch<R> {
  readonly route: R | undefined
  /** When no route matched but some would take another method: these, for `Allow`. */
  readonly allow: readonly string[] | null
}

const NONE: readonly number[] = []

export class Router<R extends { readonly match: MatchConfig }> {
  /** In the order of the search. */
  readonly routes: readonly R[]
  readonly matchers: readonly Matcher[]
  readonly #exact = new Map<string, number[]>()
  readonly #bySegment = new Map<string, number[]>()
  readonly #others: number[] = []

  constructor(routes: readonly R[]) {
    this.routes = sortBySpecificity(routes)
    this.matchers = this.routes.map((route) => new Matcher(route.match))
    for (const [rank, { match }] of this.routes.entries()) {
      const segment = literalFirstSegment(match)
      if (match.path !== undefined) append(this.#exact, match.path, rank)
      else if (segment !== undefined) append(this.#bySegment, segment, rank)
      else this.#others.push(rank)
    }
  }

  find(input: MatchInput): RouteMatch<R> {
    const { path } = input
    const plain = path.includes(PARAMETERS) ? withoutParameters(path) : path
    const exact = plain === path ? (this.#exact.get(path) ?? NONE) : this.#exactOf(path, plain)
    const bySegment = this.#bySegment.get(firstSegment(plain)) ?? NONE
    const others = this.#others
    let i = 0
    let j = 0
    let k = 0
    let allow: Set<string> | null = null
    for (;;) {
      // three sorted lists, merged
      let rank = Number.POSITIVE_INFINITY
      if (i < exact.length) rank = exact[i]!
      if (j < bySegment.length && bySegment[j]! < rank) rank = bySegment[j]!
      if (k < others.length && others[k]! < rank) rank = others[k]!
      if (rank === Number.POSITIVE_INFINITY) break
      if (exact[i] === rank) i++
      else if (bySegment[j] === rank) j++
      else k++
      const matcher = this.matchers[rank]!
      if (matcher.mismatchButMethod(input) !== '') continue
      if (matcher.takesMethod(input.method)) return { route: this.routes[rank]!, allow: null }
      allow ??= new Set()
      for (const method of matcher.methods!) allow.add(method)
    }
    return { route: undefined, allow: allow === null ? null : [...allow] }
  }

  #exactOf(path: string, plain: string): readonly number[] {
    return [...(this.#exact.get(path) ?? NONE), ...(this.#exact.get(plain) ?? NONE)].sort((a, b) => a - b)
  }
}

export function sortBySpecificity<R extends { readonly match: MatchConfig }>(routes: readonly R[]): R[] {
  return routes
    .map((route, index) => ({ route, index, weights: specificity(route.match) }))
    .sort((a, b) => compare(b.weights, a.weights) || a.index - b.index)
    .map(({ route }) => route)
}

function compare(a: readonly number[], b: readonly number[]): number {
  for (const [i, weight] of a.entries()) if (weight !== b[i]) return weight - b[i]!
  return 0
}

/** The first segment when every path that matches begins with it; undefined when it may be any. */
function literalFirstSegment(match: MatchConfig): string | undefined {
  const path = match.pathPrefix ?? match.pathTemplate
  if (path === undefined || path === '/') return undefined
  const segment = firstSegment(withoutParameters(path))
  return segment.includes('{') || segment === '' ? undefined : segment
}

function firstSegment(path: string): string {
  const slash = path.indexOf('/', 1)
  return slash < 0 ? path.slice(1) : path.slice(1, slash)
}

function append(index: Map<string, number[]>, key: string, rank: number): void {
  const ranks = index.get(key)
  if (ranks === undefined) index.set(key, [rank])
  else ranks.push(rank)
}
