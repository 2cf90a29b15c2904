/** Everything that the threads of a process share, made by the supervisor and posted to each. */

import { randomBytes } from 'node:crypto'
import type { Config } from '../config/schema.ts'
import { createKeyCountsMemory } from '../policies/admission/key-counts.ts'
import { createPlacesMemory, Places } from '../policies/admission/places.ts'
import { type TierIds, tierIds } from '../policies/admission/tiers.ts'
import { LimiterTable } from './limiter-table.ts'
import { createMetricsMemory, type MetricsMemory } from './metrics.ts'

export interface SharedMemory {
  readonly metrics: MetricsMemory
  /** By scope: '' for the gateway, else the route's name. */
  readonly places: ReadonlyMap<string, SharedArrayBuffer>
  /** Numbers of the tiers, by name; a number is never given twice. */
  readonly tierIds: TierIds
  /** Exchanges in flight by key, with `admission.perKey`. */
  readonly keys: { readonly maxKeys: number; readonly memory: SharedArrayBuffer } | undefined
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
    if (names.includes(name) || new Places(memory, threads, -1).ccu > 0) places.set(name, memory)
  }
  for (const name of names) if (!places.has(name)) places.set(name, createPlacesMemory(threads))
  const { perKey } = config.admission
  const keys =
    perKey === undefined || previous?.keys?.maxKeys === perKey.maxKeys
      ? previous?.keys
      : { maxKeys: perKey.maxKeys, memory: createKeyCountsMemory(perKey.maxKeys, threads) }
  return {
    tierIds: tierIds(config.admission, previous?.tierIds),
    keys,
    metrics: previous?.metrics ?? createMetricsMemory({ threads }),
    places,
    limiter: previous?.limiter ?? LimiterTable.create().buffer,
    heartbeats: previous?.heartbeats ?? new Int32Array(new SharedArrayBuffer(threads * 4)),
    logTurn: previous?.logTurn ?? new Int32Array(new SharedArrayBuffer(4)),
    secret: previous?.secret ?? randomBytes(32).toString('hex'),
  }
}
