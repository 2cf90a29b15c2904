/** What the schema and the data path both know of rules. Apart from the schema, which would load zod into every thread. */

import type { RedisConfig } from './config.ts'

/**
 * The Redis that a rule's `store` means: its name under `redis`; undefined for memory. `redis` alone is the block called
 * main, or the only one. An empty string when there is no such block, which `rateLimitProblems` reports.
 */
export function redisNameOf(store: string, redis: RedisConfig | undefined): string | undefined {
  if (store === 'memory') return undefined
  const known = Object.keys(redis ?? {})
  if (store !== 'redis') return known.includes(store.slice(6)) ? store.slice(6) : ''
  return known.includes('main') ? 'main' : known.length === 1 ? known[0] : ''
}
