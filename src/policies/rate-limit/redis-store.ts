/**
 * One rule (of one tier) counted in Redis, for a fleet. A decision costs one round trip that all Redis rules of a request share
 * (commands of one tick travel together), none when the key is known to be over its limit, and none while Redis is down.
 *
 * rate-limiter-flexible counts fixed windows of whole seconds, its insurance limiter being the rule's `onStoreError`; own
 * Lua does what it lacks: gcra, sliding windows, windows below a second, and costs (it charges what it refuses).
 *
 * When Redis fails, is late or answers nonsense: `local` goes on in the memory table with the same numbers. The table starts
 * without the fleet's counts, so N processes together pass at most N times what the rule states, from that moment on.
 */

import { createHash } from 'node:crypto'
import { createRequire } from 'node:module'
import type { RateLimiterRedis, RateLimiterRes } from 'rate-limiter-flexible'
import type { RedisClient, RedisDoor } from '../../redis.ts'
import type { LimiterTable } from '../../shared/limiter-table.ts'
import { createDecision, type Decision, GIVE_BACK, type LimiterRule, TAKE } from './algorithms.ts'
import { SCRIPTS } from './redis-scripts.ts'

export type OnStoreError = 'local' | 'allow' | 'deny'

/** Where a decision comes from. `blocked`: from memory, because Redis said how long this key has to wait. */
export interface StoreDecision extends Decision {
  source: 'redis' | 'blocked' | OnStoreError
}

/** Keys over their limit that are refused without asking. About 150 bytes each. */
const MAX_BLOCKED = 10_000
/** A key is asked for again at least this often: an operator may have deleted it in Redis. */
const MAX_BLOCK_MS = 10_000
/** What a refusal by `deny` tells the client: about when Redis is probed next. */
const DENY_RETRY_MS = 1000

type Script = (key: string, operation: 'take' | 'give', ...numbers: number[]) => Promise<unknown>

/** What the insurance limiter gets to work with: the key's place in the memory table. */
interface Place {
  hashA: number
  hashB: number
  nowMs: number
}

export interface RedisRuleDeps {
  table: LimiterTable
  /** Undefined: there is no such Redis; every decision is `onStoreError`. */
  door: RedisDoor | undefined
  onStoreError: OnStoreError
  /** Called once for each decision that Redis did not give. */
  storeError: () => void
}

export class RedisRule {
  readonly #rule: LimiterRule
  readonly #deps: RedisRuleDeps
  readonly #flexible: RateLimiterRedis | undefined
  readonly #command: string
  /** Subject's key → until when it is refused from memory, and when it may return. Oldest first. */
  readonly #blocked = new Map<string, { untilMs: number; retryAtMs: number; resetAtMs: number }>()

  constructor(rule: LimiterRule, deps: RedisRuleDeps) {
    this.#rule = rule
    this.#deps = deps
    const [command, lua] = SCRIPTS[rule.algorithm]
    this.#command = command
    const { door } = deps
    if (door === undefined) return
    if (!(command in door.client)) door.client.defineCommand(command, { numberOfKeys: 1, lua })
    if (rule.algorithm === 'fixedWindow' && rule.windowMs % 1000 === 0 && rule.cost === 1) {
      this.#flexible = flexibleLimiter(rule, door, (place) => this.#fallback(place))
    }
  }

  /** The key's refusal when it is known to be over its limit, else undefined. */
  blocked(key: string, nowMs: number): StoreDecision | undefined {
    const entry = this.#blocked.get(key)
    if (entry === undefined) return undefined
    if (nowMs >= entry.untilMs) {
      this.#blocked.delete(key)
      return undefined
    }
    const { retryAtMs, resetAtMs } = entry
    return {
      allowed: false,
      remaining: 0,
      resetMs: resetAtMs - nowMs,
      retryAfterMs: retryAtMs - nowMs,
      source: 'blocked',
    }
  }

