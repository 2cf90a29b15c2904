/**
 * Whether, when and how often a failed try is sent again. Asked by the send loop after each try that failed before any
 * of its answer reached the client. Pure; owns the budget, which belongs to an upstream and outlives reloads.
 *
 * Three questions, all must be yes: is it safe (`isReplayable`), is it wanted (`retry.on`), can we afford it (budget,
 * Retry-After)? Without a budget, retries multiply the load on what is failing already.
 */

import type { TryFailure } from './outlier.ts'
import { SlidingCounts } from './sliding-counts.ts'

/** RFC 9110 §9.2.2: methods whose effect is the same, sent once or twice. */
const IDEMPOTENT = new Set(['GET', 'HEAD', 'OPTIONS', 'TRACE', 'PUT', 'DELETE'])

export function isIdempotent(method: string): boolean {
  return IDEMPOTENT.has(method)
}

/**
 * Whether the request may go out again without being done twice.
 * @param sent a byte of it was handed to a connection; false: the other side cannot have seen it
 */
export function isReplayable(method: string, sent: boolean): boolean {
  return !sent || IDEMPOTENT.has(method)
}

export interface RetryConditions {
  readonly connectError: boolean
  readonly reset: boolean
  readonly timeout: boolean
  /** 1 at each status to be retried. */
  readonly statuses: Uint8Array
}

/** `retry.on` of the config; an error text when an entry is unknown. */
export function parseRetryConditions(on: readonly (string | number)[]): RetryConditions | string {
  const statuses = new Uint8Array(600)
  let connectError = false
  let reset = false
  let timeout = false
  for (const entry of on) {
    const text = String(entry)
    if (text === 'connectError') connectError = true
    else if (text === 'reset') reset = true
    else if (text === 'timeout') timeout = true
    else if (text === '5xx') statuses.fill(1, 500, 600)
    else if (/^[2-5]\d\d$/.test(text)) statuses[Number(text)] = 1
    else return `"${text}" is no retry condition: expected connectError, reset, timeout, 5xx or a status such as "503"`
  }
  return { connectError, reset, timeout, statuses }
}

export interface RetryOptions {
  /** Retries of one request, beyond the first try. */
  readonly attempts: number
  readonly on: RetryConditions
  /** Longest time for one try; it counts as a timeout that is tried again, whatever `on` says. Default 0: no limit. */
  readonly perTryTimeoutMs?: number
  /** Back-off before the second retry on; the first goes at once after a failed connection. Default 25 and 250. */
  readonly backoffBaseMs?: number
  readonly backoffMaxMs?: number
  /** A Retry-After up to this is waited for; a longer one ends the tries. Default 1 s. */
  readonly maxRetryAfterMs?: number
  readonly random?: () => number
}

/** What is known of a try that failed. */
export interface FailedTry {
  readonly method: string
  /** Retries made so far for this request. */
  readonly retries: number
  /** Null: an answer came, see `status`. */
  readonly failure: TryFailure | null
  readonly status: number
  /** A byte of the request was handed to a connection. */
  readonly sent: boolean
  /** What was sent of the body can be sent again: there is none, or it is buffered, or none of it was taken yet. */
  readonly bodyReplayable: boolean
  /** The answer carries `fluxor-shed`: refused by a full gateway before it reached its service. */
  readonly shed: boolean
  /** Another endpoint than those tried is available. Default true. Decides for shed requests alone. */
  readonly elsewhere?: boolean
  /** From `parseRetryAfter`; -1: none. */
  readonly retryAfterMs: number
}

export class RetryPolicy {
  /** 0: no limit. */
  readonly perTryTimeoutMs: number
  readonly #options: RetryOptions
  readonly #budget: RetryBudget
  readonly #random: () => number
  readonly #maxRetryAfterMs: number

  constructor(options: RetryOptions, budget: RetryBudget) {
    this.#options = options
    this.#budget = budget
    this.perTryTimeoutMs = options.perTryTimeoutMs ?? 0
    this.#random = options.random ?? Math.random
    this.#maxRetryAfterMs = options.maxRetryAfterMs ?? 1000
  }

