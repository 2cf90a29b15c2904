/**
 * `loadtest`: from arguments to a plan, a run and its reports. Figures go to standard output, progress and notes to
 * standard error. Exit codes: 0 the objectives were met, 1 they were not or the run was no measurement, 64 usage, 78 config.
 */

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname } from 'node:path'
import { styleText } from 'node:util'
import { Client } from 'undici'
import { parseAddress } from '../config/host-port.ts'
import type { Config } from '../config/schema.ts'
import { parseDuration } from '../config/types.ts'
import { isReservedField } from '../http/reserved-fields.ts'
import { capacityResult, findKnee, type Step } from '../loadtest/capacity.ts'
import { type LoadPlan, peakRate, type Target } from '../loadtest/load-plan.ts'
import { createProbe, type ProbeSample } from '../loadtest/probe.ts'
import { intervalFor, sum } from '../loadtest/recording.ts'
import { capacityReport, loadReport } from '../loadtest/report/html.ts'
import { junitOf, junitXml } from '../loadtest/report/junit.ts'
import { createProgress } from '../loadtest/report/progress.ts'
import { type Colour, type Paint, summaryText } from '../loadtest/report/summary.ts'
import { latencyOf, measureOf, resultOf, totalsOf } from '../loadtest/result.ts'
import { startRun } from '../loadtest/run.ts'
import { isPreset, PRESETS, parseShape, Shape } from '../loadtest/shape.ts'
import {
  formatCount,
  formatMs,
  formatShare,
  formatSlo,
  formatValue,
  judge,
  parseSlos,
  type Slo,
} from '../loadtest/slo.ts'
import { type AskOptions, originOf, parseTarget, targetOf, targetsOfConfig, withToken } from '../loadtest/targets.ts'
import { reasonsAgainst } from '../loadtest/validity.ts'
import { CommandError, EXIT, type Invocation, UsageError, version } from './cli.ts'
import type { LOADTEST_OPTIONS } from './loadtest-options.ts'

const DEFAULT_SLO = 'p95<200ms,errors<0.1%'
const DEFAULT_USERS = 100
const MAX_USERS = 1_000_000
/** What one thread can surely start and finish in a second; more rate gets more threads. */
const RATE_PER_THREAD = 4000
/** The first part of a step of the search for capacity: connections open, caches fill. */
const WARM_UP_SHARE = 0.2
/** A step of the search fails when more than this share is refused. */
const MAX_REFUSED_SHARE = 0.01
/** Sockets left to everything but the load. */
const SPARE_DESCRIPTORS = 64

const painter =
  (stream: NodeJS.WriteStream): Paint =>
  (colour: Colour, text: string) =>
    styleText(colour, text, { stream })

type Values = Partial<Record<keyof typeof LOADTEST_OPTIONS, string | boolean | string[]>>

export async function loadtest({ values, positionals }: Invocation): Promise<number> {
  const options = values as Values
  const preset = positionals[0]
  if (preset !== undefined && !isPreset(preset)) {
    throw new UsageError(`unknown shape "${preset}"; known are ${Object.keys(PRESETS).join(', ')}, and any by --shape`)
  }
  if (preset !== undefined && options.shape !== undefined) throw new UsageError(`either ${preset} or --shape, not both`)
  const slos = given(parseSlos(text(options, 'slo') ?? (preset ? PRESETS[preset].slo : DEFAULT_SLO)))
  const load = loadOf(options, preset && PRESETS[preset].shape)
  const config = await configOf(options)
  const targets = targetsOf(options, config, load.shape.durationMs)
  const { gateway, files } = { gateway: gatewayOf(options, config), files: filesOf(options) }
  const plan = planOf(options, load, targets)
  for (const file of files) mkdirSync(dirname(file), { recursive: true })
  await lookAt(plan)
  const name = preset ?? (options.shape === undefined ? 'steady' : 'shape')
  return options['find-capacity'] === true
    ? await searchCapacity(options, plan, slos)
    : await runOnce(options, name, plan, slos, gateway)
}

