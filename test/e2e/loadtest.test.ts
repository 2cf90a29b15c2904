/**
 * The load test as its users meet it: a process with arguments, an exit code, and what it prints and writes, against small
 * servers of this machine. Runs last a second or so; how late a start may be is generous, since tests share the machine.
 */

import { execFile } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, describe, expect, it, vi } from 'vitest'
import { parse } from 'yaml'
import { type ScriptedUpstream, startScriptedUpstream } from '../../loadtest/upstream.ts'
import { main } from '../../src/commands/cli.ts'
import type { CapacityResult } from '../../src/loadtest/capacity.ts'
import type { LoadResult } from '../../src/loadtest/result.ts'

const MAIN = join(import.meta.dirname, '../../src/main.ts')
const PATIENT = ['--late-after', '1s', '--max-late', '50%']

const scratch = mkdtempSync(join(tmpdir(), 'loadtest-'))
const servers: Server[] = []
const upstreams: ScriptedUpstream[] = []

afterEach(async () => {
  for (const server of servers.splice(0)) {
    server.close()
    server.closeAllConnections()
  }
  for (const upstream of upstreams.splice(0)) await upstream.close()
})
afterAll(() => rmSync(scratch, { recursive: true, force: true }))

async function serve(handler: (request: IncomingMessage, response: ServerResponse) => void): Promise<string> {
  const server = createServer(handler)
  servers.push(server)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return `http://127.0.0.1:${(server.address() as { port: number }).port}`
}

interface Ended {
  code: number
  stdout: string
  stderr: string
}

function loadtest(args: string[], { interrupt = false }: { interrupt?: boolean } = {}): Promise<Ended> {
  return new Promise((resolve) => {
    const child = execFile(
      process.execPath,
      [MAIN, 'loadtest', ...args],
      { timeout: 25_000, env: { ...process.env, NO_COLOR: '1' } },
      (error, stdout, stderr) => resolve({ code: error === null ? 0 : Number(error.code ?? -1), stdout, stderr }),
    )
    // The first line of progress says that the run goes on.
    if (interrupt) child.stderr!.once('data', () => child.kill('SIGINT'))
  })
}

async function figures(args: string[]): Promise<Ended & { result: LoadResult }> {
  const ended = await loadtest([...args, ...PATIENT, '--json', '-'])
  try {
    return { ...ended, result: JSON.parse(ended.stdout) as LoadResult }
  } catch {
    throw new Error(`no JSON:\n${ended.stdout}\n${ended.stderr}`)
  }
}

