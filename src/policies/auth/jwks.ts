/**
 * The key set of a remote issuer: fetched ahead of time, kept while the issuer is down. It outlives reloads (see
 * key-sets.ts) and owns one timer and at most one fetch.
 *
 * Why not jose's `createRemoteJWKSet`: once its keys are older than `cacheMaxAge`, every request waits for a fetch and
 * fails while the issuer is down; it takes an empty set as it stands, and reads an answer of any size.
 */

import { setTimeout as delay } from 'node:timers/promises'
import type { JSONWebKeySet, JWTVerifyGetKey } from 'jose'
import type { JwksConfig } from './config.ts'
import { jose } from './jose.ts'
import { usableKeys } from './public-keys.ts'

/** Both in milliseconds. Ages follow the monotonic clock; token times and dates follow the wall clock. */
export interface Clock {
  monotonicMs(): number
  wallMs(): number
}

export interface KeySetStatus {
  readonly url: string
  readonly kids: readonly string[]
  /** Since the last good fetch; undefined when there was none. */
  readonly ageMs: number | undefined
  /** Why the last fetch failed; undefined when it did not. */
  readonly lastError: string | undefined
  /** Until when the present keys verify without another good fetch: wall clock, milliseconds. Undefined without keys. */
  readonly staleUntil: number | undefined
}

/** Keys as a verifier sees them; remote or local. */
export interface KeySource {
  /** Grows with every change of the keys: what was verified under another number does not count any more. */
  readonly version: number
  /** Monotonic milliseconds until which the keys may be used. -Infinity: there are none. */
  readonly usableUntilMs: number
  /** jose's resolver over the present keys. Rejects when there are none. */
  readonly resolve: JWTVerifyGetKey
  /** Called when no key fits a token. A promise when asking again may help: it settles soon, whatever came of it. */
  renew(nowMs: number): Promise<void> | undefined
  /** Called when there are no usable keys. A promise when some are on their way. */
  acquire(nowMs: number): Promise<void> | undefined
  /** Whole seconds until keys may be there, for Retry-After. */
  retryAfterSec(nowMs: number): number
}

export const FETCH_TIMEOUT_MS = 5000
export const MAX_JWKS_BYTES = 1 << 20
/** A request waits no longer for a fetch that others may have begun; the fetch itself goes on. */
const MAX_WAIT_MS = 2500
const FIRST_RETRY_MS = 1000
/** Without any key nobody passes, so the issuer is asked more often than `cooldown` says. */
const MAX_RETRY_WITHOUT_KEYS_MS = 5000
const MAX_TIMER_MS = 2 ** 31 - 1

const NO_KEYS: JWTVerifyGetKey = () => Promise.reject(new Error('there are no keys'))

export interface RemoteKeysOptions {
  readonly clock: Clock
  /** Told about every fetch that failed (`error` set) and every change of the keys. */
  readonly report?: (status: KeySetStatus) => void
}

export class RemoteKeys implements KeySource {
  readonly #config: JwksConfig
  readonly #clock: Clock
  readonly #report: ((status: KeySetStatus) => void) | undefined
  readonly #abort = new AbortController()
  #resolve = NO_KEYS
  #keysText = ''
  #kids: readonly string[] = []
  #version = 0
  #fetchedMs = -Infinity
  #lastError: string | undefined
  #failures = 0
  #nextTryMs = 0
  #renewedMs = -Infinity
  #timer: NodeJS.Timeout | undefined
  #loading: Promise<void> | undefined
  #waiting: Promise<void> | undefined

  /** Does not fetch: `start()` does, and so does the first token. */
  constructor(config: JwksConfig, { clock, report }: RemoteKeysOptions) {
    this.#config = config
    this.#clock = clock
    this.#report = report
  }

  get version(): number {
    return this.#version
  }

  get usableUntilMs(): number {
    return this.#fetchedMs + this.#config.cacheMaxAge + this.#config.staleFor
  }

  get resolve(): JWTVerifyGetKey {
    return this.#resolve
  }

