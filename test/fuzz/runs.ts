/**
 * How long the fuzz suites run: a short round in `npm test`, a long one by `npm run fuzz` (FUZZ_RUNS). A failure is
 * repeated with the seed that it prints: FUZZ_SEED=… npm run fuzz.
 */

import type fc from 'fast-check'

const runs = Number(process.env['FUZZ_RUNS'] ?? 0)
const long = runs > 0

export const seed = Number(process.env['FUZZ_SEED'] ?? Math.floor(Math.random() * 0x7fffffff))

if (long) console.log(`FUZZ_RUNS=${runs} FUZZ_SEED=${seed}`)

/** @param shortRuns in `npm test` @param share of FUZZ_RUNS, for properties that cost more or less than others */
export function parameters<T>(shortRuns: number, share = 1): fc.Parameters<T> {
  return { numRuns: long ? Math.max(shortRuns, Math.floor(runs * share)) : shortRuns, seed }
}

/** Milliseconds that a test of the suite may take. */
export const FUZZ_TIMEOUT_MS = long ? 1_800_000 : 30_000
