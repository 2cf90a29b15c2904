/** Whom a request is counted for: the keys of `perKey` and `fairBy`, as text. What a request lacks is its address instead. */

import type { Exchange } from '../../exchange.ts'
import { addressKey } from '../../http/client-address.ts'

export type SubjectOf = (x: Exchange) => string

export function compileSubject(parts: readonly string[], routeName: string): SubjectOf {
  const readers = parts.map((part) => compilePart(part, routeName))
  if (readers.length === 1) return readers[0]!
  return (x) => {
    let text = ''
    for (const read of readers) {
      const value = read(x)
      text += `${value.length} ${value},`
    }
    return text
  }
}

function compilePart(part: string, routeName: string): SubjectOf {
  if (part === 'route') return () => routeName
  const ip: SubjectOf = (x) => `ip:${addressKey(x.clientAddress)}`
  if (part === 'ip') return ip
  const read = compileReader(part)
  return (x) => {
    const value = read(x)
    return value === undefined ? ip(x) : `${part}:${value}`
  }
}

function compileReader(part: string): (x: Exchange) => string | undefined {
  if (part === 'subject') return (x) => x.identity?.subject
  if (part === 'apiKey') return (x) => x.identity?.apiKey
  const name = part.slice(part.indexOf(':') + 1)
  if (part.startsWith('header:')) {
    const field = name.toLowerCase()
    return (x) => x.request.get(field)
  }
  return (x) => {
    const value = x.identity?.claims[name]
    if (typeof value === 'string') return value
    return typeof value === 'number' || typeof value === 'boolean' ? String(value) : undefined
  }
}
