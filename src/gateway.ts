/**
 * The running gateway as its owner sees it: threads, start, reload, drain, close. The supervisor of the data paths: a
 * thread that dies or stands still is replaced, and what it held is given back. It has the admin listener and renders
 * what is watched. Starts, replacements and reloads take turns, so that no thread starts with a config of yesterday.
 */

import { createServer, type Server } from 'node:net'
import { availableParallelism } from 'node:os'
import type { Readable } from 'node:stream'
import { getHeapSnapshot, getHeapStatistics } from 'node:v8'
import { Worker } from 'node:worker_threads'
import { type AdminSurface, createAdminSurface } from './admin-routes.ts'
import type { Address } from './config/host-port.ts'
import type { Config } from './config/schema.ts'
import type { ExplainRequest, Explanation } from './explain.ts'
import { type AdminListener, type AdminOptions, createAdmin } from './listener/admin.ts'
import { ACCEPT_QUEUES, SHARES_PORTS } from './listener/fast.ts'
import { LineWriter } from './observability/line-writer.ts'
import { createLogger, type Logger } from './observability/logger.ts'
import { AdmissionControl, CONTROL_TICK_MS } from './policies/admission/control.ts'
import { KeyCounts } from './policies/admission/key-counts.ts'
import { Places } from './policies/admission/places.ts'
import { scopeLimits } from './policies/admission/policy.ts'
import { descriptorLimit } from './policies/admission/pressure.ts'
import type { KeySetStatus } from './policies/auth/jwks.ts'
import type { PurgeRequest } from './policies/cache/store.ts'
import { openRedis } from './redis.ts'
import type { Readiness, ThreadInfo } from './services.ts'
import { LimiterTable, sharedNowMs } from './shared/limiter-table.ts'
import { createSharedMemory, type SharedMemory } from './shared/memory.ts'
import { mergeStatus, type UpstreamStatus } from './upstream/status.ts'
import type { EndpointOrder } from './upstream/upstream.ts'
import { type DataPath, LocalDataPath, type WorkerCall, type WorkerInit, type WorkerResult } from './worker.ts'

export interface GatewayOptions {
  /** A taken admin port is a warning: nobody asked for it. */
  readonly adminOptional?: boolean
  /** What `POST /reload` does; rejects with what is wrong with the config. */
  readonly reload?: () => Promise<void>
}

