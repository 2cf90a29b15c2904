/**
 * JWT verification (RFC 7519, RFC 8725) by jose, with a memory of verified tokens in front: a token that was verified
 * before costs a digest and a look-up and is answered in the same tick; only a new one is awaited.
 *
 * Nothing in a token chooses where keys come from or how they are used: `jku`, `x5u` and `jwk` are not read, `crit` and
 * encrypted tokens are refused, and algorithms are those of the configuration that fit the kind of key.
 */

import { hash } from 'node:crypto'
import type { JWTPayload, JWTVerifyOptions } from 'jose'
import type { Exchange, Identity } from '../../exchange.ts'
import { LocalReply, type LocalReplyCode } from '../../local-reply.ts'
import { claimHeaderValue, compileClaimPath, compileClaimRule } from './claims.ts'
import type { IdentityConfig, JwtConfig } from './config.ts'
import { type CredentialSource, compileSource, type Found } from './credentials.ts'
import { jose } from './jose.ts'
import type { KeySource } from './jwks.ts'
import type { KeySets, TokenMemory, Verified } from './key-sets.ts'
import { ASYMMETRIC_ALGORITHMS } from './terms.ts'

export type Checked = Verified | LocalReply

export interface JwtCheck {
  /** The token; undefined when there is none. */
  read(x: Exchange): Found
  /** A promise only for a token that is not known. Never rejects. */
  check(token: string): Checked | Promise<Checked>
  readonly missing: LocalReply
  readonly ambiguous: LocalReply
}

/** Longer tokens are refused unread: they would cost more to digest and to keep than any issuer's claims are worth. */
export const MAX_TOKEN_LENGTH = 8192
/** How long a refusal is remembered. */
const REFUSAL_MS = 1000
/** Keys tried for a token that names none. */
const MAX_KEYS_TRIED = 8

/** @param names of one policy, or of several from which the token's `iss` chooses. Throws on what cannot work. */
export function compileJwt(names: readonly string[], config: IdentityConfig, keySets: KeySets): JwtCheck {
  const policies = names.map((name) => {
    if (!Object.hasOwn(config.jwt, name)) throw new Error(`identity.jwt has no ${name}`)
    return new JwtPolicy(name, config.jwt[name]!, keySets)
  })
  const [first, ...others] = policies
  if (first === undefined) throw new Error('jwt names no policy')
  if (others.length > 0) checkIssuers(policies)

  const byIssuer = new Map<string, JwtPolicy>()
  for (const policy of policies) for (const issuer of policy.config.issuer ?? []) byIssuer.set(issuer, policy)
  const anyIssuer = policies.find((policy) => policy.config.issuer === undefined)
  const { clock } = keySets
  const { replies } = first

  function choose(token: string): JwtPolicy | LocalReply {
    if (others.length === 0) return first!
    try {
      // Not verified yet: it only says which policy, keys and issuer check included, the token must pass
      const { iss } = jose().decodeJwt(token)
      return (typeof iss === 'string' ? byIssuer.get(iss) : undefined) ?? anyIssuer ?? replies.JWT_ISS
    } catch {
      return replies.JWT_MALFORMED
    }
  }

  return {
    read: firstOf(first.config.from.map(compileSource)),
    missing: replies.missing,
    ambiguous: replies.JWT_AMBIGUOUS,
    check(token) {
      if (token.length > MAX_TOKEN_LENGTH) return replies.JWT_TOO_LARGE
      const digest = hash('sha256', token, 'hex')
      const monotonicMs = clock.monotonicMs()
      const wallMs = clock.wallMs()
      for (let i = 0; i < policies.length; i++) {
        const known = policies[i]!.recall(digest, monotonicMs, wallMs)
        if (known !== undefined) return known
      }
      const policy = choose(token)
      return policy instanceof LocalReply ? policy : policy.verify(token, digest)
    },
  }
}

/** The token must lead to one policy, and be read from the same places whichever it is. */
function checkIssuers(policies: readonly JwtPolicy[]): void {
  const seen = new Map<string, string>()
  const from = JSON.stringify(policies[0]!.config.from)
  for (const { name, config } of policies) {
    if (JSON.stringify(config.from) !== from)
      throw new Error(`jwt: ${name} reads its token from other places than ${policies[0]!.name}`)
    for (const issuer of config.issuer ?? ['']) {
      const other = seen.get(issuer)
      if (other !== undefined) {
        throw new Error(
          issuer === ''
            ? `jwt: ${other} and ${name} have no issuer to tell them apart`
            : `jwt: ${other} and ${name} have the same issuer ${issuer}`,
        )
      }
      seen.set(issuer, name)
    }
  }
}

function firstOf(sources: readonly CredentialSource[]): CredentialSource {
  if (sources.length === 1) return sources[0]!
  return (x) => {
    for (const source of sources) {
      const found = source(x)
      if (found !== undefined) return found
    }
    return undefined
  }
}

