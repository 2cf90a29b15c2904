/**
 * `top`: the dashboard's figures in a terminal, live from the event stream of the admin listener. On a terminal one screen
 * that is drawn anew each second; into a pipe or file one plain line a second; with `--once` one look.
 */

import { get } from 'node:http'
import { stripVTControlCharacters, styleText } from 'node:util'
import type { DashboardSample } from '../observability/history.ts'
import { type AdminTarget, adminTarget } from './admin-client.ts'
import { CommandError, EXIT, type Invocation } from './cli.ts'

const SILENT_MS = 10_000
const MAX_EVENT_BYTES = 4 * 1024 * 1024
const ALTERNATE_SCREEN = '\u001b[?1049h\u001b[?25l'
const NORMAL_SCREEN = '\u001b[?25h\u001b[?1049l'
const HOME = '\u001b[H'
const CLEAR_LINE = '\u001b[K'
const CLEAR_BELOW = '\u001b[J'
const HEADER_EVERY = 20

type Style = Parameters<typeof styleText>[0]

export async function top(invocation: Invocation): Promise<number> {
  const target = await adminTarget(invocation)
  const once = invocation.values['once'] === true
  const { stdout } = process
  const live = stdout.isTTY === true && !once
  const colours = stdout.isTTY === true && !process.env['NO_COLOR'] && process.env['TERM'] !== 'dumb'
  const paint = (style: Style, text: string) => (colours ? styleText(style, text, { validateStream: false }) : text)
  let lines = 0
  const show = (sample: DashboardSample): void => {
    if (live) {
      const rows = screen(sample, { width: stdout.columns || 80, height: stdout.rows || 24, paint })
      stdout.write(`${HOME}${rows.map((row) => row + CLEAR_LINE).join('\n')}${CLEAR_BELOW}`)
    } else if (once) {
      stdout.write(`${screen(sample, { width: stdout.columns || 100, height: Infinity, paint }).join('\n')}\n`)
    } else {
      if (lines++ % HEADER_EVERY === 0) stdout.write(`${PLAIN_HEADER}\n`)
      stdout.write(`${plainLine(sample)}\n`)
    }
  }

  const stop = new AbortController()
  const onSignal = () => stop.abort()
  process.on('SIGINT', onSignal)
  process.on('SIGTERM', onSignal)
  // `top | head` ends with its reader
  stdout.on('error', () => stop.abort())
  if (live) stdout.write(ALTERNATE_SCREEN)
  try {
    await follow(target, stop.signal, (sample) => {
      show(sample)
      if (once) stop.abort()
    })
  } finally {
    if (live) stdout.write(NORMAL_SCREEN)
    process.off('SIGINT', onSignal)
    process.off('SIGTERM', onSignal)
  }
  return EXIT.ok
}

/** Reads samples until the signal. @throws CommandError when the gateway cannot be followed, or is gone */
function follow(target: AdminTarget, signal: AbortSignal, onSample: (sample: DashboardSample) => void): Promise<void> {
  const { host, port, token } = target
  const where = `${host}:${port}`
  return new Promise((resolve, reject) => {
    const failed = (reason: string) => (signal.aborted ? resolve() : reject(new CommandError(`${where} ${reason}`)))
    const headers = { accept: 'text/event-stream', ...(token !== undefined && { authorization: `Bearer ${token}` }) }
    const outgoing = get({ host, port, path: '/dashboard/events', headers, agent: false, signal }, (answer) => {
      const { statusCode } = answer
      if (statusCode === 401 || statusCode === 403) failed('wants its token: --token, $ADMIN_TOKEN or -c FILE')
      else if (statusCode !== 200) failed(`answered ${statusCode}`)
      if (statusCode !== 200) {
        answer.destroy()
        return
      }
      answer.setEncoding('utf8')
      let rest = ''
      answer.on('data', (chunk: string) => {
        const events = (rest + chunk).split('\n\n')
        rest = events.pop()!
        if (rest.length > MAX_EVENT_BYTES) outgoing.destroy(new Error('sends no events'))
        for (const event of events) {
          const data = /^data: (.*)$/m.exec(event)?.[1]
          if (data !== undefined && !signal.aborted) onSample(parseSample(data))
        }
      })
      answer.on('error', () => {})
      answer.on('close', () => failed('has ended the stream'))
    })
    outgoing.setTimeout(SILENT_MS, () => outgoing.destroy(new Error('says nothing any more')))
    outgoing.on('error', (error: NodeJS.ErrnoException) => {
      failed(error.code === undefined ? error.message : `cannot be asked (${error.code})`)
    })
  })
}

