/**
 * One of the threads of threads.test.ts: sends exchanges through a scope as fast as it can and counts, in memory of its own,
 * who is inside, so that a cap that is passed for a moment is seen.
 */

import { parentPort, workerData } from 'node:worker_threads'
import { ENTERED, Places } from '../../../../src/policies/admission/places.ts'
import { Scope, type ScopeLimits } from '../../../../src/policies/admission/scope.ts'

export interface HammerData {
  memory: SharedArrayBuffer
  /** Inside, in service, most inside, most in service. */
  counts: SharedArrayBuffer
  thread: number
  threads: number
  limits: ScopeLimits
  exchanges: number
  /** Exchanges at once in this thread. */
  at: number
  /** Hold the places for ever: the thread is going to be killed. */
  hold: boolean
}

export interface HammerResult {
  served: number
  waited: number
  refused: number
}

const { memory, counts, thread, threads, limits, exchanges, at, hold } = workerData as HammerData
const words = new Int32Array(counts)
const places = new Places(memory, threads, thread, limits)
const scope = new Scope('', places, limits, threads)
const result: HammerResult = { served: 0, waited: 0, refused: 0 }
const INSIDE = 0
const SERVING = 1
const MOST = 2

function count(what: number): void {
  const now = Atomics.add(words, what, 1) + 1
  for (;;) {
    const most = Atomics.load(words, what + MOST)
    if (now <= most || Atomics.compareExchange(words, what + MOST, most, now) === most) return
  }
}

async function exchange(n: number): Promise<void> {
  if (places.enter(0) !== ENTERED) {
    await refused()
    return
  }
  count(INSIDE)
  let serving = places.start(0)
  if (!serving) {
    const end = await new Promise<string>((resolve) => {
      if (scope.wait(0, '', 0, resolve) === undefined) resolve('full')
    })
    serving = end === 'served'
    if (serving) result.waited++
  }
  if (serving) {
    count(SERVING)
    if (hold) await new Promise(() => {})
    await pause(n)
    Atomics.sub(words, SERVING, 1)
  }
  Atomics.sub(words, INSIDE, 1)
  if (serving) places.finish(0, n % 3 !== 0)
  else places.leave(0, false)
  if (serving) result.served++
  else await refused()
}

/** Who is refused comes back in the next turn of the loop: without that nobody else would have one. */
async function refused(): Promise<void> {
  result.refused++
  await new Promise((resolve) => setImmediate(resolve))
}

/** Sometimes not at all, sometimes a turn of the loop. */
async function pause(n: number): Promise<void> {
  if (n % 4 !== 0) await new Promise((resolve) => setImmediate(resolve))
}

async function client(): Promise<void> {
  while (result.served < exchanges) await exchange(result.served + result.refused)
}

// Waking by another thread does not keep a thread alive.
const alive = setInterval(() => {}, 1000)
parentPort!.postMessage('ready')
parentPort!.once('message', async () => {
  await Promise.all(Array.from({ length: at }, client))
  clearInterval(alive)
  parentPort!.postMessage(result)
})
