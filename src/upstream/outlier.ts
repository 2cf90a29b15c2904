/**
 * Outlier detection: ejects an endpoint that fails real traffic, which no health check may see. Told about each try
 * when it ends; keeps its counters at the endpoint, so that a reload forgets nothing.
 *
 * An ejection lasts `ejectForMs` × the number of ejections in a row, at most `maxEjectForMs`; the row forgets one for
 * each `ejectForMs` of good conduct. Who comes back is on probation: the first try decides, a failure ejects again.
 *
 * How many may be out: never more than `maxEjectedPercent` of the endpoints, rounded down, but one may always be, if
 * there are two or more. The last endpoint is never ejected. Beyond that, failing endpoints stay in: when most fail,
 * the fault is not theirs, or there is nowhere else to go.
 *
 * A fast-failing endpoint must not draw traffic in the meantime: each failure goes into its latency estimate as a
 * penalty (latency.ts).
 */

import type { Endpoint } from './endpoint.ts'

/** How a try ended, as far as the endpoint is concerned. Statuses come with `answered`. */
export type TryFailure = 'connectError' | 'reset' | 'timeout' | 'bad'

/**
 * Whether a try speaks against the endpoint: no whole answer, or one that says the server is at fault. 501 and 505 are
 * about the request; a 503 that the gateway downstream marked `fluxor-shed` is a full house, not a broken one.
 */
export function isEndpointFailure(failure: TryFailure | null, status: number, shed: boolean): boolean {
  if (failure !== null) return true
  return status >= 500 && !shed && status !== 501 && status !== 505
}

export interface OutlierOptions {
  /** Failures in a row; 0: this rule is off. */
  readonly consecutiveErrors: number
  /** Share of failures in `windowMs`, 0…1; absent or 0: this rule is off. */
  readonly errorRatio?: number
  /** Tries in the window below which the share says nothing. Default 20. */
  readonly minRequests?: number
  /** Default 10 s. */
  readonly windowMs?: number
  readonly ejectForMs: number
  /** Default 300 s. */
  readonly maxEjectForMs?: number
  readonly maxEjectedPercent: number
  readonly onEject?: (endpoint: Endpoint, forMs: number, reason: string, nowMs: number) => void
}

/** What outlier detection counts about one endpoint. */
export class OutlierRecord {
  consecutiveErrors = 0
  /** Of the current window and of the one before it, which counts by the share that still overlaps. */
  requests = 0
  errors = 0
  lastRequests = 0
  lastErrors = 0
  windowFromMs = -Infinity
  /** Back from an ejection, not yet proven. */
  probation = false
}

export class Outlier {
  readonly #options: OutlierOptions
  readonly #errorRatio: number
  readonly #minRequests: number
  readonly #windowMs: number
  readonly #maxEjectForMs: number

  constructor(options: OutlierOptions) {
    this.#options = options
    this.#errorRatio = options.errorRatio ?? 0
    this.#minRequests = Math.max(1, options.minRequests ?? 20)
    this.#windowMs = options.windowMs ?? 10_000
    this.#maxEjectForMs = Math.max(options.ejectForMs, options.maxEjectForMs ?? 300_000)
  }

  /**
   * One try has ended.
   * @param failed `isEndpointFailure`
   * @param sentMs when the try began: what was sent before an ejection ended says nothing new
   * @param endpoints all of the upstream, for the bound on ejections
   * @returns true when the endpoint was ejected
   */
  onResult(
    endpoint: Endpoint,
    failed: boolean,
    sentMs: number,
    nowMs: number,
    endpoints: readonly Endpoint[],
  ): boolean {
    const record = (endpoint.outlier ??= new OutlierRecord())
    if (endpoint.ejected || sentMs < endpoint.ejectedUntilMs) return false
    if (this.#errorRatio > 0) this.#count(record, failed, nowMs)
    if (!failed) {
      record.consecutiveErrors = 0
      record.probation = false
      return false
    }
    record.consecutiveErrors++
    const reason = this.#reason(record, nowMs)
    return reason !== '' && this.#eject(endpoint, record, reason, nowMs, endpoints)
  }

  #reason(record: OutlierRecord, nowMs: number): string {
    if (record.probation) return 'failed again on its return'
    const { consecutiveErrors } = this.#options
    if (consecutiveErrors > 0 && record.consecutiveErrors >= consecutiveErrors) {
      return `${record.consecutiveErrors} failures in a row`
    }
    if (this.#errorRatio === 0) return ''
    const overlap = Math.max(0, 1 - (nowMs - record.windowFromMs) / this.#windowMs)
    const requests = record.requests + record.lastRequests * overlap
    const errors = record.errors + record.lastErrors * overlap
    if (requests < this.#minRequests || errors < requests * this.#errorRatio) return ''
    return `${Math.round((errors / requests) * 100)} % of ${Math.round(requests)} tries failed`
  }

  #eject(
    endpoint: Endpoint,
    record: OutlierRecord,
    reason: string,
    nowMs: number,
    endpoints: readonly Endpoint[],
  ): boolean {
    const { ejectForMs, maxEjectedPercent, onEject } = this.#options
    let total = 0
    let ejected = 0
    for (const other of endpoints) {
      if (other.draining || other.weight === 0) continue
      total++
      if (other.ejected && nowMs < other.ejectedUntilMs) ejected++
    }
    if (total < 2 || maxEjectedPercent === 0) return false
    if (ejected + 1 > Math.max(1, Math.floor((total * maxEjectedPercent) / 100))) return false
    const sinceMs = nowMs - endpoint.ejectedUntilMs
    const forgotten = endpoint.ejections === 0 ? 0 : Math.floor(sinceMs / ejectForMs)
    endpoint.ejections = Math.max(0, endpoint.ejections - forgotten) + 1
    const forMs = Math.min(ejectForMs * endpoint.ejections, this.#maxEjectForMs)
    endpoint.eject(nowMs, nowMs + forMs, reason)
    record.consecutiveErrors = 0
    record.requests = record.errors = record.lastRequests = record.lastErrors = 0
    record.windowFromMs = -Infinity
    record.probation = true
    onEject?.(endpoint, forMs, reason, nowMs)
    return true
  }

  #count(record: OutlierRecord, failed: boolean, nowMs: number): void {
    const elapsedMs = nowMs - record.windowFromMs
    if (elapsedMs >= this.#windowMs) {
      const adjacent = elapsedMs < 2 * this.#windowMs
      record.lastRequests = adjacent ? record.requests : 0
      record.lastErrors = adjacent ? record.errors : 0
      record.requests = record.errors = 0
      record.windowFromMs = adjacent ? record.windowFromMs + this.#windowMs : nowMs
    }
    record.requests++
    if (failed) record.errors++
  }
}
