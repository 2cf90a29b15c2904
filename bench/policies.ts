/** The price of what a gateway is for: identity, two limits, admission, metrics and headers, over a bare nginx. */

import { createHmac } from 'node:crypto'
import type { Question } from './harness/question.ts'
import { gateway, nginxJwtLimits, nginxProxy } from './harness/subjects.ts'

const SECRET = 'a-secret-for-the-bench-only-32-bytes!'
const ENDLESS = 1_000_000_000

const nginxFull = nginxJwtLimits(SECRET)

const app = (port: number) => ({ app: { endpoints: [{ url: `http://127.0.0.1:${port}` }] } })

const bare = gateway('Fluxor Gateway, bare', '/', (port) => ({
  upstreams: app(port),
  routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
}))

const full = gateway(
  'Fluxor Gateway, JWT + limits',
  '/',
  (port) => ({
    identity: {
      jwt: {
        main: {
          secret: SECRET,
          algorithms: ['HS256'],
          issuer: 'fluxor',
          audience: 'api',
          forward: { 'x-user-id': 'sub' },
        },
      },
    },
    rateLimits: {
      perIp: { key: 'ip', limit: ENDLESS, window: '60s' },
      perSubject: { key: 'claim:sub', limit: ENDLESS, window: '60s' },
    },
    admission: { maxCCU: 5000 },
    upstreams: app(port),
    routes: [
      {
        match: { pathPrefix: '/' },
        upstream: 'app',
        jwt: 'main',
        rateLimit: ['perIp', 'perSubject'],
        securityHeaders: true,
        headers: { request: { set: { 'x-bench': '1' }, remove: ['x-unwanted'] } },
      },
    ],
  }),
  async (url, headers) => {
    const refused = await fetch(url)
    await refused.text()
    if (refused.status !== 401) throw new Error(`without a token it answered ${refused.status}`)
    const admitted = await fetch(url, { headers })
    await admitted.text()
    const limits = admitted.headers.get('ratelimit') ?? ''
    if (!limits.includes('perIp') || !limits.includes('perSubject'))
      throw new Error(`the limits did not count: "${limits}"`)
    if (!admitted.headers.has('x-content-type-options')) throw new Error('the security headers are missing')
  },
)

function token(): string {
  const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const nowSec = Math.floor(Date.now() / 1000)
  const text = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ sub: 'bench', iss: 'fluxor', aud: 'api', iat: nowSec, exp: nowSec + 86_400 })}`
  return `${text}.${createHmac('sha256', SECRET).update(text).digest('base64url')}`
}

export const question: Question = {
  asks: 'what do a JWT (seen before), a limit per IP and one per subject, admission, metrics and headers add?',
  compare: {
    subjects: [full, bare, nginxProxy, nginxFull],
    baseline: nginxProxy.name,
    headers: { authorization: `Bearer ${token()}` },
    goals: [
      { subject: full.name, versus: nginxProxy.name, atMost: 1.6 },
      { subject: full.name, versus: nginxFull.name, atMost: 1 },
    ],
  },
}
