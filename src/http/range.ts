/** Byte ranges (RFC 9110 §14): one range of a body whose length is known. */

export interface ByteRange {
  readonly start: number
  /** The last byte, inclusive. */
  readonly end: number
}

const ONE_RANGE = /^bytes=[ \t]*(?:(\d{1,15})-(\d{0,15})|-(\d{1,15}))[ \t]*$/i

/**
 * Undefined: answer the whole body (another unit, several ranges, or not well-formed: §14.2 lets a server ignore them).
 * `unsatisfiable`: 416.
 */
export function parseRange(header: string, length: number): ByteRange | 'unsatisfiable' | undefined {
  const m = ONE_RANGE.exec(header)
  if (m === null) return undefined
  if (m[3] !== undefined) {
    const suffix = Number(m[3])
    if (suffix === 0 || length === 0) return 'unsatisfiable'
    return { start: Math.max(0, length - suffix), end: length - 1 }
  }
  const start = Number(m[1])
  const last = m[2] === '' ? Number.POSITIVE_INFINITY : Number(m[2])
  if (last < start) return undefined
  if (start >= length) return 'unsatisfiable'
  return { start, end: Math.min(last, length - 1) }
}
