/**
 * Who may come in, through the running gateway: every refusal has its stable code and reaches no upstream; keys that
 * rotate, or whose endpoint is down, cost no good token its way.
 */

import { generateKeyPairSync, type KeyObject } from 'node:crypto'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { exportJWK, SignJWT } from 'jose'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startGateway, type TestGateway } from '../support/gateway.ts'
import { nowSec, signedToken } from '../support/tokens.ts'
import { type HttpUpstream, startHttpUpstream } from '../support/upstream.ts'

const SECRET = 'a-secret-of-more-than-thirty-two-bytes'
const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 })
const rsaPem = rsa.publicKey.export({ type: 'spki', format: 'pem' }) as string

/** A key set over HTTP that can change, break and count. */
class KeyServer {
  keys: { kid: string; key: KeyObject }[] = []
  mode: 'ok' | 'down' | 'garbage' = 'ok'
  fetches = 0
  readonly #server: Server

  constructor() {
    this.#server = createServer(async (_request, response) => {
      this.fetches++
      if (this.mode === 'down') response.destroy()
      else if (this.mode === 'garbage') response.end('<html>')
      else {
        const keys = await Promise.all(
          this.keys.map(async ({ kid, key }) => ({ ...(await exportJWK(key)), kid, alg: 'RS256', use: 'sig' })),
        )
        response.setHeader('content-type', 'application/json')
        response.end(JSON.stringify({ keys }))
      }
    })
  }

  async listen(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve))
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/jwks`
  }

  close(): void {
    this.#server.close()
    this.#server.closeAllConnections()
  }
}

let seen: { url: string; headers: Record<string, unknown> }[] = []
let upstream: HttpUpstream
let gateway: TestGateway
const keyServer = new KeyServer()
const first = generateKeyPairSync('rsa', { modulusLength: 2048 })
const second = generateKeyPairSync('rsa', { modulusLength: 2048 })

beforeAll(async () => {
  upstream = await startHttpUpstream((request, response) => {
    seen.push({ url: request.url!, headers: request.headers })
    response.end('served')
  })
  keyServer.keys = [{ kid: 'first', key: first.publicKey }]
  const url = await keyServer.listen()
  gateway = await startGateway({
    server: { trustedProxies: [] },
    identity: {
      jwt: {
        main: {
          secret: SECRET,
          algorithms: ['HS256'],
          issuer: 'fluxor',
          audience: 'api',
          requiredClaims: { scope: { contains: 'read' } },
          forward: { 'x-user-id': 'sub' },
        },
        pem: { publicKey: rsaPem, algorithms: ['RS256'] },
        remote: { jwks: { url, cacheMaxAge: '1s', cooldown: '200ms', staleFor: '1h' }, algorithms: ['RS256'] },
      },
    },
    upstreams: { app: { endpoints: [{ url: upstream.url }] } },
    routes: [
      { name: 'main', match: { pathPrefix: '/main' }, upstream: 'app', jwt: 'main' },
      { name: 'pem', match: { pathPrefix: '/pem' }, upstream: 'app', jwt: 'pem' },
      { name: 'remote', match: { pathPrefix: '/remote' }, upstream: 'app', jwt: 'remote' },
      { name: 'open', match: { pathPrefix: '/' }, upstream: 'app' },
    ],
  })
})
afterAll(async () => {
  await gateway?.close()
  await upstream?.close()
  keyServer.close()
})

const good = { sub: 'ada', iss: 'fluxor', aud: 'api', scope: 'read write' }

const signed = (payload: unknown, header?: object, secret: string = SECRET) => signedToken(payload, secret, header)
const valid = (claims: object = {}) => signed({ ...good, exp: nowSec() + 60, ...claims })
const none = () =>
  `${signed({ ...good, exp: nowSec() + 60 }, { alg: 'none' })
    .split('.')
    .slice(0, 2)
    .join('.')}.`

function rs256(kid: string, key: KeyObject): Promise<string> {
  return new SignJWT({})
    .setProtectedHeader({ alg: 'RS256', kid })
    .setSubject('ada')
    .setIssuedAt()
    .setExpirationTime('5m')
    .sign(key)
}

async function ask(
  path: string,
  headers: [string, string][] = [],
): Promise<{ status: number; code: string; challenge: string | null }> {
  const response = await fetch(gateway.url + path, { headers })
  const text = await response.text()
  const code = response.status === 200 ? '' : (JSON.parse(text) as { code: string }).code
  return { status: response.status, code, challenge: response.headers.get('www-authenticate') }
}

const bearer = (token: string): [string, string][] => [['authorization', `Bearer ${token}`]]

describe('tokens that do not pass', () => {
  const cases: [title: string, path: string, headers: () => [string, string][], status: number, code: string][] = [
    ['no token', '/main', () => [], 401, 'JWT_MISSING'],
    ['another scheme', '/main', () => [['authorization', 'Basic YTpi']], 401, 'JWT_MISSING'],
    [
      'a bad signature',
      '/main',
      () => bearer(signed({ ...good, exp: nowSec() + 60 }, { alg: 'HS256' }, 'another-secret-of-thirty-two-bytes!!')),
      401,
      'JWT_INVALID',
    ],
    ['an expired token', '/main', () => bearer(valid({ exp: nowSec() - 60 })), 401, 'JWT_EXPIRED'],
    ['a token without exp', '/main', () => bearer(signed(good)), 401, 'JWT_INVALID'],
    ['a token that is not valid yet', '/main', () => bearer(valid({ nbf: nowSec() + 60 })), 401, 'JWT_INVALID'],
    ['another issuer', '/main', () => bearer(valid({ iss: 'else' })), 401, 'JWT_INVALID'],
    ['another audience', '/main', () => bearer(valid({ aud: ['web'] })), 401, 'JWT_INVALID'],
    ['a missing scope', '/main', () => bearer(valid({ scope: 'write' })), 403, 'JWT_CLAIM'],
    ['alg none', '/main', () => bearer(none()), 401, 'JWT_INVALID'],
    [
      'HMAC with the public key',
      '/pem',
      () => bearer(signed({ sub: 'ada', exp: nowSec() + 60 }, { alg: 'HS256' }, rsaPem)),
      401,
      'JWT_INVALID',
    ],
    [
      'an unknown key id',
      '/remote',
      () => bearer(signed({ exp: nowSec() + 60 }, { alg: 'RS256', kid: 'unknown' })),
      401,
      'JWT_INVALID',
    ],
    ['an oversized token', '/main', () => bearer(`${'a'.repeat(6000)}.${'b'.repeat(6000)}.c`), 401, 'JWT_INVALID'],
    ['a payload that is no JSON', '/main', () => bearer(signed('not json')), 401, 'JWT_INVALID'],
    ['a payload that is a list', '/main', () => bearer(signed([1, 2])), 401, 'JWT_INVALID'],
    ['a deep payload', '/main', () => bearer(signed(`${'['.repeat(2000)}${']'.repeat(2000)}`)), 401, 'JWT_INVALID'],
    ['exp as text', '/main', () => bearer(valid({ exp: 'tomorrow' })), 401, 'JWT_INVALID'],
    ['garbage', '/main', () => bearer('....'), 401, 'JWT_INVALID'],
  ]
  for (const [title, path, headers, status, code] of cases) {
    it(`${title}: ${status} ${code}, and nothing reaches the upstream`, async () => {
      seen = []
      const answer = await ask(path, headers())
      expect([answer.status, answer.code]).toEqual([status, code])
      if (status === 401) expect(answer.challenge).toMatch(/^Bearer /)
      expect(seen).toEqual([])
    })
  }

  it('two Authorization fields: 401, and nothing reaches the upstream', async () => {
    seen = []
    const { send } = await import('../support/raw-client.ts')
    const text = `GET /main HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer ${valid()}\r\nAuthorization: Bearer x\r\n\r\n`
    const { responses } = await send(gateway.port, text)
    expect(responses[0]!.status).toBe(401)
    expect(seen).toEqual([])
  })
})

describe('a token that passes', () => {
  it('brings its claim as a header, and the client cannot', async () => {
    seen = []
    expect((await ask('/main/x', [...bearer(valid()), ['x-user-id', 'root']])).status).toBe(200)
    expect(seen[0]!.headers['x-user-id']).toBe('ada')
    expect((await ask('/open', [['x-user-id', 'root']])).status).toBe(200)
    expect(seen[1]!.headers['x-user-id']).toBeUndefined()
  })
})

describe('a remote key set', () => {
  it('rotates under running requests: good tokens pass all the time, the old key ends with its removal', async () => {
    const old = await rs256('first', first.privateKey)
    const young = await rs256('second', second.privateKey)
    expect((await ask('/remote', bearer(old))).status).toBe(200)
    keyServer.keys.push({ kid: 'second', key: second.publicKey })
    const statuses = new Set<number>()
    let running = true
    const asking = (async () => {
      while (running) statuses.add((await ask('/remote', bearer(old))).status)
    })()
    // Unknown to the gateway until now: one fetch brings it.
    expect((await ask('/remote', bearer(young))).status).toBe(200)
    running = false
    await asking
    expect([...statuses]).toEqual([200])
    keyServer.keys.shift()
    await expect.poll(async () => (await ask('/remote', bearer(old))).status, { timeout: 10_000 }).toBe(401)
    expect((await ask('/remote', bearer(young))).status).toBe(200)
  })

  it('that is down, or gives garbage, longer than its maximum age: good tokens still pass, and it shows', async () => {
    const token = () => rs256('second', second.privateKey)
    expect((await ask('/remote', bearer(await token()))).status).toBe(200)
    for (const mode of ['down', 'garbage'] as const) {
      keyServer.mode = mode
      const before = keyServer.fetches
      // A full maximum age and more: two failed refreshes.
      await expect.poll(() => keyServer.fetches, { timeout: 10_000 }).toBeGreaterThan(before + 1)
      expect((await ask('/remote', bearer(await token()))).status).toBe(200)
    }
    await gateway.waitForLog(({ msg, lastError }) => msg === 'JWKS not refreshed' && lastError !== undefined)
    keyServer.mode = 'ok'
  })
})
