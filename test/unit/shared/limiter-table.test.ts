/** The table of counters: exact over real threads, bounded, and never stuck. */

import { Worker } from 'node:worker_threads'
import { afterEach, describe, expect, it } from 'vitest'
import {
  createDecision,
  createRule,
  GIVE_BACK,
  type LimiterRule,
  PEEK,
  TAKE,
} from '../../../src/policies/rate-limit/algorithms.ts'
import { KeyHash, LimiterTable, sharedNowMs } from '../../../src/shared/limiter-table.ts'

const workers: Worker[] = []
afterEach(async () => {
  await Promise.all(workers.splice(0).map((worker) => worker.terminate()))
})

/** Runs `source` in a thread; the module's names stand ready. Resolves with what it posts. */
function thread(source: string, workerData: object): Promise<number> {
  const table = new URL('../../../src/shared/limiter-table.ts', import.meta.url).href
  const algorithms = new URL('../../../src/policies/rate-limit/algorithms.ts', import.meta.url).href
  const code = `
    const { parentPort, workerData, threadId } = require('node:worker_threads')
    Promise.all([import('${table}'), import('${algorithms}')]).then(([{ LimiterTable, KeyHash, sharedNowMs }, { createRule, createDecision, TAKE }]) => {
      const table = new LimiterTable(workerData.buffer, threadId)
      ${source}
    })`
  const worker = new Worker(code, { eval: true, workerData })
  workers.push(worker)
  return new Promise((resolve, reject) => {
    worker.once('message', resolve)
    worker.once('error', reject)
  })
}

const take = (table: LimiterTable, key: string, rule: LimiterRule, nowMs: number, operation: 0 | 1 | 2 = TAKE) => {
  const hash = new KeyHash().from(table.seedA, table.seedB).add(key)
  const out = createDecision()
  table.update(hash.a, hash.b, nowMs, rule, operation, out)
  return out
}

