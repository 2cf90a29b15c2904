/**
 * Compares proxies by what a request costs them. All are started, then measured in turn, round after round, so that what
 * the machine does meanwhile falls on all alike; the ratio to the baseline is taken within each round.
 *
 * Answers are compared whole before, during and after each load: a proxy that answers wrongly fails the run.
 */

import { type OutgoingHttpHeaders, request as open } from 'node:http'
import { gunzipSync } from 'node:zlib'
import { usageOfTree } from './process-tree.ts'
import { LOAD_CORE, type Running, requestsOfUpstream, SMALL_JSON, type Subject, startUpstream } from './subjects.ts'
import { type LoadResult, type RequestShape, runWrk } from './wrk.ts'

export interface Goal {
  /** Name of the subject that must reach it, and of the one it is compared with. */
  subject: string
  versus: string
  /** CPU per request of the subject over that of `versus`: at most this. */
  atMost: number
}

export interface Comparison {
  /** What is compared, where a question has several comparisons. */
  title?: string
  subjects: Subject[]
  /** Ratios are to this one, where a subject names no other. */
  baseline: string
  goals: Goal[]
  headers?: Record<string, string>
  connections?: number
  /** What is sent; default a GET. */
  request?: RequestShape
  /** The whole body that every answer must have; default the upstream's. Null: only that it is 2xx. */
  body?: string | Buffer | null
  /** The answer must come in this coding, and `body` is what it holds. */
  encoding?: 'gzip'
  /** Directives for the upstream's answer, in nginx's words. */
  upstreamFields?: string
  /** The service behind; default an nginx that answers the small JSON. */
  upstream?(): Promise<Running>
  /**
   * The load is measured once every connection has had some answers, for what opening them costs not to count. The requests
   * of the time measured are counted by the upstream then, which must be the default one.
   */
  settled?: boolean
}

export interface RunOptions {
  rounds: number
  seconds: number
}

export interface Sample {
  userUs: number
  systemUs: number
  requestsPerSecond: number
  /** Of bodies, both ways. */
  bytesPerSecond: number
  p50Us: number
  p99Us: number
  rssBytes: number
  timeouts: number
}

export interface SubjectResult {
  name: string
  version: string
  samples: Sample[]
  /** CPU per request over the baseline's, round by round. */
  ratios: number[]
}

export interface Verdict {
  /** The goal. */
  text: string
  /** What was measured, where the text does not say it itself: the median, its spread in parentheses. */
  found?: string
  /** Undefined: there was nothing to compare with. */
  met: boolean | undefined
}

export interface ComparisonResult {
  title?: string
  subjects: SubjectResult[]
  skipped: string[]
  verdicts: Verdict[]
}

const WARM_UP_SECONDS = 2
/** From here on wrk's count of whole answers is too coarse: those cut off at the end were paid for too. */
const LARGE_BYTES = 64 * 1024
/** A load has settled after this time, when each connection has had so many answers on average. */
const SETTLE_MS = 1000
const SETTLED_ANSWERS = 4
const SETTLED_WITHIN_SECONDS = 60
const SETTLE_LOOK_MS = 100
/** Between two answers that are compared whole while the load runs. */
const LOOK_EVERY_MS = 250

