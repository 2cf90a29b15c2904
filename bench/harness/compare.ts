/**
 * Compares proxies by what a request costs them. All are started, then measured in turn, round after round, so that what
 * the machine does meanwhile falls on all alike; the ratio to the baseline is taken within each round.
 */

import { get } from 'node:http'
import { usageOfTree } from './process-tree.ts'
import { LOAD_CORE, type Running, SMALL_JSON, type Subject, startUpstream } from './subjects.ts'
import { type LoadResult, runWrk } from './wrk.ts'

export interface Goal {
  /** Name of the subject that must reach it, and of the one it is compared with. */
  subject: string
  versus: string
  /** CPU per request of the subject over that of `versus`: at most this. */
  atMost: number
}

export interface Comparison {
  subjects: Subject[]
  /** Ratios are to this one. */
  baseline: string
  goals: Goal[]
  headers?: Record<string, string>
  connections?: number
  /** The whole body that every answer must have; default the upstream's. Null: only that it is 2xx. */
  body?: string | null
  /** Directives for the upstream's answer, in nginx's words. */
  upstreamFields?: string
}

export interface RunOptions {
  rounds: number
  seconds: number
}

export interface Sample {
  userUs: number
  systemUs: number
  requestsPerSecond: number
  p50Us: number
  p99Us: number
  rssBytes: number
}

export interface SubjectResult {
  name: string
  version: string
  samples: Sample[]
  /** CPU per request over the baseline's, round by round. */
  ratios: number[]
}

export interface Verdict {
  text: string
  /** Undefined: there was nothing to compare with. */
  met: boolean | undefined
}

export interface ComparisonResult {
  subjects: SubjectResult[]
  skipped: string[]
  verdicts: Verdict[]
}

const WARM_UP_SECONDS = 2

export async function compare(comparison: Comparison, options: RunOptions): Promise<ComparisonResult> {
  const present: Subject[] = []
  const skipped: string[] = []
  const upstream = await startUpstream(comparison.upstreamFields)
  const running: Running[] = []
  try {
    for (const subject of comparison.subjects) {
      if (!subject.available()) {
        skipped.push(`${subject.name} is not on this machine`)
        continue
      }
      try {
        running.push(await subject.start(upstream.port))
        present.push(subject)
      } catch (error) {
        skipped.push(`${subject.name}: ${(error as Error).message}`)
      }
    }
    for (const [i, subject] of present.entries())
      await subject.prove?.(urlOf(subject, running[i]!), comparison.headers ?? {})
    const results: SubjectResult[] = present.map((subject) => ({
      name: subject.name,
      version: subject.version?.() ?? '',
      samples: [],
      ratios: [],
    }))
    for (const [i, subject] of present.entries())
      await measure(subject, running[i]!, comparison, Math.min(options.seconds, WARM_UP_SECONDS))
    for (let round = 0; round < options.rounds; round++) {
      for (let turn = 0; turn < present.length; turn++) {
        const i = (turn + round) % present.length
        const sample = await measure(present[i]!, running[i]!, comparison, options.seconds)
        results[i]!.samples.push(sample)
        process.stderr.write(
          `  round ${round + 1}/${options.rounds}  ${present[i]!.name}: ${cost(sample).toFixed(1)} µs\n`,
        )
      }
    }
    const baseline = results.find((result) => result.name === comparison.baseline)
    for (const result of results) {
      if (baseline !== undefined) result.ratios = ratios(result, baseline)
    }
    return { subjects: results, skipped, verdicts: comparison.goals.map((goal) => judge(goal, results)) }
  } finally {
    for (const one of running) await one.close()
    await upstream.close()
  }
}

function urlOf(subject: Subject, running: Running): string {
  return `http://127.0.0.1:${running.port}${subject.path ?? '/'}`
}

export function cost(sample: Sample): number {
  return sample.userUs + sample.systemUs
}

export function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

function ratios(result: SubjectResult, baseline: SubjectResult): number[] {
  return result.samples.map((sample, round) => cost(sample) / cost(baseline.samples[round]!))
}

function judge(goal: Goal, results: SubjectResult[]): Verdict {
  const subject = results.find((result) => result.name === goal.subject)
  const versus = results.find((result) => result.name === goal.versus)
  const what = `${goal.subject} costs at most ${goal.atMost.toFixed(2)}x of ${goal.versus}`
  if (subject === undefined) return { text: `${what}: it did not start`, met: false }
  if (versus === undefined) return { text: `${what}: not on this machine`, met: undefined }
  const values = ratios(subject, versus)
  const found = median(values)
  const spread = `${Math.min(...values).toFixed(2)}–${Math.max(...values).toFixed(2)}`
  return { text: `${what}: ${found.toFixed(2)}x (${spread})`, met: found <= goal.atMost }
}

async function measure(subject: Subject, running: Running, comparison: Comparison, seconds: number): Promise<Sample> {
  const url = urlOf(subject, running)
  const headers = comparison.headers ?? {}
  const size = await check(subject.name, url, headers, comparison.body)
  const before = usageOfTree(running.pid)
  const load = await runWrk({ url, headers, seconds, connections: comparison.connections ?? 64, core: LOAD_CORE })
  const after = usageOfTree(running.pid)
  checkLoad(subject.name, load, size)
  await check(subject.name, url, headers, comparison.body)
  return {
    userUs: ((after.userMs - before.userMs) * 1000) / load.requests,
    systemUs: ((after.systemMs - before.systemMs) * 1000) / load.requests,
    requestsPerSecond: load.requests / load.seconds,
    p50Us: load.p50Us,
    p99Us: load.p99Us,
    rssBytes: after.rssBytes,
  }
}

/** One answer must be right before and after each load; gives its size in bytes, head included. */
function check(
  name: string,
  url: string,
  headers: Record<string, string>,
  body: string | null = SMALL_JSON,
): Promise<number> {
  return new Promise((resolve, reject) => {
    get(url, { headers, timeout: 5000, agent: false }, (response) => {
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.on('end', () => {
        const text = Buffer.concat(chunks).toString()
        const right = response.statusCode === 200 && (body === null || text === body)
        if (!right) reject(new Error(`${name} answered ${response.statusCode} ${JSON.stringify(text.slice(0, 200))}`))
        const head = response.rawHeaders.reduce((sum, part) => sum + part.length + 2, 19)
        resolve(head + text.length)
      })
    }).once('error', reject)
  })
}

/** Under load wrk counts what was not 2xx; that the bodies were whole shows in the bytes. */
function checkLoad(name: string, load: LoadResult, expectedSize: number): void {
  if (load.requests === 0 || load.bad > 0) throw new Error(`${name}: ${load.bad} bad answers of ${load.requests}`)
  const size = load.bytes / load.requests
  if (Math.abs(size - expectedSize) > expectedSize * 0.15) {
    throw new Error(`${name}: answers of ${size.toFixed(0)} bytes under load, of ${expectedSize} before it`)
  }
}
