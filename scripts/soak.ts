/**
 * `npm run soak [-- --seconds 600] [--warmup 60] [--threads 1] [--out DIR] [--seed N]`: mixed traffic, clients that leave, reloads
 * and a service that breaks, for as long as asked; then: does memory grow, are all descriptors back, is the ledger even?
 * Writes soak.json and soak.svg, prints a verdict, exits 1 when it is not met.
 */

import { createHmac } from 'node:crypto'
import { mkdirSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { startGateway, sumOf, type TestGateway } from '../test/support/gateway.ts'
import {
  answer,
  bytesThenClose,
  bytesThenReset,
  chunked,
  hang,
  type RawUpstream,
  type Script,
  startRawUpstream,
} from '../test/support/upstream.ts'

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '600' },
    /** Not counted in the slope; a sixth of the time when it is not given. */
    warmup: { type: 'string' },
    threads: { type: 'string', default: '1' },
    out: { type: 'string', default: join(tmpdir(), 'fluxor-soak') },
    seed: { type: 'string' },
  },
})
const SECONDS = wholeNumber(values.seconds, '--seconds')
const WARMUP_S = values.warmup === undefined ? Math.floor(SECONDS / 6) : wholeNumber(values.warmup, '--warmup')
const THREADS = wholeNumber(values.threads, '--threads')
const SEED = values.seed === undefined ? Math.floor(Math.random() * 2 ** 31) : wholeNumber(values.seed, '--seed')

const CLIENTS = 16
/** Requests of one client in a second, at most: a soak is long, not fast. */
const PAUSE_MS = 20
const SAMPLE_MS = Math.max(250, Math.min(5000, (SECONDS * 1000) / 120))
const RELOAD_MS = Math.max(2000, Math.min(15_000, (SECONDS * 1000) / 20))
const FAULT_MS = Math.max(3000, Math.min(20_000, (SECONDS * 1000) / 15))
const SLOPE_MIB_PER_HOUR = 1
/** Below this a slope says nothing: the heap moves by more than that within a minute. */
const SLOPE_AFTER_S = 1200
/** Beyond what the cache and the tables of clients may hold, which are full after the warm-up. */
const LIVE_GROWTH_MIB = 4
const SECRET = 'a-secret-of-the-soak-of-32-bytes-or-more'

interface Sample {
  second: number
  rssMiB: number
  heapMiB: number
  descriptors: number
  ccu: number
  skew: number
}

const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms))

/** A small generator with a seed: a run that fails can be repeated as far as its order goes. */
let state = SEED || 1
function random(below: number): number {
  state ^= state << 13
  state ^= state >>> 17
  state ^= state << 5
  return (state >>> 0) % below
}

const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')
/** A client has the same token for a minute, as clients do: one a request would be two generations of verified ones, in turn. */
function token(sub: string): string {
  const text = `${part({ alg: 'HS256' })}.${part({ sub, exp: (Math.floor(Date.now() / 60_000) + 2) * 60 })}`
  return `${text}.${createHmac('sha256', SECRET).update(text).digest('base64url')}`
}

/** Name of the upstream, and of its path, that this config has and the next has not. */
const passing = (generation: number) => `only${generation % 5}`

function config(upstream: RawUpstream, dead: number, generation: number) {
  const app = { upstream: 'app' }
  return {
    server: {
      threads: THREADS,
      timeouts: { header: '2s', body: '2s', request: '5s', idle: '5s' },
      shutdown: { drain: '5s' },
    },
    admission: { maxCCU: 64, workers: 48, queueTimeout: '200ms', utilizationPercent: 50 + (generation % 40) },
    identity: { jwt: { main: { secret: SECRET, algorithms: ['HS256'], forward: { 'x-user-id': 'sub' } } } },
    rateLimits: {
      perIp: { key: 'ip', limit: 1_000_000, window: '60s' },
      perSub: { key: 'claim:sub', limit: 50, window: '1s' },
    },
    cache: { memory: { maxBytes: '4MiB' } },
    compression: { minBytes: 256 },
    upstreams: {
      app: {
        endpoints: [{ url: upstream.url }],
        timeouts: { connect: '500ms', firstByte: '1s', idle: '1s' },
        pool: { maxIdleConns: 16 + (generation % 8), connMaxLifetime: '20s' },
      },
      pair: {
        endpoints: [{ url: upstream.url }, { url: `http://127.0.0.1:${dead}` }],
        outlier: { consecutiveErrors: 3, ejectFor: '2s' },
      },
      // Comes and goes with every reload: nothing of it may stay behind. Few names: a name's counters stay, as Prometheus wants.
      [passing(generation)]: {
        endpoints: [{ url: upstream.url }],
        health: { path: '/health', interval: '1s', timeout: '500ms' },
      },
    },
    logging: { access: { format: 'json', file: '/dev/null' } },
    routes: [
      { match: { path: '/local' }, respond: { status: 200, body: 'local' } },
      { match: { path: `/${passing(generation)}` }, upstream: passing(generation) },
      { match: { pathPrefix: '/jwt' }, ...app, jwt: 'main', rateLimit: ['perSub'] },
      { match: { pathPrefix: '/cached' }, ...app, cache: { ttl: '1s', staleWhileRevalidate: '1s' }, compression: true },
      { match: { pathPrefix: '/pair' }, upstream: 'pair' },
      { match: { pathPrefix: '/' }, ...app, rateLimit: ['perIp'], compression: true },
    ],
  }
}

