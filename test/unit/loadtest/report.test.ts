import { describe, expect, it } from 'vitest'
import { capacityResult, type Step } from '../../../src/loadtest/capacity.ts'
import { createHistogram, record } from '../../../src/loadtest/histogram.ts'
import type { LoadPlan } from '../../../src/loadtest/load-plan.ts'
import { createRecording, type Outcome, recordEnd } from '../../../src/loadtest/recording.ts'
import { chartSvg, formatTick, niceTicks } from '../../../src/loadtest/report/chart.ts'
import { capacityReport, loadReport } from '../../../src/loadtest/report/html.ts'
import { junitOf } from '../../../src/loadtest/report/junit.ts'
import { clock, createProgress, progressLine } from '../../../src/loadtest/report/progress.ts'
import { summaryText } from '../../../src/loadtest/report/summary.ts'
import { type LoadResult, resultOf } from '../../../src/loadtest/result.ts'
import type { Progress } from '../../../src/loadtest/run.ts'
import { parseShape, type Shape } from '../../../src/loadtest/shape.ts'
import { parseSlos, type Slo } from '../../../src/loadtest/slo.ts'

const slos = (text: string) => parseSlos(text) as Slo[]
const plain = (_: unknown, text: string) => text
const EVIL = '</script><script>alert(1)</script>"\'<b>'

interface Given {
  slo?: string
  stopped?: boolean
  name?: string
  outcomes?: Partial<Record<Outcome, number>>
  late?: number
  answerAfterMs?: number
}

/** A run of ten seconds, made up. */
function result({
  slo = 'p95<200ms,errors<0.1%',
  stopped = false,
  name = 'GET /',
  outcomes = { ok: 1000 },
  late = 0,
  answerAfterMs = 10,
}: Given = {}): LoadResult {
  const plan: LoadPlan = {
    targets: [
      {
        name,
        weight: 1,
        request: { origin: 'http://127.0.0.1:8080', path: '/', method: 'GET', headers: {}, body: null },
      },
    ],
    shape: parseShape('0..100/5s, hold 5s') as Shape,
    unit: 'users',
    thinkMs: 1000,
    arrivals: 'poisson',
    timeoutMs: 10_000,
    maxConnections: 100,
    threads: 1,
    expect: [],
    insecure: false,
    lateAfterMs: 25,
    maxLateShare: 0.01,
  }
  const recording = createRecording(10_000, 1)
  const status: Record<Outcome, number> = { ok: 200, shed: 503, limited: 429, failed: 500, broken: 0, timedOut: 0 }
  for (const [outcome, count] of Object.entries(outcomes) as [Outcome, number][]) {
    for (let i = 0; i < count; i++) {
      const dueMs = (i / count) * 9900
      recording.started[Math.floor(dueMs / recording.intervalMs)]!++
      const endMs = dueMs + (outcome === 'shed' || outcome === 'limited' ? 1 : answerAfterMs + (i % 90))
      const error = outcome === 'broken' ? 'ECONNRESET' : outcome === 'failed' ? 'status 500' : undefined
      recordEnd(recording, { target: 0, dueMs, endMs, status: status[outcome], outcome, error })
    }
  }
  recording.late = late
  return resultOf({
    name: 'load',
    plan,
    recording,
    slos: slos(slo),
    stopped,
    startedAt: new Date(0),
    gateway: [
      { atSec: 0, ccu: 3, maxCcu: 50, normalCcu: 33, queue: 0, rssBytes: 90 * 2 ** 20 },
      { atSec: 5, ccu: 40, maxCcu: 50, normalCcu: 33, queue: 7, cpuCores: 0.4, rssBytes: 95 * 2 ** 20 },
    ],
    machine: { node: '24.21.0', cpus: 2, platform: 'linux x64' },
  })
}

