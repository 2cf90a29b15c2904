/**
 * Tiers as the config names them and as the places count them: each name has a number that outlives reloads, so that
 * exchanges which run are counted where they were when they came. Decides which tier a request is in.
 */

import type { Exchange } from '../../exchange.ts'
import type { AdmissionConfig } from './config.ts'
import { MAX_TIERS } from './places.ts'

/** Numbers by name. 0 is who has no tier. */
export type TierIds = ReadonlyMap<string, number>

/** Adds the tiers of a config. Names beyond the table share number 0: more than 31 different ones since the start. */
export function tierIds(config: AdmissionConfig, previous: TierIds = new Map()): TierIds {
  const ids = new Map(previous)
  for (const { name } of config.tiers) {
    if (!ids.has(name)) ids.set(name, ids.size + 1 < MAX_TIERS ? ids.size + 1 : 0)
  }
  return ids
}

export interface TierOrder {
  /** The highest first: as configured, then whoever may still be inside from an earlier config. */
  readonly order: readonly number[]
  /** Shares of the cap by number, 0 to 1. */
  readonly guarantees: readonly number[]
}

export function tierOrder(config: AdmissionConfig, ids: TierIds): TierOrder {
  const order = new Set(config.tiers.map(({ name }) => ids.get(name) ?? 0))
  order.add(0)
  for (const id of ids.values()) order.add(id)
  const guarantees = new Array<number>(MAX_TIERS).fill(0)
  for (const { name, guarantee } of config.tiers) guarantees[ids.get(name) ?? 0]! += guarantee / 100
  return { order: [...order], guarantees }
}

/**
 * Puts a request in its tier: what identity says, else the field of a trusted peer, else the default tier, else the lowest. Sets
 * `x.tier`. Undefined without tiers.
 */
export function compileTier(config: AdmissionConfig, ids: TierIds): ((x: Exchange) => number) | undefined {
  const { tiers, tierHeader } = config
  if (tiers.length === 0) return undefined
  const numbers = new Map(tiers.map(({ name }) => [name, ids.get(name) ?? 0]))
  const fallback = config.defaultTier ?? tiers.at(-1)!.name
  const field = tierHeader?.toLowerCase()
  return (x) => {
    let name = x.identity?.tier
    if (name === undefined || !numbers.has(name)) {
      name = field !== undefined && x.peerTrusted ? x.request.get(field) : undefined
      if (name === undefined || !numbers.has(name)) name = fallback
    }
    x.tier = name
    return numbers.get(name) ?? 0
  }
}
