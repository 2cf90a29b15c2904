/** What `balance: hash` goes by: the key of a request, read as `hashKey` says. */

import type { Exchange } from '../../exchange.ts'
import { cookieValue } from '../../http/cookie.ts'

/**
 * What to hash: `ip`, `subject`, `apiKey`, `path`, `uri`, `header:NAME`, `cookie:NAME`, `query:NAME` or `claim:NAME`.
 * Undefined when the text is none of these. The key is '' when a request does not have it.
 */
export function compileHashKey(text: string): ((x: Exchange) => string) | undefined {
  if (text === 'ip') return (x) => x.clientAddress
  if (text === 'subject') return (x) => x.identity?.subject ?? ''
  if (text === 'apiKey') return (x) => x.identity?.apiKey ?? ''
  if (text === 'path') return (x) => x.path
  if (text === 'uri') return (x) => x.path + x.query
  const [, source, name] = /^(header|cookie|query|claim):(.+)$/.exec(text) ?? []
  if (name === undefined) return undefined
  if (source === 'header') {
    const field = name.toLowerCase()
    return (x) => x.request.get(field) ?? ''
  }
  if (source === 'cookie') return (x) => cookieValue(x.request.get('cookie'), name)
  if (source === 'query') return (x) => queryValue(x.query, name)
  return (x) => {
    const claims = x.identity?.claims
    // Claims have no prototype, yet a copy of them might.
    if (claims === undefined || !Object.hasOwn(claims, name)) return ''
    const value = claims[name]
    return typeof value === 'string' || typeof value === 'number' ? String(value) : ''
  }
}

/** The value as it stands in the query, not decoded: equal texts meet, which is all a hash key needs. */
function queryValue(query: string, name: string): string {
  let start = 1
  while (start < query.length) {
    let end = query.indexOf('&', start)
    if (end === -1) end = query.length
    if (query.startsWith(name, start) && query[start + name.length] === '=') {
      return query.slice(start + name.length + 1, end)
    }
    start = end + 1
  }
  return ''
}
