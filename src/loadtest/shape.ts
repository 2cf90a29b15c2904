/**
 * The shape of a load: a level over time, made of straight lines. The level is a number of users or a rate of arrivals;
 * the shape does not care. Everything a schedule needs is answered exactly, in closed form: nothing here ticks.
 */

import { parseDuration } from '../config/types.ts'

export interface Stage {
  readonly from: number
  readonly to: number
  readonly durationMs: number
}

export interface Span {
  readonly fromMs: number
  readonly toMs: number
}

export class Shape {
  readonly stages: readonly Stage[]
  readonly durationMs: number
  readonly peak: number

  constructor(stages: readonly Stage[]) {
    this.stages = stages
    this.durationMs = stages.reduce((sum, stage) => sum + stage.durationMs, 0)
    this.peak = stages.reduce((peak, stage) => Math.max(peak, stage.from, stage.to), 0)
  }

  /** The level at a time; 0 outside of the shape. */
  levelAt(ms: number): number {
    let startMs = 0
    for (const { from, to, durationMs } of this.stages) {
      if (ms < startMs + durationMs && ms >= startMs) return from + ((to - from) * (ms - startMs)) / durationMs
      startMs += durationMs
    }
    return 0
  }

  /** Level times seconds over the whole shape: with a rate per second, the number of arrivals. */
  get area(): number {
    return this.stages.reduce((sum, stage) => sum + areaOf(stage), 0)
  }

  /**
   * When the area under the shape reaches `area`, in milliseconds: arrival number n of a rate is due when the area is n.
   * Infinity beyond the end.
   */
  timeOfArea(area: number): number {
    let startMs = 0
    let rest = area
    // The sum of the stages is rounded: the very end must not fall behind the last one.
    const rounding = this.area * 1e-12
    for (const stage of this.stages) {
      const whole = areaOf(stage)
      if (rest <= whole + rounding && whole > 0) {
        // a·t + s·t²/2 = rest, solved in the form that loses no digits when the slope is small.
        const slope = (stage.to - stage.from) / (stage.durationMs / 1000)
        const root = Math.sqrt(Math.max(0, stage.from ** 2 + 2 * slope * rest))
        const seconds = rest === 0 ? 0 : (2 * rest) / (stage.from + root)
        return Math.min(startMs + seconds * 1000, startMs + stage.durationMs)
      }
      rest -= whole
      startMs += stage.durationMs
    }
    return Number.POSITIVE_INFINITY
  }

  /** When the level is above `level`: the times at which a user of that number is there. */
  spansAbove(level: number): Span[] {
    const spans: Span[] = []
    let startMs = 0
    for (const { from, to, durationMs } of this.stages) {
      if (from > level || to > level) {
        const crossing = from === to ? 0 : startMs + ((level - from) / (to - from)) * durationMs
        const fromMs = from > level ? startMs : crossing
        const toMs = to > level ? startMs + durationMs : crossing
        const last = spans.at(-1)
        if (last?.toMs === fromMs) spans[spans.length - 1] = { fromMs: last.fromMs, toMs }
        else spans.push({ fromMs, toMs })
      }
      startMs += durationMs
    }
    return spans
  }

  /** The same shape, higher or lower. */
  scaled(factor: number): Shape {
    return new Shape(this.stages.map((s) => ({ ...s, from: s.from * factor, to: s.to * factor })))
  }

  /** The same shape, stretched or compressed to last `durationMs`. */
  lasting(durationMs: number): Shape {
    const factor = durationMs / this.durationMs
    return new Shape(this.stages.map((s) => ({ ...s, durationMs: s.durationMs * factor })))
  }

  /** As it is written for `--shape`. */
  toString(): string {
    let level = 0
    return this.stages
      .map(({ from, to, durationMs }, i) => {
        const length = formatDuration(durationMs)
        const known = from === level && i > 0
        level = to
        if (from === to) return known ? `hold ${length}` : `${round(to)}/${length}`
        return `${known ? '' : round(from)}..${round(to)}/${length}`
      })
      .join(', ')
  }
}

