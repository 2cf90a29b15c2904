/**
 * Four gateways beside their services, one of them with half the places, behind a gateway tier. With `slots` the tier
 * knows how many places each has free; refusals are compared with balancers that do not. NUMBERS=1 prints the table.
 */

import { afterAll, beforeAll, expect, it } from 'vitest'
import { startGateway, type TestGateway } from '../../support/gateway.ts'
import { field } from '../../support/messages.ts'
import { send } from '../../support/raw-client.ts'
import { SteadyLoad } from '../../support/steady-load.ts'
import { type HttpUpstream, startHttpUpstream } from '../../support/upstream.ts'

const PLACES = [10, 10, 10, 5]
const SUM = 35

let service: HttpUpstream
const sidecars: TestGateway[] = []
beforeAll(async () => {
  service = await startHttpUpstream((_request, response) => setTimeout(() => response.end('ok'), 30))
  for (const maxCCU of PLACES) {
    sidecars.push(
      await startGateway({
        admission: { maxCCU, workers: maxCCU, maxQueue: 0, slotsHeader: true },
        upstreams: { app: { endpoints: [{ url: service.url }] } },
        routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
      }),
    )
  }
}, 60_000)
afterAll(async () => {
  for (const sidecar of sidecars) await sidecar.close()
  await service.close()
})

const TIERS = {
  roundRobin: { balance: 'roundRobin', retry: { attempts: 0 } },
  leastRequest: { balance: 'leastRequest', retry: { attempts: 0 } },
  slots: { slots: true, retry: { attempts: 0 } },
  'slots, refusals tried elsewhere': { slots: true, retry: { attempts: 1 } },
}

function startTier(app: object): Promise<TestGateway> {
  return startGateway({
    upstreams: { app: { endpoints: sidecars.map(({ url }) => ({ url })), ...app } },
    routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
  })
}

it('a tier that balances by free places is refused next to nothing up to the sum of the capacities', async () => {
  const table: Record<string, Record<string, string>> = {}
  const share: Record<string, number[]> = {}
  for (const [name, app] of Object.entries(TIERS)) {
    const tier = await startTier(app)
    table[name] = {}
    share[name] = []
    for (const clients of [17, 26, 31, SUM]) {
      const load = new SteadyLoad(tier.port, clients)
      await load.progress(800)
      const { statuses, lost } = await load.stop()
      const refused = statuses['503'] ?? 0
      expect(lost).toBe(0)
      expect(Object.keys(statuses).filter((status) => status !== '503')).toEqual(['200'])
      share[name].push(refused / (refused + statuses['200']!))
      table[name][`${clients} of ${SUM}`] = `${(share[name].at(-1)! * 100).toFixed(2)} %`
    }
    await tier.close()
  }
  if (process.env['NUMBERS']) console.table(table)
  const [low, , high, full] = share['slots']!
  expect(low).toBe(0)
  expect(high!).toBeLessThan(0.01)
  expect(full!).toBeLessThan(0.03)
  expect(full!).toBeLessThan(share['roundRobin']![3]! / 3)
  expect(full!).toBeLessThan(share['leastRequest']![3]! / 3)
  expect(Math.max(...share['slots, refusals tried elsewhere']!)).toBeLessThan(0.02)
}, 120_000)

it('what gateways say to each other does not reach clients', async () => {
  const beside = await send(sidecars[0]!.port, 'GET / HTTP/1.1\r\nHost: a.test\r\n\r\n', { responses: 1 })
  expect(field(beside.responses[0]!, 'fluxor-slots')).toMatch(/^free=\d+/)
  const tier = await startTier({ slots: true })
  try {
    const answer = await send(tier.port, 'GET / HTTP/1.1\r\nHost: a.test\r\n\r\n', { responses: 1 })
    expect(answer.status).toBe(200)
    expect(field(answer.responses[0]!, 'fluxor-slots')).toBeUndefined()
    expect(field(answer.responses[0]!, 'fluxor-shed')).toBeUndefined()
  } finally {
    await tier.close()
  }
})

it('a POST with a body that a full gateway refused is done by another', async () => {
  const tier = await startTier({ slots: true })
  const load = new SteadyLoad(tier.port, SUM - 3, {
    text: 'POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 11\r\n\r\nhello world',
  })
  await load.progress(800)
  const { statuses, lost, sent } = await load.stop()
  await tier.close()
  expect(lost).toBe(0)
  expect((statuses['503'] ?? 0) / sent).toBeLessThan(0.02)
})
