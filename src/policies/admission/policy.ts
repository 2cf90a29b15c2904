/**
 * Admission of a route: a place under the global cap and under the route's own, then a worker's place in both, waited for
 * in a bounded queue. Refusals are immediate and say when to come back. Every place is given back when the exchange ends,
 * however it ends; a long stream moves to a pool of its own.
 */

import type { Exchange, FinishHook, Outcome } from '../../exchange.ts'
import { LocalReply } from '../../local-reply.ts'
import type { KeyHash } from '../../shared/limiter-table.ts'
import type { AdmissionConfig, AdmissionRouteConfig } from './config.ts'
import { compileDeadline } from './deadline.ts'
import { KEY_FULL, type KeyCounts } from './key-counts.ts'
import { ENTERED, type Entry, REFUSED_PRESSURE, REFUSED_TIER } from './places.ts'
import type { WaitEnd } from './queue.ts'
import type { Scope, ScopeLimits } from './scope.ts'
import { compileSubject } from './subject.ts'
import { compileTier, type TierIds, tierOrder } from './tiers.ts'

export type AdmissionReason =
  | 'CCU_FULL'
  | 'QUEUE_FULL'
  | 'QUEUE_TIMEOUT'
  | 'CCU_TIER'
  | 'CCU_KEY'
  | 'DEADLINE'
  | 'PRESSURE'
export type AdmissionGate = (x: Exchange) => LocalReply | undefined | Promise<LocalReply | undefined>

export interface Admission {
  readonly gate: AdmissionGate
  /** A refusal that is certain already: asked before anything that costs more than a look. Undefined: there is no such look. */
  readonly fullLook: ((x: Exchange) => LocalReply | undefined) | undefined
  /** Field lines that forwarded answers carry at this moment; '' mostly. */
  readonly answerFields: () => string
}

export interface AdmissionDeps {
  /** From the outermost: the gateway's, then the route's if it has one. */
  readonly scopes: readonly Scope[]
  readonly config: AdmissionConfig
  readonly tierIds: TierIds
  readonly routeName: string
  /** With `perKey`. */
  readonly keys: KeyCounts | undefined
  readonly hash: KeyHash
  /** Counts a refusal of a tier. */
  readonly tierRefused: (tier: string) => void
  /** Streams in their own pool: one more, one less. */
  readonly streams: (change: 1 | -1) => void
}

/** The numbers of a scope with `auto` resolved. */
export function scopeLimits(
  config: AdmissionConfig | AdmissionRouteConfig,
  global: AdmissionConfig,
  ids: TierIds,
): ScopeLimits {
  const { maxCCU } = config
  const workers = config.workers === 'auto' ? Math.max(1, normalCapacity(config)) : config.workers
  const maxQueue = config.maxQueue === 'auto' ? Math.max(0, maxCCU - workers) : config.maxQueue
  return {
    maxCCU,
    workers,
    maxQueue,
    queueTimeoutMs: config.queueTimeout,
    discipline: config.discipline,
    codelTargetMs: global.codel.target,
    codelIntervalMs: global.codel.interval,
    ...tierOrder(global, ids),
  }
}

export function normalCapacity(config: { maxCCU: number; utilizationPercent: number }): number {
  return Math.floor((config.maxCCU * config.utilizationPercent) / 100)
}

/** Admissions by the config of their route, for exchanges that turn into streams. */
const movers = new WeakMap<object, (x: Exchange) => boolean>()

/**
 * Moves an admitted exchange to the pool of long streams (WebSocket, event streams, old HTTP/2 streams): its place is free
 * for others. False when the pool is full or the exchange has no place: it stays where it is.
 */
export function toStream(x: Exchange): boolean {
  const config = x.route?.config
  return config !== undefined && !x.finished && (movers.get(config)?.(x) ?? false)
}

