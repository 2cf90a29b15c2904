/**
 * Admission of a route: a place under the global cap and under the route's own, then a worker's place in both, waited for
 * in a bounded queue. Refusals are immediate and say when to come back. Every place is given back when the exchange ends,
 * however it ends.
 */

import type { Exchange, FinishHook } from '../../exchange.ts'
import { LocalReply } from '../../local-reply.ts'
import type { AdmissionConfig, AdmissionRouteConfig } from './config.ts'
import type { Scope, ScopeLimits, Waiter } from './scope.ts'

export type AdmissionReason = 'CCU_FULL' | 'QUEUE_FULL' | 'QUEUE_TIMEOUT'
export type AdmissionGate = (x: Exchange) => LocalReply | undefined | Promise<LocalReply | undefined>

export interface Admission {
  readonly gate: AdmissionGate
  /** A refusal that is certain already: asked before anything that costs more than a look. */
  readonly fullLook: (x: Exchange) => LocalReply | undefined
}

/** The numbers of a scope with `auto` resolved. */
export function scopeLimits(config: AdmissionConfig | AdmissionRouteConfig): ScopeLimits {
  const { maxCCU } = config
  const workers = config.workers === 'auto' ? Math.max(1, normalCapacity(config)) : config.workers
  const maxQueue = config.maxQueue === 'auto' ? Math.max(0, maxCCU - workers) : config.maxQueue
  return { maxCCU, workers, maxQueue, queueTimeoutMs: config.queueTimeout }
}

export function normalCapacity(config: { maxCCU: number; utilizationPercent: number }): number {
  return Math.floor((config.maxCCU * config.utilizationPercent) / 100)
}

/** @param scopes from the outermost: the gateway's, then the route's if it has one */
export function compileAdmission(scopes: readonly Scope[]): Admission {
  const refuse = (scope: Scope, reason: AdmissionReason): LocalReply => {
    const { maxCCU } = scope.limits
    return new LocalReply('BACKPRESSURE', {
      reason,
      fields:
        `Retry-After: ${scope.retryAfterSec(Math.random())}\r\n` +
        `RateLimit-Policy: "ccu";q=${maxCCU};qu="concurrent-requests"\r\nCache-Control: no-store\r\n`,
    })
  }

  const leaveAll: FinishHook = (outcome) => {
    for (const scope of scopes) scope.places.leave(outcome === 'completed')
  }
  const endService: FinishHook[] = scopes.map((scope) => () => scope.endService())

  const serveFrom = (x: Exchange, from: number): LocalReply | undefined | Promise<LocalReply | undefined> => {
    // The narrowest scope first: who waits for a route's worker holds none of the gateway's.
    for (let i = from; i >= 0; i--) {
      const scope = scopes[i]!
      if (scope.places.startService(scope.limits.workers)) {
        x.onFinish(endService[i]!)
        continue
      }
      return wait(x, scope, i)
    }
    return undefined
  }

  const wait = (x: Exchange, scope: Scope, i: number): LocalReply | Promise<LocalReply | undefined> => {
    const sinceMs = performance.now()
    let answer: (value: LocalReply | undefined | Promise<LocalReply | undefined>) => void
    const promise = new Promise<LocalReply | undefined>((resolve) => {
      answer = resolve
    })
    let settled = false
    const waiter: Waiter | undefined = scope.wait(sinceMs, (served) => {
      settled = true
      x.queuedMs += performance.now() - sinceMs
      x.onAbort = null
      if (served && x.finished) scope.endService()
      else if (served) {
        x.onFinish(endService[i]!)
        answer(serveFrom(x, i - 1))
      } else answer(refuse(scope, 'QUEUE_TIMEOUT'))
    })
    if (waiter === undefined) return refuse(scope, 'QUEUE_FULL')
    if (!settled) x.onAbort = () => scope.leave(waiter)
    return promise
  }

  return {
    gate(x) {
      for (let i = 0; i < scopes.length; i++) {
        const scope = scopes[i]!
        if (scope.places.enter(scope.limits.maxCCU)) continue
        for (let j = 0; j < i; j++) scopes[j]!.places.undoEnter()
        return refuse(scope, 'CCU_FULL')
      }
      x.onFinish(leaveAll)
      return serveFrom(x, scopes.length - 1)
    },
    fullLook() {
      for (const scope of scopes) if (scope.places.ccu >= scope.limits.maxCCU) return refuse(scope, 'CCU_FULL')
      return undefined
    },
  }
}
