import { readdirSync, readFileSync } from 'node:fs'
import { afterEach, describe, expect, it } from 'vitest'
import { type AdminListener, createAdmin } from '../../../src/listener/admin.ts'
import { createDashboard } from '../../../src/observability/dashboard.ts'
import { History } from '../../../src/observability/history.ts'
import { createMetricsMemory, ThreadMetrics } from '../../../src/shared/metrics.ts'
import { MetricsReader } from '../../../src/shared/metrics-reader.ts'

const FOLDER = new URL('../../../src/observability/dashboard/', import.meta.url)
let admin: AdminListener | undefined
let close: (() => void) | undefined
afterEach(async () => {
  close?.()
  await admin?.close()
})

async function start() {
  const memory = createMetricsMemory({ threads: 1 })
  const metrics = new ThreadMetrics(memory, 0)
  const history = new History({ reader: new MetricsReader(memory), version: '1.2.3' }, 0)
  const dashboard = createDashboard(history)
  close = dashboard.close
  admin = createAdmin({ routes: dashboard.routes })
  const { port } = await admin.listen('127.0.0.1', 0)
  return { metrics, history, base: `http://127.0.0.1:${port}` }
}

describe('the dashboard', () => {
  it('serves every file that its pages and scripts name, and nothing from elsewhere', async () => {
    const { base } = await start()
    const page = await (await fetch(`${base}/dashboard`)).text()
    const named = new Set([...page.matchAll(/(?:src|href)="([^"]+)"/g)].map((match) => match[1]!))
    for (const file of readdirSync(FOLDER)) {
      const text = readFileSync(new URL(file, FOLDER), 'utf8')
      for (const match of text.matchAll(/from '\.\/([^']+)'/g)) named.add(`/dashboard/${match[1]}`)
      expect(text.replaceAll('http://www.w3.org/2000/svg', '')).not.toMatch(
        /https?:\/\/|@import|url\(|innerHTML|style="/,
      )
    }
    expect(named.size).toBeGreaterThanOrEqual(8)
    for (const path of named) {
      expect(path).toMatch(/^\/dashboard\//)
      const response = await fetch(base + path)
      expect([path, response.status]).toEqual([path, 200])
      expect((await response.text()).length).toBeGreaterThan(50)
    }
  })

  it('gives the history, and a sample each second to whoever follows', async () => {
    const { base, history, metrics } = await start()
    history.sample(1000)
    expect(await (await fetch(`${base}/dashboard/history`)).json()).toMatchObject({
      version: '1.2.3',
      t: [expect.any(Number)],
    })
    const response = await fetch(`${base}/dashboard/events`)
    expect(response.headers.get('content-type')).toBe('text/event-stream')
    const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader()
    const first = (await reader.read()).value!
    expect(first).toMatch(/^retry: \d+\ndata: \{.*\}\n\n$/)
    metrics.localReply('NO_ROUTE')
    history.sample(2000)
    const second = (await reader.read()).value!
    expect(JSON.parse(second.slice('data: '.length))).toMatchObject({ refusals: { NO_ROUTE: 1 }, shed: 0 })
    close!()
    expect((await reader.read()).done).toBe(true)
  })

  it('refuses more viewers than it can serve', async () => {
    const { base } = await start()
    const open: Response[] = []
    for (let i = 0; i < 64; i++) open.push(await fetch(`${base}/dashboard/events`))
    const refused = await fetch(`${base}/dashboard/events`)
    expect([open.at(-1)!.status, refused.status, refused.headers.get('retry-after')]).toEqual([200, 503, '10'])
    await open[0]!.body!.cancel()
    await Promise.all(open.slice(1).map((response) => response.body!.cancel()))
  })
})
