/** What is counted and logged of each exchange. Also by itself. */

import { compileAccessLog } from '../../src/observability/access-log.ts'
import { loggingConfig } from '../../src/observability/config.ts'
import { createMetricsMemory, ThreadMetrics } from '../../src/shared/metrics.ts'
import { makeExchange } from '../../test/support/exchanges.ts'
import { printSuites, type Suite, time } from './timing.ts'

export function measureObservability(): Suite {
  const metrics = new ThreadMetrics(createMetricsMemory({ threads: 1 }), 0)
  const routes = Array.from({ length: 8 }, (_, i) => metrics.routeId(`route-${i}`))
  const series = metrics.series('fluxor_upstream_requests_total', { upstream: 'app', endpoint: 'a:1' })
  const users = Array.from({ length: 1024 }, (_, i) => `user-${i}`)
  const x = makeExchange('GET /orders/7?expand=customer HTTP/1.1')
  x.status = 200
  x.upstream = 'app'
  x.endpoint = '127.0.0.1:3000'
  let bytes = 0
  const logs = (['json', 'combined'] as const).map((format) => {
    const { access } = loggingConfig.parse({ access: { format } })
    const log = compileAccessLog(access, (line) => {
      bytes += line.length
    })!
    return time(`access log: a line of ${format}`, (i) => {
      log(x, 'completed', i / 10)
      return bytes
    })
  })
  return {
    name: 'observability',
    timings: [
      time('metrics: an exchange that ended', (i) => {
        metrics.count(routes[i & 7]!, 0, 200, (i & 255) / 10, 0, 129, 0, i / 10)
        return i
      }),
      time('metrics: one more of a series', (i) => {
        metrics.inc(series)
        return i
      }),
      time('metrics: a user, of 1024', (i) => {
        metrics.user(users[i & 1023]!, i / 10)
        return i
      }),
      ...logs,
    ],
    notes: [],
  }
}

if (import.meta.main) printSuites([measureObservability()])
