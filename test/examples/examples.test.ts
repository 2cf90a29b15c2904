/** Each file of examples/: accepted by `check --strict`, started, and asked the question that it answers. */

import { globSync, readFileSync } from 'node:fs'
import { request as httpRequest } from 'node:http'
import { createServer as createTlsServer, request as httpsRequest } from 'node:https'
import type { AddressInfo } from 'node:net'
import { basename, join } from 'node:path'
import * as grpc from '@grpc/grpc-js'
import { exportJWK, generateKeyPair, SignJWT } from 'jose'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { WebSocket, WebSocketServer } from 'ws'
import { advise } from '../../src/config/advisor.ts'
import { loadConfig } from '../../src/config/load.ts'
import { formatProblem } from '../../src/config/problems.ts'
import { Certificates } from '../support/certificates.ts'
import { startRedis } from '../support/redis.ts'
import { services as programs } from '../support/services.ts'
import { closeAll, closeLater, root, runExample, service } from './run-example.ts'

vi.setConfig({ testTimeout: 60_000 })
afterEach(closeAll)

const names = globSync('*.yaml', { cwd: join(root, 'examples') }).map((file) => basename(file, '.yaml'))

const status = async (url: string, init?: RequestInit): Promise<number> => {
  const response = await fetch(url, init)
  await response.arrayBuffer()
  return response.status
}
const bearer = (token: string) => ({ headers: { authorization: `Bearer ${token}` } })

describe('every example', () => {
  for (const name of names) {
    it(`${name} passes check --strict and tells editors its schema`, () => {
      const file = join(root, 'examples', `${name}.yaml`)
      expect(readFileSync(file, 'utf8').split('\n')[0]).toBe('# yaml-language-server: $schema=../gateway.schema.json')
      const { config, warnings } = loadConfig(file, {})
      expect([...warnings.map(formatProblem), ...advise(config)]).toEqual([])
    })
  }

  it('has a test of its own here', () => {
    const text = readFileSync(new URL(import.meta.url), 'utf8')
    expect(names.filter((name) => !text.includes(`runExample('${name}'`) && name !== 'minimal')).toEqual([])
  })
})

describe('sidecar', () => {
  it('never lets more than its cap through, tells the rest when to come again, and answers probes on their own port', async () => {
    let inService = 0
    let most = 0
    const app = await service('app', (_request, response) => {
      most = Math.max(most, ++inService)
      setTimeout(() => {
        inService--
        response.end('done')
      }, 300)
    })
    const gateway = await runExample('sidecar', { APP_PORT: app.port })
    const answers = await Promise.all(
      Array.from({ length: 330 }, async () => {
        const response = await fetch(gateway.url)
        const body = await response.text()
        return { status: response.status, body, retryAfter: response.headers.get('retry-after') }
      }),
    )
    const refused = answers.filter((answer) => answer.status === 503)
    expect(answers.filter((answer) => answer.status === 200).length + refused.length).toBe(330)
    expect(most).toBeLessThanOrEqual(200)
    expect(refused.length).toBeGreaterThanOrEqual(30)
    for (const { body, retryAfter } of refused) {
      expect(JSON.parse(body)).toMatchObject({ code: 'BACKPRESSURE' })
      expect(Number(retryAfter)).toBeGreaterThanOrEqual(1)
    }
    const { address } = await gateway.waitForLog(({ msg }) => msg === 'probes listening')
    expect(await status(`http://${address}/readyz`)).toBe(200)
  })
})

describe('lb-tier', () => {
  it('answers every request while an instance is gone', async () => {
    const answer = (name: string) => service(name)
    const apps = [await answer('one'), await answer('two'), await answer('three')]
    const gateway = await runExample('lb-tier', { APP_1: apps[0]!.host, APP_2: apps[1]!.host, APP_3: apps[2]!.host })
    const ask = async () => (await fetch(`${gateway.url}/x`)).text()
    const before = new Set<string>()
    for (let i = 0; i < 60; i++) before.add(await ask())
    expect([...before].sort()).toEqual(['one', 'three', 'two'])
    await apps[0]!.close()
    for (let i = 0; i < 60; i++) expect(['two', 'three']).toContain(await ask())
  })
})

