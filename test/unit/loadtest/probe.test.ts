import { createServer } from 'node:http'
import { describe, expect, it } from 'vitest'
import { createProbe, metricValue, readMetrics, readStat } from '../../../src/loadtest/probe.ts'

const PAGE = `# HELP current_ccu x
# TYPE current_ccu gauge
current_ccu 12
max_ccu 50
normal_ccu 33
queue_size 2
queue_size_total 99
process_cpu_seconds_total 1.5
process_resident_memory_bytes 1e8
http_requests_total{method="GET",route="a b",status="200"} 3
http_requests_total{method="GET",route="x } 7",status="500"} 4
`

describe('the figures of the gateway', () => {
  it('are read from the Prometheus page', () => {
    expect(readMetrics(PAGE)).toEqual({ ccu: 12, maxCcu: 50, normalCcu: 33, queue: 2, cpuSeconds: 1.5, rssBytes: 1e8 })
    expect(metricValue(PAGE, 'http_requests_total')).toBe(7)
    expect(metricValue(PAGE, 'absent')).toBeUndefined()
  })

  it('are read from the JSON of /api/metrics', () => {
    expect(readMetrics('{"current_ccu":4,"max_ccu":9,"normal_ccu":6,"queue_size":"x"}')).toEqual({
      ccu: 4,
      maxCcu: 9,
      normalCcu: 6,
      queue: undefined,
    })
  })

  it('are read from /proc, whatever the process is called', () => {
    const fields = Array.from({ length: 50 }, (_, i) => i + 3)
    const stat = `42 (a) b) ${fields.join(' ').replace('3', 'S')}`
    expect(readStat(stat)).toEqual({ cpuSeconds: (14 + 15) / 100, rssBytes: 24 * 4096 })
  })

  it('become CPU per second, by the page that is there', async () => {
    let cpu = 10
    const asked: string[] = []
    const server = createServer((request, response) => {
      asked.push(`${request.url} ${request.headers.authorization}`)
      if (request.url === '/metrics') return response.writeHead(404).end()
      response.end(JSON.stringify({ current_ccu: cpu++ }))
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const { port } = server.address() as { port: number }
    const probe = createProbe({ admin: `http://127.0.0.1:${port}`, adminToken: 't', pid: process.pid })!
    expect(await probe.sample(1000)).toMatchObject({ atSec: 1, ccu: 10, cpuCores: undefined })
    const second = await probe.sample(2000)
    expect(second).toMatchObject({ atSec: 2, ccu: 11 })
    if (process.platform === 'linux') expect(second!.cpuCores).toBeGreaterThanOrEqual(0)
    expect(asked).toEqual(['/metrics Bearer t', '/api/metrics Bearer t', '/api/metrics Bearer t'])
    server.close()
    server.closeAllConnections()
    // A gateway that is gone leaves a gap, not an error.
    expect((await probe.sample(3000))?.ccu).toBeUndefined()
    await probe.close()
  })

  it('are none when nobody is asked', () => {
    expect(createProbe({})).toBeUndefined()
  })
})
