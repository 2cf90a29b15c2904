/**
 * Reads one head after another from the pieces of a byte stream. Where a head lies whole in one piece, as nearly always,
 * it is parsed in place; else its pieces are collected in a buffer that grows by doubling.
 */

import { type HeadLimits, MessageHead, NEED_MORE, PARSED, type ParseResult } from './message-head.ts'

export class HeadReader {
  readonly head: MessageHead
  #partial: Buffer | null = null
  #partialLength = 0
  /** After PARSED: where the head ends in the bytes given last. */
  consumedTo = 0

  constructor(kind: 'request' | 'response') {
    this.head = new MessageHead(kind)
  }

  /** True when some bytes of a head have been seen, but not all. */
  get partial(): boolean {
    return this.#partialLength > 0
  }

  /** What came of a head that arrived in pieces, the last piece included; null when it lies in the piece given last. */
  get collected(): Uint8Array | null {
    return this.#partialLength > 0 ? this.#partial!.subarray(0, this.#partialLength) : null
  }

  /** Forgets the head just read; the next bytes begin a new one. */
  reset(): void {
    this.head.reset()
    this.#partial = null
    this.#partialLength = 0
  }

  read(bytes: Uint8Array, from: number, end: number, limits: HeadLimits): ParseResult {
    const before = this.#partialLength
    if (before === 0) {
      const result = this.head.parse(bytes, from, end, limits)
      if (result === PARSED) this.consumedTo = from + this.head.byteLength
      else if (result === NEED_MORE) this.#keep(bytes, from, end)
      return result
    }
    this.#keep(bytes, from, end)
    const result = this.head.parse(this.#partial!, 0, this.#partialLength, limits)
    if (result === PARSED) {
      this.consumedTo = from + this.head.byteLength - before
      this.#partial = null
      this.#partialLength = 0
    }
    return result
  }

  #keep(bytes: Uint8Array, from: number, end: number): void {
    const length = this.#partialLength + end - from
    if (this.#partial === null || this.#partial.length < length) {
      const larger = Buffer.allocUnsafe(Math.max(1024, length * 2))
      this.#partial?.copy(larger, 0, 0, this.#partialLength)
      this.#partial = larger
    }
    this.#partial.set(bytes.subarray(from, end), this.#partialLength)
    this.#partialLength = length
  }
}
