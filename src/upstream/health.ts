/**
 * Active health checks: a state machine that turns single checks into healthy and unhealthy, and a prober that makes the
 * checks on time. No part of a request's life: requests only read the endpoint's state.
 *
 * An endpoint starts healthy but unproven: it may serve at once, and its first check alone decides. From then on it
 * takes `fall` failures in a row to lose it and `rise` successes to get it back. While a change is in the making, checks
 * come five times as fast.
 *
 * The prober owns one timer an endpoint and the checks under way; `close()` ends both.
 */

import { connect as connectTcp } from 'node:net'
import type { ConnectionOptions } from 'node:tls'
import type { Endpoint } from './endpoint.ts'

export interface HealthTiming {
  readonly intervalMs: number
  readonly rise: number
  readonly fall: number
}

const JITTER = 0.1
const FASTER = 5
const FASTEST_MS = 100

/** The state machine of one endpoint. Pure. */
export class HealthState {
  readonly #timing: HealthTiming
  #healthy: boolean
  #proven: boolean
  /** Checks in a row that speak against the present state. */
  #against = 0

  /** @param healthy @param proven what is known from before: a reload starts new checks, not new endpoints */
  constructor(timing: HealthTiming, healthy = true, proven = false) {
    this.#timing = timing
    this.#healthy = healthy
    this.#proven = proven
  }

  get healthy(): boolean {
    return this.#healthy
  }

