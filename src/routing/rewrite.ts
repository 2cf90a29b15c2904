/** Changes the path between the client and the upstream. Asked once a try; the route was matched on the path as it came. */

import type { RouteConfig } from '../config/schema.ts'
import { literalPath, normalisePath } from '../http/path.ts'
import { PARAMETERS, pathPattern, withoutParameters } from './matcher.ts'

/** Undefined when the path stays. */
export function compileRewrite({ rewrite, match }: RouteConfig): ((path: string) => string) | undefined {
  if (rewrite === undefined) return undefined
  if (rewrite.prefix !== undefined) {
    const matched = trimSlash(match.pathPrefix ?? '/')
    const prefix = trimSlash(literalPath(rewrite.prefix) ?? rewrite.prefix)
    return (path) => {
      // Where parameters stood in what was matched, they go with it.
      const known = path.startsWith(matched) && (path.length === matched.length || path[matched.length] === '/')
      const rest = (known ? path : withoutParameters(path)).slice(matched.length)
      return prefix + rest || '/'
    }
  }
  const target = literalPath(rewrite.path!) ?? rewrite.path!
  const pattern = pathPattern(match.pathTemplate, match.pathRegex)
  if (pattern === null) return () => target
  return (path) => {
    const found = pattern.exec(path) ?? (path.includes(PARAMETERS) ? pattern.exec(withoutParameters(path)) : null)
    const groups = found?.groups ?? {}
    const rewritten = target.replaceAll(/\{(\w+)\}/g, (whole, name: string) =>
      name in groups ? (groups[name] ?? '') : whole,
    )
    // What a group took may begin with a slash, or be half a segment.
    return normalisePath(rewritten, true) ?? rewritten
  }
}

function trimSlash(path: string): string {
  return path.endsWith('/') ? path.slice(0, -1) : path
}