/** Names may hold what drives a terminal: control characters leave as question marks. */
function parseSample(data: string): DashboardSample {
  return JSON.parse(data, (_, value: unknown) =>
    typeof value === 'string' ? value.replace(/[\u0000-\u001f\u007f-\u009f]/g, '?') : value,
  ) as DashboardSample
}

export function count(value: number): string {
  if (value >= 1e9) return `${(value / 1e9).toFixed(1)}G`
  if (value >= 1e6) return `${(value / 1e6).toFixed(1)}M`
  if (value >= 1e4) return `${(value / 1e3).toFixed(value >= 1e5 ? 0 : 1)}k`
  return value >= 10 || Number.isInteger(value) ? String(Math.round(value)) : value.toFixed(1)
}

export function millis(ms: number | null): string {
  if (ms === null) return '-'
  if (ms >= 1000) return `${(ms / 1000).toFixed(ms >= 10_000 ? 0 : 1)}s`
  return ms >= 10 ? `${Math.round(ms)}ms` : `${ms.toFixed(1)}ms`
}

function bytes(value: number): string {
  for (const unit of ['B', 'K', 'M', 'G']) {
    if (value < 1024) return `${value < 10 && unit !== 'B' ? value.toFixed(1) : Math.round(value)}${unit}`
    value /= 1024
  }
  return `${value.toFixed(1)}T`
}

const share = (part: number, whole: number) =>
  whole > 0 ? `${((part / whole) * 100).toFixed(part > 0 ? 1 : 0)}%` : '-'

const PLAIN: readonly [name: string, width: number, value: (s: DashboardSample) => string][] = [
  ['time', 8, (s) => new Date(s.t).toISOString().slice(11, 19)],
  ['ccu', 7, (s) => String(s.ccu)],
  ['max', 7, (s) => String(s.maxCCU)],
  ['queued', 7, (s) => String(s.queued)],
  ['req/s', 9, (s) => s.rps.toFixed(1)],
  ['p50', 8, (s) => millis(s.p50)],
  ['p95', 8, (s) => millis(s.p95)],
  ['p99', 8, (s) => millis(s.p99)],
  ['4xx/s', 8, (s) => s.status4xx.toFixed(1)],
  ['5xx/s', 8, (s) => s.status5xx.toFixed(1)],
  ['shed/s', 8, (s) => s.shed.toFixed(1)],
  ['limited/s', 9, (s) => s.limited.toFixed(1)],
  ['cpu', 6, (s) => s.cpu.toFixed(2)],
  ['rss', 6, (s) => bytes(s.rssBytes)],
]
export const PLAIN_HEADER = PLAIN.map(([name, width]) => name.padStart(width)).join(' ')

/** Columns that `awk` can count on: fixed order, no colour, UTC. */
export function plainLine(sample: DashboardSample): string {
  return PLAIN.map(([, width, value]) => value(sample).padStart(width)).join(' ')
}

export interface ScreenOptions {
  readonly width: number
  readonly height: number
  readonly paint: (style: Style, text: string) => string
}

