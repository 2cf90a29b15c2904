/** Requests, tokens and a clock that does not move by itself, for the tests of identification. */

import { createServer, type RequestListener, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { exportJWK, generateKeyPair, type JWK, type JWTHeaderParameters, type JWTPayload, SignJWT } from 'jose'
import type { z } from 'zod'
import { Exchange } from '../../../../src/exchange.ts'
import { headFromText } from '../../../../src/http1/message-head.ts'
import { identityConfig } from '../../../../src/policies/auth/config.ts'
import type { Clock } from '../../../../src/policies/auth/jwks.ts'
import { createKeySets, type KeySets, type KeySetsOptions } from '../../../../src/policies/auth/key-sets.ts'
import { type CompiledIdentity, compileIdentity } from '../../../../src/policies/auth/policy.ts'
import { tokenPart } from '../../../support/tokens.ts'

/** 2027-01-15 08:00:00 UTC */
export const NOW_SEC = 1_800_000_000
export const SECRET = 'a-shared-secret-of-more-than-32-bytes'

export class TestClock implements Clock {
  elapsedMs = 0
  monotonicMs(): number {
    return 1000 + this.elapsedMs
  }
  wallMs(): number {
    return NOW_SEC * 1000 + this.elapsedMs
  }
}

export function request(lines: string[] = [], query = ''): Exchange {
  const head = ['Host: a', ...lines].join('\r\n')
  const x = new Exchange(headFromText('request', `GET /p${query} HTTP/1.1\r\n${head}\r\n\r\n`), {} as never, 0)
  x.path = '/p'
  x.query = query
  return x
}

export const bearer = (token: string) => request([`Authorization: Bearer ${token}`])

export interface Setup extends CompiledIdentity {
  readonly keySets: KeySets
  readonly clock: TestClock
}

export function identity(
  route: { jwt?: string | string[]; apiKey?: string; auth?: 'required' | 'any' | 'optional' },
  config: z.input<typeof identityConfig>,
  options: KeySetsOptions = {},
): Setup {
  const clock = new TestClock()
  const keySets = createKeySets({ clock, ...options })
  const jwt = typeof route.jwt === 'string' ? [route.jwt] : route.jwt
  const compiled = compileIdentity(
    { ...route, auth: route.auth ?? 'required', jwt },
    identityConfig.parse(config),
    keySets,
  )
  return { ...compiled!, keySets, clock }
}

export function hs256(
  claims: JWTPayload = {},
  header: Partial<JWTHeaderParameters> = {},
  secret = SECRET,
): Promise<string> {
  return new SignJWT({ sub: 'ada', exp: NOW_SEC + 600, ...claims })
    .setProtectedHeader({ alg: 'HS256', ...header })
    .sign(Buffer.from(secret))
}

export interface TestKey {
  readonly jwk: JWK
  sign(claims?: JWTPayload, header?: Partial<JWTHeaderParameters>): Promise<string>
}

export async function keyPair(kid: string | undefined, alg = 'ES256'): Promise<TestKey> {
  const { privateKey, publicKey } = await generateKeyPair(alg, { extractable: true })
  return {
    jwk: { ...(await exportJWK(publicKey)), ...(kid === undefined ? {} : { kid }), alg, use: 'sig' },
    sign: (claims = {}, header = {}) =>
      new SignJWT({ sub: 'ada', exp: NOW_SEC + 600, ...claims })
        .setProtectedHeader({ alg, ...(kid === undefined ? {} : { kid }), ...header })
        .sign(privateKey),
  }
}

/** A token of any bytes, signed with nothing or by `sign`. */
export function rawToken(header: unknown, payload: unknown, signature = 'c2ln'): string {
  return `${tokenPart(header)}.${tokenPart(payload)}.${signature}`
}

export interface Issuer {
  readonly url: string
  readonly hits: number
  answer: RequestListener
  close(): Promise<void>
}

/** An HTTP server in the place of an issuer's JWKS endpoint. */
export async function startIssuer(answer: RequestListener): Promise<Issuer> {
  let hits = 0
  const server: Server = createServer((req, res) => {
    hits++
    issuer.answer(req, res)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const issuer = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/jwks.json`,
    get hits() {
      return hits
    },
    answer,
    close: () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
  return issuer
}

export const publishing =
  (...keys: TestKey[]): RequestListener =>
  (_, res) => {
    res.setHeader('content-type', 'application/jwk-set+json')
    res.end(JSON.stringify({ keys: keys.map(({ jwk }) => jwk) }))
  }