const text = (options: Values, name: keyof Values): string | undefined => options[name] as string | undefined
const list = (options: Values, name: keyof Values): string[] => (options[name] as string[] | undefined) ?? []

/** Readers of the load test return a sentence for what they cannot read. */
function given<T>(read: T | string): T {
  if (typeof read === 'string') throw new UsageError(read)
  return read
}

function number(
  options: Values,
  name: keyof Values,
  { min, max, whole = false }: { min: number; max: number; whole?: boolean },
): number | undefined {
  const given = text(options, name)
  if (given === undefined) return undefined
  const value = /^\d+(?:\.\d+)?$/.test(given) ? Number(given) : Number.NaN
  if (!(value >= min && value <= max) || (whole && !Number.isInteger(value))) {
    throw new UsageError(`--${name} expects a ${whole ? 'whole ' : ''}number from ${min} to ${max}, not "${given}"`)
  }
  return value
}

function time(options: Values, name: keyof Values, fallbackMs: number): number {
  const given = text(options, name)
  if (given === undefined) return fallbackMs
  const ms = parseDuration(given)
  if (!ms) throw new UsageError(`--${name} expects a duration such as 500ms or 30s, not "${given}"`)
  return ms
}

type Load = Pick<LoadPlan, 'shape' | 'unit' | 'thinkMs'>

function loadOf(options: Values, presetShape: string | undefined): Load {
  const users = number(options, 'users', { min: 1, max: MAX_USERS })
  const rate = number(options, 'rate', { min: 0.1, max: 1_000_000 })
  if (users !== undefined && rate !== undefined) throw new UsageError('either --users or --rate, not both')
  const scale = number(options, 'scale', { min: 0.0001, max: 1000 }) ?? 1
  const duration = options.duration === undefined ? undefined : time(options, 'duration', 0)
  const unit = rate !== undefined || options['find-capacity'] === true ? 'rate' : 'users'
  const written = text(options, 'shape') ?? presetShape
  const peak = users ?? rate
  let shape: Shape
  if (written === undefined) {
    const level = (peak ?? DEFAULT_USERS) * scale
    shape = new Shape([{ from: level, to: level, durationMs: duration ?? 30_000 }])
  } else {
    shape = given(parseShape(written))
    shape = shape.scaled((peak === undefined ? 1 : peak / shape.peak) * scale)
    if (duration !== undefined) shape = shape.lasting(duration)
  }
  if (unit === 'users' && shape.peak > MAX_USERS) throw new UsageError(`at most ${MAX_USERS} users`)
  return { shape, unit, thinkMs: time(options, 'think', 1000) }
}

async function configOf(options: Values): Promise<Config | undefined> {
  const path = text(options, 'config')
  if (path === undefined) return undefined
  const { loadConfig } = await import('../config/load.ts')
  return loadConfig(path).config
}

