/**
 * Header changes that a route asks for, prepared as field lines at load, and the preset of security headers. Names were
 * checked by the schema: no rule can touch framing or a hop-by-hop field.
 */

import type { Exchange } from '../../exchange.ts'
import type { HeadersConfig, SecurityHeadersConfig } from './config.ts'

export interface HeaderRules {
  /** Lines set on the request that goes upstream; each replaces the client's own of that name. */
  readonly requestFields: string
  /** Names the client's request loses: removed or replaced. */
  readonly requestDrop: readonly string[]
  /** Lines to add to whatever answer is sent. */
  readonly responseFields: string
  /** Names the upstream's answer loses: removed or replaced. */
  readonly responseDrop: readonly string[]
  /** Puts the request's lines on the exchange. Undefined when there are none. */
  readonly applyRequest: ((x: Exchange) => void) | undefined
}

type Edit = HeadersConfig['request']

/**
 * Undefined when nothing is changed.
 * @param reserved lower-case names that no client may send: `add` does not keep the client's lines of these
 */
export function compileHeaders(
  config: HeadersConfig | undefined,
  reserved: ReadonlySet<string> | null = null,
): HeaderRules | undefined {
  if (config === undefined) return undefined
  const { request, response } = config
  if (isEmpty(request) && isEmpty(response)) return undefined
  const requestFields = lines(request.set)
  const added = Object.entries(request.add).map(([name, values]) => {
    const replaced = Object.hasOwn(request.set, name) || request.remove.includes(name) || reserved?.has(name) === true
    return { name, keepsOwn: !replaced, lines: addedLines([name, values]) }
  })
  return {
    requestFields,
    requestDrop: [...request.remove, ...Object.keys(request.set), ...Object.keys(request.add)],
    responseFields: lines(response.set) + Object.entries(response.add).map(addedLines).join(''),
    responseDrop: [...response.remove, ...Object.keys(response.set)],
    applyRequest:
      requestFields === '' && added.length === 0
        ? undefined
        : (x) => {
            x.requestFields += requestFields
            for (const { name, keepsOwn, lines } of added)
              x.requestFields += (keepsOwn ? ownLines(x, name) : '') + lines
          },
  }
}

/** A line in `requestFields` replaces the client's own; those that are to stay are written again before it. */
function ownLines(x: Exchange, name: string): string {
  let own = ''
  for (const value of x.request.getAll(name)) own += `${name}: ${value}\r\n`
  return own
}

function isEmpty({ set, add, remove }: Edit): boolean {
  return Object.keys(set).length === 0 && Object.keys(add).length === 0 && remove.length === 0
}

function lines(set: Readonly<Record<string, string>>): string {
  return Object.entries(set)
    .map(([name, value]) => `${name}: ${value}\r\n`)
    .join('')
}

function addedLines([name, values]: readonly [string, readonly string[]]): string {
  return values.map((value) => `${name}: ${value}\r\n`).join('')
}

export interface SecurityHeaders {
  /** @param secure whether the client came over TLS; browsers ignore Strict-Transport-Security over anything else (RFC 6797 §8.1) */
  fields(secure: boolean): string
  /** The upstream's own values are replaced. */
  readonly responseDrop: readonly string[]
}

/** Undefined when off, or when every value is. */
export function compileSecurityHeaders(config: SecurityHeadersConfig | undefined): SecurityHeaders | undefined {
  if (config === undefined || config === false) return undefined
  const set: Record<string, string> = {}
  if (config.contentTypeOptions) set['X-Content-Type-Options'] = 'nosniff'
  if (config.frameOptions !== false) set['X-Frame-Options'] = config.frameOptions
  if (config.referrerPolicy !== false) set['Referrer-Policy'] = config.referrerPolicy
  if (config.crossOriginOpenerPolicy !== false) set['Cross-Origin-Opener-Policy'] = config.crossOriginOpenerPolicy
  if (config.crossOriginResourcePolicy !== false) set['Cross-Origin-Resource-Policy'] = config.crossOriginResourcePolicy
  if (config.crossDomainPolicies) set['X-Permitted-Cross-Domain-Policies'] = 'none'
  if (config.contentSecurityPolicy !== false) set['Content-Security-Policy'] = config.contentSecurityPolicy
  if (config.permissionsPolicy !== false) set['Permissions-Policy'] = config.permissionsPolicy

  const names = Object.keys(set).map((name) => name.toLowerCase())
  const plain = lines(set)
  let secure = plain
  if (config.hsts !== false) {
    const { maxAge, includeSubDomains, preload } = config.hsts
    const directives = `max-age=${Math.floor(maxAge / 1000)}${includeSubDomains ? '; includeSubDomains' : ''}${preload ? '; preload' : ''}`
    secure += `Strict-Transport-Security: ${directives}\r\n`
    names.push('strict-transport-security')
  }
  if (names.length === 0) return undefined
  return { fields: (isSecure) => (isSecure ? secure : plain), responseDrop: names }
}
