/**
 * The machine around the gateway as the fault: no descriptors left, a log that cannot be written, names that do not
 * resolve, a key server that is not there. The data path goes on as far as it can, says so, and recovers by itself.
 */

import { generateKeyPairSync } from 'node:crypto'
import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, describe, expect, it } from 'vitest'
import { expectAtRest, measure } from '../support/at-rest.ts'
import { freePort } from '../support/free-port.ts'
import { startGateway, type TestGateway } from '../support/gateway.ts'
import { problem, RawClient, send } from '../support/raw-client.ts'
import { hang, type RawUpstream, startRawUpstream } from '../support/upstream.ts'
import { type Condition, within } from '../support/within.ts'

const LIMIT = 100
const get = (target: string, more = '') => `GET ${target} HTTP/1.1\r\nHost: a.test\r\n${more}\r\n`

let gateway: TestGateway | undefined
let upstream: RawUpstream | undefined
afterEach(async () => {
  await gateway?.close()
  await upstream?.close()
  gateway = upstream = undefined
})

async function start(more: Record<string, unknown> = {}, wrap?: string[]): Promise<[TestGateway, RawUpstream]> {
  upstream = await startRawUpstream()
  gateway = await startGateway(
    {
      upstreams: { app: { endpoints: [{ url: upstream.url }], timeouts: { firstByte: '2s' } } },
      routes: [
        { match: { path: '/local' }, respond: { status: 200, body: 'local' } },
        { match: { pathPrefix: '/' }, upstream: 'app' },
      ],
      ...more,
    },
    { wrap },
  )
  return [gateway, upstream]
}

const eventually = (done: Condition, timeoutMs = 8000) => within(timeoutMs, done)

describe('descriptors run out', () => {
  it('new clients are let go at once, those that are in are served, and all is well when some leave', async () => {
    const [gw] = await start({ server: { timeouts: { header: '30s' } } }, ['prlimit', `--nofile=${LIMIT}`])
    await gw.waitForLog((line) => /is lowered/.test(line.msg ?? ''))
    const inside = new RawClient(gw.port)
    await inside.send(get('/local'))
    expect((await inside.answers(1)).status).toBe(200)
    const before = await measure(gw)

    const crowd = Array.from({ length: LIMIT * 3 }, () => new RawClient(gw.port))
    await eventually(() => crowd.filter((client) => client.ended !== '').length >= LIMIT * 2)
    await inside.send(get('/local'))
    expect((await inside.answers(2)).responses[1]?.status, 'who is in is served').toBe(200)
    await inside.send(get('/p'))
    expect((await inside.answers(3)).responses[2]?.status, 'there is room for the service').toBe(200)

    for (const client of crowd) client.close()
    await eventually(async () => (await send(gw.port, get('/p'), { responses: 1 })).status === 200)
    inside.close()
    upstream!.dropConnections()
    await expectAtRest(gw, before)
    expect(gw.logs().length, 'a flood of connections is no flood of lines').toBeLessThan(50)
  })

  it('also when it is the upstream’s connections that take them: 502, and back to normal afterwards', async () => {
    const [gw, app] = await start({ server: { limits: { connections: 95 } }, admission: { maxCCU: 1000 } }, [
      'prlimit',
      `--nofile=${LIMIT}`,
    ])
    app.on('/hang', hang)
    const before = await measure(gw)
    const clients = Array.from({ length: 90 }, () => new RawClient(gw.port))
    await Promise.all(clients.map((client) => client.send(get('/hang'))))
    const results = await Promise.all(clients.map((client) => client.until(({ status }) => status > 0, 6000)))
    for (const client of clients) client.close()
    for (const result of results) expect([0, 502, 504]).toContain(result.status)
    expect(gw.running).toBe(true)
    await eventually(async () => (await send(gw.port, get('/p'), { responses: 1 })).status === 200)
    upstream!.dropConnections()
    await expectAtRest(gw, before)
  })
})

it('an access log on a full disk: lines are lost and counted, requests are not', async () => {
  const [gw] = await start({ logging: { access: { file: '/dev/full' } } })
  for (let i = 0; i < 20; i++) expect((await send(gw.port, get('/p'), { responses: 1 })).status).toBe(200)
  await eventually(async () => ((await gw.metric('fluxor_access_log_dropped_total')) ?? 0) >= 20)
  expect(await gw.stop()).toBe(0)
})

