/** Event streams: each event at once, never compressed or held back, counted as streams; and the tools people use. */

import { execFile } from 'node:child_process'
import http2 from 'node:http2'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startGateway, type TestGateway } from '../../support/gateway.ts'
import { services } from '../../support/services.ts'
import { type HttpUpstream, startHttpUpstream } from '../../support/upstream.ts'

const run = promisify(execFile)
const { h2load } = services

let gateway: TestGateway
let upstream: HttpUpstream
let emit: (text: string) => void = () => {}
beforeAll(async () => {
  upstream = await startHttpUpstream((request, response) => {
    if (request.url === '/page') {
      response.setHeader('Content-Type', 'text/html')
      response.end(`<script>
        const seen = []
        const source = new EventSource('/browser')
        source.onmessage = ({ data }) => {
          seen.push(data)
          if (seen.length === 3) { document.title = seen.join(); source.close() }
        }</script>`)
      return
    }
    if (request.url === '/slow') {
      setTimeout(() => response.end('late'), 1500)
      return
    }
    if (request.url !== '/events' && request.url !== '/browser') {
      response.end('x'.repeat(5000))
      return
    }
    response.writeHead(200, { 'Content-Type': 'text/event-stream' })
    response.flushHeaders()
    emit = (text) => response.write(`data: ${text}\n\n`)
    if (request.url === '/browser') for (const n of [1, 2, 3]) setTimeout(() => emit(String(n)), n * 50)
  })
  gateway = await startGateway({
    server: { timeouts: { tunnelIdle: '1500ms' } },
    admission: { maxCCU: 2, promoteAfter: '300ms' },
    compression: { minBytes: 0 },
    upstreams: { app: { endpoints: [{ url: upstream.url }], timeouts: { idle: '300ms' } } },
    routes: [{ name: 'app', match: { pathPrefix: '/' }, upstream: 'app', compression: true, timeout: '2s' }],
  })
})
afterAll(async () => {
  await gateway.close()
  await upstream.close()
})

const streams = () => gateway.metric('current_streams')
const ccu = () => gateway.metric('current_ccu')

describe.each(['HTTP/1.1', 'HTTP/2'])('an event stream over %s', (protocol) => {
  it('arrives event by event, for longer than the route gives an answer, and takes no place', async () => {
    let text = ''
    let leave: () => void
    if (protocol === 'HTTP/2') {
      const session = http2.connect(gateway.url)
      const stream = session.request({ ':path': '/events', 'accept-encoding': 'gzip' })
      stream.on('data', (chunk: Buffer) => {
        text += chunk.toString()
      })
      stream.on('error', () => {})
      leave = () => session.destroy()
      await new Promise((resolve) => stream.on('response', resolve))
    } else {
      const controller = new AbortController()
      const response = await fetch(`${gateway.url}/events`, { signal: controller.signal })
      expect(response.headers.get('content-encoding')).toBeNull()
      void (async () => {
        for await (const chunk of response.body!) text += Buffer.from(chunk).toString()
      })().catch(() => {})
      leave = () => controller.abort()
    }
    for (let i = 0; i < 6; i++) {
      emit(`event ${i}`)
      await expect.poll(() => text, { timeout: 300, interval: 10 }).toContain(`event ${i}\n\n`)
      await new Promise((resolve) => setTimeout(resolve, 400))
    }
    expect(await streams()).toBe(1)
    expect(await ccu()).toBe(0)
    leave()
    await expect.poll(streams).toBe(0)
    await expect.poll(() => upstream.inside).toBe(0)
  })

  it('ends after silence for tunnelIdle', async () => {
    const response = await fetch(`${gateway.url}/events`)
    const since = performance.now()
    await expect(response.text()).rejects.toThrow()
    expect(performance.now() - since).toBeGreaterThan(1300)
    await expect.poll(streams).toBe(0)
  })
})

it('an HTTP/2 stream that grows old leaves its place', async () => {
  const session = http2.connect(gateway.url)
  const stream = session.request({ ':path': '/slow' })
  await expect.poll(streams, { timeout: 1400 }).toBe(1)
  expect(await ccu()).toBe(0)
  let text = ''
  for await (const chunk of stream) text += String(chunk)
  expect(text).toBe('late')
  await expect.poll(streams).toBe(0)
  expect(await gateway.metric('fluxor_ccu_ledger_skew')).toBe(0)
  session.close()
})

describe('tools', () => {
  it.each(['--http1.1', '--http1.0', '--http2', '--http2-prior-knowledge'])('curl %s', async (flag) => {
    const { stdout } = await run('curl', [
      flag,
      '-s',
      '--compressed',
      '-w',
      ' %{http_code} %{http_version}',
      gateway.url,
    ])
    const version = flag === '--http2-prior-knowledge' ? '2' : flag === '--http1.0' ? '1.0' : '1.1'
    expect(stdout).toMatch(new RegExp(`^x{5000} 200 (?:${version}|1\\.1)$`)) // Upgrade: h2c is not taken up, and need not be
  })

  it.skipIf(h2load === undefined)('h2load: 2 000 requests on 4 connections of 10 streams each', async () => {
    const own = await startGateway({
      upstreams: { app: { endpoints: [{ url: upstream.url }] } },
      routes: [{ name: 'app', match: { pathPrefix: '/' }, upstream: 'app' }],
    })
    try {
      const { stdout } = await run(h2load!, ['-n', '2000', '-c', '4', '-m', '10', `${own.url}/`])
      expect(stdout).toContain('2000 succeeded, 0 failed, 0 errored, 0 timeout')
      expect(stdout).toContain('2000 2xx')
    } finally {
      await own.close()
    }
  })

  it.skipIf(services.chromium === undefined)("a browser's EventSource", async () => {
    const { chromium } = await import('playwright-core')
    const browser = await chromium.launch({ executablePath: services.chromium!, args: ['--no-sandbox'] })
    try {
      const page = await browser.newPage()
      await page.goto(`${gateway.url}/page`)
      await expect.poll(() => page.title(), { timeout: 5000 }).toBe('1,2,3')
    } finally {
      await browser.close()
    }
  })
})
