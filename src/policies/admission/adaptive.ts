/**
 * The adaptive limit: how many exchanges the upstreams take before they slow down. Windows of samples in, a limit out;
 * pure, on no clock of its own.
 *
 * Netflix' Gradient2 with repairs:
 *  - failures and refusals of the upstream lower it (× 0.9), which Gradient2 ignores;
 *  - the baseline, how long an answer takes when nothing is in its way, comes from windows under half the limit. It is never
 *    probed for: no window pins the limit down to measure;
 *  - under load the baseline follows faster answers at once, slower ones by 5 % a minute at most: a service that has become slow
 *    for good is believed in the end, one that is overloaded is not called normal;
 *  - windows with fewer than ten samples say nothing;
 *  - with less than half the limit in use the limit stays: nothing was learnt about more;
 *  - the allowed queue is a tenth of the limit (at least 4): a large limit recovers tenfold in two minutes. It
 *    settles where answers take tolerance / 0.9 times the baseline.
 */

export interface AdaptiveOptions {
  readonly min: number
  readonly max: number
  readonly tolerance: number
  /** Share of the new value in each move, 0 to 1. */
  readonly smoothing: number
}

/** What was seen in one window. */
export interface AdaptiveWindow {
  readonly samples: number
  readonly meanMs: number
  /** Answers that were failures or refusals of the upstream. */
  readonly drops: number
  /** Exchanges in service: the average, or the last count when that is more. */
  readonly inService: number
  readonly lengthMs: number
}

/** A move with its inputs, for the log. */
export interface AdaptiveMove extends AdaptiveWindow {
  readonly from: number
  readonly to: number
  readonly baselineMs: number
  readonly gradient: number
}

const MIN_SAMPLES = 10
/** Share of drops that counts as a sign. */
const DROPS = 0.01
const ON_DROP = 0.9
const QUEUE = 0.1
const MIN_QUEUE = 4
const BASELINE_WEIGHT = 0.2
const BASELINE_RISE_PER_MINUTE = 0.05

export class AdaptiveLimit {
  readonly options: AdaptiveOptions
  #limit: number
  #baselineMs = 0

  /** @param start the limit to go on from; default: the most */
  constructor(options: AdaptiveOptions, start: number = options.max) {
    this.options = options
    this.#limit = this.#clamp(start)
  }

  get limit(): number {
    return Math.round(this.#limit)
  }

  /** 0: not known yet. */
  get baselineMs(): number {
    return this.#baselineMs
  }

  /** Takes one window; the move when the limit has changed. */
  onWindow(window: AdaptiveWindow): AdaptiveMove | undefined {
    const { samples, drops, inService } = window
    const from = this.limit
    if (samples + drops < MIN_SAMPLES) return undefined
    const loaded = inService >= this.#limit / 2
    if (samples > 0) this.#learnBaseline(window, loaded)
    let gradient = 1
    if (drops > (samples + drops) * DROPS) {
      gradient = ON_DROP
      this.#limit = this.#clamp(this.#limit * ON_DROP)
    } else if (loaded) {
      const { tolerance, smoothing } = this.options
      gradient = Math.min(1, Math.max(0.5, (tolerance * this.#baselineMs) / window.meanMs))
      const next = this.#limit * gradient + Math.max(MIN_QUEUE, this.#limit * QUEUE)
      this.#limit = this.#clamp(this.#limit * (1 - smoothing) + next * smoothing)
    }
    const to = this.limit
    return to === from ? undefined : { ...window, from, to, baselineMs: this.#baselineMs, gradient }
  }

  #learnBaseline({ meanMs, lengthMs }: AdaptiveWindow, loaded: boolean): void {
    const before = this.#baselineMs
    if (before === 0 || (loaded && meanMs < before)) this.#baselineMs = meanMs
    else if (!loaded) this.#baselineMs = before + (meanMs - before) * BASELINE_WEIGHT
    else this.#baselineMs = Math.min(meanMs, before * (1 + (BASELINE_RISE_PER_MINUTE * lengthMs) / 60_000))
  }

  #clamp(limit: number): number {
    return Math.min(this.options.max, Math.max(this.options.min, limit))
  }
}
