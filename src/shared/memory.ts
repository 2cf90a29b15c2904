/** Everything that the threads of a process share, made by the supervisor and posted to each. */

import { randomBytes } from 'node:crypto'
import type { Config } from '../config/schema.ts'
import { createPlacesMemory, Places } from '../policies/admission/places.ts'
import { LimiterTable } from './limiter-table.ts'
import { createMetricsMemory, type MetricsMemory } from './metrics.ts'

export interface SharedMemory {
  readonly metrics: MetricsMemory
  /** By scope: '' for the gateway, else the route's name. */
  readonly places: ReadonlyMap<string, SharedArrayBuffer>
  /** Counts of rate limits in memory. */
  readonly limiter: SharedArrayBuffer
  /** One word a thread, moved by each of its ticks: one that stands still is a thread that stands still. */
  readonly heartbeats: Int32Array
  /** Orders the log lines that threads write to one pipe. */
  readonly logTurn: Int32Array
  /** Signs what only this process must understand. */
  readonly secret: string
}

/** Memory for a config; what `previous` has is kept while anybody is counted there, so that a reload forgets no count. */
export function createSharedMemory(config: Config, threads: number, previous?: SharedMemory): SharedMemory {
  const names = ['', ...config.routes.filter((route) => route.admission !== undefined).map((route) => route.name)]
  const places = new Map<string, SharedArrayBuffer>()
  for (const [name, memory] of previous?.places ?? []) {
    if (names.includes(name) || new Places(memory, threads, 0).ccu > 0) places.set(name, memory)
  }
  for (const name of names) if (!places.has(name)) places.set(name, createPlacesMemory(threads))
  return {
    metrics: previous?.metrics ?? createMetricsMemory({ threads }),
    places,
    limiter: previous?.limiter ?? LimiterTable.create().buffer,
    heartbeats: previous?.heartbeats ?? new Int32Array(new SharedArrayBuffer(threads * 4)),
    logTurn: previous?.logTurn ?? new Int32Array(new SharedArrayBuffer(4)),
    secret: previous?.secret ?? randomBytes(32).toString('hex'),
  }
}
