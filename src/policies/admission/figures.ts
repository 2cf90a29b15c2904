/** Admission as it stands over all threads, read from shared memory: no thread is asked. */

import type { AdmissionFigures, GaugeValue } from '../../observability/figures.ts'
import type { AdmissionConfig } from './config.ts'
import { Places } from './places.ts'
import { normalCapacity, scopeLimits } from './policy.ts'
import type { TierIds } from './tiers.ts'

/** The gateway's places as the supervisor sees them. */
export function watchPlaces(memory: SharedArrayBuffer, threads: number, config: AdmissionConfig, ids: TierIds): Places {
  return new Places(memory, threads, -1, scopeLimits(config, config, ids))
}

export function admissionFigures(places: Places, config: AdmissionConfig, ids: TierIds): AdmissionFigures {
  const { ccu, inService, waiting, admitted, completed, aborted } = places.figures()
  return {
    ccu,
    inService,
    admitted,
    completed,
    aborted,
    queued: waiting,
    maxCCU: config.maxCCU,
    workers: places.workers,
    queueCapacity: places.limits.maxQueue,
    normalCCU: normalCapacity(config),
    tiers: config.tiers.map(({ name, guarantee }) => ({
      name,
      ccu: places.tier(ids.get(name) ?? 0).ccu,
      guarantee: Math.floor((guarantee / 100) * config.maxCCU),
    })),
  }
}

/** What the mechanisms around the cap have made of it. */
export function* admissionGauges(places: Places): Iterable<GaugeValue> {
  const gauge = (name: string, help: string, value: number): GaugeValue => ({
    name,
    help,
    labels: {},
    value,
    type: 'gauge',
  })
  yield gauge(
    'fluxor_ccu_cap',
    'The cap of now: max_ccu, less what pressure takes, at most the lease of the fleet.',
    places.cap,
  )
  yield gauge('fluxor_pressure_share', 'Share of max_ccu that pressure leaves, 0 to 1.', places.share / 1000)
  yield gauge(
    'fluxor_queue_overloaded',
    'Whether the adaptive queue serves the newest first.',
    Number(places.overloaded),
  )
}
