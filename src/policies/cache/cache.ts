/**
 * The cache of one worker thread: stored answers, the answers being fetched right now, and what was learnt about keys
 * whose answers cannot be shared. It outlives reloads; routes are compiled against it (policy.ts).
 */

import type { CacheConfig } from './config.ts'
import { Entry, type StoredAnswer } from './entry.ts'
import type { Fill } from './fill.ts'
import type { SecondLevel } from './second-level.ts'
import type { Siblings } from './siblings.ts'
import { MemoryStore, type PurgeRequest } from './store.ts'

/** How long, and for how many keys, "its answers cannot be shared" is remembered. */
const UNSHARED_MS = 30_000
const UNSHARED_KEYS = 10_000
/** An answer with a validator is of use for ever; not here. */
const MAX_SECOND_LEVEL_MS = 86_400_000

export interface CacheStats {
  hits: number
  misses: number
  stale: number
  revalidated: number
  bypass: number
  /** Requests that waited for an answer that was already being fetched. */
  collapsed: number
  stores: number
}

export interface CacheOptions {
  /** Milliseconds since 1970: HTTP's dates are compared with it. */
  readonly clock?: () => number
  readonly second?: SecondLevel | undefined
}

export class Cache {
  readonly store: MemoryStore
  readonly fills = new Map<string, Fill[]>()
  readonly stats: CacheStats = { hits: 0, misses: 0, stale: 0, revalidated: 0, bypass: 0, collapsed: 0, stores: 0 }
  readonly clock: () => number
  second: SecondLevel | undefined
  /** The caches of the process's other threads; undefined: there are none. */
  siblings: Siblings | undefined
  maxObjectBytes: number
  /** Bodies that are being collected; bounded like the store, because a flood of misses must not hold more than it. */
  collectingBytes = 0
  /** Until when, by key, the oldest first. */
  readonly #unshared = new Map<string, number>()

  constructor(config: CacheConfig, options: CacheOptions = {}) {
    this.store = new MemoryStore(config.memory.maxBytes)
    this.maxObjectBytes = config.maxObjectBytes
    this.clock = options.clock ?? Date.now
    this.setSecondLevel(options.second)
  }

  /** Takes a reloaded config; what is stored stays. */
  configure(config: CacheConfig): void {
    this.maxObjectBytes = config.maxObjectBytes
    this.store.resize(config.memory.maxBytes)
  }

  setSecondLevel(second: SecondLevel | undefined): void {
    this.second = second
    second?.onPurge((request) => this.purge(request))
  }

  /** This thread's memory only. How many answers were removed (marked stale, when soft). */
  purge(request: PurgeRequest): number {
    const nowMs = this.clock()
    // An answer on its way was made before the purge: it is given to who waits for it, but not kept.
    for (const fills of this.fills.values()) for (const fill of fills) fill.purge(request)
    return this.store.purge(request, nowMs)
  }

  /** This thread's memory and the second level, which tells the fleet; `told` is false when it could not be reached. */
  async purgeFleet(request: PurgeRequest): Promise<{ purged: number; told: boolean }> {
    const here = this.purge(request)
    if (this.second === undefined) return { purged: here, told: true }
    const there = await this.second.purge(request)
    // Once more: what was read there while it was being removed.
    this.purge(request)
    return { purged: Math.max(here, there ?? 0), told: there !== undefined }
  }

  /** All threads, and the fleet. */
  async purgeAll(request: PurgeRequest): Promise<{ purged: number; told: boolean }> {
    const [fleet, others] = await Promise.all([this.purgeFleet(request), this.siblings?.purge(request) ?? 0])
    return { purged: fleet.purged + others, told: fleet.told }
  }

  /** An unsafe method succeeded here (RFC 9111 §4.4). The other threads and the second level follow in the background. */
  invalidate(url: string): void {
    this.invalidateHere(url)
    this.siblings?.invalidate(url)
    this.second?.invalidate(url)
  }

  invalidateHere(url: string): void {
    for (const fills of this.fills.values()) for (const fill of fills) if (fill.url === url) fill.forget()
    this.store.invalidateUrl(url, this.clock())
  }

  /** No route uses it any more: lets memory go. Whoever still waits for an answer gets it. */
  retire(): void {
    for (const fills of this.fills.values()) for (const fill of fills) fill.forget()
    this.store.clear()
    this.second?.close()
    this.second = undefined
    this.siblings?.close()
    this.siblings = undefined
  }

  /** Stores an answer that was just received or validated, here and in the second level. */
  keep(key: string, url: string, entry: Entry): void {
    this.stats.stores++
    this.store.put(key, url, entry)
    if (this.second === undefined) return
    const keepMs = Math.min(entry.uselessFromMs - this.clock(), MAX_SECOND_LEVEL_MS)
    if (keepMs > 0) this.second.set(key, url, entry, keepMs)
  }

  /** A coding of a stored body was made. */
  grown(key: string, entry: Entry): void {
    const resource = this.store.get(key)
    if (resource?.variants.includes(entry)) this.store.resized(key, resource)
  }

  /** Takes an answer of the second level into memory. */
  adopt(key: string, url: string, answer: StoredAnswer): Entry {
    const entry = new Entry(answer)
    this.store.put(key, url, entry)
    return entry
  }

  /** True when the last answers for this key could not be shared: waiting for one another would be in vain. */
  isUnshared(key: string, nowMs: number): boolean {
    const untilMs = this.#unshared.get(key)
    if (untilMs === undefined) return false
    if (nowMs < untilMs) return true
    this.#unshared.delete(key)
    return false
  }

  markUnshared(key: string, nowMs: number): void {
    this.#unshared.delete(key)
    this.#unshared.set(key, nowMs + UNSHARED_MS)
    if (this.#unshared.size <= UNSHARED_KEYS) return
    for (const oldest of this.#unshared.keys()) {
      this.#unshared.delete(oldest)
      break
    }
  }

  markShared(key: string): void {
    this.#unshared.delete(key)
  }

  /** Gives up fetches whose deadline has passed; `nowMs` as `performance.now()`. For the thread's ticker. */
  tick(nowMs: number): void {
    if (this.fills.size === 0) return
    for (const fills of [...this.fills.values()]) for (const fill of [...fills]) fill.checkDeadline(nowMs)
  }

  close(): void {
    for (const fills of [...this.fills.values()]) for (const fill of [...fills]) fill.cancel()
    this.retire()
  }
}

export function createCache(config: CacheConfig, options?: CacheOptions): Cache {
  return new Cache(config, options)
}
