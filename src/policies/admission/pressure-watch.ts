/** Reads once a second how a thread and the process stand, and sets what pressure leaves of the cap. Part of each thread. */

import { closeSync, openSync } from 'node:fs'
import { getHeapStatistics } from 'node:v8'
import type { Logger } from '../../observability/logger.ts'
import type { AdmissionConfig } from './config.ts'
import type { Places } from './places.ts'
import { descriptorLimit, memoryLimit, Pressure } from './pressure.ts'

export interface PressureDeps {
  /** The setting of now; undefined: off. */
  readonly config: () => AdmissionConfig['pressure']
  readonly places: () => Places
  /** Of this thread, over the last second. */
  readonly loop: () => { delayMs: number; utilization: number }
  readonly logger: () => Logger
}

const EVERY_MS = 1000

export class PressureWatch {
  readonly #deps: PressureDeps
  #config: AdmissionConfig['pressure']
  #pressure: Pressure | undefined
  #memoryLimit = Number.POSITIVE_INFINITY
  #descriptorLimit = Number.POSITIVE_INFINITY
  #nextMs = 0
  #told = false

  constructor(deps: PressureDeps) {
    this.#deps = deps
  }

  tick(nowMs: number): void {
    if (nowMs < this.#nextMs) return
    this.#nextMs = nowMs + EVERY_MS
    const config = this.#deps.config()
    if (config !== this.#config) this.#configure(config)
    if (this.#pressure === undefined) return
    const { delayMs, utilization } = this.#deps.loop()
    const heap = getHeapStatistics()
    const { pressure, cause, share } = this.#pressure.update({
      loopDelayMs: delayMs,
      loopUtilization: utilization,
      memoryBytes: process.memoryUsage.rss(),
      memoryLimitBytes: this.#memoryLimit,
      heapBytes: heap.used_heap_size,
      heapLimitBytes: heap.heap_size_limit,
      descriptors: lowestFreeDescriptor(),
      descriptorLimit: this.#descriptorLimit,
    })
    this.#deps.places().setShare(share)
    const under = pressure > 0
    if (under === this.#told) return
    this.#told = under
    const rounded = { pressure: Math.round(pressure * 100) / 100, share: Math.round(share * 100) / 100 }
    if (under) this.#deps.logger().warn('under pressure: the cap shrinks', { cause, ...rounded })
    else this.#deps.logger().info('the pressure is over')
  }

  #configure(config: AdmissionConfig['pressure']): void {
    this.#config = config
    this.#deps.places().setShare(1)
    if (config === undefined) {
      this.#pressure = undefined
      return
    }
    this.#memoryLimit = memoryLimit()
    this.#descriptorLimit = descriptorLimit() ?? Number.POSITIVE_INFINITY
    this.#pressure = new Pressure({
      eventLoopDelayMs: config.eventLoopDelay,
      memoryPercent: config.memoryPercent,
      descriptorsPercent: config.descriptorsPercent,
      shrinkToPercent: config.shrinkTo,
    })
  }
}

/**
 * The system gives out the lowest number that is free: near the limit that is how many are open, and it costs one call
 * where a listing would cost one for each.
 */
function lowestFreeDescriptor(): number {
  try {
    const fd = openSync('/dev/null', 'r')
    closeSync(fd)
    return fd
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EMFILE' ? Number.MAX_SAFE_INTEGER : 0
  }
}
