/**
 * Plots as inline SVG: lines, areas and stacks over a shared axis. Drawn here and not in the browser, so that a report
 * shows the same with scripts off, in print, and as an attachment. Colours are CSS variables of the page.
 */

export type ChartUnit = 'ms' | 'count' | 'perSecond' | 'bytes' | 'cores'

export interface ChartSeries {
  readonly name: string
  /** The CSS variable that holds its colour, such as `--p95`. */
  readonly colour: string
  readonly values: readonly (number | null)[]
  readonly dashed?: boolean
  /** Filled down to the axis. */
  readonly area?: boolean
}

export interface Chart {
  readonly id: string
  readonly title: string
  /** One line under the title. */
  readonly about: string
  readonly unit: ChartUnit
  /** Positions on the axis; seconds unless `xTicks` says otherwise. */
  readonly x: readonly number[]
  readonly xTicks?: readonly { readonly at: number; readonly label: string }[]
  /** How a position is called in the tooltip; by default its time. */
  readonly xNames?: readonly string[]
  readonly series: readonly ChartSeries[]
  /** Series lie on top of each other. */
  readonly stacked?: boolean
  readonly logarithmic?: boolean
  /** Horizontal marks, such as an objective. */
  readonly marks?: readonly { readonly label: string; readonly value: number }[]
  /** Their names stand at the left, where the lines are low. */
  readonly marksLeft?: boolean
}

const WIDTH = 680
const HEIGHT = 250
const LEFT = 62
const RIGHT = 14
const TOP = 12
const BOTTOM = 26

