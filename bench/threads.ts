/**
 * What a second thread brings. On two cores the load generator and the service behind need one themselves, so it is asked in
 * two ways:
 *
 * - Small answers: one and two threads on the same core, the generator on the other. A request must cost the same: then
 *   threads do not get in each other's way, and more cores are more requests.
 * - Work that dwarfs the generator's: gzip at level 9 of 60 KB, one thread on one core against two on two, where the
 *   generator takes what it needs of the same cores. Its share is shown: what it takes, the threads did not have.
 */

import { cpus } from 'node:os'
import { startGateway } from '../test/support/gateway.ts'
import { check, checkLoad, median, type RunOptions, spreadOf } from './harness/compare.ts'
import { usageOfTree } from './harness/process-tree.ts'
import type { Figures, Question } from './harness/question.ts'
import { GATEWAY_MAIN, gateway, LOAD_CORE, PROXY_CORE, type Running, startFiles } from './harness/subjects.ts'
import { jsonOf } from './harness/texts.ts'
import { runWrk } from './harness/wrk.ts'

const COST_AT_MOST = 1.1
const SPEED_AT_LEAST = 1.8
const THREADS = [1, 2]
const CONNECTIONS = 16

const small = (threads: number) =>
  gateway(`${threads} thread${threads === 1 ? '' : 's'}`, '/', (port) => ({
    server: { threads },
    upstreams: { app: { endpoints: [{ url: `http://127.0.0.1:${port}` }] } },
    routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
  }))
const [one, two] = THREADS.map(small) as [ReturnType<typeof small>, ReturnType<typeof small>]

const body = jsonOf(60_000)
const headers = { 'accept-encoding': 'gzip' }

interface Sample {
  requestsPerSecond: number
  usPerRequest: number
  /** CPU time that the machine spent on everything else, over all it spent. */
  othersShare: number
}

function machineCpuMs(): number {
  return cpus().reduce((sum, { times }) => sum + times.user + times.nice + times.sys + times.irq, 0)
}

async function sampleOf(running: Running, seconds: number): Promise<Sample> {
  const url = `http://127.0.0.1:${running.port}/items.json`
  const size = await check('Fluxor Gateway', url, { headers, body, encoding: 'gzip' })
  const machineBefore = machineCpuMs()
  const before = usageOfTree(running.pid)
  // Away from the core of the single thread; with two the scheduler gives it what it needs of the second.
  const load = await runWrk({ url, headers, seconds, connections: CONNECTIONS, core: LOAD_CORE })
  const after = usageOfTree(running.pid)
  const machineMs = machineCpuMs() - machineBefore
  checkLoad('Fluxor Gateway', load, size, CONNECTIONS)
  const ownMs = after.userMs + after.systemMs - before.userMs - before.systemMs
  return {
    requestsPerSecond: load.requests / load.seconds,
    usPerRequest: (ownMs * 1000) / load.requests,
    othersShare: Math.max(0, 1 - ownMs / machineMs),
  }
}

async function measure({ rounds, seconds }: RunOptions): Promise<Figures> {
  const upstream = await startFiles({ 'items.json': body }, 'application/json')
  const running: Running[] = []
  try {
    for (const threads of THREADS) {
      const cores = threads === 1 ? `${PROXY_CORE}` : `${PROXY_CORE},${LOAD_CORE}`
      const config = {
        server: { threads },
        compression: { level: 9, encodings: ['gzip'], minBytes: 1024 },
        upstreams: { app: { endpoints: [{ url: `http://127.0.0.1:${upstream.port}` }] } },
        routes: [{ match: { pathPrefix: '/' }, upstream: 'app', compression: true }],
      }
      const started = await startGateway(config, { wrap: ['taskset', '-c', cores], main: GATEWAY_MAIN })
      running.push({ pid: started.pid, port: started.port, close: () => started.close() })
    }
    const samples: Sample[][] = running.map(() => [])
    for (let round = -1; round < rounds; round++) {
      for (const [i, process] of running.entries()) {
        const sample = await sampleOf(process, seconds)
        if (round >= 0) samples[i]!.push(sample) // the first is warm-up
      }
      process.stderr.write(`  round ${round + 1}/${rounds}\n`)
    }
    const speeds = samples[1]!.map(({ requestsPerSecond }, i) => requestsPerSecond / samples[0]![i]!.requestsPerSecond)
    const of = (list: Sample[], read: (sample: Sample) => number) => median(list.map(read))
    return {
      rows: [
        [`gzip 9 of ${body.length} bytes`, 'requests/s', 'CPU µs/request', 'of all CPU: others', 'speed'],
        ...samples.map((list, i) => [
          `${THREADS[i]} thread${i === 0 ? ' on one core' : 's on two cores'}`,
          of(list, ({ requestsPerSecond }) => requestsPerSecond).toFixed(0),
          of(list, ({ usPerRequest }) => usPerRequest).toFixed(0),
          `${(of(list, ({ othersShare }) => othersShare) * 100).toFixed(1)} %`,
          i === 0 ? '1.00x' : spreadOf(speeds),
        ]),
      ],
      verdicts: [
        {
          text: `two threads on two cores do at least ${SPEED_AT_LEAST}x of one on one, gzip of ${body.length} bytes`,
          found: spreadOf(speeds),
          met: median(speeds) >= SPEED_AT_LEAST,
        },
      ],
      notes: [`${CONNECTIONS} connections; others: wrk, the service behind, the bench, and whatever else runs here`],
    }
  } finally {
    for (const process of running) await process.close()
    await upstream.close()
  }
}

export const question: Question = {
  asks: 'what does a second thread bring?',
  compare: {
    title: 'small answers on one core',
    subjects: [one, two],
    baseline: one.name,
    goals: [{ subject: two.name, versus: one.name, atMost: COST_AT_MOST }],
  },
  measure,
}