/** @param route the route's config, by which `toStream` finds its way back */
export function compileAdmission(route: object, deps: AdmissionDeps): Admission {
  const { scopes, config, keys, hash } = deps
  const tierOf = compileTier(config, deps.tierIds)
  const deadline = compileDeadline(config.deadlineHeader)
  const { perKey } = config
  const fairParts = config.fairBy ?? perKey?.key
  const subjectOf = perKey === undefined ? undefined : compileSubject(perKey.key, deps.routeName)
  const turnOf = fairParts === undefined ? undefined : compileSubject(fairParts, deps.routeName)
  const outer = scopes[0]!
  const single = scopes.length === 1
  const maxStreams = config.maxStreams === 'auto' ? config.maxCCU : config.maxStreams
  const adaptive = config.mode === 'adaptive'

  const refuse = (x: Exchange, scope: Scope, reason: AdmissionReason): LocalReply => {
    if (tierOf !== undefined) deps.tierRefused(x.tier)
    const shed = config.slotsHeader ? `Fluxor-Shed: ${reason}\r\nFluxor-Slots: ${places(scopes)}\r\n` : ''
    return new LocalReply('BACKPRESSURE', {
      reason,
      fields:
        `Retry-After: ${scope.retryAfterSec(Math.random())}\r\n` +
        `RateLimit-Policy: "ccu";q=${scope.limits.maxCCU};qu="concurrent-requests"\r\nCache-Control: no-store\r\n${shed}`,
    })
  }

  // Exchanges whose place another has taken, or that have moved to the streams: their hooks have less to give back.
  const ousted = scopes.map(() => new Set<Exchange>())
  const streaming = new Set<Exchange>()
  const learn = (x: Exchange) => {
    if (x.reply !== undefined || (x.status === 503 && x.attempts > 0)) outer.places.dropped()
    else if (x.upstreamHeadMs > 0) outer.places.sample(x.upstreamHeadMs - x.startedMs - x.queuedMs)
  }
  const moved = (x: Exchange, last: boolean): boolean => {
    if (streaming.size === 0 || !streaming.has(x)) return false
    if (last) {
      streaming.delete(x)
      outer.places.endStream()
      deps.streams(-1)
    }
    return true
  }

  /** What one tier's exchanges give back, made once. */
  const hooksOf = (tier: number) => ({
    whole: ((outcome, x) => {
      if (moved(x, true)) return
      if (adaptive) learn(x)
      const completed = outcome === 'completed'
      if (brokenOff(outcome, x)) outer.later(() => outer.places.finish(tier, completed))
      else outer.places.finish(tier, completed)
    }) satisfies FinishHook as FinishHook,
    leave: ((outcome, x) => {
      if (moved(x, true)) return
      const completed = outcome === 'completed'
      for (const [i, scope] of scopes.entries()) {
        const out = ousted[i]!
        if (out.size > 0 && out.delete(x)) continue
        if (brokenOff(outcome, x)) scope.later(() => scope.places.leave(tier, completed))
        else scope.places.leave(tier, completed)
      }
    }) satisfies FinishHook as FinishHook,
    endService: scopes.map(
      (scope, i): FinishHook =>
        (outcome, x) => {
          if (moved(x, false)) return
          if (adaptive && i === 0) learn(x)
          if (brokenOff(outcome, x)) scope.later(() => scope.places.endService(tier))
          else scope.places.endService(tier)
        },
    ),
  })
  const byTier: ReturnType<typeof hooksOf>[] = []
  const hooks = (tier: number) => (byTier[tier] ??= hooksOf(tier))

  movers.set(route, (x) => {
    if (streaming.has(x)) return true
    const tier = tierOf === undefined ? 0 : (deps.tierIds.get(x.tier) ?? 0)
    if (!outer.places.toStream(tier, maxStreams)) return false
    for (const scope of scopes.slice(1)) scope.places.finish(tier, true)
    streaming.add(x)
    deps.streams(1)
    return true
  })

  const serveFrom = (
    x: Exchange,
    tier: number,
    from: number,
  ): LocalReply | undefined | Promise<LocalReply | undefined> => {
    // The narrowest scope first: who waits for a route's worker holds none of the gateway's.
    for (let i = from; i >= 0; i--) {
      const scope = scopes[i]!
      if (!scope.places.start(tier)) return wait(x, tier, scope, i)
      x.onFinish(hooks(tier).endService[i]!)
    }
    return undefined
  }

  const wait = (x: Exchange, tier: number, scope: Scope, i: number): LocalReply | Promise<LocalReply | undefined> => {
    const sinceMs = performance.now()
    const predictedMs = scope.predictedWaitMs(tier)
    if (predictedMs > 0 && sinceMs + predictedMs > x.deadlineMs) return refuse(x, scope, 'DEADLINE')
    let answer!: (value: LocalReply | undefined | Promise<LocalReply | undefined>) => void
    const promise = new Promise<LocalReply | undefined>((resolve) => {
      answer = resolve
    })
    let settled = false
    const ended = (end: WaitEnd) => {
      settled = true
      const waitedMs = performance.now() - sinceMs
      x.queuedMs += waitedMs
      x.onAbort = null
      if (end === 'served') {
        if (x.finished) {
          scope.places.endService(tier)
          return
        }
        x.responseFields += `Server-Timing: queue;dur=${waitedMs.toFixed(1)}\r\n`
        x.onFinish(hooks(tier).endService[i]!)
        answer(serveFrom(x, tier, i - 1))
        return
      }
      if (end === 'ousted') ousted[i]!.add(x)
      answer(refuse(x, scope, end === 'ousted' ? 'CCU_TIER' : 'QUEUE_TIMEOUT'))
    }
    const waiter = scope.wait(tier, turnOf === undefined ? '' : turnOf(x), sinceMs, ended)
    if (waiter === undefined) return refuse(x, scope, 'QUEUE_FULL')
    if (!settled) {
      x.onAbort = () => {
        x.queuedMs += performance.now() - sinceMs
        if (scope.leave(waiter)) ousted[i]!.add(x)
      }
    }
    return promise
  }

  const keyFull = (x: Exchange): boolean => {
    const subject = hash.from(keys!.seedA, keys!.seedB).add(subjectOf!(x))
    const cell = keys!.take(subject.a, subject.b, perKey!.maxCCU)
    if (cell === KEY_FULL) return true
    if (cell >= 0) x.onFinish(() => keys!.release(cell))
    return false
  }

  return {
    gate(x) {
      const tier = tierOf === undefined ? 0 : tierOf(x)
      deadline(x)
      if (subjectOf !== undefined && keys !== undefined && keyFull(x)) return refuse(x, outer, 'CCU_KEY')
      if (single) {
        const { places } = outer
        const entry = places.enterAndStart(tier)
        if (entry !== ENTERED) return refuse(x, outer, reasonOf(entry))
        if (places.started) {
          x.onFinish(hooks(tier).whole)
          return undefined
        }
        x.onFinish(hooks(tier).leave)
        return wait(x, tier, outer, 0)
      }
      for (let i = 0; i < scopes.length; i++) {
        const scope = scopes[i]!
        const entry = scope.places.enter(tier)
        if (entry === ENTERED) continue
        for (let j = 0; j < i; j++) scopes[j]!.places.undoEnter(tier)
        return refuse(x, scope, reasonOf(entry))
      }
      x.onFinish(hooks(tier).leave)
      return serveFrom(x, tier, scopes.length - 1)
    },

    // With tiers only identity tells who is refused, and a refusal must be known as the tier's need.
    fullLook:
      tierOf !== undefined
        ? undefined
        : (x) => {
            for (const scope of scopes) {
              const { cap, ccu, share } = scope.places
              if (ccu >= cap)
                return refuse(x, scope, share < 1000 && ccu < scope.limits.maxCCU ? 'PRESSURE' : 'CCU_FULL')
            }
            return undefined
          },

    answerFields: config.slotsHeader ? () => `Fluxor-Slots: ${places(scopes)}\r\n` : () => '',
  }
}

/**
 * The request was with the upstream and the gateway has cut it off (the client left, its time is up): the service learns of
 * that a moment later. Who took the place at once would make one more there than its cap allows.
 */
function brokenOff(outcome: Outcome, x: Exchange): boolean {
  if (x.attempts === 0) return false
  return outcome === 'aborted' || x.reply?.code === 'TIMEOUT' || x.reply?.code === 'UP_TIMEOUT'
}

function reasonOf(entry: Entry): AdmissionReason {
  return entry === REFUSED_TIER ? 'CCU_TIER' : entry === REFUSED_PRESSURE ? 'PRESSURE' : 'CCU_FULL'
}

/** Exchanges that could be served at once, now and in all: `free=3;cap=100`. */
function places(scopes: readonly Scope[]): string {
  let free = Number.POSITIVE_INFINITY
  let cap = Number.POSITIVE_INFINITY
  for (const { places } of scopes) {
    free = Math.min(free, places.workers - places.inService - places.waiting, places.cap - places.ccu)
    cap = Math.min(cap, places.workers, places.cap)
  }
  return `free=${Math.max(0, free)};cap=${cap}`
}
