/**
 * Where an upstream's endpoints come from and how the set changes while traffic runs. `EndpointSet` merges what the
 * config or DNS says with the endpoints in use, found by their stable keys: those that stay keep their counts, health
 * and connections, those that go are drained. `DnsDiscovery` asks for addresses again and again.
 *
 * DNS answers are followed by their TTL, at least a second and at most `refreshMs`. On failure, an empty answer
 * included, the last good one stays: a DNS outage must not become an outage of the service.
 */

import type { Resolver } from 'node:dns/promises'
import { Endpoint, type EndpointAddress, type EndpointOptions, endpointKey } from './endpoint.ts'

export interface EndpointSpec extends EndpointOptions {
  readonly address: EndpointAddress
}

export interface EndpointChange {
  readonly added: readonly Endpoint[]
  readonly removed: readonly Endpoint[]
}

export class EndpointSet {
  /** The endpoints to balance over; a new array with every change, in the order of the specs. */
  endpoints: readonly Endpoint[] = []
  /** Removed, with exchanges still in flight. */
  #leaving: Endpoint[] = []
  #weights = new Map<string, number>()

  get leaving(): readonly Endpoint[] {
    return this.#leaving
  }

  /**
   * Makes the set equal to the specs. Weight and backup of endpoints that stay follow the spec; their state is kept.
   * A key given twice counts once, the first wins.
   */
  update(specs: readonly EndpointSpec[], nowMs: number): EndpointChange {
    const isFirst = this.endpoints.length === 0 && this.#leaving.length === 0
    const known = new Map<string, Endpoint>()
    for (const endpoint of this.#leaving) known.set(endpoint.key, endpoint)
    for (const endpoint of this.endpoints) known.set(endpoint.key, endpoint)
    const present = new Set(this.endpoints)
    const next = new Map<string, Endpoint>()
    const added: Endpoint[] = []
    this.#weights.clear()
    for (const spec of specs) {
      const key = endpointKey(spec.address)
      if (next.has(key)) continue
      this.#weights.set(key, spec.weight ?? 1)
      let endpoint = known.get(key)
      if (endpoint === undefined || endpoint.serverName !== (spec.address.serverName ?? spec.address.host)) {
        endpoint = new Endpoint(spec.address, spec, nowMs)
        // All of a set starts together: then nobody is colder than the others.
        if (!isFirst) endpoint.slowStartFromMs = nowMs
      } else {
        endpoint.weight = spec.weight ?? 1
        endpoint.backup = spec.backup ?? false
      }
      if (!present.has(endpoint)) {
        endpoint.undrain(nowMs)
        added.push(endpoint)
      }
      next.set(key, endpoint)
    }
    const stays = new Set(next.values())
    const removed: Endpoint[] = []
    for (const endpoint of this.endpoints) {
      if (stays.has(endpoint)) continue
      endpoint.drain(nowMs, 'no longer among the endpoints')
      removed.push(endpoint)
    }
    this.#leaving = [...this.#leaving, ...removed].filter((e) => !stays.has(e) && e.inFlight > 0)
    this.endpoints = [...next.values()]
    return { added, removed }
  }

  /** As the last specs said, whatever it was set to since. */
  weightOf(endpoint: Endpoint): number {
    return this.#weights.get(endpoint.key) ?? endpoint.weight
  }

  /** Forgets the leaving endpoints that have nothing in flight any more. */
  sweep(): void {
    if (this.#leaving.length > 0) this.#leaving = this.#leaving.filter((endpoint) => endpoint.inFlight > 0)
  }
}

/** The part of `dns.promises.Resolver` that is used. */
export interface DnsResolver {
  resolve4(name: string, options: { ttl: true }): Promise<{ address: string; ttl: number }[]>
  resolve6(name: string, options: { ttl: true }): Promise<{ address: string; ttl: number }[]>
  resolveSrv(name: string): Promise<{ name: string; port: number; priority: number; weight: number }[]>
  cancel(): void
}

export interface DnsOptions {
  readonly name: string
  /** `auto`: A, and AAAA when there is no A: both would count a dual-stack host twice. */
  readonly type?: 'auto' | 'A' | 'AAAA' | 'SRV'
  /** Ignored for SRV. */
  readonly port?: number
  readonly secure: boolean
  /** Longest time between two questions. */
  readonly refreshMs: number
  readonly resolver?: DnsResolver
  /** DNS servers that are asked in place of the system's. */
  readonly servers?: readonly string[]
  /** Knows /etc/hosts, which DNS does not; asked when no DNS server has the name. */
  readonly lookup?: (name: string) => Promise<string[]>
  readonly random?: () => number
  readonly onUpdate: (specs: EndpointSpec[]) => void
  /** @param kept endpoints of the last good answer that stay in use */
  readonly onError?: (error: Error, kept: number) => void
}

const MIN_REFRESH_MS = 1000
/** More addresses than this in one answer are cut: every pick looks at all of them. */
const MAX_ENDPOINTS = 1024

export interface DnsAnswer {
  readonly specs: EndpointSpec[]
  /** Infinity when the answer carries none. */
  readonly ttlMs: number
  /** Why some targets of an SRV answer are missing; undefined: it is whole. */
  readonly failure: unknown
}

export class DnsDiscovery {
  readonly #options: DnsOptions
  readonly #resolver: DnsResolver
  readonly #random: () => number
  #timer: NodeJS.Timeout | null = null
  #closed = false
  #failures = 0
  #last = ''
  #kept = 0

  constructor(options: DnsOptions) {
    this.#options = options
    this.#resolver = options.resolver ?? createResolver(options.servers)
    this.#random = options.random ?? Math.random
  }

  /** Asks for the first time and goes on asking. Resolves after the first answer, good or bad; never rejects. */
  async start(): Promise<void> {
    const delayMs = await this.refresh()
    if (this.#closed) return
    this.#timer = setTimeout(() => void this.start(), delayMs)
    this.#timer.unref()
  }

  close(): void {
    this.#closed = true
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#resolver.cancel()
  }

  /** Asks once, tells of a changed answer, and returns in how many milliseconds to ask again. */
  async refresh(): Promise<number> {
    const { refreshMs, onUpdate, onError } = this.#options
    // Spread, so that gateways started together do not ask together; never later than the TTL.
    const spread = 1 - 0.1 * this.#random()
    try {
      const answer = await resolveEndpoints(this.#options, this.#resolver)
      if (this.#closed) return refreshMs
      // Better a part than nothing, but not a part instead of the whole.
      if (answer.failure !== undefined && this.#kept > 0) throw answer.failure
      this.#failures = 0
      const text = JSON.stringify(answer.specs)
      if (text !== this.#last) {
        this.#last = text
        this.#kept = answer.specs.length
        onUpdate(answer.specs)
      }
      return Math.max(MIN_REFRESH_MS, Math.min(answer.ttlMs, refreshMs) * spread)
    } catch (error) {
      if (this.#closed) return refreshMs
      onError?.(error as Error, this.#kept)
      const backoffMs = MIN_REFRESH_MS * 2 ** Math.min(this.#failures++, 6)
      return Math.max(MIN_REFRESH_MS, Math.min(backoffMs, refreshMs)) * spread
    }
  }
}

function createResolver(servers: readonly string[] | undefined): Resolver {
  const { Resolver } = process.getBuiltinModule('node:dns/promises')
  const resolver = new Resolver({ timeout: 2000, tries: 2 })
  if (servers !== undefined) resolver.setServers(servers)
  return resolver
}

/** One question. Rejects when there is no address. Sorted, so that two answers that differ in order alone are equal. */
export async function resolveEndpoints(options: DnsOptions, resolver: DnsResolver): Promise<DnsAnswer> {
  const { name, type = 'auto', port = options.secure ? 443 : 80, secure } = options
  const specs: EndpointSpec[] = []
  let ttlMs = Infinity
  let failure: unknown
  if (type !== 'SRV') {
    const found = await addresses(name, type, resolver, options.lookup ?? hostsLookup)
    ttlMs = found.ttlMs
    for (const host of found.hosts) specs.push({ address: { host, port, secure, serverName: name } })
  } else {
    const records = await resolver.resolveSrv(name)
    // RFC 2782: the lowest priority serves, the others stand in. A target of "." means: no such service.
    const first = Math.min(...records.map((record) => record.priority))
    const targets = records.filter((record) => record.name !== '' && record.name !== '.').slice(0, MAX_ENDPOINTS)
    const results = await Promise.allSettled(
      targets.map((record) => addresses(record.name, 'auto', resolver, options.lookup ?? hostsLookup)),
    )
    for (const [i, record] of targets.entries()) {
      const result = results[i]!
      // A target without an address takes only itself out; one that could not be asked makes the answer incomplete.
      if (result.status === 'rejected') {
        if (!saysNo(result.reason)) failure = result.reason
        continue
      }
      ttlMs = Math.min(ttlMs, result.value.ttlMs)
      for (const host of result.value.hosts) {
        specs.push({
          address: { host, port: record.port, secure, serverName: record.name },
          weight: Math.max(1, record.weight),
          backup: record.priority > first,
        })
      }
    }
  }
  if (specs.length === 0) throw failure ?? new Error(`${name} has no address`)
  specs.sort((a, b) => compare(endpointKey(a.address), endpointKey(b.address)))
  return { specs: specs.slice(0, MAX_ENDPOINTS), ttlMs, failure }
}

async function addresses(
  name: string,
  type: 'auto' | 'A' | 'AAAA',
  resolver: DnsResolver,
  lookup: (name: string) => Promise<string[]>,
): Promise<{ hosts: string[]; ttlMs: number }> {
  const [v4, v6] = await Promise.allSettled([
    type === 'AAAA' ? [] : resolver.resolve4(name, { ttl: true }),
    type === 'A' ? [] : resolver.resolve6(name, { ttl: true }),
  ])
  // A failing server must not be taken for one that says no: the other family would take over for a while.
  if (v4.status === 'rejected' && !saysNo(v4.reason)) throw v4.reason
  const records =
    v4.status === 'fulfilled' && v4.value.length > 0 ? v4.value : v6.status === 'fulfilled' ? v6.value : []
  if (records.length > 0) {
    const ttlSec = Math.min(...records.map((record) => record.ttl))
    return { hosts: [...new Set(records.map((record) => record.address))], ttlMs: ttlSec * 1000 }
  }
  if (v6.status === 'rejected' && !saysNo(v6.reason)) throw v6.reason
  const hosts = (await lookup(name)).filter((host) => type === 'auto' || host.includes(':') === (type === 'AAAA'))
  const v4Hosts = hosts.filter((host) => !host.includes(':'))
  return { hosts: v4Hosts.length > 0 ? v4Hosts : hosts, ttlMs: Infinity }
}

/** There is no such name, or nobody to ask: the name may still stand in /etc/hosts. */
function saysNo(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException).code
  return code === 'ENOTFOUND' || code === 'ENODATA' || code === 'ECONNREFUSED'
}

async function hostsLookup(name: string): Promise<string[]> {
  const { lookup } = process.getBuiltinModule('node:dns/promises')
  return (await lookup(name, { all: true })).map((entry) => entry.address)
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}
