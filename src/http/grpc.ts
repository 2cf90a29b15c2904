/**
 * What gRPC over HTTP/2 asks of a proxy (PROTOCOL-HTTP2.md of grpc): the deadline that a call carries, and refusals in
 * its own words, since its clients take any status but 200 for a broken transport. Pure.
 */

import { FIELD_ID } from '../http1/field-names.ts'
import type { MessageHead } from '../http1/message-head.ts'
import type { LocalReply } from '../local-reply.ts'

export function isGrpc(head: MessageHead): boolean {
  if (head.indexOf(FIELD_ID['content-type']) < 0) return false // as nearly every request: without a string made
  const type = head.value(FIELD_ID['content-type'])
  return type !== undefined && /^application\/grpc(?:[+;]|$)/i.test(type)
}

const UNIT_MS: Readonly<Record<string, number>> = { H: 3_600_000, M: 60_000, S: 1000, m: 1, u: 0.001, n: 0.000_001 }

/** Milliseconds that the call may take; undefined without a deadline, or with one that cannot be read. */
export function grpcTimeoutMs(head: MessageHead): number | undefined {
  const value = head.value(FIELD_ID['grpc-timeout'])
  const match = value === undefined ? null : /^(\d{1,8})([HMSmun])$/.exec(value)
  return match === null ? undefined : Number(match[1]) * UNIT_MS[match[2]!]!
}

const INTERNAL = 13
const UNAVAILABLE = 14
/** As gRPC maps HTTP statuses, but for those whose gRPC meaning is known better. */
const CODES: Readonly<Record<number, number>> = {
  400: INTERNAL,
  401: 16, // UNAUTHENTICATED
  403: 7, // PERMISSION_DENIED
  404: 12, // UNIMPLEMENTED
  405: 12,
  408: 4, // DEADLINE_EXCEEDED
  413: 8, // RESOURCE_EXHAUSTED
  429: 8,
  431: 8,
  501: 12,
  502: UNAVAILABLE,
  503: UNAVAILABLE,
  504: 4,
}

/** Fields that tell a refusal to a gRPC client. */
export function grpcFields(reply: LocalReply, title: string): string {
  const code = CODES[reply.status] ?? (reply.status >= 500 ? INTERNAL : 2)
  return `grpc-status: ${code}\r\ngrpc-message: ${percentEncoded(reply.detail ?? title)}\r\n`
}

/** Visible ASCII but for `%` stays. */
function percentEncoded(text: string): string {
  return [...new TextEncoder().encode(text)]
    .map((byte) =>
      byte >= 0x20 && byte < 0x7f && byte !== 0x25
        ? String.fromCharCode(byte)
        : `%${byte.toString(16).toUpperCase().padStart(2, '0')}`,
    )
    .join('')
}
