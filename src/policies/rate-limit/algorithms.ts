/**
 * The three ways to count: pure steps on a state of three numbers, for the memory table and (as the same arithmetic in
 * Lua) for Redis. No clock, no storage, no HTTP. A fresh state is three zeros. A step writes its verdict into `out` and
 * allocates nothing.
 *
 * Times are milliseconds on any clock that all callers share. The clock may go back: within a second (threads that read
 * it at slightly different moments) nothing changes; further back, a key never waits longer than its rule alone explains.
 */

/** Charge when allowed. */
export const TAKE = 0
/** Say whether TAKE would be allowed and what remains now; change nothing. */
export const PEEK = 1
/** Undo one TAKE that was allowed. */
export const GIVE_BACK = 2
export type Operation = typeof TAKE | typeof PEEK | typeof GIVE_BACK

export type Algorithm = 'gcra' | 'slidingWindow' | 'fixedWindow'

export interface LimiterState {
  /** gcra: the moment of the debt. Windows: when the current one began. */
  time: number
  /** gcra: whole units of debt. Windows: units in the current one. Below 2^31. */
  a: number
  /** gcra: parts of a unit, in 2^-30. slidingWindow: units in the window before. Below 2^31. */
  b: number
}

export interface Decision {
  allowed: boolean
  /** Units that could still be taken at once. */
  remaining: number
  /** Until everything is available again, were nobody to ask any more. */
  resetMs: number
  /** Until the same request could pass; 0 when it did. */
  retryAfterMs: number
}

export interface LimiterRule {
  readonly algorithm: Algorithm
  readonly limit: number
  readonly windowMs: number
  /** gcra only; equal to limit elsewhere. */
  readonly burst: number
  readonly cost: number
  /** gcra: milliseconds of one unit. */
  readonly intervalMs: number
  readonly step: Step
}

/**
 * @returns when the state will be as good as none (what eviction goes by); -1: the state was not changed.
 */
export type Step = (
  state: LimiterState,
  nowMs: number,
  rule: LimiterRule,
  operation: Operation,
  out: Decision,
) => number

/** Differences of the clock between callers that are not taken for a clock that was set back. */
const CLOCK_SLACK_MS = 1000
/** Share of one unit that rounding may add up to before an exact fit is refused. */
const ROUNDING = 1e-6
/** gcra keeps parts of a unit as an integer of this many. */
const FRACTION = 2 ** 30

export function createDecision(): Decision {
  return { allowed: true, remaining: 0, resetMs: 0, retryAfterMs: 0 }
}

export function createRule(
  algorithm: Algorithm,
  limit: number,
  windowMs: number,
  cost = 1,
  burst: number = limit,
): LimiterRule {
  return { algorithm, limit, windowMs, burst, cost, intervalMs: windowMs / limit, step: STEPS[algorithm] }
}

/**
 * Generic cell rate algorithm: `burst` at once after a pause, then one unit every window / limit. In any span of d
 * milliseconds at most burst + d / interval units pass, so at most limit + burst in any window, wherever it begins.
 *
 * Kept as the debt in units at a moment instead of as a theoretical arrival time (= moment + debt × interval): whole units
 * are added without rounding, so that exactly `burst` pass at once even where an interval is less than a microsecond.
 */
export const gcra: Step = (state, nowMs, rule, operation, out) => {
  const { intervalMs, burst, cost } = rule
  let debt = state.a + state.b / FRACTION
  let at = state.time
  let setBack = false
  if (nowMs >= at) {
    debt = Math.max(0, debt - (nowMs - at) / intervalMs)
    at = nowMs
  } else if (nowMs < at - CLOCK_SLACK_MS) {
    at = nowMs
    setBack = true
  }
  if (debt > burst) debt = burst // a reload lowered it
  let allowed = true
  if (operation === GIVE_BACK) debt = Math.max(0, debt - cost)
  else {
    allowed = debt + cost <= burst + ROUNDING
    if (allowed && operation === TAKE) debt += cost
    out.allowed = allowed
    out.remaining = Math.max(0, Math.floor(burst - debt + ROUNDING))
    out.resetMs = debt * intervalMs
    out.retryAfterMs = allowed ? 0 : (debt + cost - burst) * intervalMs + at - nowMs
  }
  if (operation === PEEK || (!allowed && !setBack)) return -1
  const whole = Math.floor(debt)
  state.time = at
  state.a = whole
  state.b = Math.round((debt - whole) * FRACTION)
  return at + debt * intervalMs
}

