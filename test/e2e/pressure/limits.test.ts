/** The limits that move by themselves, in a running gateway: what the log says, what `/metrics` shows, what clients get. */

import { Agent, get } from 'node:http'
import { afterEach, expect, it } from 'vitest'
import { startGateway, type TestGateway } from '../../support/gateway.ts'
import { problem, send } from '../../support/raw-client.ts'
import { type HttpUpstream, startHttpUpstream } from '../../support/upstream.ts'

let upstream: HttpUpstream | undefined
let gateway: TestGateway | undefined
let agent: Agent | undefined
afterEach(async () => {
  agent?.destroy()
  await gateway?.close()
  await upstream?.close()
})

it.each(['enforce', 'shadow'])(
  'a service that takes five at a time: the adaptive limit comes down (%s)',
  async (mode) => {
    // Five are served in 20 ms each; whoever comes besides waits inside the service.
    let busy = 0
    const queue: (() => void)[] = []
    const next = () => {
      while (busy < 5 && queue.length > 0) {
        busy++
        const answer = queue.shift()!
        setTimeout(() => {
          busy--
          answer()
          next()
        }, 20)
      }
    }
    upstream = await startHttpUpstream((_request, response) => {
      queue.push(() => response.end('ok'))
      next()
    })
    gateway = await startGateway({
      admission: { maxCCU: 100, workers: 60, mode: 'adaptive', adaptive: { window: '300ms', mode } },
      upstreams: { app: { endpoints: [{ url: upstream.url }] } },
      routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
    })
    const { port } = gateway
    let stopped = false
    const connections = new Agent({ keepAlive: true })
    agent = connections
    const ask = () => {
      if (stopped) return
      const again = () => void setTimeout(ask, 1)
      get({ port, host: '127.0.0.1', agent: connections }, (response) => response.resume().once('close', again)).once(
        'error',
        again,
      )
    }
    for (let i = 0; i < 3; i++) ask() // the baseline
    await new Promise((resolve) => setTimeout(resolve, 1000))
    for (let i = 0; i < 60; i++) ask()
    const move = await gateway.waitForLog((line) => line.msg === 'adaptive limit' && Number(line['to']) < 50, 15_000)
    expect(move).toMatchObject({
      mode,
      from: expect.any(Number),
      baselineMs: expect.any(Number),
      meanMs: expect.any(Number),
    })
    expect(Number(move['meanMs'])).toBeGreaterThan(Number(move['baselineMs']))
    const workers = await gateway.metric('fluxor_workers')
    if (mode === 'enforce') expect(workers).toBeLessThan(55)
    else expect(workers).toBe(60)
    stopped = true
  },
)

it('a process that is short of memory sheds, and says why', async () => {
  upstream = await startHttpUpstream((_request, response) => void response.end('ok'))
  const admission = { maxCCU: 10, workers: 10, maxQueue: 0 }
  gateway = await startGateway({
    // So small a share of any machine is full at once; what is left of the cap is nothing but one.
    admission: { ...admission, pressure: { memoryPercent: '0.01%', shrinkTo: '1%' } },
    upstreams: { app: { endpoints: [{ url: upstream.url }] } },
    routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
  })
  const line = await gateway.waitForLog((entry) => entry.msg === 'under pressure: the cap shrinks')
  expect(line).toMatchObject({ cause: 'memory', pressure: 1 })
  expect(await gateway.metric('fluxor_ccu_cap')).toBe(1)
  const request = 'GET / HTTP/1.1\r\nHost: a.test\r\n\r\n'
  const results = await Promise.all(Array.from({ length: 20 }, () => send(gateway!.port, request, { responses: 1 })))
  const refused = results.filter(({ status }) => status === 503)
  for (const { responses } of refused) expect(problem(responses[0]!)['reason']).toBe('PRESSURE')
  expect(results.some(({ status }) => status === 200)).toBe(true)
})
