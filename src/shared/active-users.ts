/**
 * How many different users there were in a minute, counted without remembering anybody: HyperLogLog (Flajolet et al.,
 * 2007) with 4096 registers, so 1.6 % off on average, whatever the number. Each thread writes its own registers in shared
 * memory; the reader takes the larger of each. Memory: 12 KiB a thread.
 */

const MINUTE_MS = 60_000
const PRECISION = 12
const REGISTERS = 1 << PRECISION
/** The minute that is being counted, the whole one before it, and one that a slow thread may still write. */
const MINUTES = 3
const HEAD_PLACES = 2
const HEAD_BYTES = HEAD_PLACES * 8
const MINUTE_BYTES = HEAD_BYTES + REGISTERS
const ALPHA = 0.7213 / (1 + 1.079 / REGISTERS)

export interface MinuteOfUsers {
  readonly users: number
  readonly requests: number
}

/** One a thread. Goes to worker threads as it is. */
export function createActiveUsersMemory(threads: number): SharedArrayBuffer[] {
  return Array.from({ length: threads }, () => new SharedArrayBuffer(MINUTES * MINUTE_BYTES))
}

/** The writing side, of one thread. */
export class ActiveUsers {
  readonly #minutes: readonly { head: Float64Array; registers: Uint8Array }[]
  readonly #originMs: number
  #current: { head: Float64Array; registers: Uint8Array }
  #endsMs = Number.NEGATIVE_INFINITY

  /** @param originMs `performance.timeOrigin` of this thread */
  constructor(memory: SharedArrayBuffer, originMs: number) {
    this.#minutes = minutesOf(memory)
    this.#current = this.#minutes[0]!
    this.#originMs = originMs
  }

  /** Counts one request of a user. @param nowMs `performance.now()` */
  count(user: string, nowMs: number): void {
    if (nowMs >= this.#endsMs) this.#turn(nowMs)
    const { head, registers } = this.#current
    head[1]!++
    const hash = hashOf(user)
    // The top bits choose the register, the rest tell how rare the hash is
    const rank = Math.clz32((hash << PRECISION) | (1 << (PRECISION - 1))) + 1
    const at = hash >>> (32 - PRECISION)
    if (rank > registers[at]!) registers[at] = rank
  }

  #turn(nowMs: number): void {
    const minute = Math.floor((this.#originMs + nowMs) / MINUTE_MS)
    this.#endsMs = (minute + 1) * MINUTE_MS - this.#originMs
    this.#current = this.#minutes[minute % MINUTES]!
    const { head, registers } = this.#current
    if (head[0] === minute) return // a thread started anew goes on with what it finds
    head[0] = minute
    head[1] = 0
    registers.fill(0)
  }
}

/** The last whole minute before `wallMs`, over all threads. */
export function readActiveUsers(memory: readonly SharedArrayBuffer[], wallMs: number): MinuteOfUsers {
  const minute = Math.max(0, Math.floor(wallMs / MINUTE_MS) - 1)
  const merged = new Uint8Array(REGISTERS)
  let requests = 0
  for (const buffer of memory) {
    const { head, registers } = minutesOf(buffer)[minute % MINUTES]!
    if (head[0] !== minute || wallMs < MINUTE_MS) continue
    requests += head[1]!
    for (let i = 0; i < REGISTERS; i++) if (registers[i]! > merged[i]!) merged[i] = registers[i]!
  }
  return { users: estimate(merged), requests }
}

function minutesOf(buffer: SharedArrayBuffer) {
  return Array.from({ length: MINUTES }, (_, i) => ({
    head: new Float64Array(buffer, i * MINUTE_BYTES, HEAD_PLACES),
    registers: new Uint8Array(buffer, i * MINUTE_BYTES + HEAD_BYTES, REGISTERS),
  }))
}

function estimate(registers: Uint8Array): number {
  let sum = 0
  let zeros = 0
  for (const rank of registers) {
    sum += 2 ** -rank
    if (rank === 0) zeros++
  }
  const raw = (ALPHA * REGISTERS * REGISTERS) / sum
  // Linear counting is the better one while many registers are empty
  if (raw <= 2.5 * REGISTERS && zeros > 0) return Math.round(REGISTERS * Math.log(REGISTERS / zeros))
  return Math.round(raw)
}

/** FNV-1a with the finaliser of MurmurHash3, which spreads what short addresses leave together. */
function hashOf(text: string): number {
  let hash = 0x811c9dc5
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193)
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b)
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
  return hash ^ (hash >>> 16)
}
