/**
 * CPU profiles and heap snapshots of the thread that is asked, by V8's inspector, and a CPU profile in the format of
 * `go tool pprof`. Loaded when somebody asks for one. Both slow the thread down while they run; the admin listener offers
 * them only with `admin.profiling`.
 */

import { type Profiler, Session } from 'node:inspector/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { promisify } from 'node:util'
import { gzip } from 'node:zlib'

export const LONGEST_PROFILE_SEC = 120
/** One sample a millisecond, V8's own default. */
const SAMPLE_EVERY_US = 1000

/** Profiles this thread for so long. The text is a `.cpuprofile`, which Chrome DevTools and speedscope open. */
export async function cpuProfile(seconds: number): Promise<string> {
  const session = new Session()
  session.connect()
  try {
    await session.post('Profiler.enable')
    await session.post('Profiler.setSamplingInterval', { interval: SAMPLE_EVERY_US })
    await session.post('Profiler.start')
    await delay(seconds * 1000)
    const { profile } = await session.post('Profiler.stop')
    return JSON.stringify(profile)
  } finally {
    session.disconnect()
  }
}

/**
 * A `.cpuprofile` as pprof's gzipped protocol buffer (github.com/google/pprof, proto/profile.proto).
 * @param startedMs since 1970
 */
export async function toPprof(cpuprofile: string, startedMs: number): Promise<Uint8Array> {
  return promisify(gzip)(encodeProfile(JSON.parse(cpuprofile) as Profiler.Profile, startedMs))
}

function encodeProfile(profile: Profiler.Profile, startedMs: number): Uint8Array {
  const strings = new Strings()
  const parents = new Map<number, number>()
  const nodes = new Map(profile.nodes.map((node) => [node.id, node]))
  for (const node of profile.nodes) for (const child of node.children ?? []) parents.set(child, node.id)

  const functions = new Map<string, number>()
  const functionBytes: Uint8Array[] = []
  const locationBytes: Uint8Array[] = []
  for (const { id, callFrame, positionTicks } of profile.nodes) {
    const { functionName, url, lineNumber, scriptId } = callFrame
    const key = `${scriptId}:${lineNumber}:${functionName}`
    let functionId = functions.get(key)
    if (functionId === undefined) {
      functions.set(key, (functionId = functions.size + 1))
      const name = strings.id(functionName === '' ? '(anonymous)' : functionName)
      functionBytes.push(
        new Message().number(1, functionId).number(2, name).number(3, name)
          .number(4, strings.id(url)).number(5, lineNumber + 1).bytes(), // biome-ignore format: field by field
      )
    }
    // The line that was seen most often stands for the frame
    const hottest = positionTicks?.reduce((most, tick) => (tick.ticks > most.ticks ? tick : most))?.line
    const line = new Message().number(1, functionId).number(2, hottest ?? lineNumber + 1)
    locationBytes.push(new Message().number(1, id).message(4, line).bytes())
  }

  const samples = new Map<number, { count: number; us: number }>()
  for (const [i, id] of (profile.samples ?? []).entries()) {
    const sample = samples.get(id) ?? { count: 0, us: 0 }
    sample.count++
    sample.us += Math.max(0, profile.timeDeltas?.[i + 1] ?? SAMPLE_EVERY_US)
    samples.set(id, sample)
  }

  const message = new Message()
  message.message(1, valueType(strings, 'samples', 'count')).message(1, valueType(strings, 'cpu', 'nanoseconds'))
  for (const [leaf, { count, us }] of samples) {
    const name = nodes.get(leaf)?.callFrame.functionName
    if (name === '(idle)' || name === '(root)') continue // time without work is no CPU time
    const stack: number[] = []
    for (let id: number | undefined = leaf; id !== undefined; id = parents.get(id)) {
      if (nodes.get(id)?.callFrame.functionName !== '(root)') stack.push(id)
    }
    message.message(2, new Message().packed(1, stack).packed(2, [count, us * 1000]))
  }
  for (const bytes of locationBytes) message.chunk(4, bytes)
  for (const bytes of functionBytes) message.chunk(5, bytes)
  message.number(9, startedMs * 1e6).number(10, (profile.endTime - profile.startTime) * 1000)
  message.message(11, valueType(strings, 'cpu', 'nanoseconds')).number(12, SAMPLE_EVERY_US * 1000)
  for (const text of strings.all) message.chunk(6, Buffer.from(text))
  return message.bytes()
}

function valueType(strings: Strings, type: string, unit: string): Message {
  return new Message().number(1, strings.id(type)).number(2, strings.id(unit))
}

/** The string table; number 0 is ''. */
class Strings {
  readonly all = ['']
  readonly #ids = new Map([['', 0]])

  id(text: string): number {
    let id = this.#ids.get(text)
    if (id === undefined) {
      id = this.all.push(text) - 1
      this.#ids.set(text, id)
    }
    return id
  }
}

/** A message of protocol buffers, written field by field. */
class Message {
  #out: number[] = []
  readonly #parts: Uint8Array[] = []

  /** A whole number below 2^63; precise up to 2^53. */
  number(field: number, value: number): this {
    this.#varint(field * 8)
    this.#varint(value)
    return this
  }

  packed(field: number, values: readonly number[]): this {
    const inner = new Message()
    for (const value of values) inner.#varint(value)
    return this.chunk(field, inner.bytes())
  }

  message(field: number, message: Message): this {
    return this.chunk(field, message.bytes())
  }

  chunk(field: number, bytes: Uint8Array): this {
    this.#varint(field * 8 + 2)
    this.#varint(bytes.length)
    this.#flush()
    this.#parts.push(bytes)
    return this
  }

  bytes(): Uint8Array {
    this.#flush()
    return this.#parts.length === 1 ? this.#parts[0]! : Buffer.concat(this.#parts)
  }

  #flush(): void {
    if (this.#out.length === 0) return
    this.#parts.push(Uint8Array.from(this.#out))
    this.#out = []
  }

  #varint(value: number): void {
    let rest = Math.max(0, Math.round(value))
    while (rest > 127) {
      this.#out.push((rest % 128) + 128)
      rest = Math.floor(rest / 128)
    }
    this.#out.push(rest)
  }
}
