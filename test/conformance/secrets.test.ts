/**
 * What the gateway tells about itself, attacked: secrets of the config and of the clients must stand in no log, page,
 * metric or command's output; what clients send must forge no line of a log; and nobody gets to the admin pages without
 * the token.
 */

import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { freePort } from '../support/free-port.ts'
import { type ConfigObject, configText, startGateway, type TestGateway } from '../support/gateway.ts'
import { send } from '../support/raw-client.ts'
import { nowSec, signedToken } from '../support/tokens.ts'
import { answer, type RawUpstream, startRawUpstream } from '../support/upstream.ts'

const MAIN = fileURLToPath(new URL('../../src/main.ts', import.meta.url))
/** Every secret holds this word, whatever it is for. */
const CANARY = 'kanari'
const canary = (what: string) => `${what}-${CANARY}-${'x'.repeat(32)}`
const ADMIN_TOKEN = canary('admin')
const JWT_SECRET = canary('jwt')
const API_KEY = canary('api')

/** A token whose every part would show: the signature as text, the claims by a canary of their own, encoded. */
const token = (claims: object = {}) => signedToken({ sub: 'ada', exp: nowSec() + 600, ...claims }, JWT_SECRET)
const good = token()
const expired = token({ exp: 1 })

let upstream: RawUpstream
let gateway: TestGateway
let config: ConfigObject
beforeAll(async () => {
  upstream = await startRawUpstream()
  upstream.on('/broken', (socket) => void socket.end(`garbage ${canary('answer')}\r\n\r\n`))
  config = {
    server: {
      listen: [{ address: '127.0.0.1:0' }],
      admin: { address: '127.0.0.1:0', token: ADMIN_TOKEN, metricsToken: canary('metrics'), profiling: true },
    },
    redis: { main: { url: `redis://user:${canary('redis')}@127.0.0.1:${await freePort()}` } },
    identity: {
      jwt: {
        main: {
          secret: '$' + '{JWT_SECRET}',
          algorithms: ['HS256'],
          from: ['header', 'query:access_token', 'cookie:session'],
        },
      },
      apiKeys: { main: { keys: [{ name: 'acme', sha256: createHash('sha256').update(API_KEY).digest('hex') }] } },
    },
    rateLimits: { shared: { key: 'ip', limit: 100_000, window: '60s', store: 'redis:main', onStoreError: 'local' } },
    tracing: {
      otlp: { endpoint: `http://127.0.0.1:${await freePort()}/v1/traces`, headers: { 'x-api-key': canary('otlp') } },
    },
    upstreams: {
      app: { endpoints: [{ url: upstream.url }] },
      dead: {
        endpoints: [{ url: `http://127.0.0.1:${await freePort()}` }],
        sticky: { cookie: 's', secret: canary('sticky') },
      },
    },
    logging: { level: 'debug', access: { format: 'json', headers: ['x-api-key', 'x-amz-security-token', 'x-note'] } },
    routes: [
      { match: { pathPrefix: '/jwt' }, upstream: 'app', jwt: 'main' },
      { match: { pathPrefix: '/key' }, upstream: 'app', apiKey: 'main' },
      { match: { pathPrefix: '/limited' }, upstream: 'app', rateLimit: ['shared'] },
      { match: { pathPrefix: '/dead' }, upstream: 'dead' },
      {
        match: { pathPrefix: '/' },
        upstream: 'app',
        headers: { request: { set: { authorization: `Basic ${canary('upstream')}` } } },
      },
    ],
  }
  gateway = await startGateway(config, { env: { JWT_SECRET } })
})
afterAll(async () => {
  await gateway?.close()
  await upstream?.close()
})

const get = (target: string, fields = '') => `GET ${target} HTTP/1.1\r\nHost: a.test\r\n${fields}\r\n`
const admin = (path: string, init: RequestInit = {}) =>
  gateway.admin(path, { ...init, headers: { Authorization: `Bearer ${ADMIN_TOKEN}`, ...init.headers } })

/** What must not be said of `text`: a canary, or a client's whole token. */
function expectNoSecret(text: string, where: string): void {
  const at = text.indexOf(CANARY)
  expect(at < 0 ? '' : text.slice(Math.max(0, at - 200), at + 60), where).toBe('')
  for (const one of [good, expired])
    expect(text.includes(one.split('.')[2]!), `${where}: a token’s signature`).toBe(false)
}

