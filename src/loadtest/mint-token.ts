/**
 * A token that one of the config's JWT policies accepts, so that a load test passes the routes it guards. Only where the
 * policy has a shared secret: nobody can sign for a public key. HMAC is `node:crypto`'s; verification is not ours here.
 */

import { createHmac } from 'node:crypto'
import type { ClaimRule, JwtConfig } from '../policies/auth/config.ts'

export type MintConfig = Pick<JwtConfig, 'secret' | 'algorithms' | 'issuer' | 'audience' | 'requiredClaims'>

type Claims = { [name: string]: unknown }

/** Undefined when the policy has no secret. Valid for `lifetimeSec` from `nowSec` (since 1970). */
export function mintToken(policy: MintConfig, nowSec: number, lifetimeSec: number): string | undefined {
  if (policy.secret === undefined) return undefined
  const alg = policy.algorithms?.[0] ?? 'HS256'
  const claims: Claims = Object.assign(Object.create(null), { sub: 'loadtest' })
  if (policy.issuer?.[0] !== undefined) claims['iss'] = policy.issuer[0]
  if (policy.audience?.[0] !== undefined) claims['aud'] = policy.audience[0]
  for (const [path, rule] of Object.entries(policy.requiredClaims)) setClaim(claims, path.split('.'), meeting(rule))
  claims['iat'] = Math.floor(nowSec)
  claims['exp'] = Math.floor(nowSec + lifetimeSec)
  const signed = `${encode({ alg, typ: 'JWT' })}.${encode(claims)}`
  return `${signed}.${createHmac(`sha${alg.slice(2)}`, policy.secret)
    .update(signed)
    .digest('base64url')}`
}

const encode = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url')

function meeting(rule: ClaimRule): unknown {
  if (typeof rule !== 'object') return rule
  return 'contains' in rule ? [rule.contains] : rule.oneOf[0]
}

/** Dots in the name of a required claim reach into objects. */
function setClaim(claims: Claims, path: string[], value: unknown): void {
  let at = claims
  for (const name of path.slice(0, -1)) {
    const next = at[name]
    at = (at[name] = typeof next === 'object' && next !== null ? next : Object.create(null)) as Claims
  }
  at[path.at(-1)!] = value
}
