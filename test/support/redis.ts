/** A real redis-server of a test's own: on a free port, without persistence, stopped by its pid. */

import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { freePort } from './free-port.ts'
import { services } from './services.ts'

const START_TIMEOUT_MS = 10_000

export class TestRedis {
  readonly port: number
  readonly url: string
  readonly #folder = mkdtempSync(join(tmpdir(), 'fluxor-redis-'))
  #process: ChildProcess | undefined

  constructor(port: number) {
    this.port = port
    this.url = `redis://127.0.0.1:${port}`
  }

  get pid(): number | undefined {
    return this.#process?.pid
  }

  /** Starts the server, also again on the same port after `stop()` or `kill()`; resolves once it answers PING. */
  async start(): Promise<void> {
    if (services.redis === undefined) throw new Error('there is no redis-server on PATH')
    const args = [
      '--port',
      `${this.port}`,
      '--bind',
      '127.0.0.1',
      '--save',
      '',
      '--appendonly',
      'no',
      '--dir',
      this.#folder,
    ]
    this.#process = spawn(services.redis, args, { stdio: 'ignore' })
    const deadline = performance.now() + START_TIMEOUT_MS
    while (!(await this.#answersPing())) {
      if (performance.now() > deadline) throw new Error(`redis-server on port ${this.port} did not answer`)
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
  }

  /** Sends one inline command and gives the raw first reply, for tests that look behind the gateway's back. */
  command(line: string): Promise<string> {
    return new Promise((resolve, reject) => {
      const socket = connect(this.port, '127.0.0.1', () => socket.write(`${line}\r\n`))
      socket.setTimeout(2000, () => socket.destroy(new Error('redis-server does not answer')))
      socket.once('error', reject)
      socket.once('data', (reply) => {
        socket.destroy()
        resolve(reply.toString('latin1'))
      })
    })
  }

  /** Orderly. */
  stop(): Promise<void> {
    return this.#end('SIGTERM')
  }

  /** As a crash. */
  kill(): Promise<void> {
    return this.#end('SIGKILL')
  }

  /** The server keeps its connections and answers nothing: the hang, not the refusal. */
  pause(): void {
    this.#process?.kill('SIGSTOP')
  }

  resume(): void {
    this.#process?.kill('SIGCONT')
  }

  async close(): Promise<void> {
    await this.kill()
    rmSync(this.#folder, { recursive: true, force: true })
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    const child = this.#process
    this.#process = undefined
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return
    const ended = new Promise((resolve) => child.once('exit', resolve))
    child.kill(signal)
    await ended
  }

  async #answersPing(): Promise<boolean> {
    try {
      return (await this.command('PING')).startsWith('+PONG')
    } catch {
      return false
    }
  }
}

export async function startRedis(): Promise<TestRedis> {
  const redis = new TestRedis(await freePort())
  await redis.start()
  return redis
}