const areaOf = ({ from, to, durationMs }: Stage): number => ((from + to) / 2) * (durationMs / 1000)
const round = (level: number): string => String(Number(level.toFixed(level < 10 ? 1 : 0)))

/** `90s`, `2m`, `500ms`: the shortest exact form that the parser reads back. */
export function formatDuration(ms: number): string {
  const whole = Math.round(ms)
  if (whole % 3_600_000 === 0 && whole > 0) return `${whole / 3_600_000}h`
  if (whole % 60_000 === 0 && whole > 0) return `${whole / 60_000}m`
  if (whole % 1000 === 0) return `${whole / 1000}s`
  return whole > 1000 ? `${whole / 1000}s` : `${whole}ms`
}

const LEVEL = String.raw`(\d+(?:\.\d+)?k?)`
const RAMP = new RegExp(`^${LEVEL}?\\.\\.${LEVEL}/(\\S+)$`)
const LEVEL_FOR = new RegExp(`^${LEVEL}/(\\S+)$`)
const HOLD = /^hold (\S+)$/

const levelOf = (text: string): number => (text.endsWith('k') ? Number(text.slice(0, -1)) * 1000 : Number(text))

/**
 * Reads `100..5000/10s, hold 30s`. A stage is a ramp `A..B/TIME` (`..B/TIME` from where the last one ended), a level
 * `N/TIME`, or `hold TIME`. Returns a sentence for the user when it cannot be read.
 */
export function parseShape(text: string): Shape | string {
  const stages: Stage[] = []
  let level = 0
  for (const part of text.split(',').map((piece) => piece.trim().replace(/\s+/g, ' '))) {
    const ramp = RAMP.exec(part)
    const flat = LEVEL_FOR.exec(part)
    const hold = HOLD.exec(part)
    const length = ramp?.[3] ?? flat?.[2] ?? hold?.[1]
    if (length === undefined) {
      return `cannot read the stage '${part}': expected A..B/TIME, ..B/TIME, N/TIME or hold TIME, such as 100..5000/10s, hold 30s`
    }
    const durationMs = parseDuration(length)
    if (!durationMs)
      return `cannot read the time '${length}' in '${part}': expected a duration such as 500ms, 10s or 2m`
    if (hold && stages.length === 0) return `'${part}' has no level to hold: begin with N/TIME or A..B/TIME`
    const from = ramp ? (ramp[1] === undefined ? level : levelOf(ramp[1])) : flat ? levelOf(flat[1]!) : level
    level = ramp ? levelOf(ramp[2]!) : from
    stages.push({ from, to: level, durationMs })
  }
  const shape = new Shape(stages)
  return shape.peak > 0 ? shape : `the shape '${text}' never rises above 0`
}

export interface Preset {
  readonly shape: string
  readonly slo: string
  readonly about: string
}

/** Levels are users. The stages and the thresholds of load, spike and stress are the k6 scripts' in loadtest/. */
export const PRESETS: Readonly<Record<'load' | 'spike' | 'stress' | 'soak', Preset>> = {
  load: {
    shape: '0..1000/1m, ..5000/2m, ..10000/2m, hold 3m, ..0/2m',
    slo: 'p95<200ms,errors<0.1%',
    about: '1 000, 5 000, then 10 000 users, held for 3 minutes',
  },
  spike: {
    shape: '0..100/30s, ..5000/10s, hold 1m, ..100/30s, ..0/30s',
    slo: 'p95<500ms,errors<1%',
    about: 'from 100 to 5 000 users in 10 seconds',
  },
  stress: {
    shape: '0..5000/1m, ..10000/2m, ..15000/2m, ..20000/2m, ..0/1m',
    slo: 'p95<1s,errors<5%',
    about: 'up to 20 000 users, far beyond capacity',
  },
  soak: {
    shape: '0..3350/5m, hold 4h, ..0/5m',
    slo: 'p95<200ms,errors<0.1%',
    about: '3 350 users (67 % of 5 000) for four hours',
  },
}

export type PresetName = keyof typeof PRESETS
export const isPreset = (name: string): name is PresetName => Object.hasOwn(PRESETS, name)