class JwtPolicy {
  readonly name: string
  readonly config: JwtConfig
  readonly replies: Replies
  readonly #keySets: KeySets
  readonly #keys: KeySource
  readonly #memory: TokenMemory
  readonly #options: JWTVerifyOptions
  readonly #rules: readonly { holds: (claims: JWTPayload) => boolean; reply: LocalReply }[]
  readonly #forward: readonly (readonly [name: string, read: (claims: JWTPayload) => unknown])[]
  readonly #tier: ((claims: JWTPayload) => unknown) | undefined
  /** One check for a token that many requests bring at once. */
  readonly #pending = new Map<string, Promise<Checked>>()

  constructor(name: string, config: JwtConfig, keySets: KeySets) {
    this.name = name
    this.config = config
    this.replies = prepareReplies(name)
    this.#keySets = keySets
    this.#keys = keySets.keysFor(config)
    this.#memory = keySets.tokensFor(config)
    this.#options = {
      algorithms: [...(config.algorithms ?? (config.secret === undefined ? ASYMMETRIC_ALGORITHMS : ['HS256']))],
      issuer: config.issuer,
      audience: config.audience,
      clockTolerance: config.clockTolerance / 1000,
      maxTokenAge: config.maxAge === undefined ? undefined : config.maxAge / 1000,
      requiredClaims: ['exp'],
    }
    this.#rules = Object.entries(config.requiredClaims).map(([path, rule]) => ({
      holds: compileClaimRule(path, rule),
      reply: claimReply(name, path),
    }))
    this.#forward = Object.entries(config.forward).map(([header, path]) => [header, compileClaimPath(path)])
    this.#tier = config.tierClaim === undefined ? undefined : compileClaimPath(config.tierClaim)
  }

  /** What is known about a token; undefined when it must be verified. */
  recall(digest: string, monotonicMs: number, wallMs: number): Checked | undefined {
    const { verified, refused } = this.#memory
    const keys = this.#keys
    if (monotonicMs >= keys.usableUntilMs) return undefined
    verified.keep(keys.version)
    const entry = verified.get(digest)
    if (entry !== undefined) {
      if (wallMs < entry.untilMs) return entry.value
      verified.delete(digest)
      return this.replies.JWT_EXPIRED
    }
    refused.keep(keys.version)
    if (refused.size === 0) return undefined
    const refusal = refused.get(digest)
    if (refusal === undefined) return undefined
    const leftMs = refusal.untilMs - wallMs
    return leftMs > 0 && leftMs <= REFUSAL_MS ? refusal.value : undefined
  }

  verify(token: string, digest: string): Promise<Checked> {
    let checked = this.#pending.get(digest)
    if (checked === undefined) {
      checked = this.#verify(token, digest).finally(() => this.#pending.delete(digest))
      this.#pending.set(digest, checked)
    }
    return checked
  }

  async #verify(token: string, digest: string): Promise<Checked> {
    const keys = this.#keys
    const { clock } = this.#keySets
    let acquired = false
    let renewed = false
    for (;;) {
      const nowMs = clock.monotonicMs()
      if (nowMs >= keys.usableUntilMs) {
        const coming = acquired ? undefined : keys.acquire(nowMs)
        if (coming === undefined) return noKeys(keys.retryAfterSec(nowMs))
        acquired = true
        await coming
        continue
      }
      const version = keys.version
      const wallMs = clock.wallMs()
      try {
        const claims = await this.#claimsOf(token, wallMs)
        const checked = this.#accept(claims)
        // Keys that changed meanwhile may no longer hold the one that verified this token
        if (version === keys.version) this.#remember(digest, token, checked, claims, wallMs)
        return checked
      } catch (error) {
        if (!renewed && mayBeNewKey(error, token)) {
          renewed = true
          const coming = keys.renew(nowMs)
          if (coming !== undefined) {
            await coming
            if (keys.version !== version) continue
          }
        }
        const reply = this.#replyTo(error)
        if (!(error instanceof jose().errors.JWKSNoMatchingKey)) {
          this.#memory.refused.keep(keys.version)
          this.#memory.refused.set(digest, reply, wallMs + REFUSAL_MS, 1)
        }
        return reply
      }
    }
  }

  async #claimsOf(token: string, wallMs: number): Promise<JWTPayload> {
    const options = { ...this.#options, currentDate: new Date(wallMs) }
    try {
      return (await jose().jwtVerify(token, this.#keys.resolve, options)).payload
    } catch (error) {
      if (!(error instanceof jose().errors.JWKSMultipleMatchingKeys)) throw error
      let tried = 0
      for await (const key of error) {
        if (tried++ >= MAX_KEYS_TRIED) break
        try {
          return (await jose().jwtVerify(token, key, options)).payload
        } catch (failure) {
          if (!(failure instanceof jose().errors.JWSSignatureVerificationFailed)) throw failure
        }
      }
      const { errors } = jose()
      throw new errors.JWSSignatureVerificationFailed()
    }
  }

  #accept(payload: JWTPayload): Checked {
    for (const { holds, reply } of this.#rules) if (!holds(payload)) return reply
    let fields = ''
    for (const [header, read] of this.#forward) {
      const value = claimHeaderValue(read(payload))
      if (value !== undefined) fields += `${header}: ${value}\r\n`
    }
    const sub: unknown = payload.sub
    const tier = this.#tier?.(payload)
    const identity: Identity = {
      subject: typeof sub === 'string' ? sub : typeof sub === 'number' ? String(sub) : '',
      claims: Object.freeze(Object.assign(Object.create(null), payload)),
      apiKey: undefined, // one shape for all identities: the readers stay monomorphic
      tier: typeof tier === 'string' && tier !== '' ? tier : undefined,
    }
    return { identity: Object.freeze(identity), fields }
  }

  #remember(digest: string, token: string, checked: Checked, { exp, iat }: JWTPayload, wallMs: number): void {
    const { verified, refused } = this.#memory
    if (checked instanceof LocalReply) {
      refused.keep(this.#keys.version)
      refused.set(digest, checked, wallMs + REFUSAL_MS, 1)
      return
    }
    const { clockTolerance, maxAge } = this.config
    let untilMs = exp! * 1000 + clockTolerance
    if (maxAge !== undefined) untilMs = Math.min(untilMs, iat! * 1000 + maxAge + clockTolerance)
    verified.keep(this.#keys.version)
    verified.set(digest, checked, untilMs, token.length)
  }

  #replyTo(error: unknown): LocalReply {
    const { replies } = this
    if (error instanceof jose().errors.JWTExpired) return replies.JWT_EXPIRED
    if (error instanceof jose().errors.JWTClaimValidationFailed) {
      const reason = `JWT_${error.claim.toUpperCase()}`
      return isReason(reason) ? replies[reason] : replies.JWT_MALFORMED
    }
    if (error instanceof jose().errors.JWSSignatureVerificationFailed) return replies.JWT_SIGNATURE
    if (error instanceof jose().errors.JWKSNoMatchingKey) return replies.JWT_KID
    if (error instanceof jose().errors.JOSEAlgNotAllowed) return replies.JWT_ALG
    return replies.JWT_MALFORMED
  }
}

/** Whether other keys might verify it: its `kid` is unknown, or it has none and the keys at hand do not fit. */
function mayBeNewKey(error: unknown, token: string): boolean {
  if (error instanceof jose().errors.JWKSNoMatchingKey) return true
  if (!(error instanceof jose().errors.JWSSignatureVerificationFailed)) return false
  return jose().decodeProtectedHeader(token).kid === undefined
}

/** Refinements of JWT_INVALID: stable, in the answer's `reason` and the log. */
const REASONS = {
  JWT_MALFORMED: 'The token is malformed',
  JWT_TOO_LARGE: 'The token is too large',
  JWT_AMBIGUOUS: 'The request carries more than one token',
  JWT_ALG: 'The signature algorithm is not accepted',
  JWT_SIGNATURE: 'The signature does not match',
  JWT_KID: 'The signing key is not known',
  JWT_ISS: 'The issuer is not accepted',
  JWT_AUD: 'The token is for another audience',
  JWT_NBF: 'The token is not valid yet',
  JWT_EXP: 'The token has no valid expiry',
  JWT_IAT: 'The token has no valid time of issue',
} as const

type Reason = keyof typeof REASONS
type Replies = Readonly<Record<Reason | 'JWT_EXPIRED' | 'missing', LocalReply>>

function isReason(text: string): text is Reason {
  return Object.hasOwn(REASONS, text)
}

function prepareReplies(realm: string): Replies {
  const invalid = Object.entries(REASONS).map(([reason, detail]) => [
    reason,
    tokenReply('JWT_INVALID', realm, detail, reason),
  ])
  return {
    ...(Object.fromEntries(invalid) as Record<Reason, LocalReply>),
    JWT_EXPIRED: tokenReply('JWT_EXPIRED', realm, 'The token has expired'),
    // RFC 6750 §3.1: no error code for a request without credentials
    missing: new LocalReply('JWT_MISSING', { fields: `WWW-Authenticate: Bearer realm="${quotable(realm)}"\r\n` }),
  }
}

function tokenReply(
  code: LocalReplyCode,
  realm: string,
  detail: string,
  reason?: string,
  error = 'invalid_token',
): LocalReply {
  const challenge = `Bearer realm="${quotable(realm)}", error="${error}", error_description="${quotable(detail)}"`
  return new LocalReply(code, { reason, detail, fields: `WWW-Authenticate: ${challenge}\r\n` })
}

function claimReply(realm: string, path: string): LocalReply {
  return tokenReply(
    'JWT_CLAIM',
    realm,
    `The claim ${path} is missing or has another value`,
    undefined,
    'insufficient_scope',
  )
}

function noKeys(retryAfterSec: number): LocalReply {
  return new LocalReply('JWT_KEY', { fields: `Retry-After: ${retryAfterSec}\r\n` })
}

/** RFC 6750 §3: %x20-21 / %x23-5B / %x5D-7E. */
export function quotable(text: string): string {
  return text.replace(/[^\x20\x21\x23-\x5b\x5d-\x7e]/g, '?')
}
