import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { signHs256 } from '../../src/builtin/token.ts'

const SECRET = 'a-secret-of-more-than-thirty-two-bytes'
const CONFIG = `
version: 1
identity:
  jwt: { main: { secret: ${SECRET}, algorithms: [HS256], issuer: fluxor } }
  apiKeys: { main: { header: X-API-Key, keys: [{ name: acme, sha256: "${'0'.repeat(64)}", tier: premium }] } }
rateLimits:
  perIp: { key: ip, requestsPerMinute: 1000 }
upstreams:
  app: { endpoints: [{ url: "http://127.0.0.1:3000" }], host: app.internal }
  next: { endpoints: [{ url: "http://127.0.0.1:3001" }] }
routes:
  - { name: home, match: { path: /, methods: [GET] }, home: {} }
  - { name: orders, match: { pathPrefix: /api/orders, host: "*.example.com" }, upstream: app, jwt: main, rateLimit: perIp, rewrite: { prefix: /orders } }
  - { name: reports, match: { pathTemplate: "/reports/{id}", methods: [GET] }, upstream: app, cache: { ttl: 60s } }
  - { name: keyed, match: { path: /keyed }, upstream: app, apiKey: main }
  - { name: inside, match: { pathPrefix: /inside }, upstream: app, ipAllow: [10.0.0.0/8] }
  - { name: canary, match: { pathPrefix: /canary, headers: { x-canary: "1" } }, split: [{ upstream: app, weight: 95 }, { upstream: next, weight: 5 }] }
`

let folder = ''
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'explain-'))
  writeFileSync(join(folder, 'gateway.yaml'), CONFIG)
})
afterAll(() => rmSync(folder, { recursive: true }))

function explain(...args: string[]): string {
  const main = new URL('../../src/main.ts', import.meta.url).pathname
  const { stdout, stderr } = spawnSync(
    process.execPath,
    [main, 'explain', '-c', join(folder, 'gateway.yaml'), ...args],
    { encoding: 'utf8' },
  )
  return (stdout + stderr).replaceAll(/(X-Request-ID: )\S+/g, '$1…')
}

const token = () =>
  signHs256(JSON.stringify({ sub: 'ada', iss: 'fluxor', exp: Math.floor(Date.now() / 1000) + 60 }), SECRET)

describe('explain', () => {
  it('names a built-in answer', () => {
    expect(explain('/')).toContain('outcome    answered by the gateway: home')
  })

  it('shows the forwarded request of an identified client, its secrets hidden', () => {
    const text = explain(
      'GET',
      'https://shop.example.com/api/orders/7?full=1',
      '-H',
      `Authorization: Bearer ${token()}`,
    )
    expect(text).toContain('route      orders  (host *.example.com, prefix /api/orders)  → upstream app')
    expect(text).toContain('identity   ada')
    expect(text).toContain('limit      perIp  q=1000;w=60  key ip:127.0.0.1  1000 left')
    expect(text).toContain('outcome    forwarded to app')
    expect(text).toContain('  GET /orders/7?full=1 HTTP/1.1\n  Host: app.internal\n  Authorization: ***')
    expect(text).toContain('X-Forwarded-Proto: https')
    expect(text).not.toContain(token().slice(0, 40))
  })

  it('stops at the missing token', () => {
    const text = explain('https://shop.example.com/api/orders/7')
    expect(text).toContain('outcome    401 JWT_MISSING')
    expect(text).not.toContain('forwarded')
  })

  it('names the host that did not match as a near miss', () => {
    const text = explain('https://example.org/api/orders/7')
    expect(text).toContain('near miss  orders  (host *.example.com, prefix /api/orders)  host does not match')
    expect(text).toContain('outcome    404 NO_ROUTE')
  })

  it('names a path that is nearly one', () => {
    expect(explain('/report/7')).toContain('near miss  reports  (GET, template /reports/{id})  path does not match')
  })

  it('tells the methods that are allowed', () => {
    expect(explain('DELETE', '/reports/7')).toContain('outcome    405 METHOD')
  })

  it('shows the cache key', () => {
    expect(explain('/reports/7?a=1')).toContain(
      'cache      http://localhost/reports/7?a=1, 60 s when the origin says nothing',
    )
  })

  it('refuses an unknown API key', () => {
    expect(explain('/keyed', '-H', 'X-API-Key: wrong')).toContain('outcome    401 KEY_UNKNOWN')
  })

  it('refuses an address', () => {
    expect(explain('/inside')).toContain('outcome    403 IP_DENIED')
    expect(explain('/inside', '--peer', '10.1.2.3')).toContain('address    10.1.2.3 may pass')
  })

  it('shows both parts of a split, and a header that is missing', () => {
    expect(explain('/canary', '-H', 'x-canary: 1')).toContain('outcome    forwarded to app (95) or next (5)')
    expect(explain('/canary')).toContain('near miss  canary  (prefix /canary, headers x-canary)  header does not match')
  })

  it('refuses a path with two readings', () => {
    expect(explain('/inside/..%2f..%2fkeyed')).toContain('outcome    400 BAD_REQUEST')
  })
})
