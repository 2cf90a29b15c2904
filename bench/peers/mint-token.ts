/**
 * HS256 tokens as fast as they can be made for SECONDS: prints CPU time per token and one of them. WHAT is `gateway`, the
 * token endpoint's handler as a request runs it, answer included; or `floor`, node:crypto's HMAC of a signing input that
 * is ready: cheaper than that no token by node:crypto can be.
 */

import { createHmac } from 'node:crypto'
import { compileToken } from '../../src/builtin/token.ts'
import type { Exchange } from '../../src/exchange.ts'
import type { Services } from '../../src/services.ts'
import { makeExchange } from '../../test/support/exchanges.ts'

const secret = process.env['SECRET']!
const seconds = Number(process.env['SECONDS'])
const WARM_UP_SECONDS = 0.3
const BATCH = 100

/** Makes one token; `token` gives the last one. */
interface Mint {
  once(): void
  token(): string
}

function gateway(): Mint {
  const services = { config: { identity: { jwt: { main: { secret, issuer: ['fluxor'], audience: ['api'] } } } } }
  const config = { jwt: 'main', claims: { sub: 'bench' }, expiresIn: 3_600_000 }
  const handler = compileToken(config, services as unknown as Services)
  let body = ''
  const { client, ...rest } = makeExchange('POST /token HTTP/1.1')
  const respond = (_status: number, _fields: string, text: string) => {
    body = text
  }
  const x = { ...rest, client: { ...client, respond } } as unknown as Exchange
  return { once: () => handler(x), token: () => (JSON.parse(body) as { token: string }).token }
}

function floor(): Mint {
  const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const nowSec = Math.floor(Date.now() / 1000)
  const claims = { iss: 'fluxor', aud: 'api', sub: 'bench', iat: nowSec, exp: nowSec + 3600 }
  const input = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`
  let signature = ''
  return {
    once() {
      // the secret as text: a KeyObject is no cheaper
      signature = createHmac('sha256', secret).update(input).digest('base64url')
    },
    token: () => `${input}.${signature}`,
  }
}

const mint = { gateway, floor }[process.env['WHAT'] as 'gateway' | 'floor']()

function run(forSeconds: number): number {
  const until = performance.now() + forSeconds * 1000
  let count = 0
  while (performance.now() < until) {
    for (let i = 0; i < BATCH; i++) mint.once()
    count += BATCH
  }
  return count
}

run(WARM_UP_SECONDS)
const before = process.cpuUsage()
const count = run(seconds)
const { user, system } = process.cpuUsage(before)
console.log(JSON.stringify({ nsPerToken: ((user + system) * 1000) / count, token: mint.token() }))
