/**
 * A log-linear histogram in the manner of HdrHistogram: every power of two is cut into 64 buckets, so that a value is
 * known to within 0.8 % from a microsecond to half an hour, in 1664 counters. Plain data, no class: histograms cross
 * threads by structured clone and are added to each other there.
 */

/** Buckets per power of two. */
const SUB_BITS = 6
const LINEAR = 1 << (SUB_BITS + 1)
/** The largest value: 2^31 - 1 µs, about 35 minutes; longer ones count as this. */
const MAX_US = 2 ** 31 - 1
const SIZE = bucketOf(MAX_US) + 1

/** Values are whole microseconds. */
export interface Histogram {
  readonly counts: Uint32Array
  count: number
  sumUs: number
  minUs: number
  maxUs: number
}

export function createHistogram(): Histogram {
  return { counts: new Uint32Array(SIZE), count: 0, sumUs: 0, minUs: MAX_US, maxUs: 0 }
}

/** Values below 128 have a bucket each; above, the six bits after the leading one choose it. */
function bucketOf(us: number): number {
  if (us < LINEAR) return us
  const shift = 31 - Math.clz32(us) - SUB_BITS
  return (shift << SUB_BITS) + (us >>> shift)
}

/** The middle of a bucket. */
function middleOf(bucket: number): number {
  if (bucket < LINEAR) return bucket
  const shift = (bucket >>> SUB_BITS) - 1
  const lowest = (bucket - (shift << SUB_BITS)) * 2 ** shift
  return lowest + (2 ** shift - 1) / 2
}

export function record(histogram: Histogram, us: number): void {
  const value = us >= MAX_US ? MAX_US : us > 0 ? Math.round(us) : 0
  histogram.counts[bucketOf(value)]!++
  histogram.count++
  histogram.sumUs += value
  if (value < histogram.minUs) histogram.minUs = value
  if (value > histogram.maxUs) histogram.maxUs = value
}

/** Adds what `from` holds to `into`. */
export function merge(into: Histogram, from: Histogram): void {
  if (from.count === 0) return
  for (let i = 0; i < SIZE; i++) into.counts[i]! += from.counts[i]!
  into.count += from.count
  into.sumUs += from.sumUs
  into.minUs = Math.min(into.minUs, from.minUs)
  into.maxUs = Math.max(into.maxUs, from.maxUs)
}

/**
 * The value that `percent` of the recorded values do not exceed, in microseconds, within 1 %; the lowest and the highest
 * are exact. NaN when nothing was recorded.
 */
export function percentile(histogram: Histogram, percent: number): number {
  if (histogram.count === 0) return Number.NaN
  const rank = Math.max(1, Math.ceil((percent / 100) * histogram.count))
  if (rank >= histogram.count) return histogram.maxUs
  let seen = 0
  for (let i = 0; i < SIZE; i++) {
    seen += histogram.counts[i]!
    if (seen >= rank) return Math.min(histogram.maxUs, Math.max(histogram.minUs, middleOf(i)))
  }
  return histogram.maxUs
}

/** Exact. NaN when nothing was recorded. */
export const mean = (histogram: Histogram): number =>
  histogram.count === 0 ? Number.NaN : histogram.sumUs / histogram.count
