/**
 * Starts the gateway for a test the way a user does: its command line in a process of its own, with a config file, on
 * ports that the system chooses. What it prints is read for the bound addresses and kept for assertions.
 */

import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const MAIN = fileURLToPath(new URL('../../src/main.ts', import.meta.url))
const START_TIMEOUT_MS = 20_000
const STOP_TIMEOUT_MS = 40_000
const MAX_LOG_LINES = 20_000

/** A config as a JavaScript object; keys as in the YAML file. */
export type ConfigObject = Record<string, unknown>

export interface StartOptions {
  env?: Record<string, string>
  /** More arguments behind `run -c FILE`. */
  args?: string[]
  /** A program that starts the gateway in its place, by exec: `['taskset', '-c', '0']`. */
  wrap?: string[]
  /** The file to run; default src/main.ts. */
  main?: string
}

/** One line of the gateway's output: JSON lines parsed, anything else as `{ msg }`. */
export type LogLine = Record<string, unknown> & { msg?: string }

export class TestGateway {
  readonly configFile: string
  readonly #process: ChildProcess
  readonly #folder: string
  readonly #lines: LogLine[] = []
  readonly #listeners: string[] = []
  #output = ''
  #admin = ''
  #waiting: (() => void)[] = []
  readonly #exit: Promise<number>
  #exited = false

  constructor(config: string, folder: string, options: StartOptions) {
    this.#folder = folder
    this.configFile = join(folder, 'gateway.yaml')
    writeFileSync(this.configFile, config)
    const node = [process.execPath, options.main ?? MAIN, 'run', '-c', this.configFile, ...(options.args ?? [])]
    const [program, ...args] = [...(options.wrap ?? []), ...node]
    this.#process = spawn(program!, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, NODE_ENV: 'production', ...options.env },
    })
    let rest = ''
    const read = (chunk: Buffer) => {
      rest += chunk.toString('latin1')
      const lines = rest.split('\n')
      rest = lines.pop()!
      for (const line of lines) this.#read(line)
    }
    this.#process.stdout!.on('data', read)
    this.#process.stderr!.on('data', (chunk: Buffer) => {
      for (const line of chunk.toString('latin1').split('\n')) if (line !== '') this.#read(line)
    })
    this.#exit = new Promise((resolve) => {
      this.#process.on('exit', (code, signal) => {
        this.#exited = true
        resolve(code ?? (signal === null ? -1 : -2))
        this.#wake()
      })
    })
  }

  get pid(): number {
    return this.#process.pid!
  }

  get running(): boolean {
    return !this.#exited
  }

  /** Port of the first listener. */
  get port(): number {
    return portOf(this.#listeners[0] ?? '')
  }

  /** Ports of all listeners, in the order in which they were announced. */
  get ports(): number[] {
    return this.#listeners.map(portOf)
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`
  }

  get adminPort(): number {
    return portOf(this.#admin)
  }

  /** Asks the admin listener. */
  admin(path: string, init?: RequestInit): Promise<Response> {
    return fetch(`http://127.0.0.1:${this.adminPort}${path}`, init)
  }

  /** Every sample of a metric on the admin port's `/metrics`, summed over its labels; undefined when there is none. */
  async metric(name: string, labels: Record<string, string> = {}): Promise<number | undefined> {
    return sumOf(await (await this.admin('/metrics')).text(), name, labels)
  }

  /** What was printed so far, oldest first (the last 20 000 lines). */
  logs(): readonly LogLine[] {
    return this.#lines
  }

  /** Everything printed so far as text, for the message of a failed assertion. */
  output(): string {
    return this.#output
  }

  /** The first line that `matches`, printed already or within `timeoutMs`. */
  async waitForLog(matches: (line: LogLine) => boolean, timeoutMs = 10_000): Promise<LogLine> {
    await this.#until(() => this.#lines.some(matches), timeoutMs, 'the awaited log line')
    return this.#lines.find(matches)!
  }

  /** Resident memory of the process, bytes. */
  rssBytes(): number {
    const status = readFileSync(`/proc/${this.pid}/status`, 'latin1')
    return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1] ?? 0) * 1024
  }

  /** Rewrites the config file and asks for a reload; the caller waits for what it expects to change. */
  reload(config: ConfigObject | string): void {
    writeFileSync(this.configFile, configText(config))
    this.signal('SIGHUP')
  }

  signal(signal: NodeJS.Signals): void {
    this.#process.kill(signal)
  }

  /** Sends the signal and gives the exit code; -2 when it took SIGKILL (also as the last resort after 40 s). */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<number> {
    if (!this.#exited) this.#process.kill(signal)
    const hard = setTimeout(() => this.#process.kill('SIGKILL'), STOP_TIMEOUT_MS)
    const code = await this.#exit
    clearTimeout(hard)
    return code
  }

  /** Ends the process at once and removes its files. For `afterAll`. */
  async close(): Promise<void> {
    await this.stop('SIGKILL')
    rmSync(this.#folder, { recursive: true, force: true })
  }

  /** Resolves once `listeners` addresses (and the admin's, when there is one) are bound. */
  async started(listeners: number, admin: boolean): Promise<void> {
    await this.#until(
      () => this.#listeners.length >= listeners && (!admin || this.#admin !== ''),
      START_TIMEOUT_MS,
      'the line that says where it listens',
    )
  }

  async #until(done: () => boolean, timeoutMs: number, what: string): Promise<void> {
    const deadline = performance.now() + timeoutMs
    while (!done()) {
      if (this.#exited) throw new Error(`the gateway ended before ${what}:\n${this.#output}`)
      const left = deadline - performance.now()
      if (left <= 0) throw new Error(`the gateway did not print ${what} within ${timeoutMs} ms:\n${this.#output}`)
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left)
        this.#waiting.push(() => {
          clearTimeout(timer)
          resolve()
        })
      })
    }
  }

  #wake(): void {
    const waiting = this.#waiting
    this.#waiting = []
    for (const wake of waiting) wake()
  }

  #read(text: string): void {
    this.#output = (this.#output + text + '\n').slice(-200_000)
    let line: LogLine = { msg: text }
    if (text.startsWith('{')) {
      try {
        line = JSON.parse(text) as LogLine
      } catch {
        // a plain line that happens to begin with a brace
      }
    }
    this.#lines.push(line)
    if (this.#lines.length > MAX_LOG_LINES) this.#lines.shift()
    const address = String(line['address'] ?? '')
    if (line.msg === 'listening' && !this.#listeners.includes(address)) this.#listeners.push(address)
    if (line.msg === 'admin listening') this.#admin = address
    this.#wake()
  }
}

