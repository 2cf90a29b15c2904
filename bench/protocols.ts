/** What TLS and HTTP/2 cost beside nginx: CPU per request under h2load, each protocol by itself, round after round. */

import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import type { IncomingMessage } from 'node:http'
import { connect, type IncomingHttpHeaders } from 'node:http2'
import { get } from 'node:https'
import { text } from 'node:stream/consumers'
import { promisify } from 'node:util'
import { Certificates } from '../test/support/certificates.ts'
import { startGateway } from '../test/support/gateway.ts'
import { findOnPath } from '../test/support/services.ts'
import { judgeRatios, median, type RunOptions, spreadOf, type Verdict } from './harness/compare.ts'
import { usageOfTree } from './harness/process-tree.ts'
import type { Figures, Question } from './harness/question.ts'
import {
  GATEWAY_MAIN,
  LOAD_CORE,
  NGINX_PROXY,
  nginxUpstream,
  PROXY_CORE,
  type Running,
  SMALL_JSON,
  startNginx,
  startUpstream,
} from './harness/subjects.ts'

const run = promisify(execFile)

interface Protocol {
  name: string
  scheme: 'http' | 'https'
  /** Parameters of nginx's `listen`. */
  listen: string
  h2load: string[]
  /** The goal: CPU per request over nginx's. */
  atMost?: number
}

const PROTOCOLS: Protocol[] = [
  { name: 'HTTP/1.1 over TLS', scheme: 'https', listen: 'ssl', h2load: ['--h1', '-c', '64'], atMost: 1.6 },
  { name: 'HTTP/2 over TLS', scheme: 'https', listen: 'ssl http2', h2load: ['-c', '8', '-m', '8'] },
  { name: 'HTTP/2 by prior knowledge', scheme: 'http', listen: 'http2', h2load: ['-c', '8', '-m', '8'] },
]

/** What one request is answered with: status and whole body. */
async function answerTo(url: string, { name, h2load }: Protocol): Promise<string> {
  const options = { rejectUnauthorized: false } // the certificate is of a CA of this run
  if (h2load.includes('--h1')) {
    const sent = get(url, { ...options, agent: false })
    const [response] = (await once(sent, 'response')) as [IncomingMessage]
    return `${response.statusCode} ${await text(response)}`
  }
  const session = connect(url, options)
  try {
    const stream = session.request({ ':path': '/' })
    session.on('error', (error) => stream.destroy(new Error(`${name}: ${error.message}`)))
    const [fields] = (await once(stream, 'response')) as [IncomingHttpHeaders]
    return `${fields[':status']} ${await text(stream)}`
  } finally {
    session.destroy()
  }
}

async function check(url: string, protocol: Protocol): Promise<void> {
  const answer = await answerTo(url, protocol)
  if (answer !== `200 ${SMALL_JSON}`) throw new Error(`${protocol.name}: ${url} answered ${answer.slice(0, 200)}`)
}

/** CPU µs per request, and requests per second. */
async function load(running: Running, protocol: Protocol, seconds: number): Promise<{ us: number; rate: number }> {
  const url = `${protocol.scheme}://127.0.0.1:${running.port}/`
  await check(url, protocol)
  const before = usageOfTree(running.pid)
  const args = ['-c', `${LOAD_CORE}`, findOnPath('h2load')!, '-D', `${seconds}`, ...protocol.h2load, url]
  const { stdout } = await run('taskset', args)
  const after = usageOfTree(running.pid)
  await check(url, protocol)
  const counts = /requests: (\d+) total, \d+ started, \d+ done, (\d+) succeeded, (\d+) failed/.exec(stdout)
  const requests = Number(counts?.[2])
  if (!(requests > 0) || counts?.[3] !== '0') throw new Error(`h2load on ${url}:\n${stdout}`)
  const ms = after.userMs + after.systemMs - before.userMs - before.systemMs
  return { us: (ms * 1000) / requests, rate: requests / seconds }
}

async function measure({ rounds, seconds }: RunOptions): Promise<Figures> {
  if (findOnPath('h2load') === undefined) throw new Error('h2load is needed and not on PATH (nghttp2-client)')
  const certificates = new Certificates()
  const upstream = await startUpstream()
  const rows = [['protocol', 'Fluxor Gateway µs', 'nginx µs', 'ratio', 'Fluxor req/s', 'nginx req/s']]
  const verdicts: Verdict[] = []
  const running: Running[] = []
  try {
    const files = certificates.issue('bench', 'bench.test', ['DNS:bench.test', 'IP:127.0.0.1'])
    for (const protocol of PROTOCOLS) {
      const secure = protocol.scheme === 'https'
      const gateway = await startGateway(
        {
          server: { listen: [{ address: '127.0.0.1:0', ...(secure && { tls: { certificates: [files] } }) }] },
          upstreams: { app: { endpoints: [{ url: `http://127.0.0.1:${upstream.port}` }] } },
          routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
        },
        { wrap: ['taskset', '-c', `${PROXY_CORE}`], main: GATEWAY_MAIN },
      )
      const fluxor: Running = { pid: gateway.pid, port: gateway.port, close: () => gateway.close() }
      running.push(fluxor)
      const tls = secure
        ? 'ssl_certificate $FOLDER/b.crt; ssl_certificate_key $FOLDER/b.key; http2_max_requests 1000000;'
        : ''
      const nginx = await startNginx(
        {
          http: `${nginxUpstream(upstream.port)} server { listen 127.0.0.1:$PORT ${protocol.listen} backlog=4096; ${tls} location / { ${NGINX_PROXY} } }`,
          files: { 'b.crt': readFileSync(files.cert, 'utf8'), 'b.key': readFileSync(files.key, 'utf8') },
        },
        PROXY_CORE,
      )
      running.push(nginx)
      const samples: { us: number; rate: number; nginxUs: number; nginxRate: number }[] = []
      for (let round = -1; round < rounds; round++) {
        const own = await load(fluxor, protocol, seconds)
        const peer = await load(nginx, protocol, seconds)
        if (round < 0) continue // warm-up
        samples.push({ us: own.us, rate: own.rate, nginxUs: peer.us, nginxRate: peer.rate })
        process.stderr.write(`  ${protocol.name}: ${own.us.toFixed(1)} µs, nginx ${peer.us.toFixed(1)} µs\n`)
      }
      const of = (read: (sample: (typeof samples)[number]) => number) => median(samples.map(read))
      const ratios = samples.map(({ us, nginxUs }) => us / nginxUs)
      const { atMost } = protocol
      if (atMost !== undefined)
        verdicts.push(
          judgeRatios(`${protocol.name}, kept connections: at most ${atMost.toFixed(2)}x of nginx`, ratios, atMost),
        )
      rows.push([
        protocol.name,
        of(({ us }) => us).toFixed(1),
        of(({ nginxUs }) => nginxUs).toFixed(1),
        spreadOf(ratios),
        of(({ rate }) => rate).toFixed(0),
        of(({ nginxRate }) => nginxRate).toFixed(0),
      ])
    }
  } finally {
    for (const one of running) await one.close()
    await upstream.close()
    certificates.remove()
  }
  return { rows, verdicts, notes: ['CPU time per request, medians of the rounds; ratio: median (spread)'] }
}

export const question: Question = {
  asks: 'what do TLS and HTTP/2 cost for the same small answer, beside nginx?',
  measure,
}
