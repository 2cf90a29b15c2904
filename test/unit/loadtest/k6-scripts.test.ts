import { execFile } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

const run = promisify(execFile)
const folder = fileURLToPath(new URL('../../../loadtest/', import.meta.url))
const bin = fileURLToPath(new URL('../../../node_modules/.bin/', import.meta.url))
const scratch = mkdtempSync(join(tmpdir(), 'k6-'))

interface Report {
  checks: Record<string, { passes: number; fails: number }>
  metrics: Record<string, { values: Record<string, number>; thresholds?: Record<string, { ok: boolean }> }>
  scenarios: Record<string, { executor: string; stages: { duration: string; target: number }[] }>
  outputs: Record<string, string>
  sleptSeconds: number
}

let server: Server
let baseUrl = ''
let mode: 'well' | 'full' | 'broken' = 'well'

beforeAll(async () => {
  server = createServer((request, response) => {
    let body = ''
    request.on('data', (chunk) => (body += chunk))
    request.on('end', () => {
      const json = (value: unknown, status = 200) =>
        response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(value))
      if (mode === 'full') return json({ code: 'BACKPRESSURE', reason: 'CCU_FULL' }, 503)
      if (mode === 'broken') return json({}, 500)
      if (request.url === '/health') return json({ status: 'healthy' })
      if (request.url === '/ready') return json({ ready: true })
      if (request.url === '/api/users') return json({}, request.headers.authorization ? 200 : 401)
      if (request.url === '/api/echo') return json({ echo: JSON.parse(body) })
      json({})
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  baseUrl = `http://127.0.0.1:${(server.address() as { port: number }).port}`
})

afterAll(() => {
  server.close()
  server.closeAllConnections()
  rmSync(scratch, { recursive: true, force: true })
})

async function k6(script: string, iterations: number, env: Record<string, string> = {}): Promise<Report> {
  const { stdout } = await run(
    process.execPath,
    [join(folder, 'shim/run.ts'), join(folder, script), String(iterations)],
    {
      env: { ...process.env, BASE_URL: baseUrl, ...env },
      timeout: 20_000,
    },
  )
  return JSON.parse(stdout) as Report
}

const verdicts = ({ metrics }: Report) =>
  Object.values(metrics).flatMap(({ thresholds = {} }) =>
    Object.entries(thresholds).map(([text, { ok }]) => [text, ok]),
  )

const SCRIPTS = ['load-test.js', 'spike-test.js', 'stress-test.js', 'smoke-test.js']

describe('the k6 scripts', () => {
  it('are typed as k6 has it', async () => {
    await run(join(bin, 'tsc'), ['-p', folder], { timeout: 30_000 })
    // The check can fail: a script that misuses k6 does not pass.
    const bad = join(scratch, 'bad.js')
    writeFileSync(bad, "// @ts-check\nimport { sleep } from 'k6'\nsleep('long')\n")
    const config = {
      extends: join(folder, 'tsconfig.json'),
      compilerOptions: {
        typeRoots: [join(folder, '../node_modules/@types')],
        paths: { k6: [join(folder, '../node_modules/@types/k6/index.d.ts')] },
      },
      include: [bad],
    }
    writeFileSync(join(scratch, 'tsconfig.json'), JSON.stringify(config))
    await expect(run(join(bin, 'tsc'), ['-p', scratch], { timeout: 30_000 })).rejects.toMatchObject({
      stdout: expect.stringMatching(/TS2345/),
    })
  })

  it.each(SCRIPTS)('%s runs and passes against a healthy service', async (script) => {
    mode = 'well'
    const report = await k6(script, 40)
    expect(Object.values(report.checks).every(({ passes, fails }) => passes > 0 && fails === 0)).toBe(true)
    expect(report.metrics['http_reqs']!.values['count']).toBeGreaterThanOrEqual(40)
    expect(report.sleptSeconds).toBeGreaterThan(1)
    expect(report.outputs['stdout']).toMatch(/: PASS\n/)
  })

  it.each(SCRIPTS)('%s takes 503 at capacity for what it is, not for an error', async (script) => {
    mode = 'full'
    const { metrics } = await k6(script, 10)
    expect(metrics['errors']!.values['rate']).toBe(0)
    expect(metrics['shed']!.values['rate']).toBe(1)
    expect(metrics['http_req_failed']!.values['rate']).toBe(0)
  })

  it.each(SCRIPTS)('%s fails against a broken service', async (script) => {
    mode = 'broken'
    const report = await k6(script, 10)
    expect(verdicts(report)).toContainEqual([expect.stringMatching(/^rate</), false])
    expect(report.outputs['stdout']).toMatch(/: FAIL\n/)
  })

  it('asks with a token when there is one, and writes its figures', async () => {
    mode = 'well'
    const file = join(scratch, 'figures.json')
    const report = await k6('load-test.js', 60, { TOKEN: 't', SUMMARY_JSON: file })
    expect(report.metrics['errors']!.values['rate']).toBe(0)
    expect(JSON.parse(report.outputs[file]!)).toMatchObject({ name: 'load', passed: true, requests: 60 })
  })

  it('scale, and make arrivals of users', async () => {
    const users = (await k6('load-test.js', 1, { SCALE: '0.01', DURATION: '0.1' })).scenarios['users']!
    expect(users.executor).toBe('ramping-vus')
    expect(users.stages.map(({ duration, target }) => [duration, target])).toEqual([
      ['6s', 10],
      ['12s', 50],
      ['12s', 100],
      ['18s', 100],
      ['12s', 0],
    ])
    const arrivals = (await k6('spike-test.js', 1, { SCENARIO: 'arrivals', SCALE: '0.1' })).scenarios['arrivals']!
    expect(arrivals.executor).toBe('ramping-arrival-rate')
    expect(Math.max(...arrivals.stages.map(({ target }) => target))).toBe(5000)
    await expect(k6('load-test.js', 1, { SCALE: 'big' })).rejects.toThrow(/SCALE must be a number above 0/)
  })

  it('keep the thresholds of the load test, the spike and the stress test', () => {
    const thresholds = (script: string) =>
      /thresholds: \{(.*?)\n {2}\}/s.exec(readFileSync(join(folder, script), 'utf8'))![1]!
    expect(thresholds('load-test.js')).toMatch(/http_req_duration: \['p\(95\)<200'\].*errors: \['rate<0\.001'\]/s)
    expect(thresholds('spike-test.js')).toMatch(/http_req_duration: \['p\(95\)<500'\].*errors: \['rate<0\.01'\]/s)
    expect(thresholds('stress-test.js')).toMatch(/http_req_duration: \['p\(95\)<1000'\].*errors: \['rate<0\.05'\]/s)
  })
})
