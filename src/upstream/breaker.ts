/**
 * Circuit breaker: stops sending to what fails or crawls, so that it can recover and nobody waits for it in vain. One
 * stands before an upstream (open: BREAKER_OPEN at once), one may stand at each endpoint (open: it is not picked).
 *
 * closed → open when the share of errors or of slow calls in the sliding window passes its bound, with enough calls to
 * tell. open → halfOpen after `openForMs`: a few single probes decide. All well → closed, over a ramp that lets a growing
 * share through (a service that has just come back is cold). Any failed probe → open again, for longer.
 *
 * Pure: time and randomness are passed in. Owes: each `allow()` that was true is paid by one `onResult()` or `onCancel()`.
 */

import { SlidingCounts } from './sliding-counts.ts'

export type BreakerState = 'closed' | 'open' | 'halfOpen'

export interface BreakerOptions {
  /** Opens at this share of errors, 0…1; above 1: never. */
  readonly errorRatio: number
  /** Opens at this share of calls slower than `slowCallMs`; above 1 (default): never. */
  readonly slowCallRatio?: number
  readonly slowCallMs?: number
  /** Calls in the window below which nothing is concluded. */
  readonly minRequests: number
  readonly windowMs: number
  readonly openForMs: number
  /** Probes at a time, and successes needed to close. Default 1 and 3. */
  readonly probes?: number
  readonly successes?: number
  /** Over how long traffic grows back from a tenth to all. Default 0: at once. */
  readonly rampMs?: number
  /** Every opening in a row doubles the time, up to this. Default 10 times `openForMs`. */
  readonly maxOpenForMs?: number
  readonly random?: () => number
  readonly onTransition?: (from: BreakerState, to: BreakerState, reason: string, nowMs: number) => void
}

/** What is counted. */
const CALLS = 0
const ERRORS = 1
const SLOW = 2
const RAMP_START = 0.1
/** A probe that is neither answered nor cancelled by then is lost: the next one may go. */
const PROBE_LOST_MS = 60_000

export class Breaker {
  readonly #errorRatio: number
  readonly #slowCallRatio: number
  readonly #slowCallMs: number
  readonly #minRequests: number
  readonly #openForMs: number
  readonly #maxOpenForMs: number
  readonly #probes: number
  readonly #successes: number
  readonly #rampMs: number
  readonly #random: () => number
  readonly #onTransition: BreakerOptions['onTransition']
  readonly #counts: SlidingCounts
  #state: BreakerState = 'closed'
  #openUntilMs = -Infinity
  #openings = 0
  #probing = 0
  #lastProbeMs = -Infinity
  #passed = 0
  #rampFromMs = -Infinity
  /** Grows with each transition: what was sent before one says nothing about the time after it. */
  #epoch = 0

  constructor(options: BreakerOptions) {
    this.#errorRatio = options.errorRatio
    this.#slowCallRatio = options.slowCallRatio ?? Infinity
    this.#slowCallMs = options.slowCallMs ?? Infinity
    this.#minRequests = Math.max(1, options.minRequests)
    this.#counts = new SlidingCounts(3, options.windowMs)
    this.#openForMs = options.openForMs
    this.#maxOpenForMs = Math.max(options.openForMs, options.maxOpenForMs ?? options.openForMs * 10)
    this.#probes = options.probes ?? 1
    this.#successes = options.successes ?? 3
    this.#rampMs = options.rampMs ?? 0
    this.#random = options.random ?? Math.random
    this.#onTransition = options.onTransition
  }

  get state(): BreakerState {
    return this.#state
  }

  /** Pass it to `onResult`: results of an earlier epoch are not counted. */
  get epoch(): number {
    return this.#epoch
  }

