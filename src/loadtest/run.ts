/**
 * Carries out a load plan: starts the threads together, passes on what they see while it happens, adds up what they
 * recorded.
 */

import type { Worker } from 'node:worker_threads'
import { type FromThread, type Live, startThread, type ToThread } from './generator-thread.ts'
import { createHistogram, type Histogram, merge } from './histogram.ts'
import type { LoadPlan } from './load-plan.ts'
import { createRecording, mergeRecording, OUTCOMES, type Outcome, type Recording } from './recording.ts'

/** Time for every thread to hear of the start before it comes. */
const HEAD_START_MS = 30

/** The last moments of a run, over all threads. */
export interface Progress {
  readonly elapsedMs: number
  readonly durationMs: number
  /** Users or arrivals a second that the shape asks for now. */
  readonly level: number
  /** Per second, over the last half second. */
  readonly rps: number
  readonly latency: Histogram
  readonly outcomes: Readonly<Record<Outcome, number>>
  readonly inFlight: number
  readonly lagMs: number
}

export interface RunHooks {
  onProgress?(progress: Progress): void
  /** Called when the first request is about to leave. */
  onStart?(): void
}

export interface Run {
  readonly finished: Promise<{ recording: Recording; stopped: boolean }>
  /** Ends it early: what is in flight is given up. */
  stop(): void
}

export function startRun(plan: LoadPlan, hooks: RunHooks = {}): Run {
  const { shape, threads, ...rest } = plan
  const workers = Array.from({ length: threads }, (_, part) =>
    startThread({
      ...rest,
      stages: shape.stages,
      part,
      parts: threads,
      maxConnections: Math.ceil(plan.maxConnections / threads),
    }),
  )
  const totals = Object.fromEntries(OUTCOMES.map((name) => [name, 0])) as Record<Outcome, number>
  const latest: (Live | undefined)[] = workers.map(() => undefined)
  const ready = workers.map(() => Promise.withResolvers<void>())
  const done = workers.map(() => Promise.withResolvers<Recording>())
  let beganMs = 0
  let lastMs = 0
  let stopped = false

  const tell = (worker: Worker, message: ToThread) => worker.postMessage(message)
  const progress = () => {
    const nowMs = performance.now()
    const heard = latest.filter((live) => live !== undefined)
    const latency = createHistogram()
    let answered = 0
    for (const live of heard) {
      merge(latency, live.latency)
      for (const name of OUTCOMES) {
        totals[name] += live.outcomes[name]
        answered += live.outcomes[name]
      }
    }
    const elapsedMs = nowMs - beganMs
    hooks.onProgress?.({
      elapsedMs,
      durationMs: shape.durationMs,
      level: shape.levelAt(elapsedMs),
      rps: answered / ((nowMs - lastMs) / 1000),
      latency,
      outcomes: totals,
      inFlight: heard.reduce((sum, live) => sum + live.inFlight, 0),
      lagMs: heard.reduce((most, live) => Math.max(most, live.lagMs), 0),
    })
    latest.fill(undefined)
    lastMs = nowMs
  }

  workers.forEach((worker, i) => {
    worker.on('message', (message: FromThread) => {
      if (message.kind === 'ready') ready[i]!.resolve()
      else if (message.kind === 'done') done[i]!.resolve(message.recording)
      else {
        // A thread that reports twice before another reports once closes the round.
        if (latest[i] !== undefined) progress()
        latest[i] = message
        if (latest.every((live) => live !== undefined)) progress()
      }
    })
    const failed = (error: unknown) => {
      ready[i]!.reject(error)
      done[i]!.reject(error)
    }
    worker.on('error', failed)
    worker.on('exit', (code) => failed(new Error(`a load thread ended with code ${code}`)))
  })

  const carryOut = async () => {
    try {
      await Promise.all(ready.map(({ promise }) => promise))
      hooks.onStart?.()
      beganMs = lastMs = performance.now() + HEAD_START_MS
      for (const worker of workers) tell(worker, { kind: 'start', atEpochMs: performance.timeOrigin + beganMs })
      const recordings = await Promise.all(done.map(({ promise }) => promise))
      const recording = createRecording(shape.durationMs, plan.targets.length)
      for (const part of recordings) mergeRecording(recording, part)
      return { recording, stopped }
    } finally {
      for (const { promise } of [...ready, ...done]) promise.catch(() => {})
      await Promise.all(workers.map((worker) => worker.terminate()))
    }
  }

  return {
    finished: carryOut(),
    stop() {
      stopped = true
      for (const worker of workers) tell(worker, { kind: 'stop' })
    },
  }
}