describe('names that do not resolve', () => {
  it('are 503 on their own routes from the start, and nobody else’s matter', async () => {
    upstream = await startRawUpstream()
    gateway = await startGateway({
      upstreams: {
        app: { endpoints: [{ url: upstream.url }] },
        gone: { dns: { name: 'no-such-name.invalid', port: 80, refresh: '5s' } },
        named: { endpoints: [{ url: 'http://no-such-name.invalid:80' }] },
      },
      routes: [
        { match: { pathPrefix: '/gone' }, upstream: 'gone' },
        { match: { pathPrefix: '/named' }, upstream: 'named' },
        { match: { pathPrefix: '/' }, upstream: 'app' },
      ],
    })
    const ask = async (path: string) => {
      const result = await send(gateway!.port, get(path), { responses: 1 })
      return [result.status, result.status === 200 ? '' : problem(result.responses[0]!)['code']]
    }
    expect(await ask('/gone')).toEqual([503, 'NO_ENDPOINT'])
    expect(await ask('/named')).toEqual([502, 'UP_CONNECT'])
    expect(await ask('/p')).toEqual([200, ''])
  })
})

describe('a key server that is not there, or worse', () => {
  const { publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const keys = JSON.stringify({ keys: [{ ...publicKey.export({ format: 'jwk' }), kid: 'a', alg: 'ES256' }] })
  const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const forged = (kid: string) =>
    `${part({ alg: 'ES256', kid })}.${part({ sub: 'x', exp: Math.floor(Date.now() / 1000) + 600 })}.${'A'.repeat(86)}`

  type Handler = (response: ServerResponse) => void
  const servers: Record<string, Handler | undefined> = {
    refuses: undefined,
    hangs: () => {},
    breaks: (res) => void res.writeHead(500).end(),
    page: (res) => void res.end('<html>'),
    empty: (res) => void res.end('{"keys":[]}'),
    endless: (res) => {
      const go = () => {
        while (res.write('{"keys":['.repeat(1000)));
      }
      res.on('drain', go)
      go()
    },
    redirects: (res) => void res.writeHead(302, { Location: '/other' }).end(),
    well: (res) => void res.end(keys),
  }

  it('protected routes refuse within bounds, others never notice, and it is not asked for each token', async () => {
    const asked: Record<string, number> = {}
    const server = createServer((req, res) => {
      const name = req.url!.slice(1)
      asked[name] = (asked[name] ?? 0) + 1
      servers[name]?.(res)
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const there = (server.address() as AddressInfo).port
    const nobody = await freePort()
    const names = Object.keys(servers)
    const url = (name: string) => `http://127.0.0.1:${name === 'refuses' ? nobody : there}/${name}`
    try {
      const [gw, app] = await start({
        identity: {
          jwt: Object.fromEntries(names.map((name) => [name, { jwks: { url: url(name) }, algorithms: ['ES256'] }])),
        },
        routes: [
          ...names.map((name) => ({ match: { pathPrefix: `/secure/${name}` }, upstream: 'app', jwt: name })),
          { match: { pathPrefix: '/' }, upstream: 'app' },
        ],
      })
      const before = await measure(gw)
      const secure = names.flatMap((name) =>
        Array.from({ length: 10 }, async (_, i) => {
          const text = get(`/secure/${name}`, `Authorization: Bearer ${forged(`k${i}`)}\r\n`)
          const result = await send(gw.port, text, { responses: 1, timeoutMs: 9000 })
          return [name, result.status]
        }),
      )
      for (let i = 0; i < 5; i++) expect((await send(gw.port, get('/open'), { responses: 1 })).status).toBe(200)
      for (const [name, status] of await Promise.all(secure)) {
        expect([name, status]).toEqual([name, name === 'well' ? 401 : expect.toBeOneOf([401, 503])])
      }
      expect(app.requests.filter(({ target }) => target.startsWith('/secure'))).toEqual([])
      for (const name of names)
        expect([name, asked[name] ?? 0]).toEqual([name, name === 'refuses' ? 0 : expect.toBeOneOf([1, 2, 3])])
      expect(asked['other']).toBeUndefined()
      server.closeAllConnections()
      app.dropConnections()
      await expectAtRest(gw, before)
    } finally {
      server.closeAllConnections()
      server.close()
    }
  })
})
