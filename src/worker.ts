/**
 * One thread's data path: its listeners, the current snapshot, and what outlives it. With one thread it runs in the
 * supervisor's own thread (20 MB less memory, no hop); with more, each in a worker that is told what to do by messages.
 */

import { isMainThread, parentPort, workerData } from 'node:worker_threads'
import type { Config } from './config/schema.ts'
import type { ExplainRequest, Explanation } from './explain.ts'
import { FastListener, type ListenerOwner, type ListenerSettings } from './listener/fast.ts'
import { PressureWatch } from './policies/admission/pressure-watch.ts'
import type { KeySetStatus } from './policies/auth/jwks.ts'
import type { PurgeRequest } from './policies/cache/store.ts'
import { GLOBAL_SCOPE, type Readiness, Services, type ThreadInfo } from './services.ts'
import type { SharedMemory } from './shared/memory.ts'
import { MetricsReader } from './shared/metrics-reader.ts'
import { Snapshot } from './snapshot.ts'
import type { UpstreamStatus } from './upstream/status.ts'
import type { EndpointOrder } from './upstream/upstream.ts'

/** Time for the last refusals to reach their clients before connections are cut. */
const REFUSALS_LEAVE_MS = 100

/** What the supervisor asks of a data path, in whichever thread. */
export interface DataPath {
  /** Binds the listeners; returns their ports. @param ports to bind, where the config says 0 */
  listen(ports: readonly number[] | undefined): Promise<number[]>
  /** Builds what a new config needs beside what runs. Rejects when that cannot be; then `rollback()` is called. */
  prepare(config: Config, memory: SharedMemory): Promise<void>
  /** Traffic goes by the prepared config from now on. */
  commit(): Promise<void>
  /** Undoes `prepare`, also a failed one. */
  rollback(): Promise<void>
  setReadiness(readiness: Readiness): void
  upstreams(): Promise<UpstreamStatus>
  /** False when there is no such endpoint. */
  orderEndpoint(upstream: string, url: string, order: EndpointOrder): Promise<boolean>
  keySets(): Promise<KeySetStatus[]>
  /** Takes answers out of this thread's cache; with `everywhere` also out of Redis, which tells the fleet. Returns how many. */
  purge(request: PurgeRequest, everywhere: boolean): Promise<number>
  explain(request: ExplainRequest): Promise<Explanation>
  /** A `.cpuprofile` of this thread, over so many seconds. */
  profile(seconds: number): Promise<string>
  reopenLogs(): Promise<void>
  /** Stops accepting and lets exchanges end, for so long; then cuts. Returns how many were cut. */
  drain(timeoutMs: number): Promise<number>
  close(): Promise<void>
}

export class LocalDataPath implements DataPath, ListenerOwner {
  readonly services: Services
  snapshot: Snapshot
  draining = false
  #listeners: FastListener[] = []
  /** What `prepare()` has read for each listener, until `commit()`. */
  #settings: (ListenerSettings | undefined)[] = []
  #next: Snapshot | undefined
  #before: { config: Config; memory: SharedMemory } | undefined

  constructor(config: Config, memory: SharedMemory, info: ThreadInfo) {
    this.services = new Services(info, memory, config)
    try {
      this.services.configure(config, memory)
      this.snapshot = new Snapshot(config, this.services)
    } catch (error) {
      void this.services.close() // its ticks would keep a process alive that has nothing to do
      throw error
    }
    this.services.onKeysChanged = () => {
      this.snapshot = new Snapshot(this.snapshot.config, this.services)
    }
    this.services.clock.add({ tick: () => Atomics.add(memory.heartbeats, info.thread, 1) })
    const reader = new MetricsReader(memory.metrics)
    const pressure = new PressureWatch({
      config: () => this.services.config.admission.pressure,
      places: () => this.services.scopes.get(GLOBAL_SCOPE)!.places,
      loop: () => ({
        delayMs: reader.scalar('loopDelayMs', info.thread),
        utilization: reader.scalar('loopUtilization', info.thread),
      }),
      logger: () => this.services.logger,
    })
    this.services.clock.add(pressure)
  }

  async listen(ports: readonly number[] | undefined): Promise<number[]> {
    await this.services.ready()
    const bound: number[] = []
    for (const [i, config] of this.snapshot.config.server.listen.entries()) {
      const { host, port } = config.address
      const listener = new FastListener(`${host}:${port}`, config, this)
      this.#listeners.push(listener)
      bound.push(await listener.listen(host, ports?.[i] ?? port))
    }
    return bound
  }

