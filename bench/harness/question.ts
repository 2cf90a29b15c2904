/** A bench answers one question. Its file exports it as `question`. */

import type { Comparison, ComparisonResult, RunOptions, Verdict } from './compare.ts'

export interface Figures {
  /** Rows to print, the first one the heads. */
  rows: string[][]
  verdicts: Verdict[]
}

export interface Question {
  /** The question itself, as a reader would ask it. */
  asks: string
  /** Either a comparison of proxies under load … */
  compare?: Comparison
  /** … or figures taken in another way. */
  measure?(options: RunOptions): Promise<Figures>
}

export type Answer = ComparisonResult | Figures
