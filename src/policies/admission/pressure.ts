/**
 * How short the process itself is of time, memory or descriptors: one figure from 0 to 1, which shrinks the cap, so that
 * the lowest tier is shed first. Pure; the thread brings the readings once a second.
 */

import { readFileSync } from 'node:fs'
import { totalmem } from 'node:os'

export interface PressureSettings {
  /** Milliseconds of loop delay at which pressure is full; it begins at half. 0: not watched. */
  readonly eventLoopDelayMs: number
  /** Percent of the memory limit, also of the heap's; it begins at five sixths of that. 0: not watched. */
  readonly memoryPercent: number
  readonly descriptorsPercent: number
  /** Percent of the cap left under full pressure. */
  readonly shrinkToPercent: number
}

export interface PressureReadings {
  readonly loopDelayMs: number
  /** 0 to 1. */
  readonly loopUtilization: number
  readonly memoryBytes: number
  readonly memoryLimitBytes: number
  readonly heapBytes: number
  readonly heapLimitBytes: number
  readonly descriptors: number
  readonly descriptorLimit: number
}

export type PressureCause = '' | 'eventLoop' | 'memory' | 'heap' | 'descriptors'

export interface PressureState {
  readonly pressure: number
  readonly cause: PressureCause
  /** Of the cap, 0 to 1. */
  readonly share: number
}

/** Rises at once, falls by this share of the difference each second: it must not swing with its own effect. */
const FALL = 0.3
/** A delay of a loop that has time to spare is somebody else's (a stopped process, a busy machine): shedding would not help. */
const BUSY = 0.8
const BEGINS_AT = 5 / 6

export class Pressure {
  readonly #settings: PressureSettings
  #pressure = 0
  #cause: PressureCause = ''

  constructor(settings: PressureSettings) {
    this.#settings = settings
  }

  update(r: PressureReadings): PressureState {
    const s = this.#settings
    let now = 0
    let cause: PressureCause = ''
    const consider = (what: PressureCause, value: number, full: number, start: number) => {
      if (full <= 0 || !Number.isFinite(value)) return
      const pressure = Math.min(1, Math.max(0, (value - start) / (full - start)))
      if (pressure <= now) return
      now = pressure
      cause = what
    }
    if (r.loopUtilization >= BUSY) consider('eventLoop', r.loopDelayMs, s.eventLoopDelayMs, s.eventLoopDelayMs / 2)
    const memory = s.memoryPercent / 100
    consider('memory', r.memoryBytes / r.memoryLimitBytes, memory, memory * BEGINS_AT)
    consider('heap', r.heapBytes / r.heapLimitBytes, memory, memory * BEGINS_AT)
    const descriptors = s.descriptorsPercent / 100
    consider('descriptors', r.descriptors / r.descriptorLimit, descriptors, descriptors * BEGINS_AT)
    if (now >= this.#pressure) {
      this.#pressure = now
      this.#cause = cause
    } else {
      this.#pressure += (now - this.#pressure) * FALL
      if (this.#pressure < 0.01) this.#pressure = 0
      if (this.#pressure === 0) this.#cause = ''
    }
    return {
      pressure: this.#pressure,
      cause: this.#cause,
      share: 1 - this.#pressure * (1 - s.shrinkToPercent / 100),
    }
  }
}

export type ReadFile = (path: string) => string | undefined

const readText: ReadFile = (path) => {
  try {
    return readFileSync(path, 'latin1')
  } catch {
    return undefined
  }
}

/** Bytes that the process may use: the smallest limit of its control groups (v2 and v1), else the machine's memory. */
export function memoryLimit(read: ReadFile = readText, machineBytes: number = totalmem()): number {
  let limit = machineBytes
  const consider = (text: string | undefined) => {
    const bytes = Number(text?.trim() || Number.NaN) // v2 says "max" where there is none
    if (bytes > 0 && bytes < limit) limit = bytes
  }
  for (const line of (read('/proc/self/cgroup') ?? '').split('\n')) {
    const [id, controllers = '', path = ''] = line.split(':')
    if (id === '0' && controllers === '') {
      // Every group above binds as well. In a container the path is often the container's own root, or not to be seen.
      for (let at = path; at !== ''; at = at.slice(0, at.lastIndexOf('/')))
        consider(read(`/sys/fs/cgroup${at}/memory.max`))
      consider(read('/sys/fs/cgroup/memory.max'))
    } else if (controllers.split(',').includes('memory')) {
      consider(read(`/sys/fs/cgroup/memory${path}/memory.limit_in_bytes`))
      consider(read('/sys/fs/cgroup/memory/memory.limit_in_bytes'))
    }
  }
  return limit
}

/** Most file descriptors that the process may have open (the soft limit); undefined when the system does not say. */
export function descriptorLimit(read: ReadFile = readText): number | undefined {
  const soft = /^Max open files\s+(\d+)/m.exec(read('/proc/self/limits') ?? '')?.[1]
  return soft === undefined ? undefined : Number(soft)
}
