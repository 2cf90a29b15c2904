/** How a request stands with the rules of a route, for `explain`: nothing is counted. */

import type { Exchange } from '../../exchange.ts'
import { sharedNowMs } from '../../shared/limiter-table.ts'
import { PEEK } from './algorithms.ts'
import { BoundRule } from './bound-rule.ts'
import type { RateLimitsConfig } from './config.ts'
import type { RateLimitDeps } from './policy.ts'

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
