import { createHmac } from 'node:crypto'
import { jwtVerify } from 'jose'
import { describe, expect, it } from 'vitest'
import { parseConfig } from '../../../src/config/load.ts'
import type { Target } from '../../../src/loadtest/load-plan.ts'
import { mintToken } from '../../../src/loadtest/mint-token.ts'
import { type AskOptions, originOf, parseTarget, targetsOfConfig, withToken } from '../../../src/loadtest/targets.ts'

const ASK: AskOptions = { headers: {}, method: 'GET', body: null, token: undefined }
const NOW_SEC = 1_800_000_000
const SECRET = 'a-secret-for-tests-of-32-bytes-or-more'

const CONFIG = `
version: 1
server: { listen: [{ address: 0.0.0.0:8099 }] }
identity:
  jwt:
    main:
      secret: ${SECRET}
      issuer: fluxor
      audience: api
      requiredClaims: { scope: { contains: read }, org.id: 7 }
    cookie: { secret: ${SECRET}, from: ["cookie:session"] }
    query: { secret: ${SECRET}, from: ["query:t"] }
    remote: { jwks: { url: "https://issuer.example/jwks" } }
  apiKeys:
    main: { header: X-API-Key, keys: [{ name: a, sha256: "${'ab'.repeat(32)}" }] }
upstreams: { app: { endpoints: [{ url: "http://127.0.0.1:3000" }] } }
routes:
  - { name: home, match: { path: /, methods: [GET] }, home: {} }
  - { name: health, match: { path: /health }, health: {} }
  - { name: metrics, match: { path: /api/metrics }, metrics: {} }
  - { name: echo, match: { path: /api/echo, methods: [POST] }, echo: {} }
  - { name: token, match: { path: /api/auth/token }, token: { jwt: main, allow: [127.0.0.0/8] } }
  - { name: users, match: { path: /api/users }, upstream: app, jwt: main }
  - { name: session, match: { path: /session }, upstream: app, jwt: cookie }
  - { name: remote, match: { path: /remote }, upstream: app, jwt: remote }
  - { name: open, match: { path: /open }, upstream: app, jwt: remote, auth: optional }
  - { name: keyed, match: { path: /keyed }, upstream: app, apiKey: main }
  - { name: canary, match: { path: /canary, host: "x.example.com", headers: { x-canary: "1" }, query: { v: "2" } }, upstream: app }
  - { name: wild, match: { path: /wild, host: "*.example.com" }, upstream: app }
  - { name: orders, match: { pathPrefix: /api/orders }, upstream: app }
  - { name: admin, match: { pathPrefix: /api/orders/all }, upstream: app, jwt: cookie }
  - { name: query, match: { pathPrefix: /by-query }, upstream: app, jwt: query }
`

const { config } = parseConfig(CONFIG)
const targets = (options: Partial<AskOptions> = {}) =>
  targetsOfConfig(config, originOf(config), { ...ASK, ...options }, NOW_SEC, 3600)

describe('targets of a config', () => {
  it('are the routes that a GET can reach, the others named with the reason', () => {
    const { targets: asked, skipped } = targets()
    expect(asked.map(({ name }) => name)).toEqual(['home', 'health', 'metrics', 'users', 'session', 'open', 'canary'])
    expect(Object.fromEntries(skipped.map(({ name, reason }) => [name, reason]))).toEqual({
      echo: 'it takes no GET',
      token: 'it makes tokens',
      remote: 'it needs a token, and remote has no secret to sign one; give one with --token',
      keyed: "it needs an API key; give one with --header 'x-api-key: …'",
      wild: 'it takes only *.example.com',
      orders: 'it names no exact path; give one with --target',
      admin: 'it names no exact path; give one with --target',
      query: 'it names no exact path; give one with --target',
    })
  })

  it('are asked where the gateway listens, health most and metrics least', () => {
    const { targets: asked } = targets()
    expect(new Set(asked.map(({ request }) => request.origin))).toEqual(new Set(['http://127.0.0.1:8099']))
    const weight = (wanted: string) => asked.find(({ name }) => name === wanted)!.weight
    expect([weight('health'), weight('home'), weight('metrics')]).toEqual([30, 20, 10])
  })

  it('carry what their match asks for', () => {
    const { request } = targets().targets.find(({ name }) => name === 'canary')!
    expect(request.path).toBe('/canary?v=2')
    expect(request.headers).toMatchObject({ host: 'x.example.com', 'x-canary': '1' })
  })

  it('carry a token that their policy accepts', async () => {
    const asked = targets().targets
    const header = asked.find(({ name }) => name === 'users')!.request.headers['authorization']!
    const { payload } = await jwtVerify(header.replace('Bearer ', ''), Buffer.from(SECRET), {
      issuer: 'fluxor',
      audience: 'api',
      currentDate: new Date(NOW_SEC * 1000),
    })
    expect(payload).toMatchObject({ sub: 'loadtest', scope: ['read'], org: { id: 7 }, exp: NOW_SEC + 3600 })
    expect(asked.find(({ name }) => name === 'session')!.request.headers['cookie']).toMatch(/^session=ey/)
    expect(asked.find(({ name }) => name === 'open')!.request.headers).not.toHaveProperty('authorization')
  })

  it('take a token or a key that is given', () => {
    const { targets: asked } = targets({ token: 'mine', headers: { 'x-api-key': 'k' } })
    expect(asked.map(({ name }) => name)).toEqual(expect.arrayContaining(['remote', 'keyed']))
    expect(asked.find(({ name }) => name === 'users')!.request.headers['authorization']).toBe('Bearer mine')
  })
})

