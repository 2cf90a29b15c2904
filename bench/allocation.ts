/**
 * What a request allocates, and what collecting it costs. V8 says it itself (`--trace-gc-nvp`): the bytes of its heap (Buffers
 * are outside) between two collections, and the time of each, over the last seconds of a steady load. For this it collects
 * in the thread that allocates (`--single-threaded-gc`): the time of helper threads beside it, on a core that is busy, could not
 * be told from their waiting.
 */

import { startGateway } from '../test/support/gateway.ts'
import { median, type RunOptions, spreadOf, type Verdict } from './harness/compare.ts'
import { type Collection, gcRates, parseCollection } from './harness/gc-trace.ts'
import { usageOfTree } from './harness/process-tree.ts'
import type { Figures, Question } from './harness/question.ts'
import { GATEWAY_MAIN, LOAD_CORE, PROXY_CORE, startUpstream } from './harness/subjects.ts'
import { runWrk } from './harness/wrk.ts'
import { policyConfig, token } from './policies.ts'

const GC_SHARE_AT_MOST = 0.05
const SETTLE_SECONDS = 2
/** Collections are some tens of a second apart. */
const LEAST_SECONDS = 2

const CASES = [
  { name: 'home', config: () => ({ routes: [{ match: { path: '/' }, home: {} }] }) },
  {
    name: 'bare proxying',
    config: (port: number) => ({
      upstreams: { app: { endpoints: [{ url: `http://127.0.0.1:${port}` }] } },
      routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
    }),
  },
  { name: 'JWT + limits + admission', config: (port: number) => policyConfig(port) },
]

interface Sample {
  bytesPerRequest: number
  gcUsPerRequest: number
  /** Of the process' CPU time. */
  gcShare: number
}

const WITH_TRACE = ['sh', '-c', 'node=$1; shift; exec "$node" --trace-gc-nvp --single-threaded-gc "$@"', 'sh']

async function sample(config: Record<string, unknown>, seconds: number): Promise<Sample> {
  const gateway = await startGateway(config, {
    main: GATEWAY_MAIN,
    wrap: ['taskset', '-c', `${PROXY_CORE}`, ...WITH_TRACE],
  })
  try {
    const load = (forSeconds: number) =>
      runWrk({
        url: gateway.url,
        connections: 64,
        seconds: forSeconds,
        headers: { authorization: `Bearer ${token()}` },
        core: LOAD_CORE,
      })
    await load(SETTLE_SECONDS)
    const before = usageOfTree(gateway.pid)
    const measured = await load(seconds)
    const after = usageOfTree(gateway.pid)
    if (measured.bad > 0) throw new Error(`${measured.bad} bad answers of ${measured.requests}`)
    // V8 writes through a buffer: all of it is there once the process has ended.
    await gateway.stop()
    const collections = gateway
      .logs()
      .map(({ msg }) => parseCollection(`${msg}`))
      .filter((one): one is Collection => one !== undefined)
    const rates = gcRates(collections, measured.seconds * 1000)
    if (rates === undefined) throw new Error('fewer than two collections: a longer load is needed (--seconds)')
    const rate = measured.requests / measured.seconds
    const cpuMsPerSecond = (after.userMs + after.systemMs - before.userMs - before.systemMs) / measured.seconds
    return {
      bytesPerRequest: rates.allocatedBytesPerSecond / rate,
      gcUsPerRequest: (rates.gcMsPerSecond * 1000) / rate,
      gcShare: rates.gcMsPerSecond / cpuMsPerSecond,
    }
  } finally {
    await gateway.close()
  }
}

async function measure(options: RunOptions): Promise<Figures> {
  const seconds = Math.max(options.seconds, LEAST_SECONDS)
  const rows = [['', 'bytes/request', 'spread', 'GC µs/request', 'GC share of CPU', 'spread']]
  const verdicts: Verdict[] = []
  const upstream = await startUpstream()
  try {
    const samples = new Map<string, Sample[]>(CASES.map(({ name }) => [name, []]))
    for (let round = 0; round < options.rounds; round++) {
      for (const { name, config } of CASES) samples.get(name)!.push(await sample(config(upstream.port), seconds))
      process.stderr.write(`  round ${round + 1}/${options.rounds}\n`)
    }
    for (const [name, own] of samples) {
      const bytes = own.map(({ bytesPerRequest }) => bytesPerRequest)
      const percent = own.map(({ gcShare }) => gcShare * 100)
      rows.push([
        name,
        median(bytes).toFixed(0),
        spreadOf(bytes, 0, ''),
        median(own.map(({ gcUsPerRequest }) => gcUsPerRequest)).toFixed(2),
        `${median(percent).toFixed(1)} %`,
        spreadOf(percent, 1, ' %'),
      ])
      verdicts.push({
        text: `${name}: collecting garbage takes less than ${GC_SHARE_AT_MOST * 100} % of the CPU time`,
        found: spreadOf(percent, 1, ' %'),
        met: median(percent) < GC_SHARE_AT_MOST * 100,
      })
    }
  } finally {
    await upstream.close()
  }
  return {
    rows,
    verdicts,
    notes: ['a process of its own for each round; V8 without helper threads (--single-threaded-gc)'],
  }
}

export const question: Question = { asks: 'what does a request allocate, and what does collecting it cost?', measure }