/** The rows of one screen; none is wider than `width`, there are no more than `height`. */
export function screen(s: DashboardSample, { width, height, paint }: ScreenOptions): string[] {
  const rows = [
    title(s, paint),
    bar(s, Math.min(width, 100), paint),
    ...facts(s, width, paint),
    ...section('Refusals', named(s.refusals, paint)),
    ...section('Rate limits', named(s.limits, paint)),
    ...section(
      'Tiers',
      s.tiers.map((t) => [
        t.name,
        `${count(t.ccu)} of ${count(t.guarantee)}`,
        t.refused > 0 ? `${count(t.refused)}/s refused` : '',
      ]),
    ),
    ...upstreams(s, width, paint),
    ...threads(s, width, paint),
    ...routes(s, width, paint),
  ]
  const fits = rows.map((row) => cut(row, width))
  return fits.length <= height ? fits : fits.slice(0, height)
}

type Paint = ScreenOptions['paint']

function title(s: DashboardSample, paint: Paint): string {
  const ready = s.readiness === 'ready' ? paint('green', 'ready') : paint('red', s.readiness)
  const up = s.uptimeSec < 3600 ? `${Math.floor(s.uptimeSec / 60)}m${s.uptimeSec % 60}s` : `${Math.floor(s.uptimeSec / 3600)}h${Math.floor((s.uptimeSec % 3600) / 60)}m` // biome-ignore format: one thought
  return `${paint('bold', 'Fluxor Gateway')}  ${ready}  up ${up}  ${new Date(s.t).toTimeString().slice(0, 8)}`
}

/** In service, queued, room; the mark is the normal capacity. */
function bar(s: DashboardSample, width: number, paint: Paint): string {
  const zone = s.maxCCU > 0 && s.ccu >= s.maxCCU ? 'red' : s.ccu > s.normalCCU ? 'yellow' : 'green'
  const label = `CCU ${count(s.ccu)}/${count(s.maxCCU)}`
  const room = width - label.length - 3
  if (s.maxCCU === 0 || room < 10) return paint(zone, label)
  const at = (n: number) => Math.min(room, Math.round((n / s.maxCCU) * room))
  const served = at(s.inService)
  const all = Math.max(served, at(s.ccu))
  let cells = '#'.repeat(served) + '='.repeat(all - served) + ' '.repeat(room - all)
  const mark = Math.min(room - 1, at(s.normalCCU))
  cells = `${cells.slice(0, mark)}|${cells.slice(mark + 1)}`
  return `${label} [${paint(zone, cells)}]`
}

function facts(s: DashboardSample, width: number, paint: Paint): string[] {
  const tone = (value: number, warn: number, bad: number, text: string) =>
    value > bad ? paint('red', text) : value > warn ? paint('yellow', text) : text
  const errors = s.rps > 0 ? s.status5xx / s.rps : 0
  const lookups = s.cacheHits + s.cacheStale + s.cacheMisses
  const pairs: [string, string][] = [
    ['req/s', count(s.rps)],
    ['p50', millis(s.p50)],
    ['p95', tone(s.p95 ?? 0, 200, 1000, millis(s.p95))],
    ['p99', millis(s.p99)],
    ['5xx', tone(errors, 0.001, 0.01, share(s.status5xx, s.rps))],
    ['4xx', share(s.status4xx, s.rps)],
    ['shed', tone(s.shed, 0, s.rps * 0.01, `${count(s.shed)}/s`)],
    ['limited', `${count(s.limited)}/s`],
    [
      'queued',
      tone(s.queued, s.queueCapacity * 0.5, s.queueCapacity * 0.8, `${count(s.queued)}/${count(s.queueCapacity)}`),
    ],
    ['wait', millis(s.queueWaitMs)],
    ['cache', lookups > 0 ? share(s.cacheHits + s.cacheStale, lookups) : '-'],
    ['streams', count(s.streams)],
    ['clients', count(s.connections)],
    ['pool', `${count(s.poolOpen - s.poolIdle)}/${count(s.poolOpen)}`],
    ['in', `${bytes(s.bytesIn)}/s`],
    ['out', `${bytes(s.bytesOut)}/s`],
    ['cpu', s.cpu.toFixed(2)],
    ['loop', tone(s.loopDelayMs, 50, 200, millis(s.loopDelayMs))],
    ['rss', bytes(s.rssBytes)],
    ['heap', bytes(s.heapBytes)],
  ]
  const columns = Math.max(1, Math.min(5, Math.floor(width / 18)))
  const rows: string[] = ['']
  for (let i = 0; i < pairs.length; i += columns) {
    const row = pairs.slice(i, i + columns)
    rows.push(
      row
        .map(([name, value]) => `${paint('dim', name.padEnd(8))}${pad(value, 10)}`)
        .join('')
        .trimEnd(),
    )
  }
  return rows
}