/**
 * Fixed window: at most `limit` units in each window. A window begins with the first request after the last one ended,
 * so windows of different keys do not end together. Across the border of two, up to 2 × limit in one window's time.
 */
export const fixedWindow: Step = (state, nowMs, rule, operation, out) => {
  const { windowMs, limit, cost } = rule
  let start = state.time
  let count = state.a
  let setBack = false
  if (count === 0 || nowMs >= start + windowMs) {
    start = nowMs
    count = 0
  } else if (nowMs < start - CLOCK_SLACK_MS) {
    start = nowMs // the count stays, the wait does not grow
    setBack = true
  }
  if (operation === GIVE_BACK) {
    if (count === 0) return -1
    count = count > cost ? count - cost : 0
  } else {
    const endMs = start + windowMs - nowMs
    const allowed = count + cost <= limit
    if (allowed && operation === TAKE) count += cost
    out.allowed = allowed
    out.remaining = limit > count ? limit - count : 0
    out.resetMs = count === 0 ? 0 : endMs
    out.retryAfterMs = allowed ? 0 : endMs
    if (operation === PEEK || (!allowed && !setBack)) return -1
  }
  state.time = start
  state.a = count
  return start + windowMs
}

/**
 * Sliding window: the window before counts with the share of it that still lies in the last `window`, as if its
 * requests had been even: previous × (1 − elapsed / window) + current + cost ≤ limit. Exactly `limit` when they were; at worst
 * the whole previous count came at its end, so under 2 × limit in any window, and at most limit in each aligned one.
 * Windows are aligned to the clock.
 */
export const slidingWindow: Step = (state, nowMs, rule, operation, out) => {
  const { windowMs, limit, cost } = rule
  let start = state.time
  let current = state.a
  let previous = state.b
  let now = nowMs
  let setBack = false
  const aligned = Math.floor(nowMs / windowMs) * windowMs
  if (aligned > start) {
    previous = aligned - start < windowMs * 1.5 ? current : 0
    current = 0
    start = aligned
  } else if (aligned < start) {
    // A thread that is a moment late counts in the newer window; a clock set back keeps the counts from now on.
    if (nowMs < start - CLOCK_SLACK_MS) {
      start = aligned
      setBack = true
    } else now = start
  }
  if (operation === GIVE_BACK) {
    if (current === 0) return -1
    current = current > cost ? current - cost : 0
  } else {
    const elapsed = now - start
    const weighted = previous * (1 - elapsed / windowMs)
    const allowed = weighted + current + cost <= limit + 1e-9
    if (allowed && operation === TAKE) current += cost
    out.allowed = allowed
    out.remaining = Math.max(Math.floor(limit - weighted - current + 1e-9), 0)
    out.resetMs = current > 0 ? start + 2 * windowMs - now : previous > 0 ? windowMs - elapsed : 0
    out.retryAfterMs = allowed
      ? 0
      : current + cost <= limit
        ? (1 - (limit - cost - current) / previous) * windowMs - elapsed // the previous window fades enough
        : windowMs - elapsed + (1 - (limit - cost) / current) * windowMs // the current one must first become the previous
    if (operation === PEEK || (!allowed && !setBack)) return -1
  }
  state.time = start
  state.a = current
  state.b = previous
  return start + 2 * windowMs
}

const STEPS: Record<Algorithm, Step> = { gcra, slidingWindow, fixedWindow }
