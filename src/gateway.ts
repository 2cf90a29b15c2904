/**
 * The running gateway as its owner sees it: threads, start, reload, drain, close. The supervisor of the data paths; it
 * has the admin listener and renders what is watched.
 */

import { availableParallelism } from 'node:os'
import { Worker } from 'node:worker_threads'
import { compileAdminRoutes } from './admin-routes.ts'
import type { Address } from './config/host-port.ts'
import type { Config } from './config/schema.ts'
import { type AdminListener, createAdmin } from './listener/admin.ts'
import { LineWriter } from './observability/line-writer.ts'
import { createLogger, type Logger } from './observability/logger.ts'
import type { Readiness, ThreadInfo } from './services.ts'
import { createSharedMemory, type SharedMemory } from './shared/memory.ts'
import type { EndpointStatus } from './upstream/upstream.ts'
import { type DataPath, LocalDataPath, type WorkerCall, type WorkerInit, type WorkerResult } from './worker.ts'

export interface GatewayOptions {
  /** A taken admin port is a warning: nobody asked for it. */
  readonly adminOptional?: boolean
}

/** A port that cannot be had, and what to do about it. */
export class ListenError extends Error {}

export class Gateway {
  config: Config
  memory: SharedMemory
  readonly startedMs = Date.now()
  readonly logger: Logger
  readonly threads: number
  lastReload = { success: true, lastSuccessMs: Date.now() }
  /** Ports of the listeners in the order of the config, once started. */
  ports: number[] = []
  adminPort = 0
  readonly #log: LineWriter
  readonly #options: GatewayOptions
  #paths: DataPath[] = []
  #admins: AdminListener[] = []
  #state: 'starting' | 'running' | 'draining' | 'closed' = 'starting'
  #upstreamsReady: Readiness = { ready: true, reason: '' }

