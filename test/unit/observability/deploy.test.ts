import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { parse } from 'yaml'
import { services } from '../../support/services.ts'

const root = new URL('../../../', import.meta.url)
const read = (file: string) => readFileSync(new URL(file, root), 'utf8')
const { promtool } = services
const run = (...args: string[]) => execFileSync(promtool!, args, { cwd: fileURLToPath(root), encoding: 'utf8' })

/** What docs/metrics.md lists; test/e2e/observability compares that with what a running gateway exports. */
const documented = new Map(
  [...read('docs/metrics.md').matchAll(/^\| `([a-z_0-9]+)(?:\{([^`]*)\})?` \| (\w+) \|/gm)].map((m) => [
    m[1]!,
    { labels: m[2]?.split(',') ?? [], type: m[3]! },
  ]),
)

interface Rule {
  record?: string
  alert?: string
  expr: string
  labels?: { severity: string }
}
const rules = (parse(read('deploy/prometheus/fluxor-gateway.rules.yaml')) as { groups: { rules: Rule[] }[] }).groups.flatMap((group) => group.rules) // biome-ignore format: short
const recorded = new Set(rules.map(({ record }) => record).filter((name) => name !== undefined))

const WORDS = new Set([
  'sum', 'by', 'rate', 'and', 'or', 'on', 'group', 'histogram_quantile', 'max', 'avg', 'topk', 'vector', 'time', 'le',
  'job', 'instance', 'route', 'status', 'code', 'reason', 'tier', 'upstream', 'endpoint', 'kind', 'rule', 'decision', 'result',
  'url', 'label_values',
]) // biome-ignore format: a list

/** The metrics of an expression: its names that are no function, operator or label. */
function metricsOf(expr: string): string[] {
  const bare = expr
    .replaceAll(/"[^"]*"/g, '')
    .replaceAll(/\$\w+|\[[^\]]*\]/g, '')
    .replaceAll(/\{[^}]*\}/g, '')
  return [...bare.matchAll(/[a-zA-Z_]\w*/g)].map(([name]) => name!).filter((name) => !WORDS.has(name))
}

const known = (name: string) => {
  const histogram = name.replace(/_(?:bucket|sum|count)$/, '')
  return recorded.has(name) || documented.has(name) || documented.get(histogram)?.type === 'histogram'
}

describe('the rules for Prometheus', () => {
  it.skipIf(promtool === undefined)('pass their tests', { timeout: 60_000 }, () => {
    expect(run('check', 'rules', 'deploy/prometheus/fluxor-gateway.rules.yaml')).toContain('SUCCESS')
    expect(run('check', 'config', 'deploy/prometheus/prometheus.yaml')).toContain('SUCCESS')
    expect(run('test', 'rules', 'deploy/prometheus/rules.test.yaml')).toContain('SUCCESS')
  })

  it('ask for metrics that exist', () => {
    for (const { expr } of rules) expect(metricsOf(expr).filter((name) => !known(name))).toEqual([])
  })

  it('record what alerts are named after, with the thresholds that operators expect', () => {
    expect([...recorded]).toEqual(['error_rate', 'p95_latency', 'cpu_usage', 'queue_utilization'])
    const severity = (alert: string) => rules.find((rule) => rule.alert === alert)
    expect(severity('HighErrorRate')).toMatchObject({ expr: 'error_rate > 0.01', labels: { severity: 'critical' } })
    expect(severity('MediumErrorRate')!.expr).toContain('error_rate > 0.001')
    expect(severity('HighLatency')).toMatchObject({ expr: 'p95_latency > 1000', labels: { severity: 'critical' } })
    expect(severity('MediumLatency')!.expr).toContain('p95_latency > 200')
    expect(severity('HighCPU')).toMatchObject({ expr: 'cpu_usage > 90', labels: { severity: 'critical' } })
    expect(severity('HighQueueUtilization')).toMatchObject({
      expr: 'queue_utilization > 80',
      labels: { severity: 'warning' },
    })
    expect(severity('HighCCUUtilization')!.expr).toContain('> 80')
  })

  it('have a test for every alert', () => {
    const tested = read('deploy/prometheus/rules.test.yaml')
    for (const { alert } of rules) if (alert !== undefined) expect(tested).toContain(`alertname: ${alert}\n`)
  })
})

describe('the dashboard for Grafana', () => {
  interface Panel {
    id: number
    title: string
    type: string
    gridPos: { x: number; y: number; w: number; h: number }
    targets?: { expr: string }[]
  }
  const dashboard = JSON.parse(read('deploy/grafana/fluxor-gateway.json')) as {
    panels: Panel[]
    templating: { list: { name: string; definition?: string }[] }
  }

  it('asks for metrics that exist', () => {
    const expressions = [
      ...dashboard.panels.flatMap(({ targets = [] }) => targets.map(({ expr }) => expr)),
      ...dashboard.templating.list.map(({ definition = '' }) => definition),
    ]
    expect(expressions.length).toBeGreaterThan(40)
    for (const expr of expressions)
      expect(
        metricsOf(expr).filter((name) => !known(name)),
        expr,
      ).toEqual([])
  })

  it('has panels with ids of their own that do not lie on each other', () => {
    const { panels } = dashboard
    expect(new Set(panels.map(({ id }) => id)).size).toBe(panels.length)
    for (const [i, { gridPos: a }] of panels.entries()) {
      expect(a.x + a.w).toBeLessThanOrEqual(24)
      for (const { gridPos: b } of panels.slice(i + 1)) {
        const apart = a.x + a.w <= b.x || b.x + b.w <= a.x || a.y + a.h <= b.y || b.y + b.h <= a.y
        expect(apart).toBe(true)
      }
    }
  })

  it.skipIf(promtool === undefined)('has expressions that Prometheus can read', { timeout: 60_000 }, () => {
    const all = dashboard.panels.flatMap(({ targets = [] }) => targets.map(({ expr }) => expr))
    const asRules = all.map((expr, i) => ({ record: `panel_${i}`, expr: expr.replaceAll('$__rate_interval', '5m') }))
    const folder = mkdtempSync(join(tmpdir(), 'fluxor-grafana-'))
    try {
      const file = join(folder, 'panels.yaml')
      writeFileSync(file, JSON.stringify({ groups: [{ name: 'panels', rules: asRules }] }))
      expect(run('check', 'rules', file)).toContain(`${all.length} rules found`)
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  })
})
