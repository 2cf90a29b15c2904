/** The price of what a gateway is for: identity, two limits, admission, metrics and headers, over a bare nginx. */

import { createHmac } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
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

/** @param logFile the access log writes a line of JSON for each exchange there; undefined: none */
export const policyConfig = (port: number, logFile?: string) => ({
  logging: { access: logFile === undefined ? { only: 'none' } : { format: 'json', file: logFile } },
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
})

const full = (name: string, log: boolean) => {
  let file = ''
  return gateway(
    name,
    '/',
    (port, folder) => {
      file = join(folder, 'access.log')
      return policyConfig(port, log ? file : undefined)
    },
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
      if (log) await proveLog(file)
    },
  )
}

/** Lines leave in batches: the two of the proof are there within seconds. */
async function proveLog(file: string): Promise<void> {
  for (let tries = 0; tries < 100; tries++) {
    const lines = existsSync(file) ? readFileSync(file, 'utf8').trimEnd().split('\n') : []
    if (lines.length >= 2 && lines.every((line) => JSON.parse(line)['http.response.status_code'] > 0)) return
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  throw new Error('the access log has no lines')
}

const quiet = full('Fluxor Gateway, JWT + limits', false)
const logging = full('Fluxor Gateway, JWT + limits + access log', true)

/** Valid for a day. */
export function token(): string {
  const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const nowSec = Math.floor(Date.now() / 1000)
  const text = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ sub: 'bench', iss: 'fluxor', aud: 'api', iat: nowSec, exp: nowSec + 86_400 })}`
  return `${text}.${createHmac('sha256', SECRET).update(text).digest('base64url')}`
}

export const question: Question = {
  asks: 'what do a JWT (seen before), a limit per IP and one per subject, admission, metrics and headers add?',
  compare: {
    subjects: [quiet, logging, bare, nginxProxy, nginxFull],
    baseline: nginxProxy.name,
    headers: { authorization: `Bearer ${token()}` },
    goals: [
      { subject: quiet.name, versus: nginxProxy.name, atMost: 1.6 },
      { subject: logging.name, versus: nginxProxy.name, atMost: 1.8 },
      { subject: quiet.name, versus: nginxFull.name, atMost: 1 },
    ],
  },
}
