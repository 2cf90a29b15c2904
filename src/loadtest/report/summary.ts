/** The result of a run as a terminal shows it. `paint` colours a word, or returns it as it is. */

import { OUTCOMES } from '../recording.ts'
import type { Latency, LoadResult } from '../result.ts'
import { formatCount, formatMs, formatShare } from '../slo.ts'

export type Colour = 'green' | 'red' | 'yellow' | 'dim' | 'bold'
export type Paint = (colour: Colour, text: string) => string

const VERDICT_COLOUR = { PASS: 'green', FAIL: 'red', INVALID: 'yellow' } as const

export function summaryText(result: LoadResult, paint: Paint): string {
  const { plan, requests, shares, latencyMs, refusedMs, generator } = result
  const lines = [
    `${paint('bold', `Load test · ${result.name}`)}  ${verdict(result, paint)}`,
    paint('dim', `${plan.origin} · ${plan.load}`),
    '',
    row(
      paint,
      'requests',
      `${formatCount(requests.started)} started · ${formatCount(requests.answered)} answered · ${formatCount(result.rps)}/s served`,
    ),
    row(paint, 'latency', latencyLine(latencyMs)),
    row(
      paint,
      'answers',
      [
        `ok ${formatCount(requests.ok)}`,
        `at capacity (503) ${formatCount(requests.shed)}${requests.shed ? ` (${formatShare(shares.shed)})` : ''}`,
        `rate limited (429) ${formatCount(requests.limited)}${requests.limited ? ` (${formatShare(shares.limited)})` : ''}`,
        `errors ${formatCount(requests.failed + requests.broken + requests.timedOut)} (${formatShare(shares.errors)})`,
      ].join(' · '),
    ),
  ]
  if (refusedMs.count > 0) lines.push(row(paint, 'refusals', latencyLine(refusedMs)))
  const statuses = Object.entries(result.statuses)
  if (statuses.length > 0) {
    lines.push(row(paint, 'statuses', statuses.map(([code, count]) => `${code}: ${formatCount(count)}`).join(' · ')))
  }
  for (const [error, count] of Object.entries(result.errors).slice(0, 8)) {
    lines.push(row(paint, 'error', paint('red', `${error}: ${formatCount(count)}`)))
  }
  lines.push(
    row(
      paint,
      'generator',
      `${plan.threads} thread${plan.threads === 1 ? '' : 's'} · late ${formatCount(generator.lateStarts)} · missed ` +
        `${formatCount(generator.missedStarts)} · stood still ${formatShare(generator.stalledShare)} · most behind ${formatMs(generator.maxLagMs)}`,
    ),
  )
  if (result.targets.length > 1) lines.push('', ...targetTable(result, paint))
  lines.push('')
  if (result.verdict === 'INVALID') {
    lines.push(paint('yellow', 'INVALID: this is no measurement of the service.'))
    for (const reason of result.reasons) lines.push(`  ${reason}`)
    return `${lines.join('\n')}\n`
  }
  const width = Math.max(...result.slos.map(({ text }) => text.length))
  for (const { text, measured, passed } of result.slos) {
    lines.push(`  ${paint(passed ? 'green' : 'red', passed ? 'PASS' : 'FAIL')}  ${text.padEnd(width)}  ${measured}`)
  }
  return `${lines.join('\n')}\n`
}

function verdict(result: LoadResult, paint: Paint): string {
  return paint(VERDICT_COLOUR[result.verdict], result.verdict)
}

const row = (paint: Paint, name: string, text: string): string => `  ${paint('dim', name.padEnd(10))} ${text}`

function latencyLine(latency: Latency): string {
  if (latency.count === 0) return 'no answer to measure'
  const { mean, p50, p75, p95, p99, p999, max } = latency
  return Object.entries({ mean, p50, p75, p95, p99, 'p99.9': p999, max })
    .map(([name, ms]) => `${name} ${formatMs(ms)}`)
    .join(' · ')
}

function targetTable(result: LoadResult, paint: Paint): string[] {
  const rows = result.targets.map((target) => [
    target.name,
    formatCount(OUTCOMES.reduce((total, name) => total + target[name], 0)),
    formatMs(target.latencyMs.p50),
    formatMs(target.latencyMs.p95),
    formatMs(target.latencyMs.p99),
    formatCount(target.shed + target.limited),
    formatCount(target.failed + target.broken + target.timedOut),
  ])
  const table = [['target', 'requests', 'p50', 'p95', 'p99', 'refused', 'errors'], ...rows]
  const widths = table[0]!.map((_, i) => Math.max(...table.map((cells) => cells[i]!.length)))
  return table.map((cells, line) => {
    const text = cells.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join('  ')
    return `  ${line === 0 ? paint('dim', text) : text}`
  })
}
