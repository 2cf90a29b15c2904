/** Identity, limits, cache and compression together on the path of real requests: the order of the gates as clients see it. */

import { createHash, generateKeyPairSync, type KeyObject, sign } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { brotliDecompressSync, gunzipSync, zstdDecompressSync } from 'node:zlib'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { freePort } from '../support/free-port.ts'
import { startGateway, type TestGateway } from '../support/gateway.ts'
import { field } from '../support/messages.ts'
import { problem, type RawResult, send } from '../support/raw-client.ts'
import { nowSec, signedToken, tokenPart } from '../support/tokens.ts'
import { answer, type RawUpstream, startRawUpstream } from '../support/upstream.ts'

const SECRET = 'a-secret-of-the-tests-of-32-bytes!!'
const token = (claims: object = {}, header: object = {}, secret: string = SECRET) =>
  signedToken({ sub: 'ada', iss: 'fluxor', aud: 'api', exp: nowSec() + 600, ...claims }, secret, {
    alg: 'HS256',
    typ: 'JWT',
    ...header,
  })

let upstream: RawUpstream
let gateway: TestGateway
let folder = ''
const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 })
const publicPem = rsa.publicKey.export({ type: 'spki', format: 'pem' }) as string

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'fluxor-keys-'))
  writeFileSync(join(folder, 'public.pem'), publicPem)
  upstream = await startRawUpstream()
  const app = { upstream: 'app' }
  gateway = await startGateway({
    server: { trustedProxies: [] },
    identity: {
      jwt: {
        main: {
          secret: SECRET,
          algorithms: ['HS256'],
          issuer: 'fluxor',
          audience: 'api',
          forward: { 'x-user-id': 'sub' },
        },
        pem: { publicKey: join(folder, 'public.pem'), algorithms: ['RS256'] },
      },
      apiKeys: {
        main: {
          header: 'X-API-Key',
          keys: [{ name: 'acme', sha256: createHash('sha256').update('the-key').digest('hex'), tier: 'premium' }],
        },
      },
    },
    rateLimits: {
      ten: { key: 'ip', limit: 10, window: '60s', algorithm: 'fixedWindow' },
      perSubject: { key: 'claim:sub', limit: 3, window: '60s', algorithm: 'fixedWindow' },
    },
    cache: { memory: { maxBytes: '16MiB' } },
    compression: { level: 6, encodings: ['zstd', 'br', 'gzip'], minBytes: 100 },
    upstreams: { app: { endpoints: [{ url: upstream.url }] } },
    routes: [
      { match: { pathPrefix: '/secure' }, jwt: 'main', ...app },
      { match: { pathPrefix: '/pem' }, jwt: 'pem', ...app },
      { match: { pathPrefix: '/key' }, apiKey: 'main', ...app },
      { match: { pathPrefix: '/limited' }, rateLimit: 'ten', ...app },
      { match: { pathPrefix: '/subject' }, jwt: 'main', rateLimit: 'perSubject', ...app },
      { match: { pathPrefix: '/cached' }, cache: {}, ...app },
      { match: { pathPrefix: '/ttl' }, cache: { ttl: '60s' }, ...app },
      { match: { pathPrefix: '/both' }, jwt: 'main', cache: { ttl: '60s' }, ...app },
      { match: { pathPrefix: '/small' }, compression: true, ...app },
      { match: { pathPrefix: '/' }, ...app },
    ],
  })
})
afterAll(async () => {
  await gateway?.close()
  await upstream?.close()
  if (folder !== '') rmSync(folder, { recursive: true, force: true })
})

function get(target: string, fields = '', host = 'a.test'): Promise<RawResult> {
  return send(gateway.port, `GET ${target} HTTP/1.1\r\nHost: ${host}\r\n${fields}\r\n`, { responses: 1 })
}

const bearer = (text: string) => `Authorization: Bearer ${text}\r\n`
const requestsTo = (path: string) => upstream.requests.filter((request) => request.target.startsWith(path))

