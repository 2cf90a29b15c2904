/**
 * The figures of reliability: a POST is never sent twice, no GET is lost to a stale connection, the count of exchanges is exact
 * after any number of aborts, idle connections are cheap, and no single request keeps the event loop busy.
 * FIGURES_N (10 000) and FIGURES_CONNECTIONS (5 000) say how many. Also by itself, on the sources: `node bench/figures.ts`,
 * where `--connections N` says how many idle ones (as many as descriptors allow) and `--only idle` does no more than these.
 */

import { readFileSync } from 'node:fs'
import { connect, createServer, type Socket } from 'node:net'
import { parseArgs } from 'node:util'
import { startGateway, type TestGateway } from '../test/support/gateway.ts'
import type { Figures, Question } from './harness/question.ts'
import { printTable } from './harness/report.ts'
import { GATEWAY_MAIN } from './harness/subjects.ts'

const N = Number(process.env['FIGURES_N'] ?? 10_000)
const CONNECTIONS = Number(process.env['FIGURES_CONNECTIONS'] ?? 5000)
const CLIENTS = 20
const HELD = 7
const IDLE_KIB_AT_MOST = 32
const LOOP_MS_AT_MOST = 50
const HOSTILE_TIMES = 40
const TICK_MS = 10

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))
const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'

/** One kept connection that asks and waits; opened anew when the other side ends it. */
class Client {
  readonly #port: number
  #socket: Socket | undefined
  #text = ''
  #done: ((status: number) => void) | undefined
  /** Connections so far. */
  opened = 0

  constructor(port: number) {
    this.#port = port
  }

  /** The status of the answer; 0: the connection ended without one. */
  ask(text: string): Promise<number> {
    const answered = new Promise<number>((resolve) => {
      this.#done = resolve
    })
    this.#socket ??= this.#open()
    this.#socket.write(text, 'latin1')
    return answered
  }

  close(): void {
    this.#socket?.destroy()
  }