  /**
   * Charges the key. A promise only when Redis is asked; never rejects.
   * @param key from `redisKey`
   * @param hashA,hashB the key in the memory table, for `local`
   */
  take(key: string, hashA: number, hashB: number, nowMs: number): StoreDecision | Promise<StoreDecision> {
    const place = { hashA, hashB, nowMs }
    const { door } = this.#deps
    if (door === undefined || !door.up) return this.#fallback(place)
    if (this.#flexible !== undefined) {
      return this.#flexible.consume(key, 1, place as object).then(
        (result) => this.#consumed(result, true, key, nowMs),
        (result) => this.#consumed(result, false, key, nowMs),
      )
    }
    return door
      .ask((client) => this.#script(client, key, 'take'))
      .then(
        (reply) => {
          if (!isReply(reply)) return this.#fallback(place)
          const [allowed, remaining, resetMs, retryAfterMs] = reply
          return this.#decided(key, nowMs, {
            allowed: allowed === 1,
            remaining,
            resetMs,
            retryAfterMs,
            source: 'redis',
          })
        },
        () => this.#fallback(place),
      )
  }

  /** Undoes a `take` that was allowed, without waiting; when Redis fails meanwhile the charge stands. */
  giveBack(key: string, hashA: number, hashB: number, nowMs: number, decision: StoreDecision): void {
    if (decision.source === 'local') {
      this.#deps.table.update(hashA, hashB, nowMs, this.#rule, GIVE_BACK, createDecision())
    } else if (decision.source === 'redis') {
      this.#deps.door?.ask((client) => this.#script(client, key, 'give')).catch(ignore)
    }
  }

  #script(client: RedisClient, key: string, operation: 'take' | 'give'): Promise<unknown> {
    const { limit, windowMs, cost, burst } = this.#rule
    const commands = client as unknown as Record<string, Script>
    return commands[this.#command]!(key, operation, limit, windowMs, cost, burst)
  }

  /** The answer of rate-limiter-flexible: its own result, or a decision that the insurance limiter made. */
  #consumed(result: unknown, allowed: boolean, key: string, nowMs: number): StoreDecision {
    if (result !== null && typeof result === 'object' && 'source' in result) return result as StoreDecision
    const { remainingPoints: remaining, msBeforeNext } = result as RateLimiterRes
    const resetMs = Math.max(0, msBeforeNext)
    return this.#decided(key, nowMs, {
      allowed,
      remaining,
      resetMs,
      retryAfterMs: allowed ? 0 : resetMs,
      source: 'redis',
    })
  }

  #decided(key: string, nowMs: number, decision: StoreDecision): StoreDecision {
    if (!decision.allowed && decision.retryAfterMs > 0) {
      if (this.#blocked.size >= MAX_BLOCKED) this.#blocked.delete(this.#blocked.keys().next().value!)
      const { retryAfterMs, resetMs } = decision
      const untilMs = nowMs + Math.min(retryAfterMs, MAX_BLOCK_MS)
      this.#blocked.set(key, { untilMs, retryAtMs: nowMs + retryAfterMs, resetAtMs: nowMs + resetMs })
    }
    return decision
  }

  #fallback({ hashA, hashB, nowMs }: Place): StoreDecision {
    const { onStoreError, table, storeError } = this.#deps
    storeError()
    const decision: StoreDecision = { ...createDecision(), source: onStoreError }
    if (onStoreError === 'local') table.update(hashA, hashB, nowMs, this.#rule, TAKE, decision)
    else if (onStoreError === 'allow') decision.remaining = this.#rule.burst
    else {
      decision.allowed = false
      decision.resetMs = decision.retryAfterMs = DENY_RETRY_MS
    }
    return decision
  }
}

/**
 * The key of a subject, without the `keyPrefix` of the connection. Its hash tag is the whole of rule and subject, so that a
 * cluster spreads the keys. The algorithm and window stand before it: a changed rule never reads the old one's state.
 * @param subject any text; what is not short and plain is hashed
 */
export function redisKey(ruleName: string, rule: LimiterRule, subject: string): string {
  const plain = /^[\w.:/@,-]{1,96}$/.test(subject)
  const id = plain ? subject : `#${createHash('sha256').update(subject).digest('base64url')}`
  return `rl:${rule.algorithm}:${rule.windowMs}:{${ruleName}:${id}}`
}

/**
 * rate-limiter-flexible talks to Redis through the door: its circuit, its time limit, and a look at the reply, which the library
 * takes on trust (a nonsense count would compare as not over the limit).
 */
function flexibleLimiter(
  rule: LimiterRule,
  door: RedisDoor,
  fallback: (place: Place) => StoreDecision,
): RateLimiterRedis {
  const library = createRequire(import.meta.url)('rate-limiter-flexible') as typeof import('rate-limiter-flexible')
  class Insurance extends library.RateLimiterCompatibleAbstract {
    override readonly keyPrefix = ''
    override blockDuration = 0
    override execEvenly = false
    override consume(_key: string | number, _points?: number, place?: object) {
      return Promise.resolve(fallback(place as Place) as unknown as RateLimiterRes)
    }
  }
  const storeClient = {
    defineCommand(command: string, definition: { numberOfKeys: number; lua: string }) {
      if (!(command in door.client)) door.client.defineCommand(command, definition)
    },
    async rlflxIncr(args: string[]) {
      const reply = await door.ask((client) =>
        (client as unknown as { rlflxIncr(a: string[]): Promise<unknown> }).rlflxIncr(args),
      )
      if (!Array.isArray(reply) || !Number.isInteger(reply[0]) || !Number.isInteger(reply[1]))
        throw new Error('not a count')
      return reply
    },
  }
  return new library.RateLimiterRedis({
    storeClient,
    points: rule.limit,
    duration: rule.windowMs / 1000,
    keyPrefix: '',
    insuranceLimiter: new Insurance() as never,
  })
}

function isReply(reply: unknown): reply is [number, number, number, number] {
  return Array.isArray(reply) && reply.length === 4 && reply.every((n) => Number.isSafeInteger(n) && n >= 0)
}

function ignore(): void {}