describe('the verdict', () => {
  it('is PASS when every objective is met', () => {
    expect(result()).toMatchObject({ verdict: 'PASS', reasons: [], requests: { started: 1000, ok: 1000 } })
  })

  it('is FAIL, and names the objective and by how much it was missed', () => {
    const failed = result({ slo: 'p95<50ms,errors<0.1%', outcomes: { ok: 980, broken: 20 } })
    expect(failed.verdict).toBe('FAIL')
    expect(failed.reasons).toEqual([
      expect.stringMatching(/^p95 < 50 ms was not met: 9\d\.\d ms$/),
      'errors < 0.1 % was not met: 2.0 %',
    ])
  })

  it('counts 503 at capacity and 429 apart from errors, and their latency apart from that of the served', () => {
    const beyond = result({
      slo: 'p95<200ms,errors<0.1%,shed<20%,refused.p99<5ms',
      outcomes: { ok: 900, shed: 90, limited: 10 },
    })
    expect(beyond).toMatchObject({ verdict: 'PASS', shares: { errors: 0, shed: 0.09, limited: 0.01 } })
    expect(beyond.latencyMs.count).toBe(900)
    expect(beyond.refusedMs.count).toBe(100)
  })

  it('counts answers that came after the end, and plots none there', () => {
    const late = result({ outcomes: { timedOut: 100, ok: 100 }, answerAfterMs: 20_000 })
    expect(late.requests).toMatchObject({ ok: 100, timedOut: 100 })
    expect(late.series.every(({ answersPerSec }) => answersPerSec['2xx'] === 0)).toBe(true)
  })

  it('fails when nothing was served', () => {
    expect(result({ slo: 'p95<200ms', outcomes: { broken: 10 } })).toMatchObject({
      verdict: 'FAIL',
      slos: [{ measured: 'nothing to measure' }],
    })
  })

  it('does not let quick errors make the percentiles look better', () => {
    const failing = result({ outcomes: { ok: 10, failed: 990 } })
    expect(failing.latencyMs.count).toBe(10)
    expect(failing.verdict).toBe('FAIL')
  })

  it('is INVALID, whatever the objectives say, when the generator fell behind or was stopped', () => {
    expect(result({ late: 100 }).verdict).toBe('INVALID')
    expect(result({ late: 100, slo: 'p95<1ms' }).reasons).toEqual([expect.stringMatching(/fell behind: 10.0 %/)])
    expect(result({ stopped: true }).verdict).toBe('INVALID')
  })
})

describe('the summary', () => {
  it('shows figures and verdicts', () => {
    const text = summaryText(result({ slo: 'p95<50ms', outcomes: { ok: 990, shed: 10 } }), plain)
    expect(text).toMatch(/Load test · load {2}FAIL/)
    expect(text).toMatch(/at capacity \(503\) 10 \(1\.0 %\)/)
    expect(text).toMatch(/FAIL {2}p95 < 50 ms {2}9\d\.\d ms/)
  })

  it('judges no objective of an invalid run', () => {
    const text = summaryText(result({ late: 500 }), plain)
    expect(text).toMatch(/INVALID: this is no measurement/)
    expect(text).not.toMatch(/PASS/)
  })
})