  /** Begins with the keys that another set of the same address holds. */
  takeOver(other: RemoteKeys): void {
    if (other.#fetchedMs <= this.#fetchedMs) return
    this.#resolve = other.#resolve
    this.#keysText = other.#keysText
    this.#kids = other.#kids
    this.#version = other.#version
    this.#fetchedMs = other.#fetchedMs
  }

  /** Fetches now; settles when the fetch has, whatever came of it. */
  start(): Promise<void> {
    return this.#load()
  }

  /** No more fetches. The present keys still verify: exchanges of a retired snapshot end on them. */
  close(): void {
    clearTimeout(this.#timer)
    this.#abort.abort()
  }

  renew(nowMs: number): Promise<void> | undefined {
    if (this.#loading !== undefined) return this.#wait()
    if (nowMs - this.#renewedMs < this.#config.cooldown || this.#abort.signal.aborted) return undefined
    // Set before the fetch and whatever comes of it: unknown key ids are free to make, so failures must not be either.
    this.#renewedMs = nowMs
    return this.#wait()
  }

  acquire(nowMs: number): Promise<void> | undefined {
    if (this.#abort.signal.aborted) return undefined
    return this.#loading !== undefined || nowMs >= this.#nextTryMs ? this.#wait() : undefined
  }

  retryAfterSec(nowMs: number): number {
    return Math.max(1, Math.ceil((this.#nextTryMs - nowMs) / 1000))
  }

  status(): KeySetStatus {
    const nowMs = this.#clock.monotonicMs()
    const known = this.#fetchedMs !== -Infinity
    const { origin, pathname } = new URL(this.#config.url)
    return {
      url: origin + pathname, // neither user, password nor query: they may be secrets
      kids: this.#kids,
      ageMs: known ? nowMs - this.#fetchedMs : undefined,
      lastError: this.#lastError,
      staleUntil: known ? this.#clock.wallMs() + this.usableUntilMs - nowMs : undefined,
    }
  }

  #wait(): Promise<void> {
    const loading = this.#load()
    this.#waiting ??= Promise.race([loading, delay(MAX_WAIT_MS, undefined, { ref: false })])
    return this.#waiting
  }

  #load(): Promise<void> {
    this.#loading ??= this.#loadOnce().finally(() => {
      this.#loading = undefined
      this.#waiting = undefined
    })
    return this.#loading
  }

  async #loadOnce(): Promise<void> {
    clearTimeout(this.#timer)
    try {
      const keys = usableKeys(await fetchJson(this.#config.url, this.#abort.signal))
      const changed = this.#adopt(keys)
      this.#schedule(this.#config.cacheMaxAge * (0.75 + Math.random() * 0.1)) // spread over instances
      if (changed) this.#tell()
    } catch (error) {
      if (this.#abort.signal.aborted) return
      this.#lastError = reasonOf(error)
      const usable = this.#clock.monotonicMs() < this.usableUntilMs
      const most = usable ? this.#config.cooldown : Math.min(this.#config.cooldown, MAX_RETRY_WITHOUT_KEYS_MS)
      const backoff = FIRST_RETRY_MS * 2 ** Math.min(this.#failures++, 20)
      this.#schedule(Math.min(most, backoff) * (0.9 + Math.random() * 0.2))
      this.#tell()
    }
  }

  #adopt(keys: JSONWebKeySet): boolean {
    this.#fetchedMs = this.#clock.monotonicMs()
    this.#lastError = undefined
    this.#failures = 0
    const text = JSON.stringify(keys)
    if (text === this.#keysText) return false
    this.#resolve = jose().createLocalJWKSet(keys)
    this.#keysText = text
    this.#kids = keys.keys.map(({ kid }) => kid ?? '')
    this.#version++
    return true
  }

  #tell(): void {
    try {
      this.#report?.(this.status())
    } catch {
      // A broken log must not cost the keys
    }
  }

  #schedule(afterMs: number): void {
    this.#nextTryMs = this.#clock.monotonicMs() + afterMs
    if (this.#abort.signal.aborted) return
    this.#timer = setTimeout(() => void this.#load(), Math.min(afterMs, MAX_TIMER_MS)).unref()
  }
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  if (error.message !== '') return error.message
  // A refused connection to several addresses is an AggregateError without a message
  return (error as NodeJS.ErrnoException).code ?? error.name
}

/**
 * A JSON document from the configured address and nowhere else: redirects are errors, the size is bounded while it is
 * read, and the time is bounded as a whole, so that an endless or dripping answer costs no more than a dead one.
 */
async function fetchJson(address: string, closed: AbortSignal): Promise<unknown> {
  const { Client } = await import('undici') // not needed without remote keys
  const url = new URL(address)
  const timeout = new AbortController()
  const timer = setTimeout(() => timeout.abort(), FETCH_TIMEOUT_MS)
  const client = new Client(url.origin, { connectTimeout: FETCH_TIMEOUT_MS, allowH2: false, pipelining: 1 })
  try {
    const answer = await client.request({
      path: url.pathname + url.search,
      method: 'GET',
      headers: { accept: 'application/jwk-set+json, application/json', 'accept-encoding': 'identity' },
      signal: AbortSignal.any([timeout.signal, closed]),
    })
    if (answer.statusCode !== 200) throw new Error(`the endpoint answered ${answer.statusCode}`)
    const chunks: Buffer[] = []
    let size = 0
    for await (const chunk of answer.body) {
      size += chunk.length
      if (size > MAX_JWKS_BYTES) throw new Error(`the answer is larger than ${MAX_JWKS_BYTES} bytes`)
      chunks.push(chunk)
    }
    return parseJson(Buffer.concat(chunks).toString())
  } catch (error) {
    if (timeout.signal.aborted) throw new Error(`the endpoint did not answer within ${FETCH_TIMEOUT_MS / 1000} s`)
    throw error
  } finally {
    clearTimeout(timer)
    void client.destroy().catch(() => {})
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    throw new Error('the answer is not JSON')
  }
}