function setScripts(upstream: RawUpstream): void {
  const large = Buffer.alloc(200_000, 'text of the service, ')
  const scripts: Record<string, Script> = {
    '/large': answer(200, large, ['Content-Type: text/plain']),
    '/chunks': chunked(['one', 'two', 'three'.repeat(1000)], ['X-Sum: 1']),
    '/hang': hang,
    '/close': bytesThenClose(),
    '/reset': bytesThenReset(),
    '/cut': bytesThenReset('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf'),
    '/garbage': bytesThenClose('garbage\r\n\r\n'),
    '/slow': (socket, request) => void setTimeout(() => answer(200, 'slow')(socket, request), 30),
  }
  for (const [path, script] of Object.entries(scripts)) upstream.on(path, script)
}

/** What one client does next: the bytes, and when it leaves without waiting (-1: it waits for the end). */
function nextExchange(generation: number): [text: string, leaveMs: number] {
  const get = (target: string, more = '') =>
    `GET ${target} HTTP/1.1\r\nHost: soak.test\r\nConnection: close\r\n${more}\r\n`
  const n = random(1000)
  const leaves = random(8) === 0 ? random(40) : -1
  const kinds: (() => string)[] = [
    () => get('/local'),
    () => get(`/page${n}`),
    () => get(`/cached/${random(300)}`, 'Accept-Encoding: gzip\r\n'),
    () => get('/jwt', `Authorization: Bearer ${token(`user${n % 100}`)}\r\n`),
    () => get('/jwt', `Authorization: Bearer ${part({ n })}.x.y\r\n`),
    () => get('/large', n % 2 === 0 ? 'Accept-Encoding: br\r\n' : ''),
    () => get('/chunks'),
    () => get('/slow'),
    () => get('/pair'),
    () => get(`/${passing(generation)}`),
    () => get(['/hang', '/close', '/reset', '/cut', '/garbage'][n % 5]!),
    () => get(`/${'../'.repeat(n % 50)}%2f`),
    () => `GET / HTTP/1.1\r\nHost: soak.test\r\nX : ${n}\r\n\r\n`,
    () =>
      `POST /echo HTTP/1.1\r\nHost: soak.test\r\nConnection: close\r\nContent-Length: ${n * 20}\r\n\r\n${'b'.repeat(n * 20)}`,
    () => `POST /echo HTTP/1.1\r\nHost: soak.test\r\nConnection: close\r\nContent-Length: 5000\r\n\r\n${'b'.repeat(n)}`,
    () =>
      `POST /echo HTTP/1.1\r\nHost: soak.test\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n`,
    () => 'GET /page HTTP/1.1\r\nHost: soak.test\r\n\r\n'.repeat(5) + get('/local'),
  ]
  return [kinds[random(kinds.length)]!(), leaves]
}

function exchange(port: number, text: string, leaveMs: number, statuses: Map<string, number>): Promise<void> {
  return new Promise((resolve) => {
    const socket = connect({ port, host: '127.0.0.1', noDelay: true }, () => socket.write(text, 'latin1'))
    let first = ''
    let timer: NodeJS.Timeout | undefined
    socket.on('error', () => {})
    socket.on('data', (chunk) => {
      if (first === '') first = chunk.toString('latin1', 9, 12)
    })
    socket.on('close', () => {
      clearTimeout(timer)
      const key = first || 'none'
      statuses.set(key, (statuses.get(key) ?? 0) + 1)
      resolve()
    })
    if (leaveMs >= 0)
      timer = setTimeout(() => (leaveMs % 2 === 0 ? socket.resetAndDestroy() : socket.destroy()), leaveMs)
    else timer = setTimeout(() => socket.destroy(), 8000)
  })
}