  /** Takes the result of one check; true when the state has changed. */
  onCheck(ok: boolean): boolean {
    if (ok === this.#healthy) {
      this.#against = 0
      this.#proven = true
      return false
    }
    this.#against++
    if (this.#proven && this.#against < (ok ? this.#timing.rise : this.#timing.fall)) return false
    this.#healthy = ok
    this.#proven = true
    this.#against = 0
    return true
  }

  /** Milliseconds to the next check, with ±10 % so that gateways do not check in step. @param random 0 ≤ x < 1 */
  nextDelayMs(random: number): number {
    const { intervalMs } = this.#timing
    const faster = Math.min(intervalMs, Math.max(intervalMs / FASTER, FASTEST_MS))
    return (this.#against > 0 ? faster : intervalMs) * (1 - JITTER + 2 * JITTER * random)
  }
}

/** The result of one check. `reason` is for people: `GET /health answered 503`. */
export interface CheckResult {
  readonly ok: boolean
  readonly reason: string
}

export type Check = (endpoint: Endpoint, signal: AbortSignal) => Promise<CheckResult>

export interface HttpCheckOptions {
  readonly path: string
  /** Default GET. */
  readonly method?: string
  /** Host field; the endpoint's authority by default. */
  readonly host?: string
  /** Statuses that count as good: `200`, `200-399`. Default 200-399. */
  readonly statuses?: readonly (string | number)[]
  /** Text that must stand in the first 64 KiB of the body. */
  readonly bodyContains?: string
  readonly tls?: ConnectionOptions
  /** The service speaks HTTP/2: by ALPN, or by prior knowledge where there is no TLS. */
  readonly h2?: boolean
}

const BODY_LIMIT_BYTES = 64 * 1024

/** A check by one request on a connection of its own: what a new exchange would need. No redirects followed. */
export function httpCheck(options: HttpCheckOptions): Check {
  const { path, method = 'GET', host, bodyContains, tls, h2 = false } = options
  const good = statusTable(options.statuses ?? ['200-399'])
  return async (endpoint, signal) => {
    // Loaded with the first check: a gateway without health checks does not pay for it.
    const { Client } = await import('undici')
    const client = new Client(originOf(endpoint), {
      connect: endpoint.secure ? { servername: endpoint.serverName, ...tls } : {},
      pipelining: 1,
      maxHeaderSize: 16 * 1024,
      allowH2: h2,
      ...(h2 && { h2Options: { useH2c: !endpoint.secure } }),
    })
    try {
      const { statusCode, body } = await client.request({
        path,
        method: method as 'GET',
        headers: {
          host: host ?? endpoint.authority,
          'user-agent': 'fluxor-health',
          ...(!h2 && { connection: 'close' }),
        },
        signal,
      })
      body.on('error', () => {})
      const what = `${method} ${path} answered ${statusCode}`
      if (good[statusCode] !== 1) return { ok: false, reason: what }
      if (bodyContains === undefined) return { ok: true, reason: what }
      const text = await firstBytes(body, BODY_LIMIT_BYTES)
      return text.includes(bodyContains)
        ? { ok: true, reason: what }
        : { ok: false, reason: `${what} without the expected text` }
    } finally {
      client.destroy().catch(() => {})
    }
  }
}

/** A check by a TCP connection alone. */
export function tcpCheck(): Check {
  return (endpoint, signal) =>
    new Promise((resolve, reject) => {
      const socket = connectTcp({ host: endpoint.host, port: endpoint.port, signal })
      socket.once('error', reject)
      socket.once('connect', () => {
        socket.removeListener('error', reject)
        socket.on('error', () => {})
        socket.destroy()
        resolve({ ok: true, reason: 'TCP connection accepted' })
      })
    })
}

export interface ProberOptions extends HealthTiming {
  readonly timeoutMs: number
  readonly check: Check
  /** The clock of the endpoints. Default `performance.now`. */
  readonly now?: () => number
  readonly random?: () => number
  /** Called when an endpoint's health has changed; the endpoint carries the new state and the reason. */
  readonly onChange?: (endpoint: Endpoint, healthy: boolean, reason: string) => void
}

interface Watched {
  readonly endpoint: Endpoint
  readonly state: HealthState
  timer: NodeJS.Timeout | null
  abort: AbortController | null
}

export class HealthProber {
  readonly #options: ProberOptions
  readonly #watched = new Map<Endpoint, Watched>()
  readonly #now: () => number
  readonly #random: () => number
  #closed = false

  constructor(options: ProberOptions) {
    this.#options = options
    this.#now = options.now ?? (() => performance.now())
    this.#random = options.random ?? Math.random
  }

  /** Watches exactly these from now on; those already watched go on undisturbed. */
  update(endpoints: readonly Endpoint[]): void {
    if (this.#closed) return
    const wanted = new Set(endpoints)
    for (const watched of this.#watched.values()) if (!wanted.has(watched.endpoint)) this.#forget(watched)
    for (const endpoint of wanted) {
      if (this.#watched.has(endpoint)) continue
      const state = new HealthState(this.#options, !endpoint.unhealthy, endpoint.proven)
      const watched: Watched = { endpoint, state, timer: null, abort: null }
      this.#watched.set(endpoint, watched)
      // Soon, but not all at once.
      this.#schedule(watched, this.#random() * Math.min(this.#options.intervalMs / FASTER, 500))
    }
  }

  /** Endpoints keep the state they have. Without a prober to follow, mark them healthy: nobody else will. */
  close(): void {
    this.#closed = true
    for (const watched of this.#watched.values()) this.#forget(watched)
  }

  #forget(watched: Watched): void {
    this.#watched.delete(watched.endpoint)
    if (watched.timer !== null) clearTimeout(watched.timer)
    watched.abort?.abort()
  }

  #schedule(watched: Watched, delayMs: number): void {
    watched.timer = setTimeout(() => this.#run(watched), delayMs)
    watched.timer.unref()
  }

  async #run(watched: Watched): Promise<void> {
    const { endpoint, state } = watched
    const { timeoutMs, check, onChange } = this.#options
    const abort = new AbortController()
    watched.abort = abort
    const timeout = setTimeout(() => abort.abort(), timeoutMs)
    timeout.unref()
    let result: CheckResult
    try {
      // A check that ignores its signal must not stop the checks of this endpoint for good.
      result = await Promise.race([check(endpoint, abort.signal), aborted(abort.signal)])
    } catch (error) {
      const late = abort.signal.aborted
      result = { ok: false, reason: late ? `no answer within ${timeoutMs} ms` : `check failed: ${describe(error)}` }
    } finally {
      clearTimeout(timeout)
      watched.abort = null
    }
    if (this.#watched.get(endpoint) !== watched) return
    endpoint.proven = true
    if (state.onCheck(result.ok)) {
      if (result.ok) endpoint.markHealthy(this.#now(), result.reason)
      else endpoint.markUnhealthy(this.#now(), result.reason)
      onChange?.(endpoint, result.ok, result.reason)
    }
    this.#schedule(watched, state.nextDelayMs(this.#random()))
  }
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason), { once: true }))
}

function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  return (error as NodeJS.ErrnoException).code ?? error.message
}

function originOf(endpoint: Endpoint): string {
  const host = endpoint.host.includes(':') ? `[${endpoint.host}]` : endpoint.host
  return `${endpoint.secure ? 'https' : 'http'}://${host}:${endpoint.port}`
}

/** 1 at each status in the list. Entries that are no status are passed over: the config has checked them. */
export function statusTable(entries: readonly (string | number)[]): Uint8Array {
  const table = new Uint8Array(600)
  for (const entry of entries) {
    const [, from, to = from] = /^([1-5]\d\d)(?:-([1-5]\d\d))?$/.exec(String(entry)) ?? []
    if (from !== undefined) table.fill(1, Number(from), Number(to) + 1)
  }
  return table
}

async function firstBytes(body: AsyncIterable<Buffer>, limit: number): Promise<string> {
  const chunks: Buffer[] = []
  let length = 0
  for await (const chunk of body) {
    chunks.push(chunk)
    length += chunk.length
    if (length >= limit) break
  }
  return Buffer.concat(chunks).subarray(0, limit).toString('utf8')
}
