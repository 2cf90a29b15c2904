/**
 * A path that needs a token, however it is written: nothing of it reaches the service without one, also while the keys
 * cannot be had; and they are found once they are there, without a restart.
 */

import { generateKeyPairSync, sign } from 'node:crypto'
import { createServer, type Server } from 'node:http'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { freePort } from '../support/free-port.ts'
import { startGateway, type TestGateway } from '../support/gateway.ts'
import { problem, send } from '../support/raw-client.ts'
import { type RawUpstream, startRawUpstream } from '../support/upstream.ts'

const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')

function token(kid = 'a'): string {
  const signed = `${part({ alg: 'ES256', kid })}.${part({ sub: 'ada', exp: Math.floor(Date.now() / 1000) + 600 })}`
  return `${signed}.${sign('sha256', Buffer.from(signed), { key: privateKey, dsaEncoding: 'ieee-p1363' }).toString('base64url')}`
}

let upstream: RawUpstream
let gateway: TestGateway
let keysPort: number
let keys: Server | undefined
let asked = 0

beforeAll(async () => {
  upstream = await startRawUpstream()
  keysPort = await freePort()
  gateway = await startGateway({
    identity: {
      jwt: { main: { jwks: { url: `http://127.0.0.1:${keysPort}/keys` }, algorithms: ['ES256'], forward: { 'X-User': 'sub' } } },
    },
    upstreams: { app: { endpoints: [{ url: upstream.url }] } },
    routes: [
      { match: { pathPrefix: '/private' }, upstream: 'app', jwt: 'main' },
      { match: { pathPrefix: '/' }, upstream: 'app' },
    ],
  }) // biome-ignore format: short
})
afterAll(async () => {
  await gateway?.close()
  await upstream?.close()
  keys?.close()
})

const ask = (target: string, fields = '') =>
  send(gateway.port, `GET ${target} HTTP/1.1\r\nHost: a.test\r\n${fields}\r\n`, { responses: 1, timeoutMs: 9000 })
const bearer = () => `Authorization: Bearer ${token()}\r\n`

/** Ways to write it; what is not refused as ambiguous needs the token. */
const WAYS = [
  '/private', '//private', '/./private', '/%70rivate', '/private/', '/private/x', '/private?x', '/private;x=1', '/private;', '/private;x/y', '/private/..;/private',
  '/public/../private', '/public/%2e%2e/private', '/public/.%2e/private', '/public/..;/private', '/public/..%2fprivate', '/public%2f..%2fprivate',
  '/private%2f', '/private%5c', '/private\\', '/private%00', '/private/%2e', 'http://a.test/private', 'http://a.test//private',
] // biome-ignore format: a list

describe('while the keys cannot be had', () => {
  it('open routes work, and guarded ones refuse, with Retry-After', async () => {
    expect((await ask('/open')).status).toBe(200)
    const refused = await ask('/private', bearer())
    expect([refused.status, problem(refused.responses[0]!)['code']]).toEqual([503, 'JWT_KEY'])
    expect(refused.responses[0]!.fields.map(([name]) => name.toLowerCase())).toContain('retry-after')
  })

  it.each(WAYS)('%s reaches no service', async (target) => {
    upstream.clear()
    for (const fields of ['', bearer(), 'Authorization: Bearer a.b.c\r\n']) {
      expect([400, 401, 503]).toContain((await ask(target, fields)).status)
    }
    expect(upstream.requests.map(({ target }) => target)).toEqual([])
  })
})

describe('once they are there', () => {
  beforeAll(async () => {
    keys = createServer((_req, res) => {
      asked++
      res.end(JSON.stringify({ keys: [{ ...publicKey.export({ format: 'jwk' }), kid: 'a', alg: 'ES256' }] }))
    })
    await new Promise<void>((resolve) => keys!.listen(keysPort, '127.0.0.1', resolve))
    const deadline = performance.now() + 15_000
    while ((await ask('/private', bearer())).status !== 200) {
      if (performance.now() > deadline) throw new Error('the keys were not found')
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
  })

  it('a token opens, and was asked about once', async () => {
    upstream.clear()
    for (let i = 0; i < 5; i++) expect((await ask('/private', bearer())).status).toBe(200)
    expect(upstream.requests[0]!.fields).toContainEqual(['x-user', 'ada'])
    expect(asked).toBe(1)
  })

  it.each(WAYS)('%s needs it still, and with it arrives as one path', async (target) => {
    upstream.clear()
    for (const fields of ['', 'X-User: ada\r\n', 'Authorization: Bearer a.b.c\r\n'])
      expect([400, 401]).toContain((await ask(target, fields)).status)
    expect(upstream.requests).toHaveLength(0)
    const opened = await ask(target, bearer())
    if (opened.status === 400) return
    expect(opened.status).toBe(200)
    expect(upstream.requests[0]!.target).toMatch(/^\/private(?:[/?;]|$)/)
  })
})
