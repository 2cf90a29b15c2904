/** Real threads on one memory: the cap is exact at every moment, and they wake each other's waiters. */

import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import { expect, it } from 'vitest'
import { createPlacesMemory, ENTERED, Places } from '../../../../src/policies/admission/places.ts'
import { Scope, type ScopeLimits } from '../../../../src/policies/admission/scope.ts'
import { type Condition, within } from '../../../support/within.ts'
import type { HammerData, HammerResult } from './hammer.ts'

const LIMITS: ScopeLimits = {
  maxCCU: 8,
  workers: 3,
  maxQueue: 4,
  order: [0],
  guarantees: [0],
  queueTimeoutMs: 0,
  discipline: 'fifo',
  codelTargetMs: 5,
  codelIntervalMs: 100,
}

async function start(data: Partial<HammerData> & { memory: SharedArrayBuffer; thread: number }) {
  const counts = data.counts ?? new SharedArrayBuffer(16)
  const workerData = { threads: 2, limits: LIMITS, exchanges: 1, at: 1, hold: false, ...data, counts }
  const worker = new Worker(new URL('./hammer.ts', import.meta.url), { workerData, execArgv: [] })
  await once(worker, 'message')
  return worker
}

const until = (done: Condition) => within(10_000, done)

it('two threads at full speed never pass the cap, lose no waiter and no place', async () => {
  const memory = createPlacesMemory(2)
  const counts = new SharedArrayBuffer(16)
  const workers = await Promise.all([0, 1].map((thread) => start({ memory, counts, thread, exchanges: 3000, at: 8 })))
  const results = Promise.all(workers.map(async (worker) => ((await once(worker, 'message')) as [HammerResult])[0]))
  for (const worker of workers) worker.postMessage('go')
  const [first, second] = (await results) as [HammerResult, HammerResult]
  await Promise.all(workers.map((worker) => worker.terminate()))

  const [inside, serving, mostInside, mostServing] = new Int32Array(counts)
  expect([inside, serving]).toEqual([0, 0])
  expect([mostInside, mostServing], 'the cap and the workers, reached and not passed').toEqual([8, 3])
  for (const { served, waited, refused } of [first, second]) {
    expect(served).toBeGreaterThanOrEqual(3000)
    expect(waited).toBeGreaterThan(0)
    expect(refused).toBeGreaterThan(0)
  }
  const figures = new Places(memory, 2, -1, LIMITS).figures()
  expect(figures).toMatchObject({ ccu: 0, inService: 0, waiting: 0, skew: 0 })
  expect(figures.completed).toBeGreaterThan(0)
  expect(figures.admitted).toBe(figures.completed + figures.aborted)
})

it('a waiter is woken by the thread that frees the place, without anybody’s tick', async () => {
  const memory = createPlacesMemory(2)
  const own = new Scope('', new Places(memory, 2, 0, LIMITS), LIMITS, 2)
  for (let i = 0; i < LIMITS.workers; i++) {
    expect(own.places.enter(0)).toBe(ENTERED)
    expect(own.places.start(0)).toBe(true)
  }
  const worker = await start({ memory, thread: 1 })
  const done = once(worker, 'message') as Promise<[HammerResult]>
  worker.postMessage('go')
  await until(() => own.places.waiting === 1)
  own.places.finish(0, true)
  expect((await done)[0]).toEqual({ served: 1, waited: 1, refused: 0 })
  await worker.terminate()
  expect(own.places.figures()).toMatchObject({ ccu: 2, inService: 2, waiting: 0, skew: 0 })
})

it('a thread that is killed gives its places to those who wait in another', async () => {
  const memory = createPlacesMemory(2)
  const own = new Scope('', new Places(memory, 2, 0, LIMITS), LIMITS, 2)
  const worker = await start({ memory, thread: 1, at: LIMITS.workers, hold: true })
  worker.postMessage('go')
  await until(() => own.places.inService === LIMITS.workers)
  expect(own.places.enter(0)).toBe(ENTERED)
  expect(own.places.start(0)).toBe(false)
  const end = new Promise((resolve) => own.wait(0, '', 0, resolve))
  await worker.terminate()
  expect(own.places.ccu).toBe(LIMITS.workers + 1)
  new Places(memory, 2, -1, LIMITS).reclaim(1)
  expect(await end).toBe('served')
  expect(own.places.figures()).toMatchObject({ ccu: 1, inService: 1, waiting: 0, aborted: LIMITS.workers, skew: 0 })
})
