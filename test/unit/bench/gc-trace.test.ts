/** Lines as Node 24 prints them, shortened in the middle. */

import { describe, expect, it } from 'vitest'
import { gcRates, parseCollection } from '../../../bench/harness/gc-trace.ts'

const SCAVENGE =
  '[15803:0x2fb5d000:0]     1792 ms: pause=34.3 mutator=292.3 gc=s reduce_memory=0 heap.prologue=0.00 background.scavenge.parallel=33.05 incremental.steps_count=0 allocated=6220432 promoted=3291144'
const MARK_COMPACT =
  '[15803:0x2fb5d000:0]     2155 ms: pause=47.6 mutator=314.8 gc=mc complete.join_filter_job=0.0clear.join_job=0.5 incremental=95.7 incremental_longest_step=95.4 background.mark=414.4 allocated=3073504 promoted=2063704'

describe('the trace of collections', () => {
  it('gives what was allocated and how long the thread stood still', () => {
    expect(parseCollection(SCAVENGE)).toEqual({ atMs: 1792, allocatedBytes: 6_220_432, gcMs: 34.3 })
    expect(parseCollection(MARK_COMPACT)).toEqual({ atMs: 2155, allocatedBytes: 3_073_504, gcMs: 47.6 + 95.7 })
  })

  it('is nothing in other lines', () => {
    expect(parseCollection('{"level":30,"msg":"listening"}')).toBeUndefined()
    expect(parseCollection('[1:0x2f:0] 12 ms: Scavenge 4.1 (5.2) -> 3.9 (6.2) MB')).toBeUndefined()
  })

  it('becomes rates between the first and the last collection of the window', () => {
    const at = (atMs: number) => ({ atMs, allocatedBytes: 1000, gcMs: 2 })
    const trace = [at(0), at(1000), at(1500), at(2000)]
    expect(gcRates(trace, 1000)).toEqual({ collections: 2, allocatedBytesPerSecond: 2000, gcMsPerSecond: 4 })
    expect(gcRates([at(0)], 1000)).toBeUndefined()
    expect(gcRates([], 1000)).toBeUndefined()
  })
})
