/** What clients are told of their limits: the fields of every answer, and the 429. */

import type { Exchange } from '../../exchange.ts'
import { LocalReply } from '../../local-reply.ts'
import type { BoundRule, Verdict } from './bound-rule.ts'
import type { StoreDecision } from './redis-store.ts'

/** The value of `RateLimit-Policy`. */
export function policies(rules: readonly BoundRule[]): string {
  return rules
    .filter((rule) => rule.draft)
    .map((rule) => rule.variant.policy)
    .join(', ')
}

/** Adds the fields of these verdicts to the exchange's answer, whatever it will be. */
export function tell(x: Exchange, verdicts: readonly Verdict[]): void {
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
export function refusal(violated: readonly Verdict[]): LocalReply {
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
