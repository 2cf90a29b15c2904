/**
 * Peak EWMA of an endpoint's latency, the estimate behind `balance: peakEwma`: it rises with the first slow answer and
 * comes down slowly, since a wrong guess "fast" costs more than a wrong guess "slow" (Finagle, Linkerd).
 *
 * A failure is no fast answer: an endpoint that refuses at once would otherwise draw all traffic. It counts as
 * `FAILURE_MS`, or as its Retry-After.
 */

import type { Endpoint } from './endpoint.ts'

const TAU_MS = 10_000
/**
 * After so long without a sample an estimate is only a memory: an idle endpoint gets one exchange to find out, and what
 * that measures takes its place. Without it a quick service would see nothing of an endpoint that failed once for over a
 * minute: that long takes 5 s to fade to a millisecond.
 */
const STALE_AFTER_MS = 10_000
/** What a failure counts as, like Linkerd's load biaser. */
export const FAILURE_MS = 5_000
/** Most that a Retry-After counts as. */
const RETRY_AFTER_LIMIT_MS = 300_000

/** Takes one measured latency into the estimate. */
export function recordLatency(endpoint: Endpoint, latencyMs: number, nowMs: number): void {
  const old = ewmaAt(endpoint, nowMs)
  if (latencyMs > old || isStale(endpoint, nowMs)) {
    endpoint.ewmaMs = latencyMs
  } else {
    // `old` has decayed towards 0 by the weight that the new sample gets: v·e^(−Δt/τ) + x·(1 − e^(−Δt/τ)).
    const elapsedMs = nowMs - endpoint.ewmaAtMs
    endpoint.ewmaMs = old + latencyMs * (elapsedMs > 0 ? 1 - Math.exp(-elapsedMs / TAU_MS) : 0)
  }
  endpoint.ewmaAtMs = nowMs
}

export function isStale(endpoint: Endpoint, nowMs: number): boolean {
  return nowMs - endpoint.ewmaAtMs > STALE_AFTER_MS
}

/** An endpoint is back: what was measured before says little about it now. */
export function forgetLatency(endpoint: Endpoint, nowMs: number): void {
  endpoint.ewmaAtMs = Math.min(endpoint.ewmaAtMs, nowMs - STALE_AFTER_MS - 1)
}

/** Takes one failure into the estimate. @param retryAfterMs the answer's Retry-After; 0: none */
export function recordFailure(endpoint: Endpoint, latencyMs: number, retryAfterMs: number, nowMs: number): void {
  const penaltyMs = retryAfterMs > 0 ? Math.min(retryAfterMs, RETRY_AFTER_LIMIT_MS) : FAILURE_MS
  recordLatency(endpoint, Math.max(latencyMs, penaltyMs), nowMs)
}

/** The estimate now: without news it fades, so that an endpoint once slow is asked again some time. */
export function ewmaAt(endpoint: Endpoint, nowMs: number): number {
  const elapsedMs = nowMs - endpoint.ewmaAtMs
  return elapsedMs > 0 ? endpoint.ewmaMs * Math.exp(-elapsedMs / TAU_MS) : endpoint.ewmaMs
}
