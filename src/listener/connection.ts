/** What a listener and its connections, of whatever protocol, have to do with each other. */

import type { Exchange } from '../exchange.ts'
import type { RequestFrame } from '../http1/framing.ts'
import type { HeadError, HeadLimits } from '../http1/message-head.ts'
import type { Clock } from '../shared/clock.ts'

/** Milliseconds; 0 is off. */
export interface ClientTimeouts {
  /** From the first byte of a head to its last. */
  readonly headerMs: number
  /** Between two pieces of a request's body, and for a client that reads nothing of its answer. */
  readonly bodyMs: number
  /** Between two exchanges. */
  readonly idleMs: number
  /** Until the whole request is read. */
  readonly requestMs: number
  /** A tunnel or stream without traffic in either direction. */
  readonly tunnelIdleMs: number
  /** Age at which an HTTP/2 stream counts as a long one. */
  readonly promoteMs: number
}

/** What a listener told to stop asks of each of its connections, and what its tick does. */
export interface ClientConnection {
  /** Exchanges under way. */
  readonly running: number
  sweep(nowMs: number): void
  /** Idle connections close now, busy ones after their answers. */
  drain(): void
  /** Says goodbye where the protocol has words for it, and whether it did; `destroy()` follows. */
  goAway(): boolean
  destroy(): void
}

/** What the connections of a thread share. */
export interface ConnectionHost {
  readonly clock: Clock
  readonly limits: HeadLimits
  readonly maxBodyBytes: number
  readonly timeouts: ClientTimeouts
  readonly draining: boolean
  /** A request's head is complete and sound. */
  handle(x: Exchange, frame: RequestFrame): void
  /** The head is refused, or never came whole; answers and closes. */
  refuse(x: Exchange, error: HeadError | BodyError | 'headerTimeout', detail: string): void
  /** The exchange's `deadlineMs` has passed. */
  expire(x: Exchange): void
  /** The exchange has become a long stream. */
  promote(x: Exchange): void
  opened(connection: ClientConnection): void
  closed(connection: ClientConnection): void
}

export type BodyError = 'bodyTimeout' | 'bodyTooLarge' | 'badBody'

export function after(nowMs: number, delayMs: number): number {
  return delayMs > 0 ? nowMs + delayMs : Number.POSITIVE_INFINITY
}

/** IPv4 in IPv6, as sockets of a dual-stack listener show it. */
export function unmapped(address: string | undefined): string {
  return address === undefined ? '' : address.startsWith('::ffff:') ? address.slice(7) : address
}