async function sample(gateway: TestGateway, startedMs: number): Promise<Sample> {
  // Over a connection that closes: a kept one would be a descriptor.
  const text = await (await gateway.admin('/metrics', { headers: { Connection: 'close' } })).text()
  return {
    second: (performance.now() - startedMs) / 1000,
    rssMiB: gateway.rssBytes() / 2 ** 20,
    heapMiB: (sumOf(text, 'nodejs_heap_size_used_bytes') ?? 0) / 2 ** 20,
    descriptors: readdirSync(`/proc/${gateway.pid}/fd`).length,
    ccu: sumOf(text, 'current_ccu') ?? -1,
    skew: sumOf(text, 'fluxor_ccu_ledger_skew') ?? -1,
  }
}

/** What a descriptor is open on, connections with their two addresses. */
function openOn(pid: number): string[] {
  const connections = new Map<string, string>()
  for (const table of ['tcp', 'tcp6']) {
    for (const line of readFileSync(`/proc/${pid}/net/${table}`, 'latin1').split('\n').slice(1)) {
      const [, local, remote, state, , , , , , inode] = line.trim().split(/\s+/)
      if (inode !== undefined) connections.set(`socket:[${inode}]`, `${address(local!)} - ${address(remote!)} ${state}`)
    }
  }
  return readdirSync(`/proc/${pid}/fd`).map((fd) => {
    try {
      const target = readlinkSync(`/proc/${pid}/fd/${fd}`)
      return connections.get(target) ?? target
    } catch {
      return 'closed meanwhile'
    }
  })
}

function address(hex: string): string {
  const [host, port] = hex.split(':')
  return `${Buffer.from(host!.slice(-8), 'hex').reverse().join('.')}:${Number.parseInt(port!, 16)}`
}

let debuggerUrl = ''

interface Collected {
  /** Alive in the heap of the main thread; with one thread that is the data path's. */
  liveMiB: number
  rssMiB: number
}

/** What a full collection leaves. */
async function collect(gateway: TestGateway): Promise<Collected> {
  debuggerUrl ||= /ws:\/\/127\.0\.0\.1:\d+\/[0-9a-f-]+/.exec(gateway.output())?.[0] ?? ''
  const socket = new WebSocket(debuggerUrl)
  await new Promise((resolve) => socket.addEventListener('open', resolve, { once: true }))
  interface Reply {
    id?: number
    result?: { usedSize?: number; backingStorageSize?: number }
  }
  const ask = (id: number, method: string) =>
    new Promise<Reply>((resolve) => {
      const listen = ({ data }: MessageEvent) => {
        const reply = JSON.parse(String(data)) as Reply
        if (reply.id !== id) return
        socket.removeEventListener('message', listen)
        resolve(reply)
      }
      socket.addEventListener('message', listen)
      socket.send(JSON.stringify({ id, method }))
    })
  await ask(1, 'HeapProfiler.collectGarbage')
  await ask(2, 'HeapProfiler.collectGarbage')
  const { usedSize = 0, backingStorageSize = 0 } = (await ask(3, 'Runtime.getHeapUsage')).result ?? {}
  socket.close()
  return { liveMiB: (usedSize + backingStorageSize) / 2 ** 20, rssMiB: gateway.rssBytes() / 2 ** 20 }
}

async function rest(
  gateway: TestGateway,
  upstream: RawUpstream,
  startedMs: number,
  descriptors: number,
): Promise<Sample> {
  for (let i = 0; ; i++) {
    upstream.dropConnections()
    await pause(250)
    const now = await sample(gateway, startedMs)
    if ((now.ccu === 0 && now.descriptors <= descriptors) || i === 60) return now
  }
}

/** Least squares: MiB an hour. */
function slope(samples: readonly Sample[]): number {
  if (samples.length < 2) return 0
  const meanX = samples.reduce((sum, { second }) => sum + second, 0) / samples.length
  const meanY = samples.reduce((sum, { rssMiB }) => sum + rssMiB, 0) / samples.length
  let above = 0
  let below = 0
  for (const { second, rssMiB } of samples) {
    above += (second - meanX) * (rssMiB - meanY)
    below += (second - meanX) ** 2
  }
  return below === 0 ? 0 : (above / below) * 3600
}

