/** Resident memory of the gateway: idle, and with five thousand exchanges waiting for a slow upstream. */

import { connect, createServer, type Socket } from 'node:net'
import { startGateway } from '../test/support/gateway.ts'
import type { Figures, Question } from './harness/question.ts'
import { GATEWAY_MAIN } from './harness/subjects.ts'

const EXCHANGES = 5000
const BATCH = 250
const IDLE_AT_MOST = 60
const BUSY_AT_MOST = 250
const SETTLE_MS = 2000

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))
const mib = (bytes: number) => bytes / 2 ** 20

/** An upstream that reads requests and never answers. */
function startSilent(): Promise<{ port: number; requests(): number; close(): Promise<void> }> {
  let requests = 0
  const open = new Set<Socket>()
  const server = createServer((socket) => {
    open.add(socket)
    socket.on('error', () => {})
    socket.on('close', () => open.delete(socket))
    socket.on('data', () => requests++)
  })
  return new Promise((resolve) => {
    server.listen({ port: 0, host: '127.0.0.1', backlog: 4096 }, () => {
      resolve({
        port: (server.address() as { port: number }).port,
        requests: () => requests,
        async close() {
          for (const socket of open) socket.destroy()
          await new Promise((closed) => server.close(closed))
        },
      })
    })
  })
}

async function measure(): Promise<Figures> {
  const upstream = await startSilent()
  const config = {
    admission: { maxCCU: EXCHANGES, workers: EXCHANGES, maxQueue: 0 },
    upstreams: {
      app: { endpoints: [{ url: `http://127.0.0.1:${upstream.port}` }], pool: { maxOpenConns: EXCHANGES } },
    },
    routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
  }
  const gateway = await startGateway(config, { main: GATEWAY_MAIN })
  const clients: Socket[] = []
  try {
    await pause(SETTLE_MS)
    const idle = mib(gateway.rssBytes())
    const request = 'GET / HTTP/1.1\r\nHost: a.test\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n'
    for (let i = 0; i < EXCHANGES; i += BATCH) {
      for (let n = 0; n < BATCH; n++) {
        const socket = connect(gateway.port, '127.0.0.1', () => socket.write(request))
        socket.on('error', () => {})
        clients.push(socket)
      }
      // In batches: the listen backlog is not what is measured.
      for (let wait = 0; wait < 100 && upstream.requests() < i + BATCH; wait++) await pause(20)
    }
    const reached = upstream.requests()
    await pause(SETTLE_MS)
    const busy = mib(gateway.rssBytes())
    return {
      rows: [
        ['', 'RSS MiB'],
        ['idle', idle.toFixed(0)],
        [`${reached} exchanges in flight`, busy.toFixed(0)],
      ],
      verdicts: [
        { text: `idle: at most ${IDLE_AT_MOST} MiB: ${idle.toFixed(0)}`, met: idle <= IDLE_AT_MOST },
        {
          text: `${EXCHANGES} exchanges in flight: at most ${BUSY_AT_MOST} MiB: ${busy.toFixed(0)} with ${reached}`,
          met: busy <= BUSY_AT_MOST && reached === EXCHANGES,
        },
      ],
    }
  } finally {
    for (const socket of clients) socket.destroy()
    await gateway.close()
    await upstream.close()
  }
}

export const question: Question = { asks: 'how much memory does it hold, idle and busy?', measure }