describe('a minted token', () => {
  it('is signed with the first algorithm of the policy', () => {
    const token = mintToken({ secret: SECRET, algorithms: ['HS512'], requiredClaims: {} } as never, NOW_SEC, 60)!
    const [head, claims, signature] = token.split('.') as [string, string, string]
    expect(JSON.parse(Buffer.from(head, 'base64url').toString())).toEqual({ alg: 'HS512', typ: 'JWT' })
    expect(signature).toBe(createHmac('sha512', SECRET).update(`${head}.${claims}`).digest('base64url'))
  })

  it('is not made without a secret', () => {
    expect(mintToken({ requiredClaims: {} } as never, NOW_SEC, 60)).toBeUndefined()
  })

  it('takes claims of any name', () => {
    const requiredClaims = JSON.parse('{"__proto__.polluted": true, "a.b.c": {"oneOf": ["x"]}, "a.b": 1}')
    mintToken({ secret: SECRET, requiredClaims } as never, NOW_SEC, 60)
    expect(({} as Record<string, unknown>)['polluted']).toBeUndefined()
  })
})

describe('--target', () => {
  it.each([
    ['/a?b=1', 'GET', '/a?b=1', 1],
    ['POST /api/echo 2', 'POST', '/api/echo', 2],
    ['/x 0.5', 'GET', '/x', 0.5],
  ])('reads %s', (text, method, path, weight) => {
    expect(parseTarget(text, 'http://h', ASK)).toMatchObject({ weight, request: { method, path, origin: 'http://h' } })
  })

  it.each(['x', 'get /x', '/x y', ''])('says what is wrong with "%s"', (text) => {
    expect(parseTarget(text, 'http://h', ASK)).toMatch(/cannot read the target/)
  })

  it('sends a body with what takes one', () => {
    const withBody = { ...ASK, body: '{}' }
    expect(parseTarget('POST /x', 'http://h', withBody)).toMatchObject({ request: { body: '{}' } })
    expect(parseTarget('/x', 'http://h', withBody)).toMatchObject({ request: { body: null } })
  })

  it('takes the token that the route of its path wants', () => {
    const tokenOf = (text: string, options: Partial<AskOptions> = {}) => {
      const ask = { ...ASK, ...options }
      const target = parseTarget(text, 'http://h', ask) as Target
      return withToken(target, config, ask, NOW_SEC, 3600).request
    }
    expect(tokenOf('/api/users?page=2')).toMatchObject({ path: '/api/users?page=2' })
    expect(tokenOf('POST /api/users').headers['authorization']).toMatch(/^Bearer ey/)
    expect(tokenOf('/api/users', { token: 'mine' }).headers['authorization']).toBe('Bearer mine')
    expect(tokenOf('/api/orders/all/7').headers['cookie']).toMatch(/^session=ey/)
    expect(tokenOf('/by-query/x?a=1').path).toMatch(/^\/by-query\/x\?a=1&t=ey/)
    for (const open of ['/api/orders/7', '/api/orders/allx', '/open', '/remote', '/nowhere']) {
      expect(tokenOf(open).headers).toEqual({ 'user-agent': 'fluxor-gateway-loadtest' })
    }
  })
})
