/** Logs of a running gateway on disks and pipes that fail: traffic must not notice. */

import { execFileSync } from 'node:child_process'
import { closeSync, constants, existsSync, mkdtempSync, openSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { startGateway, type TestGateway } from '../../support/gateway.ts'
import { SteadyLoad } from '../../support/steady-load.ts'

let folder: string
let gateway: TestGateway | undefined
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'fluxor-logs-'))
})
afterEach(async () => {
  await gateway?.close()
  gateway = undefined
  rmSync(folder, { recursive: true, force: true })
})

const start = (logging: object, threads = 2) =>
  startGateway({
    server: { threads },
    logging,
    routes: [
      { match: { path: '/api/metrics' }, metrics: {} },
      { name: 'load', match: { pathPrefix: '/' }, respond: { status: 200, body: 'ok' } },
    ],
  })

/** Answers so many requests; the longest that twenty others, one after the other, took meanwhile. */
async function underLoad(requests: number): Promise<number> {
  const load = new SteadyLoad(gateway!.port, 16)
  const done = load.progress(requests)
  let longestMs = 0
  for (let i = 0; i < 20; i++) {
    const from = performance.now()
    expect((await fetch(gateway!.url)).status).toBe(200)
    longestMs = Math.max(longestMs, performance.now() - from)
  }
  await done
  const { lost, refused, statuses } = await load.stop()
  expect({ lost, refused, statuses: Object.keys(statuses) }).toEqual({ lost: 0, refused: 0, statuses: ['200'] })
  return longestMs
}

describe('the access log', () => {
  it.skipIf(!existsSync('/dev/full'))('on a full device costs its lines, counted, and no request', async () => {
    gateway = await start({ access: { file: '/dev/full' } })
    expect(await underLoad(3000)).toBeLessThan(1000)
    await expect.poll(() => gateway!.metric('fluxor_access_log_dropped_total'), { timeout: 5000 }).toBeGreaterThan(2000)
    expect(await gateway.metric('fluxor_access_log_lines_total')).toBe(0)
    expect(await gateway.stop()).toBe(0)
  })

  it.skipIf(process.platform === 'win32')(
    'into a pipe that nobody reads costs its lines, counted, and no request',
    async () => {
      const pipe = join(folder, 'pipe')
      execFileSync('mkfifo', [pipe])
      const reader = openSync(pipe, constants.O_RDONLY | constants.O_NONBLOCK)
      try {
        gateway = await start({ access: { file: pipe } })
        // Past what the pipe and the buffers of both threads hold
        for (let i = 0; i < 10; i++) expect(await underLoad(2000)).toBeLessThan(1000)
        await expect
          .poll(() => gateway!.metric('fluxor_access_log_dropped_total'), { timeout: 5000 })
          .toBeGreaterThan(0)
        expect((await fetch(gateway.url)).status).toBe(200)
      } finally {
        closeSync(reader)
      }
    },
  )

  it('goes on in a new file after a rename and SIGUSR2, as logrotate does it', async () => {
    const file = join(folder, 'access.log')
    gateway = await start({ access: { file, format: 'common' } })
    const path = async (name: string) => (await fetch(`${gateway!.url}/${name}`)).text()
    const lines = (name: string) => (existsSync(name) ? readFileSync(name, 'utf8').split('\n').filter(Boolean) : [])
    await path('before')
    await expect.poll(() => lines(file).length, { timeout: 5000 }).toBe(1)
    expect(lines(file)[0]).toMatch(/^127\.0\.0\.1 - - \[\d\d\/\w{3}\/\d{4}:\d\d:\d\d:\d\d \+0000\] "GET \/before HTTP\/1\.1" 200 \d+$/) // biome-ignore format: one pattern
    renameSync(file, `${file}.1`)
    await path('between')
    await expect.poll(() => lines(`${file}.1`).length, { timeout: 5000 }).toBe(2)
    gateway.signal('SIGUSR2')
    await expect.poll(() => existsSync(file), { timeout: 5000 }).toBe(true)
    await path('after')
    await expect.poll(() => lines(file).length, { timeout: 5000 }).toBe(1)
    expect(lines(file)[0]).toContain('GET /after')
  })
})

describe("the gateway's own log", () => {
  it('has the word of its level for people with grep', async () => {
    gateway = await start({ level: 'info' })
    gateway.reload('version: 1\nroutes: nonsense\n')
    const line = await gateway.waitForLog(({ level_name }) => level_name === 'ERROR')
    expect(JSON.stringify(line)).toContain('ERROR')
    expect(gateway.output()).toMatch(/ERROR.*config not taken/)
  })
})
