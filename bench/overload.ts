/**
 * Ten times more than the service can take, as an open loop: arrivals do not wait for answers. The refused must be told at
 * once, the admitted served as if nothing were.
 */

import { execFile } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { startGateway, type TestGateway } from '../test/support/gateway.ts'
import type { RunOptions } from './harness/compare.ts'
import type { Figures, Question } from './harness/question.ts'
import { GATEWAY_MAIN, LOAD_CORE, PROXY_CORE, SMALL_JSON, startNode } from './harness/subjects.ts'
import { runWrk } from './harness/wrk.ts'

const WORKERS = 20
const DELAY_MS = 50
const OVERLOAD = 10
const REFUSAL_P99_AT_MOST_MS = 5
/** The load rises for so long: a generator that has compiled nothing yet is late itself. */
const RISE_SECONDS = 3
const GOODPUT_AT_LEAST = 0.95

interface LoadTestResult {
  rps: number
  latencyMs: { p50: number; p99: number }
  refusedMs: { p50: number; p99: number; count: number }
  statuses: Record<string, number>
  errors: Record<string, number>
}

/** @param from requests a second at the start */
async function loadTest(url: string, from: number, rate: number, seconds: number): Promise<LoadTestResult> {
  const folder = mkdtempSync(join(tmpdir(), 'fluxor-overload-'))
  try {
    const file = join(folder, 'result.json')
    const args = [
      'loadtest',
      '--url',
      url,
      '--rate',
      `${rate}`,
      '--shape',
      `${from}..${rate}/${RISE_SECONDS}s, hold ${seconds}s`,
      '--threads',
      '1',
      '--json',
      file,
    ]
    const command = ['-c', `${LOAD_CORE}`, process.execPath, GATEWAY_MAIN, ...args]
    // Its own verdict is about latency objectives that nobody keeps at ten times the load: only the figures count here.
    await new Promise<void>((resolve, reject) => {
      execFile('taskset', command, { timeout: (RISE_SECONDS + seconds + 30) * 1000 }, (error, stdout, stderr) => {
        if (error && error.code !== 1) reject(new Error(`the load test failed: ${stderr || stdout || error.message}`))
        else resolve()
      })
    })
    return JSON.parse(readFileSync(file, 'utf8')) as LoadTestResult
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** How many requests the gateway has answered in the time that a refusal may take: the service takes longer for each. */
async function withinGoal(gateway: TestGateway): Promise<number> {
  const le = `${REFUSAL_P99_AT_MOST_MS / 1000}`
  return (await gateway.metric('http_request_duration_seconds_bucket', { le })) ?? 0
}

async function measure({ seconds }: RunOptions): Promise<Figures> {
  const service = await startNode('slow-service.ts', { DELAY_MS: `${DELAY_MS}`, BODY: SMALL_JSON }, LOAD_CORE)
  const config = {
    admission: { maxCCU: 2 * WORKERS, workers: WORKERS, maxQueue: WORKERS, queueTimeout: '1s' },
    upstreams: { app: { endpoints: [{ url: `http://127.0.0.1:${service.port}` }] } },
    routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
  }
  const gateway = await startGateway(config, { main: GATEWAY_MAIN, wrap: ['taskset', '-c', `${PROXY_CORE}`] })
  try {
    // As many clients as workers: full, and not overloaded.
    const full = await runWrk({ url: gateway.url, connections: WORKERS, seconds, headers: {}, core: LOAD_CORE })
    const capacity = full.requests / full.seconds
    const before = await withinGoal(gateway)
    const over = await loadTest(
      gateway.url,
      Math.round(capacity),
      Math.round(OVERLOAD * capacity),
      Math.max(seconds, 2),
    )
    const prompt = ((await withinGoal(gateway)) - before) / over.refusedMs.count
    const goodput = over.rps / capacity
    const failed = Object.values(over.errors).reduce((sum, n) => sum + n, 0)
    return {
      rows: [
        ['', 'answers/s', 'p50 ms', 'p99 ms'],
        ['full, not overloaded', capacity.toFixed(0), (full.p50Us / 1000).toFixed(1), (full.p99Us / 1000).toFixed(1)],
        [`admitted at ${OVERLOAD}x`, over.rps.toFixed(0), over.latencyMs.p50.toFixed(1), over.latencyMs.p99.toFixed(1)],
        [
          `503 at ${OVERLOAD}x`,
          `${over.refusedMs.count} in all`,
          over.refusedMs.p50.toFixed(1),
          over.refusedMs.p99.toFixed(1),
        ],
      ],
      verdicts: [
        {
          text: `503 within ${REFUSAL_P99_AT_MOST_MS} ms (p99): ${over.refusedMs.p99.toFixed(1)} ms`,
          met: over.refusedMs.count > 0 && over.refusedMs.p99 < REFUSAL_P99_AT_MOST_MS,
        },
        {
          // Without what the generator and the service, on one core, keep each other waiting.
          text: `503 within ${REFUSAL_P99_AT_MOST_MS} ms by the gateway's own count: ${(100 * prompt).toFixed(2)} %`,
          met: prompt >= 0.99,
        },
        {
          text: `the admitted are at least ${GOODPUT_AT_LEAST * 100} % of capacity: ${(goodput * 100).toFixed(1)} %`,
          met: goodput >= GOODPUT_AT_LEAST,
        },
        { text: `nothing but answers: ${failed} failed (${JSON.stringify(over.statuses)})`, met: failed === 0 },
      ],
    }
  } finally {
    await gateway.close()
    await service.close()
  }
}

export const question: Question = {
  asks: `what happens at ${OVERLOAD} times the capacity of a service with ${WORKERS} places and ${DELAY_MS} ms an answer?`,
  measure,
}