  /**
   * Milliseconds to wait before the next try, 0: at once; -1: no further try. Takes from the budget when not -1, but for
   * the first try that found no connection.
   * A shed request is tried at once and must go to another endpoint; it is safe whatever its method.
   */
  next(t: FailedTry, nowMs: number): number {
    const { attempts, on } = this.#options
    if (t.retries >= attempts || !t.bodyReplayable) return -1
    // A full gateway would only refuse again.
    if (t.shed) return t.elsewhere !== false && this.#budget.tryRetry(nowMs) ? 0 : -1
    if (t.failure === null ? on.statuses[t.status] !== 1 : !this.#isWanted(t.failure)) return -1
    if (!isReplayable(t.method, t.sent)) return -1
    if (t.retryAfterMs > this.#maxRetryAfterMs) return -1
    // What found no connection has asked nothing of the service: trying that once elsewhere multiplies no load.
    const unasked = t.failure === 'connectError' && t.retries === 0
    if (!unasked && !this.#budget.tryRetry(nowMs)) return -1
    // Never earlier than asked, and not all clients at the same moment.
    if (t.retryAfterMs > 0) return t.retryAfterMs * (1 + this.#random() / 2)
    return t.retries === 0 && !t.sent ? 0 : this.#backoffMs(t.retries)
  }

  #isWanted(failure: TryFailure): boolean {
    const { on } = this.#options
    if (failure === 'connectError') return on.connectError
    if (failure === 'reset') return on.reset
    return failure === 'timeout' && (on.timeout || this.perTryTimeoutMs > 0)
  }

  #backoffMs(retries: number): number {
    const { backoffBaseMs = 25, backoffMaxMs = 250 } = this.#options
    return this.#random() * Math.min(backoffBaseMs * 2 ** retries, backoffMaxMs)
  }
}

/** What is counted. */
const TRIES = 0
const RETRIES = 1
const BUDGET_WINDOW_MS = 10_000

/**
 * How many retries an upstream may cost: a share of the first tries of the last ten seconds, and never fewer than a few a
 * second, so that a quiet upstream has retries at all. Those few count into the share: under load they are part of it, not
 * on top of it.
 *
 * So, counted from any moment before which nothing was asked for ten seconds: retries ≤ share x first tries + `floor` for
 * each `floorMs` begun. In a window that starts elsewhere the share of the ten seconds before it may be spent besides.
 */
export class RetryBudget {
  readonly #share: number
  readonly #floorMs: number
  readonly #counts = new SlidingCounts(2, BUDGET_WINDOW_MS)
  /** When the last retries beyond the share were made, as a ring: the next one replaces the oldest. */
  readonly #beyondMs: Float64Array
  #oldest = 0
  /** Refused retries since the start, for metrics. */
  exhausted = 0

  /** @param percent of first tries, 0…100 @param floor retries in any `floorMs` that are had whatever the share */
  constructor(percent: number, floor = 3, floorMs = 1000) {
    this.#share = percent / 100
    this.#floorMs = floorMs
    this.#beyondMs = new Float64Array(floor).fill(Number.NEGATIVE_INFINITY)
  }

  /** Each request calls this once, before its first try. */
  onFirstTry(nowMs: number): void {
    this.#counts.advance(nowMs)
    this.#counts.add(TRIES)
  }

  /** True when a retry is paid for. */
  tryRetry(nowMs: number): boolean {
    const counts = this.#counts
    counts.advance(nowMs)
    if (counts.sum(RETRIES) + 1 > counts.sum(TRIES) * this.#share && !this.#goBeyond(nowMs)) {
      this.exhausted++
      return false
    }
    counts.add(RETRIES)
    return true
  }

  #goBeyond(nowMs: number): boolean {
    const beyondMs = this.#beyondMs
    if (beyondMs.length === 0 || nowMs - beyondMs[this.#oldest]! < this.#floorMs) return false
    beyondMs[this.#oldest] = nowMs
    this.#oldest = (this.#oldest + 1) % beyondMs.length
    return true
  }
}

/**
 * Retry-After (RFC 9110 §10.2.3) in milliseconds; -1 when absent or not well-formed.
 * @param dateNowMs `Date.now()`: the field may name a date
 */
export function parseRetryAfter(value: string | undefined, dateNowMs: number): number {
  if (value === undefined) return -1
  if (/^\d{1,9}$/.test(value)) return Number(value) * 1000
  if (!/^[A-Z][a-z]{2}/.test(value)) return -1
  const date = Date.parse(value)
  return Number.isNaN(date) ? -1 : Math.max(0, date - dateNowMs)
}
