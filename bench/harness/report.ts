/** Prints what was measured, on what, and what it means. */

import { cpus, release, totalmem } from 'node:os'
import { type ComparisonResult, cost, median, type RunOptions } from './compare.ts'

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

export function printComparison(result: ComparisonResult, baseline: string): void {
  const rows = result.subjects.map((subject) => {
    const of = (value: (sample: (typeof subject.samples)[number]) => number) => median(subject.samples.map(value))
    return [
      subject.name,
      of(cost).toFixed(1),
      of((s) => s.userUs).toFixed(1),
      of((s) => s.systemUs).toFixed(1),
      of((s) => s.requestsPerSecond).toFixed(0),
      (of((s) => s.p50Us) / 1000).toFixed(2),
      (of((s) => s.p99Us) / 1000).toFixed(2),
      (of((s) => s.rssBytes) / 2 ** 20).toFixed(0),
      subject.ratios.length === 0 ? '' : `${median(subject.ratios).toFixed(2)}`,
      subject.ratios.length === 0
        ? ''
        : `${Math.min(...subject.ratios).toFixed(2)}–${Math.max(...subject.ratios).toFixed(2)}`,
    ]
  })
  const heads = ['', 'CPU µs/request', 'user', 'system', 'requests/s', 'p50 ms', 'p99 ms', 'RSS MiB', 'ratio', 'spread']
  printTable([heads, ...rows])
  console.log(
    `ratio: CPU per request over that of ${baseline}, median of the rounds; spread: least and most of a round`,
  )
  const versions = new Set(result.subjects.map((subject) => subject.version).filter((text) => text !== ''))
  console.log(`versions: ${[...versions].join('; ')}`)
  for (const reason of result.skipped) console.log(`left out: ${reason}`)
}

export function printTable(rows: string[][]): void {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)))
  for (const row of rows) {
    console.log(row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join('  '))
  }
}