  async prepare(config: Config, memory: SharedMemory): Promise<void> {
    this.#before = { config: this.services.config, memory: this.services.memory }
    this.#settings = this.#listeners.map((listener) => {
      const own = config.server.listen.find(({ address }) => `${address.host}:${address.port}` === listener.name)
      return own && listener.prepare(own, config.baseDir)
    })
    this.services.configure(config, memory)
    this.#next = new Snapshot(config, this.services)
  }

  async commit(): Promise<void> {
    this.#before = undefined
    if (this.#next === undefined) return
    this.snapshot = this.#next
    this.#next = undefined
    for (const [i, listener] of this.#listeners.entries()) {
      const settings = this.#settings[i]
      if (settings !== undefined) listener.configure(settings)
    }
    this.services.settle(this.snapshot.config)
  }

  async rollback(): Promise<void> {
    const before = this.#before
    this.#before = this.#next = undefined
    if (before === undefined) return
    this.services.configure(before.config, before.memory)
    this.services.settle(before.config)
  }

  setReadiness(readiness: Readiness): void {
    this.services.readiness = () => readiness
  }

  async orderEndpoint(upstream: string, url: string, order: EndpointOrder): Promise<boolean> {
    return this.services.upstreams.get(upstream)?.order(url, order) ?? false
  }

  async upstreams(): Promise<UpstreamStatus> {
    const nowMs = performance.now()
    return Object.fromEntries([...this.services.upstreams].map(([name, upstream]) => [name, upstream.status(nowMs)]))
  }

  async purge(request: PurgeRequest, everywhere: boolean): Promise<number> {
    return this.services.purge(request, everywhere ? 'fleet' : 'thread')
  }

  async explain(request: ExplainRequest): Promise<Explanation> {
    const { explain } = await import('./explain.ts')
    return explain(this.snapshot, request)
  }

  async keySets(): Promise<KeySetStatus[]> {
    return this.services.keySets.status()
  }

  async profile(seconds: number): Promise<string> {
    const { cpuProfile } = await import('./observability/profiles.ts')
    return cpuProfile(seconds)
  }

  reopenLogs(): Promise<void> {
    return this.services.reopenLogs()
  }

  async drain(timeoutMs: number): Promise<number> {
    this.draining = true
    let timer: NodeJS.Timeout | undefined
    const timeout = new Promise((resolve) => {
      timer = setTimeout(resolve, timeoutMs)
    })
    await Promise.race([Promise.all(this.#listeners.map((listener) => listener.drain())), timeout])
    clearTimeout(timer)
    let waiting = false
    for (const scope of this.services.scopes.values()) waiting = scope.refuseAll() > 0 || waiting
    if (waiting) await new Promise((resolve) => setTimeout(resolve, REFUSALS_LEAVE_MS))
    const cut = this.#listeners.reduce((sum, listener) => sum + listener.running, 0)
    await Promise.all(this.#listeners.map((listener) => listener.sayGoodbye()))
    for (const listener of this.#listeners) listener.cut()
    return cut
  }

  async close(): Promise<void> {
    for (const listener of this.#listeners) listener.cut()
    await this.services.close()
  }
}

/** What goes to a worker and comes back: a call of `DataPath` by name. */
export interface WorkerCall {
  readonly id: number
  readonly method: keyof DataPath
  readonly args: readonly unknown[]
}

export interface WorkerResult {
  readonly id: number
  readonly value?: unknown
  readonly error?: { message: string; code?: string }
}

export interface WorkerInit {
  readonly config: Config
  readonly memory: SharedMemory
  readonly info: ThreadInfo
}

function serveSupervisor(port: NonNullable<typeof parentPort>, { config, memory, info }: WorkerInit): void {
  const path = new LocalDataPath(config, memory, info)
  port.on('message', async ({ id, method, args }: WorkerCall) => {
    try {
      const value = await (path[method] as (...args: unknown[]) => unknown)(...args)
      port.postMessage({ id, value } satisfies WorkerResult)
    } catch (error) {
      const { message, code } = error as NodeJS.ErrnoException
      port.postMessage({ id, error: { message, ...(code !== undefined && { code }) } } satisfies WorkerResult)
    }
    if (method === 'close') port.close()
  })
}

if (!isMainThread && parentPort !== null && (workerData as WorkerInit | null)?.memory !== undefined) {
  serveSupervisor(parentPort, workerData as WorkerInit)
}
