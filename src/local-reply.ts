/**
 * Every answer that the gateway writes itself: code, status and wording in one table. The same code stands in the
 * body (RFC 9457 problem+json), the access log, the metric `fluxor_local_replies_total` and docs/errors.md.
 * A gate returns a `LocalReply`; it throws only when something is broken.
 */

export interface LocalReplySpec {
  readonly status: number
  readonly title: string
  /** Closes the client's connection after the answer: the framing of what follows cannot be trusted. */
  readonly close?: boolean
}

export const LOCAL_REPLIES = {
  BAD_REQUEST: { status: 400, title: 'The request is not valid HTTP', close: true },
  NO_ROUTE: { status: 404, title: 'No route matches the request' },
  METHOD: { status: 405, title: 'The method is not allowed here' },
  JWT_MISSING: { status: 401, title: 'A token is required' },
  JWT_INVALID: { status: 401, title: 'The token is not valid' },
  JWT_EXPIRED: { status: 401, title: 'The token has expired' },
  JWT_CLAIM: { status: 403, title: 'The token does not carry a required claim' },
  JWT_KEY: { status: 503, title: 'The keys that verify tokens are not available' },
  KEY_MISSING: { status: 401, title: 'An API key is required' },
  KEY_UNKNOWN: { status: 401, title: 'The API key is not known' },
  KEY_EXPIRED: { status: 401, title: 'The API key has expired' },
  IP_DENIED: { status: 403, title: 'The client address is not allowed here' },
  RATE_LIMITED: { status: 429, title: 'Too many requests' },
  BACKPRESSURE: { status: 503, title: 'At capacity' },
  BREAKER_OPEN: { status: 503, title: 'The upstream is failing and is given time to recover' },
  NO_ENDPOINT: { status: 503, title: 'No upstream endpoint is available' },
  UP_CONNECT: { status: 502, title: 'The upstream could not be reached' },
  UP_RESET: { status: 502, title: 'The upstream closed the connection before its answer was complete' },
  UP_BAD: { status: 502, title: 'The upstream did not answer in valid HTTP' },
  UP_TIMEOUT: { status: 504, title: 'The upstream did not answer in time' },
  TIMEOUT: { status: 504, title: 'The exchange took longer than its route allows' },
  REQUEST_TIMEOUT: { status: 408, title: 'The request did not arrive in time', close: true },
  TOO_LARGE: { status: 413, title: 'The request body is too large' },
  CONTENT_CODING: { status: 415, title: 'The content coding of the request body is not supported' },
  HEAD_TOO_LARGE: { status: 431, title: 'The request header fields are too large', close: true },
  URI_TOO_LONG: { status: 414, title: 'The request target is too long', close: true },
  EXPECTATION: { status: 417, title: 'The expectation cannot be met', close: true },
  UNSUPPORTED: { status: 501, title: 'The request asks for something that is not supported', close: true },
  DRAINING: { status: 503, title: 'The gateway is shutting down' },
  ONLY_IF_CACHED: { status: 504, title: 'No stored answer, and the request allows no other' },
  INTERNAL: { status: 500, title: 'The gateway failed' },
} as const satisfies Record<string, LocalReplySpec>

export type LocalReplyCode = keyof typeof LOCAL_REPLIES

/** What is known about one refusal beyond its code. Field lines end with CRLF each, as in `Retry-After: 1\r\n`. */
export interface LocalReplyDetails {
  /** Overrides the status of the table: a code may answer differently in one known case (CONNECT is 501, TRACE 405). */
  status?: number
  /** Refines the code (`CCU_FULL`); stable, upper case. */
  reason?: string
  /** One sentence for a person. */
  detail?: string
  /** Response field lines to add. */
  fields?: string
  /** Closes the client's connection afterwards, whatever the table says. */
  close?: boolean
  /** Overrides `type` of the problem document; the default is the code's section in docs/errors.md. */
  type?: string
  /** More members of the problem document, JSON values. */
  extra?: Record<string, unknown>
}

/** A refusal, as a value. Immutable, so that a policy can prepare one at load and return it for every request. */
export class LocalReply {
  readonly code: LocalReplyCode
  readonly status: number
  readonly reason: string | undefined
  readonly detail: string | undefined
  readonly fields: string
  readonly close: boolean
  readonly type: string
  readonly extra: Record<string, unknown> | undefined
  #opening: string | undefined = undefined

  constructor(code: LocalReplyCode, details: LocalReplyDetails = {}) {
    const spec: LocalReplySpec = LOCAL_REPLIES[code]
    this.code = code
    this.status = details.status ?? spec.status
    this.reason = details.reason
    this.detail = details.detail
    this.fields = details.fields ?? ''
    this.close = details.close ?? spec.close ?? false
    this.type = details.type ?? LOCAL_REPLY_TYPES[code] ?? `urn:fluxor:error:${code.toLowerCase().replaceAll('_', '-')}`
    this.extra = details.extra
  }

  /** The problem document (RFC 9457), one line of JSON in ASCII. */
  body(requestId: string): string {
    this.#opening ??= this.#open()
    return `${this.#opening}${JSON.stringify(requestId)}}\n`
  }

  /** All but the request's id: a prepared refusal is written down once. */
  #open(): string {
    const { type, status, code, reason, detail } = this
    const title = LOCAL_REPLIES[code].title
    const json = JSON.stringify({ type, title, status, code, reason, detail, ...this.extra })
    return `${asciiJson(json).slice(0, -1)},"requestId":`
  }
}

/** Answers leave as latin1; JSON can say every other character by escapes. */
function asciiJson(json: string): string {
  return json.replaceAll(/[\u0080-\uffff]/g, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`)
}

/** Problem types registered by draft-ietf-httpapi-ratelimit-headers; every other code is its own URN. */
const LOCAL_REPLY_TYPES: Partial<Record<LocalReplyCode, string>> = {
  BACKPRESSURE: 'https://iana.org/assignments/http-problem-types#temporary-reduced-capacity',
  RATE_LIMITED: 'https://iana.org/assignments/http-problem-types#quota-exceeded',
}
