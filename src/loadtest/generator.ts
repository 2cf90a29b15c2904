/**
 * The engine: starts what its schedule says is due, and notes what became of it. It has no clock and no sockets of its
 * own: a driver calls `tick(nowMs)`, a transport sends. So it runs on a virtual clock as well as on a real one.
 *
 * It watches itself. A start behind its due time, a start never made, and a tick that came late are the generator's
 * fault, not the service's, and are counted as such: a run with too many of them is no measurement.
 */

import type { Random } from './random.ts'
import { intervalOf, type Outcome, type Recording, recordEnd } from './recording.ts'
import type { Schedule } from './schedule.ts'

/**
 * What a timer can do: a start at most this far behind its due time is counted from when it was sent. Beyond it,
 * latency counts from the due time.
 */
export const TIMER_RESOLUTION_MS = 2
/** The driver calls `tick` at least this often. */
export const LONGEST_SLEEP_MS = 10
/** Starts in one tick, before answers are looked at again. */
const BURST = 256

export interface Sent {
  readonly target: number
  /** From when its latency counts. */
  readonly dueMs: number
}

export interface Transport {
  /** Begins an exchange, which ends with one call of `Generator.ended`. False: no connection is to be had. */
  send(request: Sent, user: number, nowMs: number): boolean
}

export interface GeneratorOptions {
  readonly schedule: Schedule
  readonly recording: Recording
  /** The share of each target; the sum does not matter. */
  readonly weights: readonly number[]
  readonly random: Random
  /** A start later than this is late. */
  readonly lateAfterMs: number
}

export class Generator {
  inFlight = 0
  readonly #schedule: Schedule
  readonly #recording: Recording
  readonly #transport: Transport
  readonly #cumulative: number[] = []
  readonly #random: Random
  readonly #lateAfterMs: number
  #lastTickMs = 0

  constructor({ schedule, recording, weights, random, lateAfterMs }: GeneratorOptions, transport: Transport) {
    this.#schedule = schedule
    this.#recording = recording
    this.#transport = transport
    this.#random = random
    this.#lateAfterMs = lateAfterMs
    let total = 0
    for (const weight of weights) this.#cumulative.push((total += weight))
  }

  /** Starts what is due at `nowMs`. Returns when to call again; Infinity when the schedule is at its end. */
  tick(nowMs: number): number {
    const recording = this.#recording
    const gapMs = nowMs - this.#lastTickMs
    if (gapMs > LONGEST_SLEEP_MS + this.#lateAfterMs) recording.stalledMs += gapMs
    this.#lastTickMs = nowMs
    if (nowMs >= recording.durationMs) return this.#close(nowMs)
    for (let burst = 0; burst < BURST && this.#schedule.nextMs <= nowMs; burst++) this.#start(nowMs)
    return Math.min(this.#schedule.nextMs, recording.durationMs)
  }

  #start(nowMs: number): void {
    const recording = this.#recording
    const dueMs = this.#schedule.nextMs
    const user = this.#schedule.take()
    const lagMs = nowMs - dueMs
    const interval = intervalOf(recording, dueMs)
    if (lagMs > recording.lagMs[interval]!) recording.lagMs[interval] = lagMs
    if (lagMs > this.#lateAfterMs) recording.late++
    const request = { target: this.#pickTarget(), dueMs: lagMs <= TIMER_RESOLUTION_MS ? nowMs : dueMs }
    if (!this.#transport.send(request, user, nowMs)) {
      recording.dropped++
      return
    }
    recording.started[interval]!++
    this.inFlight++
    const now = intervalOf(recording, nowMs)
    if (this.inFlight > recording.inFlight[now]!) recording.inFlight[now] = this.inFlight
  }

  /** The time is up: what was due within the last moments is sent, what is older was missed. */
  #close(nowMs: number): number {
    const { durationMs } = this.#recording
    while (this.#schedule.nextMs < durationMs) {
      if (nowMs - this.#schedule.nextMs <= this.#lateAfterMs) this.#start(nowMs)
      else {
        this.#schedule.take()
        this.#recording.missed++
      }
    }
    return Number.POSITIVE_INFINITY
  }

  /** Called by the transport, once for each exchange it began. */
  ended(request: Sent, endMs: number, status: number, outcome: Outcome, error?: string): void {
    this.inFlight--
    recordEnd(this.#recording, { target: request.target, dueMs: request.dueMs, endMs, status, outcome, error })
  }

  #pickTarget(): number {
    const cumulative = this.#cumulative
    if (cumulative.length === 1) return 0
    const point = this.#random() * cumulative.at(-1)!
    let index = 0
    while (index < cumulative.length - 1 && point >= cumulative[index]!) index++
    return index
  }
}