function targetsOf(options: Values, config: Config | undefined, durationMs: number): Target[] {
  const written = text(options, 'url')
  if (written === undefined && config === undefined) throw new UsageError('what to load? --url URL or -c FILE')
  const url =
    written === undefined
      ? undefined
      : URL.parse(/^[a-z][a-z0-9+.-]*:\/\//i.test(written) ? written : `http://${written}`)
  if (url === null || (url && !/^https?:$/.test(url.protocol)))
    throw new UsageError(`--url expects an http or https URL, not "${written}"`)
  const origin = url?.origin ?? originOf(config!)
  const ask = askOf(options)
  const own = list(options, 'target').map((target) => given(parseTarget(target, origin, ask)))
  if (config === undefined) {
    if (own.length > 0) return own
    return [targetOf(`${ask.method} ${url!.pathname}`, origin, url!.pathname + url!.search, 1, ask)]
  }
  // A token must outlive the run, and the answers that come after it.
  const lifetimeSec = Math.ceil(durationMs / 1000) + 3600
  const nowSec = Date.now() / 1000
  const { targets, skipped } = targetsOfConfig(config, origin, ask, nowSec, lifetimeSec)
  for (const { name, reason } of skipped) console.error(`not asked: ${name} (${reason})`)
  const all = [...targets, ...own.map((target) => withToken(target, config, ask, nowSec, lifetimeSec))]
  if (all.length === 0) throw new UsageError('no route of the config can be asked; give paths with --target')
  return all
}

function askOf(options: Values): AskOptions {
  const headers: Record<string, string> = {}
  for (const line of list(options, 'header')) {
    const match = /^([!#$%&'*+\-.^_`|~0-9A-Za-z]+)\s*:\s*([\t\x20-\x7e\x80-\xff]*?)\s*$/.exec(line)
    if (!match) throw new UsageError(`--header expects 'NAME: VALUE', not '${line}'`)
    const name = match[1]!.toLowerCase()
    if (name !== 'host' && isReservedField(name))
      throw new UsageError(`the field ${name} belongs to the connection and cannot be set`)
    headers[name] = match[2]!
  }
  const method = text(options, 'method') ?? 'GET'
  if (!/^[A-Z]{1,32}$/.test(method) || method === 'CONNECT')
    throw new UsageError(`--method expects such as GET or POST, not "${method}"`)
  const body = text(options, 'body')
  return {
    headers,
    method,
    body: body === undefined ? null : body.startsWith('@') ? readFileSync(body.slice(1), 'utf8') : body,
    token: text(options, 'token'),
  }
}

interface Gateway {
  admin?: string
  adminToken?: string
  pid?: number
}

/** Where the figures of the gateway come from: as told, else its admin listener when that is on this machine. */
function gatewayOf(options: Values, config: Config | undefined): Gateway {
  const pid = number(options, 'pid', { min: 1, max: 2 ** 31, whole: true })
  const written = text(options, 'admin')
  const own = config?.server.admin === false ? undefined : config?.server.admin
  const adminToken = text(options, 'admin-token') ?? process.env['ADMIN_TOKEN'] ?? own?.metricsToken ?? own?.token
  if (written !== undefined) {
    const address = parseAddress(written)
    const admin = address ? `http://${address.host}:${address.port}` : written
    if (!URL.canParse(admin))
      throw new UsageError(`--admin expects a URL such as http://127.0.0.1:9901, not "${written}"`)
    return { admin, adminToken, pid }
  }
  if (own === undefined || options.url !== undefined) return { pid }
  const { host, port } = own.address
  return {
    admin: `http://${host === '0.0.0.0' ? '127.0.0.1' : host.includes(':') ? `[${host}]` : host}:${port}`,
    adminToken,
    pid,
  }
}

function planOf(options: Values, load: Load, targets: Target[]): LoadPlan {
  const threads = number(options, 'threads', { min: 1, max: 256, whole: true })
  const wanted = Math.ceil(peakRate(load) / RATE_PER_THREAD)
  const arrivals = text(options, 'arrivals') ?? 'poisson'
  if (arrivals !== 'poisson' && arrivals !== 'even')
    throw new UsageError(`--arrivals expects poisson or even, not "${arrivals}"`)
  const expect = (text(options, 'expect') ?? '').split(',').filter((code) => code !== '')
  if (expect.some((code) => !/^[1-5]\d\d$/.test(code.trim())))
    throw new UsageError(`--expect expects statuses such as 401,404`)
  const maxConnections = number(options, 'connections', { min: 1, max: 1_000_000, whole: true }) ?? 20_000
  return {
    ...load,
    targets,
    arrivals,
    timeoutMs: time(options, 'timeout', 10_000),
    maxConnections: Math.min(maxConnections, openFileLimit() - SPARE_DESCRIPTORS),
    threads: threads ?? Math.max(1, Math.min(availableParallelism(), wanted)),
    expect: expect.map(Number),
    insecure: options.insecure === true,
    lateAfterMs: time(options, 'late-after', 25),
    maxLateShare: shareOf(text(options, 'max-late') ?? '1%'),
  }
}

function shareOf(written: string): number {
  const match = /^(\d+(?:\.\d+)?)(%?)$/.exec(written)
  const share = match ? Number(match[1]) / (match[2] === '%' ? 100 : 1) : Number.NaN
  if (!(share >= 0 && share <= 1)) throw new UsageError(`--max-late expects a share such as 1%, not "${written}"`)
  return share
}

function filesOf(options: Values): string[] {
  return (['html', 'json', 'junit'] as const).flatMap((name) => {
    const file = text(options, name)
    return file === undefined || file === '-' ? [] : [file]
  })
}

/** Descriptors that this process may open; where the system does not say, many. */
function openFileLimit(): number {
  try {
    const line = /^Max open files +(\d+)/m.exec(readFileSync('/proc/self/limits', 'latin1'))
    return line ? Number(line[1]) : 1_000_000
  } catch {
    return 1_000_000
  }
}

/** One request to each target: a service that is not there, or a path that is not, is told before it is loaded. */
async function lookAt({ targets, insecure, expect, timeoutMs }: LoadPlan): Promise<void> {
  for (const { name, request } of targets) {
    const { origin, path, method, headers, body } = request
    const client = new Client(origin, {
      connect: { rejectUnauthorized: !insecure, timeout: timeoutMs },
      allowH2: false,
      headersTimeout: timeoutMs,
    })
    try {
      const answer = await client.request({ path, method, headers, body })
      await answer.body.dump()
      const status = answer.statusCode
      if (status >= 400 && status !== 429 && status !== 503 && !expect.includes(status)) {
        console.error(`note: ${name} answers ${status}, which counts as an error (--expect ${status} if it should not)`)
      }
    } catch (error) {
      const { message, code, errors } = error as Error & { code?: string; errors?: Error[] }
      throw new CommandError(`cannot reach ${origin}${path}: ${message || errors?.[0]?.message || code}`)
    } finally {
      await client.destroy()
    }
  }
}

async function runOnce(options: Values, name: string, plan: LoadPlan, slos: Slo[], gateway: Gateway): Promise<number> {
  const progress = createProgress(process.stderr, plan.unit, painter(process.stderr))
  const samples: ProbeSample[] = []
  const probe = createProbe(gateway)
  const startedAt = new Date()
  let beganMs = performance.now()
  let asking = false
  const look = async () => {
    if (asking) return
    asking = true
    const sample = await probe!.sample(performance.now() - beganMs)
    if (sample !== undefined) samples.push(sample)
    asking = false
  }
  let timer: NodeJS.Timeout | undefined
  const run = startRun(plan, {
    onProgress: (now) => progress.show(now),
    onStart() {
      beganMs = performance.now()
      if (probe === undefined) return
      void look()
      timer = setInterval(look, Math.max(250, intervalFor(plan.shape.durationMs)))
    },
  })
  const stop = () => run.stop()
  process.once('SIGINT', stop)
  try {
    const { recording, stopped } = await run.finished
    const result = resultOf({ name, plan, recording, slos, stopped, startedAt, gateway: samples, machine: machine() })
    progress.end()
    await write(options, {
      summary: (paint) => summaryText(result, paint),
      json: () => result,
      junit: () => junitOf(result),
      html: async () => loadReport(result, { slos, version: await version() }),
    })
    return result.verdict === 'PASS' ? EXIT.ok : EXIT.failed
  } finally {
    clearInterval(timer)
    process.removeListener('SIGINT', stop)
    await probe?.close()
  }
}

interface Outputs {
  summary(paint: Paint): string
  json(): unknown
  junit(): string
  html(): Promise<string>
}

async function write(options: Values, outputs: Outputs): Promise<void> {
  const { html, json, junit } = options as Record<string, string | undefined>
  const toStdout = json === '-'
  const stream = toStdout ? process.stderr : process.stdout
  stream.write(outputs.summary(painter(stream)))
  if (json !== undefined) {
    const figures = `${JSON.stringify(outputs.json(), null, 2)}\n`
    if (toStdout) process.stdout.write(figures)
    else writeFileSync(json, figures)
  }
  if (junit !== undefined) writeFileSync(junit, outputs.junit())
  if (html !== undefined) {
    writeFileSync(html, await outputs.html())
    stream.write(`\n  report: ${html}\n`)
  }
}

const machine = () => ({
  node: process.versions.node,
  cpus: availableParallelism(),
  platform: `${process.platform} ${process.arch}`,
})

async function searchCapacity(options: Values, plan: LoadPlan, slos: Slo[]): Promise<number> {
  const stepMs = time(options, 'duration', 5000)
  const startedAt = new Date()
  const paint = painter(process.stderr)
  let stopped = false
  const measure = async (rate: number): Promise<Step> => {
    const shape = new Shape([{ from: rate, to: rate, durationMs: stepMs }])
    const threads =
      options.threads === undefined
        ? Math.max(1, Math.min(availableParallelism(), Math.ceil(rate / RATE_PER_THREAD)))
        : plan.threads
    const stepPlan: LoadPlan = { ...plan, shape, unit: 'rate', threads }
    const run = startRun(stepPlan)
    const stop = () => {
      stopped = true
      run.stop()
    }
    process.once('SIGINT', stop)
    try {
      const step = stepOf(rate, stepPlan, slos, await run.finished)
      const verdict = step.valid
        ? step.passed
          ? paint('green', 'PASS')
          : paint('red', 'FAIL')
        : paint('yellow', 'INVALID')
      const figures = `p95 ${formatMs(step.p95Ms)}, mean ${formatMs(step.meanMs)}, ${formatCount(step.rps)}/s served`
      process.stderr.write(
        `  ${`${formatCount(rate)}/s`.padStart(10)}  ${verdict}  ${figures}${step.reason ? `  (${step.reason})` : ''}\n`,
      )
      return step
    } finally {
      process.removeListener('SIGINT', stop)
    }
  }
  const rate = number(options, 'rate', { min: 0.1, max: 1_000_000 }) ?? 50
  const knee = await findKnee(measure, {
    startRate: rate,
    precision: 0.05,
    maxSteps: 24,
    maxRate: 200_000,
    stopped: () => stopped,
  })
  const result = capacityResult(knee, slos, plan.targets[0]!.request.origin, startedAt)
  await write(options, {
    summary: (colours) => {
      const head = `${colours('bold', 'Capacity')}  ${colours(result.verdict === 'PASS' ? 'green' : result.verdict === 'FAIL' ? 'red' : 'yellow', result.verdict)}\n`
      const reasons = result.reasons.map((reason) => `  ${reason}\n`).join('')
      return `${head}${reasons}${result.yaml === null ? '' : `\n${result.yaml}`}`
    },
    json: () => result,
    junit: () =>
      junitXml('loadtest capacity', result.startedAt, [
        {
          name: `a rate that meets ${slos.map(formatSlo).join(', ')} was found`,
          seconds: (result.steps.length * stepMs) / 1000,
          failure: result.verdict === 'PASS' ? undefined : result.reasons.join('; '),
        },
      ]),
    html: async () => capacityReport(result, { slos, version: await version() }),
  })
  return result.verdict === 'PASS' ? EXIT.ok : EXIT.failed
}

function stepOf(
  rate: number,
  plan: LoadPlan,
  slos: readonly Slo[],
  { recording, stopped }: { recording: Parameters<typeof totalsOf>[0]; stopped: boolean },
): Step {
  const totals = totalsOf(recording, plan.shape.durationMs * WARM_UP_SHARE)
  const invalid = reasonsAgainst(recording, plan, stopped)
  const missed = judge(slos, measureOf(totals, recording.refused)).filter(
    ({ slo, passed }) => !passed && !(slo.metric.startsWith('refused.') && recording.refused.count === 0),
  )
  const refused = totals.shedShare + totals.limitedShare
  const reasons = missed.map(({ slo, value }) => `${slo.metric} was ${formatValue(slo.unit, value)}`)
  if (refused > MAX_REFUSED_SHARE) reasons.push(`${formatShare(refused)} were refused (503 or 429)`)
  const { mean, p95, p99 } = latencyOf(totals.latency)
  return {
    rate,
    passed: reasons.length === 0 && sum(recording.started) > 0,
    valid: invalid.length === 0,
    reason: invalid.length > 0 ? invalid.join('; ') : reasons.join(', '),
    meanMs: mean,
    p95Ms: p95,
    p99Ms: p99,
    rps: totals.rps,
  }
}
