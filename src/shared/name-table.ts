/**
 * A table of names that all threads share: the same name gets the same small number in every thread, so that counters
 * can be plain arrays. Used at load time only. Entries are never removed; the table is bounded.
 *
 * Free of locks: an entry is claimed by one compare-and-swap, filled, then marked ready. Everybody looks from the front
 * and claims the first empty entry, which is what makes names unique. An entry whose thread died while filling it is
 * given up after a short wait.
 */

const ENTRY_BYTES = 256
const STATE_BYTES = 4
const MAX_NAME_BYTES = ENTRY_BYTES - STATE_BYTES - 2
const EMPTY = 0
const FILLING = 1
const READY = 2
const LONGEST_FILL_MS = 50

const encoder = new TextEncoder()
const decoder = new TextDecoder()

export class NameTable {
  readonly capacity: number
  readonly #states: Int32Array
  readonly #bytes: Uint8Array
  /** What this thread has read so far; entries never change once they are ready. */
  readonly #names: (string | undefined)[] = []
  readonly #ids = new Map<string, number>()

  static byteLength(capacity: number): number {
    return capacity * ENTRY_BYTES
  }

  constructor(buffer: SharedArrayBuffer) {
    this.capacity = Math.floor(buffer.byteLength / ENTRY_BYTES)
    this.#states = new Int32Array(buffer)
    this.#bytes = new Uint8Array(buffer)
  }

  /** The number of a name, taking a new entry when it is unknown. -1: the table is full. */
  id(name: string): number {
    const known = this.#ids.get(name)
    if (known !== undefined) return known
    const bytes = shorten(name)
    const stored = decoder.decode(bytes)
    for (let i = 0; i < this.capacity; i++) {
      const at = (i * ENTRY_BYTES) / 4
      if (Atomics.compareExchange(this.#states, at, EMPTY, FILLING) === EMPTY) {
        const start = i * ENTRY_BYTES + STATE_BYTES
        this.#bytes[start] = bytes.length & 0xff
        this.#bytes[start + 1] = bytes.length >> 8
        this.#bytes.set(bytes, start + 2)
        Atomics.store(this.#states, at, READY)
        Atomics.notify(this.#states, at)
        this.#names[i] = stored
        this.#ids.set(name, i)
        return i
      }
      Atomics.wait(this.#states, at, FILLING, LONGEST_FILL_MS)
      if (this.name(i) === stored) {
        this.#ids.set(name, i)
        return i
      }
    }
    return -1
  }

  /** The name of an entry; undefined when it is empty. */
  name(id: number): string | undefined {
    const known = this.#names[id]
    if (known !== undefined) return known
    if (Atomics.load(this.#states, (id * ENTRY_BYTES) / 4) !== READY) return undefined
    const start = id * ENTRY_BYTES + STATE_BYTES
    const length = this.#bytes[start]! | (this.#bytes[start + 1]! << 8)
    // TextDecoder refuses views on shared memory: a copy is decoded
    return (this.#names[id] = decoder.decode(this.#bytes.slice(start + 2, start + 2 + length)))
  }

  /** How many entries are taken. */
  get size(): number {
    let size = this.#names.length
    while (size < this.capacity && Atomics.load(this.#states, (size * ENTRY_BYTES) / 4) !== EMPTY) size++
    return size
  }
}

/** A name that does not fit keeps its beginning and ends in a hash of the whole. */
function shorten(name: string): Uint8Array {
  const bytes = encoder.encode(name)
  if (bytes.length <= MAX_NAME_BYTES) return bytes
  let hash = 0x811c9dc5
  for (const b of bytes) hash = Math.imul(hash ^ b, 0x01000193)
  let end = MAX_NAME_BYTES - 9
  while ((bytes[end]! & 0xc0) === 0x80) end-- // not in the middle of a character
  return encoder.encode(`${decoder.decode(bytes.subarray(0, end))}~${(hash >>> 0).toString(16).padStart(8, '0')}`)
}
