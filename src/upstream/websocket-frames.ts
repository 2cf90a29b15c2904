/**
 * What the gateway needs of the frames of a WebSocket (RFC 6455 §5.2), which otherwise pass unread: where one ends, and
 * the one that it sends itself.
 */

/** A Close frame with 1001, "going away" (RFC 6455 §7.4.1): as servers send it, and masked (by zeros) as clients do. */
export const GOING_AWAY = Buffer.from([0x88, 2, 0x03, 0xe9])
export const GOING_AWAY_MASKED = Buffer.from([0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9])

/** Follows the frames of one direction just far enough to know whether the last one is complete. */
export class FrameCursor {
  readonly #head = new Uint8Array(14)
  #have = 0
  #left = 0

  see(chunk: Uint8Array): void {
    for (let at = 0; at < chunk.length; ) {
      if (this.#left > 0) {
        const skipped = Math.min(this.#left, chunk.length - at)
        this.#left -= skipped
        at += skipped
        continue
      }
      this.#head[this.#have++] = chunk[at++]!
      if (this.#have >= 2 && this.#have === this.#headLength()) {
        this.#left = this.#payloadLength()
        this.#have = 0
      }
    }
  }

  /** No frame has begun that is not complete. */
  get between(): boolean {
    return this.#left === 0 && this.#have === 0
  }

  #headLength(): number {
    const short = this.#head[1]! & 127
    return 2 + (short === 126 ? 2 : short === 127 ? 8 : 0) + (this.#head[1]! > 127 ? 4 : 0)
  }

  #payloadLength(): number {
    const head = this.#head
    const short = head[1]! & 127
    if (short < 126) return short
    let length = 0
    for (let i = 2; i < (short === 126 ? 4 : 10); i++) length = length * 256 + head[i]!
    return length
  }
}
