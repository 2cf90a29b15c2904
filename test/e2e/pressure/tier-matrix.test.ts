/**
 * Three tiers in every mix of load: what each asks within its guarantee it gets, whatever the others ask, and what is shed is
 * shed from the lowest up. NUMBERS=1 measures all mixes, for longer, and prints the table.
 */

import { connect } from 'node:net'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { type CountedService, startCountedService } from '../../support/counted-service.ts'
import { startGateway, type TestGateway } from '../../support/gateway.ts'
import { readMessage } from '../../support/messages.ts'

const FULL = process.env['NUMBERS'] !== undefined
const PLACES = 20
const SERVICE_MS = 40
const TIERS = ['premium', 'standard', 'batch'] as const
type Tier = (typeof TIERS)[number]
/** Clients within the guarantee of a tier; batch has none. */
const WITHIN = { premium: 9, standard: 5, batch: 4 }
/** Five times the capacity, by one tier alone. */
const OVERLOAD = 5 * PLACES
const LEVELS = ['none', 'within', 'overload'] as const
type Level = (typeof LEVELS)[number]
type Mix = Record<Tier, Level>
/** Requests of a tier that are counted in a mix. */
const ENOUGH = FULL ? 600 : 60

let service: CountedService
let gateway: TestGateway | undefined
beforeAll(async () => {
  service = await startCountedService()
})
afterEach(async () => {
  await gateway?.close()
  gateway = undefined
})
afterAll(() => service?.close())

/** Clients of one tier that ask one after the other; who is refused comes again a little later. */
class TierLoad {
  served = 0
  refused = new Map<string, number>()
  tookMs: number[] = []
  #stopped = false
  readonly #running: Promise<void>[]

  constructor(port: number, tier: Tier, clients: number) {
    const request = `GET /${SERVICE_MS} HTTP/1.1\r\nHost: a.test\r\nX-Tier: ${tier}\r\n\r\n`
    this.#running = Array.from({ length: clients }, () => this.#run(port, request))
  }

  forget(): void {
    this.served = 0
    this.refused.clear()
    this.tookMs = []
  }

  get asked(): number {
    return this.served + [...this.refused.values()].reduce((sum, n) => sum + n, 0)
  }

  /** Share refused for want of a place. */
  get shed(): number {
    return this.asked === 0 ? 0 : 1 - this.served / this.asked
  }

  at(share: number): number {
    const sorted = this.tookMs.sort((a, b) => a - b)
    return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN
  }

  async stop(): Promise<void> {
    this.#stopped = true
    await Promise.all(this.#running)
  }

  async #run(port: number, request: string): Promise<void> {
    const socket = connect({ port, host: '127.0.0.1', noDelay: true })
    let buffer = Buffer.alloc(0)
    while (!this.#stopped) {
      const startedMs = performance.now()
      socket.write(request)
      const answer = await new Promise<ReturnType<typeof readMessage>>((resolve, reject) => {
        const read = (chunk: Buffer) => {
          buffer = Buffer.concat([buffer, chunk])
          const message = readMessage(buffer, false, false)
          if (message === undefined) return
          buffer = buffer.subarray(message.byteLength)
          socket.off('data', read).off('error', reject)
          resolve(message)
        }
        socket.on('data', read).once('error', reject)
      })
      if (answer!.startLine.startsWith('HTTP/1.1 200')) {
        this.served++
        this.tookMs.push(performance.now() - startedMs)
      } else {
        const { reason } = JSON.parse(answer!.body.toString()) as { reason: string }
        this.refused.set(reason, (this.refused.get(reason) ?? 0) + 1)
        await new Promise((resolve) => setTimeout(resolve, 50 + Math.random() * 100))
      }
    }
    socket.destroy()
  }
}

async function start(threads: number): Promise<void> {
  gateway = await startGateway({
    server: { threads, trustedProxies: ['127.0.0.0/8'] },
    admission: {
      maxCCU: PLACES,
      workers: PLACES,
      maxQueue: 0,
      tierHeader: 'x-tier',
      tiers: [
        { name: 'premium', guarantee: '50%' },
        { name: 'standard', guarantee: '30%' },
        { name: 'batch', guarantee: '0%' },
      ],
    },
    upstreams: { app: { endpoints: [{ url: service.url }] } },
    routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
  })
}

