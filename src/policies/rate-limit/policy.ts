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
import { addressKey } from '../../http/client-address.ts'
import { LocalReply } from '../../local-reply.ts'
import type { RedisDoor } from '../../redis.ts'
import { KeyHash, type LimiterTable, sharedNowMs } from '../../shared/limiter-table.ts'
import { createDecision, createRule, type Decision, GIVE_BACK, type LimiterRule, PEEK, TAKE } from './algorithms.ts'
import type { RateLimitHeaders, RateLimitRuleConfig, RateLimitsConfig, RedisConfig } from './config.ts'
import { RedisRule, redisKey, type StoreDecision } from './redis-store.ts'
import { redisNameOf } from './terms.ts'

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

/** How a request stands with one rule, without being counted. */
export interface RateLimitLook {
  readonly rule: string
  /** What it is counted by: `ip:192.0.2.1`. */
  readonly key: string
  readonly policy: string
  readonly shadow: boolean
  /** Undefined for a rule in Redis, which is not asked. */
  readonly remaining: number | undefined
  readonly allowed: boolean | undefined
}

/** For `explain`: all rules of a route, changing nothing. */
export function compileRateLimitLook(
  names: readonly string[] | undefined,
  config: RateLimitsConfig,
  deps: RateLimitDeps,
): (x: Exchange) => RateLimitLook[] {
  const rules = (names ?? []).map((name) => new BoundRule(name, config[name]!, deps))
  const now = deps.now ?? sharedNowMs
  return (x) =>
    rules.map((bound) => {
      bound.prepare(x)
      const { name: rule, shadow, variant, redis, out } = bound
      if (!redis) deps.table.update(bound.hashA, bound.hashB, now(), variant.rule, PEEK, out)
      return {
        rule,
        shadow,
        key: bound.subject(x),
        policy: variant.policy,
        remaining: redis ? undefined : out.remaining,
        allowed: redis ? undefined : out.remaining >= variant.rule.cost,
      }
    })
}

/** A rule with the numbers of one tier (or of none). */
interface Variant {
  readonly rule: LimiterRule
  readonly store: RedisRule | undefined
  /** `"perIp";q=1000;w=60` */
  readonly policy: string
}

/** One part of a key; undefined: this request has none. */
interface KeyPart {
  readonly kind: string
  readonly read: (x: Exchange) => string | undefined
}

/** A rule of a gate. `prepare` leaves in it what this request is counted by; that holds until the next request. */
class BoundRule {
  readonly name: string
  readonly shadow: boolean
  readonly redis: boolean
  readonly draft: boolean
  readonly legacy: boolean
  /** `"perIp";r=` */
  readonly stateHead: string
  readonly tiered: boolean
  readonly out: Decision = createDecision()
  variant: Variant
  hashA = 0
  hashB = 0
  /** The last refusal, used again within the same second of waiting. */
  lastReply: LocalReply | undefined
  lastReplySec = 0
  readonly #base: Variant
  readonly #byTier: Map<string, Variant> | undefined
  readonly #parts: readonly KeyPart[]
  readonly #startA: number
  readonly #startB: number
  readonly #hash = new KeyHash()

  constructor(name: string, config: RateLimitRuleConfig, deps: RateLimitDeps) {
    this.name = name
    this.shadow = config.mode === 'shadow'
    this.redis = config.store !== 'memory'
    const headers = config.headers ?? deps.headers ?? 'draft'
    this.draft = !this.shadow && (headers === 'draft' || headers === 'both')
    this.legacy = !this.shadow && (headers === 'legacy' || headers === 'both')
    this.stateHead = `"${name}";r=`
    this.#base = compileVariant(name, config, config.limit, deps)
    this.variant = this.#base
    this.tiered = config.tiers !== undefined
    if (config.tiers !== undefined) {
      this.#byTier = new Map(
        Object.entries(config.tiers).map(([tier, limit]) => [tier, compileVariant(name, config, limit, deps)]),
      )
    }
    this.#parts = config.key.map((part) => compilePart(part, deps.routeName))
    // The algorithm and the window are part of the identity: a reload that changes them starts a new count.
    const start = this.#hash
      .from(deps.table.seedA, deps.table.seedB)
      .add(name)
      .add(`${config.algorithm}/${config.window}/${config.key.join()}`)
    this.#startA = start.a
    this.#startB = start.b
  }

  prepare(x: Exchange): void {
    const tiers = this.#byTier
    if (tiers !== undefined) {
      const tier = x.identity?.tier
      this.variant = (tier !== undefined ? tiers.get(tier) : undefined) ?? this.#base
    }
    const hash = this.#hash.from(this.#startA, this.#startB)
    for (const part of this.#parts) {
      const value = part.read(x)
      if (value !== undefined) hash.add(part.kind).add(value)
      else hash.add('ip').add(addressKey(x.clientAddress))
    }
    this.hashA = hash.a
    this.hashB = hash.b
  }

  /** The same key as text, for Redis. */
  subject(x: Exchange): string {
    const texts: string[] = []
    for (const part of this.#parts) {
      const value = part.read(x)
      texts.push(value !== undefined ? `${part.kind}:${value}` : `ip:${addressKey(x.clientAddress)}`)
    }
    // Joined by what a plain part cannot hold, else with lengths: no two combinations read the same.
    return texts.length === 1
      ? texts[0]!
      : texts.some((text) => text.includes(','))
        ? texts.map((text) => `${text.length} ${text}`).join()
        : texts.join()
  }
}