describe('jwt-jwks', () => {
  it('lets in tokens of the provider for this API alone, and names their subject to the service', async () => {
    const { privateKey, publicKey } = await generateKeyPair('ES256')
    const keys = { keys: [{ ...(await exportJWK(publicKey)), kid: 'k1', alg: 'ES256', use: 'sig' }] }
    const login = await service('login', (_request, response) => {
      response.setHeader('content-type', 'application/json').end(JSON.stringify(keys))
    })
    const app = await service('app')
    const issuer = 'https://login.test/'
    const gateway = await runExample('jwt-jwks', { APP_PORT: app.port, JWKS_URL: `${login.url}/jwks`, ISSUER: issuer })
    const token = (claims: Record<string, unknown>, audience = 'orders-api') =>
      new SignJWT({ tenant: 'acme', ...claims })
        .setProtectedHeader({ alg: 'ES256', kid: 'k1' })
        .setSubject('ada')
        .setIssuer(issuer)
        .setAudience(audience)
        .setExpirationTime('5m')
        .sign(privateKey)
    const url = `${gateway.url}/api/orders`
    expect(await status(`${gateway.url}/health`)).toBe(200)
    expect(await status(url)).toBe(401)
    expect(await status(url, bearer(await token({ scope: 'orders' }, 'another-api')))).toBe(401)
    expect(await status(url, bearer(await token({ scope: 'invoices' })))).toBe(403)
    const good = bearer(await token({ scope: 'invoices orders' }))
    expect(await status(url, { headers: { ...good.headers, 'x-user-id': 'forged' } })).toBe(200)
    expect(app.received).toHaveLength(1)
    expect(app.received[0]!.headers).toMatchObject({ 'x-user-id': 'ada', 'x-tenant': 'acme' })
  })
})

describe('api-key-tiers', () => {
  it('gives each plan its limit', async () => {
    const app = await service('app')
    const gateway = await runExample('api-key-tiers', { APP_PORT: app.port })
    const ask = (key: string) => status(`${gateway.url}/api/x`, { headers: { 'x-api-key': key } })
    expect(await status(`${gateway.url}/api/x`)).toBe(401)
    expect(await ask('wrong-key')).toBe(401)
    const standard = []
    for (let i = 0; i < 12; i++) standard.push(await ask('standard-key'))
    expect(standard.slice(0, 10)).toEqual(Array(10).fill(200))
    expect(standard.slice(10)).toContain(429)
    const premium = []
    for (let i = 0; i < 10; i++) premium.push(await ask('premium-key'))
    expect(premium).toEqual(Array(10).fill(200))
    expect(app.received.every(({ headers }) => headers['x-api-key'] === undefined)).toBe(true)
  })
})

describe.skipIf(programs.redis === undefined)('redis-fleet', () => {
  it('counts one limit over two gateways, and goes on without Redis', async () => {
    const redis = closeLater(await startRedis())
    const app = await service('app')
    const env = { APP_PORT: app.port, REDIS_URL: redis.url }
    const gateways = [await runExample('redis-fleet', env), await runExample('redis-fleet', env)]
    const login = (i: number) => status(`${gateways[i % 2]!.url}/api/login`, { method: 'POST' })
    const answers = []
    for (let i = 0; i < 7; i++) answers.push(await login(i))
    expect(answers).toEqual([200, 200, 200, 200, 200, 429, 429])
    await redis.kill()
    expect(await status(`${gateways[0]!.url}/anything`)).toBe(200)
  })
})

describe('cache', () => {
  it('asks the service once, whatever the campaign, and answers for it when it is gone', async () => {
    const app = await service('app', (_request, response) => {
      response.setHeader('content-type', 'text/plain').end('from the service')
    })
    const gateway = await runExample('cache', { APP_PORT: app.port })
    const ask = async (path: string) => {
      const response = await fetch(`${gateway.url}${path}`)
      return { status: response.status, text: await response.text(), cache: response.headers.get('cache-status') }
    }
    expect(await ask('/api/catalogue/1?utm_source=a')).toMatchObject({ status: 200, text: 'from the service' })
    const hit = await ask('/api/catalogue/1?utm_source=b')
    expect(hit.cache).toContain('hit')
    expect(app.received).toHaveLength(1)
    await ask('/api/other')
    await ask('/api/other')
    expect(app.received).toHaveLength(3)
    await app.close()
    expect(await ask('/api/catalogue/1')).toMatchObject({ status: 200, text: 'from the service' })
    expect((await ask('/api/other')).status).toBe(502)
  })
})

