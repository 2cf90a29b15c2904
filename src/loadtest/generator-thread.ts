/**
 * One thread that makes load: an engine, its schedule, its sockets, and the loop that drives them. The thread does
 * nothing else, so that drawing a progress line or reading metrics never delays a start.
 *
 * It makes itself quick first. Messages: the parent posts `start` (when, as a time of the day) and `stop`; the thread
 * posts `ready`, `live` twice a second, and `done` with its recording. The thread ends by itself.
 */

import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'
import { Connections, isExhaustion } from './connections.ts'
import { Generator, LONGEST_SLEEP_MS } from './generator.ts'
import { createHistogram, type Histogram, record } from './histogram.ts'
import type { LoadPlan } from './load-plan.ts'
import { createRandom } from './random.ts'
import { createRecording, type Outcome, type Recording } from './recording.ts'
import { RateSchedule, type Schedule, UserSchedule } from './schedule.ts'
import { Shape, type Stage } from './shape.ts'
import { warmUp } from './warm-up.ts'

const LIVE_EVERY_MS = 500

export interface ThreadPlan extends Omit<LoadPlan, 'shape' | 'threads'> {
  readonly stages: readonly Stage[]
  readonly part: number
  readonly parts: number
}

/** What has happened since the last of these. */
export interface Live {
  readonly kind: 'live'
  outcomes: Record<Outcome, number>
  /** Latency of what was served. */
  latency: Histogram
  inFlight: number
  lagMs: number
}

export type FromThread = { kind: 'ready' } | Live | { kind: 'done'; recording: Recording }
export type ToThread = { kind: 'start'; atEpochMs: number } | { kind: 'stop' }

/** Starts a thread. The same file is its entry, by whichever extension it runs with. */
export const startThread = (plan: ThreadPlan): Worker =>
  new Worker(new URL(import.meta.url), { workerData: { generate: plan } })

const emptyLive = (): Live => ({
  kind: 'live',
  outcomes: { ok: 0, shed: 0, limited: 0, failed: 0, broken: 0, timedOut: 0 },
  latency: createHistogram(),
  inFlight: 0,
  lagMs: 0,
})

function scheduleOf(plan: ThreadPlan, shape: Shape): Schedule {
  const part = { part: plan.part, parts: plan.parts, random: createRandom(plan.part + 1) }
  return plan.unit === 'users'
    ? new UserSchedule(shape, { ...part, thinkMs: plan.thinkMs })
    : new RateSchedule(shape, { ...part, even: plan.arrivals === 'even' })
}

function runThread(plan: ThreadPlan): void {
  const port = parentPort!
  const shape = new Shape(plan.stages)
  const recording = createRecording(shape.durationMs, plan.targets.length)
  const post = (message: FromThread) => port.postMessage(message)
  let beginMs = 0
  let stoppedMs = Number.POSITIVE_INFINITY
  let live = emptyLive()
  const now = () => performance.now() - beginMs

  const connections = new Connections(
    { ...plan, requests: plan.targets.map(({ request }) => request), now },
    (request, endMs, status, outcome, error) => {
      if (error !== undefined && isExhaustion(error)) recording.exhausted++
      live.outcomes[outcome]++
      if (outcome === 'ok') record(live.latency, (endMs - request.dueMs) * 1000)
      generator.ended(request, endMs, status, outcome, error)
    },
  )
  const generator = new Generator(
    {
      schedule: scheduleOf(plan, shape),
      recording,
      weights: plan.targets.map(({ weight }) => weight),
      random: createRandom(0x10ad + plan.part),
      lateAfterMs: plan.lateAfterMs,
    },
    connections,
  )

  const sweepEveryMs = Math.max(5, Math.min(100, plan.timeoutMs / 20))
  let sweepAtMs = 0
  let liveAtMs = LIVE_EVERY_MS
  const loop = () => {
    const nowMs = now()
    const nextMs = nowMs < stoppedMs ? generator.tick(nowMs) : Number.POSITIVE_INFINITY
    if (nowMs >= sweepAtMs) {
      connections.sweep(nowMs)
      sweepAtMs = nowMs + sweepEveryMs
    }
    if (nowMs >= liveAtMs) {
      live.inFlight = generator.inFlight
      live.lagMs = Math.max(0, nowMs - liveAtMs - LONGEST_SLEEP_MS)
      post(live)
      live = emptyLive()
      liveAtMs = nowMs + LIVE_EVERY_MS
    }
    if (nextMs === Number.POSITIVE_INFINITY && generator.inFlight === 0) return finish()
    const sleepMs = Math.min(nextMs - now(), LONGEST_SLEEP_MS)
    if (sleepMs < 0.5) setImmediate(loop)
    else setTimeout(loop, sleepMs)
  }

  const finish = () => {
    post({ kind: 'done', recording })
    port.close()
    void connections.close()
  }

  port.on('message', (message: ToThread) => {
    if (message.kind === 'stop') {
      stoppedMs = 0
      void connections.close()
      return
    }
    // performance.now() has another origin in each thread; the time of the day is the one they share.
    beginMs = message.atEpochMs - performance.timeOrigin
    setTimeout(loop, Math.max(0, -now()))
  })
  void warmUp().finally(() => post({ kind: 'ready' }))
}

if (!isMainThread && workerData?.generate !== undefined) runThread(workerData.generate as ThreadPlan)
