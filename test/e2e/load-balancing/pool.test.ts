/** The limits of an endpoint's pool: how many connections are open, who waits for one, how long they live. */

import type { Socket } from 'node:net'
import { afterEach, expect, it } from 'vitest'
import { type ConfigObject, startGateway, type TestGateway } from '../../support/gateway.ts'
import { RawClient } from '../../support/raw-client.ts'
import { answer, type RawUpstream, type Script, startRawUpstream } from '../../support/upstream.ts'
import { type Condition, within } from '../../support/within.ts'

let gateway: TestGateway
let upstream: RawUpstream
let clients: RawClient[] = []
afterEach(async () => {
  for (const client of clients) client.close()
  clients = []
  await gateway.close()
  await upstream.close()
})

async function start(pool: ConfigObject, script: Script): Promise<void> {
  upstream = await startRawUpstream()
  upstream.otherwise(script)
  gateway = await startGateway({
    upstreams: { app: { endpoints: [{ url: upstream.url }], pool } },
    routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
  })
}

async function ask(target: string): Promise<RawClient> {
  const client = new RawClient(gateway.port)
  clients.push(client)
  await client.send(`GET ${target} HTTP/1.1\r\nHost: a.test\r\n\r\n`)
  return client
}

const until = (done: Condition) => within(10_000, done, () => gateway.output())

const waiting = (count: number) => until(async () => (await gateway.metric('fluxor_pool_waiting')) === count)
const targets = () => upstream.requests.map(({ target }) => target)

it('no more connections are open than maxOpenConns; who comes then waits in order, and may leave', async () => {
  const held: Socket[] = []
  await start({ maxOpenConns: 2 }, (socket) => held.push(socket))
  const answerOldest = () => answer(200, 'ok')(held.shift()!, upstream.requests[0]!)
  for (let round = 0; round < 3; round++) {
    upstream.clear()
    const asked = [await ask('/1'), await ask('/2')]
    await until(() => held.length === 2)
    const inService = targets()
    for (let n = 3; n <= 6; n++) {
      asked.push(await ask(`/${n}`))
      await waiting(n - 2)
    }
    asked[3]!.close() // the one for /4
    await waiting(3)
    for (const next of ['/3', '/5', '/6']) {
      answerOldest()
      await until(() => held.length === 2)
      inService.push(next)
      expect(targets()).toEqual(inService)
    }
    answerOldest()
    answerOldest()
    for (const n of [0, 1, 2, 4, 5]) expect((await asked[n]!.answers(1)).status).toBe(200)
    expect(upstream.connections).toBe(2)
    expect(await gateway.metric('fluxor_pool_waits_total')).toBe(4 * (round + 1))
  }
  expect(await gateway.metric('fluxor_pool_wait_seconds_total')).toBeGreaterThan(0)
  expect(await gateway.metric('current_ccu')).toBe(0)
})

it('a burst leaves no more idle connections than maxIdleConns', async () => {
  const held: Socket[] = []
  await start({ maxIdleConns: 2 }, (socket) => held.push(socket))
  for (let n = 0; n < 6; n++) await ask('/')
  await until(() => held.length === 6)
  for (const socket of held) answer(200, 'ok')(socket, upstream.requests[0]!)
  for (const client of clients) expect((await client.answers(1)).status).toBe(200)
  await until(() => upstream.open.size === 2)
  expect(upstream.connections).toBe(6)
  await until(async () => (await gateway.metric('fluxor_pool_idle_connections')) === 2)
})

it('none is kept with maxIdleConns 0', async () => {
  await start({ maxIdleConns: 0 }, answer(200, 'ok'))
  for (let n = 1; n <= 3; n++) {
    expect((await (await ask('/')).answers(1)).status).toBe(200)
    expect(upstream.connections).toBe(n)
  }
})

it('an idle connection is closed after connMaxIdleTime', async () => {
  await start({ connMaxIdleTime: '100ms' }, answer(200, 'ok'))
  expect((await (await ask('/')).answers(1)).status).toBe(200)
  await until(() => upstream.open.size === 0)
})

it('a connection serves no request after connMaxLifetime, and none is lost by that', async () => {
  await start({ connMaxLifetime: '200ms' }, answer(200, 'ok'))
  const client = await ask('/')
  let asked = 1
  await until(async () => {
    await client.answers(asked++)
    await client.send('GET / HTTP/1.1\r\nHost: a.test\r\n\r\n')
    return upstream.connections >= 3
  })
  const { responses } = await client.answers(asked)
  expect(responses.map(({ status }) => status)).toEqual(new Array(asked).fill(200))
  expect(upstream.connections).toBeLessThan(asked)
  expect(await gateway.metric('fluxor_retries_total')).toBe(0)
})