describe('websocket-grpc', () => {
  it('carries frames, events and calls', async () => {
    const app = await service('app', (_request, response) => {
      response.setHeader('content-type', 'text/event-stream')
      response.write('data: one\n\n')
    })
    const sockets = new WebSocketServer({ server: app.server, path: '/ws' })
    sockets.on('connection', (socket) => socket.on('message', (data) => socket.send(`echo ${data}`)))
    const bytes = (text: Buffer) => text
    const method = {
      path: '/demo.Greeter/Greet',
      requestStream: false,
      responseStream: false,
      requestSerialize: bytes,
      requestDeserialize: bytes,
      responseSerialize: bytes,
      responseDeserialize: bytes,
    } as const
    const server = new grpc.Server()
    server.addService({ Greet: method }, {
      Greet: (call: grpc.ServerUnaryCall<Buffer, Buffer>, done: grpc.sendUnaryData<Buffer>) =>
        done(null, Buffer.concat([Buffer.from('hello '), call.request])),
    } as grpc.UntypedServiceImplementation)
    const grpcPort = await new Promise<number>((resolve, reject) => {
      server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (error, port) =>
        error === null ? resolve(port) : reject(error),
      )
    })
    closeLater({ close: () => server.forceShutdown() })
    const gateway = await runExample('websocket-grpc', { APP_PORT: app.port, GRPC_PORT: String(grpcPort) })

    const socket = new WebSocket(`ws://127.0.0.1:${gateway.port}/ws`)
    const said = await new Promise<string>((resolve, reject) => {
      socket.on('open', () => socket.send('hello'))
      socket.on('message', (data) => resolve(String(data)))
      socket.on('error', reject)
    })
    expect(said).toBe('echo hello')
    socket.terminate()

    const events = await fetch(`${gateway.url}/events`)
    const { value } = await events.body!.getReader().read()
    expect(Buffer.from(value!).toString()).toBe('data: one\n\n')

    const client = new grpc.Client(`127.0.0.1:${gateway.port}`, grpc.credentials.createInsecure())
    const greeting = await new Promise<Buffer>((resolve, reject) => {
      client.makeUnaryRequest(method.path, bytes, bytes, Buffer.from('ada'), (error, answer) =>
        error === null ? resolve(answer!) : reject(error),
      )
    })
    client.close()
    expect(greeting.toString()).toBe('hello ada')
  })
})

describe('tls', () => {
  it('serves HTTPS and verifies the service', async () => {
    const certificates = new Certificates()
    closeLater({ close: () => certificates.remove() })
    const front = certificates.issue('front', 'shop', ['DNS:shop.test'])
    const back = certificates.issue('back', 'app', ['DNS:app.internal'])
    const app = createTlsServer({ cert: readFileSync(back.cert), key: readFileSync(back.key) }, (request, response) =>
      response.end(`secret ${request.url}`),
    )
    await new Promise<void>((resolve) => app.listen(0, '127.0.0.1', resolve))
    closeLater({ close: () => void app.close() })
    const address = `127.0.0.1:${(app.address() as AddressInfo).port}`
    const env = { TLS_CERT: front.cert, TLS_KEY: front.key, APP: address, APP_CA: certificates.ca.cert }
    const ask = (port: number) =>
      new Promise<{ status: number; text: string; hsts: unknown }>((resolve, reject) => {
        const options = {
          port,
          host: '127.0.0.1',
          path: '/x',
          servername: 'shop.test',
          ca: readFileSync(certificates.ca.cert),
        }
        const outgoing = httpsRequest({ ...options, agent: false }, (response) => {
          let text = ''
          response.on('data', (chunk) => (text += chunk))
          const hsts = response.headers['strict-transport-security']
          response.on('end', () => resolve({ status: response.statusCode!, text, hsts }))
        })
        outgoing.on('error', reject)
        outgoing.end()
      })
    const gateway = await runExample('tls', env)
    expect(await ask(gateway.port)).toEqual({
      status: 200,
      text: 'secret /x',
      hsts: 'max-age=31536000; includeSubDomains',
    })
    const wrong = await runExample('tls', { ...env, APP_NAME: 'another.internal' })
    expect((await ask(wrong.port)).status).toBe(502)
  })
})

describe('canary-mirror', () => {
  it('keeps a client on its version, lets testers choose, and copies searches', async () => {
    const stable = await service('stable')
    const next = await service('next')
    const gateway = await runExample('canary-mirror', { APP_PORT: stable.port, NEXT_PORT: next.port })
    const chosen = await fetch(gateway.url, { headers: { 'x-version': 'next' } })
    expect(await chosen.text()).toBe('next')
    const first = await fetch(`${gateway.url}/page`)
    const version = await first.text()
    const cookie = first.headers.get('set-cookie')!.split(';')[0]!
    for (let i = 0; i < 20; i++) {
      expect(await (await fetch(`${gateway.url}/page`, { headers: { cookie } })).text()).toBe(version)
    }
    const copied = new Promise<void>((resolve) =>
      next.server.on('request', ({ url }) => url === '/api/search?q=x' && resolve()),
    )
    expect(await (await fetch(`${gateway.url}/api/search?q=x`)).text()).toBe('stable')
    await copied
  })
})