describe('tokens', () => {
  it('a valid one passes, and its claim goes upstream instead of what the client says', async () => {
    upstream.clear()
    expect((await get('/secure', `${bearer(token())}X-User-Id: root\r\n`)).status).toBe(200)
    expect(field(upstream.requests[0]!, 'x-user-id')).toBe('ada')
  })

  it('the claim’s field is dropped from requests on every route', async () => {
    upstream.clear()
    expect((await get('/open', 'X-User-Id: root\r\n')).status).toBe(200)
    expect(field(upstream.requests[0]!, 'x-user-id')).toBeUndefined()
  })

  const rs256 = (key: KeyObject, claims: Record<string, unknown> = {}) => {
    const text = `${tokenPart({ alg: 'RS256', typ: 'JWT' })}.${tokenPart({ sub: 'ada', exp: nowSec() + 600, ...claims })}`
    return `${text}.${sign('sha256', Buffer.from(text), key).toString('base64url')}`
  }

  it('one signed with RS256 passes where its public key is configured', async () => {
    expect((await get('/pem', bearer(rs256(rsa.privateKey)))).status).toBe(200)
  })

  it.each<[string, string, () => string, string]>([
    ['none at all', '/secure', () => '', 'JWT_MISSING'],
    [
      'alg none',
      '/secure',
      () =>
        `Bearer ${tokenPart({ alg: 'none' })}.${tokenPart({ sub: 'ada', exp: nowSec() + 600, iss: 'fluxor', aud: 'api' })}.`,
      'JWT_INVALID',
    ],
    ['another secret', '/secure', () => `Bearer ${token({}, {}, 'another secret of thirty-two bytes')}`, 'JWT_INVALID'],
    ['expired', '/secure', () => `Bearer ${token({ exp: nowSec() - 60 })}`, 'JWT_EXPIRED'],
    ['no exp', '/secure', () => `Bearer ${token({ exp: undefined })}`, 'JWT_INVALID'],
    ['not yet valid', '/secure', () => `Bearer ${token({ nbf: nowSec() + 600 })}`, 'JWT_INVALID'],
    ['another audience', '/secure', () => `Bearer ${token({ aud: 'other' })}`, 'JWT_INVALID'],
    ['another issuer', '/secure', () => `Bearer ${token({ iss: 'evil' })}`, 'JWT_INVALID'],
    ['an algorithm not allowed', '/secure', () => `Bearer ${token({}, { alg: 'HS512' })}`, 'JWT_INVALID'],
    ['an unknown critical header', '/secure', () => `Bearer ${token({}, { crit: ['x'], x: 1 })}`, 'JWT_INVALID'],
    ['a signature cut by a byte', '/secure', () => `Bearer ${token().slice(0, -2)}`, 'JWT_INVALID'],
    ['garbage', '/secure', () => 'Bearer x.y.z', 'JWT_INVALID'],
    ['another scheme', '/secure', () => 'Basic YTpi', 'JWT_MISSING'],
    ['HS256 with the public key as its secret', '/pem', () => `Bearer ${token({}, {}, publicPem)}`, 'JWT_INVALID'],
    [
      'RS256 by another key',
      '/pem',
      () => `Bearer ${rs256(generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey)}`,
      'JWT_INVALID',
    ],
    [
      'a key of its own in the header',
      '/pem',
      () => `Bearer ${token({}, { alg: 'RS256', jwk: rsa.publicKey.export({ format: 'jwk' }) })}`,
      'JWT_INVALID',
    ],
  ])('%s is 401 and never reaches the upstream', async (_title, path, make, code) => {
    upstream.clear()
    const value = make()
    const result = await get(path, value === '' ? '' : `Authorization: ${value}\r\n`)
    expect(result.status).toBe(401)
    const response = result.responses[0]!
    expect(field(response, 'www-authenticate')).toMatch(/^Bearer/)
    // Claims that do not fit may be told apart from signatures that do not: both are 401.
    expect([code, 'JWT_INVALID', 'JWT_CLAIM']).toContain(problem(response)['code'])
    expect(upstream.received().length).toBe(0)
  })

  it('a jku in the header makes nobody fetch', async () => {
    let asked = 0
    const evil: Server = createServer((_request, response) => {
      asked++
      response.end('{"keys":[]}')
    })
    await new Promise<void>((resolve) => evil.listen(0, '127.0.0.1', resolve))
    const { port } = evil.address() as { port: number }
    const url = `http://127.0.0.1:${port}/jwks`
    expect((await get('/pem', bearer(token({}, { alg: 'RS256', jku: url, x5u: url })))).status).toBe(401)
    expect((await get('/secure', bearer(token({}, { jku: url })))).status).toBeLessThan(500)
    expect(asked).toBe(0)
    evil.close()
  })

  it.each(['/open/..%2fsecure', '/open/..;/secure', '/secure%2f', '/open/%2e%2e/secure', '//secure', '/./secure'])(
    '%s opens no door',
    async (target) => {
      upstream.clear()
      const result = await get(target)
      expect([400, 401]).toContain(result.status)
      expect(upstream.received().length).toBe(0)
    },
  )
})

