/**
 * What a message loses and gains on its way through a proxy: RFC 9110 §7.6 (hop-by-hop fields, Via), X-Forwarded-*,
 * RFC 7239. Hop-by-hop and Connection-listed fields go first, ours are set afterwards, so that nobody can nominate ours.
 */

import { randomBytes } from 'node:crypto'
import type { Exchange } from '../exchange.ts'
import { flat } from '../http1/bytes.ts'
import { FIELD_ID, type FieldName } from '../http1/field-names.ts'
import { listTokens } from '../http1/framing.ts'
import type { MessageHead } from '../http1/message-head.ts'
import { withoutFields } from './field-lines.ts'

const HOP_BY_HOP: FieldName[] = [
  'connection', 'keep-alive', 'proxy-connection', 'proxy-authenticate', 'proxy-authorization', 'proxy-authentication-info',
  'te', 'trailer', 'transfer-encoding', 'upgrade', 'http2-settings',
] // biome-ignore format: a table

/** Fields of a request that are written anew or stay behind. */
const REQUEST_DROP = dropTable([
  ...HOP_BY_HOP, 'host', 'content-length', 'expect', 'via', 'forwarded', 'x-forwarded-for', 'x-forwarded-proto',
  'x-forwarded-host', 'x-forwarded-port', 'x-real-ip', 'x-request-id',
]) // biome-ignore format: a table

/** The same when the peer is a trusted proxy: what it said of the client is kept. */
const TRUSTED_REQUEST_DROP = REQUEST_DROP.slice()
TRUSTED_REQUEST_DROP[FIELD_ID.forwarded] = 0

/** Fields of an answer that are written anew or stay behind. */
const RESPONSE_DROP = dropTable([...HOP_BY_HOP, 'content-length', 'x-request-id', 'fluxor-slots', 'fluxor-shed'])

function dropTable(names: readonly FieldName[]): Uint8Array {
  const table = new Uint8Array(256)
  for (const name of names) table[FIELD_ID[name]] = 1
  return table
}

export interface ForwardOptions {
  /** In place of the client's Host; '' keeps that. */
  readonly host: string
  readonly dropUnderscores: boolean
  /**
   * Lower-case names that stay behind, whoever sends them: those that only the gateway may set (claims, key metadata), and
   * those that the route sets or takes out. Every line in `Exchange.requestFields` has its name here or in `requestDrop`.
   */
  readonly names: ReadonlySet<string> | null
  /** The route may set fields that the gateway sets too, in place of these. */
  readonly setsOwn: boolean
  /** Adds RFC 7239 Forwarded. */
  readonly forwarded: boolean
  /** Starts a trace (W3C Trace Context) where the request brings none. */
  readonly startTrace: boolean
}

/**
 * Start line and fields of the request that goes upstream, without framing. Each line ends in CRLF.
 * @param endpoint authority of the endpoint, for requests that came without a Host
 */
export function requestHead(x: Exchange, path: string, endpoint: string, options: ForwardOptions): string {
  const { request } = x
  const host = options.host || x.authority || endpoint
  let { names } = options
  let more = droppedNames(x)
  if (more !== null && more.length > FEW_NAMES) {
    names = new Set([...(names ?? []), ...more])
    more = null
  }
  const drop = x.peerTrusted ? TRUSTED_REQUEST_DROP : REQUEST_DROP
  return (
    `${request.method} ${path}${x.query} HTTP/1.1\r\nHost: ${host}\r\n` +
    request.fieldLines(drop, options.dropUnderscores, names, more) +
    via(request) +
    ownFields(x, options) +
    (options.startTrace && request.indexOf(FIELD_ID.traceparent) < 0 ? newTraceparent() : '') +
    x.requestFields
  )
}

/** RFC 9110 §7.6.3: the version in which the message came. */
function via(request: MessageHead): string {
  const earlier = request.value(FIELD_ID.via)
  if (earlier) return `Via: ${earlier}, 1.${request.minorVersion} fluxor\r\n`
  return request.minorVersion === 1 ? 'Via: 1.1 fluxor\r\n' : 'Via: 1.0 fluxor\r\n'
}

const OWN = /^(?:forwarded|x-real-ip|x-request-id|x-forwarded-.*)$/i

/** Whether one of these names is among those that the gateway writes itself. */
export function setsOwn(names: Iterable<string>): boolean {
  for (const name of names) if (OWN.test(name)) return true
  return false
}

