/** Two threads, many more clients than places, half of them leaving at any moment: the upstream never sees more than the cap. */

import { connect, type Socket } from 'node:net'
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest'
import { startGateway, type TestGateway } from '../../support/gateway.ts'
import { type HttpUpstream, startHttpUpstream } from '../../support/upstream.ts'

const CAP = 20
const CLIENTS = 80
const SECONDS = 4

let upstream: HttpUpstream
let gateway: TestGateway | undefined
beforeAll(async () => {
  upstream = await startHttpUpstream((request, response) => {
    if (request.url === '/reset') setTimeout(() => request.socket.resetAndDestroy(), 10)
    else setTimeout(() => response.end('ok'), 5 + (Number(request.url!.slice(1)) % 40))
  })
})
afterEach(() => gateway?.close())
afterAll(() => upstream?.close())

it('aborts, resets and refusals by the hundred: not one above the cap, and nobody is left inside', async () => {
  gateway = await startGateway({
    server: { threads: 2 },
    admission: { maxCCU: CAP + 30, workers: CAP, maxQueue: 30, queueTimeout: '200ms' },
    upstreams: { app: { endpoints: [{ url: upstream.url }], retry: { attempts: 0 } } },
    routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
  })
  const { port } = gateway
  const sockets = new Set<Socket>()
  const until = performance.now() + SECONDS * 1000
  let n = 0
  let answered = 0
  const next = () => {
    if (performance.now() > until) return
    const i = n++
    const socket = connect({ port, host: '127.0.0.1' }, () => {
      const target = i % 7 === 0 ? '/reset' : `/${i}`
      socket.write(`GET ${target} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n`)
      if (i % 2 === 0) {
        const leave = () => (i % 4 === 0 ? socket.resetAndDestroy() : socket.destroy())
        setTimeout(leave, (i * 7) % 60)
      }
    })
    sockets.add(socket)
    socket.on('data', () => answered++)
    socket.on('error', () => {})
    socket.on('close', () => {
      sockets.delete(socket)
      setTimeout(next, 10)
    })
  }
  for (let i = 0; i < CLIENTS; i++) next()
  await new Promise((resolve) => setTimeout(resolve, SECONDS * 1000 + 500))
  for (const socket of sockets) socket.destroy()
  const deadline = performance.now() + 5000
  while ((await gateway.metric('current_ccu')) !== 0 && performance.now() < deadline) {
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  expect(await gateway.metric('current_ccu')).toBe(0)
  expect(await gateway.metric('queue_size')).toBe(0)
  expect(await gateway.metric('fluxor_in_service')).toBe(0)
  expect(await gateway.metric('fluxor_ccu_ledger_skew')).toBe(0)
  expect(upstream.total).toBeGreaterThan(100)
  expect(answered).toBeGreaterThan(100)
  expect(upstream.mostInside).toBeLessThanOrEqual(CAP)
  expect(gateway.logs().filter((line) => Number(line['level']) >= 50)).toEqual([])
})
