/**
 * How many instances the load wants, for `GET /scale` and whoever scales by it (KEDA's metrics-api, a script). Little's law:
 * exchanges inside are arrivals times duration; arrivals that were refused would be inside too, had there been room. What
 * is waiting and what is refused therefore count like what is served, and both push the number up at once. It comes down
 * slowly: the largest of the last five minutes counts, so that a pause between two waves takes no instance away.
 *
 * One instance knows its own load alone. `load` is in instances: the sum over all instances is how many are wanted.
 */

/** A second of the gateway. */
export interface ScaleSample {
  /** In service and queued. */
  readonly ccu: number
  readonly queued: number
  readonly queueCapacity: number
  /** What one instance should carry: its normal capacity. */
  readonly normalCCU: number
  readonly maxCCU: number
  /** By admission, a second. */
  readonly refusedPerSec: number
  /** Of an exchange; the median, because one stream of an hour says nothing about the rest. */
  readonly durationMs: number
}

export interface ScaleAnswer {
  /** Instances that this instance's load would fill to their normal capacity. The value for an average of 1. */
  readonly load: number
  /** `load` times the instances there are (`?replicas=`), rounded up. */
  readonly desiredReplicas: number
  /** held: the load was higher within the last five minutes. */
  readonly reason: 'concurrency' | 'queue' | 'refusals' | 'held' | 'idle'
  readonly ccu: number
  readonly normalCCU: number
  readonly queueUtilization: number
  readonly refusedPerSec: number
}

const SMOOTH_OVER_SEC = 15
const HOLD_SEC = 300
/** A queue this full wants another instance, whatever the mean says. */
const QUEUE_PRESSURE = 0.8
/** With refusals or such a queue one more than there is is asked for, at least. */
const PRESSED_LOAD = 1.2
/** Load a little above a whole number starts no instance. */
const TOLERANCE = 0.05

export class Scale {
  readonly #loads = new Float64Array(HOLD_SEC)
  #count = 0
  #smooth = 0
  #latest: ScaleSample | undefined
  #pressedBy: 'queue' | 'refusals' | undefined

  /** Once a second. */
  sample(sample: ScaleSample): void {
    const { ccu, normalCCU, refusedPerSec, durationMs, queued, queueCapacity } = sample
    const wanted = ccu + (refusedPerSec * durationMs) / 1000
    this.#smooth += (wanted - this.#smooth) / (this.#count === 0 ? 1 : SMOOTH_OVER_SEC)
    this.#pressedBy =
      refusedPerSec > 0
        ? 'refusals'
        : queueCapacity > 0 && queued / queueCapacity > QUEUE_PRESSURE
          ? 'queue'
          : undefined
    const load = normalCCU > 0 ? this.#smooth / normalCCU : 0
    this.#loads[this.#count++ % HOLD_SEC] = this.#pressedBy === undefined ? load : Math.max(load, PRESSED_LOAD)
    this.#latest = sample
  }

  /** @param replicas instances that share the load evenly; @param headroom share of normal capacity to be kept free */
  answer(replicas = 1, headroom = 0): ScaleAnswer {
    const held = this.#loads.subarray(0, Math.min(this.#count, HOLD_SEC))
    const most = held.reduce((a, b) => Math.max(a, b), 0)
    const load = most / (1 - headroom)
    const now = this.#loads[(this.#count + HOLD_SEC - 1) % HOLD_SEC]!
    const { ccu = 0, normalCCU = 0, queued = 0, queueCapacity = 0, refusedPerSec = 0 } = this.#latest ?? {}
    return {
      load: Number(load.toFixed(3)),
      desiredReplicas: Math.max(1, Math.ceil(load * replicas - TOLERANCE)),
      reason: this.#pressedBy ?? (load <= TOLERANCE ? 'idle' : now < most * 0.9 ? 'held' : 'concurrency'),
      ccu,
      normalCCU,
      queueUtilization: queueCapacity > 0 ? Number((queued / queueCapacity).toFixed(3)) : 0,
      refusedPerSec: Number(refusedPerSec.toFixed(2)),
    }
  }
}