  /** Would `allow` have a chance? Changes nothing, takes nothing. */
  wouldAllow(nowMs: number): boolean {
    if (this.#state === 'closed') return true
    if (this.#state === 'open') return nowMs >= this.#openUntilMs
    return this.#probing < this.#probes || nowMs - this.#lastProbeMs > PROBE_LOST_MS
  }

  /** True when one call may go; it is owed one `onResult` or `onCancel`. */
  allow(nowMs: number): boolean {
    if (this.#state === 'closed') {
      if (this.#rampFromMs === -Infinity) return true
      const share = (nowMs - this.#rampFromMs) / this.#rampMs
      if (share < 1) return this.#random() < RAMP_START + (1 - RAMP_START) * share
      this.#rampFromMs = -Infinity
      this.#openings = 0
      return true
    }
    if (!this.wouldAllow(nowMs)) return false
    if (this.#state === 'open') this.#move('halfOpen', 'openFor has passed', nowMs)
    else if (this.#probing >= this.#probes) this.#probing--
    this.#probing++
    this.#lastProbeMs = nowMs
    return true
  }

  /** How long a refused client should wait, in milliseconds. */
  retryAfterMs(nowMs: number): number {
    return this.#state === 'open' ? Math.max(0, this.#openUntilMs - nowMs) : 0
  }

  /**
   * How one allowed call ended.
   * @param epoch `epoch` right after `allow()` said yes
   */
  onResult(ok: boolean, latencyMs: number, nowMs: number, epoch: number): void {
    if (epoch !== this.#epoch) return
    const slow = latencyMs > this.#slowCallMs
    if (this.#state === 'halfOpen') {
      if (this.#probing > 0) this.#probing--
      if (!ok) this.#open('a probe failed', nowMs)
      else if (slow && this.#slowCallRatio <= 1) this.#open('a probe was slow', nowMs)
      else if (++this.#passed >= this.#successes) this.#close(nowMs)
      return
    }
    const counts = this.#counts
    counts.advance(nowMs)
    counts.add(CALLS)
    if (!ok) counts.add(ERRORS)
    if (slow) counts.add(SLOW)
    const calls = counts.sum(CALLS)
    if ((ok && !slow) || calls < this.#minRequests) return
    const errors = counts.sum(ERRORS)
    const slowCalls = counts.sum(SLOW)
    if (errors >= this.#errorRatio * calls && !ok) {
      this.#open(`${percent(errors, calls)} of ${calls} calls failed`, nowMs)
    } else if (slowCalls >= this.#slowCallRatio * calls && slow) {
      this.#open(`${percent(slowCalls, calls)} of ${calls} calls took longer than ${this.#slowCallMs} ms`, nowMs)
    }
  }

  /** An allowed call ended without saying anything about the other side: the client left, or it was never sent. */
  onCancel(epoch: number): void {
    if (epoch === this.#epoch && this.#state === 'halfOpen' && this.#probing > 0) this.#probing--
  }

  /** The share of errors in the window, 0…1, for metrics. */
  errorRatio(nowMs: number): number {
    this.#counts.advance(nowMs)
    const calls = this.#counts.sum(CALLS)
    return calls === 0 ? 0 : this.#counts.sum(ERRORS) / calls
  }

  #open(reason: string, nowMs: number): void {
    this.#openUntilMs = nowMs + Math.min(this.#openForMs * 2 ** this.#openings, this.#maxOpenForMs)
    this.#openings = Math.min(this.#openings + 1, 30)
    this.#rampFromMs = -Infinity
    this.#move('open', reason, nowMs)
  }

  #close(nowMs: number): void {
    if (this.#rampMs > 0) this.#rampFromMs = nowMs
    else this.#openings = 0
    this.#counts.clear()
    this.#move('closed', `${this.#successes} probes in a row succeeded`, nowMs)
  }

  #move(to: BreakerState, reason: string, nowMs: number): void {
    const from = this.#state
    this.#state = to
    this.#epoch++
    this.#probing = 0
    this.#passed = 0
    this.#onTransition?.(from, to, reason, nowMs)
  }
}

function percent(part: number, whole: number): string {
  return `${Math.round((part / whole) * 100)} %`
}
