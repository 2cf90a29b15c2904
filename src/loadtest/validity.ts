/**
 * Whether a run was a run. A generator that cannot keep its schedule measures itself; its numbers are not shown as the
 * service's. The reasons are sentences for the user.
 */

import type { LoadPlan } from './load-plan.ts'
import { type Recording, sum } from './recording.ts'
import { formatShare } from './slo.ts'

/** The share of the run, up to its last answer, in which the generator's event loop stood still, 0…1. */
export const stalledShare = ({ stalledMs, durationMs, endedMs }: Recording): number =>
  Math.min(1, stalledMs / Math.max(durationMs, endedMs))

export function reasonsAgainst(
  recording: Recording,
  { lateAfterMs, maxLateShare, maxConnections }: Pick<LoadPlan, 'lateAfterMs' | 'maxLateShare' | 'maxConnections'>,
  stopped = false,
): string[] {
  const reasons: string[] = []
  const { late, missed, dropped, exhausted } = recording
  const planned = sum(recording.started) + missed + dropped
  const allowed = formatShare(maxLateShare)
  if (stopped) return ['it was stopped before its end']
  if (planned === 0) return ['the shape asked for no request at all: give it more users, a higher rate or more time']
  const behind = (late + missed) / planned
  if (behind > maxLateShare) {
    reasons.push(
      `the generator fell behind: ${formatShare(behind)} of the starts were more than ${lateAfterMs} ms late or never made ` +
        `(allowed: ${allowed}); give it more threads, another machine, or less to do`,
    )
  }
  const stalled = stalledShare(recording)
  if (stalled > maxLateShare) {
    reasons.push(
      `the generator's event loop stood still for ${formatShare(stalled)} of the run (allowed: ${allowed}); something else ` +
        'has this machine, or it has too much to do',
    )
  }
  if (dropped / planned > maxLateShare) {
    reasons.push(
      `${formatShare(dropped / planned)} of the starts found all ${maxConnections} connections busy; raise --connections`,
    )
  }
  if (exhausted > 0) {
    const codes = [...recording.errors.keys()].filter((code) => /^E[A-Z]+$/.test(code)).join(', ')
    reasons.push(
      `the generator's machine ran out of descriptors or ports (${codes}); raise ulimit -n, or use fewer connections`,
    )
  }
  return reasons
}
