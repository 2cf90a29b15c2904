/**
 * A service to be loaded, by script: answers after a time drawn from a distribution, with a body of a given size, with
 * errors at a given rate, and with as many servers as one says, in front of which requests queue. What a real service
 * does under load, without the real service: `node loadtest/upstream.ts --latency lognormal:p50=20ms,p99=120ms --servers 50`.
 *
 * Each request may override it by header: `x-upstream-latency`, `x-upstream-status`, `x-upstream-bytes`,
 * `x-upstream-error-rate`. `GET /health` answers at once, `GET /stats` tells what went on.
 */

import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { parseArgs } from 'node:util'
import { parseBytes, parseDuration } from '../src/config/types.ts'
import { createRandom, exponential, type Random } from '../src/loadtest/random.ts'

/** Draws a service time, in milliseconds. */
export type Latency = (random: Random) => number

/** The 99th percentile of the standard normal distribution. */
const Z99 = 2.326347874

const FORMS = 'fixed:20ms, exp:20ms, uniform:5ms..50ms or lognormal:p50=20ms,p99=120ms'

/** `20ms`, or one of the forms above. Undefined when it is none of them. */
export function parseLatency(text: string): Latency | undefined {
  const [kind, rest] = text.includes(':') ? (text.split(/:(.*)/s) as [string, string]) : ['fixed', text]
  const ms = (written: string | undefined) =>
    written === undefined ? undefined : written === '0' ? 0 : parseDuration(written)
  if (kind === 'fixed') {
    const fixed = ms(rest)
    return fixed === undefined ? undefined : () => fixed
  }
  if (kind === 'exp') {
    const mean = ms(rest)
    return mean === undefined ? undefined : (random) => mean * exponential(random)
  }
  if (kind === 'uniform') {
    const [from, to] = rest.split('..').map(ms)
    return from === undefined || to === undefined || to < from ? undefined : (random) => from + (to - from) * random()
  }
  if (kind === 'lognormal') {
    const match = /^p50=([^,]+),p99=([^,]+)$/.exec(rest)
    const p50 = ms(match?.[1])
    const p99 = ms(match?.[2])
    if (!p50 || !p99 || p99 < p50) return undefined
    const sigma = Math.log(p99 / p50) / Z99
    return (random) => p50 * Math.exp(sigma * normal(random))
  }
  return undefined
}

/** Box and Muller's. */
const normal = (random: Random): number => Math.sqrt(2 * exponential(random)) * Math.cos(2 * Math.PI * random())

export interface UpstreamOptions {
  readonly port?: number
  readonly host?: string
  readonly latency?: string
  /** 0…1. */
  readonly errorRate?: number
  readonly errorStatus?: number
  readonly bodyBytes?: number
  /** Requests served at once; the others wait in order. */
  readonly servers?: number
  /** Most that may wait; beyond it 503 at once. */
  readonly queue?: number
  readonly seed?: number
}

export interface UpstreamStats {
  served: number
  errors: number
  refused: number
  inService: number
  waiting: number
  maxInService: number
  maxWaiting: number
  /** Requests whose client left before the answer. */
  abandoned: number
}

export interface ScriptedUpstream {
  readonly server: Server
  readonly url: string
  readonly port: number
  readonly stats: UpstreamStats
  close(): Promise<void>
}

const MAX_BODY_BYTES = 64 * 1024 * 1024

/** Throws a `TypeError` for a latency that cannot be read. */
export async function startScriptedUpstream(options: UpstreamOptions = {}): Promise<ScriptedUpstream> {
  const { servers = Number.POSITIVE_INFINITY, queue = Number.POSITIVE_INFINITY } = options
  const latency = parseLatency(options.latency ?? '0')
  if (latency === undefined) throw new TypeError(`cannot read the latency '${options.latency}': expected ${FORMS}`)
  const random = createRandom(options.seed ?? 1)
  const stats: UpstreamStats = {
    served: 0,
    errors: 0,
    refused: 0,
    inService: 0,
    waiting: 0,
    maxInService: 0,
    maxWaiting: 0,
    abandoned: 0,
  }
  const bodies = new Map<number, Buffer>()
  const bodyOf = (bytes: number): Buffer => {
    let body = bodies.get(bytes)
    if (body === undefined) {
      body = Buffer.from(`{"data":"${'x'.repeat(Math.max(0, bytes - 11))}"}`)
      if (bodies.size < 64) bodies.set(bytes, body)
    }
    return body
  }
  /** Requests that wait for a server, first come first served. A Set, so that one who leaves is gone at once. */
  const waiting = new Set<() => void>()

  const take = (begin: () => void) => {
    stats.inService++
    if (stats.inService > stats.maxInService) stats.maxInService = stats.inService
    begin()
  }
  const release = () => {
    stats.inService--
    const next = waiting.values().next().value
    if (next === undefined) return
    waiting.delete(next)
    stats.waiting = waiting.size
    take(next)
  }

  const server = createServer((request, response) => {
    request.resume()
    if (request.url === '/health') return answer(response, 200, Buffer.from('{"status":"healthy"}'))
    if (request.url === '/stats') return answer(response, 200, Buffer.from(JSON.stringify(stats)))
    const read = scriptOf(request, { ...options, latency })
    if (typeof read === 'string') return answer(response, 400, Buffer.from(JSON.stringify({ error: read })))
    const script = read
    const serve = () => {
      const serviceMs = script.latency(random)
      let gone = false
      const timer = setTimeout(done, serviceMs)
      response.on('close', () => {
        if (response.writableFinished || gone) return
        gone = true
        clearTimeout(timer)
        stats.abandoned++
        release()
      })
      function done() {
        if (gone) return
        gone = true
        const fails = random() < script.errorRate
        stats.served++
        if (fails) stats.errors++
        answer(response, fails ? script.errorStatus : script.status, bodyOf(script.bytes))
        release()
      }
    }
    if (stats.inService < servers) return take(serve)
    if (waiting.size >= queue) {
      stats.refused++
      return answer(response, 503, Buffer.from('{"error":"the queue is full"}'))
    }
    waiting.add(serve)
    stats.waiting = waiting.size
    if (stats.waiting > stats.maxWaiting) stats.maxWaiting = stats.waiting
    response.on('close', () => {
      if (!waiting.delete(serve)) return
      stats.waiting = waiting.size
      stats.abandoned++
    })
  })
  server.keepAliveTimeout = 75_000
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(options.port ?? 0, options.host ?? '127.0.0.1', 4096, resolve)
  })
  const { port } = server.address() as { port: number }
  return {
    server,
    port,
    url: `http://${options.host ?? '127.0.0.1'}:${port}`,
    stats,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}

