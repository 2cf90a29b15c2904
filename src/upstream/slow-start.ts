/**
 * Slow start: an endpoint that is new or has come back gets a growing share of the traffic, because caches, pools and
 * compiled code are cold. Asked in each pick for endpoints still in their ramp; pure.
 */

export interface SlowStart {
  readonly windowMs: number
  /** 1 grows in a line; above 1 faster at first. Default 1. */
  readonly aggression: number
  /** The share at the beginning, 0…1. Default 0.1. */
  readonly minShare: number
}

/** Undefined when off. */
export function slowStart(windowMs: number, aggression = 1, minShare = 0.1): SlowStart | undefined {
  return windowMs > 0 ? { windowMs, aggression: Math.max(aggression, 0.01), minShare } : undefined
}

/** The factor on the weight, `minShare`…1: max(minShare, (elapsed / window)^(1 / aggression)). */
export function slowStartFactor(elapsedMs: number, ramp: SlowStart): number {
  if (elapsedMs >= ramp.windowMs) return 1
  const share = Math.max(elapsedMs, 0) / ramp.windowMs
  return Math.max(ramp.minShare, ramp.aggression === 1 ? share : share ** (1 / ramp.aggression))
}
