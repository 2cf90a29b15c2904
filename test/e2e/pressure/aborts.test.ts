/**
 * Two threads, ten times more clients than places, a third of them leaving or being cut at any moment: the service never sees
 * more than the cap, both threads serve, and nobody is left inside. NUMBERS=1: a cap of 100 and 1 000 clients for a minute.
 */

import { connect, type Socket } from 'node:net'
import { afterEach, expect, it } from 'vitest'
import { type CountedService, startCountedService } from '../../support/counted-service.ts'
import { startGateway, sumOf, type TestGateway } from '../../support/gateway.ts'

const FULL = process.env['NUMBERS'] !== undefined
const CAP = FULL ? 100 : 20
const CLIENTS = 10 * CAP
/** As many requests, or a minute. */
const REQUESTS = FULL ? Number.POSITIVE_INFINITY : 4000
const FULL_MS = 60_000
const THREADS = 2

let service: CountedService | undefined
let gateway: TestGateway | undefined
afterEach(async () => {
  await gateway?.close()
  await service?.close()
})

/** One request after the other, each time on a new connection or on the one of before. */
class Clients {
  readonly counts = { sent: 0, served: 0, refused: 0, left: 0, cut: 0 }
  readonly #port: number
  #stopped = false
  readonly #running: Promise<void>[]

  constructor(port: number, clients: number) {
    this.#port = port
    this.#running = Array.from({ length: clients }, () => this.#run())
  }

  async stop(): Promise<void> {
    this.#stopped = true
    await Promise.all(this.#running)
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      const socket = connect({ port: this.#port, host: '127.0.0.1', noDelay: true })
      socket.on('error', () => {})
      let pauseMs = 0
      while (pauseMs >= 0 && !this.#stopped) {
        pauseMs = await this.#request(socket)
        if (pauseMs > 0) await new Promise((resolve) => setTimeout(resolve, pauseMs))
      }
      socket.destroy()
    }
  }

  /** Milliseconds until the next request on this connection; −1: it is gone. */
  #request(socket: Socket): Promise<number> {
    const n = this.counts.sent++
    return new Promise((resolve) => {
      let ended = false
      const end = (what: keyof Clients['counts'], pauseMs: number) => {
        if (ended) return
        ended = true
        this.counts[what]++
        clearTimeout(timer)
        socket.off('data', answered).off('close', closed)
        resolve(pauseMs)
      }
      // Heads and the few bytes of a body come in one piece here.
      const answered = (chunk: Buffer) => {
        if (chunk.toString('latin1', 9, 12) === '200') end('served', 0)
        else if (chunk.toString('latin1', 9, 12) === '503') end('refused', 100 + (n % 200))
        else end('cut', 0)
      }
      const closed = () => end('cut', -1)
      let timer: NodeJS.Timeout | undefined
      if (n % 4 === 0) {
        const leave = () => {
          if (n % 8 === 0) socket.resetAndDestroy()
          else socket.destroy()
          end('left', -1)
        }
        timer = setTimeout(leave, (n * 7) % 60)
      }
      socket.on('data', answered).on('close', closed)
      if (socket.destroyed) return closed()
      socket.write(`GET /${n % 7 === 0 ? 'reset' : 5 + (n % 40)} HTTP/1.1\r\nHost: a.test\r\n\r\n`)
    })
  }
}

async function eventually(done: () => boolean | Promise<boolean>, timeoutMs: number): Promise<void> {
  const deadline = performance.now() + timeoutMs
  while (!(await done()) && performance.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 50))
}

it.each([
  ['no queue', 0],
  ['a queue of half as many', CAP / 2],
])(
  'aborts, resets and refusals by the hundred: not one above the cap, and nobody is left inside (%s)',
  async (title, maxQueue) => {
    service = await startCountedService()
    gateway = await startGateway({
      server: { threads: THREADS },
      admission: { maxCCU: CAP + maxQueue, workers: CAP, maxQueue, queueTimeout: '200ms' },
      upstreams: { app: { endpoints: [{ url: service.url }], retry: { attempts: 0 } } },
      routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
    })
    const clients = new Clients(gateway.port, CLIENTS)
    const busiest = new Array<number>(THREADS).fill(0)
    let most = 0
    const startedMs = performance.now()
    while (clients.counts.sent < REQUESTS && performance.now() - startedMs < FULL_MS) {
      const text = await (await gateway.admin('/metrics')).text()
      most = Math.max(most, sumOf(text, 'current_ccu')!)
      for (let thread = 0; thread < THREADS; thread++) {
        const busy = sumOf(text, 'fluxor_thread_cpu_utilization', { thread: String(thread) }) ?? 0
        busiest[thread] = Math.max(busiest[thread]!, busy)
      }
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
    await clients.stop()
    const { counts } = clients
    await eventually(async () => (await gateway!.metric('current_ccu')) === 0, 5000)
    const seen = await service.counts()
    const skew = await gateway.metric('fluxor_ccu_ledger_skew')
    if (FULL) {
      const seconds = ((performance.now() - startedMs) / 1000).toFixed(0)
      const cpu = busiest.map((busy) => busy.toFixed(2)).join(' and ')
      console.log(
        `${title}: cap ${CAP}, ${CLIENTS} clients, ${seconds} s: ${JSON.stringify(counts)}; the service had ${seen.total}, ${seen.mostInside} at once; ` +
          `CCU at most ${most}, skew ${skew}; the threads took up to ${cpu} of a core`,
      )
    }
    expect(await gateway.metric('current_ccu')).toBe(0)
    expect(await gateway.metric('queue_size')).toBe(0)
    expect(await gateway.metric('fluxor_in_service')).toBe(0)
    expect(skew).toBe(0)
    expect(seen.mostInside, 'the cap').toBeLessThanOrEqual(CAP)
    expect(seen.mostInside, 'is made use of').toBeGreaterThan(CAP / 2)
    expect(seen.inside).toBe(0)
    expect(most).toBeLessThanOrEqual(CAP + maxQueue)
    for (const what of ['served', 'refused', 'left', 'cut'] as const) expect(counts[what], what).toBeGreaterThan(100)
    for (const busy of busiest) expect(busy, 'both threads serve').toBeGreaterThan(0.01)
    expect(gateway.logs().filter((line) => Number(line['level']) >= 50)).toEqual([])
  },
  120_000,
)
