/**
 * What the supervisor does for admission while requests run: windows of the adaptive limit, the lease of the fleet. It sees
 * the places of all threads in shared memory and sets two numbers there; no request waits for it. Ticked by the supervisor.
 */

import { randomBytes } from 'node:crypto'
import { hostname } from 'node:os'
import type { GaugeValue } from '../../observability/figures.ts'
import type { Logger } from '../../observability/logger.ts'
import type { RedisDoor } from '../../redis.ts'
import { AdaptiveLimit } from './adaptive.ts'
import type { AdmissionConfig } from './config.ts'
import { watchPlaces } from './figures.ts'
import { FLEET_SCRIPT, FleetLease, fleetTickMs } from './fleet.ts'
import type { Places, PlacesSamples } from './places.ts'
import type { TierIds } from './tiers.ts'

export const CONTROL_TICK_MS = 50
/** Questions out of turn, when requests are refused, come no faster. */
const HURRY_MS = 50
/** How long a start, and an end, waits for Redis. */
const PATIENCE_MS = 1000

export interface ControlDeps {
  readonly logger: Logger
  /** The door to a Redis of the config. */
  readonly openRedis: (name: string, onChange: (up: boolean, reason: string) => void) => RedisDoor
  /** A clock that all threads share, milliseconds. */
  readonly sharedNowMs: () => number
}

export class AdmissionControl {
  readonly #deps: ControlDeps
  #places!: Places
  #config!: AdmissionConfig
  #adaptive: AdaptiveLimit | undefined
  #seen: PlacesSamples = { samples: 0, sampledMs: 0, drops: 0 }
  #windowFromMs = 0
  #fleet: FleetLease | undefined
  #door: RedisDoor | undefined
  #doorName = ''
  #askedMs = 0
  #asking = false
  #refused = 0
  #fenced = false

  constructor(deps: ControlDeps) {
    this.#deps = deps
  }

  /**
   * Takes the settings of a config; what was learnt goes on.
   * @param redis the settings of the fleet's Redis, as text: with others it is opened anew
   */
  configure(config: AdmissionConfig, memory: SharedArrayBuffer, threads: number, ids: TierIds, redis: string): void {
    this.#places = watchPlaces(memory, threads, config, ids)
    this.#config = config
    this.#configureAdaptive()
    this.#configureFleet(redis)
  }

  #configureAdaptive(): void {
    const { mode, adaptive } = this.#config
    const { workers } = this.#places.limits
    if (mode !== 'adaptive') {
      this.#adaptive = undefined
      this.#places.setAdaptive(undefined)
      return
    }
    const min = adaptive.minWorkers === 'auto' ? Math.max(1, Math.floor(workers / 10)) : adaptive.minWorkers
    const { tolerance, smoothing } = adaptive
    const options = { min: Math.min(min, workers), max: workers, tolerance, smoothing }
    if (JSON.stringify(options) === JSON.stringify(this.#adaptive?.options)) return
    this.#adaptive = new AdaptiveLimit(options, this.#adaptive?.limit)
    this.#seen = this.#places.samples()
    this.#windowFromMs = this.#deps.sharedNowMs()
    this.#apply()
  }

  #apply(): void {
    const enforced = this.#config.adaptive.mode === 'enforce'
    this.#places.setAdaptive(enforced ? this.#adaptive?.limit : undefined)
  }