  #open(): Socket {
    this.opened++
    const socket = connect({ port: this.#port, host: '127.0.0.1', noDelay: true })
    socket.on('error', () => {})
    socket.on('close', () => {
      if (this.#socket === socket) this.#socket = undefined
      this.#answer(0)
    })
    socket.on('data', (chunk) => {
      this.#text += chunk.toString('latin1')
      const end = this.#text.indexOf('\r\n\r\n')
      const length = Number(/content-length: (\d+)/i.exec(this.#text)?.[1] ?? 0)
      if (end < 0 || this.#text.length < end + 4 + length) return
      const status = Number(this.#text.slice(9, 12))
      if (/connection: close/i.test(this.#text.slice(0, end))) this.#socket = undefined
      this.#answer(status)
    })
    return socket
  }

  #answer(status: number): void {
    this.#text = ''
    const done = this.#done
    this.#done = undefined
    done?.(status)
  }
}

/** A service whose answers, and what becomes of its connections, are chosen by the number in the request. */
async function startService() {
  const seen = new Map<number, number>()
  const open = new Set<Socket>()
  const server = createServer((socket) => {
    open.add(socket)
    socket.on('error', () => {})
    socket.on('close', () => open.delete(socket))
    let text = ''
    socket.on('data', (chunk) => {
      text += chunk.toString('latin1')
      const end = text.indexOf('\r\n\r\n')
      const length = Number(/content-length: (\d+)/i.exec(text)?.[1] ?? 0)
      if (end < 0 || text.length < end + 4 + length) return
      const head = text.slice(0, end)
      text = ''
      if (head.includes(' /hold')) return
      const n = Number(/x-n: (\d+)/i.exec(head)?.[1] ?? -1)
      if (n >= 0) seen.set(n, (seen.get(n) ?? 0) + 1)
      if (head.includes(' /stale')) {
        socket.end(OK)
        socket.destroySoon()
      } else if (head.includes(' /mixed')) {
        if (n % 5 === 0) socket.resetAndDestroy()
        else if (n % 5 === 1) socket.write(OK, () => socket.destroy())
        else if (n % 5 === 2) socket.write(OK, () => setTimeout(() => socket.destroy(), Math.max(0, n % 3)))
        else if (n % 5 === 3) socket.write('HTTP/1.1 200 OK\r\nConte', () => socket.destroy())
        else socket.write(OK)
      } else if (head.includes(' /slow')) setTimeout(() => socket.write(OK), Math.max(0, n % 20))
      else socket.write(OK)
    })
  })
  await new Promise<void>((resolve) => server.listen({ port: 0, host: '127.0.0.1', backlog: 4096 }, resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as { port: number }).port}`,
    seen,
    async close() {
      for (const socket of open) socket.destroy()
      await new Promise((closed) => server.close(closed))
    },
  }
}

/** Asks N times over a few connections. Gives the statuses by number. */
async function ask(port: number, text: (n: number) => string): Promise<number[]> {
  const statuses: number[] = new Array(N).fill(-1)
  let next = 0
  await Promise.all(
    Array.from({ length: CLIENTS }, async () => {
      const client = new Client(port)
      while (next < N) {
        const n = next++
        statuses[n] = await client.ask(text(n))
      }
      client.close()
    }),
  )
  return statuses
}

/** Clients that leave at every point, HELD others that stay: what is counted then. */
async function countAfterAborts(gateway: TestGateway): Promise<{ held: number; after: number; skew: number }> {
  const holding = Array.from({ length: HELD }, () => new Client(gateway.port))
  for (const client of holding) void client.ask('GET /hold HTTP/1.1\r\nHost: a.test\r\n\r\n')
  const texts = [
    'GET /sl',
    'GET /slow HTTP/1.1\r\nHost: a.test\r\n',
    'GET /slow HTTP/1.1\r\nHost: a.test\r\nX-N: 19\r\n\r\n',
    'POST /slow HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100\r\n\r\nhalf',
    'POST /slow HTTP/1.1\r\nHost: a.test\r\nX-N: 5\r\nContent-Length: 4\r\n\r\nbody',
    'GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\nGET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n',
  ]
  let next = 0
  await Promise.all(
    Array.from({ length: 50 }, async () => {
      while (next < N) {
        const n = next++
        await new Promise<void>((resolve) => {
          const socket = connect({ port: gateway.port, host: '127.0.0.1' }, () => {
            socket.write(texts[n % texts.length]!)
            setTimeout(() => (n % 2 === 0 ? socket.resetAndDestroy() : socket.destroy()), n % 7)
          })
          socket.on('error', () => {})
          socket.on('close', () => resolve())
        })
      }
    }),
  )
  const settled = async (wanted: number) => {
    let ccu = -1
    for (let i = 0; i < 100 && ccu !== wanted; i++) {
      await pause(50)
      ccu = (await gateway.metric('current_ccu')) ?? -1
    }
    return ccu
  }
  const held = await settled(HELD)
  for (const client of holding) client.close()
  const after = await settled(0)
  return { held, after, skew: (await gateway.metric('fluxor_ccu_ledger_skew')) ?? -1 }
}

interface Idle {
  connections: number
  /** KiB of memory that each takes. */
  each: number
  /** How many were answered in the end. */
  served: number
}

/**
 * On a gateway that has done nothing yet: memory that was grown before would hide what they take. Its clients are in this
 * process. A gateway takes half of its descriptors for clients at most, since each may need one to a service.
 */
async function idleConnections(main: string, most: number): Promise<Idle> {
  const limit = Number(/Max open files\s+\d+\s+(\d+)/.exec(readFileSync('/proc/self/limits', 'latin1'))?.[1] ?? 1024)
  const wanted = Math.min(most, Math.floor((limit - 64) / 2) - 10)
  const gateway = await startGateway(
    {
      server: { limits: { connections: 25_000 } },
      routes: [{ match: { pathPrefix: '/' }, respond: { status: 200, body: 'ok' } }],
    },
    { main },
  )
  const clients: Client[] = []
  /** Every client asks, a few at a time. @returns how many were answered 200 */
  const askAll = async (some: readonly Client[]) => {
    let served = 0
    for (let i = 0; i < some.length; i += 250) {
      const asked = some.slice(i, i + 250).map((client) => client.ask('GET /home HTTP/1.1\r\nHost: a.test\r\n\r\n'))
      for (const status of await Promise.all(asked)) served += Number(status === 200)
    }
    return served
  }
  const open = async (count: number) => {
    const more = Array.from({ length: count }, () => new Client(gateway.port))
    clients.push(...more)
    await askAll(more)
  }
  try {
    await open(250) // what is compiled and grown once
    await pause(2000)
    const before = gateway.rssBytes()
    await open(wanted - 250)
    await pause(2000)
    const connections = (await gateway.metric('fluxor_connections')) ?? 0
    const each = (gateway.rssBytes() - before) / 1024 / Math.max(1, connections - 250)
    // Who opened a second one was lost in between: it counts as not served.
    const opened = clients.filter((client) => client.opened === 1)
    return { connections, each, served: await askAll(opened) }
  } finally {
    for (const client of clients) client.close()
    await gateway.close()
  }
}

function cpuMs(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ')[1]!.split(' ')
  return (Number(fields[11]) + Number(fields[12])) * TICK_MS
}

/** Whole requests of at most sixteen kilobytes, each made to cost as much as it can. */
function hostileRequests(): [title: string, text: string][] {
  const fill = (piece: string, bytes: number) => piece.repeat(Math.floor(bytes / piece.length))
  const get = (target: string, fields = '') => `GET ${target} HTTP/1.1\r\nHost: a.test\r\n${fields}\r\n`
  const token = (bytes: number) => `${fill('eyJh', bytes)}.${fill('eyJh', bytes)}.${fill('AAAA', 80)}`
  return [
    ['a plain request, to compare', get('/home')],
    ['a path of dots', get(`/${fill('../', 8000)}`)],
    ['a path of escapes', get(`/${fill('%2e%2e/', 8000)}`)],
    ['a path of slashes', get(fill('/', 8000))],
    ['a query of question marks and a secret', get(`/p?${fill('?', 8000)}token=x`)],
    ['a query of parameters', get(`/p?${fill('a=b&', 8000)}token=x`)],
    ['a hundred fields', get('/p', Array.from({ length: 98 }, (_, i) => `X-${i}: ${fill('a', 100)}\r\n`).join(''))],
    ['fields of prototypes', get('/p', fill('__proto__: 1\r\n', 1300))],
    ['a Referer of question marks', get('/p', `Referer: token${fill('?', 15_000)}\r\n`)],
    ['an Accept-Encoding of weights', get('/p', `Accept-Encoding: ${fill('a;q=0.1,', 15_000)}\r\n`)],
    ['a Cache-Control of quotes', get('/cached', `Cache-Control: ${fill('a="\\",', 15_000)}\r\n`)],
    ['an If-None-Match of tags', get('/cached', `If-None-Match: ${fill('"a",', 15_000)}\r\n`)],
    ['a Range of parts', get('/cached', `Range: bytes=${fill('0-1,', 15_000)}\r\n`)],
    ['a Cookie of crumbs', get('/jwt', `Cookie: ${fill('a=b; ', 15_000)}\r\n`)],
    ['a Connection of names', get('/p', `Connection: ${fill('a,', 15_000)}\r\n`)],
    ['an X-Forwarded-For of hops', get('/p', `X-Forwarded-For: ${fill('1.1.1.1,', 15_000)}\r\n`)],
    ['a token that is large', get('/jwt', `Authorization: Bearer ${token(7000)}\r\n`)],
    [
      'a token nested deep',
      get('/jwt', `Authorization: Bearer ${Buffer.from('['.repeat(5000)).toString('base64url')}.e30.AA\r\n`),
    ],
    [
      'chunks of one byte',
      `POST /p HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n${fill('1\r\na\r\n', 15_900)}0\r\n\r\n`,
    ],
    ['pipelined requests', fill(get('/home'), 15_900)],
  ]
}

async function hostile(gateway: TestGateway): Promise<[title: string, cpuMs: number][]> {
  const costs: [string, number][] = []
  for (const [title, text] of hostileRequests()) {
    const once = () =>
      new Promise<void>((resolve) => {
        const socket = connect({ port: gateway.port, host: '127.0.0.1' }, () => socket.end(text, 'latin1'))
        socket.on('error', () => {})
        socket.on('close', () => resolve())
        socket.resume()
      })
    await once()
    const before = cpuMs(gateway.pid)
    for (let i = 0; i < HOSTILE_TIMES; i++) await once()
    costs.push([title, (cpuMs(gateway.pid) - before) / HOSTILE_TIMES])
  }
  return costs
}

function idleFigures({ connections, each, served }: Idle): Figures {
  return {
    rows: [
      [`${connections} idle connections: KiB each`, each.toFixed(1)],
      ['  of these served in the end', `${served}`],
    ],
    verdicts: [
      {
        text: `an idle connection costs at most ${IDLE_KIB_AT_MOST} KiB: ${each.toFixed(1)}`,
        met: each <= IDLE_KIB_AT_MOST,
      },
      { text: `every one of them is served: ${served} of ${connections}`, met: served === connections },
    ],
  }
}

async function measure(main = GATEWAY_MAIN, connections = CONNECTIONS): Promise<Figures> {
  const idle = idleFigures(await idleConnections(main, connections))
  const service = await startService()
  const gateway = await startGateway(
    {
      admission: { maxCCU: 2000, workers: 2000, maxQueue: 0 },
      identity: {
        jwt: {
          main: {
            secret: 'a-secret-of-more-than-thirty-two-bytes',
            algorithms: ['HS256'],
            from: ['header', 'cookie:session'],
          },
        },
      },
      cache: { memory: { maxBytes: '1MiB' } },
      upstreams: { app: { endpoints: [{ url: service.url }] } },
      server: { limits: { connections: 25_000 } },
      logging: { access: { format: 'combined', file: '/dev/null' } },
      routes: [
        { match: { path: '/home' }, respond: { status: 200, body: 'ok' } },
        { match: { path: '/jwt' }, upstream: 'app', jwt: 'main' },
        { match: { path: '/cached' }, upstream: 'app', cache: { ttl: '60s' }, compression: true },
        { match: { pathPrefix: '/' }, upstream: 'app' },
      ],
    },
    { main },
  )
  try {
    const post = (n: number) => `POST /mixed HTTP/1.1\r\nHost: a.test\r\nX-N: ${n}\r\nContent-Length: 4\r\n\r\nbody`
    const posted = await ask(gateway.port, post)
    const twice = [...service.seen.values()].filter((times) => times > 1).length
    const unseen = posted.filter((status, n) => status === 200 && !service.seen.has(n)).length
    const served = posted.filter((status) => status === 200).length
    service.seen.clear()
    const got = await ask(gateway.port, (n) => `GET /stale HTTP/1.1\r\nHost: a.test\r\nX-N: ${n}\r\n\r\n`)
    const lost = got.filter((status) => status !== 200).length
    const counts = await countAfterAborts(gateway)
    const costs = await hostile(gateway)
    const [worst, worstMs] = costs.toSorted((a, b) => b[1] - a[1])[0]!
    return {
      rows: [
        ['', 'figure'],
        [`${N} POSTs to a service that resets and closes: seen twice`, `${twice}`],
        [`  answered 200 (three of five are answered whole) / of these never seen`, `${served} / ${unseen}`],
        [`${N} GETs on connections that close behind each answer: lost`, `${lost}`],
        [
          `CCU after ${N} aborts with ${HELD} that stay / after they left / skew`,
          `${counts.held} / ${counts.after} / ${counts.skew}`,
        ],
        ...idle.rows,
        ...costs.map(([title, ms]) => [`CPU ms of one hostile request: ${title}`, ms.toFixed(2)]),
      ],
      verdicts: [
        {
          text: `no POST is sent twice, none answered that was not seen: ${twice}, ${unseen}`,
          met: twice + unseen === 0,
        },
        { text: `no GET is lost to a stale connection: ${lost}`, met: lost === 0 },
        {
          text: `the count is exact after aborts: ${counts.held} of ${HELD}, then ${counts.after}, skew ${counts.skew}`,
          met: counts.held === HELD && counts.after === 0 && counts.skew === 0,
        },
        ...idle.verdicts,
        {
          text: `one hostile request of 16 KiB takes at most ${LOOP_MS_AT_MOST} ms: ${worstMs.toFixed(2)} (${worst})`,
          met: worstMs <= LOOP_MS_AT_MOST,
        },
      ],
    }
  } finally {
    await gateway.close()
    await service.close()
  }
}

export const question: Question = {
  asks: 'is nothing lost, doubled or miscounted, and what does an attack cost?',
  measure: () => measure(),
}

if (import.meta.main) {
  const { values } = parseArgs({ options: { connections: { type: 'string' }, only: { type: 'string' } } })
  const connections = Number(values.connections ?? CONNECTIONS)
  const { rows, verdicts } =
    values.only === 'idle'
      ? idleFigures(await idleConnections('src/main.ts', connections))
      : await measure('src/main.ts', connections)
  printTable(values.only === 'idle' ? [['', 'figure'], ...rows] : rows)
  for (const { met, text } of verdicts) console.log(`${met ? 'met    ' : 'NOT MET'}  ${text}`)
  process.exitCode = verdicts.every(({ met }) => met) ? 0 : 1
}