function compileVariant(name: string, config: RateLimitRuleConfig, limit: number, deps: RateLimitDeps): Variant {
  const rule = createRule(config.algorithm, limit, config.window, config.cost, config.burst ?? limit)
  const redisName = redisNameOf(config.store, deps.redisConfig)
  const store =
    config.store === 'memory'
      ? undefined
      : new RedisRule(rule, {
          table: deps.table,
          door: deps.redis?.(redisName ?? ''),
          onStoreError: config.onStoreError,
          storeError: () => deps.count?.(name, 'storeErrors'),
        })
  // `w` is a whole number of seconds and may be left out; a rounded one would be another limit.
  const window = config.window % 1000 === 0 ? `;w=${config.window / 1000}` : ''
  return { rule, store, policy: `"${name}";q=${limit}${window}` }
}

function compilePart(part: string, routeName: string): KeyPart {
  if (part === 'ip') return { kind: 'ip', read: (x) => addressKey(x.clientAddress) }
  if (part === 'route') return { kind: 'route', read: () => routeName }
  if (part === 'apiKey') return { kind: 'apiKey', read: (x) => x.identity?.apiKey }
  if (part.startsWith('header:')) {
    const field = part.slice(7)
    return { kind: part, read: (x) => x.request.get(field) }
  }
  const claim = part.slice(6)
  return { kind: part, read: (x) => claimText(x.identity?.claims[claim]) }
}

/** Only what names somebody: a list or an object does not. */
function claimText(value: unknown): string | undefined {
  if (typeof value === 'string') return value
  return typeof value === 'number' || typeof value === 'boolean' ? String(value) : undefined
}

/** What one rule said about this request, and by what it was counted: kept while Redis is waited for. */
interface Verdict {
  bound: BoundRule
  variant: Variant
  hashA: number
  hashB: number
  decision: Decision
}

/** A question to Redis. */
interface Ask extends Verdict {
  key: string
  decision: StoreDecision
}

/** @param bound prepared for this request */
function verdictOf(bound: BoundRule, decision: Decision): Verdict {
  return { bound, variant: bound.variant, hashA: bound.hashA, hashB: bound.hashB, decision }
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

function policies(rules: readonly BoundRule[]): string {
  return rules
    .filter((rule) => rule.draft)
    .map((rule) => rule.variant.policy)
    .join(', ')
}

/** Adds the fields of these verdicts to the exchange's answer, whatever it will be. */
function tell(x: Exchange, verdicts: readonly Verdict[]): void {
  let policy = ''
  let state = ''
  let strictest: Verdict | undefined
  for (const verdict of verdicts) {
    const { bound, variant, decision } = verdict
    if (bound.draft) {
      policy += `${policy === '' ? '' : ', '}${variant.policy}`
      state += `${state === '' ? '' : ', '}${bound.stateHead}${decision.remaining};t=${Math.ceil(decision.resetMs / 1000)}`
    }
    if (bound.legacy && (strictest === undefined || decision.remaining < strictest.decision.remaining))
      strictest = verdict
  }
  if (policy !== '') x.responseFields += `RateLimit-Policy: ${policy}\r\nRateLimit: ${state}\r\n`
  if (strictest !== undefined) tellLegacy(x, strictest)
}

const LEGACY = /X-RateLimit-Limit: \d+\r\nX-RateLimit-Remaining: (\d+)\r\nX-RateLimit-Reset: \d+\r\n/

/** These three fields have room for one rule: the strictest, also of the gate before. Reset is in seconds from now. */
function tellLegacy(x: Exchange, { variant, decision }: Verdict): void {
  const earlier = LEGACY.exec(x.responseFields)
  if (earlier !== null) {
    if (Number(earlier[1]) <= decision.remaining) return
    x.responseFields = x.responseFields.replace(LEGACY, '')
  }
  const resetSec = Math.ceil(decision.resetMs / 1000)
  x.responseFields += `X-RateLimit-Limit: ${variant.rule.limit}\r\nX-RateLimit-Remaining: ${decision.remaining}\r\nX-RateLimit-Reset: ${resetSec}\r\n`
}

/** 429 with the longest wait and the names of all rules that are over. */
function refusal(violated: readonly Verdict[]): LocalReply {
  let retryAfterMs = 0
  for (const { decision } of violated) retryAfterMs = Math.max(retryAfterMs, decision.retryAfterMs)
  const retryAfterSec = Math.max(1, Math.ceil(retryAfterMs / 1000))
  const first = violated[0]!.bound
  const denied = violated.every(({ decision }) => (decision as StoreDecision).source === 'deny')
  const single = violated.length === 1 && !denied
  if (single && first.lastReply !== undefined && first.lastReplySec === retryAfterSec) return first.lastReply
  const names = violated.map(({ bound }) => bound.name)
  const reply = new LocalReply('RATE_LIMITED', {
    ...(denied && { reason: 'LIMIT_STORE' }),
    detail: denied
      ? 'The count of requests is not available, and the limit allows none without it.'
      : `Over the limit ${names.join(', ')}; the next request may pass in ${retryAfterSec} s.`,
    fields: `Retry-After: ${retryAfterSec}\r\n`,
    extra: { 'violated-policies': names },
  })
  if (single) {
    first.lastReply = reply
    first.lastReplySec = retryAfterSec
  }
  return reply
}

const UNASKED: StoreDecision = { ...createDecision(), source: 'redis' }

function noCount(): void {}