function named(values: Readonly<Record<string, number>>, paint: Paint): string[][] {
  return Object.entries(values)
    .sort(([, a], [, b]) => b - a)
    .slice(0, 6)
    .map(([name, perSecond]) => [name, paint('yellow', `${count(perSecond)}/s`)])
}

function section(name: string, rows: readonly (readonly string[])[]): string[] {
  if (rows.length === 0) return []
  const first = Math.max(name.length, ...rows.map(([cell]) => length(cell!)))
  return ['', `${name}`, ...rows.map(([cell, ...rest]) => `  ${pad(cell!, first)}  ${rest.join('  ')}`.trimEnd())]
}

function upstreams(s: DashboardSample, _width: number, paint: Paint): string[] {
  const rows = s.upstreams.flatMap(({ name, breaker, endpoints }) =>
    endpoints.map(({ url, state, reason, inFlight }) => [
      `${name} ${url}`,
      state === 'healthy' ? paint('green', state) : paint('red', state),
      `${count(inFlight)} in flight`,
      [breaker === '' || breaker === 'closed' ? '' : `breaker ${breaker}`, reason].filter(Boolean).join(', '),
    ]),
  )
  return section('Upstreams', rows)
}

function threads(s: DashboardSample, _width: number, paint: Paint): string[] {
  if (s.threads.length < 2) return []
  const rows = s.threads.map(({ thread, connections, loopUtilization, cpu, loopDelayMs }) => {
    const busy = `${Math.round(loopUtilization * 100)}% busy`
    const shown = loopUtilization > 0.95 ? paint('red', busy) : busy
    return [
      String(thread),
      shown,
      `cpu ${cpu.toFixed(2)}`,
      `loop ${millis(loopDelayMs)}`,
      `${count(connections)} clients`,
    ]
  })
  return section('Threads', rows)
}

function routes(s: DashboardSample, width: number, paint: Paint): string[] {
  if (s.routes.length === 0) return []
  const name = Math.max(12, Math.min(36, width - 50))
  const head = `${'Routes, last minute'.padEnd(name)} ${['cost', 'req/s', 'mean', 'p95', '5xx'].map((c) => c.padStart(8)).join(' ')}`
  const rows = s.routes.map((r) => {
    const cells = [count(r.cost), count(r.rps), millis(r.meanMs), millis(r.p95Ms)].map((cell) => cell.padStart(8))
    const errors = `${(r.errorRate * 100).toFixed(r.errorRate > 0 ? 1 : 0)}%`.padStart(8)
    return `${cut(r.name, name).padEnd(name)} ${cells.join(' ')} ${r.errorRate > 0.01 ? paint('red', errors) : errors}`
  })
  return ['', paint('dim', head), ...rows]
}

const length = (text: string) => stripVTControlCharacters(text).length
const pad = (text: string, width: number) => text + ' '.repeat(Math.max(0, width - length(text)))

/** Cuts what is seen to a width and leaves colours whole. */
function cut(text: string, width: number): string {
  if (length(text) <= width) return text
  let seen = 0
  let out = ''
  for (const part of text.split(/(\u001b\[[0-9;]*m)/)) {
    if (part.startsWith('\u001b')) out += part
    else {
      const kept = part.slice(0, Math.max(0, width - seen))
      out += kept
      seen += kept.length
    }
  }
  return out
}
