/**
 * One rule of a route as requests meet it: with the numbers of their tier, and what each of them is counted by. Says nothing
 * of how several rules agree; that is the gate's matter.
 */

import type { Exchange } from '../../exchange.ts'
import { addressKey } from '../../http/client-address.ts'
import type { LocalReply } from '../../local-reply.ts'
import { KeyHash } from '../../shared/limiter-table.ts'
import { createDecision, createRule, type Decision, type LimiterRule } from './algorithms.ts'
import type { RateLimitRuleConfig } from './config.ts'
import type { RateLimitDeps } from './policy.ts'
import { RedisRule } from './redis-store.ts'
import { redisNameOf } from './terms.ts'

/** A rule with the numbers of one tier (or of none). */
export interface Variant {
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
export class BoundRule {
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
export interface Verdict {
  bound: BoundRule
  variant: Variant
  hashA: number
  hashB: number
  decision: Decision
}

/** @param bound prepared for this request */
export function verdictOf(bound: BoundRule, decision: Decision): Verdict {
  return { bound, variant: bound.variant, hashA: bound.hashA, hashB: bound.hashB, decision }
}
