/**
 * What a parsed head means for the bytes that follow it: how long the body is and which rules of the message are broken.
 * RFC 9112 §3 (targets, Host), §6 (message body length). Anything ambiguous is refused: ambiguity is how requests are
 * smuggled.
 */

import { isIPv6 } from 'node:net'
import { trimOws } from './bytes.ts'
import { FIELD_ID } from './field-names.ts'
import type { HeadError, MessageHead } from './message-head.ts'

/** Framing by number: a Content-Length (≥ 0), or one of these. */
export const CHUNKED = -1
/** Responses only: the body ends where the connection does. */
export const UNTIL_CLOSE = -2

/** How a request is framed and where it points. Reused by its connection. */
export interface RequestFrame {
  /** Body bytes; 0 without a body; CHUNKED. */
  length: number
  /**
   * As to forward: the Host field, or the authority of an absolute-form target; '' in HTTP/1.0 without Host. Always a
   * valid one.
   */
  authority: string
  /** Path and query as received: origin-form. `*` for OPTIONS *. */
  target: string
  keepAlive: boolean
  expectContinue: boolean
  /** Lower-case names that Connection lists beyond close and keep-alive; null: none. */
  connectionNames: string[] | null
}

export function newFrame(): RequestFrame {
  return { length: 0, authority: '', target: '', keepAlive: true, expectContinue: false, connectionNames: null }
}

/** Fills `frame` from the head; returns why the request is refused, or null. */
export function frameRequest(head: MessageHead, frame: RequestFrame): HeadError | null {
  const length = requestLength(head)
  if (typeof length !== 'number') return length
  frame.length = length

  const host = head.indexOf(FIELD_ID.host)
  if (host >= 0 && head.indexOf(FIELD_ID.host, host + 1) >= 0) return bad('more than one Host field')
  if (host < 0 && head.minorVersion === 1) return bad('no Host field')
  let authority = ''
  if (host >= 0 && frame.authority !== '' && head.valueIs(host, frame.authority)) {
    authority = frame.authority // the connection's request before this one said the same, and that was valid
  } else if (host >= 0) {
    authority = head.valueAt(host)
    if (!isAuthority(authority)) return bad('the Host field is not valid')
    authority = interned(authority)
  }

  const { method, target } = head
  if (method === 'CONNECT') return { kind: 'unsupported', detail: 'CONNECT is not supported' }
  frame.target = target
  if (target.charCodeAt(0) !== 47 /* / */) {
    if (target === '*') {
      if (method !== 'OPTIONS') return bad('the asterisk-form is for OPTIONS alone')
    } else {
      const match = ABSOLUTE_FORM.exec(target)
      if (match === null || !isAuthority(match[1]!))
        return bad('the request-target is neither a path nor an absolute URI')
      authority = interned(match[1]!) // RFC 9112 §3.2.2: it replaces the Host field
      const rest = match[2]!
      frame.target = rest === '' ? '/' : rest.charCodeAt(0) === 47 ? rest : `/${rest}`
    }
  }
  frame.authority = authority

  frame.connectionNames = null
  frame.keepAlive = head.minorVersion === 1
  const connection = head.value(FIELD_ID.connection)
  if (connection !== undefined) readConnection(connection, frame, head.minorVersion)

  frame.expectContinue = false
  const expect = head.value(FIELD_ID.expect)
  if (expect !== undefined && head.minorVersion === 1) {
    if (expect.toLowerCase() !== '100-continue') return { kind: 'expectation', detail: 'only 100-continue can be met' }
    frame.expectContinue = length !== 0
  }
  return null
}

function readConnection(value: string, frame: RequestFrame, minorVersion: number): void {
  if (value === 'keep-alive' || value === 'Keep-Alive') {
    frame.keepAlive = true
    return
  }
  let keepAlive = false
  let close = false
  for (const name of listTokens(value)) {
    if (name === 'close') close = true
    else if (name === 'keep-alive') keepAlive = true
    else (frame.connectionNames ??= []).push(name)
  }
  frame.keepAlive = !close && (minorVersion === 1 || keepAlive)
}

function requestLength(head: MessageHead): number | HeadError {
  const te = head.indexOf(FIELD_ID['transfer-encoding'])
  const cl = head.indexOf(FIELD_ID['content-length'])
  if (te >= 0) {
    if (cl >= 0) return bad('both Transfer-Encoding and Content-Length')
    if (head.minorVersion === 0) return bad('Transfer-Encoding in HTTP/1.0')
    if (head.indexOf(FIELD_ID['transfer-encoding'], te + 1) >= 0) return bad('more than one Transfer-Encoding field')
    const coding = head.valueAt(te).toLowerCase()
    if (coding === 'chunked') return CHUNKED
    return OTHER_CODINGS.test(coding)
      ? { kind: 'unsupported', detail: 'the transfer coding is not supported' }
      : bad('the Transfer-Encoding field is not exactly chunked')
  }
  if (cl < 0) return 0
  if (head.indexOf(FIELD_ID['content-length'], cl + 1) >= 0) return bad('more than one Content-Length field')
  const length = parseLength(head.valueAt(cl))
  return length < 0 ? bad('the Content-Length is not a number that can be') : length
}

