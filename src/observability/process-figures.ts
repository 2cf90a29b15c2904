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
  const io = numbersOf('/proc/self/io')
  if (io !== undefined) {
    yield value('process_disk_read_bytes_total', 'Bytes read from storage.', io['read_bytes'] ?? 0, 'counter')
    yield value('process_disk_written_bytes_total', 'Bytes written to storage.', io['write_bytes'] ?? 0, 'counter')
  }
  const network = networkBytes()
  if (network !== undefined) {
    const where = 'over the network, in the network namespace of the process, loopback aside'
    yield value('process_network_receive_bytes_total', `Bytes received ${where}.`, network.received, 'counter')
    yield value('process_network_transmit_bytes_total', `Bytes sent ${where}.`, network.sent, 'counter')
  }
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

/** Lines of `name: number`. */
function numbersOf(file: string): Record<string, number> | undefined {
  try {
    const lines = readFileSync(file, 'latin1').matchAll(/^(\w+): (\d+)$/gm)
    return Object.fromEntries([...lines].map(([, name, number]) => [name!, Number(number)]))
  } catch {
    return undefined
  }
}

/** Interfaces are those of the namespace: a container's own, or the whole machine's. */
function networkBytes(): { received: number; sent: number } | undefined {
  try {
    let received = 0
    let sent = 0
    for (const line of readFileSync('/proc/self/net/dev', 'latin1').split('\n').slice(2)) {
      const [name, figures] = line.split(':')
      if (figures === undefined || name!.trim() === 'lo') continue
      const values = figures.trim().split(/\s+/).map(Number)
      received += values[0] ?? 0
      sent += values[8] ?? 0
    }
    return { received, sent }
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
