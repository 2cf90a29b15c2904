/**
 * A load test, decided: what is asked, when, and what counts as an answer. Made by the command, carried out by `run`.
 * Everything but the shape is plain data, so that it can be given to a thread; the shape travels as its stages.
 */

import type { RequestPlan } from './connections.ts'
import { formatDuration, type Shape } from './shape.ts'

export interface Target {
  /** The route's name, or method and path. */
  readonly name: string
  readonly request: RequestPlan
  /** Its share of the requests, relative to the others'. */
  readonly weight: number
}

export interface LoadPlan {
  readonly targets: readonly Target[]
  readonly shape: Shape
  /** Users who think for `thinkMs` between requests, or arrivals a second. */
  readonly unit: 'users' | 'rate'
  readonly thinkMs: number
  /** Arrivals of a rate: like strangers, or at equal distances. */
  readonly arrivals: 'poisson' | 'even'
  readonly timeoutMs: number
  readonly maxConnections: number
  readonly threads: number
  readonly expect: readonly number[]
  readonly insecure: boolean
  /** A start later than this is late. */
  readonly lateAfterMs: number
  /** The share of late and missed starts, and of standstill, above which the run is declared invalid, 0…1. */
  readonly maxLateShare: number
}

/** Requests a second at the highest level. */
export const peakRate = ({ shape, unit, thinkMs }: Pick<LoadPlan, 'shape' | 'unit' | 'thinkMs'>): number =>
  unit === 'rate' ? shape.peak : shape.peak / (thinkMs / 1000)

/** The load in words: `200 users for 30s, one request a second each`. */
export function describeLoad({ shape, unit, thinkMs }: Pick<LoadPlan, 'shape' | 'unit' | 'thinkMs'>): string {
  const stage = shape.stages[0]
  const flat = stage !== undefined && shape.stages.length === 1 && stage.from === stage.to
  const level = Number((stage?.to ?? 0).toFixed(1))
  const what = unit === 'users' ? `users (think ${formatDuration(thinkMs)})` : 'requests a second'
  return flat ? `${level} ${what} for ${formatDuration(stage.durationMs)}` : `${shape} ${what}`
}
