/**
 * One address of an upstream: what balancers, the pool, health checks, outlier detection and the breaker share about
 * it. An endpoint belongs to one upstream of one thread and outlives reloads: the next snapshot finds it by its `key`.
 *
 * Plain fields, all set in the constructor, so that every endpoint has one shape and a pick reads numbers only. Reasons
 * for not being picked are independent of each other (a drained endpoint may also be unhealthy): each has its flag, and
 * `state` names the weightiest.
 */

import type { Breaker } from './breaker.ts'
import { forgetLatency } from './latency.ts'
import type { OutlierRecord } from './outlier.ts'

export type EndpointState = 'healthy' | 'unhealthy' | 'ejected' | 'draining'

/** Failed its active health checks. */
const UNHEALTHY = 1
/** Ejected by outlier detection until `ejectedUntilMs`. */
const EJECTED = 2
/** Finishes what it has and takes nothing new: removed from the config or the DNS answer, or drained by an operator. */
const DRAINING = 4

export interface EndpointAddress {
  /** Host name or IP address, IPv6 without brackets: what the socket connects to. */
  readonly host: string
  readonly port: number
  readonly secure: boolean
  /** Name for SNI and the certificate check, when it differs from `host` (an address found by DNS). */
  readonly serverName?: string
}

export interface EndpointOptions {
  /** Relative share of traffic; 0 drains. Default 1. */
  readonly weight?: number
  /** Takes traffic only when no primary is available. */
  readonly backup?: boolean
}

/** The parts of an endpoint's URL; undefined when it is not an http or https URL with nothing but host and port. */
export function parseEndpointUrl(text: string): EndpointAddress | undefined {
  const url = URL.parse(text)
  if (url === null || (url.protocol !== 'http:' && url.protocol !== 'https:')) return undefined
  if (url.username !== '' || url.password !== '' || url.pathname !== '/' || url.search !== '' || url.hash !== '') {
    return undefined
  }
  const secure = url.protocol === 'https:'
  const host = url.hostname.startsWith('[') ? url.hostname.slice(1, -1) : url.hostname
  return { host, port: url.port === '' ? (secure ? 443 : 80) : Number(url.port), secure }
}

/** What identifies an address over reloads, DNS answers and sticky cookies: `http://10.0.0.1:8080`. */
export function endpointKey(address: EndpointAddress): string {
  return `${address.secure ? 'https' : 'http'}://${bracketed(address.host)}:${address.port}`
}

export class Endpoint {
  readonly key: string
  readonly host: string
  readonly port: number
  readonly secure: boolean
  /** Name for SNI and the certificate check. */
  readonly serverName: string
  /** For the Host field where the client's own is not kept: without the scheme's default port, IPv6 in brackets. */
  readonly authority: string
  /** 32-bit hash of the key, for consistent hashing. */
  readonly hash: number
  /** Relative share of traffic, changeable at run time; 0 takes no new exchanges. */
  weight: number
  backup: boolean
  /** Requests sent here and not ended. */
  inFlight = 0
  /** Peak EWMA of the latency, as of `ewmaAtMs`; owned by latency.ts. */
  ewmaMs: number
  ewmaAtMs: number
  /** Since when the weight ramps up: start or return of the endpoint; -Infinity: no ramp. */
  slowStartFromMs = -Infinity
  /** Places a downstream gateway last reported as free, corrected by what was sent and ended since; -1: not known. */
  freeSlots = -1
  /** Places it has in all, when it says so, and how many of them others than this side took then; -1: not known. */
  slotsCap = -1
  slotsOthers = 0
  slotsAtMs = -Infinity
  /** Running counter of smooth weighted round robin. */
  roundRobin = 0
  ejectedUntilMs = -Infinity
  /** How often in a row outlier detection ejected it; lengthens the next ejection. */
  ejections = 0
  /** Connections in a row that could not be made. */
  connectFailures = 0
  /** Before that it is passed over, where there is another: its last connection could not be made. */
  unreachableUntilMs = -Infinity
  /** Counters of outlier detection; null when it is off. */
  outlier: OutlierRecord | null = null
  /** The endpoint's own circuit breaker; null when it is off. */
  breaker: Breaker | null = null
  /** A health check has been answered: from then on it takes several in a row to change the state. */
  proven = false
  /** Number of its request counter in the metrics; -1: none yet. */
  series = -1
  /** Why it is in its state, for people: `GET /health answered 500`. */
  reason = ''
  /** When `state` last changed, on the clock passed in. */
  sinceMs: number
  #flags = 0

