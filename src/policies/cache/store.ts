/**
 * The memory level: resources by key, bounded by bytes, least recently used out first. Keeps the indexes by URL and tag
 * that purging needs. One store a worker thread; it outlives reloads. No HTTP, no clock of its own.
 */

import { LRUCache } from 'lru-cache'
import { type Entry, Resource } from './entry.ts'

/** Variants of one resource; a Vary on something like User-Agent must not fill the store. */
const MAX_VARIANTS = 32

export interface PurgeRequest {
  /** Absolute (`https://host/path?query`), or beginning with `/`: that path on every host. */
  readonly urls?: readonly string[]
  readonly prefixes?: readonly string[]
  readonly tags?: readonly string[]
  /** Keeps the answers, as stale ones: the next request revalidates, and stale use remains allowed. */
  readonly soft?: boolean
}

export class MemoryStore {
  #resources: LRUCache<string, Resource>
  readonly #keysByUrl = new Map<string, Set<string>>()
  readonly #keysByTag = new Map<string, Set<string>>()
  evictions = 0

  constructor(maxBytes: number) {
    this.#resources = this.#newLru(maxBytes)
  }

  #newLru(maxBytes: number): LRUCache<string, Resource> {
    return new LRUCache<string, Resource>({
      maxSize: Math.max(1, maxBytes),
      dispose: (resource, key, reason) => {
        if (reason === 'evict') this.evictions++
        if (reason !== 'set') this.#unindex(key, resource)
      },
    })
  }

  get bytes(): number {
    return this.#resources.calculatedSize
  }

  /** Keys; each may hold several variants. */
  get size(): number {
    return this.#resources.size
  }

  get maxBytes(): number {
    return this.#resources.maxSize
  }

  get(key: string): Resource | undefined {
    return this.#resources.get(key)
  }

  put(key: string, url: string, entry: Entry): void {
    const resource = this.#resources.get(key) ?? new Resource(url)
    resource.variants = resource.variants.filter(
      (one) => one.variantKey !== entry.variantKey || !sameNames(one.varyNames, entry.varyNames),
    )
    resource.variants.unshift(entry)
    if (resource.variants.length > MAX_VARIANTS) resource.variants.length = MAX_VARIANTS
    this.resized(key, resource)
    if (!this.#resources.has(key)) return // larger than the whole store
    add(this.#keysByUrl, url, key)
    for (const tag of entry.tags) {
      resource.tags.add(tag)
      add(this.#keysByTag, tag, key)
    }
  }

  /** Counts a resource again after it has changed. */
  resized(key: string, resource: Resource): void {
    const known = this.#resources.has(key)
    this.#resources.set(key, resource, { size: Math.max(1, resource.size) })
    if (known && !this.#resources.has(key)) this.#unindex(key, resource)
  }

  /** Takes out one variant. */
  remove(key: string, entry: Entry): void {
    const resource = this.#resources.peek(key)
    if (resource === undefined || !resource.variants.includes(entry)) return
    resource.variants = resource.variants.filter((one) => one !== entry)
    if (resource.variants.length === 0) this.#resources.delete(key)
    else this.resized(key, resource)
  }

  /** How many answers were removed, or marked when soft. */
  purge(request: PurgeRequest, nowMs: number): number {
    const keys = new Set<string>()
    for (const url of request.urls ?? []) for (const key of this.#keysByUrl.get(url) ?? []) keys.add(key)
    for (const tag of request.tags ?? []) for (const key of this.#keysByTag.get(tag) ?? []) keys.add(key)
    if ((request.prefixes?.length ?? 0) > 0 || request.urls?.some((url) => url.startsWith('/'))) {
      for (const [url, at] of this.#keysByUrl) if (namesUrl(request, url)) for (const key of at) keys.add(key)
    }
    let count = 0
    for (const key of keys) count += this.#purgeKey(key, nowMs, request.soft === true)
    return count
  }

  #purgeKey(key: string, nowMs: number, soft: boolean): number {
    const resource = this.#resources.peek(key)
    if (resource === undefined) return 0
    if (!soft) this.#resources.delete(key)
    else for (const entry of resource.variants) entry.staleFromMs = Math.min(entry.staleFromMs, nowMs)
    return resource.variants.length
  }

  /** All answers for this URL, whoever they are divided by. */
  invalidateUrl(url: string, nowMs: number): number {
    let count = 0
    for (const key of [...(this.#keysByUrl.get(url) ?? [])]) count += this.#purgeKey(key, nowMs, false)
    return count
  }

  /** A reload may change the bound; what fits stays, the most recently used first. */
  resize(maxBytes: number): void {
    if (maxBytes === this.maxBytes) return
    const entries = [...this.#resources.entries()].reverse()
    this.#keysByUrl.clear()
    this.#keysByTag.clear()
    this.#resources = this.#newLru(maxBytes)
    for (const [key, resource] of entries) {
      for (const entry of [...resource.variants].reverse()) this.put(key, resource.url, entry)
    }
  }

  clear(): void {
    this.#resources.clear()
    this.#keysByUrl.clear()
    this.#keysByTag.clear()
  }

  #unindex(key: string, resource: Resource): void {
    drop(this.#keysByUrl, resource.url, key)
    for (const tag of resource.tags) drop(this.#keysByTag, tag, key)
  }
}

function sameNames(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((name, i) => name === b[i])
}

/** True when the request names this absolute URL, by its `urls` or its `prefixes`. */
export function namesUrl(request: PurgeRequest, url: string): boolean {
  const path = pathOf(url)
  const { urls, prefixes } = request
  return (
    urls?.some((one) => one === (one.startsWith('/') ? path : url)) === true ||
    prefixes?.some((prefix) => (prefix.startsWith('/') ? path : url).startsWith(prefix)) === true
  )
}

function pathOf(url: string): string {
  const at = url.indexOf('/', url.indexOf('://') + 3)
  return at < 0 ? '/' : url.slice(at)
}

function add(index: Map<string, Set<string>>, name: string, key: string): void {
  const keys = index.get(name)
  if (keys === undefined) index.set(name, new Set([key]))
  else keys.add(key)
}

function drop(index: Map<string, Set<string>>, name: string, key: string): void {
  const keys = index.get(name)
  if (keys?.delete(key) && keys.size === 0) index.delete(name)
}
