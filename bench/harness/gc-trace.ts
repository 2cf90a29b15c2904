/** Reads what V8 prints under `--trace-gc-nvp`: one line of `name=value` for each collection. */

export interface Collection {
  /** Milliseconds since the isolate began. */
  atMs: number
  /** Bytes of the heap allocated since the collection before. */
  allocatedBytes: number
  /** Time of the thread itself: the pause, and the steps of marking before it. */
  gcMs: number
}

export interface GcRates {
  collections: number
  allocatedBytesPerSecond: number
  /** Milliseconds of collecting a second. */
  gcMsPerSecond: number
}

export function parseCollection(line: string): Collection | undefined {
  const head = /^\[\d+:0x[0-9a-f]+(?::\d+)?\]\s+(\d+) ms: (pause=.*)$/.exec(line)
  if (head === null) return undefined
  let gcMs = 0
  let allocatedBytes: number | undefined
  // V8 forgets a space here and there: values end where the number ends.
  for (const [, name, value] of head[2]!.matchAll(/([a-z_][a-z_.]*)=(-?[\d.]+)/g)) {
    if (name === 'allocated') allocatedBytes = Number(value)
    else if (name === 'pause' || name === 'incremental') gcMs += Number(value)
  }
  return allocatedBytes === undefined ? undefined : { atMs: Number(head[1]), allocatedBytes, gcMs }
}

/** Rates over the last `windowMs` before the last collection. Undefined with fewer than two in it. */
export function gcRates(collections: Collection[], windowMs: number): GcRates | undefined {
  const last = collections.at(-1)
  if (last === undefined) return undefined
  const [first, ...others] = collections.filter(({ atMs }) => atMs >= last.atMs - windowMs)
  const spanSec = (last.atMs - first!.atMs) / 1000
  if (others.length === 0 || spanSec <= 0) return undefined
  const sum = (of: (one: Collection) => number) => others.reduce((total, one) => total + of(one), 0)
  return {
    collections: others.length,
    allocatedBytesPerSecond: sum((one) => one.allocatedBytes) / spanSec,
    gcMsPerSecond: sum((one) => one.gcMs) / spanSec,
  }
}
