/**
 * What other parts tell about themselves when somebody looks: metrics, the dashboard, `/api/metrics`. Each is a function
 * that is called at scrape time or once a second; nothing here is on the way of a request.
 */

/** One value of a metric that another part owns. All values of one name have the same help, type and label names. */
export interface GaugeValue {
  readonly name: string
  readonly help: string
  readonly labels: Readonly<Record<string, string>>
  readonly value: number
  readonly type: 'gauge' | 'counter'
}

/** Called at each scrape. One that throws is left out of that scrape and counted. */
export type GaugeSource = () => Iterable<GaugeValue>

export interface TierFigures {
  readonly name: string
  readonly ccu: number
  /** Places that are this tier's whenever it asks. */
  readonly guarantee: number
}

/** Admission as it stands, over all threads. Totals count since the start; refusals and waits are in the counters. */
export interface AdmissionFigures {
  readonly ccu: number
  readonly maxCCU: number
  readonly normalCCU: number
  readonly inService: number
  readonly workers: number
  readonly queued: number
  readonly queueCapacity: number
  readonly admitted: number
  readonly completed: number
  readonly aborted: number
  readonly tiers: readonly TierFigures[]
}

export interface EndpointFigures {
  readonly url: string
  /** `healthy`, `unhealthy`, `ejected`, `draining`. */
  readonly state: string
  readonly reason: string
  readonly inFlight: number
  readonly weight: number
}

export interface UpstreamFigures {
  readonly name: string
  /** `closed`, `open`, `half-open`; '' without a breaker. */
  readonly breaker: string
  readonly endpoints: readonly EndpointFigures[]
}

export const NO_ADMISSION: AdmissionFigures = {
  ccu: 0,
  maxCCU: 0,
  normalCCU: 0,
  inService: 0,
  workers: 0,
  queued: 0,
  queueCapacity: 0,
  admitted: 0,
  completed: 0,
  aborted: 0,
  tiers: [],
}

/** A share, 0 where there is nothing to divide by. */
export function ratio(part: number, whole: number): number {
  return whole > 0 ? part / whole : 0
}
