/**
 * Where a section of the report is measured: gateways on one core, the service behind them and the generator of the load on
 * another, each a process as a user starts it. A stage belongs to one section, and ends what it started.
 */

import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { GATEWAY_MAIN, LOAD_CORE, PROXY_CORE } from '../../bench/harness/subjects.ts'
import type { LoadResult } from '../../src/loadtest/result.ts'
import { type ConfigObject, startGateway, type TestGateway } from '../../test/support/gateway.ts'

const UPSTREAM = fileURLToPath(new URL('../../loadtest/upstream.ts', import.meta.url))
/** To start, to look at the targets, to drain. */
const AROUND_MS = 40_000
const START_TIMEOUT_MS = 20_000
/** Never INVALID: for a smoke run on a busy machine, and where time is not what is measured. */
export const PATIENT = ['--late-after', '5s', '--max-late', '100%']

/** How long everything may take. */
export interface Pace {
  /** A smoke run: short, small, and never INVALID. */
  readonly quick: boolean
  /** On the clock of `performance.now()`. */
  readonly endMs: number
}

/** The generator could not drive the load, or the time was up: no figures. */
export class NotMeasured extends Error {}

export interface LoadOptions {
  /** Run before it, and again before it is tried once more. */
  readonly begin?: () => void | Promise<void>
  /** Run once, when this share of the duration is over. */
  readonly look?: () => void | Promise<void>
  readonly lookAt?: number
}

export interface WrkFigures {
  requests: number
  bad: number
  meanUs: number
  /** By percent. */
  percentilesUs: Record<string, number>
}

export class Stage {
  readonly pace: Pace
  readonly folder = mkdtempSync(join(tmpdir(), 'fluxor-report-'))
  readonly #closing: (() => Promise<unknown>)[] = []

  constructor(pace: Pace) {
    this.pace = pace
  }

  /** Seconds of a run: a smoke run takes a tenth. */
  seconds(full: number): number {
    return this.pace.quick ? Math.max(2, Math.round(full / 10)) : full
  }

  /** What is tried in turn when the generator cannot drive it; a smoke run begins at its end. */
  tries<T>(all: readonly T[]): readonly T[] {
    return this.pace.quick ? all.slice(-1) : all
  }

  async gateway(config: ConfigObject): Promise<TestGateway> {
    this.#checkTime()
    const gateway = await startGateway(config, { main: GATEWAY_MAIN, wrap: ['taskset', '-c', `${PROXY_CORE}`] })
    this.#closing.push(() => gateway.close())
    return gateway
  }

