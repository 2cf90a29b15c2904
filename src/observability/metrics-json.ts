/**
 * The figures of `GET /api/metrics`, one JSON object with flat snake_case names as in Prometheus. Any thread can make
 * it: everything is read from shared memory.
 */

import type { MetricsReader } from '../shared/metrics-reader.ts'
import { type AdmissionFigures, ratio } from './figures.ts'

export interface MetricsJson {
  queue_size: number
  queue_capacity: number
  queue_utilization: number
  current_ccu: number
  max_ccu: number
  normal_ccu: number
  ccu_utilization: number
  workers: number
  in_service: number
  worker_utilization: number
  current_streams: number
  backpressure_active: boolean
  total_requests: number
  successful_requests: number
  error_requests: number
  rejected_requests: number
  /** Share of answers of 500 and above since the start, 0 to 1. */
  error_rate: number
  requests_per_second: number
  latency_ms: { mean: number; p50: number; p75: number; p95: number; p99: number; max: number }
  connections: number
  pool: { open: number; idle: number; waiting: number; waits: number; wait_ms: number }
  cache: {
    hits: number
    misses: number
    stale: number
    bypass: number
    hit_rate: number
    bytes: number
    entries: number
  }
  /** Different subjects or addresses in the last whole minute; an estimate. */
  active_users: number
  requests_per_user: number
  threads: number
  uptime_seconds: number
}

/**
 * @param wallMs `performance.timeOrigin + performance.now()`
 * @param startedMs when the gateway started, on the same clock
 */
export function metricsJson(
  reader: MetricsReader,
  admission: AdmissionFigures,
  wallMs: number,
  startedMs: number,
): MetricsJson {
  const a = admission
  const minute = reader.lastMinute(wallMs, startedMs)
  const classes = reader.statusClasses()
  const total = classes.reduce((sum, n) => sum + n, 0)
  const hits = reader.scalar('cacheHits') + reader.scalar('cacheStale') + reader.scalar('cacheRevalidated')
  const misses = reader.scalar('cacheMisses')
  const users = reader.users(wallMs)
  return {
    queue_size: a.queued,
    queue_capacity: a.queueCapacity,
    queue_utilization: round(ratio(a.queued, a.queueCapacity)),
    current_ccu: a.ccu,
    max_ccu: a.maxCCU,
    normal_ccu: a.normalCCU,
    ccu_utilization: round(ratio(a.ccu, a.maxCCU)),
    workers: a.workers,
    in_service: a.inService,
    worker_utilization: round(ratio(a.inService, a.workers)),
    current_streams: reader.scalar('streamsCurrent'),
    backpressure_active: a.maxCCU > 0 && a.ccu >= a.maxCCU,
    total_requests: total,
    successful_requests: classes[2]! + classes[3]!,
    error_requests: classes[4]! + classes[5]!,
    rejected_requests: reader.refusedByAdmission(),
    error_rate: round(ratio(classes[5]!, total), 6),
    requests_per_second: round(minute.perSecond, 2),
    latency_ms: {
      mean: round(minute.mean),
      p50: round(minute.p50),
      p75: round(minute.p75),
      p95: round(minute.p95),
      p99: round(minute.p99),
      max: round(minute.max),
    },
    connections: reader.scalar('connectionsOpen'),
    pool: {
      open: reader.scalar('poolOpen'),
      idle: reader.scalar('poolIdle'),
      waiting: reader.scalar('poolWaiting'),
      waits: reader.scalar('poolWaited'),
      wait_ms: round(reader.scalar('poolWaitMs')),
    },
    cache: {
      hits,
      misses,
      stale: reader.scalar('cacheStale'),
      bypass: reader.scalar('cacheBypass'),
      hit_rate: round(ratio(hits, hits + misses)),
      bytes: reader.scalar('cacheBytes'),
      entries: reader.scalar('cacheEntries'),
    },
    active_users: users.users,
    requests_per_user: round(ratio(users.requests, users.users), 2),
    threads: reader.threads,
    uptime_seconds: Math.floor((wallMs - startedMs) / 1000),
  }
}

function round(value: number, digits = 4): number {
  return Number(value.toFixed(digits))
}