describe('secrets', () => {
  it('of the config and of clients show in no answer, no log line and no page', async () => {
    const basic = Buffer.from(`user:${canary('basic')}`).toString('base64')
    const requests = [
      get('/jwt', `Authorization: Bearer ${good}\r\n`),
      get('/jwt', `Authorization: Bearer ${expired}\r\n`),
      get('/jwt', `Authorization: Bearer ${good}x\r\n`),
      get('/jwt', `Authorization: Bearer ${canary('malformed')}\r\n`),
      get('/jwt', `Cookie: a=b; session=${good}; other=${canary('cookie')}\r\n`),
      get(`/jwt?access_token=${good}&x=1`),
      get(`/jwt?access%5Ftoken=${canary('encoded')}`),
      get(`/p?password=${canary('query')}&api_key=${canary('query')}&X-Amz-Signature=${canary('query')}`),
      get(`/p?client_secret=${canary('query')}#`.replace('#', '')),
      get('/key', `X-API-Key: ${API_KEY}\r\n`),
      get('/key', `X-API-Key: ${canary('unknown')}\r\n`),
      get('/limited', `Authorization: Basic ${basic}\r\n`),
      get('/dead', `Authorization: Bearer ${canary('dead')}\r\n`),
      get('/broken', `Proxy-Authorization: Basic ${canary('proxy')}\r\n`),
      get('/p', `Referer: https://u:${canary('referer')}@a.test/?token=${canary('referer')}\r\n`),
      `GET /p HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer ${canary('bad-head')}\r\nX : 1\r\n\r\n`,
    ]
    for (const text of requests) {
      const result = await send(gateway.port, text, { responses: 1 })
      expect(result.status, text).toBeGreaterThan(0)
      expectNoSecret(result.bytes.toString('latin1'), `the answer to ${text}`)
    }
    for (const path of [
      '/config',
      '/upstreams',
      '/metrics',
      '/scale',
      '/jwks',
      '/dashboard',
      '/dashboard/history',
      '/readyz',
    ]) {
      expectNoSecret(await (await admin(path)).text(), path)
    }
    const asked = `/explain?method=GET&url=${encodeURIComponent('http://a.test/jwt')}`
    expectNoSecret(await (await admin(asked)).text(), asked)
    gateway.reload({ ...config, routes: [{ match: { pathPrefix: '/' }, upstrem: canary('typo').slice(0, 4) }] })
    await gateway.waitForLog((line) => line.msg?.startsWith('config not taken') === true)
    // Lines wait a moment to leave together.
    await gateway.waitForLog((line) => line['http.response.status_code'] === 400, 3000).catch(() => undefined)
    expect(gateway.output()).toContain('"url.path":"/jwt"')
    expectNoSecret(gateway.output(), 'the log')
  })

  it('show in no command’s output either, not even in that of a file with mistakes', () => {
    const file = gateway.configFile
    const run = (...args: string[]) => {
      const { stdout, stderr } = spawnSync(process.execPath, [MAIN, ...args], {
        env: { ...process.env, JWT_SECRET },
        encoding: 'utf8',
        timeout: 20_000,
      })
      return stdout + stderr
    }
    gateway.reload(config)
    for (const args of [
      ['check', '-c', file],
      ['explain', '-c', file, 'GET', '/jwt', '-H', `Authorization: Bearer ${good}`],
      ['check', '--json', '-c', file],
    ]) {
      expectNoSecret(run(...args), args[0]!)
    }
  })

  it('a config that is wrong at its secrets is told by place, not by value', () => {
    const wrong = {
      ...config,
      server: { ...(config['server'] as object), admin: { address: '0.0.0.0:1', token: [canary('list')] } },
      redis: { main: { url: `http://user:${canary('redis')}@x` } },
      identity: { jwt: { main: { secret: 5, secrte: canary('typo'), algorithms: ['HS256'] } } },
    }
    const { stdout, stderr, status } = spawnSync(process.execPath, [MAIN, 'check', '-c', '/dev/stdin'], {
      env: { ...process.env, JWT_SECRET },
      encoding: 'utf8',
      input: configText(wrong),
      timeout: 20_000,
    })
    expect(status).toBe(78)
    expectNoSecret(stdout + stderr, 'the errors')
  })
})

describe('a log line is one line, whatever the client sends', () => {
  const nasty = [
    '\x1b[2J\x1b]0;owned\x07',
    '"} {"level":60,"msg":"forged"}',
    '%0d%0a127.0.0.1 - - forged',
    '\x80\x9b31m',
    '\\u000aforged',
    '{{7*7}}$' + '{jndi:ldap://x}',
  ]
  it.each(['json', 'common', 'combined'])('%s', async (format) => {
    const logged = await startGateway({
      upstreams: { app: { endpoints: [{ url: upstream.url }] } },
      logging: { access: { format, headers: ['x-note'] } },
      routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
    })
    try {
      upstream.otherwise(answer(200, 'ok'))
      const before = logged.logs().length
      let sent = 0
      for (const text of nasty) {
        const inPath = encodeURI(text).replace(/%0[0-9a-f]|%1b|%7f|\\/gi, '%20')
        for (const request of [
          get(`/log${sent}/${inPath}`),
          get(`/log${sent}?q=${inPath}`),
          get(`/log${sent}`, `User-Agent: ${text}\r\nReferer: ${text}\r\nX-Note: ${text}\r\nX-Request-ID: ${text}\r\n`),
        ]) {
          await send(logged.port, request, { responses: 1 })
          sent++
        }
      }
      await send(logged.port, get('/last'), { responses: 1 })
      await logged.waitForLog((line) => JSON.stringify(line).includes('/last'))
      const lines = logged.logs().slice(before)
      // A control character makes a head malformed: its 400 is logged as a line, too.
      expect(lines).toHaveLength(sent + 1)
      for (const line of lines) {
        if (format === 'json') expect(Object.keys(line)).toContain('http.response.status_code')
        else expect(line.msg).toMatch(/^127\.0\.0\.1 - - \[[^\]]+\] "(?:[^"\\]|\\.)*" \d{3} \d+/)
      }
      expect(logged.output()).not.toMatch(/[\x00-\x08\x0b-\x1f\x7f-\x9f]/)
    } finally {
      await logged.close()
    }
  })
})