  #configureFleet(redis: string): void {
    const { fleet, maxCCU } = this.#config
    if (fleet === undefined) {
      this.#fleet = undefined
      this.#closeDoor()
      this.#places.setLease(undefined)
      return
    }
    const settings = {
      maxCCU: fleet.maxCCU,
      ownMaxCCU: Math.min(maxCCU, fleet.maxCCU),
      leaseTtlMs: fleet.leaseTtl,
      onPartition: fleet.onPartition,
      floor: fleet.floor === 'auto' ? undefined : fleet.floor,
    }
    const doorName = `${fleet.redis}/${fleet.name}/${redis}`
    if (this.#doorName !== doorName) {
      this.#closeDoor()
      this.#doorName = doorName
      this.#door = this.#deps.openRedis(fleet.redis, (up, reason) =>
        this.#deps.logger.warn(up ? 'the fleet is reached again' : 'the fleet is not reached', {
          fleet: fleet.name,
          reason,
        }),
      )
    }
    if (this.#fleet === undefined) {
      this.#fleet = new FleetLease(`${hostname()}-${process.pid}-${randomBytes(6).toString('hex')}`, settings)
    } else this.#fleet.settings = settings
    this.#setLease()
  }

  #closeDoor(): void {
    void this.#door?.close()
    this.#door = undefined
    this.#doorName = ''
  }

  #setLease(): void {
    const fleet = this.#fleet!
    const nowMs = this.#deps.sharedNowMs()
    this.#places.setLease(fleet.capAt(nowMs), fleet.untilMs, fleet.capAt(Math.max(nowMs, fleet.untilMs)))
  }

  /** Before the first request: the fleet is asked, for a second at most. */
  async start(): Promise<void> {
    if (this.#fleet === undefined) return
    await this.#door!.whenUp(PATIENCE_MS)
    await this.#ask()
    if (this.#fleet.share === undefined) {
      this.#deps.logger.warn('the fleet is not reached: the floor holds', { floor: this.#fleet.floor })
    }
    this.#fleet.giveUp()
    this.#setLease()
  }

  tick(): void {
    const nowMs = this.#deps.sharedNowMs()
    if (this.#adaptive !== undefined) this.#window(this.#adaptive, nowMs)
    if (this.#fleet !== undefined) this.#watchLease(this.#fleet, nowMs)
  }

  #window(adaptive: AdaptiveLimit, nowMs: number): void {
    const lengthMs = nowMs - this.#windowFromMs
    if (lengthMs < this.#config.adaptive.window) return
    this.#windowFromMs = nowMs
    const seen = this.#places.samples()
    const samples = seen.samples - this.#seen.samples
    const sampledMs = seen.sampledMs - this.#seen.sampledMs
    const drops = seen.drops - this.#seen.drops
    this.#seen = seen
    const move = adaptive.onWindow({
      samples,
      meanMs: samples === 0 ? 0 : sampledMs / samples,
      drops,
      // Little's law over the window; one look would miss what comes in bursts.
      inService: Math.max(this.#places.inService, sampledMs / lengthMs),
      lengthMs,
    })
    if (move === undefined) return
    this.#apply()
    const rounded = Object.fromEntries(Object.entries(move).map(([key, value]) => [key, Math.round(value * 100) / 100]))
    this.#deps.logger.info('adaptive limit', { ...rounded, mode: this.#config.adaptive.mode })
  }

  #watchLease(fleet: FleetLease, nowMs: number): void {
    const fenced = fleet.share !== undefined && nowMs >= fleet.untilMs
    if (fenced !== this.#fenced) {
      this.#fenced = fenced
      const { logger } = this.#deps
      if (fenced) logger.warn('the lease of the fleet has run out: the floor holds', { floor: fleet.floor })
      else logger.info('the fleet has leased places again', { share: fleet.share })
    }
    if (fenced) this.#setLease()
    const sinceMs = nowMs - this.#askedMs
    const pressing = this.#places.refused !== this.#refused && sinceMs >= HURRY_MS
    if (!this.#asking && (pressing || sinceMs >= fleetTickMs(fleet.settings.leaseTtlMs))) void this.#ask()
  }

  async #ask(): Promise<void> {
    const fleet = this.#fleet
    const door = this.#door
    if (fleet === undefined || door === undefined) return
    this.#asking = true
    const { sharedNowMs } = this.#deps
    this.#askedMs = sharedNowMs()
    const { refused } = this.#places
    const question = fleet.ask(this.#askedMs, { ccu: this.#places.ccu, refused: (refused - this.#refused) | 0 })
    this.#refused = refused
    try {
      const reply = await door.ask((client) => client.eval(FLEET_SCRIPT, 1, this.#key(), ...question.args))
      if (this.#fleet === fleet) {
        fleet.answered(question, reply as number[])
        this.#setLease()
      }
    } catch {
      // The door tells of outages; the lease runs out by itself.
    }
    this.#asking = false
  }

  #key(): string {
    return `fluxor:fleet:{${this.#config.fleet?.name ?? ''}}`
  }

  *gauges(): Iterable<GaugeValue> {
    const gauge = (name: string, help: string, value: number): GaugeValue => ({
      name,
      help,
      labels: {},
      value,
      type: 'gauge',
    })
    if (this.#adaptive !== undefined) {
      yield gauge(
        'fluxor_adaptive_limit',
        'Most exchanges in service as the adaptive limit has it.',
        this.#adaptive.limit,
      )
      yield gauge(
        'fluxor_adaptive_baseline_seconds',
        'How long an answer takes when nothing is in its way.',
        this.#adaptive.baselineMs / 1000,
      )
    }
    if (this.#fleet === undefined) return
    const nowMs = this.#deps.sharedNowMs()
    yield gauge('fluxor_fleet_max_ccu', 'Cap of all gateways of the fleet.', this.#fleet.settings.maxCCU)
    yield gauge('fluxor_fleet_share', 'Places that this gateway may use of it.', this.#fleet.capAt(nowMs))
    yield gauge('fluxor_fleet_instances', 'Gateways that share the cap, as last seen.', this.#fleet.instances)
    yield gauge(
      'fluxor_fleet_leased',
      'Whether the share is leased; 0: the floor holds.',
      Number(nowMs < this.#fleet.untilMs),
    )
  }

  /** Gives the share back. */
  async close(): Promise<void> {
    const fleet = this.#fleet
    const door = this.#door
    this.#fleet = undefined
    if (fleet !== undefined && door?.up) {
      let timer: NodeJS.Timeout | undefined
      const late = new Promise((resolve) => {
        timer = setTimeout(resolve, PATIENCE_MS)
      })
      const left = door.ask((client) => client.eval(FLEET_SCRIPT, 1, this.#key(), ...fleet.leaving())).catch(() => {})
      await Promise.race([left, late])
      clearTimeout(timer)
    }
    this.#closeDoor()
  }
}
