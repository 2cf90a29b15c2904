/** Names for routes that have none, made of the match. They become metric labels, so they must not change by accident. */

import type { MatchConfig } from '../routing/config.ts'

const MAX_NAME = 128

/** `GET /api/orders`, `api.example.com/v1/*`, `/users/{id}`, `/*` for everything. */
export function routeName(match: MatchConfig): string {
  const host = match.host === undefined ? '' : match.host.join(',')
  const prefix = match.pathPrefix?.replace(/\/$/, '')
  const path =
    match.path ??
    match.pathTemplate ??
    (prefix !== undefined ? `${prefix}/*` : undefined) ??
    (match.pathRegex !== undefined ? `/~${match.pathRegex}` : '/*')
  const method = match.methods === undefined ? '' : `${match.methods.join(',')} `
  return `${method}${host}${path}`.replace(/[^\x20-\x7e]/g, '?').slice(0, MAX_NAME - 4)
}

/** Gives every route a name of its own; of routes that would share one, all but the first are numbered. */
export function nameRoutes<T extends { name?: string | undefined; match: MatchConfig }>(
  routes: readonly T[],
): (T & { name: string })[] {
  const taken = new Set<string>(routes.flatMap(({ name }) => (name === undefined ? [] : [name])))
  const numbers = new Map<string, number>()
  return routes.map((route) => {
    if (route.name !== undefined) return { ...route, name: route.name }
    const base = routeName(route.match)
    let n = numbers.get(base) ?? 1
    let name = n === 1 ? base : `${base} #${n}`
    while (taken.has(name)) name = `${base} #${++n}`
    numbers.set(base, n)
    taken.add(name)
    return { ...route, name }
  })
}