  constructor(address: EndpointAddress, options: EndpointOptions = {}, nowMs = 0) {
    this.key = endpointKey(address)
    this.host = address.host
    this.port = address.port
    this.secure = address.secure
    this.serverName = address.serverName ?? address.host
    const isDefaultPort = address.port === (address.secure ? 443 : 80)
    this.authority = isDefaultPort ? bracketed(this.serverName) : `${bracketed(this.serverName)}:${address.port}`
    this.hash = hashText(this.key)
    this.weight = options.weight ?? 1
    this.backup = options.backup ?? false
    this.ewmaMs = SEED_MS
    this.ewmaAtMs = nowMs
    this.sinceMs = nowMs
  }

  /** The weightiest reason against it: draining, then unhealthy, then ejected. */
  get state(): EndpointState {
    const flags = this.#flags
    if (flags === 0) return 'healthy'
    if ((flags & DRAINING) !== 0) return 'draining'
    return (flags & UNHEALTHY) !== 0 ? 'unhealthy' : 'ejected'
  }

  get draining(): boolean {
    return (this.#flags & DRAINING) !== 0
  }

  get ejected(): boolean {
    return (this.#flags & EJECTED) !== 0
  }

  get unhealthy(): boolean {
    return (this.#flags & UNHEALTHY) !== 0
  }

  /** True when a new exchange may be sent here. An ejection whose time is over ends here, without a timer. */
  isAvailable(nowMs: number): boolean {
    return this.weight > 0 && this.isUp(nowMs)
  }

  /** As `isAvailable`, whatever its weight: with weight 0 it still serves the clients that stick to it. */
  isUp(nowMs: number): boolean {
    if (this.#flags !== 0) {
      if (this.#flags !== EJECTED || nowMs < this.ejectedUntilMs) return false
      this.endEjection(nowMs)
    }
    if (nowMs < this.unreachableUntilMs) return false
    return this.breaker === null || this.breaker.wouldAllow(nowMs)
  }

  /** No connection could be made. Known at once and without health checks; each failure in a row doubles the pause. */
  connectFailed(nowMs: number): void {
    this.connectFailures++
    this.holdBack(nowMs)
  }

  /** A try begins at an endpoint that could not be reached: until it has shown what is the case, it is the only one. */
  holdBack(nowMs: number): void {
    this.unreachableUntilMs =
      nowMs + Math.min(UNREACHABLE_MS * 2 ** Math.min(this.connectFailures - 1, 10), LONGEST_UNREACHABLE_MS)
  }

  /** A connection was made. */
  reached(): void {
    this.connectFailures = 0
    this.unreachableUntilMs = -Infinity
  }

  markHealthy(nowMs: number, reason = ''): void {
    this.#clear(UNHEALTHY, nowMs, reason)
  }

  markUnhealthy(nowMs: number, reason: string): void {
    this.#set(UNHEALTHY, nowMs, reason)
  }

  eject(nowMs: number, untilMs: number, reason: string): void {
    this.ejectedUntilMs = untilMs
    this.#set(EJECTED, nowMs, reason)
  }

  endEjection(nowMs: number): void {
    this.#clear(EJECTED, nowMs, 'the ejection has ended')
  }

  drain(nowMs: number, reason: string): void {
    this.#set(DRAINING, nowMs, reason)
  }

  undrain(nowMs: number): void {
    this.#clear(DRAINING, nowMs, '')
  }

  #set(flag: number, nowMs: number, reason: string): void {
    const before = this.state
    this.#flags |= flag
    if (this.state !== before) this.sinceMs = nowMs
    this.reason = reason
  }

  #clear(flag: number, nowMs: number, reason: string): void {
    if ((this.#flags & flag) === 0) return
    const before = this.state
    this.#flags &= ~flag
    if (this.state !== before) this.sinceMs = nowMs
    this.reason = reason
    if (this.#flags !== 0) return
    this.slowStartFromMs = nowMs
    forgetLatency(this, nowMs)
  }
}

const UNREACHABLE_MS = 500
const LONGEST_UNREACHABLE_MS = 5_000

/** What an endpoint's latency is taken for before the first answer (Finagle and Linkerd use 30 ms too). */
const SEED_MS = 30

/** FNV-1a over UTF-16 units, then murmur3's finaliser: FNV alone leaves similar keys close to each other. */
export function hashText(text: string): number {
  let hash = 0x811c9dc5
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193)
  return mix(hash)
}

/** Murmur3's 32-bit finaliser: every input bit changes half of the output bits. */
export function mix(value: number): number {
  let h = value
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35)
  return (h ^ (h >>> 16)) >>> 0
}

function bracketed(host: string): string {
  return host.includes(':') ? `[${host}]` : host
}