describe('API keys', () => {
  it('a known one passes; none or an unknown one is 401', async () => {
    expect((await get('/key', 'X-API-Key: the-key\r\n')).status).toBe(200)
    const missing = (await get('/key')).responses[0]!
    expect([missing.status, problem(missing)['code']]).toEqual([401, 'KEY_MISSING'])
    const unknown = (await get('/key', 'X-API-Key: not-the-key\r\n')).responses[0]!
    expect([unknown.status, problem(unknown)['code']]).toEqual([401, 'KEY_UNKNOWN'])
  })
})

describe('JWKS', () => {
  it('that is down at start: open routes work, protected ones refuse quickly, and all is well once it is up', async () => {
    const port = await freePort()
    const other = await startGateway({
      identity: {
        jwt: { main: { jwks: { url: `http://127.0.0.1:${port}/jwks`, cooldown: '1s' }, algorithms: ['RS256'] } },
      },
      upstreams: { app: { endpoints: [{ url: upstream.url }] } },
      routes: [
        { match: { pathPrefix: '/secure' }, jwt: 'main', upstream: 'app' },
        { match: { pathPrefix: '/' }, upstream: 'app' },
      ],
    })
    const jwk = { ...rsa.publicKey.export({ format: 'jwk' }), kid: 'k1', alg: 'RS256', use: 'sig' }
    const jwks = createServer((_request, response) => response.end(JSON.stringify({ keys: [jwk] })))
    try {
      const ask = (target: string, fields = '') =>
        send(other.port, `GET ${target} HTTP/1.1\r\nHost: a.test\r\n${fields}\r\n`, { responses: 1 })
      const text = `${tokenPart({ alg: 'RS256', kid: 'k1' })}.${tokenPart({ sub: 'ada', exp: nowSec() + 600 })}`
      const signed = bearer(`${text}.${sign('sha256', Buffer.from(text), rsa.privateKey).toString('base64url')}`)
      expect((await ask('/open')).status).toBe(200)
      const startedMs = performance.now()
      expect([401, 503]).toContain((await ask('/secure', signed)).status)
      expect(performance.now() - startedMs).toBeLessThan(5500)
      await new Promise<void>((resolve) => jwks.listen(port, '127.0.0.1', resolve))
      const deadline = performance.now() + 10_000
      let status = 0
      while (status !== 200 && performance.now() < deadline) {
        status = (await ask('/secure', signed)).status
        if (status !== 200) await new Promise((resolve) => setTimeout(resolve, 100))
      }
      expect(status).toBe(200)
    } finally {
      await other.close()
      jwks.close()
    }
  })
})

describe('rate limits', () => {
  it('thirty at once against ten: exactly ten, however the client names itself; 429 says when to come back', async () => {
    upstream.clear()
    const results = await Promise.all(
      Array.from({ length: 30 }, (_, i) => get('/limited', `X-Forwarded-For: 10.0.0.${i}\r\n`)),
    )
    const statuses = results.map((result) => result.status)
    expect(statuses.filter((status) => status === 200)).toHaveLength(10)
    expect(statuses.filter((status) => status === 429)).toHaveLength(20)
    expect(requestsTo('/limited')).toHaveLength(10)
    const refused = results.find((result) => result.status === 429)!
    expect(refused.ended).toBe('')
    const response = refused.responses[0]!
    expect(Number(field(response, 'retry-after'))).toBeGreaterThanOrEqual(1)
    expect(field(response, 'ratelimit-policy')).toContain('"ten";q=10;w=60')
    expect(field(response, 'ratelimit')).toContain('"ten";r=0')
    expect(problem(response)['code']).toBe('RATE_LIMITED')
  })

  it('counts per subject, after the token is known to be good', async () => {
    for (let i = 0; i < 5; i++)
      expect((await get('/subject', bearer(token({ sub: 'eve' }, {}, 'wrong secret')))).status).toBe(401)
    const of = async (sub: string) => (await get('/subject', bearer(token({ sub })))).status
    expect([await of('eve'), await of('eve'), await of('eve'), await of('eve')]).toEqual([200, 200, 200, 429])
    expect(await of('bob')).toBe(200)
  })
})