export async function compare(comparison: Comparison, options: RunOptions): Promise<ComparisonResult> {
  const present: Subject[] = []
  const skipped: string[] = []
  const upstream = await (comparison.upstream?.() ?? startUpstream(comparison.upstreamFields))
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
    const sampleOf = (i: number, seconds: number) =>
      measure(present[i]!, running[i]!, comparison, seconds, upstream.port)
    for (const i of present.keys()) await sampleOf(i, Math.min(options.seconds, WARM_UP_SECONDS))
    for (let round = 0; round < options.rounds; round++) {
      for (let turn = 0; turn < present.length; turn++) {
        const i = (turn + round) % present.length
        const sample = await sampleOf(i, options.seconds)
        results[i]!.samples.push(sample)
        process.stderr.write(
          `  round ${round + 1}/${options.rounds}  ${present[i]!.name}: ${cost(sample).toFixed(1)} µs\n`,
        )
      }
    }
    for (const [i, result] of results.entries()) {
      const baseline = results.find(({ name }) => name === (present[i]!.versus ?? comparison.baseline))
      if (baseline !== undefined) result.ratios = ratios(result, baseline)
    }
    const { title } = comparison
    const verdicts = comparison.goals.map((goal) => judge(goal, results, title))
    return { title, subjects: results, skipped, verdicts }
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

/** Median and spread as text: `1.23x (1.20–1.31)`. */
export function spreadOf(values: number[], digits = 2, unit = 'x'): string {
  const [found, least, most] = [median(values), Math.min(...values), Math.max(...values)].map((n) => n.toFixed(digits))
  return `${found}${unit} (${least}–${most})`
}

/** The verdict on ratios taken round by round. */
export function judgeRatios(text: string, values: number[], atMost: number): Verdict {
  return { text, found: spreadOf(values), met: median(values) <= atMost }
}

function ratios(result: SubjectResult, baseline: SubjectResult): number[] {
  return result.samples.map((sample, round) => cost(sample) / cost(baseline.samples[round]!))
}

export function judge(goal: Goal, results: SubjectResult[], title?: string): Verdict {
  const subject = results.find((result) => result.name === goal.subject)
  const versus = results.find((result) => result.name === goal.versus)
  const prefix = title === undefined ? '' : `${title}: `
  const text = `${prefix}${goal.subject} costs at most ${goal.atMost.toFixed(2)}x of ${goal.versus}`
  if (subject === undefined) return { text, found: 'it did not start', met: false }
  if (versus === undefined) return { text, found: 'not on this machine', met: undefined }
  return judgeRatios(text, ratios(subject, versus), goal.atMost)
}

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

async function measure(
  subject: Subject,
  running: Running,
  comparison: Comparison,
  seconds: number,
  upstreamPort: number,
): Promise<Sample> {
  const url = urlOf(subject, running)
  const { headers = {}, request, settled = false } = comparison
  const connections = subject.connections ?? comparison.connections ?? 64
  const look = () => check(subject.name, url, comparison)
  const size = await look()

  let before = usageOfTree(running.pid)
  let after = before
  let counted = 0
  const stop = new AbortController()
  const window = async (): Promise<void> => {
    await settle(subject.name, upstreamPort, connections)
    before = usageOfTree(running.pid)
    const from = await requestsOfUpstream(upstreamPort)
    await pause(seconds * 1000)
    after = usageOfTree(running.pid)
    counted = (await requestsOfUpstream(upstreamPort)) - from
    stop.abort()
  }
  const duration = settled ? SETTLED_WITHIN_SECONDS + seconds + 1 : seconds
  const load = runWrk({ url, headers, seconds: duration, connections, core: LOAD_CORE, request, signal: stop.signal })
  const ended = load.then(() => {
    if (!settled) after = usageOfTree(running.pid)
    return true
  })
  let looks = 0
  const keepLooking = async () => {
    while (!(await Promise.race([ended, pause(LOOK_EVERY_MS).then(() => false)]))) {
      await look()
      looks++
    }
  }
  const [loaded] = await Promise.all([load, keepLooking(), settled ? window() : undefined]).finally(() => stop.abort())
  checkLoad(subject.name, loaded, size, connections)
  await look()

  const whole = size > LARGE_BYTES ? loaded.bytes / size : loaded.requests
  const requests = settled ? counted : whole + looks
  const rate = settled ? counted / seconds : whole / loaded.seconds
  return {
    userUs: ((after.userMs - before.userMs) * 1000) / requests,
    systemUs: ((after.systemMs - before.systemMs) * 1000) / requests,
    requestsPerSecond: rate,
    bytesPerSecond: rate * (size + (request?.body.length ?? 0)),
    p50Us: loaded.p50Us,
    p99Us: loaded.p99Us,
    rssBytes: after.rssBytes,
    timeouts: loaded.timeouts,
  }
}

/** Resolves when the load has run for a while and its connections have had some answers each. */
async function settle(name: string, upstreamPort: number, connections: number): Promise<void> {
  const from = await requestsOfUpstream(upstreamPort)
  for (let ms = 0; ms < SETTLED_WITHIN_SECONDS * 1000; ms += SETTLE_LOOK_MS) {
    await pause(SETTLE_LOOK_MS)
    const had = (await requestsOfUpstream(upstreamPort)) - from
    if (ms >= SETTLE_MS && had >= connections * SETTLED_ANSWERS) return
  }
  throw new Error(`${name}: ${connections} connections had no answers in ${SETTLED_WITHIN_SECONDS} s`)
}

/** One whole answer must be right; gives its size in bytes as sent, head included. */
export function check(
  name: string,
  url: string,
  { headers = {}, request, body = SMALL_JSON, encoding }: Pick<Comparison, 'headers' | 'request' | 'body' | 'encoding'>,
): Promise<number> {
  return new Promise((resolve, reject) => {
    const fields: OutgoingHttpHeaders = { ...headers }
    if (request !== undefined) fields['content-length'] = request.body.length
    const sent = open(url, { method: request?.method, headers: fields, timeout: 10_000, agent: false }, (response) => {
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.on('error', reject)
      response.on('end', () => {
        const bytes = Buffer.concat(chunks)
        const wrong = (why: string) => reject(new Error(`${name} answered ${why}`))
        if (response.statusCode !== 200) return wrong(`${response.statusCode} ${excerpt(bytes)}`)
        const coding = response.headers['content-encoding']
        if (coding !== encoding) return wrong(`in the coding ${coding ?? 'identity'}, not ${encoding ?? 'identity'}`)
        if (body !== null) {
          const whole = encoding === 'gzip' ? gunzipSync(bytes) : bytes
          if (!whole.equals(Buffer.from(body as string)))
            return wrong(`${whole.length} bytes that are not the body: ${excerpt(whole)}`)
        }
        const head = response.rawHeaders.reduce((sum, part) => sum + part.length + 2, 19)
        resolve(head + bytes.length)
      })
    })
    sent.once('timeout', () => sent.destroy(new Error(`${name} did not answer in ten seconds`)))
    sent.once('error', reject)
    sent.end(request?.body)
  })
}

const excerpt = (bytes: Buffer) => JSON.stringify(bytes.toString('latin1', 0, 200))

/** Under load wrk counts what was not 2xx; that the bodies were whole shows in the bytes. */
export function checkLoad(name: string, load: LoadResult, expectedSize: number, connections: number): void {
  const expected = load.bytes / expectedSize
  if (load.bytes === 0 || load.bad > 0)
    throw new Error(`${name}: bad answers of ${load.requests}: ${JSON.stringify(load.errors)}`)
  // Each connection may have been cut off in the middle of an answer.
  const cut = expectedSize > LARGE_BYTES ? connections : 0
  if (Math.abs(load.requests - expected) > expected * 0.15 + cut) {
    const size = (load.bytes / load.requests).toFixed(0)
    throw new Error(`${name}: answers of ${size} bytes under load, of ${expectedSize} before it`)
  }
}