describe('the admin listener of a running gateway', () => {
  const paths = [
    '/config',
    '/upstreams',
    '/scale',
    '/jwks',
    '/dashboard',
    '/dashboard/history',
    '/dashboard/events',
    '/explain?url=/',
    '/debug/pprof/heap',
    '/debug/pprof/profile',
    '/nothing',
  ]
  it.each([
    ['no token', {}],
    ['a wrong token', { Authorization: 'Bearer wrong' }],
    ['the beginning of the token', { Authorization: `Bearer ${ADMIN_TOKEN.slice(0, -1)}` }],
    ['the metrics’ token', { Authorization: `Bearer ${canary('metrics')}` }],
    ['basic credentials', { Authorization: `Basic ${Buffer.from(`:${ADMIN_TOKEN}`).toString('base64')}` }],
    ['a made-up session', { Cookie: `fluxor_session=${Date.now() + 1000}.${'0'.repeat(64)}` }],
    ['a session without end', { Cookie: 'fluxor_session=Infinity.0' }],
    [
      'fields of a trusted proxy',
      { 'X-Forwarded-For': '127.0.0.1', 'X-Original-URL': '/livez', 'X-Rewrite-URL': '/livez' },
    ],
  ])('opens nothing with %s', async (_title, headers) => {
    for (const path of paths) {
      const response = await gateway.admin(path, { headers: headers as Record<string, string>, redirect: 'manual' })
      expect([path, response.status]).toEqual([path, 401])
      expect(await response.text()).not.toContain('upstreams')
    }
    for (const path of ['/purge', '/reload', '/upstreams']) {
      const response = await gateway.admin(path, {
        method: 'POST',
        body: '{}',
        headers: headers as Record<string, string>,
      })
      expect([path, response.status]).toEqual([path, 401])
    }
  })

  it.each([
    '/livez/../config',
    '/livez/..%2fconfig',
    '//config',
    '/livez;/../config',
    '/%63onfig',
    '/livez?/../config',
    '/config%00/livez',
    '/LIVEZ/../config',
    'http://x/livez/../config',
    '/livez#/config',
  ])('takes no detour to the config: %s', async (target) => {
    const result = await send(
      gateway.adminPort,
      `GET ${target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n`,
    )
    expect(result.bytes.toString('latin1')).not.toContain('"routes"')
  })

  it('answers every page with a policy that lets in no script of others', async () => {
    for (const path of ['/dashboard', '/config', '/login', '/nothing', '/metrics', '/livez']) {
      const response = await admin(path, { redirect: 'manual' })
      await response.text()
      const policy = response.headers.get('content-security-policy') ?? ''
      expect([path, policy]).toEqual([
        path,
        expect.stringMatching(/default-src 'none'.*script-src 'self'.*frame-ancestors 'none'/),
      ])
      expect(policy).not.toMatch(/unsafe-|\*|https?:/)
      expect(response.headers.get('x-content-type-options')).toBe('nosniff')
    }
    const page = await (await admin('/dashboard', { headers: { Accept: 'text/html' } })).text()
    expect(page).not.toMatch(/<script(?![^>]*\bsrc=)|\son[a-z]+=|javascript:|https?:\/\//i)
  })

  it('ends what is too large or too slow, and goes on', async () => {
    const large = await send(
      gateway.adminPort,
      `POST /purge HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer ${ADMIN_TOKEN}\r\nContent-Length: 1000000\r\n\r\n${'x'.repeat(200_000)}`,
      { responses: 1 },
    )
    expect(large.status).toBe(413)
    const deep = `{"urls":${'['.repeat(30_000)}${']'.repeat(30_000)}}`
    const response = await admin('/purge', { method: 'POST', body: deep })
    expect(response.status).toBe(400)
    expect((await admin('/livez')).status).toBe(200)
  })
})