describe('the cache', () => {
  const cacheable = (body: string, fields: string[] = []) => answer(200, body, ['Cache-Control: max-age=60', ...fields])

  it('answers the second request itself and says so', async () => {
    upstream.clear()
    upstream.on('/cached/a', cacheable('a'))
    const first = (await get('/cached/a')).responses[0]!
    const second = (await get('/cached/a')).responses[0]!
    expect([first.body.toString(), second.body.toString()]).toEqual(['a', 'a'])
    expect(requestsTo('/cached/a')).toHaveLength(1)
    expect(field(second, 'cache-status')).toMatch(/;\s*hit/)
    expect(Number(field(second, 'age'))).toBeGreaterThanOrEqual(0)
  })

  it('tells hosts and queries apart', async () => {
    upstream.clear()
    upstream.on('/cached/k', cacheable('k'))
    await get('/cached/k?q=1')
    await get('/cached/k?q=2')
    await get('/cached/k?q=1', '', 'b.test')
    await get('/cached/k?q=1')
    expect(requestsTo('/cached/k')).toHaveLength(3)
  })

  it.each([
    ['Set-Cookie under the route’s ttl', '/ttl/cookie', ['Set-Cookie: a=1']],
    ['private', '/cached/private', ['Cache-Control: private, max-age=60']],
    ['no-store', '/cached/no-store', ['Cache-Control: no-store']],
    ['Vary: *', '/cached/vary', ['Cache-Control: max-age=60', 'Vary: *']],
    ['no freshness at all', '/cached/account/x.css', []],
  ])('does not keep: %s', async (_title, path, fields) => {
    upstream.clear()
    upstream.on(path, answer(200, 'x', fields))
    await get(path)
    await get(path)
    expect(requestsTo(path)).toHaveLength(2)
  })

  it('does not keep an answer to Authorization that is not public', async () => {
    upstream.clear()
    upstream.on('/cached/auth', cacheable('secret of ada'))
    await get('/cached/auth', 'Authorization: Basic YTpi\r\n')
    const other = (await get('/cached/auth')).responses[0]!
    expect(field(other, 'cache-status') ?? '').not.toMatch(/;\s*hit/)
    expect(requestsTo('/cached/auth')).toHaveLength(2)
  })

  it('is no way around the token', async () => {
    upstream.on('/both/x', cacheable('for ada', ['Cache-Control: public, max-age=60']))
    expect((await get('/both/x', bearer(token()))).status).toBe(200)
    expect((await get('/both/x')).status).toBe(401)
  })

  it('a hit on a GET with a body does not take the body for a request', async () => {
    upstream.on('/cached/body', cacheable('b'))
    await get('/cached/body')
    upstream.clear()
    const smuggled = 'GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n'
    const text = `GET /cached/body HTTP/1.1\r\nHost: a.test\r\nContent-Length: ${smuggled.length}\r\n\r\n${smuggled}`
    const result = await send(
      gateway.port,
      `${text}GET /cached/body HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n`,
    )
    for (const response of result.responses) expect(response.body.toString()).toBe('b')
    expect(requestsTo('/smuggled')).toEqual([])
  })

  it('a hundred at once for something not stored make one request upstream', async () => {
    upstream.clear()
    upstream.on('/cached/stampede', (socket, request) => {
      setTimeout(() => cacheable('s')(socket, request), 200)
    })
    const results = await Promise.all(Array.from({ length: 100 }, () => get('/cached/stampede')))
    expect(new Set(results.map((result) => result.responses[0]?.body.toString()))).toEqual(new Set(['s']))
    expect(requestsTo('/cached/stampede')).toHaveLength(1)
  })

  it('is emptied by POST /purge on the admin port', async () => {
    upstream.clear()
    upstream.on('/cached/purge', cacheable('p', ['Cache-Tag: t1']))
    await get('/cached/purge')
    const body = JSON.stringify({ tags: ['t1'] })
    const purged = await gateway.admin('/purge', {
      method: 'POST',
      body,
      headers: { 'content-type': 'application/json' },
    })
    expect(purged.status).toBe(200)
    await get('/cached/purge')
    expect(requestsTo('/cached/purge')).toHaveLength(2)
  })
})

describe('compression', () => {
  const body = JSON.stringify({ text: 'fluxor gateway '.repeat(100) })
  it.each([
    ['gzip', gunzipSync],
    ['br', brotliDecompressSync],
    ['zstd', zstdDecompressSync],
  ] as const)('%s is what it says, and only for who asks', async (encoding, decompress) => {
    upstream.on('/small', answer(200, body, ['Content-Type: application/json']))
    const response = (await get('/small', `Accept-Encoding: ${encoding}\r\n`)).responses[0]!
    expect(field(response, 'content-encoding')).toBe(encoding)
    expect(field(response, 'vary')?.toLowerCase()).toContain('accept-encoding')
    expect(decompress(response.body).toString()).toBe(body)
    expect(response.body.length).toBeLessThan(body.length / 2)
    const plain = (await get('/small')).responses[0]!
    expect(field(plain, 'content-encoding')).toBeUndefined()
    expect(plain.body.toString()).toBe(body)
  })
})