const SUPERVISE_EVERY_MS = 1000
/** A thread that keeps dying is started again at growing intervals, up to this. */
const LONGEST_RESTART_DELAY_MS = 10_000
/** A thread that lived this long is started again at once. */
const SETTLED_AFTER_MS = 10_000

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
  /** Threads that were replaced since the start. */
  replaced = 0
  readonly control: AdmissionControl
  readonly #log: LineWriter
  readonly #options: GatewayOptions
  #controlTimer: NodeJS.Timeout | undefined
  #turn: Promise<unknown> = Promise.resolve()
  #timer: NodeJS.Timeout | undefined
  #paths: DataPath[] = []
  #admins: { listener: AdminListener; options: () => AdminOptions }[] = []
  readonly #surface: AdminSurface
  #state: 'starting' | 'running' | 'draining' | 'closed' = 'starting'
  #upstreamsReady: Readiness = { ready: true, reason: '' }

  constructor(config: Config, options: GatewayOptions = {}) {
    const { threads } = config.server
    this.config = config
    this.#options = options
    const wanted = threads === 'auto' ? availableParallelism() : threads
    this.threads = SHARES_PORTS ? wanted : 1
    this.memory = createSharedMemory(config, this.threads)
    const { file, level } = config.logging
    this.#log = new LineWriter({ ...(file !== undefined && { file }), turn: this.memory.logTurn, id: 0x7fff })
    this.logger = createLogger({ level, write: (line) => this.#log.write(line) })
    if (wanted > 1 && !SHARES_PORTS) {
      this.logger.warn('one thread: this system cannot share a port between several', { threads: wanted })
    }
    this.control = new AdmissionControl({
      logger: this.logger,
      sharedNowMs,
      openRedis: (name, onChange) => openRedis(name, this.config.redis[name]!, { onChange }),
    })
    this.config = this.#fitConnections(config)
    this.#surface = createAdminSurface(this)
  }

  /** More connections than the process may open would be accepted and then fail: half-way, and others with them. */
  #fitConnections(config: Config): Config {
    const most = descriptorLimit()
    const { limits, listen } = config.server
    const queues = listen.length * Math.max(ACCEPT_QUEUES, this.threads)
    // A client's connection may need one to an upstream; logs, Redis and the rest are a few.
    const room = most === undefined ? Number.POSITIVE_INFINITY : Math.max(16, Math.floor((most - 64 - queues) / 2))
    if (limits.connections <= room) return config
    this.logger.warn('server.limits.connections is lowered to half of what the process may open (ulimit -n)', {
      connections: limits.connections,
      descriptors: most,
      lowered: room,
    })
    return { ...config, server: { ...config.server, limits: { ...limits, connections: room } } }
  }

  #configureControl(): void {
    const { admission } = this.config
    const redis = admission.fleet === undefined ? '' : JSON.stringify(this.config.redis[admission.fleet.redis])
    this.control.configure(admission, this.memory.places.get('')!, this.threads, this.memory.tierIds, redis)
    clearInterval(this.#controlTimer)
    if (admission.mode !== 'adaptive' && admission.fleet === undefined) return
    this.#controlTimer = setInterval(() => this.control.tick(), CONTROL_TICK_MS)
    this.#controlTimer.unref()
  }

  /** Rejects with a `ListenError` when a port cannot be bound; nothing runs then. */
  async start(): Promise<void> {
    try {
      if (SHARES_PORTS) await this.#expectFreePorts()
      this.#configureControl()
      await this.control.start()
      for (let thread = 0; thread < this.threads; thread++) await this.#startPath(thread)
      await this.#startAdmins()
    } catch (error) {
      await this.close()
      throw error
    }
    this.#state = 'running'
    this.#tellReadiness()
    this.#timer = setInterval(() => this.#supervise(), SUPERVISE_EVERY_MS)
    this.#timer.unref()
  }

  /** A shared port can be taken twice, also by a stranger: who starts a second gateway must hear of it. */
  async #expectFreePorts(): Promise<void> {
    const probes: Server[] = []
    try {
      for (const { address } of this.config.server.listen) {
        if (address.port === 0) continue
        const server = createServer()
        await new Promise<void>((resolve, reject) => {
          server.once('error', (error) => reject(listenError(error, joinAddress(address), 'server.listen')))
          server.listen({ host: address.host, port: address.port, exclusive: true }, resolve)
        })
        probes.push(server)
      }
    } finally {
      // Not before all are bound: two spellings of one address are one port, too.
      await Promise.all(probes.map((server) => new Promise((resolve) => server.close(resolve))))
    }
  }

  async #startPath(thread: number): Promise<void> {
    const info: ThreadInfo = { thread, threads: this.threads }
    const { config, memory } = this
    const path = this.threads === 1 ? new LocalDataPath(config, memory, info) : this.#startThread(thread)
    this.#paths[thread] = path
    try {
      const known = this.ports.length > 0
      const ports = await path.listen(known ? this.ports : undefined)
      if (known) return
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

  #startThread(thread: number): WorkerDataPath {
    const { config, memory, threads } = this
    const path: WorkerDataPath = new WorkerDataPath({ config, memory, info: { thread, threads } }, (reason) => {
      if (this.#paths[thread] === path) this.#lost(thread, path, reason)
    })
    return path
  }

  /** A thread is gone: what it held is given back, and another takes its place. */
  #lost(thread: number, path: WorkerDataPath, reason: unknown): void {
    this.#reclaim(thread)
    if (this.#state !== 'running') return
    const livedMs = performance.now() - path.startedMs
    const failures = livedMs >= SETTLED_AFTER_MS ? 0 : path.failures + 1
    const delayMs = failures === 0 ? 0 : Math.min(LONGEST_RESTART_DELAY_MS, 50 * 2 ** (failures - 1))
    this.logger.error('a thread is gone and is replaced', {
      thread,
      err: reason,
      livedMs: Math.round(livedMs),
      delayMs,
    })
    this.replaced++
    void this.#inTurn(async () => {
      if (delayMs > 0) await new Promise((resolve) => setTimeout(resolve, delayMs))
      if (this.#state !== 'running') return
      try {
        await this.#startPath(thread)
        const next = this.#paths[thread] as WorkerDataPath
        next.failures = failures
        next.setReadiness(this.readiness)
        this.logger.info('a thread was replaced', { thread })
      } catch (error) {
        if (error instanceof ThreadGone) return // told and tried again by its own end
        this.logger.error('a thread could not be replaced', { thread, err: error })
        const failed = this.#paths[thread] as WorkerDataPath
        failed.failures = failures
        failed.kill(error)
      }
    })
  }

  #reclaim(thread: number): void {
    const { memory, threads } = this
    const { admission, routes } = this.config
    for (const [name, places] of memory.places) {
      const limits = name === '' ? admission : routes.find((route) => route.name === name)?.admission
      // Of a route that is no more nobody waits for a free place in vain: its limits are those of nobody.
      new Places(places, threads, -1, limits && scopeLimits(limits, admission, memory.tierIds)).reclaim(thread)
    }
    if (memory.keys !== undefined) new KeyCounts(memory.keys.memory, threads, -1).reclaim(thread)
    new LimiterTable(this.memory.limiter, 0).releaseThread(thread)
    Atomics.compareExchange(this.memory.logTurn, 0, thread + 1, 0)
  }

  /** Starts, replacements and reloads run one after the other. */
  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(work)
    this.#turn = result.catch(() => {})
    return result
  }

  #supervise(): void {
    this.#watchThreads()
    this.#surface.watch.tick(performance.now())
  }

  /**
   * Looks are counted, not time: after the whole process was stopped or suspended, every thread has its looks to move.
   */
  #watchThreads(): void {
    const { threadStall } = this.config.server
    if (threadStall === 0) return
    const looks = Math.max(2, Math.ceil(threadStall / SUPERVISE_EVERY_MS))
    for (const [thread, path] of this.#paths.entries()) {
      if (!(path instanceof WorkerDataPath) || !path.listening) continue
      if (path.looks(Atomics.load(this.memory.heartbeats, thread)) < looks) continue
      path.kill(new Error(`it stood still for ${looks} s`))
    }
  }

  async #startAdmins(): Promise<void> {
    const { admin, probes } = this.config.server
    if (admin !== false) {
      const { host, port } = admin.address
      const options = () => this.#adminOptions(this.#surface.admin())
      const listener = createAdmin(options())
      try {
        const bound = await listener.listen(host, port)
        this.#admins.push({ listener, options })
        this.adminPort = bound.port
        this.logger.info('admin listening', { address: joinAddress({ host, port: bound.port }) })
      } catch (error) {
        if (!this.#options.adminOptional) throw listenError(error, joinAddress(admin.address), 'server.admin.address')
        this.logger.warn('the admin port is taken: no metrics, no dashboard', { address: joinAddress(admin.address) })
      }
    }
    if (probes === undefined) return
    const { host, port } = probes.address
    const options = () => {
      const { token: _, ...open } = this.#adminOptions(this.#surface.probes)
      return open
    }
    const listener = createAdmin(options())
    try {
      const bound = await listener.listen(host, port)
      this.#admins.push({ listener, options })
      this.logger.info('probes listening', { address: joinAddress({ host, port: bound.port }) })
    } catch (error) {
      throw listenError(error, joinAddress(probes.address), 'server.probes.address')
    }
  }

  #adminOptions(routes: AdminOptions['routes']): AdminOptions {
    const { admin } = this.config.server
    const { token, metricsToken } = admin === false ? {} : admin
    return {
      routes,
      ...(token !== undefined && { token }),
      ...(metricsToken !== undefined && { metricsToken }),
      onError: (err, path) => this.logger.error('an admin endpoint failed', { err, path }),
    }
  }

  /**
   * Takes a new config in all threads, or in none: rejects, and everything is as before. What only a restart can change
   * stays as it is, with a warning.
   */
  reload(config: Config): Promise<void> {
    return this.#inTurn(async () => {
      if (this.#state !== 'running') throw new Error('the gateway stops')
      const next = this.#fitConnections(this.#keepBound(config))
      const memory = createSharedMemory(next, this.threads, this.memory)
      try {
        await this.#onPaths((path) => path.prepare(next, memory))
      } catch (error) {
        await this.#onPaths((path) => path.rollback()).catch((err: unknown) =>
          this.logger.error('the config of before could not be taken again', { err }),
        )
        this.reloadFailed()
        throw error
      }
      this.config = next
      this.memory = memory
      await this.#onPaths((path) => path.commit())
      this.#configureControl()
      for (const { listener, options } of this.#admins) listener.update(options())
      this.lastReload = { success: true, lastSuccessMs: Date.now() }
    })
  }

  /** Asks all threads; rejects when one does. One that has died meanwhile starts anew with the config of then. */
  async #onPaths(ask: (path: DataPath) => Promise<void>): Promise<void> {
    const results = await Promise.allSettled(this.#paths.map(ask))
    for (const result of results) {
      if (result.status === 'rejected' && !(result.reason instanceof ThreadGone)) throw result.reason
    }
  }

  /** Sockets are bound and threads started once. */
  #keepBound(config: Config): Config {
    const { listen, admin, probes, threads } = this.config.server
    // Tokens and profiling of the admin listener follow the file; its address does not
    const next = config.server.admin
    const kept = {
      listen,
      admin: admin !== false && next !== false ? { ...next, address: admin.address } : admin,
      probes,
      threads,
    }
    const changed = (Object.keys(kept) as (keyof typeof kept)[]).filter(
      (key) => JSON.stringify(config.server[key]) !== JSON.stringify(kept[key]),
    )
    for (const key of changed)
      this.logger.warn(`server.${key} has changed: that needs a restart`, { key: `server.${key}` })
    if (config.logging.file !== this.config.logging.file) {
      this.logger.warn('logging.file has changed: that needs a restart', { key: 'logging.file' })
    }
    return changed.length === 0 ? config : { ...config, server: { ...config.server, ...kept } as Config['server'] }
  }

  /** Takes answers out of the caches of all threads and, with Redis, of the fleet. Returns how many went here. */
  async purge(request: PurgeRequest): Promise<number> {
    const counts = await Promise.all(this.#paths.map((path, i) => path.purge(request, i === 0)))
    return counts.reduce((sum, count) => sum + count, 0)
  }

  /** What would become of a request now. */
  explain(request: ExplainRequest): Promise<Explanation> {
    return this.#paths[0]!.explain(request)
  }

  /** What each thread knows of remote key sets. */
  async keySets(): Promise<KeySetStatus[][]> {
    const answers = await Promise.allSettled(this.#paths.map((path) => path.keySets()))
    return answers.filter((answer) => answer.status === 'fulfilled').map(({ value }) => value)
  }

  /** A `.cpuprofile` of a data path's thread, or of the supervisor's. */
  async profile(thread: number | 'main', seconds: number): Promise<string> {
    const path = thread === 'main' ? undefined : this.#paths[thread]
    if (path !== undefined) return path.profile(seconds)
    const { cpuProfile } = await import('./observability/profiles.ts')
    return cpuProfile(seconds)
  }

  /** The thread stands still meanwhile. */
  async heapSnapshot(thread: number | 'main'): Promise<Readable> {
    const path = thread === 'main' ? undefined : this.#paths[thread]
    return path instanceof WorkerDataPath ? path.heapSnapshot() : getHeapSnapshot()
  }

  /** Asked for by the admin listener. */
  async requestReload(): Promise<void> {
    if (this.#options.reload === undefined) throw new Error('there is no file to load')
    await this.#options.reload()
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

  /** Endpoints by upstream, all threads together. */
  async upstreams(): Promise<UpstreamStatus> {
    const answers = await Promise.allSettled(this.#paths.map((path) => path.upstreams()))
    const upstreams = mergeStatus(answers.filter((answer) => answer.status === 'fulfilled').map(({ value }) => value))
    this.#judgeReadiness(upstreams)
    return upstreams
  }

  /** An operator's order about an endpoint, in all threads. False when there is no such endpoint. */
  async orderEndpoint(upstream: string, url: string, order: EndpointOrder): Promise<boolean> {
    const known = await Promise.all(this.#paths.map((path) => path.orderEndpoint(upstream, url, order)))
    return known.some((found) => found)
  }

  #judgeReadiness(upstreams: UpstreamStatus): void {
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
    await this.#onPaths((path) => path.reopenLogs())
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
    const cut = await Promise.allSettled(this.#paths.map((path) => path.drain(drain)))
    return cut.reduce((sum, answer) => sum + (answer.status === 'fulfilled' ? answer.value : 0), 0)
  }

  /** The last words of a process that cannot go on. */
  die(message: string, err: unknown): void {
    this.logger.fatal(message, { err })
    this.#log.flushSync()
  }

  async close(): Promise<void> {
    this.#state = 'closed'
    clearInterval(this.#timer)
    this.#surface.watch.close()
    const admins = this.#admins.map(({ listener }) => listener.close())
    await Promise.all([...admins, ...this.#paths.map((path) => path.close())])
    this.#paths = []
    clearInterval(this.#controlTimer)
    await this.control.close()
    await this.#log.close()
  }
}

/** The thread that was asked is no more. */
class ThreadGone extends Error {}

/** A data path in a worker thread. */
class WorkerDataPath implements DataPath {
  readonly startedMs = performance.now()
  /** Starts in a row that did not last. */
  failures = 0
  listening = false
  readonly #worker: Worker
  readonly #calls = new Map<number, { resolve(value: never): void; reject(error: Error): void }>()
  #nextId = 0
  #gone = false
  #reason: unknown
  #heartbeat = -1
  #looks = 0

  /** @param onGone told once when the thread has ended without being asked to, and why */
  constructor(init: WorkerInit, onGone: (reason: unknown) => void) {
    this.#worker = new Worker(new URL(`./worker.${import.meta.url.endsWith('.ts') ? 'ts' : 'js'}`, import.meta.url), {
      workerData: init,
      // Out of memory ends the thread, not the process.
      resourceLimits: { maxOldGenerationSizeMb: Math.floor(getHeapStatistics().heap_size_limit / 2 ** 20) },
    })
    this.#worker.on('message', ({ id, value, error }: WorkerResult) => {
      const call = this.#calls.get(id)
      this.#calls.delete(id)
      if (error === undefined) call?.resolve(value as never)
      else call?.reject(Object.assign(new Error(error.message), error))
    })
    this.#worker.on('error', (error) => {
      this.#reason ??= error
    })
    this.#worker.on('exit', (code) => {
      this.#gone = true
      const gone = new ThreadGone(`the thread has ended (${String(this.#reason ?? code)})`)
      for (const call of this.#calls.values()) call.reject(gone)
      this.#calls.clear()
      onGone(this.#reason ?? gone)
    })
  }

  /** Ends the thread from outside, whatever it is doing. */
  kill(reason: unknown): void {
    this.#reason ??= reason
    void this.#worker.terminate()
  }

  /** Looks in a row at which the heartbeat had not moved. */
  looks(heartbeat: number): number {
    this.#looks = heartbeat === this.#heartbeat ? this.#looks + 1 : 0
    this.#heartbeat = heartbeat
    return this.#looks
  }

  #call<T>(method: keyof DataPath, ...args: unknown[]): Promise<T> {
    if (this.#gone) return Promise.reject(new ThreadGone('the thread has ended'))
    const id = this.#nextId++
    this.#worker.postMessage({ id, method, args } satisfies WorkerCall)
    return new Promise((resolve, reject) => this.#calls.set(id, { resolve, reject }))
  }

  async listen(ports: readonly number[] | undefined): Promise<number[]> {
    const bound = await this.#call<number[]>('listen', ports)
    this.listening = true
    return bound
  }

  prepare(config: Config, memory: SharedMemory): Promise<void> {
    return this.#call('prepare', config, memory)
  }

  commit(): Promise<void> {
    return this.#call('commit')
  }

  rollback(): Promise<void> {
    return this.#call('rollback')
  }

  setReadiness(readiness: Readiness): void {
    this.#call('setReadiness', readiness).catch(() => {})
  }

  upstreams(): Promise<UpstreamStatus> {
    return this.#call('upstreams')
  }

  orderEndpoint(upstream: string, url: string, order: EndpointOrder): Promise<boolean> {
    return this.#call('orderEndpoint', upstream, url, order)
  }

  keySets(): Promise<KeySetStatus[]> {
    return this.#call('keySets')
  }

  purge(request: PurgeRequest, everywhere: boolean): Promise<number> {
    return this.#call('purge', request, everywhere)
  }

  explain(request: ExplainRequest): Promise<Explanation> {
    return this.#call('explain', request)
  }

  profile(seconds: number): Promise<string> {
    return this.#call('profile', seconds)
  }

  heapSnapshot(): Promise<Readable> {
    return this.#worker.getHeapSnapshot()
  }

  reopenLogs(): Promise<void> {
    return this.#call('reopenLogs')
  }

  drain(timeoutMs: number): Promise<number> {
    return this.#call('drain', timeoutMs)
  }

  async close(): Promise<void> {
    await this.#call('close').catch(() => {})
    await this.#worker.terminate()
  }
}

function joinAddress({ host, port }: Address): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`
}

function listenError(error: unknown, address: string, key: string): Error {
  const { code, message } = error as NodeJS.ErrnoException
  if (code === 'ETLSFILE') return new ListenError(message)
  if (code === 'EADDRINUSE')
    return new ListenError(`${address} is in use by another process: stop it, or change ${key}`)
  if (code === 'EACCES')
    return new ListenError(`${address} may not be bound by this user: take a port above 1023, or change ${key}`)
  if (code === 'EADDRNOTAVAIL' || code === 'ENOTFOUND')
    return new ListenError(`${address} is no address of this machine: change ${key}`)
  return error instanceof Error ? error : new Error(message)
}