export const escapeHtml = (text: string): string => text.replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`)

export function formatTick(unit: ChartUnit, value: number): string {
  const short = (n: number) => String(Number(n.toPrecision(3)))
  if (unit === 'ms')
    return value >= 1000
      ? `${short(value / 1000)} s`
      : value >= 1 || value === 0
        ? `${short(value)} ms`
        : `${short(value * 1000)} µs`
  if (unit === 'bytes') return value >= 2 ** 30 ? `${short(value / 2 ** 30)} GiB` : `${short(value / 2 ** 20)} MiB`
  if (unit === 'cores') return short(value)
  const text = value >= 1e6 ? `${short(value / 1e6)} M` : value >= 10_000 ? `${short(value / 1000)} k` : short(value)
  return unit === 'perSecond' ? `${text}/s` : text
}

/** `0:30`, `5:00`, `1:10:00`, and tenths for short runs. */
export function formatTime(seconds: number): string {
  if (seconds < 60 && !Number.isInteger(seconds)) return `${Number(seconds.toFixed(2))} s`
  const s = Math.round(seconds)
  const two = (value: number) => String(value).padStart(2, '0')
  const minutes = Math.floor(s / 60)
  return minutes >= 60 ? `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(s % 60)}` : `${minutes}:${two(s % 60)}`
}

/** Round steps of 1, 2, 5, or 25 and its multiples by ten: about `wanted` of them up to `max`. */
export function niceTicks(max: number, wanted: number): number[] {
  if (!(max > 0)) return [0, 1]
  const rough = max / wanted
  const power = 10 ** Math.floor(Math.log10(rough))
  const factors = power >= 10 ? [1, 2, 2.5, 5, 10] : [1, 2, 5, 10]
  const step = factors.find((factor) => factor * power >= rough * 0.999)! * power
  const ticks: number[] = []
  for (let i = 0; i <= Math.ceil(max / step - 1e-9); i++) ticks.push(Number((i * step).toPrecision(12)))
  return ticks
}

/** What round numbers are counted in. */
const unitOf = (unit: ChartUnit): number => (unit === 'bytes' ? 2 ** 20 : 1)

const TIME_STEPS = [
  0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400,
]

function timeTicks(from: number, to: number): { at: number; label: string }[] {
  const step = TIME_STEPS.find((seconds) => (to - from) / seconds <= 7) ?? 86_400
  const ticks: { at: number; label: string }[] = []
  for (let i = Math.ceil(from / step); i * step <= to + 1e-9; i++)
    ticks.push({ at: i * step, label: formatTime(Number((i * step).toFixed(3))) })
  return ticks
}

function logTicks(low: number, high: number): number[] {
  const decades = Math.log10(high / low)
  const factors = decades > 3 ? [1] : decades > 1.2 ? [1, 3] : [1, 2, 5]
  const ticks: number[] = []
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    for (const factor of factors) {
      const value = factor * 10 ** power
      if (value >= low * 0.999 && value <= high * 1.001) ticks.push(value)
    }
  }
  return ticks
}

interface Scale {
  readonly ticks: readonly number[]
  y(value: number): number
}

function scaleOf(chart: Chart, stacks: readonly (readonly (number | null)[])[]): Scale {
  const values = stacks.flat().filter((value): value is number => value !== null)
  const marks = (chart.marks ?? []).map(({ value }) => value)
  const top = Math.max(0, ...values, ...marks)
  const span = HEIGHT - TOP - BOTTOM
  if (!chart.logarithmic || top === 0) {
    const ticks = niceTicks(top / unitOf(chart.unit), 4).map((tick) => tick * unitOf(chart.unit))
    const max = ticks.at(-1)!
    return { ticks, y: (value) => TOP + span * (1 - value / max) }
  }
  const floor = Math.min(...[...values, ...marks].filter((value) => value > 0))
  const low = floor / 1.3
  const high = Math.max(top * 1.3, low * 4)
  return {
    ticks: logTicks(low, high),
    y: (value) => TOP + span * (1 - Math.log(Math.max(value, low) / low) / Math.log(high / low)),
  }
}

const n = (value: number): string => String(Number(value.toFixed(1)))

/** The path of the values that are there; a gap where one is missing. */
function linePath(points: readonly (readonly [number, number] | null)[]): string {
  let path = ''
  let pen = 'M'
  for (const point of points) {
    if (point === null) {
      pen = 'M'
      continue
    }
    path += `${pen}${n(point[0])} ${n(point[1])}`
    pen = 'L'
  }
  // A single point would draw nothing.
  return path.includes('L') || path === '' ? path : `${path}h.1`
}

export function chartSvg(chart: Chart): string {
  const { x, series, stacked } = chart
  const first = x[0] ?? 0
  const last = Math.max(x.at(-1) ?? 1, first + 1e-9)
  const plotX = (at: number) => LEFT + ((WIDTH - LEFT - RIGHT) * (at - first)) / (last - first)
  const stacks: (number | null)[][] = []
  for (const [i, { values }] of series.entries()) {
    stacks.push(stacked && i > 0 ? values.map((value, at) => (value ?? 0) + (stacks[i - 1]![at] ?? 0)) : [...values])
  }
  const scale = scaleOf(chart, stacks)
  const parts: string[] = []
  for (const tick of scale.ticks) {
    const y = n(scale.y(tick))
    parts.push(`<path class="grid" d="M${LEFT} ${y}H${WIDTH - RIGHT}"/>`)
    parts.push(`<text class="y" x="${LEFT - 8}" y="${y}">${escapeHtml(formatTick(chart.unit, tick))}</text>`)
  }
  for (const { at, label } of chart.xTicks ?? timeTicks(first, last)) {
    const anchor = plotX(at) > WIDTH - RIGHT - 20 ? ' text-anchor="end"' : ''
    parts.push(`<text class="x" x="${n(plotX(at))}" y="${HEIGHT - 8}"${anchor}>${escapeHtml(label)}</text>`)
  }
  const base = n(HEIGHT - BOTTOM)
  // The top of a stack first: each lower one covers its part.
  for (const i of stacked ? [...series.keys()].reverse() : series.keys()) {
    const { colour, dashed, area } = series[i]!
    const points = stacks[i]!.map((value, at) => (value === null ? null : ([plotX(x[at]!), scale.y(value)] as const)))
    const path = linePath(points)
    if (path === '') continue
    if (stacked || area) {
      const there = points.filter((point) => point !== null)
      const fill = `${linePath(there)}L${n(there.at(-1)![0])} ${base}L${n(there[0]![0])} ${base}Z`
      parts.push(`<path class="${stacked ? 'stack' : 'area'}" style="fill:var(${colour})" d="${fill}"/>`)
    }
    if (!stacked) parts.push(`<path class="line${dashed ? ' dashed' : ''}" style="stroke:var(${colour})" d="${path}"/>`)
  }
  for (const { label, value } of chart.marks ?? []) {
    const y = n(scale.y(value))
    parts.push(`<path class="mark" d="M${LEFT} ${y}H${WIDTH - RIGHT}"/>`)
    const text = Number(y) < TOP + 14 ? Number(y) + 13 : Number(y) - 5
    parts.push(
      `<text class="mark${chart.marksLeft ? ' left' : ''}" x="${chart.marksLeft ? LEFT + 4 : WIDTH - RIGHT - 2}" y="${n(text)}">${escapeHtml(label)}</text>`,
    )
  }
  parts.push(`<path class="cursor" d="M0 ${TOP}V${base}"/>`)
  const summary = `${chart.title}: ${series.map(({ name }) => name).join(', ')}`
  return `<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${escapeHtml(summary)}">${parts.join('')}</svg>`
}

/** What the page's script needs to say what is under the pointer. */
export function chartData({ id, unit, x, xTicks, xNames, series }: Chart) {
  return {
    id,
    unit,
    x,
    names: xNames ?? x.map(formatTime),
    overTime: xTicks === undefined,
    left: LEFT / WIDTH,
    right: 1 - RIGHT / WIDTH,
    width: WIDTH,
    series: series.map(({ name, colour, values }) => ({
      name,
      colour,
      values: values.map((value) => (value === null ? null : Number(value.toPrecision(5)))),
    })),
  }
}