describe('fluxor-gateway loadtest', () => {
  it('passes a service that meets its objectives, and writes its reports', async () => {
    const url = await serve((_, response) => response.end('{"ok":true}'))
    const files = { html: join(scratch, 'new', 'r.html'), json: join(scratch, 'r.json'), junit: join(scratch, 'r.xml') }
    const args = [
      '--url',
      url,
      '--users',
      '20',
      '--think',
      '100ms',
      '--duration',
      '1s',
      '--slo',
      'p95<5s,errors<0.1%',
      ...PATIENT,
    ]
    const { code, stdout, stderr } = await loadtest([
      ...args,
      ...Object.entries(files).flatMap(([name, file]) => [`--${name}`, file]),
    ])
    expect(`${stdout}${stderr}`).toMatch(/PASS {2}p95 < 5000 ms/)
    expect(code).toBe(0)
    expect(stdout).not.toMatch(/\x1b/)
    const result = JSON.parse(readFileSync(files.json, 'utf8')) as LoadResult
    expect(result).toMatchObject({
      verdict: 'PASS',
      plan: { load: '20 users (think 100ms) for 1s' },
      shares: { errors: 0 },
    })
    // 20 users, one request in 100 ms each, for a second.
    expect(result.requests.started).toBeGreaterThan(150)
    expect(result.requests.started).toBeLessThan(250)
    expect(result.requests.ok).toBe(result.requests.started)
    expect(result.statuses).toEqual({ 200: result.requests.started })
    expect(readFileSync(files.junit, 'utf8')).toMatch(/<testsuites tests="3" failures="0"/)
    expect(readFileSync(files.html, 'utf8')).toMatch(/class="verdict PASS"/)
  })

  it('fails a service that misses one, and names it', async () => {
    const url = await serve((_, response) => setTimeout(() => response.end('slow'), 60))
    const { code, stdout } = await loadtest([
      '--url',
      url,
      '--rate',
      '50',
      '--duration',
      '1s',
      '--slo',
      'p95<20ms,errors<1%',
      ...PATIENT,
    ])
    expect(stdout).toMatch(/Load test · steady {2}FAIL/)
    expect(stdout).toMatch(/FAIL {2}p95 < 20 ms +\d/)
    expect(stdout).toMatch(/PASS {2}errors < 1 %/)
    expect(code).toBe(1)
  })

  it('declares a run INVALID that it could not drive', async () => {
    const url = await serve((_, response) => response.end())
    const args = [
      '--url',
      url,
      '--rate',
      '400000',
      '--duration',
      '300ms',
      '--threads',
      '1',
      '--connections',
      '50',
      '--slo',
      'p95<10s,errors<100%',
    ]
    const { code, stdout } = await loadtest(args)
    expect(stdout).toMatch(/Load test · steady {2}INVALID/)
    expect(stdout).toMatch(/the generator fell behind|connections busy/)
    expect(stdout).not.toMatch(/PASS/)
    expect(code).toBe(1)
  })

  it('counts 503 at capacity and 429 apart from errors, and other 503 as errors', async () => {
    let n = 0
    const url = await serve((_, response) => {
      const kind = n++ % 4
      if (kind === 1)
        response.writeHead(503).end(JSON.stringify({ status: 503, code: 'BACKPRESSURE', reason: 'CCU_FULL' }))
      else if (kind === 2) response.writeHead(429).end('{}')
      else if (kind === 3) response.writeHead(503).end('{"error":"broken"}')
      else response.end('ok')
    })
    const { code, result } = await figures(['--url', url, '--rate', '100', '--duration', '1s', '--slo', 'errors<1%'])
    expect(code).toBe(1)
    expect(result.reasons).toEqual([expect.stringMatching(/^errors < 1 % was not met: 2\d\.\d %$/)])
    for (const share of [result.shares.errors, result.shares.shed, result.shares.limited])
      expect(share).toBeCloseTo(0.25, 1)
    expect(result.errors).toEqual({ 'status 503': result.requests.failed })
    expect(result.latencyMs.count).toBe(result.requests.ok)
  })

  it('goes on with answers that never come, and gives them up', async () => {
    let asked = 0
    const url = await serve((request, response) => {
      if (request.url === '/dead' && asked++ > 0) return
      response.end()
    })
    const { result } = await figures(['--url', `${url}/dead`, '--rate', '30', '--duration', '1s', '--timeout', '300ms'])
    expect(result.requests.timedOut).toBe(result.requests.started)
    expect(result.requests.started).toBeGreaterThan(10)
    expect(result.errors).toEqual({ timeout: result.requests.started })
    // Given up, but counted as having taken at least that long.
    expect(result.latencyMs.p50).toBeGreaterThanOrEqual(299)
  })

  it('counts connections that break', async () => {
    let asked = 0
    const url = await serve((request, response) => {
      if (asked++ > 0) request.socket.destroy()
      else response.end()
    })
    const { code, result } = await figures(['--url', url, '--rate', '50', '--duration', '500ms'])
    expect(code).toBe(1)
    expect(result.requests.broken).toBe(result.requests.started)
    expect(result.shares.errors).toBe(1)
  })

  it('makes a preset small and short', async () => {
    const url = await serve((_, response) => response.end())
    const { result } = await figures([
      'spike',
      '--url',
      url,
      '--scale',
      '0.004',
      '--duration',
      '1.6s',
      '--think',
      '50ms',
    ])
    expect(result.name).toBe('spike')
    expect(result.plan.shape).toBe('0..0.4/300ms, ..20/100ms, hold 600ms, ..0.4/300ms, ..0/300ms')
    expect(result.slos.map(({ text }) => text)).toEqual(['p95 < 500 ms', 'errors < 1 %'])
    const busiest = result.series.toSorted((a, b) => b.startedPerSec - a.startedPerSec)[0]!
    expect(busiest.atSec).toBeGreaterThanOrEqual(0.3)
    expect(busiest.atSec).toBeLessThan(1.3)
  })

  it('asks the routes of a config, with a token where one is needed', async () => {
    const asked = new Map<string, string | undefined>()
    const url = await serve((request, response) => {
      asked.set(request.url!, request.headers.authorization)
      response.end()
    })
    const file = join(scratch, 'gateway.yaml')
    writeFileSync(
      file,
      `version: 1
server: { listen: [{ address: "${url.replace('http://', '')}" }], admin: false }
identity: { jwt: { main: { secret: "a-secret-for-tests-of-32-bytes-or-more", issuer: fluxor } } }
upstreams: { app: { endpoints: [{ url: "http://127.0.0.1:1" }] } }
routes:
  - { name: health, match: { path: /health }, health: {} }
  - { name: users, match: { path: /api/users }, upstream: app, jwt: main }
  - { name: orders, match: { pathPrefix: /api/orders }, upstream: app }
`,
    )
    const { result, stderr } = await figures([
      '-c',
      file,
      '--rate',
      '40',
      '--duration',
      '500ms',
      '--target',
      '/api/orders/7',
    ])
    expect(stderr).toMatch(/not asked: orders \(it names no exact path/)
    expect(result.targets.map(({ name }) => name)).toEqual(['health', 'users', 'GET /api/orders/7'])
    expect([...asked.keys()].toSorted()).toEqual(['/api/orders/7', '/api/users', '/health'])
    expect(asked.get('/api/users')).toMatch(/^Bearer ey/)
    expect(asked.get('/health')).toBeUndefined()
  })

  it('plots what the gateway says of itself', async () => {
    let ccu = 0
    const url = await serve((request, response) => {
      if (request.url === '/metrics')
        return response.end(`current_ccu ${ccu++}\nmax_ccu 50\nprocess_resident_memory_bytes 1000\n`)
      response.end()
    })
    const { result } = await figures([
      '--url',
      `${url}/x`,
      '--rate',
      '20',
      '--duration',
      '1s',
      '--admin',
      url,
      '--pid',
      String(process.pid),
    ])
    expect(result.gateway.length).toBeGreaterThanOrEqual(2)
    expect(result.gateway[0]).toMatchObject({ ccu: 0, maxCcu: 50 })
    expect(result.gateway.at(-1)!.rssBytes).toBeGreaterThan(1_000_000)
  })

  it('finds the capacity of a service with few servers, and what it means for the cap', async () => {
    // 4 servers of 40 ms each: 100 a second. The objective leaves room for a machine that is busy with other tests.
    const upstream = await startScriptedUpstream({ latency: 'fixed:40ms', servers: 4 })
    upstreams.push(upstream)
    const files = ['--html', join(scratch, 'c.html'), '--json', join(scratch, 'c.json')]
    const args = ['--find-capacity', '--url', upstream.url, '--rate', '40', '--arrivals', 'even', '--duration', '600ms']
    const { code, stdout, stderr } = await loadtest([...args, '--slo', 'p95<400ms', ...PATIENT, ...files])
    expect(stderr).toMatch(/ 40\/s {2}PASS/)
    expect(stderr).toMatch(/FAIL {2}p95 \d+ ms.*p95 was \d+ ms/)
    expect(code).toBe(0)
    const result = JSON.parse(readFileSync(join(scratch, 'c.json'), 'utf8')) as CapacityResult
    // A short step lets more through than could be sustained.
    expect(result.best!.rate).toBeGreaterThanOrEqual(40)
    expect(result.best!.rate).toBeLessThan(300)
    const { admission } = parse(stdout.slice(stdout.indexOf('#'))) as { admission: Record<string, number> }
    expect(admission).toMatchObject({ maxCCU: result.suggestion!.maxCCU, workers: result.suggestion!.workers })
    const normalCapacity = Math.floor((admission['maxCCU']! * admission['utilizationPercent']!) / 100)
    expect(normalCapacity).toBeGreaterThanOrEqual(admission['workers']!)
    expect(existsSync(join(scratch, 'c.html'))).toBe(true)
  })

  it('ends early on Ctrl-C, and takes that for no measurement', async () => {
    const url = await serve((_, response) => response.end())
    const { code, stdout } = await loadtest(['--url', url, '--rate', '20', '--duration', '30s'], {
      interrupt: true,
    })
    expect(stdout).toMatch(/INVALID: this is no measurement of the service\.\n {2}it was stopped before its end/)
    expect(code).toBe(1)
  })

  it('says that nobody is there', async () => {
    const { code, stderr } = await loadtest(['--url', 'http://127.0.0.1:1/', '--duration', '1s'])
    expect(stderr).toMatch(/cannot reach http:\/\/127\.0\.0\.1:1\/: .*ECONNREFUSED/)
    expect(code).toBe(1)
  })

  it.each([
    [[], /what to load\?/],
    [['sprint', '--url', 'http://x'], /unknown shape "sprint"; known are load, spike, stress, soak/],
    [['--url', 'ftp://x'], /--url expects/],
    [['--url', 'http://x', '--users', '5', '--rate', '5'], /either --users or --rate/],
    [['--url', 'http://x', '--slo', 'p95<200'], /needs a time with its unit/],
    [['--url', 'http://x', '--shape', 'up'], /cannot read the stage 'up'/],
    [['load', '--url', 'http://x', '--shape', '1/1s'], /either load or --shape/],
    [['--url', 'http://x', '--header', 'Connection: close'], /belongs to the connection/],
    [['--url', 'http://x', '--duration', '10'], /--duration expects a duration/],
    [['--url', 'http://x', '--what'], /--what/],
  ])('explains %j with exit code 64', async (args, message) => {
    const said = vi.spyOn(console, 'error').mockImplementation(() => {})
    // Nothing is loaded: that needs no process of its own.
    const code = await main(['loadtest', ...(args as string[])])
    const text = said.mock.calls.flat().join('\n')
    said.mockRestore()
    expect(text).toMatch(message)
    expect(code).toBe(64)
  })

  it('answers a bad config with exit code 78', async () => {
    const file = join(scratch, 'bad.yaml')
    writeFileSync(file, 'version: 1\nrouts: []\n')
    const { code, stderr } = await loadtest(['-c', file])
    expect(stderr).toMatch(/bad\.yaml:2:1/)
    expect(code).toBe(78)
  })
})