describe('JUnit', () => {
  it('has a case an objective, and says what failed', () => {
    const xml = junitOf(result({ slo: 'p95<50ms,errors<0.1%' }))
    expect(xml).toMatch(/<testsuites tests="3" failures="1"/)
    expect(xml).toMatch(
      /name="p95 &lt; 50 ms" time="0.000"><failure message="p95 &lt; 50 ms was not met: 9\d\.\d ms"\/>/,
    )
    expect(xml).toMatch(/name="errors &lt; 0.1 %" time="0.000"\/>/)
  })

  it('skips the objectives of an invalid run', () => {
    const xml = junitOf(result({ late: 500 }))
    expect(xml).toMatch(/failures="1".*skipped="2"/)
    expect(xml).toMatch(/the generator kept its schedule.*<failure message="the generator fell behind/)
  })
})

const BROKEN = /NaN|undefined|Infinity/
/** Everything by which a page could ask the network for something. */
const FETCHING =
  /(?:\b(?:src|href|action|data|srcset|poster)\s*=)|url\(|@import|\bfetch\s*\(|XMLHttpRequest|WebSocket|EventSource|sendBeacon|import\s*\(|<(?:link|iframe|object|embed|img|base|form)\b/i

/** The page without what its scripts hold: short enough to stand in a failure, too. */
const markup = (html: string): string =>
  html.replace(/(<script[^>]*>).*?(<\/script>)/gs, '$1$2').replace(/<style>.*?<\/style>/s, '')
const found = (html: string, pattern: RegExp): string[] => html.match(new RegExp(pattern, `g${pattern.flags}`)) ?? []
const withoutData = (html: string): string => html.replace(/<script type="application\/json"[^>]*>.*?<\/script>/s, '')

describe('the HTML report', () => {
  const html = loadReport(result({ outcomes: { ok: 900, shed: 80, limited: 10, failed: 5, broken: 5 } }), {
    slos: slos('p95<200ms'),
    version: '1',
  })

  it('asks the network for nothing, and forbids it', () => {
    expect(found(withoutData(html), FETCHING)).toEqual([])
    expect(found(html, /default-src 'none'/)).toHaveLength(1)
  })

  it('plots latency, requests, statuses, users, CCU, CPU, memory, the distribution and the generator', () => {
    const titles = [...html.matchAll(/<figure[^>]*><h2>(.*?)<\/h2>/g)].map((match) => match[1])
    expect(titles).toEqual([
      'Latency',
      'Requests and answers',
      'Answers by status',
      'Users and requests in flight',
      'Exchanges in the gateway (CCU)',
      'CPU of the gateway',
      'Memory of the gateway',
      'Latency distribution',
      'Lag of the generator',
    ])
    expect(html.match(/<svg /g)).toHaveLength(titles.length)
    expect(found(markup(html), BROKEN)).toEqual([])
  })

  it('shows what it is given as text, never as markup', () => {
    const evil = loadReport(result({ name: EVIL }), { slos: slos('p95<200ms'), version: EVIL })
    expect(found(evil, /<script>alert|"'<b>/)).toEqual([])
    expect(found(evil, /<\/script>/)).toHaveLength(2)
  })

  it('holds even when nothing was answered', () => {
    const empty = loadReport(result({ outcomes: {} }), { slos: slos('p95<200ms'), version: '1' })
    expect(found(markup(empty), /class="verdict INVALID"/)).toHaveLength(1)
    expect(found(markup(empty), BROKEN)).toEqual([])
  })

  it('shows a search for capacity', () => {
    const steps: Step[] = [50, 100, 200].map((rate) => ({
      rate,
      passed: rate < 200,
      valid: true,
      reason: EVIL,
      meanMs: 20,
      p95Ms: rate,
      p99Ms: Number.NaN,
      rps: rate,
    }))
    const knee = { best: steps[1], failed: steps[2], invalid: undefined, steps }
    const page = capacityReport(capacityResult(knee, slos('p95<150ms'), 'http://h', new Date(0)), {
      slos: slos('p95<150ms'),
      version: '1',
    })
    expect(found(withoutData(page), FETCHING)).toEqual([])
    expect(found(markup(page), /maxCCU: 15/)).toHaveLength(1)
    expect(found(markup(page), BROKEN)).toEqual([])
    expect(found(page, /<script>alert/)).toEqual([])
  })
})

describe('a plot', () => {
  it('has round ticks', () => {
    expect(niceTicks(87, 4)).toEqual([0, 25, 50, 75, 100])
    expect(niceTicks(1000, 4)).toEqual([0, 250, 500, 750, 1000])
    expect(niceTicks(9, 4)).toEqual([0, 5, 10])
    expect(niceTicks(0, 4)).toEqual([0, 1])
    expect(
      ['ms', 'bytes', 'perSecond'].map((unit, i) => formatTick(unit as 'ms', [0.25, 96 * 2 ** 20, 12_000][i]!)),
    ).toEqual(['250 µs', '96 MiB', '12 k/s'])
  })

  it('leaves a gap where there is no value, and shows a single one', () => {
    const base = { id: 'x', title: 't', about: '', unit: 'count' as const }
    const gap = chartSvg({ ...base, x: [0, 1, 2, 3], series: [{ name: 'a', colour: '--a', values: [1, null, 2, 3] }] })
    expect(gap).toMatch(/class="line" style="stroke:var\(--a\)" d="M62 [\d.]+M[\d.]+ [\d.]+L/)
    const one = chartSvg({ ...base, x: [0], series: [{ name: 'a', colour: '--a', values: [1] }] })
    expect(one).toMatch(/h\.1/)
    expect(one).not.toMatch(/NaN/)
  })
})

describe('progress', () => {
  const now = (elapsedMs: number, more: Partial<Progress> = {}): Progress => {
    const latency = createHistogram()
    record(latency, 12_000)
    return {
      elapsedMs,
      durationMs: 600_000,
      level: 1234,
      rps: 987,
      latency,
      outcomes: { ok: 5, shed: 0, limited: 0, failed: 0, broken: 0, timedOut: 0 },
      inFlight: 3,
      lagMs: 0,
      ...more,
    }
  }

  it('is one plain line now and then when piped', () => {
    const lines: string[] = []
    const view = createProgress({ write: (text) => lines.push(text) }, 'users', (_, text) => `\x1b[31m${text}`)
    for (let ms = 500; ms <= 120_000; ms += 500) view.show(now(ms))
    expect(lines).toHaveLength(3)
    expect(lines[0]).toBe(
      '00:01/10:00 · 1 234 users · 987/s · p50 12.0 ms · p95 12.0 ms · in flight 3 · refused 0 · errors 0\n',
    )
  })

  it('redraws its line in a terminal, and never wraps it', () => {
    let shown = ''
    const view = createProgress({ isTTY: true, columns: 40, write: (text) => (shown += text) }, 'rate', plain)
    view.show(now(300_000))
    expect(shown).toMatch(/\x1b\[1G/)
    const visible = shown.replace(/\x1b\[[0-9;]*[A-Za-z]/g, '')
    expect(visible).toHaveLength(39)
    expect(visible).toMatch(/^█{8}░{8} 05:00\/10:00/)
  })

  it('says when the generator is behind', () => {
    expect(progressLine(now(1000, { lagMs: 80 }), 'rate', plain)).toMatch(/1 234\/s offered.*generator 80\.0 ms behind/)
    expect(clock(3_723_000)).toBe('1:02:03')
  })
})