interface Script {
  latency: Latency
  status: number
  bytes: number
  errorRate: number
  errorStatus: number
}

/** What becomes of one request; a sentence when a header cannot be read. */
function scriptOf(
  { headers }: IncomingMessage,
  options: Omit<UpstreamOptions, 'latency'> & { latency: Latency },
): Script | string {
  const header = (name: string) => headers[`x-upstream-${name}`] as string | undefined
  const latency = header('latency') === undefined ? options.latency : parseLatency(header('latency')!)
  if (latency === undefined) return `x-upstream-latency: expected ${FORMS}`
  const status = Number(header('status') ?? 200)
  if (!Number.isInteger(status) || status < 200 || status > 599) return 'x-upstream-status: expected 200 to 599'
  const size = header('bytes')
  const bytes = size === undefined ? (options.bodyBytes ?? 128) : parseBytes(/^\d+$/.test(size) ? Number(size) : size)
  if (bytes === undefined || bytes > MAX_BODY_BYTES) return 'x-upstream-bytes: expected a size up to 64MiB'
  const errorRate = header('error-rate') === undefined ? (options.errorRate ?? 0) : parseShare(header('error-rate')!)
  if (errorRate === undefined) return 'x-upstream-error-rate: expected a share such as 1%'
  return { latency, status, bytes, errorRate, errorStatus: options.errorStatus ?? 500 }
}

/** `1%` or `0.01`; undefined when it is neither. */
export function parseShare(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)(%?)$/.exec(text)
  const share = match ? Number(match[1]) / (match[2] === '%' ? 100 : 1) : Number.NaN
  return share <= 1 ? share : undefined
}

function answer(response: ServerResponse, status: number, body: Buffer): void {
  if (response.destroyed) return
  // RFC 9110 §15.3.5, §15.4.5: these have no content.
  const bare = status === 204 || status === 304
  response.writeHead(status, bare ? {} : { 'content-type': 'application/json', 'content-length': body.length })
  response.end(bare ? undefined : body)
}

const HELP = `A scripted service for load tests.

Usage: node loadtest/upstream.ts [options]

  --port N            where to listen; default 3000
  --host ADDRESS      default 127.0.0.1
  --latency FORM      ${FORMS}; default 0
  --error-rate SHARE  such as 1%
  --error-status N    default 500
  --bytes SIZE        size of the body, such as 1KiB; default 128
  --servers N         requests served at once; default: no limit
  --queue N           most that wait for a server, 503 beyond; default: no limit
  --seed N            default 1`

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      port: { type: 'string' },
      host: { type: 'string' },
      latency: { type: 'string' },
      'error-rate': { type: 'string' },
      'error-status': { type: 'string' },
      bytes: { type: 'string' },
      servers: { type: 'string' },
      queue: { type: 'string' },
      seed: { type: 'string' },
      help: { type: 'boolean', short: 'h' },
    },
  })
  if (values.help) return console.log(HELP)
  const whole = (name: 'port' | 'error-status' | 'servers' | 'queue' | 'seed') => {
    const given = values[name]
    if (given !== undefined && !/^\d{1,9}$/.test(given))
      throw new TypeError(`--${name} expects a whole number, not '${given}'`)
    return given === undefined ? undefined : Number(given)
  }
  const size = values.bytes
  const bodyBytes = size === undefined ? undefined : parseBytes(/^\d+$/.test(size) ? Number(size) : size)
  if (size !== undefined && bodyBytes === undefined) throw new TypeError(`--bytes expects a size, not '${size}'`)
  const errorRate = values['error-rate'] === undefined ? undefined : parseShare(values['error-rate'])
  if (values['error-rate'] !== undefined && errorRate === undefined)
    throw new TypeError('--error-rate expects a share such as 1%')
  const upstream = await startScriptedUpstream({
    port: whole('port') ?? 3000,
    host: values.host,
    latency: values.latency,
    errorRate,
    errorStatus: whole('error-status'),
    bodyBytes,
    servers: whole('servers'),
    queue: whole('queue'),
    seed: whole('seed'),
  })
  console.log(`listening on ${upstream.url}`)
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => void upstream.close())
}

if (import.meta.main) {
  try {
    await main()
  } catch (error) {
    console.error(error instanceof Error ? error.message : error)
    process.exitCode = error instanceof TypeError ? 64 : 1
  }
}
