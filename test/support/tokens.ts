/** Tokens as tests need them: signed with the right secret, whatever they say; a library would refuse to sign some. */

import { createHmac } from 'node:crypto'

/** One part of a token. A text stands for itself, anything else becomes JSON. */
export function tokenPart(value: unknown): string {
  return Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url')
}

export function signedToken(payload: unknown, secret: string, header: unknown = { alg: 'HS256', typ: 'JWT' }): string {
  const text = `${tokenPart(header)}.${tokenPart(payload)}`
  return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`
}

/** Seconds since 1970, as tokens tell time. */
export function nowSec(): number {
  return Math.floor(Date.now() / 1000)
}
