/** The report of a run, and of a search for capacity, as one HTML file. */

import type { CapacityResult } from '../capacity.ts'
import { OUTCOMES } from '../recording.ts'
import type { LoadResult } from '../result.ts'
import { formatCount, formatMs, formatShare, type Slo } from '../slo.ts'
import { type Chart, type ChartSeries, formatTime } from './chart.ts'
import { codeCard, factsCard, pageHtml, sideBySide, tableCard } from './page.ts'

export interface ReportOptions {
  readonly slos: readonly Slo[]
  readonly version: string
}

export function loadReport(result: LoadResult, { slos, version }: ReportOptions): string {
  const { plan, requests, shares, latencyMs } = result
  const errors = requests.failed + requests.broken + requests.timedOut
  const charts = chartsOf(result, slos)
  const odd = charts.length % 2 === 1
  const judged = result.verdict !== 'INVALID'
  const generator = factsCard('How the load was made', [
    ['threads', String(plan.threads)],
    ['late starts', `${formatCount(result.generator.lateStarts)} (more than ${result.generator.lateAfterMs} ms)`],
    ['missed starts', formatCount(result.generator.missedStarts + result.generator.droppedStarts)],
    ['stood still', formatShare(result.generator.stalledShare)],
    ['most behind', formatMs(result.generator.maxLagMs)],
    ['gives up after', formatMs(plan.timeoutMs)],
    ['machine', `${result.machine.cpus} cores, ${result.machine.platform}, Node.js ${result.machine.node}`],
  ])
  return pageHtml({
    title: `Load test · ${result.name}`,
    verdict: result.verdict,
    about: `${plan.origin} · ${plan.load} · ${new Date(result.startedAt).toUTCString()}`,
    reasons: result.reasons,
    figures: [
      { value: `${formatCount(result.rps)}/s`, label: 'served' },
      { value: formatMs(latencyMs.p50), label: 'p50 latency' },
      { value: formatMs(latencyMs.p95), label: 'p95 latency' },
      { value: formatMs(latencyMs.p99), label: 'p99 latency' },
      { value: formatShare(shares.errors), label: `errors (${formatCount(errors)})` },
      { value: formatShare(shares.shed), label: `503 at capacity (${formatCount(requests.shed)})` },
      { value: formatCount(requests.started), label: 'requests' },
    ],
    charts,
    beside: odd ? generator : '',
    sections: [
      sideBySide(
        tableCard(
          'Objectives',
          ['objective', 'measured', ''],
          result.slos.map(({ text, measured, passed }) => [
            text,
            measured,
            judged ? (passed ? 'PASS' : 'FAIL') : 'not judged',
          ]),
        ),
        tableCard(
          'Answers and errors',
          ['what', 'count'],
          [
            ...Object.entries(result.statuses).map(([code, count]) => [`status ${code}`, formatCount(count)]),
            ...Object.entries(result.errors)
              .filter(([error]) => !error.startsWith('status '))
              .map(([error, count]) => [error, formatCount(count)]),
          ],
        ),
      ),
      tableCard(
        'Latency',
        ['', 'requests', 'mean', 'min', 'p50', 'p75', 'p90', 'p95', 'p99', 'p99.9', 'max'],
        [
          latencyRow('served', latencyMs),
          ...(result.refusedMs.count > 0 ? [latencyRow('refused', result.refusedMs)] : []),
        ],
      ),
      tableCard(
        'Targets',
        ['target', 'requests', 'ok', 'p50', 'p95', 'p99', 'max', '503 at capacity', '429', 'errors'],
        result.targets.map((target) => [
          target.name,
          formatCount(OUTCOMES.reduce((total, name) => total + target[name], 0)),
          formatCount(target.ok),
          formatMs(target.latencyMs.p50),
          formatMs(target.latencyMs.p95),
          formatMs(target.latencyMs.p99),
          formatMs(target.latencyMs.max),
          formatCount(target.shed),
          formatCount(target.limited),
          formatCount(target.failed + target.broken + target.timedOut),
        ]),
      ),
      ...(odd ? [] : [generator]),
    ],
    footer: footer(version),
  })
}

const footer = (version: string): string =>
  `fluxor-gateway ${version} loadtest · open loop: latency counts from when a request was due, not from when it could be sent.`

function latencyRow(name: string, latency: LoadResult['latencyMs']): string[] {
  const { count, mean, min, p50, p75, p90, p95, p99, p999, max } = latency
  return [name, formatCount(count), ...[mean, min, p50, p75, p90, p95, p99, p999, max].map(formatMs)]
}

const ANSWER_SERIES = [
  ['2xx', '--s2xx'],
  ['3xx', '--s3xx'],
  ['4xx', '--s4xx'],
  ['429', '--s429'],
  ['shed', '--shed'],
  ['5xx', '--s5xx'],
  ['none', '--none'],
] as const
const ANSWER_NAMES = {
  '2xx': '2xx',
  '3xx': '3xx',
  '4xx': '4xx',
  '429': '429',
  shed: '503 at capacity',
  '5xx': '5xx',
  none: 'no answer',
}

