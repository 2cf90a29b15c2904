/**
 * Nanoseconds per call of one mechanism, in process, without sockets: what a regression is called by its name with. Best of
 * many short rounds, since everything else that a machine does can only add; the median beside it says how much it did.
 */

import { arch, cpus, platform } from 'node:os'

const ROUNDS = 60
const CALLS = 20_000
/** Slow mechanisms get fewer calls: a round takes no longer than this, once warm. */
const ROUND_MS = 10

export interface Timing {
  what: string
  /** Nanoseconds per call: the best round, and the median of all. */
  bestNs: number
  medianNs: number
}

export interface Suite {
  name: string
  timings: Timing[]
  /** Lines that say what the figures add up to. */
  notes: string[]
}

/** Takes what is measured out of the reach of dead-code elimination. */
export let sink = 0

function roundNs(run: (i: number) => unknown, calls: number): number {
  const startedNs = process.hrtime.bigint()
  for (let i = 0; i < calls; i++) if (run(i) === undefined) sink++
  return Number(process.hrtime.bigint() - startedNs) / calls
}

/** @param run gets the number of the call in its round; gives something, not undefined as a rule */
export function time(what: string, run: (i: number) => unknown): Timing {
  let calls = 200
  // Warm-up in growing rounds, until one is long enough or has all calls.
  while (roundNs(run, calls) * calls < (ROUND_MS * 1e6) / 2 && calls < CALLS) calls = Math.min(CALLS, calls * 3)
  const rounds = Array.from({ length: ROUNDS }, () => roundNs(run, calls)).sort((a, b) => a - b)
  return { what, bestNs: rounds[0]!, medianNs: rounds[ROUNDS >> 1]! }
}

export function printSuites(suites: Suite[]): void {
  console.log(`${platform()} ${arch()}, ${cpus()[0]?.model ?? 'unknown CPU'}, Node ${process.versions.node}`)
  console.log(`ns/op: best of ${ROUNDS} rounds of up to ${CALLS} calls, and the median round\n`)
  const rows = suites.flatMap(({ name, timings }) => timings.map((timing) => ({ name, ...timing })))
  const names = Math.max(...rows.map(({ name }) => name.length))
  const widths = Math.max(...rows.map(({ what }) => what.length))
  for (const { name, what, bestNs, medianNs } of rows) {
    const figures = `${bestNs.toFixed(1).padStart(8)}  ${medianNs.toFixed(1).padStart(8)}`
    console.log(`${name.padEnd(names)}  ${what.padEnd(widths)}  ${figures}`)
  }
  for (const note of suites.flatMap(({ notes }) => notes)) console.log(`\n${note}`)
}