  constructor(config: Config, options: GatewayOptions = {}) {
    const { threads } = config.server
    this.config = config
    this.#options = options
    this.threads = threads === 'auto' ? availableParallelism() : threads
    this.memory = createSharedMemory(config, this.threads)
    const { file, level } = config.logging
    this.#log = new LineWriter({ ...(file !== undefined && { file }), turn: this.memory.logTurn, id: 0x7fff })
    this.logger = createLogger({ level, write: (line) => this.#log.write(line) })
  }

  /** Rejects with a `ListenError` when a port cannot be bound; nothing runs then. */
  async start(): Promise<void> {
    try {
      for (let thread = 0; thread < this.threads; thread++) await this.#startPath(thread)
      await this.#startAdmins()
    } catch (error) {
      await this.close()
      throw error
    }
    this.#state = 'running'
    this.#tellReadiness()
  }

  async #startPath(thread: number): Promise<void> {
    const info: ThreadInfo = { thread, threads: this.threads }
    const { config, memory } = this
    const path =
      this.threads === 1 ? new LocalDataPath(config, memory, info) : new WorkerDataPath({ config, memory, info })
    this.#paths.push(path)
    try {
      const ports = await path.listen(thread === 0 ? undefined : this.ports)
      if (thread > 0) return
      this.ports = ports
      for (const [i, { address }] of config.server.listen.entries()) {
        this.logger.info('listening', {
          listener: joinAddress(address),
          address: joinAddress({ ...address, port: ports[i]! }),
        })
      }
    } catch (error) {
      throw listenError(
        error,
        config.server.listen.map(({ address }) => joinAddress(address)).join(', '),
        'server.listen',
      )
    }
  }

  async #startAdmins(): Promise<void> {
    const { admin, probes } = this.config.server
    const routes = await compileAdminRoutes(this)
    if (admin !== false) {
      const { host, port } = admin.address
      const listener = createAdmin({
        routes: routes.admin,
        ...(admin.token !== undefined && { token: admin.token }),
        ...(admin.metricsToken !== undefined && { metricsToken: admin.metricsToken }),
        onError: (err, path) => this.logger.error('an admin endpoint failed', { err, path }),
      })
      try {
        const bound = await listener.listen(host, port)
        this.#admins.push(listener)
        this.adminPort = bound.port
        this.logger.info('admin listening', { address: joinAddress({ host, port: bound.port }) })
      } catch (error) {
        if (!this.#options.adminOptional) throw listenError(error, joinAddress(admin.address), 'server.admin.address')
        this.logger.warn('the admin port is taken: no metrics, no dashboard', { address: joinAddress(admin.address) })
      }
    }
    if (probes === undefined) return
    const { host, port } = probes.address
    const listener = createAdmin({ routes: routes.probes })
    try {
      const bound = await listener.listen(host, port)
      this.#admins.push(listener)
      this.logger.info('probes listening', { address: joinAddress({ host, port: bound.port }) })
    } catch (error) {
      throw listenError(error, joinAddress(probes.address), 'server.probes.address')
    }
  }

  /** Takes a new config in all threads, or rejects and keeps the old one. */
  async reload(config: Config): Promise<void> {
    const memory = createSharedMemory(config, this.threads, this.memory)
    const before = { config: this.config, memory: this.memory }
    try {
      for (const [i, path] of this.#paths.entries()) {
        try {
          await path.reload(config, memory)
        } catch (error) {
          for (const earlier of this.#paths.slice(0, i + 1)) await earlier.reload(before.config, before.memory)
          throw error
        }
      }
    } catch (error) {
      this.reloadFailed()
      throw error
    }
    this.config = config
    this.memory = memory
    this.lastReload = { success: true, lastSuccessMs: Date.now() }
  }

  reloadFailed(): void {
    this.lastReload = { ...this.lastReload, success: false }
  }

  get readiness(): Readiness {
    if (this.#state === 'starting') return { ready: false, reason: 'starting' }
    if (this.#state !== 'running') return { ready: false, reason: 'draining' }
    return this.#upstreamsReady
  }

  #tellReadiness(): void {
    for (const path of this.#paths) path.setReadiness(this.readiness)
  }

  /** Endpoints by upstream, all threads together: in flight is summed, the worst state is told. */
  async upstreams(): Promise<Record<string, EndpointStatus[]>> {
    const [first, ...others] = await Promise.all(this.#paths.map((path) => path.upstreams()))
    for (const other of others) {
      for (const [name, endpoints] of Object.entries(other)) {
        for (const endpoint of endpoints) {
          const known = first![name]?.find(({ url }) => url === endpoint.url) as
            | { inFlight: number; state: string; reason: string }
            | undefined
          if (known === undefined) continue
          known.inFlight += endpoint.inFlight
          if (endpoint.state !== 'healthy') Object.assign(known, { state: endpoint.state, reason: endpoint.reason })
        }
      }
    }
    const upstreams = first ?? {}
    this.#judgeReadiness(upstreams)
    return upstreams
  }

  #judgeReadiness(upstreams: Record<string, EndpointStatus[]>): void {
    const down = Object.entries(this.config.upstreams)
      .filter(([, { critical }]) => critical)
      .map(([name]) => name)
      .filter((name) => !upstreams[name]?.some(({ state }) => state === 'healthy'))
    this.#upstreamsReady = {
      ready: down.length === 0,
      reason: down.length === 0 ? '' : `no healthy endpoint: ${down.join(', ')}`,
    }
    this.#tellReadiness()
  }

  async reopenLogs(): Promise<void> {
    await this.#log.reopen()
    await Promise.all(this.#paths.map((path) => path.reopenLogs()))
  }

  /**
   * The end in an orderly way: not ready, then no new connections, then what runs may end. Returns how many exchanges had
   * to be cut.
   */
  async drain(): Promise<number> {
    const { readinessDelay, drain } = this.config.server.shutdown
    this.#state = 'draining'
    this.#tellReadiness()
    this.logger.info('draining', { readinessDelayMs: readinessDelay, drainMs: drain })
    if (readinessDelay > 0) await new Promise((resolve) => setTimeout(resolve, readinessDelay))
    const cut = await Promise.all(this.#paths.map((path) => path.drain(drain)))
    return cut.reduce((sum, n) => sum + n, 0)
  }

  async close(): Promise<void> {
    this.#state = 'closed'
    await Promise.all([...this.#admins.map((admin) => admin.close()), ...this.#paths.map((path) => path.close())])
    this.#paths = []
    await this.#log.close()
  }
}

/** A data path in a worker thread. */
class WorkerDataPath implements DataPath {
  readonly #worker: Worker
  readonly #calls = new Map<number, { resolve(value: never): void; reject(error: Error): void }>()
  #nextId = 0

  constructor(init: WorkerInit) {
    this.#worker = new Worker(new URL(`./worker.${import.meta.url.endsWith('.ts') ? 'ts' : 'js'}`, import.meta.url), {
      workerData: init,
    })
    this.#worker.on('message', ({ id, value, error }: WorkerResult) => {
      const call = this.#calls.get(id)
      this.#calls.delete(id)
      if (error === undefined) call?.resolve(value as never)
      else call?.reject(Object.assign(new Error(error.message), error))
    })
  }

  #call<T>(method: keyof DataPath, ...args: unknown[]): Promise<T> {
    const id = this.#nextId++
    this.#worker.postMessage({ id, method, args } satisfies WorkerCall)
    return new Promise((resolve, reject) => this.#calls.set(id, { resolve, reject }))
  }

  listen(ports: readonly number[] | undefined): Promise<number[]> {
    return this.#call('listen', ports)
  }

  reload(config: Config, memory: SharedMemory): Promise<void> {
    return this.#call('reload', config, memory)
  }

  setReadiness(readiness: Readiness): void {
    void this.#call('setReadiness', readiness)
  }

  upstreams(): Promise<Record<string, EndpointStatus[]>> {
    return this.#call('upstreams')
  }

  reopenLogs(): Promise<void> {
    return this.#call('reopenLogs')
  }

  drain(timeoutMs: number): Promise<number> {
    return this.#call('drain', timeoutMs)
  }

  async close(): Promise<void> {
    await this.#call('close')
    await this.#worker.terminate()
  }
}

function joinAddress({ host, port }: Address): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`
}

function listenError(error: unknown, address: string, key: string): Error {
  const { code, message } = error as NodeJS.ErrnoException
  if (code === 'EADDRINUSE')
    return new ListenError(`${address} is in use by another process: stop it, or change ${key}`)
  if (code === 'EACCES')
    return new ListenError(`${address} may not be bound by this user: take a port above 1023, or change ${key}`)
  if (code === 'EADDRNOTAVAIL' || code === 'ENOTFOUND')
    return new ListenError(`${address} is no address of this machine: change ${key}`)
  return error instanceof Error ? error : new Error(message)
}