function chartsOf(result: LoadResult, slos: readonly Slo[]): Chart[] {
  const { series, plan, intervalSec } = result
  const x = series.map(({ atSec }) => atSec)
  const all = (
    name: string,
    colour: string,
    read: (point: LoadResult['series'][number]) => number | null,
    more = {},
  ): ChartSeries => ({
    name,
    colour,
    values: series.map(read),
    ...more,
  })
  const charts: Chart[] = [
    {
      id: 'latency',
      title: 'Latency',
      about: `of what was served, by the moment it was due; intervals of ${formatTime(intervalSec)}; logarithmic`,
      unit: 'ms',
      x,
      logarithmic: true,
      marks: slos
        .filter(({ unit, metric }) => unit === 'ms' && !metric.startsWith('refused.'))
        .map(({ text, limit }) => ({ label: text, value: limit })),
      series: [
        all('max', '--max', ({ max }) => max),
        all('p99', '--p99', ({ p99 }) => p99),
        all('p95', '--p95', ({ p95 }) => p95),
        all('p50', '--p50', ({ p50 }) => p50),
      ],
    },
    {
      id: 'throughput',
      title: 'Requests and answers',
      about: 'due and answered, per second',
      unit: 'perSecond',
      x,
      series: [
        all('due', '--max', ({ startedPerSec }) => startedPerSec, { dashed: true }),
        all(
          'answered',
          '--p95',
          ({ answersPerSec }) => Object.values(answersPerSec).reduce((a, b) => a + b, 0) - answersPerSec.none,
          { area: true },
        ),
        all('served', '--s2xx', ({ answersPerSec }) => answersPerSec['2xx'] + answersPerSec['3xx']),
      ],
    },
    {
      id: 'answers',
      title: 'Answers by status',
      about: 'per second, by the moment they came',
      unit: 'perSecond',
      x,
      stacked: true,
      series: ANSWER_SERIES.filter(([name]) => series.some((point) => point.answersPerSec[name] > 0)).map(
        ([name, colour]) => all(ANSWER_NAMES[name], colour, (point) => point.answersPerSec[name]),
      ),
    },
    {
      id: 'level',
      title: plan.unit === 'users' ? 'Users and requests in flight' : 'Requests in flight',
      about:
        plan.unit === 'users'
          ? 'how many users there are, and how many requests wait for an answer at most'
          : 'most at once',
      unit: 'count',
      x,
      series: [
        ...(plan.unit === 'users' ? [all('users', '--level', ({ level }) => level, { area: true })] : []),
        all('in flight', '--p99', ({ inFlight }) => inFlight),
      ],
    },
  ]
  charts.push(...gatewayCharts(result))
  if (result.spectrum.length > 0) charts.push(spectrumChart(result, slos))
  charts.push({
    id: 'lag',
    title: 'Lag of the generator',
    about: 'how far behind its schedule it was at most; above the mark a start is late',
    unit: 'ms',
    x,
    marks: [{ label: 'late', value: result.generator.lateAfterMs }],
    series: [all('behind', '--lag', ({ lagMs }) => lagMs, { area: true })],
  })
  return charts
}

function gatewayCharts({ gateway }: LoadResult): Chart[] {
  const x = gateway.map(({ atSec }) => atSec)
  const has = (key: keyof LoadResult['gateway'][number]) => gateway.some((sample) => sample[key] !== undefined)
  const line = (name: string, colour: string, key: keyof LoadResult['gateway'][number], more = {}): ChartSeries => ({
    name,
    colour,
    values: gateway.map((sample) => sample[key] ?? null),
    ...more,
  })
  const charts: Chart[] = []
  if (has('ccu')) {
    charts.push({
      id: 'ccu',
      title: 'Exchanges in the gateway (CCU)',
      about: 'in service and queued, by its own count',
      unit: 'count',
      x,
      series: [
        line('CCU', '--p95', 'ccu', { area: true }),
        ...(has('queue') ? [line('queued', '--p99', 'queue')] : []),
        ...(has('normalCcu') ? [line('normal capacity', '--max', 'normalCcu', { dashed: true })] : []),
        ...(has('maxCcu') ? [line('cap', '--s5xx', 'maxCcu', { dashed: true })] : []),
      ],
    })
  }
  if (has('cpuCores')) {
    charts.push({
      id: 'cpu',
      title: 'CPU of the gateway',
      about: 'cores in use',
      unit: 'cores',
      x,
      series: [line('CPU', '--level', 'cpuCores', { area: true })],
    })
  }
  if (has('rssBytes')) {
    charts.push({
      id: 'memory',
      title: 'Memory of the gateway',
      about: 'resident',
      unit: 'bytes',
      x,
      series: [line('resident', '--p50', 'rssBytes', { area: true })],
    })
  }
  return charts
}