/** RSS and heap over time, as lines; no library, no script. */
function plot(samples: readonly Sample[], verdict: string): string {
  const [width, height, left, top] = [900, 360, 60, 40]
  const lastS = samples.at(-1)!.second
  const most = Math.max(...samples.map(({ rssMiB }) => rssMiB)) * 1.1
  const x = (second: number) => left + (second / lastS) * (width - left - 20)
  const y = (mib: number) => height - 40 - (mib / most) * (height - 40 - top)
  const line = (of: (one: Sample) => number, colour: string) =>
    `<polyline fill="none" stroke="${colour}" stroke-width="1.5" points="${samples.map((one) => `${x(one.second).toFixed(1)},${y(of(one)).toFixed(1)}`).join(' ')}"/>`
  const marks = [0, 0.25, 0.5, 0.75, 1].map((share) => {
    const [mib, second] = [most * share, lastS * share]
    return `<line x1="${left}" x2="${width - 20}" y1="${y(mib)}" y2="${y(mib)}" stroke="#ddd"/><text x="${left - 8}" y="${y(mib) + 4}" text-anchor="end">${mib.toFixed(0)}</text><text x="${x(second)}" y="${height - 18}" text-anchor="middle">${second.toFixed(0)} s</text>`
  })
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/><text x="${left}" y="22" font-size="14">MiB: RSS (blue), heap (orange). ${verdict}</text>${marks.join('')}<line x1="${x(WARMUP_S)}" x2="${x(WARMUP_S)}" y1="${top}" y2="${height - 40}" stroke="#888" stroke-dasharray="4"/>${line((one) => one.rssMiB, '#2f6fed')}${line((one) => one.heapMiB, '#e07b00')}</svg>\n`
}

async function main(): Promise<boolean> {
  const upstream = await startRawUpstream()
  const gone = await startRawUpstream()
  const dead = gone.port
  await gone.close()
  setScripts(upstream)
  let generation = 0
  const gateway = await startGateway(config(upstream, dead, generation), {
    env: { NODE_OPTIONS: '--inspect=127.0.0.1:0' },
  })
  const statuses = new Map<string, number>()
  const samples: Sample[] = []
  console.log(`soak: ${SECONDS} s, warm-up ${WARMUP_S} s, ${THREADS} thread(s), seed ${SEED}, pid ${gateway.pid}`)
  try {
    // Once through everything, so that what is loaded late and opened once counts as there from the start.
    for (let i = 0; i < 60; i++) await exchange(gateway.port, ...nextExchange(generation), statuses)
    const startedMs = performance.now()
    const before = await rest(gateway, upstream, startedMs, Number.POSITIVE_INFINITY)
    let collectedBefore = await collect(gateway)
    const endMs = startedMs + SECONDS * 1000
    const going = () => performance.now() < endMs && gateway.running

    const clients = Array.from({ length: CLIENTS }, async () => {
      while (going()) {
        await exchange(gateway.port, ...nextExchange(generation), statuses)
        await pause(random(PAUSE_MS))
      }
    })
    const sampling = (async () => {
      while (going()) {
        samples.push(await sample(gateway, startedMs))
        upstream.clear()
        await pause(SAMPLE_MS)
      }
    })()
    const warming = (async () => {
      // Half-way: what the collection gives back comes again before the slope begins.
      await pause(WARMUP_S * 500)
      if (going()) collectedBefore = await collect(gateway)
    })()
    let reloads = 0
    const reloading = (async () => {
      while (going()) {
        await pause(Math.min(RELOAD_MS, Math.max(0, endMs - performance.now())))
        if (!going()) break
        // Every fourth is a file that must not be taken.
        if (++reloads % 4 === 0) gateway.reload('version: 1\nroutes: 5\n')
        else gateway.reload(config(upstream, dead, ++generation))
      }
    })()
    let faults = 0
    const breaking = (async () => {
      while (going()) {
        await pause(Math.min(FAULT_MS, Math.max(0, endMs - performance.now())))
        if (!going()) break
        faults++
        const { port } = upstream
        upstream.dropConnections()
        if (faults % 2 === 0) continue
        await upstream.close()
        await pause(500)
        await upstream.listen(port)
      }
    })()
    await Promise.all([...clients, sampling, warming, reloading, breaking])
    if (!gateway.running) throw new Error(`the gateway ended:\n${gateway.output().slice(-4000)}`)
    const after = await rest(gateway, upstream, startedMs, before.descriptors)
    if (after.descriptors > before.descriptors) console.log(`still open: ${openOn(gateway.pid).join('; ')}`)
    const collectedAfter = await collect(gateway)
    const [{ liveMiB: liveBefore }, { liveMiB: liveAfter }] = [collectedBefore, collectedAfter]
    samples.push(after)

    const warm = samples.filter(({ second }) => second >= WARMUP_S && second <= SECONDS)
    const perHour = slope(warm)
    const third = Math.max(1, Math.floor(warm.length / 3))
    const least = (list: readonly Sample[]) => Math.min(...list.map(({ rssMiB }) => rssMiB))
    const growth = warm.length === 0 ? 0 : least(warm.slice(-third)) - least(warm.slice(0, third))
    const long = SECONDS - WARMUP_S >= SLOPE_AFTER_S
    const errors = gateway
      .logs()
      .filter((line) => Number(line['level'] ?? 0) >= 50 && !String(line.msg).startsWith('config not taken'))
    const verdicts: [met: boolean, text: string][] = [
      long
        ? [perHour <= SLOPE_MIB_PER_HOUR, `RSS slope ${perHour.toFixed(2)} MiB/h, at most ${SLOPE_MIB_PER_HOUR}`]
        : [true, `RSS grew by ${growth.toFixed(1)} MiB: too short a time for a slope`],
      [
        liveAfter - liveBefore <= LIVE_GROWTH_MIB,
        `live heap ${liveBefore.toFixed(1)} MiB half-way through the warm-up, ${liveAfter.toFixed(1)} at the end, at most ${LIVE_GROWTH_MIB} more`,
      ],
      [after.descriptors <= before.descriptors, `descriptors ${before.descriptors} before, ${after.descriptors} after`],
      [after.ccu === 0 && after.skew === 0, `in flight ${after.ccu}, ledger skew ${after.skew}`],
      [samples.every(({ skew }) => skew === 0), 'the ledger was even at every sample'],
      [
        errors.length === 0,
        `error lines of its own: ${errors.length}${errors.length > 0 ? ` (${errors[0]!.msg})` : ''}`,
      ],
    ]
    const code = await gateway.stop()
    if (code !== 0) console.log(gateway.output().slice(-2000))
    verdicts.push([code === 0, `exit code ${code}`])
    const met = verdicts.every(([good]) => good)
    const exchanges = [...statuses.values()].reduce((sum, count) => sum + count, 0)
    console.log(
      `${exchanges} exchanges, ${reloads} reloads, ${faults} faults; by status: ${[...statuses]
        .toSorted()
        .map(([status, count]) => `${status}: ${count}`)
        .join(', ')}`,
    )
    console.log(
      `RSS after a full collection: ${collectedBefore.rssMiB.toFixed(1)} MiB half-way through the warm-up, ${collectedAfter.rssMiB.toFixed(1)} at the end`,
    )
    for (const [good, text] of verdicts) console.log(`${good ? 'met    ' : 'NOT MET'}  ${text}`)
    mkdirSync(values.out, { recursive: true })
    const result = {
      date: new Date().toISOString(),
      seconds: SECONDS,
      warmup: WARMUP_S,
      threads: THREADS,
      seed: SEED,
      exchanges,
      reloads,
      faults,
      statuses: Object.fromEntries(statuses),
      slopeMiBPerHour: perHour,
      growthMiB: growth,
      collectedBefore,
      collectedAfter,
      verdicts,
      before,
      after,
      samples,
    }
    writeFileSync(join(values.out, 'soak.json'), `${JSON.stringify(result, null, 1)}\n`)
    writeFileSync(join(values.out, 'soak.svg'), plot(samples, verdicts[0]![1]))
    console.log(`${met ? 'passed' : 'FAILED'}; ${join(values.out, 'soak.json')}, soak.svg`)
    return met
  } finally {
    await gateway.close()
    await upstream.close()
  }
}

process.exitCode = (await main()) ? 0 : 1

function wholeNumber(text: string, name: string): number {
  const value = Number(text)
  if (!Number.isInteger(value) || value < 0) {
    console.error(`${name} must be a whole number`)
    process.exit(64)
  }
  return value
}
