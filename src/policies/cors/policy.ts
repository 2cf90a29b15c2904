/**
 * Cross-origin requests (Fetch standard §3.2): answers preflights before identity and limits are asked, because browsers
 * send them without credentials, and names the origins that may read an answer.
 */

import type { Exchange } from '../../exchange.ts'
import { FIELD_ID } from '../../http1/field-names.ts'
import type { CorsConfig } from './config.ts'

export interface PreflightAnswer {
  readonly status: 204
  /** Field lines, each ending in CRLF. */
  readonly fields: string
}

export interface Cors {
  /** The answer to a preflight; undefined for every other request. An origin that may not read gets an answer that allows nothing. */
  preflight(x: Exchange): PreflightAnswer | undefined
  /** Field lines for the answer to an actual request, local replies included: a script must be able to read a 429. */
  fields(x: Exchange): string
  /** What the upstream says on the matter is dropped: a second Access-Control-Allow-Origin makes browsers refuse both. */
  readonly responseDrop: readonly string[]
}

const RESPONSE_NAMES = [
  'access-control-allow-origin',
  'access-control-allow-credentials',
  'access-control-allow-methods',
  'access-control-allow-headers',
  'access-control-expose-headers',
  'access-control-max-age',
]

/** Longest list of requested header names that is reflected. */
const MAX_REQUESTED = 1024
const NAME_LIST = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?:[ \t]*,[ \t]*[!#$%&'*+\-.^_`|~0-9A-Za-z]+)*$/

export function compileCors(config: CorsConfig): Cors {
  const anyOrigin = config.origins.includes('*')
  const exact = new Set<string>()
  const patterns: { prefix: string; suffix: string }[] = []
  for (const origin of config.origins) {
    const lower = origin.toLowerCase()
    const star = lower.indexOf('*.')
    if (star >= 0) patterns.push({ prefix: lower.slice(0, star), suffix: lower.slice(star + 1) })
    else exact.add(lower)
  }

  const credentials = config.credentials ? 'Access-Control-Allow-Credentials: true\r\n' : ''
  const exposed =
    config.exposeHeaders.length > 0 ? `Access-Control-Expose-Headers: ${config.exposeHeaders.join(', ')}\r\n` : ''
  const methods = `Access-Control-Allow-Methods: ${config.methods.join(', ')}\r\n`
  const reflect = config.headers.includes('*')
  const headers =
    reflect || config.headers.length === 0 ? '' : `Access-Control-Allow-Headers: ${config.headers.join(', ')}\r\n`
  const maxAge = `Access-Control-Max-Age: ${Math.floor(config.maxAge / 1000)}\r\n`
  const preflightVary = 'Vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers\r\n'
  /** Also on answers without an Origin: a cache must not give those to a page of another origin. */
  const vary = anyOrigin ? '' : 'Vary: Origin\r\n'
  const refused: PreflightAnswer = { status: 204, fields: preflightVary }

  function allowOrigin(origin: string | undefined): string {
    if (origin === undefined) return ''
    if (anyOrigin) return 'Access-Control-Allow-Origin: *\r\n' + credentials
    if (exact.has(origin)) return `Access-Control-Allow-Origin: ${origin}\r\n${credentials}`
    for (const { prefix, suffix } of patterns) {
      if (
        origin.startsWith(prefix) &&
        origin.endsWith(suffix) &&
        isHostPart(origin.slice(prefix.length, -suffix.length))
      ) {
        return `Access-Control-Allow-Origin: ${origin}\r\n${credentials}`
      }
    }
    return ''
  }

  return {
    responseDrop: RESPONSE_NAMES,

    preflight(x) {
      const { request } = x
      if (request.method !== 'OPTIONS') return undefined
      if (request.indexOf(FIELD_ID.origin) < 0) return undefined
      if (request.indexOf(FIELD_ID['access-control-request-method']) < 0) return undefined
      const allowed = allowOrigin(request.value(FIELD_ID.origin))
      if (allowed === '') return refused
      let allowedHeaders = headers
      if (reflect) {
        const requested = request.value(FIELD_ID['access-control-request-headers'])
        if (requested !== undefined && requested.length <= MAX_REQUESTED && NAME_LIST.test(requested)) {
          allowedHeaders = `Access-Control-Allow-Headers: ${requested}\r\n`
        }
      }
      return { status: 204, fields: allowed + methods + allowedHeaders + maxAge + preflightVary }
    },

    fields(x) {
      const i = x.request.indexOf(FIELD_ID.origin)
      if (i < 0) return vary
      const allowed = allowOrigin(x.request.value(FIELD_ID.origin))
      return allowed === '' ? vary : allowed + exposed + vary
    },
  }
}

/** One or more host labels: what a `*.` may stand for. */
function isHostPart(text: string): boolean {
  return /^[a-z0-9_-]+(?:\.[a-z0-9_-]+)*$/.test(text)
}