/** What the gateway says of the client and the request. A field that the route sets itself takes our place. */
function ownFields(x: Exchange, options: ForwardOptions): string {
  const fields =
    (x.peerTrusted ? trustedFields(x) : untrustedFields(x)) +
    `X-Request-ID: ${x.requestId}\r\n` +
    (options.forwarded ? forwardedField(x) : '')
  if (!options.setsOwn || x.requestFields === '') return fields
  const names = new Set<string>()
  addLineNames(names, x.requestFields)
  return withoutFields(fields, (name) => names.has(name))
}

const tracePrefix = randomBytes(12).toString('hex')
let traces = 0

/** Unique by a random prefix and a count: a random number for each request costs more than the rest of the head. */
function newTraceparent(): string {
  const id = (traces++ & 0xffffffff) >>> 0
  const hex = id.toString(16).padStart(8, '0')
  return `traceparent: 00-${tracePrefix}${hex}-${tracePrefix.slice(0, 8)}${hex}-01\r\n`
}

/** The usual peer says nothing that is believed: these lines are the same for all its requests to one host. */
function untrustedFields(x: Exchange): string {
  const { client, authority } = x
  if (client.forwarded?.authority === authority) return client.forwarded.fields
  const address = client.remoteAddress
  const { secure, port } = client.listener
  const fields = flat(
    `X-Forwarded-For: ${address}\r\nX-Real-IP: ${address}\r\n` +
      `X-Forwarded-Proto: ${secure ? 'https' : 'http'}\r\nX-Forwarded-Port: ${port}\r\n` +
      (authority === '' ? '' : `X-Forwarded-Host: ${authority}\r\n`),
  )
  client.forwarded = { authority, fields }
  return fields
}

function trustedFields(x: Exchange): string {
  const { request, client } = x
  const chain = request.value(FIELD_ID['x-forwarded-for'])
  const kept = (id: number, own: string) => request.value(id) ?? own
  const host = kept(FIELD_ID['x-forwarded-host'], x.authority)
  return (
    `X-Forwarded-For: ${chain ? `${chain}, ` : ''}${client.remoteAddress}\r\n` +
    `X-Real-IP: ${x.clientAddress}\r\n` +
    `X-Forwarded-Proto: ${kept(FIELD_ID['x-forwarded-proto'], client.listener.secure ? 'https' : 'http')}\r\n` +
    `X-Forwarded-Port: ${kept(FIELD_ID['x-forwarded-port'], String(client.listener.port))}\r\n` +
    (host === '' ? '' : `X-Forwarded-Host: ${host}\r\n`)
  )
}

/** RFC 7239 §4: values that are no tokens are quoted, IPv6 addresses bracketed. */
function forwardedField(x: Exchange): string {
  const { remoteAddress, listener } = x.client
  const node = remoteAddress.includes(':') ? `"[${remoteAddress}]"` : remoteAddress
  const host = x.authority === '' ? '' : `;host="${x.authority}"`
  return `Forwarded: for=${node}${host};proto=${listener.secure ? 'https' : 'http'}\r\n`
}

/** Whether the client used TLS, to us or, as a trusted peer says, to the proxy in front. */
export function cameSecurely(x: Exchange): boolean {
  const told = x.peerTrusted ? x.request.value(FIELD_ID['x-forwarded-proto']) : undefined
  return told === undefined ? x.client.listener.secure : told.toLowerCase() === 'https'
}

/** Up to so many are looked through, field by field. */
const FEW_NAMES = 8

/** What stays behind of this request beside; null: nothing. */
function droppedNames({ connectionNames, requestDrop }: Exchange): readonly string[] | null {
  if (connectionNames === null) return requestDrop
  return requestDrop === null ? connectionNames : [...connectionNames, ...requestDrop]
}

/** Adds the lower-case names of field lines to a set. */
export function addLineNames(names: Set<string>, lines: string): void {
  for (let at = 0; at < lines.length; ) {
    const colon = lines.indexOf(':', at)
    if (colon < 0) return
    names.add(lines.slice(at, colon).toLowerCase())
    const lineEnd = lines.indexOf('\n', colon)
    if (lineEnd < 0) return
    at = lineEnd + 1
  }
}

/**
 * The end-to-end field lines of an upstream's answer.
 * @param drop lower-case names that the route takes out; null: none
 */
export function responseFields(head: MessageHead, drop: ReadonlySet<string> | null): string {
  let names = drop
  const connection = head.value(FIELD_ID.connection)
  if (connection !== undefined && connection !== 'keep-alive' && connection !== 'close') {
    const listed = listTokens(connection).filter((name) => name !== 'close' && name !== 'keep-alive')
    if (listed.length > 0) names = new Set([...(drop ?? []), ...listed])
  }
  return head.fieldLines(RESPONSE_DROP, false, names, null)
}
