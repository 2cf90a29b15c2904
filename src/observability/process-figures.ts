/**
 * What the operating system and Node know about the process and its threads. Process figures are read when somebody
 * looks; a thread's event loop is watched from inside, once a second, by `startThreadProbe`.
 */

import { readdirSync, readFileSync } from 'node:fs'
import { monitorEventLoopDelay, performance } from 'node:perf_hooks'
import { SCALAR, type ThreadMetrics } from '../shared/metrics.ts'
import type { GaugeValue } from './figures.ts'

const RESOLUTION_MS = 20

export function* processValues(): Iterable<GaugeValue> {
  const value = (name: string, help: string, v: number, type: GaugeValue['type'] = 'gauge') => ({ name, help, labels: {}, value: v, type }) // biome-ignore format: one line
  const cpu = process.cpuUsage()
  const memory = process.memoryUsage()
  yield value('process_cpu_seconds_total', 'CPU time of the process.', (cpu.user + cpu.system) / 1e6, 'counter')
  yield value('process_resident_memory_bytes', 'Resident memory.', memory.rss)
  yield value('process_start_time_seconds', 'Start of the process since 1970.', performance.timeOrigin / 1000)
  const fds = openDescriptors()
  if (fds !== undefined) yield value('process_open_fds', 'Open file descriptors.', fds)
  const most = mostDescriptors()
  if (most !== undefined) yield value('process_max_fds', 'Most open file descriptors.', most)
  yield value('nodejs_heap_size_used_bytes', 'JavaScript heap in use, main thread.', memory.heapUsed)
  yield value('nodejs_heap_size_allocated_bytes', 'JavaScript heap, main thread.', memory.heapTotal)
  yield value('nodejs_external_memory_bytes', 'Memory of buffers outside of the heap, main thread.', memory.external)
}

function openDescriptors(): number | undefined {
  try {
    return readdirSync('/proc/self/fd').length - 1 // the descriptor of the listing itself
  } catch {
    return undefined
  }
}

function mostDescriptors(): number | undefined {
  try {
    const soft = /^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'latin1'))?.[1]
    return soft === undefined ? undefined : Number(soft)
  } catch {
    return undefined
  }
}

/** What this thread's event loop did since the look before; the figures go to the thread's gauges. */
export class ThreadProbe {
  readonly #metrics: ThreadMetrics
  readonly #delay = monitorEventLoopDelay({ resolution: RESOLUTION_MS })
  #loop = performance.eventLoopUtilization()
  #cpu = process.threadCpuUsage()
  #atMs: number

  constructor(metrics: ThreadMetrics, nowMs: number) {
    this.#metrics = metrics
    this.#atMs = nowMs
    this.#delay.enable()
  }

  sample(nowMs: number): void {
    // The histogram holds whole intervals of its timer: what is beyond the resolution is delay
    const delayMs = this.#delay.percentile(99) / 1e6 - RESOLUTION_MS
    this.#delay.reset()
    this.#metrics.set(SCALAR.loopDelayMs, Math.max(0, delayMs))
    const loop = performance.eventLoopUtilization()
    this.#metrics.set(SCALAR.loopUtilization, performance.eventLoopUtilization(loop, this.#loop).utilization)
    this.#loop = loop
    const cpu = process.threadCpuUsage()
    const usedMs = (cpu.user - this.#cpu.user + cpu.system - this.#cpu.system) / 1000
    this.#metrics.set(SCALAR.cpuUtilization, usedMs / Math.max(1, nowMs - this.#atMs))
    this.#cpu = cpu
    this.#atMs = nowMs
  }

  close(): void {
    this.#delay.disable()
  }
}

/** Watches this thread once a second, by one unreferenced timer and the histogram's own of 20 ms. */
export function startThreadProbe(metrics: ThreadMetrics): { close(): void } {
  const probe = new ThreadProbe(metrics, performance.now())
  const timer = setInterval(() => probe.sample(performance.now()), 1000).unref()
  return {
    close() {
      clearInterval(timer)
      probe.close()
    },
  }
}
