/**
 * The contract between who sends a request and what carries it to an endpoint, and what all carriers share: the kinds of
 * failure, the limits of an answer's head, how a socket is opened. Holds no state.
 */

import net from 'node:net'
import type tls from 'node:tls'
import type { BodySink, BodySource, ResponseSink, Tunnel } from '../exchange.ts'
import { FIELD_ID } from '../http1/field-names.ts'
import type { HeadLimits, MessageHead } from '../http1/message-head.ts'
import type { Endpoint } from './endpoint.ts'

/** Why an attempt failed. `connect` and `connectTimeout`: not a byte was sent. */
export type FailureKind = 'connect' | 'connectTimeout' | 'reset' | 'bad' | 'timeout'

/** Who holds a connection for one request. */
export interface Attempt {
  readonly method: string
  /** An interim answer; 100 and 101 never come here. */
  informational(head: MessageHead): void
  /** The final head. @param length as in `ResponseSink.head`. Returns where the body goes. */
  head(head: MessageHead, length: number): ResponseSink
  /** No final head came. The connection is gone. */
  failed(kind: FailureKind, detail: string): void
  /** The body broke off after the head; the sink is told next. The connection is gone. */
  broken(kind: FailureKind, detail: string): void
  /** The whole answer was read. The connection is back in its pool or gone. */
  done(): void
  /**
   * The upstream took the WebSocket (a handshake's carrier alone says so). Returns where its bytes go; `done()` or
   * `broken()` follows as after `head()`.
   */
  upgraded?(head: MessageHead, tunnel: Tunnel): ResponseSink
}

/** What carries one request to an endpoint: an HTTP/1.1 connection, a stream of HTTP/2, a WebSocket's handshake. */
export interface Carrier extends BodySink {
  /** A byte of the request may have reached the endpoint. */
  readonly connected: boolean
  /** Its connection has served before: a failure may only mean that the upstream closed it while idle. */
  readonly reused: boolean
  /** Where body demand goes when the request is slow upstream: the client's body. */
  requestSource: BodySource | null
  /**
   * Sends a request's head; the body follows through this sink unless `length` is 0.
   * @param headText start line and fields without framing, each line ending in CRLF
   * @param length of the body: 0, a Content-Length, or CHUNKED
   */
  send(attempt: Attempt, headText: string, length: number): void
  /** Nobody wants the answer (any more). The attempt hears nothing. */
  cancel(): void
}

export interface ConnectionTimeouts {
  readonly connectMs: number
  readonly firstByteMs: number
  readonly idleMs: number
  /** Instead of `idleMs` for event streams, gRPC and WebSockets. */
  readonly streamIdleMs: number
  /** Age at which a WebSocket is closed; 0: none. */
  readonly tunnelLifetimeMs: number
}

/** Answers may have large heads (cookies, CSP), but not endless ones. */
export const RESPONSE_LIMITS: HeadLimits = { headBytes: 64 * 1024, fields: 256, targetBytes: 0 }
export const MAX_INFORMATIONAL = 1000

/**
 * Ends a request that failed: its attempt hears of it, then the sink that takes the answer.
 * @param attempt null: nobody waits any more @param sink null: no final head came
 */
export function reportFailure(
  attempt: Attempt | null,
  sink: ResponseSink | null,
  kind: FailureKind,
  detail: string,
): void {
  if (attempt === null) return
  if (sink === null) attempt.failed(kind, detail)
  else {
    attempt.broken(kind, detail)
    sink.abort()
  }
}

/** Methods whose requests say `Content-Length: 0` when they have no body (RFC 9110 §8.6). */
export function expectsBody(method: string): boolean {
  return method === 'POST' || method === 'PUT' || method === 'PATCH'
}

/** An answer that may never end, with pauses of any length (WHATWG HTML §9.2). */
export function isEventStream(head: MessageHead): boolean {
  return head.beginsWith(FIELD_ID['content-type'], 'text/event-stream')
}

/** Connects to an endpoint, with TLS where its URL says so. */
export function openSocket(
  endpoint: Endpoint,
  options: tls.ConnectionOptions | undefined,
  protocol: 'http/1.1' | 'h2',
  opening?: Buffer,
): net.Socket {
  const { host, port } = endpoint
  if (!endpoint.secure || opening !== undefined) {
    const plain = net.connect({ host, port, noDelay: true })
    if (opening !== undefined) plain.write(opening)
    if (!endpoint.secure) return plain
    return secured({ socket: plain })
  }
  return secured({ host, port })

  function secured(to: tls.ConnectionOptions): tls.TLSSocket {
    const { connect } = process.getBuiltinModule('node:tls') // 5 MB that a plain upstream does without
    return connect({ ...to, ...options, servername: serverName(endpoint), ALPNProtocols: [protocol] })
  }
}

function serverName(endpoint: Endpoint): string | undefined {
  return net.isIP(endpoint.serverName) === 0 ? endpoint.serverName : undefined
}
