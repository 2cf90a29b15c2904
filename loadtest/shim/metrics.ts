/** `k6/metrics` for the shim: values are kept as they come, and summed up the way k6 does. */

export type Kind = 'counter' | 'rate' | 'trend' | 'gauge'

export class Metric {
  readonly name: string
  readonly kind: Kind
  readonly values: number[] = []

  constructor(name: string, kind: Kind) {
    if (!/^[A-Za-z_][A-Za-z0-9_]{0,127}$/.test(name)) throw new TypeError(`k6 refuses the metric name '${name}'`)
    if (METRICS.has(name)) throw new TypeError(`the metric '${name}' exists already`)
    this.name = name
    this.kind = kind
    METRICS.set(name, this)
  }

  add(value: number | boolean): void {
    this.values.push(Number(value))
  }

  /** As in the data of handleSummary. */
  figures(seconds: number): Record<string, number> {
    const { kind, values } = this
    const total = values.reduce((sum, value) => sum + value, 0)
    if (kind === 'counter') return { count: total, rate: total / seconds }
    if (kind === 'rate') {
      const passes = values.filter((value) => value !== 0).length
      return { rate: values.length === 0 ? 0 : passes / values.length, passes, fails: values.length - passes }
    }
    if (kind === 'gauge') return { value: values.at(-1) ?? 0 }
    const sorted = [...values].sort((a, b) => a - b)
    const at = (percent: number) => sorted[Math.max(0, Math.ceil((percent / 100) * sorted.length) - 1)] ?? 0
    return {
      avg: sorted.length === 0 ? 0 : total / sorted.length,
      min: at(0),
      med: at(50),
      max: at(100),
      'p(90)': at(90),
      'p(95)': at(95),
      'p(99)': at(99),
    }
  }
}

export const METRICS = new Map<string, Metric>()

export class Counter extends Metric {
  constructor(name: string) {
    super(name, 'counter')
  }
}
export class Rate extends Metric {
  constructor(name: string) {
    super(name, 'rate')
  }
}
export class Trend extends Metric {
  constructor(name: string) {
    super(name, 'trend')
  }
}
export class Gauge extends Metric {
  constructor(name: string) {
    super(name, 'gauge')
  }
}
