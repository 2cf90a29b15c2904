/**
 * Runs a k6 script without k6, to see that it works: `node loadtest/shim/run.ts loadtest/load-test.js 50`. It makes no
 * load: one user, the given number of iterations, no thinking. Prints what happened as JSON, thresholds judged by k6's
 * rules.
 */

import { registerHooks } from 'node:module'
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'

const MODULES: Record<string, string> = { k6: './k6.ts', 'k6/http': './http.ts', 'k6/metrics': './metrics.ts' }

registerHooks({
  resolve(specifier, context, next) {
    if (Object.hasOwn(MODULES, specifier)) return next(new URL(MODULES[specifier]!, import.meta.url).href, context)
    if (specifier === 'k6' || specifier.startsWith('k6/')) throw new Error(`the shim has no ${specifier}`)
    return next(specifier, context)
  },
})

interface K6Script {
  options?: { thresholds?: Record<string, string[]>; scenarios?: Record<string, { executor: string }> }
  setup?: () => unknown
  teardown?: (data: unknown) => void
  handleSummary?: (data: unknown) => Record<string, string>
  default: (data: unknown) => void
}

const [file, count = '10'] = process.argv.slice(2)
if (file === undefined) {
  console.error('usage: node loadtest/shim/run.ts SCRIPT [ITERATIONS]')
  process.exit(64)
}
Object.assign(globalThis, { __ENV: { ...process.env }, __VU: 1, __ITER: 0 })

const script = (await import(pathToFileURL(resolve(file)).href)) as K6Script
const { CHECKS, slept } = await import('./k6.ts')
const { METRICS } = await import('./metrics.ts')

const beganMs = performance.now()
const data = script.setup?.()
for (let i = 0; i < Number(count); i++) {
  Object.assign(globalThis, { __ITER: i })
  script.default(data)
}
script.teardown?.(data)
const seconds = (performance.now() - beganMs) / 1000

const metrics: Record<
  string,
  { type: string; values: Record<string, number>; thresholds?: Record<string, { ok: boolean }> }
> = {}
for (const [name, metric] of METRICS) metrics[name] = { type: metric.kind, values: metric.figures(seconds) }
for (const [name, expressions] of Object.entries(script.options?.thresholds ?? {})) {
  const metric = metrics[name]
  if (metric === undefined) throw new Error(`the threshold on ${name} has no such metric`)
  metric.thresholds = Object.fromEntries(expressions.map((text) => [text, { ok: holds(text, metric.values) }]))
}

/** k6's grammar: an aggregation, a comparison, a number. */
function holds(expression: string, values: Record<string, number>): boolean {
  const match = /^\s*(avg|min|max|med|count|rate|value|p\(\d+(?:\.\d+)?\))\s*(<=|>=|<|>|===|==|!=)\s*([\d.]+)\s*$/.exec(
    expression,
  )
  if (match === null) throw new Error(`k6 cannot read the threshold '${expression}'`)
  const value = values[match[1]!]
  if (value === undefined) throw new Error(`'${expression}': this kind of metric has no ${match[1]}`)
  const limit = Number(match[3])
  switch (match[2]) {
    case '<':
      return value < limit
    case '<=':
      return value <= limit
    case '>':
      return value > limit
    case '>=':
      return value >= limit
    case '!=':
      return value !== limit
    default:
      return value === limit
  }
}

const outputs =
  script.handleSummary?.({ metrics, options: script.options, state: { testRunDurationMs: seconds * 1000 } }) ?? {}
const report = {
  iterations: Number(count),
  sleptSeconds: slept.seconds,
  scenarios: script.options?.scenarios ?? {},
  checks: Object.fromEntries(CHECKS),
  metrics,
  outputs,
}
console.log(JSON.stringify(report, null, 2))
