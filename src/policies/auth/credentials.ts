/**
 * Where credentials stand in a request, and how they are taken out of what goes upstream. Pure but for `strip`, which
 * edits the exchange.
 */

import type { Exchange } from '../../exchange.ts'
import { FIELD_ID } from '../../http1/field-names.ts'
import type { MessageHead } from '../../http1/message-head.ts'

/** Two values where one is allowed: which one counts is not for the gateway to guess. */
export const AMBIGUOUS = Symbol('ambiguous')
/** A credential; undefined when there is none. */
export type Found = string | typeof AMBIGUOUS | undefined
export type CredentialSource = (x: Exchange) => Found

const SCHEME = /^bearer(?: +|$)/i

/** RFC 6750 §2.1. Another scheme (Basic) is no token, and someone else's business. */
export function bearerToken({ request }: Exchange): Found {
  const i = request.indexOf(FIELD_ID.authorization)
  if (i < 0) return undefined
  if (request.indexOf(FIELD_ID.authorization, i + 1) >= 0) return AMBIGUOUS
  const value = request.valueAt(i)
  if (value.startsWith('Bearer ') && value.charCodeAt(7) !== 32) return value.slice(7)
  const scheme = SCHEME.exec(value)
  return scheme === null ? undefined : value.slice(scheme[0].length)
}

/** @param lowerCaseName of the field; an empty value counts as none. */
export function fromHeader(lowerCaseName: string): CredentialSource {
  return ({ request }) => {
    const value = request.get(lowerCaseName)
    if (value === undefined || value === '') return undefined
    return value.includes(',') && request.getAll(lowerCaseName).length > 1 ? AMBIGUOUS : value
  }
}

/** The first cookie of that name: browsers send the one with the longest path first (RFC 6265 §5.4). */
export function fromCookie(name: string): CredentialSource {
  return ({ request }) => {
    const cookies = request.value(FIELD_ID.cookie)
    if (cookies?.includes(name) !== true) return undefined
    for (const pair of cookies.split(';')) {
      const [key, value] = splitCookie(pair)
      if (key === name && value !== '') return value
    }
    return undefined
  }
}

function splitCookie(pair: string): [name: string, value: string] {
  const equals = pair.indexOf('=')
  if (equals < 0) return ['', pair.trim()]
  const value = pair.slice(equals + 1).trim()
  const quoted = value.length >= 2 && value.startsWith('"') && value.endsWith('"')
  return [pair.slice(0, equals).trim(), quoted ? value.slice(1, -1) : value]
}

/** A query parameter, percent-decoded. */
export function fromQuery(name: string): CredentialSource {
  const mark = `${name}=`
  return ({ query }) => {
    if (!query.includes(mark)) return undefined
    let found: string | undefined
    for (const pair of query.slice(1).split('&')) {
      if (!pair.startsWith(mark)) continue
      if (found !== undefined) return AMBIGUOUS
      found = pair.slice(mark.length)
    }
    return found === undefined || found === '' ? undefined : percentDecoded(found)
  }
}

function percentDecoded(text: string): string {
  if (!text.includes('%')) return text
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

/** `header`, `header:NAME`, `cookie:NAME`, `query:NAME`, as the schema checked it. */
export function compileSource(from: string): CredentialSource {
  if (from === 'header') return bearerToken
  const colon = from.indexOf(':')
  const name = from.slice(colon + 1)
  if (from.startsWith('cookie:')) return fromCookie(name)
  if (from.startsWith('query:')) return fromQuery(name)
  if (name.toLowerCase() === 'authorization') return bearerToken
  const read = fromHeader(name.toLowerCase())
  return (x) => {
    const value = read(x)
    return typeof value === 'string' ? value.replace(SCHEME, '') : value
  }
}

/** What must not go upstream. */
export interface StripList {
  /** `Authorization`, when it carries a Bearer token. */
  bearer: boolean
  readonly headers: Set<string>
  readonly cookies: Set<string>
  readonly query: Set<string>
}

export function createStripList(): StripList {
  return { bearer: false, headers: new Set(), cookies: new Set(), query: new Set() }
}

export function addToStripList(list: StripList, from: string): void {
  const colon = from.indexOf(':')
  const name = from.slice(colon + 1)
  if (from === 'header' || from.toLowerCase() === 'header:authorization') list.bearer = true
  else if (from.startsWith('cookie:')) list.cookies.add(name)
  else if (from.startsWith('query:')) list.query.add(name)
  else list.headers.add(name.toLowerCase())
}

/** Undefined when there is nothing to take out. Every place that may carry the credential is cleared, not only the one that was read. */
export function compileStrip(list: StripList): ((x: Exchange) => void) | undefined {
  const headers = [...list.headers]
  const { bearer, cookies, query } = list
  if (!bearer && headers.length === 0 && cookies.size === 0 && query.size === 0) return undefined
  return (x) => {
    if (bearer && carriesBearer(x.request)) drop(x, 'authorization')
    for (const name of headers) drop(x, name)
    if (cookies.size > 0) stripCookies(x, cookies)
    if (query.size > 0 && x.query !== '') x.query = withoutParameters(x.query, query)
  }
}

function carriesBearer(request: MessageHead): boolean {
  for (let i = request.indexOf(FIELD_ID.authorization); i >= 0; i = request.indexOf(FIELD_ID.authorization, i + 1)) {
    if (SCHEME.test(request.valueAt(i))) return true
  }
  return false
}

/** The client's own fields of that name stay behind. */
export function drop(x: Exchange, name: string): void {
  if (x.requestDrop === null) x.requestDrop = [name]
  else x.requestDrop.push(name)
}

function stripCookies(x: Exchange, names: ReadonlySet<string>): void {
  const cookies = x.request.value(FIELD_ID.cookie)
  if (cookies === undefined) return
  const pairs = cookies.split(';')
  const kept = pairs.filter((pair) => !names.has(splitCookie(pair)[0]))
  if (kept.length === pairs.length) return
  const rest = kept.map((pair) => pair.trim()).join('; ')
  drop(x, 'cookie')
  if (rest !== '') x.requestFields += `cookie: ${rest}\r\n`
}

/** The query with its `?`, or '' when nothing is left. */
export function withoutParameters(query: string, names: ReadonlySet<string>): string {
  const pairs = query.slice(1).split('&')
  const kept = pairs.filter((pair) => {
    const equals = pair.indexOf('=')
    return !names.has(equals < 0 ? pair : pair.slice(0, equals))
  })
  if (kept.length === pairs.length) return query
  return kept.length === 0 ? '' : `?${kept.join('&')}`
}
