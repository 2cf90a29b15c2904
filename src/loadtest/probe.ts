/**
 * What the gateway says of itself during a run: places in use, queue, CPU and memory, from its `/metrics` (or
 * `/api/metrics`), and CPU and memory of a process by its number from /proc. A probe that fails leaves a gap in the plot;
 * it never disturbs the run.
 */

import { readFileSync } from 'node:fs'
import { Client } from 'undici'

export interface ProbeSample {
  readonly atSec: number
  readonly ccu?: number
  readonly maxCcu?: number
  readonly normalCcu?: number
  readonly queue?: number
  /** CPU time per second of the run: 1 is one core. */
  readonly cpuCores?: number
  readonly rssBytes?: number
}

export interface ProbeOptions {
  /** `http://127.0.0.1:9901` */
  readonly admin?: string
  readonly adminToken?: string
  readonly pid?: number
}

export interface Probe {
  /** Takes one sample; undefined when nothing is known. */
  sample(atMs: number): Promise<ProbeSample | undefined>
  close(): Promise<void>
}

/** Sum of a metric over its labels in the Prometheus text format; undefined when it is not there. */
export function metricValue(text: string, name: string): number | undefined {
  let total: number | undefined
  for (const line of text.split('\n')) {
    if (!line.startsWith(name)) continue
    const next = line[name.length]
    if (next !== ' ' && next !== '{') continue
    const value = Number(/^(?:\{.*\})? +(\S+)/.exec(line.slice(name.length))?.[1])
    if (!Number.isNaN(value)) total = (total ?? 0) + value
  }
  return total
}

interface Raw {
  ccu?: number
  maxCcu?: number
  normalCcu?: number
  queue?: number
  cpuSeconds?: number
  rssBytes?: number
}

/** @param text the body of `/metrics` or of `/api/metrics` */
export function readMetrics(text: string): Raw {
  if (!text.trimStart().startsWith('{')) {
    return {
      ccu: metricValue(text, 'current_ccu'),
      maxCcu: metricValue(text, 'max_ccu'),
      normalCcu: metricValue(text, 'normal_ccu'),
      queue: metricValue(text, 'queue_size'),
      cpuSeconds: metricValue(text, 'process_cpu_seconds_total'),
      rssBytes: metricValue(text, 'process_resident_memory_bytes'),
    }
  }
  const json = JSON.parse(text) as Record<string, unknown>
  const at = (name: string) => (typeof json[name] === 'number' ? json[name] : undefined)
  return { ccu: at('current_ccu'), maxCcu: at('max_ccu'), normalCcu: at('normal_ccu'), queue: at('queue_size') }
}

/** Clock ticks per second and bytes a page, as on every Linux that Node runs on. */
const TICKS = 100
const PAGE_BYTES = 4096

/** @param stat the text of /proc/PID/stat: the name in parentheses may hold anything, so fields count from its end. */
export function readStat(stat: string): Required<Pick<Raw, 'cpuSeconds' | 'rssBytes'>> {
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return { cpuSeconds: (Number(fields[11]) + Number(fields[12])) / TICKS, rssBytes: Number(fields[21]) * PAGE_BYTES }
}

export function createProbe({ admin, adminToken, pid }: ProbeOptions): Probe | undefined {
  if (admin === undefined && pid === undefined) return undefined
  const url = admin === undefined ? undefined : new URL(admin)
  const client = url && new Client(url.origin, { headersTimeout: 2000, bodyTimeout: 2000, allowH2: false })
  const base = url?.pathname.replace(/\/+$/, '') ?? ''
  // A path in the URL is the page itself; without one, what the gateway offers is tried in order.
  let paths = base === '' ? ['/metrics', '/api/metrics'] : [base]
  let last: { atMs: number; cpuSeconds: number } | undefined

  const fetchMetrics = async (): Promise<Raw> => {
    for (const path of paths) {
      const headers = adminToken === undefined ? {} : { authorization: `Bearer ${adminToken}` }
      const { statusCode, body } = await client!.request({ path, method: 'GET', headers })
      const text = await body.text()
      if (statusCode !== 200) continue
      paths = [path]
      return readMetrics(text)
    }
    return {}
  }

  return {
    async sample(atMs) {
      let raw: Raw = {}
      try {
        if (client) raw = await fetchMetrics()
      } catch {
        // The admin port does not answer now; the next sample may.
      }
      try {
        if (pid !== undefined) raw = { ...raw, ...readStat(readFileSync(`/proc/${pid}/stat`, 'latin1')) }
      } catch {
        // The process is gone, or this is not Linux.
      }
      const { cpuSeconds, ...known } = raw
      const cpuCores =
        cpuSeconds !== undefined && last !== undefined && atMs > last.atMs && cpuSeconds >= last.cpuSeconds
          ? (cpuSeconds - last.cpuSeconds) / ((atMs - last.atMs) / 1000)
          : undefined
      if (cpuSeconds !== undefined) last = { atMs, cpuSeconds }
      const sample = { ...known, cpuCores }
      return Object.values(sample).some((value) => value !== undefined) ? { atSec: atMs / 1000, ...sample } : undefined
    },
    async close() {
      await client?.destroy()
    },
  }
}
