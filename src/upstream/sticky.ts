/**
 * Sticky sessions by cookie: asked before the balancer, and again at the answer's head to bind a client that is new or
 * whose endpoint is gone.
 *
 * The cookie's value is an HMAC over the upstream's name and the endpoint's stable key. It tells nothing of addresses
 * inside, cannot be made up for another endpoint, and means the same after a reload, in every thread and in every
 * gateway with the same secret. An endpoint of weight 0 keeps its clients; a drained or failing one loses them.
 */

import { createHmac } from 'node:crypto'
import { cookieValue } from '../http/cookie.ts'
import type { Endpoint } from './endpoint.ts'

export interface StickyOptions {
  /** The upstream's name: equal addresses in two upstreams get different values. */
  readonly upstream: string
  readonly cookie: string
  /**
   * The same in all threads and gateways that serve the same clients. Without one a client that knows the addresses
   * inside can choose its endpoint, and no more than that.
   */
  readonly secret?: string
  /** Absent or 0: until the browser is closed. */
  readonly maxAgeSec?: number
  readonly path?: string
  readonly domain?: string
  readonly secure?: boolean
  readonly httpOnly?: boolean
  readonly sameSite?: 'Strict' | 'Lax' | 'None'
}

export class Sticky {
  readonly #cookie: string
  readonly #options: StickyOptions
  readonly #attributes: string
  #byValue = new Map<string, Endpoint>()
  #valueByKey = new Map<string, string>()

  constructor(options: StickyOptions) {
    this.#options = options
    this.#cookie = options.cookie
    const parts = [`; Path=${options.path ?? '/'}`]
    if (options.domain !== undefined) parts.push(`; Domain=${options.domain}`)
    if ((options.maxAgeSec ?? 0) > 0) parts.push(`; Max-Age=${Math.floor(options.maxAgeSec!)}`)
    if (options.httpOnly !== false) parts.push('; HttpOnly')
    // Browsers drop SameSite=None without Secure.
    if (options.secure === true || options.sameSite === 'None') parts.push('; Secure')
    parts.push(`; SameSite=${options.sameSite ?? 'Lax'}`)
    this.#attributes = parts.join('')
  }

  /** Learns the endpoints; to be called whenever the set changes. */
  update(endpoints: readonly Endpoint[]): void {
    const byValue = new Map<string, Endpoint>()
    const valueByKey = new Map<string, string>()
    for (const endpoint of endpoints) {
      const value = this.#valueByKey.get(endpoint.key) ?? this.#sign(endpoint.key)
      byValue.set(value, endpoint)
      valueByKey.set(endpoint.key, value)
    }
    this.#byValue = byValue
    this.#valueByKey = valueByKey
  }

  /** The endpoint that the client is bound to, when it can serve. @param cookies the request's Cookie field */
  find(cookies: string | undefined, nowMs: number): Endpoint | undefined {
    const endpoint = this.#named(cookies)
    return endpoint?.isUp(nowMs) ? endpoint : undefined
  }

  /** The Set-Cookie line for an answer from `endpoint`; '' when the client has that cookie already. */
  bind(cookies: string | undefined, endpoint: Endpoint): string {
    if (this.#named(cookies) === endpoint) return ''
    const value = this.#valueByKey.get(endpoint.key)
    return value === undefined ? '' : `Set-Cookie: ${this.#cookie}=${value}${this.#attributes}\r\n`
  }

  #named(cookies: string | undefined): Endpoint | undefined {
    if (cookies === undefined) return undefined
    const value = cookieValue(cookies, this.#cookie)
    return value === '' ? undefined : this.#byValue.get(value)
  }

  /** 128 bits, in 22 characters. */
  #sign(key: string): string {
    const { secret = '', upstream } = this.#options
    return createHmac('sha256', secret).update(`${upstream}\n${key}`).digest('base64url').slice(0, 22)
  }
}