  /** The scripted service; its URL. */
  async service(...args: string[]): Promise<string> {
    this.#checkTime()
    const command = ['-c', `${LOAD_CORE}`, process.execPath, UPSTREAM, '--port', '0', ...args]
    const child = spawn('taskset', command, { stdio: ['ignore', 'pipe', 'inherit'] })
    this.#closing.push(() => end(child))
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error('the service did not start in time')), START_TIMEOUT_MS)
      let text = ''
      child.stdout.on('data', (chunk: Buffer) => {
        text += chunk.toString('latin1')
        const url = /listening on (\S+)\n/.exec(text)?.[1]
        if (url === undefined) return
        clearTimeout(timer)
        resolve(url)
      })
      child.once('exit', (code) => reject(new Error(`the service ended with code ${code}`)))
    })
  }

  /**
   * `fluxor-gateway loadtest` with one thread. A run that the generator could not drive is tried once more: something else
   * may have had the machine for a moment. Throws `NotMeasured` after that.
   */
  async load(url: string, seconds: number, args: readonly string[], options: LoadOptions = {}): Promise<LoadResult> {
    const first = await this.#loadOnce(url, seconds, args, options)
    if (first.verdict !== 'INVALID') return first
    process.stderr.write(`  INVALID, once more: ${first.reasons.join('; ')}\n`)
    const second = await this.#loadOnce(url, seconds, args, options)
    if (second.verdict === 'INVALID') throw new NotMeasured(second.reasons.join('; '))
    return second
  }

  async #loadOnce(url: string, seconds: number, args: readonly string[], options: LoadOptions): Promise<LoadResult> {
    this.#checkTime()
    await options.begin?.()
    const file = join(this.folder, 'result.json')
    const all = ['loadtest', '--url', url, '--duration', `${seconds}s`, '--threads', '1', '--json', file, ...args]
    if (this.pace.quick) all.push(...PATIENT)
    const { look, lookAt = 0.8 } = options
    const looked = Promise.withResolvers<void>()
    let timer: NodeJS.Timeout | undefined
    const started = () => {
      if (look === undefined) return looked.resolve()
      timer ??= setTimeout(
        async () => {
          try {
            await look()
            looked.resolve()
          } catch (error) {
            looked.reject(error)
          }
        },
        seconds * lookAt * 1000,
      )
    }
    try {
      await new Promise<void>((resolve, reject) => {
        const command = ['-c', `${LOAD_CORE}`, process.execPath, GATEWAY_MAIN, ...all]
        const child = execFile('taskset', command, { timeout: seconds * 1000 + AROUND_MS }, (error, _, stderr) => {
          // 1 is its verdict, which is in the figures.
          if (error && error.code !== 1) reject(new Error(`the load test failed: ${stderr || error.message}`))
          else resolve()
        })
        // Its first line of progress comes half a second after the start.
        child.stderr!.once('data', started)
      })
      started()
      await looked.promise
    } finally {
      clearTimeout(timer)
    }
    const result = JSON.parse(readFileSync(file, 'utf8')) as LoadResult
    process.stderr.write(
      `  ${result.plan.load}: ${result.rps.toFixed(0)}/s served, p95 ${result.latencyMs.p95.toFixed(1)} ms, ${result.verdict}\n`,
    )
    return result
  }

  async wrk(url: string, connections: number, seconds: number, percents: readonly number[]): Promise<WrkFigures> {
    this.#checkTime()
    const script = join(this.folder, 'done.lua')
    const values = percents.map((percent) => `'"${percent}":' .. latency:percentile(${percent})`).join(` .. ',' .. `)
    writeFileSync(
      script,
      `done = function(summary, latency)
  local e = summary.errors
  io.write('{"requests":' .. summary.requests .. ',"bad":' .. (e.connect + e.read + e.write + e.status + e.timeout) ..
    ',"meanUs":' .. latency.mean .. ',"percentilesUs":{' .. ${values} .. '}}\\n')
end
`,
    )
    const args = [
      '-c',
      `${LOAD_CORE}`,
      'wrk',
      '-t1',
      `-c${connections}`,
      `-d${seconds}s`,
      '--latency',
      '-s',
      script,
      url,
    ]
    const output = await new Promise<string>((resolve, reject) => {
      execFile('taskset', args, { timeout: seconds * 1000 + AROUND_MS }, (error, stdout, stderr) => {
        if (error) reject(new Error(`wrk failed: ${stderr || stdout || error.message}`))
        else resolve(stdout)
      })
    })
    const line = output.split('\n').find((text) => text.startsWith('{"requests"'))
    if (line === undefined) throw new Error(`wrk printed no figures:\n${output}`)
    return JSON.parse(line) as WrkFigures
  }

  #checkTime(): void {
    if (performance.now() > this.pace.endMs) throw new NotMeasured('the time of the report was up')
  }

  /** Ends what was started so far. */
  async clear(): Promise<void> {
    for (const close of this.#closing.splice(0).reverse()) await close()
  }

  async close(): Promise<void> {
    await this.clear()
    rmSync(this.folder, { recursive: true, force: true })
  }
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const ended = new Promise((resolve) => child.once('exit', resolve))
  child.kill('SIGKILL')
  await ended
}
