/**
 * Signs tokens for trying out and for load tests: HS256 by node:crypto, synchronously, because a token a request is what
 * the benchmark asks for. Opens doors, so it answers listed addresses alone.
 */

import { createHmac } from 'node:crypto'
import { answer, type RouteHandler, refuse } from '../answer.ts'
import { Networks } from '../http/client-address.ts'
import { LocalReply } from '../local-reply.ts'
import type { Services } from '../services.ts'
import type { TokenConfig } from './config.ts'

const HEADER = base64url('{"alg":"HS256","typ":"JWT"}')
const DENIED = new LocalReply('IP_DENIED')

export function compileToken(config: TokenConfig, services: Services): RouteHandler {
  const policy = services.config.identity.jwt[config.jwt]!
  const allowed = config.allow === undefined ? undefined : new Networks(config.allow)
  const expiresInSec = Math.floor(config.expiresIn / 1000)
  const audience = Array.isArray(policy.audience) ? policy.audience[0] : policy.audience
  const issuer = Array.isArray(policy.issuer) ? policy.issuer[0] : policy.issuer
  const claims = JSON.stringify({
    ...(issuer && { iss: issuer }),
    ...(audience && { aud: audience }),
    ...config.claims,
    iat: undefined, // the token's own times are added last
    exp: undefined,
  })
  const secret = policy.secret!
  const open = claims === '{}' ? '{' : `${claims.slice(0, -1)},`
  // All tokens of a second say the same; each is signed.
  let inputSec = 0
  let input = ''
  return (x) => {
    if (allowed !== undefined && !allowed.has(x.clientAddress)) {
      refuse(x, DENIED)
      return
    }
    const nowSec = Math.floor(Date.now() / 1000)
    if (nowSec !== inputSec) {
      inputSec = nowSec
      input = signingInput(`${open}"iat":${nowSec},"exp":${nowSec + expiresInSec}}`)
    }
    const body = `{"token":"${input}.${signature(input, secret)}","expires_in":${expiresInSec}}\n`
    answer(x, 200, 'Content-Type: application/json\r\nCache-Control: no-store\r\n', body)
  }
}

/** A compact JWS (RFC 7515) of the payload. */
export function signHs256(payload: string, secret: string): string {
  const input = signingInput(payload)
  return `${input}.${signature(input, secret)}`
}

/** RFC 7515 §5.1 */
function signingInput(payload: string): string {
  return `${HEADER}.${base64url(payload)}`
}

function signature(input: string, secret: string): string {
  return createHmac('sha256', secret).update(input).digest('base64url')
}

function base64url(text: string): string {
  return Buffer.from(text).toString('base64url')
}