/**
 * How an answer's body is framed (RFC 9112 §6.3). 0 also where a body cannot be: HEAD, 204, 304.
 * The Content-Length of such an answer still says something: see `declaredLength`.
 */
export function frameResponse(head: MessageHead, method: string): number | HeadError {
  const { status } = head
  if (method === 'HEAD' || status === 204 || status === 304 || status < 200) return 0
  const te = head.indexOf(FIELD_ID['transfer-encoding'])
  const cl = head.indexOf(FIELD_ID['content-length'])
  if (te >= 0) {
    if (cl >= 0) return bad('both Transfer-Encoding and Content-Length')
    if (head.minorVersion === 0) return bad('Transfer-Encoding in HTTP/1.0')
    const coding = head.value(FIELD_ID['transfer-encoding'])!.toLowerCase()
    return coding === 'chunked' ? CHUNKED : bad('a transfer coding other than chunked')
  }
  return cl < 0 ? UNTIL_CLOSE : declaredLength(head)
}

/** The Content-Length of a response; -1 when it has none. Equal repetitions count as one (RFC 9110 §8.6). */
export function declaredLength(head: MessageHead): number | HeadError {
  const cl = head.indexOf(FIELD_ID['content-length'])
  if (cl < 0) return -1
  let text = head.valueAt(cl)
  if (text.includes(',') || head.indexOf(FIELD_ID['content-length'], cl + 1) >= 0) {
    const values = new Set(head.value(FIELD_ID['content-length'])!.split(',').map(trimOws))
    if (values.size !== 1) return bad('Content-Length fields that differ')
    text = [...values][0]!
  }
  const length = parseLength(text)
  return length < 0 ? bad('the Content-Length is not a number that can be') : length
}

/** Digits alone, at most 2^53 - 1; else -1. */
export function parseLength(text: string): number {
  const digits = text.length
  if (digits === 0 || digits > 16) return -1
  let value = 0
  for (let i = 0; i < digits; i++) {
    const digit = text.charCodeAt(i) - 48
    if (digit < 0 || digit > 9) return -1
    value = value * 10 + digit
  }
  return value <= Number.MAX_SAFE_INTEGER ? value : -1
}

/** The tokens of a comma-separated field value, lower case, empty elements dropped (RFC 9110 §5.6.1). */
export function listTokens(value: string): string[] {
  if (value === 'keep-alive' || value === 'close') return [value] // nearly always
  const tokens: string[] = []
  for (const part of value.split(',')) {
    const token = trimOws(part).toLowerCase()
    if (token !== '') tokens.push(token)
  }
  return tokens
}

const authorities = new Map<string, string>()
const MAX_AUTHORITIES = 256

/**
 * The same text for all connections to one host: what is remembered by it is then found by comparing pointers, and a
 * connection that waits for its next request does not keep the last head, which the text was cut from.
 */
function interned(authority: string): string {
  let text = authorities.get(authority)
  if (text === undefined) {
    text = Buffer.from(authority, 'latin1').toString('latin1')
    if (authorities.size >= MAX_AUTHORITIES) authorities.clear()
    authorities.set(text, text)
  }
  return text
}

/** RFC 9110 §7.2 uri-host [":" port]: a name or address, no userinfo, no path, never empty. */
export function isAuthority(text: string): boolean {
  if (!AUTHORITY.test(text)) return false
  return text.charCodeAt(0) !== 91 /* [ */ || isIPv6(text.slice(1, text.indexOf(']')))
}

const PORT = /(?::(?:[0-5]?\d{1,4}|6[0-4]\d{3}|65[0-4]\d{2}|655[0-2]\d|6553[0-5]))?/
const AUTHORITY = new RegExp(`^(?:[A-Za-z0-9\\-._~!$&'()*+;=%]{1,255}|\\[[0-9A-Fa-f:.]{2,45}\\])${PORT.source}$`)
const ABSOLUTE_FORM = /^https?:\/\/([^/?]*)(.*)$/i
const OTHER_CODINGS = /^[a-z0-9-]+(?:\s*,\s*[a-z0-9-]+)*\s*,\s*chunked$|^(?!identity$)[a-z0-9-]+$/

function bad(detail: string): HeadError {
  return { kind: 'bad', detail }
}
