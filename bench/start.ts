/** How long it takes from starting the process to its first answer: the compiled command, with a config of a few routes. */

import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { freePort } from '../test/support/free-port.ts'
import { configText } from '../test/support/gateway.ts'
import { median, spreadOf } from './harness/compare.ts'
import type { Figures, Question } from './harness/question.ts'
import { GATEWAY_MAIN, PROXY_CORE } from './harness/subjects.ts'

const STARTS = 11
const AT_MOST_MS = 300
const GIVE_UP_MS = 20_000
/** Between two tries to connect, while nothing listens. */
const RETRY_MS = 1

/** Resolves with the whole answer, or with undefined when nobody listens yet. */
function ask(port: number): Promise<string | undefined> {
  return new Promise((resolve) => {
    let text = ''
    const socket = connect({ port, host: '127.0.0.1', noDelay: true }, () => {
      socket.write('GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n')
    })
    socket.on('data', (chunk) => (text += chunk.toString('latin1')))
    socket.on('error', () => resolve(undefined))
    socket.on('close', () => resolve(text === '' ? undefined : text))
  })
}

async function end(child: ChildProcess): Promise<void> {
  const ended = new Promise((resolve) => child.once('exit', resolve))
  if (child.exitCode === null && child.signalCode === null) {
    child.kill('SIGKILL')
    await ended
  }
}

async function startOnce(wrap: string[], folder: string): Promise<number> {
  const port = await freePort()
  const file = join(folder, 'gateway.yaml')
  const config = {
    server: { listen: [{ address: `127.0.0.1:${port}` }] },
    admission: { maxCCU: 5000 },
    rateLimits: { perIp: { key: 'ip', requestsPerMinute: 1000 } },
    upstreams: { app: { endpoints: [{ url: 'http://127.0.0.1:9' }] } },
    routes: [
      { match: { path: '/' }, home: {} },
      { match: { path: '/health' }, health: {} },
      { match: { pathPrefix: '/api' }, upstream: 'app', rateLimit: ['perIp'] },
    ],
  }
  writeFileSync(file, configText(config))
  const [program, ...args] = [...wrap, process.execPath, GATEWAY_MAIN, 'run', '-c', file]
  const startedMs = performance.now()
  const child = spawn(program!, args, { stdio: 'ignore', env: { ...process.env, NODE_ENV: 'production' } })
  try {
    for (;;) {
      const text = await ask(port)
      const tookMs = performance.now() - startedMs
      if (text !== undefined) {
        if (!text.startsWith('HTTP/1.1 200 ')) throw new Error(`the first answer was ${text.slice(0, 200)}`)
        return tookMs
      }
      if (child.exitCode !== null) throw new Error(`the gateway ended with ${child.exitCode}`)
      if (tookMs > GIVE_UP_MS) throw new Error('the gateway did not answer')
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS))
    }
  } finally {
    await end(child)
  }
}

async function measure(): Promise<Figures> {
  const folder = mkdtempSync(join(tmpdir(), 'fluxor-start-'))
  try {
    const pinned: number[] = []
    const free: number[] = []
    for (let i = 0; i <= STARTS; i++) {
      const one = await startOnce(['taskset', '-c', `${PROXY_CORE}`], folder)
      const all = await startOnce([], folder)
      if (i === 0) continue // the first reads the files from the disk
      pinned.push(one)
      free.push(all)
    }
    const row = (name: string, ms: number[]) => [name, median(ms).toFixed(0), spreadOf(ms, 0, ' ms')]
    return {
      rows: [['', 'ms', 'spread'], row('on one core', pinned), row('on all cores', free)],
      verdicts: [
        {
          text: `from start to first answer, on one core: at most ${AT_MOST_MS} ms`,
          found: spreadOf(pinned, 0, ' ms'),
          met: median(pinned) <= AT_MOST_MS,
        },
      ],
      notes: [`medians of ${STARTS} starts, files warm; the clock runs from before the process is made`],
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

export const question: Question = { asks: 'how long does a start take?', measure }