async function progress(what: string, done: () => boolean): Promise<void> {
  const deadline = performance.now() + 60_000
  while (!done()) {
    if (performance.now() > deadline)
      throw new Error(`${what}: the load stands still\n${gateway?.output().slice(-2000)}`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

const clientsOf = (tier: Tier, level: Level) => (level === 'none' ? 0 : level === 'within' ? WITHIN[tier] : OVERLOAD)

/** The loads of a mix, counted from when lent places have come back. */
async function run(mix: Mix): Promise<Record<Tier, TierLoad>> {
  const of = (tier: Tier) => new TierLoad(gateway!.port, tier, clientsOf(tier, mix[tier]))
  // The lowest first: they hold every place when the others come.
  const batch = of('batch')
  await progress('batch', () => mix.batch === 'none' || batch.served >= PLACES)
  const standard = of('standard')
  await progress('standard', () => mix.standard === 'none' || standard.served >= PLACES)
  const premium = of('premium')
  const loads = { premium, standard, batch }
  // Each place has come back when it has been lent for as long as a request takes; once more, for clients that pause.
  for (const tier of TIERS)
    await progress(tier, () => mix[tier] === 'none' || loads[tier].asked >= 3 * clientsOf(tier, mix[tier]))
  for (const tier of TIERS) loads[tier].forget()
  for (const tier of TIERS) await progress(tier, () => mix[tier] === 'none' || loads[tier].asked >= ENOUGH)
  await Promise.all(TIERS.map((tier) => loads[tier].stop()))
  return loads
}

const MIXES: Mix[] = LEVELS.flatMap((premium) =>
  LEVELS.flatMap((standard) => LEVELS.map((batch) => ({ premium, standard, batch }))),
).filter(({ premium, standard, batch }) => {
  const levels = [premium, standard, batch]
  if (FULL) return levels.some((level) => level !== 'none')
  return !levels.includes('none') && levels.includes('overload')
})

describe.each(FULL ? [1, 2] : [2])('with %i thread(s)', (threads) => {
  it('in every mix a tier within its guarantee is refused nothing, and a higher tier is refused less than a lower one', async () => {
    await start(threads)
    const table: Record<string, string>[] = []
    for (const mix of MIXES) {
      const loads = await run(mix)
      const row: Record<string, string> = {}
      for (const tier of TIERS) {
        const load = loads[tier]
        row[tier] = mix[tier]
        row[`${tier}: shed`] = mix[tier] === 'none' ? '' : `${(load.shed * 100).toFixed(1)} %`
        row[`${tier}: p99 ms`] = load.served === 0 ? '' : load.at(0.99).toFixed(0)
      }
      table.push(row)
      const title = JSON.stringify(mix)
      for (const tier of ['premium', 'standard'] as const) {
        if (mix[tier] === 'within') expect([...loads[tier].refused], `${tier} in ${title}`).toEqual([])
      }
      if (mix.batch === 'overload' && (mix.premium !== 'none' || mix.standard !== 'none'))
        expect(loads.batch.shed, title).toBeGreaterThan(0)
      if (mix.premium === 'overload' && mix.standard === 'overload')
        expect(loads.premium.shed, title).toBeLessThan(loads.standard.shed)
      if (mix.standard === 'overload' && mix.batch === 'overload')
        expect(loads.standard.shed, title).toBeLessThan(loads.batch.shed)
    }
    if (FULL) {
      console.log(
        `${PLACES} places, ${SERVICE_MS} ms each, ${threads} thread(s); within: ${JSON.stringify(WITHIN)} clients, overload: ${OVERLOAD}`,
      )
      console.table(table)
    }
    expect(await gateway!.metric('fluxor_ccu_ledger_skew')).toBe(0)
  }, 900_000)
})
