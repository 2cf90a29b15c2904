/** Everything that the threads of a process share, made by the supervisor and posted to each. */

import { randomBytes } from 'node:crypto'
import type { Config } from '../config/schema.ts'
import { createPlacesMemory } from '../policies/admission/places.ts'
import { LimiterTable } from './limiter-table.ts'
import { createMetricsMemory, type MetricsMemory } from './metrics.ts'

export interface SharedMemory {
  readonly metrics: MetricsMemory
  /** By scope: '' for the gateway, else the route's name. */
  readonly places: ReadonlyMap<string, SharedArrayBuffer>
  /** Counts of rate limits in memory. */
  readonly limiter: SharedArrayBuffer
  /** Orders the log lines that threads write to one pipe. */
  readonly logTurn: Int32Array
  /** Signs what only this process must understand. */
  readonly secret: string
}

/** Memory for a config; what `previous` has is kept, so that a reload forgets no count. */
export function createSharedMemory(config: Config, threads: number, previous?: SharedMemory): SharedMemory {
  const places = new Map(previous?.places)
  const names = ['', ...config.routes.filter((route) => route.admission !== undefined).map((route) => route.name)]
  for (const name of names) if (!places.has(name)) places.set(name, createPlacesMemory(threads))
  return {
    metrics: previous?.metrics ?? createMetricsMemory({ threads }),
    places,
    limiter: previous?.limiter ?? LimiterTable.create().buffer,
    logTurn: previous?.logTurn ?? new Int32Array(new SharedArrayBuffer(4)),
    secret: previous?.secret ?? randomBytes(32).toString('hex'),
  }
}
