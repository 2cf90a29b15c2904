/**
 * Three services in processes of their own, under load, of which one at a time stops, hangs, fails or breaks off, and
 * comes back. What clients see of it is counted: nothing. Set NUMBERS=1 to have the counts printed.
 */

import { afterEach, expect, it } from 'vitest'
import { startGateway, type TestGateway } from '../../support/gateway.ts'
import { type ServiceProcess, startServices } from '../../support/service-process.ts'
import { SteadyLoad } from '../../support/steady-load.ts'
import { type Condition, within } from '../../support/within.ts'

const CLIENTS = 12

let gateway: TestGateway | undefined
let services: ServiceProcess[] = []
afterEach(async () => {
  await gateway?.close()
  for (const service of services) await service.kill()
  services = []
  gateway = undefined
})

async function start(balance: string): Promise<void> {
  services = await startServices('a', 'b', 'c')
  gateway = await startGateway({
    upstreams: {
      app: {
        endpoints: services.map(({ url }) => ({ url })),
        balance,
        health: { path: '/health', interval: '200ms', timeout: '200ms', rise: 1, fall: 2 },
        outlier: { consecutiveErrors: 3, ejectFor: '500ms' },
        retry: { attempts: 2, on: ['connectError', 'reset', '5xx'], perTryTimeout: '300ms' },
      },
    },
    routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
  })
}

const until = (what: string, done: Condition) =>
  within(15_000, done, () => `${what}\n${gateway?.output().slice(-3000)}`)

interface Shown {
  app: { url: string; state: string; reason: string; inFlight: number }[]
}

async function stateOf(service: ServiceProcess): Promise<Shown['app'][number]> {
  const { app } = (await (await gateway!.admin('/upstreams')).json()) as Shown
  return app.find(({ url }) => url === service.url)!
}

const FAULTS: [name: string, begin: (a: ServiceProcess) => unknown, end: (a: ServiceProcess) => unknown][] = [
  ['is killed', (a) => a.kill(), (a) => a.start()],
  ['hangs', (a) => a.freeze(), (a) => a.thaw()],
  ['answers 500', (a) => a.become(500), (a) => a.become('ok')],
  ['resets in the middle of the head', (a) => a.become('resetInHead'), (a) => a.become('ok')],
]

it.each(['leastRequest', 'roundRobin', 'peakEwma'])(
  'no GET fails, whatever becomes of one of three (%s)',
  async (balance) => {
    await start(balance)
    const [a, b] = services as [ServiceProcess, ServiceProcess]
    const load = new SteadyLoad(gateway!.port, CLIENTS)
    await load.progress(500)
    for (const [name, begin, end] of FAULTS) {
      const sentBefore = load.counts.sent
      const retriesBefore = (await gateway!.metric('fluxor_retries_total')) ?? 0
      await begin(a)
      await until(`${name}: known`, async () => (await stateOf(a)).state !== 'healthy')
      await load.progress(500)
      const retries = (await gateway!.metric('fluxor_retries_total'))! - retriesBefore
      expect(load.counts.statuses, `${name}\n${gateway!.output().slice(-2000)}`).toEqual({ 200: load.answered })
      expect(load.counts.lost, name).toBe(0)
      const { reason } = await stateOf(a)
      expect(reason, name).not.toBe('')
      await end(a)
      await until(`${name}: back`, async () => (await stateOf(a)).state === 'healthy')
      const before = await Promise.all([a.requests(), b.requests()])
      await until(`${name}: traffic returns`, async () => (await a.requests()) > before[0] + 20)
      await load.progress(200)
      expect(await b.requests(), 'the others go on').toBeGreaterThan(before[1])
      if (process.env['NUMBERS']) {
        console.log(
          `${balance}: ${name}: ${load.counts.sent - sentBefore} requests, ${retries} retries, reason "${reason}"`,
        )
      }
    }
    const counts = await load.stop()
    expect(counts).toEqual({ sent: counts.sent, statuses: { 200: counts.sent }, lost: 0, refused: 0 })
    if (process.env['NUMBERS']) console.log(`${balance}: all: ${JSON.stringify(counts)}`)
  },
  90_000,
)

it('an answer that breaks in its body is visibly broken, never short, and no worse than that', async () => {
  await start('leastRequest')
  const [a] = services as [ServiceProcess]
  const load = new SteadyLoad(gateway!.port, CLIENTS)
  await load.progress(300)
  const before = await a.requests() // first: some are broken off before the next question is answered
  await a.become('resetInBody')
  await load.progress(600)
  await a.become('ok')
  const broken = (await a.requests()) - before
  await load.progress(300)
  const counts = await load.stop()
  // The reader takes an answer only whole: what is short counts as lost, with the connection that was cut.
  expect(counts.statuses).toEqual({ 200: counts.sent - counts.lost })
  expect(counts.lost).toBeGreaterThan(0)
  expect(counts.lost).toBeLessThanOrEqual(broken)
  if (process.env['NUMBERS'])
    console.log(`in mid-body: ${broken} broken off by the service, ${counts.lost} seen by clients`)
})
