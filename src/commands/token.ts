/** `token`: signs a token with the secret of a JWT policy, for trying out what stands behind one. */

import { createHmac } from 'node:crypto'
import { parseDuration } from '../config/types.ts'
import { CommandError, EXIT, type Invocation, UsageError } from './cli.ts'

const HASHES: Record<string, string> = { HS256: 'sha256', HS384: 'sha384', HS512: 'sha512' }

interface Signing {
  readonly secret: string
  readonly algorithm: string
  readonly claims: Record<string, unknown>
}

export async function token({ values }: Invocation): Promise<number> {
  const { config, secret, jwt, sub = 'test' } = values as Record<string, string | undefined>
  if ((config === undefined) === (secret === undefined)) throw new UsageError('either -c FILE or --secret SECRET')
  const lifetime = (values['expires-in'] as string | undefined) ?? '1h'
  const lifetimeMs = parseDuration(lifetime)
  if (!lifetimeMs) throw new UsageError(`--expires-in expects a duration such as 1h, not "${lifetime}"`)
  const signing = secret === undefined ? await fromConfig(config!, jwt) : { secret, algorithm: 'HS256', claims: {} }
  const now = Math.floor(Date.now() / 1000)
  const claims = {
    ...signing.claims,
    sub,
    iat: now,
    exp: now + Math.ceil(lifetimeMs / 1000),
    ...parseClaims(values['claim']),
  }
  console.log(sign(claims, signing))
  return EXIT.ok
}

async function fromConfig(path: string, name: string | undefined): Promise<Signing> {
  const { loadConfig } = await import('../config/load.ts')
  const { jwt } = loadConfig(path).config.identity
  const names = Object.keys(jwt)
  const chosen = name ?? (names.length === 1 ? names[0]! : 'main')
  const policy = Object.hasOwn(jwt, chosen) ? jwt[chosen] : undefined
  if (policy === undefined) {
    const there = names.length === 0 ? 'it has none' : `it has ${names.join(', ')}`
    throw new CommandError(`${path} has no JWT policy "${chosen}"; ${there}`)
  }
  if (policy.secret === undefined) throw new CommandError(`the JWT policy "${chosen}" has no secret to sign with`)
  return {
    secret: policy.secret,
    algorithm: policy.algorithms?.[0] ?? 'HS256',
    claims: { iss: policy.issuer?.[0], aud: policy.audience?.[0] },
  }
}

function parseClaims(given: Invocation['values'][string]): Record<string, unknown> {
  const claims: [string, unknown][] = []
  for (const text of (given as string[] | undefined) ?? []) {
    const equals = text.indexOf('=')
    if (equals < 1) throw new UsageError(`--claim expects NAME=VALUE, not "${text}"`)
    const value = text.slice(equals + 1)
    try {
      claims.push([text.slice(0, equals), JSON.parse(value)])
    } catch {
      claims.push([text.slice(0, equals), value])
    }
  }
  return Object.fromEntries(claims)
}

function sign(claims: Record<string, unknown>, { secret, algorithm }: Signing): string {
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const signed = `${part({ alg: algorithm, typ: 'JWT' })}.${part(claims)}`
  return `${signed}.${createHmac(HASHES[algorithm]!, secret).update(signed).digest('base64url')}`
}
