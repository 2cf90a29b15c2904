/** A bench answers one question. Its file exports it as `question`. */

import type { Comparison, RunOptions, Verdict } from './compare.ts'

export interface Figures {
  /** Rows to print, the first one the heads. */
  rows: string[][]
  verdicts: Verdict[]
  /** Lines below the table: how it was measured, what was left out. */
  notes?: string[]
}

export interface Question {
  /** The question itself, as a reader would ask it. */
  asks: string
  /** Comparisons of proxies under load … */
  compare?: Comparison | Comparison[]
  /** … or figures taken in another way, or both. */
  measure?(options: RunOptions): Promise<Figures>
}
