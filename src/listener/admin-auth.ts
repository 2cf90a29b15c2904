/**
 * Who may use the admin listener: a bearer token for programs, a session cookie for browsers, and where there is no
 * token (loopback only) the rules that keep web pages of other sites out. Pure but for the clock passed in.
 */

import { createHash, createHmac, timingSafeEqual } from 'node:crypto'
import type { IncomingHttpHeaders } from 'node:http'
import { isIP } from 'node:net'

const COOKIE = 'fluxor_session'
const SESSION_MS = 12 * 3_600_000

/** Compared by digest: neither content nor length shows in the time it takes. */
export function sameSecret(given: string, expected: string): boolean {
  const digest = (text: string) => createHash('sha256').update(text).digest()
  return timingSafeEqual(digest(given), digest(expected))
}

export function bearerToken(headers: IncomingHttpHeaders): string | undefined {
  return /^Bearer +(\S+)$/i.exec(headers.authorization ?? '')?.[1]
}

/**
 * A session is its end and a MAC over it, keyed with the admin token: nothing is stored, it outlives a restart, it ends
 * when the token changes, and it does not tell the token.
 */
export function sessionCookie(token: string, nowMs: number): string {
  const value = sessionValue(token, nowMs + SESSION_MS)
  return `${COOKIE}=${value}; Path=/; Max-Age=${SESSION_MS / 1000}; HttpOnly; SameSite=Strict`
}

export const ENDED_SESSION = `${COOKIE}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict`

export function hasSession(headers: IncomingHttpHeaders, token: string, nowMs: number): boolean {
  for (const part of (headers.cookie ?? '').split(';')) {
    const [name, value = ''] = part.trim().split('=')
    if (name !== COOKIE) continue
    const endMs = Number(value.split('.')[0])
    if (endMs > nowMs && endMs <= nowMs + SESSION_MS && sameSecret(value, sessionValue(token, endMs))) return true
  }
  return false
}

function sessionValue(token: string, endMs: number): string {
  return `${endMs}.${createHmac('sha256', token).update(`fluxor admin session until ${endMs}`).digest('hex')}`
}

/** Whether a page of another site is behind the request. Programs send neither field. */
export function isCrossSite(headers: IncomingHttpHeaders): boolean {
  const site = headers['sec-fetch-site']
  if (site !== undefined) return site !== 'same-origin' && site !== 'none'
  const { origin } = headers
  return origin !== undefined && URL.parse(origin)?.host !== headers.host
}

/** Whether the Host is an address or localhost: a page that rebinds its own name to 127.0.0.1 comes with that name. */
export function isLocalHost(headers: IncomingHttpHeaders): boolean {
  const hostname = URL.parse(`http://${headers.host ?? ''}`)?.hostname ?? ''
  return hostname === 'localhost' || hostname.endsWith('.localhost') || isIP(hostname.replace(/^\[|\]$/g, '')) !== 0
}

/** Where to go after the login: a path of this listener, nothing else. */
export function safeNext(next: string | null): string {
  return next !== null && /^\/(?![/\\])[\x21-\x5b\x5d-\x7e]*$/.test(next) ? next : '/dashboard'
}