/** Percentiles on the axis of the rare: each step to the right is ten times rarer. */
function spectrumChart({ spectrum, latencyMs }: LoadResult, slos: readonly Slo[]): Chart {
  // Beyond one in as many as were measured there is nothing to see.
  const rarest = Math.max(1, Math.log10(latencyMs.count))
  const position = (percent: number) => Math.min(rarest, -Math.log10(1 - Math.min(percent, 99.99999) / 100))
  const points = spectrum.filter(({ percent }) => percent === 100 || position(percent) < rarest)
  return {
    id: 'spectrum',
    title: 'Latency distribution',
    about: 'the share of requests that were at least this quick',
    unit: 'ms',
    x: points.map(({ percent }) => position(percent)),
    xTicks: [0, 50, 90, 99, 99.9, 99.99]
      .filter((percent) => position(percent) < rarest || percent === 0)
      .map((percent) => ({ at: position(percent), label: `${percent} %` })),
    xNames: points.map(({ percent }) => (percent === 100 ? 'slowest' : percent === 0 ? 'quickest' : `p${percent}`)),
    marksLeft: true,
    logarithmic: true,
    marks: slos
      .filter(({ unit, metric }) => unit === 'ms' && !metric.startsWith('refused.'))
      .map(({ text, limit }) => ({ label: text, value: limit })),
    series: [{ name: 'latency', colour: '--p95', values: points.map(({ ms }) => ms), area: true }],
  }
}

export function capacityReport(result: CapacityResult, { slos, version }: ReportOptions): string {
  const steps = [...result.steps].filter(({ valid }) => valid).sort((a, b) => a.rate - b.rate)
  const suggestion = result.suggestion
  return pageHtml({
    title: 'Capacity',
    verdict: result.verdict,
    about: `${result.origin} · ${slos.map(({ text }) => text).join(', ')} · ${new Date(result.startedAt).toUTCString()}`,
    reasons: result.reasons,
    figures:
      suggestion === null || result.best === null
        ? []
        : [
            { value: `${formatCount(result.best.rate)}/s`, label: 'highest rate that meets the objectives' },
            { value: formatMs(result.best.p95Ms), label: 'p95 there' },
            { value: formatCount(suggestion.maxCCU), label: 'maxCCU' },
            { value: formatCount(suggestion.workers), label: 'workers' },
            { value: `${suggestion.utilizationPercent} %`, label: 'utilizationPercent' },
          ],
    charts:
      steps.length === 0
        ? []
        : [
            {
              id: 'knee',
              title: 'Latency by rate',
              about: 'each point is one step of the search; logarithmic',
              unit: 'ms',
              logarithmic: true,
              x: steps.map(({ rate }) => rate),
              xTicks: spread(steps.map(({ rate }) => rate)).map((rate) => ({
                at: rate,
                label: `${formatCount(rate)}/s`,
              })),
              xNames: steps.map(({ rate, passed }) => `${formatCount(rate)}/s ${passed ? 'PASS' : 'FAIL'}`),
              marks: slos
                .filter(({ unit, metric }) => unit === 'ms' && !metric.startsWith('refused.'))
                .map(({ text, limit }) => ({ label: text, value: limit })),
              series: [
                { name: 'p99', colour: '--p99', values: steps.map(({ p99Ms }) => p99Ms) },
                { name: 'p95', colour: '--p95', values: steps.map(({ p95Ms }) => p95Ms) },
                { name: 'mean', colour: '--p50', values: steps.map(({ meanMs }) => meanMs) },
              ].map((series) => ({
                ...series,
                values: series.values.map((value) => (Number.isFinite(value) ? value : null)),
              })),
            },
            {
              id: 'goodput',
              title: 'Served by rate',
              about: 'requests served a second, of those offered',
              unit: 'perSecond',
              x: steps.map(({ rate }) => rate),
              xTicks: spread(steps.map(({ rate }) => rate)).map((rate) => ({
                at: rate,
                label: `${formatCount(rate)}/s`,
              })),
              xNames: steps.map(({ rate }) => `${formatCount(rate)}/s offered`),
              series: [
                { name: 'offered', colour: '--max', values: steps.map(({ rate }) => rate), dashed: true },
                { name: 'served', colour: '--s2xx', values: steps.map(({ rps }) => rps), area: true },
              ],
            },
          ],
    sections: [
      ...(result.yaml === null ? [] : [codeCard('Suggested for gateway.yaml', result.yaml)]),
      tableCard(
        'Steps',
        ['rate', 'served', 'mean', 'p95', 'p99', '', 'why'],
        result.steps.map((step) => [
          `${formatCount(step.rate)}/s`,
          `${formatCount(step.rps)}/s`,
          formatMs(step.meanMs),
          formatMs(step.p95Ms),
          formatMs(step.p99Ms),
          step.valid ? (step.passed ? 'PASS' : 'FAIL') : 'INVALID',
          step.reason,
        ]),
      ),
    ],
    footer: footer(version),
  })
}

/** At most six of the values, the first and the last among them, none too close to the next. */
function spread(values: readonly number[]): number[] {
  const span = values.at(-1)! - values[0]!
  const kept: number[] = []
  for (const value of values) if (kept.length === 0 || value - kept.at(-1)! >= span / 6) kept.push(value)
  return kept
}