/**
 * Runs the gateway with this config and waits until it listens. Where the config has no `server.listen` or
 * `server.admin`, both get a free port of 127.0.0.1; where it has no `logging`, the access log is off.
 */
export async function startGateway(config: ConfigObject | string, options: StartOptions = {}): Promise<TestGateway> {
  const folder = mkdtempSync(join(tmpdir(), 'fluxor-gateway-'))
  const gateway = new TestGateway(configText(config), folder, options)
  try {
    const server = typeof config === 'string' ? {} : ((config['server'] ?? {}) as ConfigObject)
    const listen = server['listen']
    await gateway.started(Array.isArray(listen) ? listen.length : 1, true)
    return gateway
  } catch (error) {
    await gateway.close()
    throw error
  }
}

/** The file's text: JSON is YAML. */
export function configText(config: ConfigObject | string): string {
  if (typeof config === 'string') return config
  const server = (config['server'] ?? {}) as ConfigObject
  const full = {
    version: 1,
    logging: { access: { only: 'none' } },
    ...config,
    server: { listen: [{ address: '127.0.0.1:0' }], admin: { address: '127.0.0.1:0' }, ...server },
  }
  return JSON.stringify(full, null, 2)
}

function portOf(address: string): number {
  const port = Number(address.slice(address.lastIndexOf(':') + 1))
  if (!(port > 0)) throw new Error(`no port in the address "${address}"`)
  return port
}

/** Sums the samples of `name` whose labels include `labels`, in Prometheus' text format. */
export function sumOf(text: string, name: string, labels: Record<string, string> = {}): number | undefined {
  let sum: number | undefined
  for (const line of text.split('\n')) {
    if (!line.startsWith(name)) continue
    const next = line[name.length]
    if (next !== '{' && next !== ' ') continue
    if (!Object.entries(labels).every(([key, value]) => line.includes(`${key}="${value}"`))) continue
    sum = (sum ?? 0) + Number(line.slice(line.lastIndexOf(' ') + 1))
  }
  return sum
}
