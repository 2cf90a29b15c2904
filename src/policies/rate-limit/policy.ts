/**
 * The rate limits of a route, bound to a request. Two gates, because identity stands between them: rules by address, route or
 * header run before it (a flood pays for no token check), rules that need to know the caller or its tier run after.
 *
 * Several rules: all must allow, the longest wait decides Retry-After, and every rule that is over is named. Within a gate
 * a refused request is charged by none: rules in memory go first, what they took is given back at once, Redis rules are asked
 * together in one round trip afterwards, and those that allowed are told to give back (without waiting; should Redis fail just
 * then, that charge stands). What the gate before identity charged stays charged: its rules count arrivals.
 *
 * A shadow rule is counted after all others have let the request pass, is never waited for, and never shown to clients.
 */

import type { Exchange } from '../../exchange.ts'
import type { LocalReply } from '../../local-reply.ts'
import type { RedisDoor } from '../../redis.ts'
import { type LimiterTable, sharedNowMs } from '../../shared/limiter-table.ts'
import { createDecision, GIVE_BACK, PEEK, TAKE } from './algorithms.ts'
import { BoundRule, type Verdict, verdictOf } from './bound-rule.ts'
import type { RateLimitHeaders, RateLimitRuleConfig, RateLimitsConfig, RedisConfig } from './config.ts'
import { redisKey, type StoreDecision } from './redis-store.ts'
import { policies, refusal, tell } from './tell.ts'

export type RateLimitGate = (x: Exchange) => LocalReply | undefined | Promise<LocalReply | undefined>

export interface RateLimitGates {
  beforeIdentity?: RateLimitGate
  /** Needs `x.identity`. */
  afterIdentity?: RateLimitGate
}

/** What is counted of a rule. `shadow`: what a shadow rule would have refused. `storeErrors`: decisions without Redis. */
export type RateLimitEvent = 'allowed' | 'limited' | 'shadow' | 'storeErrors'

export interface RateLimitDeps {
  /** Of this thread, over the buffer that all threads share. Outlives reloads. */
  table: LimiterTable
  /** Which one `store: redis` means. */
  redisConfig?: RedisConfig
  /** The open door of a block under `redis`; undefined: not open, `onStoreError` decides. */
  redis?: (name: string) => RedisDoor | undefined
  /** For rules with `route` in their key. */
  routeName: string
  /** The root key `rateLimitHeaders`. */
  headers?: RateLimitHeaders
  count?: (rule: string, event: RateLimitEvent) => void
  /** The clock that all threads share, in milliseconds. */
  now?: () => number
}

/**
 * The gates for the rules that a route names, in the order of the pipeline; undefined when it names none. Throws when a name is
 * not known, which the config check reports long before.
 */
export function compileRateLimits(
  names: readonly string[] | undefined,
  config: RateLimitsConfig | undefined,
  deps: RateLimitDeps,
): RateLimitGates | undefined {
  if (names === undefined || names.length === 0) return undefined
  const before: BoundRule[] = []
  const after: BoundRule[] = []
  for (const name of names) {
    if (config === undefined || !Object.hasOwn(config, name)) throw new Error(`there is no rate limit ${name}`)
    const rule = config[name]!
    const bound = new BoundRule(name, rule, deps)
    if (needsIdentity(rule)) after.push(bound)
    else before.push(bound)
  }
  return {
    ...(before.length > 0 && { beforeIdentity: compileGate(before, deps) }),
    ...(after.length > 0 && { afterIdentity: compileGate(after, deps) }),
  }
}

function needsIdentity(rule: RateLimitRuleConfig): boolean {
  return rule.tiers !== undefined || rule.key.some((part) => part === 'apiKey' || part.startsWith('claim:'))
}

/** A question to Redis. */
interface Ask extends Verdict {
  key: string
  decision: StoreDecision
}

