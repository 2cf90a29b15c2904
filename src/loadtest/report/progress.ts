/**
 * What is shown while a run goes on: one line that redraws itself in a terminal, a plain line now and then elsewhere.
 */

import { clearLine, cursorTo } from 'node:readline'
import { percentile } from '../histogram.ts'
import type { Progress } from '../run.ts'
import { formatCount, formatMs } from '../slo.ts'
import type { Paint } from './summary.ts'

const BAR_CELLS = 16
/** Between two plain lines: at most this often, and about twelve a run. */
const PLAIN_EVERY_MS = 5000

export interface ProgressStream {
  readonly isTTY?: boolean
  readonly columns?: number
  write(text: string): unknown
}

export interface ProgressView {
  show(progress: Progress): void
  /** Leaves the line clean for what is printed next. */
  end(): void
}

export function progressLine(
  { elapsedMs, durationMs, level, rps, latency, outcomes, inFlight, lagMs }: Progress,
  unit: 'users' | 'rate',
  paint: Paint,
): string {
  const errors = outcomes.failed + outcomes.broken + outcomes.timedOut
  const refused = outcomes.shed + outcomes.limited
  return [
    `${clock(Math.min(elapsedMs, durationMs))}/${clock(durationMs)}`,
    unit === 'users' ? `${formatCount(Math.round(level))} users` : `${formatCount(Math.round(level))}/s offered`,
    `${formatCount(rps)}/s`,
    `p50 ${formatMs(percentile(latency, 50) / 1000)}`,
    `p95 ${formatMs(percentile(latency, 95) / 1000)}`,
    `in flight ${formatCount(inFlight)}`,
    refused > 0 ? paint('yellow', `refused ${formatCount(refused)}`) : 'refused 0',
    errors > 0 ? paint('red', `errors ${formatCount(errors)}`) : 'errors 0',
    ...(lagMs > 20 ? [paint('yellow', `generator ${formatMs(lagMs)} behind`)] : []),
  ].join(paint('dim', ' · '))
}

export function createProgress(stream: ProgressStream, unit: 'users' | 'rate', paint: Paint): ProgressView {
  if (!stream.isTTY) {
    let nextMs = 0
    return {
      show(progress) {
        if (progress.elapsedMs < nextMs) return
        nextMs = progress.elapsedMs + Math.max(PLAIN_EVERY_MS, progress.durationMs / 12)
        stream.write(`${progressLine(progress, unit, (_, text) => text)}\n`)
      },
      end() {},
    }
  }
  const out = stream as unknown as NodeJS.WritableStream
  return {
    show(progress) {
      const share = Math.min(1, progress.elapsedMs / progress.durationMs)
      const filled = Math.round(share * BAR_CELLS)
      const bar = `${'█'.repeat(filled)}${paint('dim', '░'.repeat(BAR_CELLS - filled))}`
      cursorTo(out, 0)
      clearLine(out, 0)
      stream.write(cutTo(`${bar} ${progressLine(progress, unit, paint)}`, (stream.columns ?? 120) - 1))
    },
    end() {
      cursorTo(out, 0)
      clearLine(out, 0)
    },
  }
}

/** `05:30`, `1:02:03`. */
export function clock(ms: number): string {
  const total = Math.round(ms / 1000)
  const two = (value: number) => String(value).padStart(2, '0')
  const hours = Math.floor(total / 3600)
  const rest = `${two(Math.floor((total % 3600) / 60))}:${two(total % 60)}`
  return hours > 0 ? `${hours}:${rest}` : rest
}

/** Cuts to `columns` characters, not counting colour codes: a line that wraps could not be redrawn. */
function cutTo(text: string, columns: number): string {
  let shown = 0
  let cut = ''
  for (const piece of text.match(/\x1b\[[0-9;]*m|[\s\S]/gu) ?? []) {
    if (piece.length === 1 || !piece.startsWith('\x1b')) {
      if (shown >= columns) continue
      shown++
    }
    cut += piece
  }
  return cut
}