describe('the limiter table', () => {
  it('keeps a counter for each key', () => {
    const table = LimiterTable.create(1024)
    const rule = createRule('fixedWindow', 2, 1000)
    for (const key of ['a', 'b', 'c', '', '__proto__']) {
      expect(take(table, key, rule, 10).remaining).toBe(1)
      expect(take(table, key, rule, 10).remaining).toBe(0)
      expect(take(table, key, rule, 10).allowed).toBe(false)
      expect(take(table, key, rule, 10, PEEK).allowed).toBe(false)
      take(table, key, rule, 10, GIVE_BACK)
      expect(take(table, key, rule, 10).allowed).toBe(true)
    }
  })

  it.each(['gcra', 'slidingWindow', 'fixedWindow'] as const)(
    'lets exactly the limit through when four threads ask for one key (%s)',
    async (algorithm) => {
      const table = LimiterTable.create(1024)
      const gate = new Int32Array(new SharedArrayBuffer(8))
      const source = `
        const gate = new Int32Array(workerData.gate)
        const rule = createRule('${algorithm}', 20_000, 3_600_000)
        const out = createDecision()
        const hash = new KeyHash().from(table.seedA, table.seedB).add('one key')
        Atomics.add(gate, 0, 1)
        while (Atomics.load(gate, 1) === 0);
        let n = 0
        for (let i = 0; i < 10_000; i++) {
          table.update(hash.a, hash.b, 36e5 + 5e5, rule, TAKE, out)
          if (out.allowed) n++
        }
        parentPort.postMessage(n)`
      const all = Array.from({ length: 4 }, () => thread(source, { buffer: table.buffer, gate: gate.buffer }))
      while (Atomics.load(gate, 0) < 4) await new Promise((resolve) => setTimeout(resolve, 5))
      Atomics.store(gate, 1, 1)
      const counts = await Promise.all(all)
      expect(counts.reduce((sum, n) => sum + n)).toBe(20_000)
      expect(table.stolenLocks).toBe(0)
    },
  )

  it('does not make two cells of one new key when threads insert it at once', async () => {
    const table = LimiterTable.create(65_536)
    const gate = new Int32Array(new SharedArrayBuffer(8))
    const source = `
      const gate = new Int32Array(workerData.gate)
      const rule = createRule('fixedWindow', 1, 3_600_000)
      const out = createDecision()
      const hash = new KeyHash()
      Atomics.add(gate, 0, 1)
      while (Atomics.load(gate, 1) === 0);
      let n = 0
      for (let i = 0; i < 5000; i++) {
        hash.from(table.seedA, table.seedB).add('key ' + i)
        table.update(hash.a, hash.b, 1000, rule, TAKE, out)
        if (out.allowed) n++
      }
      parentPort.postMessage(n)`
    const all = Array.from({ length: 3 }, () => thread(source, { buffer: table.buffer, gate: gate.buffer }))
    while (Atomics.load(gate, 0) < 3) await new Promise((resolve) => setTimeout(resolve, 5))
    Atomics.store(gate, 1, 1)
    const counts = await Promise.all(all)
    expect(counts.reduce((sum, n) => sum + n)).toBe(5000)
    expect(table.evictions).toBe(0)
  })

  it('shares one clock between threads', async () => {
    const before = sharedNowMs()
    const there = await thread('parentPort.postMessage(sharedNowMs())', { buffer: LimiterTable.create(64).buffer })
    expect(there).toBeGreaterThanOrEqual(before)
    expect(there).toBeLessThanOrEqual(sharedNowMs())
  })

  it('evicts the key whose state is nearest to being worthless, and never refuses the newcomer', () => {
    const table = LimiterTable.create(64) // 8 sets of 8
    const rule = createRule('gcra', 10, 10_000)
    const out = createDecision()
    const inSetZero = (i: number, cost: number, nowMs: number) => {
      table.update(i + 1, i << 3, nowMs, createRule('gcra', 10, 10_000, cost), TAKE, out)
      return out.allowed
    }
    for (let i = 0; i < 8; i++) expect(inSetZero(i, i === 3 ? 1 : 5, 1000)).toBe(true)
    expect(table.evictions).toBe(0)
    expect(inSetZero(8, 5, 1000)).toBe(true) // takes the place of key 3, which owed the least
    expect(table.evictions).toBe(1)
    table.update(1, 0, 1000, rule, PEEK, out)
    expect(out.remaining).toBe(5)
    table.update(4, 3 << 3, 1000, rule, PEEK, out)
    expect(out.remaining).toBe(10)
    expect(inSetZero(9, 1, 9000)).toBe(true) // by now all are worthless: nothing is lost
    expect(table.evictions).toBe(1)
  })

  it('stays in its memory when a hundred times as many keys come as it holds', () => {
    const table = LimiterTable.create(256)
    const rule = createRule('gcra', 1, 60_000)
    for (let i = 0; i < 25_600; i++) expect(take(table, `10.0.${i >> 8}.${i & 255}`, rule, 1000).allowed).toBe(true)
    expect(table.buffer.byteLength).toBeLessThan(256 * 33 + 200)
    expect(table.evictions).toBeGreaterThan(20_000)
  })

  it('spreads keys evenly over the sets', () => {
    const table = LimiterTable.create(8192)
    const rule = createRule('gcra', 1, 60_000)
    for (let i = 0; i < 3000; i++) take(table, `10.1.${i >> 8}.${i & 255}`, rule, 1000)
    expect(table.evictions).toBeLessThan(40) // Poisson with mean 2.9 a set of 8: about 3
  })

  it('frees the lock of a thread that died inside when its exit is reported', () => {
    const table = LimiterTable.create(64)
    holdLock(table, 7, () => table.releaseThread(7))
    expect(take(table, 'k', createRule('gcra', 1, 1000), 5).allowed).toBe(true)
    expect(table.stolenLocks).toBe(0)
  })

  it('steals a lock that nobody gives back', () => {
    const table = LimiterTable.create(64)
    holdLock(table, 7, () => undefined)
    const started = performance.now()
    expect(take(table, 'k', createRule('gcra', 1, 1000), 5).allowed).toBe(true)
    expect(performance.now() - started).toBeLessThan(5000)
    expect(table.stolenLocks).toBe(1)
    expect(take(table, 'k', createRule('gcra', 1, 1000), 5).allowed).toBe(false)
  })

  it('refuses a buffer that is none of its own', () => {
    expect(() => new LimiterTable(new SharedArrayBuffer(4096), 0)).toThrow('not a limiter table')
  })
})

/** A thread that ended in the middle of a step: its lock words stay in all sets. */
function holdLock(table: LimiterTable, threadId: number, then: () => void): void {
  const locks = new Int32Array(table.buffer, 64, table.capacity / 8)
  locks.fill((((threadId + 1) & 0xfff) << 19) | 5)
  then()
}

describe('the key hash', () => {
  it('tells parts apart, not only their concatenation', () => {
    const of = (...parts: string[]) => {
      const hash = new KeyHash().from(1, 2)
      for (const part of parts) hash.add(part)
      return `${hash.a}/${hash.b}`
    }
    const seen = new Set([of('ab', 'c'), of('a', 'bc'), of('abc'), of('', 'abc'), of('abc', '')])
    expect(seen.size).toBe(5)
  })

  it('has no collision among 200 000 keys, in both halves together', () => {
    const seen = new Set<bigint>()
    const hash = new KeyHash()
    for (let i = 0; i < 200_000; i++) {
      hash.from(11, 12).add(`user-${i}`)
      seen.add((BigInt(hash.a >>> 0) << 32n) | BigInt(hash.b >>> 0))
    }
    expect(seen.size).toBe(200_000)
  })
})
