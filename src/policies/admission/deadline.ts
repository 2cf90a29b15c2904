/** How long a client still waits, as it says itself: `grpc-timeout`, and the field that `deadlineHeader` names. */

import type { Exchange } from '../../exchange.ts'
import { FIELD_ID } from '../../http1/field-names.ts'

const GRPC = /^(\d{1,8})([HMSmun])$/
const GRPC_MS: Record<string, number> = { H: 3_600_000, M: 60_000, S: 1000, m: 1, u: 1e-3, n: 1e-6 }
const DURATION = /^(\d{1,9}(?:\.\d{1,6})?)(ms|s|m)?$/
const DURATION_MS: Record<string, number> = { ms: 1, s: 1000, m: 60_000 }

/** Milliseconds of a `grpc-timeout` field (gRPC over HTTP/2, Timeout); undefined when it is not well-formed. */
export function parseGrpcTimeout(text: string): number | undefined {
  const match = GRPC.exec(text)
  return match === null ? undefined : Number(match[1]) * GRPC_MS[match[2]!]!
}

/** Milliseconds of `500ms`, `2s` or a plain number of milliseconds; undefined when it is not well-formed. */
export function parseDeadline(text: string): number | undefined {
  const match = DURATION.exec(text)
  return match === null ? undefined : Number(match[1]) * DURATION_MS[match[2] ?? 'ms']!
}

/** Moves `x.deadlineMs` to what the client says, when that is sooner. */
export function compileDeadline(header: string | undefined): (x: Exchange) => void {
  const field = header?.toLowerCase()
  return (x) => {
    const grpc = x.request.indexOf(FIELD_ID['grpc-timeout']) < 0 ? undefined : x.request.value(FIELD_ID['grpc-timeout'])
    const own = field === undefined ? undefined : x.request.get(field)
    if (grpc !== undefined) sooner(x, parseGrpcTimeout(grpc))
    if (own !== undefined) sooner(x, parseDeadline(own))
  }
}

function sooner(x: Exchange, ms: number | undefined): void {
  if (ms !== undefined && x.startedMs + ms < x.deadlineMs) x.deadlineMs = x.startedMs + ms
}
