/**
 * Public keys from what people have: a certificate or PEM, a JWK, a JWKS. All end as one JWKS of checked public keys, so
 * that files and remote sets follow the same rules. Throws, with a reason for a person, on what is not usable.
 */

import { createPublicKey } from 'node:crypto'
import type { JSONWebKeySet, JWK } from 'jose'

/** Larger sets are no issuer's; a token without `kid` is tried against every key that fits. */
const MAX_KEYS = 100
const MIN_RSA_BITS = 2048

/** Members that reach the verifier. Private parts and x5u, x5c and the like are left behind. */
const PUBLIC_MEMBERS = ['kty', 'kid', 'use', 'alg', 'key_ops', 'crv', 'n', 'e', 'x', 'y'] as const

/** Which signature algorithms a key can verify. */
export function algorithmsOf({ kty, crv, alg }: JWK): readonly string[] {
  const possible =
    kty === 'RSA'
      ? ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512']
      : kty === 'EC'
        ? [{ 'P-256': 'ES256', 'P-384': 'ES384', 'P-521': 'ES512' }[crv ?? ''] ?? '']
        : kty === 'OKP' && crv === 'Ed25519'
          ? ['EdDSA', 'Ed25519']
          : []
  return alg === undefined ? possible : possible.filter((name) => name === alg)
}

/**
 * The usable keys of a JWKS document. Keys for encryption, shared secrets, unknown types, broken and short keys are left
 * out: an issuer may publish more than tokens need. Throws when it is no JWKS or nothing is left.
 */
export function usableKeys(document: unknown): JSONWebKeySet {
  const keys = (document as { keys?: unknown } | null)?.keys
  if (!Array.isArray(keys)) throw new Error('not a JWKS: there is no list of keys')
  if (keys.length > MAX_KEYS) throw new Error(`the JWKS has more than ${MAX_KEYS} keys`)
  const usable = keys.filter(isUsable).map(publicPart)
  if (usable.length === 0) throw new Error('the JWKS has no usable public key')
  return { keys: usable }
}

function isUsable(key: unknown): key is JWK {
  if (typeof key !== 'object' || key === null) return false
  const jwk = key as JWK
  if (jwk.kid !== undefined && typeof jwk.kid !== 'string') return false
  if (jwk.alg !== undefined && typeof jwk.alg !== 'string') return false
  if (jwk.use !== undefined && jwk.use !== 'sig') return false
  if (jwk.key_ops !== undefined && !(Array.isArray(jwk.key_ops) && jwk.key_ops.includes('verify'))) return false
  if (algorithmsOf(jwk).length === 0) return false
  try {
    const { asymmetricKeyDetails } = createPublicKey({ key: publicPart(jwk) as never, format: 'jwk' })
    return jwk.kty !== 'RSA' || (asymmetricKeyDetails?.modulusLength ?? 0) >= MIN_RSA_BITS
  } catch {
    return false
  }
}

function publicPart(key: JWK): JWK {
  const jwk: Record<string, unknown> = {}
  for (const member of PUBLIC_MEMBERS) if (key[member] !== undefined) jwk[member] = key[member]
  return jwk as JWK
}

/** The text of a file: PEM (public key or certificate), a JWK or a JWKS. */
export function parsePublicKeys(text: string): JSONWebKeySet {
  if (text.includes('-----BEGIN')) {
    if (/-----BEGIN [A-Z ]*PRIVATE KEY-----/.test(text))
      throw new Error('this is a private key; the gateway needs the public one')
    return usableKeys({ keys: [createPublicKey(text).export({ format: 'jwk' })] })
  }
  let document: unknown
  try {
    document = JSON.parse(text)
  } catch {
    throw new Error('neither PEM nor JSON')
  }
  if (typeof document !== 'object' || document === null) throw new Error('neither a JWK nor a JWKS')
  if ((document as JWK).kty === 'oct') throw new Error('a shared secret is not a public key; write it as secret')
  return usableKeys('keys' in document ? document : { keys: [document] })
}
