/** Metrics of parts that are looked at when Prometheus asks: key sets, users, tables, scaling. */

import type { KeySetStatus } from '../policies/auth/jwks.ts'
import type { MetricsReader } from '../shared/metrics-reader.ts'
import { type GaugeValue, ratio } from './figures.ts'
import type { ScaleAnswer } from './scale.ts'

function gauge(name: string, help: string, value: number, labels: Record<string, string> = {}): GaugeValue {
  return { name, help, labels, value, type: 'gauge' }
}

function counter(name: string, help: string, value: number): GaugeValue {
  return { name, help, labels: {}, value, type: 'counter' }
}

/** @param addressOf the URL as it may be shown */
export function* keySetValues(keySets: readonly KeySetStatus[], addressOf: (url: string) => string) {
  for (const { url, kids, ageMs, lastError } of keySets) {
    const labels = { url: addressOf(url) }
    yield gauge('fluxor_jwks_keys', 'Keys of a JWKS that can verify tokens.', kids.length, labels)
    const ok = 'Whether the last fetch of a JWKS was good.'
    yield gauge('fluxor_jwks_last_fetch_success', ok, +(lastError === undefined), labels)
    if (ageMs !== undefined) yield gauge('fluxor_jwks_age_seconds', 'Since the last good fetch.', ageMs / 1000, labels)
  }
}

/** @param wallMs `performance.timeOrigin + performance.now()` */
export function* userValues(reader: MetricsReader, wallMs: number): Iterable<GaugeValue> {
  const { users, requests } = reader.users(wallMs)
  yield gauge(
    'fluxor_active_users',
    'Different users (subjects, or client addresses without one) in the last whole minute; an estimate, 1.6 % off on average.',
    users,
  )
  yield gauge('fluxor_requests_per_user', 'Requests per user in the last whole minute.', ratio(requests, users))
}

export function* limiterValues(table: { evictions: number; stolenLocks: number }): Iterable<GaugeValue> {
  yield counter(
    'fluxor_rate_limit_evictions_total',
    'Keys of rate limits that were forgotten early for want of room.',
    table.evictions,
  )
  yield counter(
    'fluxor_rate_limit_stolen_locks_total',
    'Locks of rate limits taken from a thread that did not let go.',
    table.stolenLocks,
  )
}

export function* scaleValues({ load }: ScaleAnswer): Iterable<GaugeValue> {
  yield gauge('fluxor_scale_load', "Instances that this instance's load would fill to their normal capacity.", load)
}