describe('adaptive-overload', () => {
  it('holds one client to its share and serves the others', async () => {
    let release = () => {}
    const held = new Promise<void>((resolve) => (release = resolve))
    const app = await service('app', async (request, response) => {
      if (request.url === '/slow') await held
      response.end('ok')
    })
    const gateway = await runExample('adaptive-overload', { APP_PORT: app.port })
    const greedy = Array.from({ length: 110 }, async () => {
      const response = await fetch(`${gateway.url}/slow`, { headers: { 'x-forwarded-for': '203.0.113.1' } })
      return { status: response.status, body: await response.text() }
    })
    const refused = await Promise.any(
      greedy.map(async (answer) => {
        const { status, body } = await answer
        if (status !== 503) throw new Error(`answered ${status}`)
        return body
      }),
    )
    expect(JSON.parse(refused)).toMatchObject({ code: 'BACKPRESSURE', reason: 'CCU_KEY' })
    expect(await status(gateway.url, { headers: { 'x-forwarded-for': '203.0.113.2' } })).toBe(200)
    release()
    const statuses = (await Promise.all(greedy)).map((answer) => answer.status)
    expect(statuses.filter((code) => code === 200).length).toBeLessThanOrEqual(100)
  })
})

/** Sends a Host that fetch would not. */
function askHost(
  port: number,
  host: string,
  path: string,
): Promise<{ status: number; headers: Record<string, unknown> }> {
  return new Promise((resolve, reject) => {
    const outgoing = httpRequest({ port, host: '127.0.0.1', path, headers: { host }, agent: false }, (response) => {
      response.resume()
      response.on('end', () => resolve({ status: response.statusCode!, headers: response.headers }))
    })
    outgoing.on('error', reject)
    outgoing.end()
  })
}

describe('migrate-from-express-gateway', () => {
  it('does what its policies did', async () => {
    const app = await service('app')
    const secret = 'a secret that is thirty-two bytes!'
    const gateway = await runExample('migrate-from-express-gateway', { APP_PORT: app.port, JWT_SECRET: secret })
    const token = await new SignJWT({})
      .setProtectedHeader({ alg: 'HS256' })
      .setAudience('api')
      .setExpirationTime('5m')
      .sign(new TextEncoder().encode(secret))
    const headers = { authorization: `Bearer ${token}`, origin: 'https://app.example.com' }
    expect(await status(`${gateway.url}/ip/a`)).toBe(401)
    const response = await fetch(`${gateway.url}/ip/a`, { headers })
    expect(await response.text()).toBe('app')
    expect(response.headers.get('access-control-allow-origin')).toBe('https://app.example.com')
    expect(app.received).toMatchObject([{ url: '/a', headers: { host: 'httpbin.example' } }])
    const more = []
    for (let i = 0; i < 10; i++) more.push(await status(`${gateway.url}/ip/a`, { headers }))
    expect(more).toContain(429)
  })
})

describe('migrate-from-http-proxy-middleware', () => {
  it('does what its options did', async () => {
    const app = await service('app', (_request, response) => response.setHeader('x-powered-by', 'Express').end('app'))
    const gateway = await runExample('migrate-from-http-proxy-middleware', { APP_PORT: app.port })
    const response = await fetch(`${gateway.url}/api/users?x=1`)
    expect(await response.text()).toBe('app')
    expect(response.headers.get('x-powered-by')).toBeNull()
    expect(app.received).toMatchObject([
      {
        url: '/users?x=1',
        headers: { host: 'api.internal', 'x-powered-through': 'gateway', 'x-forwarded-proto': 'http' },
      },
    ])
    expect((await askHost(gateway.port, 'a.example.com', '/page')).status).toBe(200)
    expect((await askHost(gateway.port, 'b.example.com', '/page')).status).toBe(404)
  })
})

describe('migrate-from-nginx', () => {
  it('does what its directives did', async () => {
    const app = await service('app')
    const backup = await service('backup')
    const gateway = await runExample('migrate-from-nginx', { APP_PORT: app.port, BACKUP_PORT: backup.port })
    expect(await (await fetch(`${gateway.url}/health`)).text()).toBe('ok')
    const moved = await fetch(`${gateway.url}/old/page`, { redirect: 'manual' })
    expect([moved.status, moved.headers.get('location')]).toEqual([301, '/new/'])
    expect(await (await fetch(`${gateway.url}/api/items`)).text()).toBe('app')
    expect(await (await fetch(`${gateway.url}/api/items`)).text()).toBe('app')
    expect(app.received).toMatchObject([{ url: '/items' }])
    expect(backup.received).toHaveLength(0)
    await app.close()
    expect(await (await fetch(`${gateway.url}/api/others`)).text()).toBe('backup')
    const burst = await Promise.all(Array.from({ length: 40 }, () => status(`${gateway.url}/api/items`)))
    expect(burst).toContain(429)
  })
})