function compileGate(rules: readonly BoundRule[], deps: RateLimitDeps): RateLimitGate {
  const { table } = deps
  const now = deps.now ?? sharedNowMs
  const count = deps.count ?? noCount
  const memory = rules.filter((rule) => !rule.redis && !rule.shadow)
  const remote = rules.filter((rule) => rule.redis && !rule.shadow)
  const shadows = rules.filter((rule) => rule.shadow)
  // What clients are told lists the rules in this order, whichever of them decided.
  const shown = [...memory, ...remote]
  const draft = shown.some((rule) => rule.draft)
  const legacy = shown.some((rule) => rule.legacy)
  // Without tiers the policy line never changes, and begins every answer's fields up to the first count.
  const fixedHead =
    draft && remote.length === 0 && !shown.some((rule) => rule.tiered)
      ? `RateLimit-Policy: ${policies(shown)}\r\nRateLimit: `
      : undefined

  /** The fields of a request that passed the memory rules: the one path that must be cheap. */
  function tellMemory(x: Exchange): void {
    if (fixedHead !== undefined && !legacy) {
      let line = fixedHead
      let first = true
      for (const bound of memory) {
        if (!bound.draft) continue
        const { remaining, resetMs } = bound.out
        line += `${first ? '' : ', '}${bound.stateHead}${remaining};t=${Math.ceil(resetMs / 1000)}`
        first = false
      }
      x.responseFields += line + '\r\n'
    } else if (draft || legacy) {
      tell(
        x,
        memory.map((bound) => verdictOf(bound, bound.out)),
      )
    }
  }

  /** Gives back what `charged` took, and says how each of `all` stands now. */
  function undo(charged: readonly Verdict[], all: readonly Verdict[], nowMs: number): void {
    for (const { hashA, hashB, variant, decision } of charged) {
      table.update(hashA, hashB, nowMs, variant.rule, GIVE_BACK, decision)
    }
    for (const { hashA, hashB, variant, decision } of all) {
      table.update(hashA, hashB, nowMs, variant.rule, PEEK, decision)
    }
  }

  /** Memory rule `refusing` has refused; those before it were charged, those after it were not asked. */
  function refuseInMemory(x: Exchange, refusing: number, nowMs: number): LocalReply {
    const verdicts = memory.map((bound, i) => {
      if (i > refusing) bound.prepare(x)
      return verdictOf(bound, createDecision())
    })
    undo(verdicts.slice(0, refusing), verdicts, nowMs)
    return refuse(x, verdicts)
  }

  function refuse(x: Exchange, verdicts: readonly Verdict[]): LocalReply {
    tell(x, verdicts)
    const violated = verdicts.filter(({ decision }) => !decision.allowed)
    for (const { bound } of violated) count(bound.name, 'limited')
    return refusal(violated)
  }

  function runShadows(x: Exchange, nowMs: number): void {
    for (const bound of shadows) {
      bound.prepare(x)
      const { variant, hashA, hashB, out, name } = bound
      if (variant.store === undefined) {
        table.update(hashA, hashB, nowMs, variant.rule, TAKE, out)
        count(name, out.allowed ? 'allowed' : 'shadow')
        continue
      }
      const key = redisKey(name, variant.rule, bound.subject(x))
      const answer = variant.store.blocked(key, nowMs) ?? variant.store.take(key, hashA, hashB, nowMs)
      const counted = (decision: StoreDecision) => count(name, decision.allowed ? 'allowed' : 'shadow')
      if (answer instanceof Promise) void answer.then(counted)
      else counted(answer)
    }
  }

  /** After the memory rules have allowed and charged. */
  function askRedis(x: Exchange, nowMs: number): LocalReply | undefined | Promise<LocalReply | undefined> {
    const inMemory = memory.map((bound) => verdictOf(bound, { ...bound.out }))
    const asks: Ask[] = []
    let blocked = false
    for (const bound of remote) {
      bound.prepare(x)
      const key = redisKey(bound.name, bound.variant.rule, bound.subject(x))
      const decision = bound.variant.store!.blocked(key, nowMs)
      if (decision !== undefined) blocked = true
      asks.push({ ...verdictOf(bound, decision ?? UNASKED), key, decision: decision ?? UNASKED })
    }
    if (blocked) {
      // Redis is not asked, so the other Redis rules are neither charged nor known.
      undo(inMemory, inMemory, nowMs)
      return refuse(x, [...inMemory, ...asks.filter(({ decision }) => decision !== UNASKED)])
    }
    let waiting = false
    const answers = asks.map(({ variant, key, hashA, hashB }) => {
      const answer = variant.store!.take(key, hashA, hashB, nowMs)
      if (answer instanceof Promise) waiting = true
      return answer
    })
    if (!waiting) return conclude(x, nowMs, inMemory, asks, answers as StoreDecision[])
    return Promise.all(answers).then((decisions) => conclude(x, nowMs, inMemory, asks, decisions))
  }

  function conclude(
    x: Exchange,
    nowMs: number,
    inMemory: Verdict[],
    asks: Ask[],
    decisions: StoreDecision[],
  ): LocalReply | undefined {
    let allowed = true
    asks.forEach((ask, i) => {
      ask.decision = decisions[i]!
      if (!ask.decision.allowed) allowed = false
    })
    // `allow` passed it unseen: nothing is known that a client could be told.
    const known = asks.filter(({ decision }) => decision.source !== 'allow')
    if (allowed) {
      tell(x, [...inMemory, ...known])
      for (const { bound } of inMemory) count(bound.name, 'allowed')
      for (const { bound } of asks) count(bound.name, 'allowed')
      runShadows(x, nowMs)
      return undefined
    }
    undo(inMemory, inMemory, nowMs)
    for (const { variant, key, hashA, hashB, decision } of asks) {
      if (!decision.allowed) continue
      variant.store!.giveBack(key, hashA, hashB, nowMs, decision)
      decision.remaining = Math.min(variant.rule.burst, decision.remaining + variant.rule.cost)
    }
    return refuse(x, [...inMemory, ...known])
  }

  return (x) => {
    const nowMs = now()
    for (let i = 0; i < memory.length; i++) {
      const bound = memory[i]!
      bound.prepare(x)
      table.update(bound.hashA, bound.hashB, nowMs, bound.variant.rule, TAKE, bound.out)
      if (!bound.out.allowed) return refuseInMemory(x, i, nowMs)
    }
    if (remote.length > 0) return askRedis(x, nowMs)
    tellMemory(x)
    for (const bound of memory) count(bound.name, 'allowed')
    if (shadows.length > 0) runShadows(x, nowMs)
    return undefined
  }
}

const UNASKED: StoreDecision = { ...createDecision(), source: 'redis' }

function noCount(): void {}
