/** Prints what was measured, on what, and what it means. */

import { cpus, release, totalmem } from 'node:os'
import { type ComparisonResult, cost, median, type RunOptions, type Verdict } from './compare.ts'

export function machine(): Record<string, string> {
  const models = cpus()
  return {
    cpu: `${models.length} x ${models[0]?.model.trim() ?? '?'}`,
    memory: `${(totalmem() / 2 ** 30).toFixed(1)} GiB`,
    kernel: `Linux ${release()}`,
    node: process.version,
  }
}

export function printMachine(options: RunOptions): void {
  const { cpu, memory, kernel, node } = machine()
  console.log(`${cpu}, ${memory}, ${kernel}, node ${node}`)
  console.log(
    `the measured process on core 0, load and upstream on core 1, loopback; ${options.rounds} rounds of ${options.seconds} s in turn`,
  )
}

/** From here on the bytes of an answer or a request are worth a column. */
const BYTES_PER_REQUEST_SHOWN = 4096

export function printComparison(result: ComparisonResult, baseline: string): void {
  if (result.title !== undefined) console.log(`\n${result.title}`)
  const large = result.subjects.some(({ samples }) =>
    samples.some(
      ({ bytesPerSecond, requestsPerSecond }) => bytesPerSecond > requestsPerSecond * BYTES_PER_REQUEST_SHOWN,
    ),
  )
  const rows = result.subjects.map((subject) => {
    const of = (value: (sample: (typeof subject.samples)[number]) => number) => median(subject.samples.map(value))
    return [
      subject.name,
      of(cost).toFixed(1),
      of((s) => s.userUs).toFixed(1),
      of((s) => s.systemUs).toFixed(1),
      of((s) => s.requestsPerSecond).toFixed(0),
      ...(large ? [(of((s) => s.bytesPerSecond) / 1e6).toFixed(0)] : []),
      (of((s) => s.p50Us) / 1000).toFixed(2),
      (of((s) => s.p99Us) / 1000).toFixed(2),
      (of((s) => s.rssBytes) / 2 ** 20).toFixed(0),
      `${subject.samples.reduce((sum, { timeouts }) => sum + timeouts, 0)}`,
      subject.ratios.length === 0 ? '' : `${median(subject.ratios).toFixed(2)}`,
      subject.ratios.length === 0
        ? ''
        : `${Math.min(...subject.ratios).toFixed(2)}–${Math.max(...subject.ratios).toFixed(2)}`,
    ]
  })
  const through = large ? ['MB/s'] : []
  const heads = ['', 'CPU µs/request', 'user', 'system', 'requests/s', ...through]
  printTable([[...heads, 'p50 ms', 'p99 ms', 'RSS MiB', 'over 2 s', 'ratio', 'spread'], ...rows])
  console.log(
    `ratio: CPU per request over that of ${baseline}, median of the rounds; spread: least and most of a round; errors: none, one would have ended the run`,
  )
  const versions = new Set(result.subjects.map((subject) => subject.version).filter((text) => text !== ''))
  console.log(`versions: ${[...versions].join('; ')}`)
  for (const reason of result.skipped) console.log(`left out: ${reason}`)
}

export function printVerdict(verdict: Verdict): void {
  console.log(`${word(verdict)}  ${verdict.text}${verdict.found === undefined ? '' : `: ${verdict.found}`}`)
}

/** All goals of a run at one glance. */
export function printVerdicts(verdicts: [bench: string, verdict: Verdict][]): void {
  printTable([
    ['verdict', 'bench', 'goal', 'found: median (spread)'],
    ...verdicts.map(([bench, verdict]) => [word(verdict).trim(), bench, verdict.text, verdict.found ?? '']),
  ])
}

function word({ met }: Verdict): string {
  return met === undefined ? 'no peer' : met ? 'met    ' : 'NOT MET'
}

const TEXT = /[^\d.,–x%() -]/

/** Columns of text begin at the left, columns of numbers end at the right. */
export function printTable(rows: string[][]): void {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)))
  const texts = rows[0]!.map((_, column) => column === 0 || rows.slice(1).some((row) => TEXT.test(row[column]!)))
  for (const row of rows) {
    const cells = row.map((cell, i) => (texts[i] ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!)))
    console.log(cells.join('  ').trimEnd())
  }
}
