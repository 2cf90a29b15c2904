/**
 * What one side writes, merged: text and small pieces are collected and leave in one `write`, because the system call is
 * what a request costs most. Latin1 strings up to 16 KiB are written by Node from the stack, without an allocation.
 * Large pieces are copied into recycled buffers: the read buffer that they came from is used again at once. Those that
 * last, as stored bodies do, are not copied.
 */

import type { Socket } from 'node:net'
import { latin1 } from './bytes.ts'

/** Up to here a piece is merged as text. */
const MERGE_BYTES = 16 * 1024
export const READ_BUFFER_BYTES = 64 * 1024
const MAX_SPARE_BUFFERS = 64

const spare: Buffer[] = []

export class Outbox {
  readonly #socket: Socket
  #text = ''
  /** Bytes handed to the socket so far. */
  bytesWritten = 0

  constructor(socket: Socket) {
    this.#socket = socket
  }

  /** @param piece latin1 */
  text(piece: string): void {
    this.#text += piece
  }

  /** @param lasting nobody changes the piece any more */
  bytes(piece: Uint8Array, lasting = false): void {
    if (piece.length + this.#text.length <= MERGE_BYTES) {
      this.#text += latin1(piece, 0, piece.length)
      return
    }
    if (lasting) {
      this.#together(piece)
      return
    }
    this.flush()
    if (piece.length <= MERGE_BYTES) {
      this.#text = latin1(piece, 0, piece.length)
      return
    }
    for (let at = 0; at < piece.length; at += READ_BUFFER_BYTES) this.#copy(piece.subarray(at, at + READ_BUFFER_BYTES))
  }

  /** What was collected and a piece from where it lies, in one system call. */
  #together(piece: Uint8Array): void {
    this.#socket.cork()
    this.flush()
    this.bytesWritten += piece.length
    this.#socket.write(piece)
    this.#socket.uncork()
  }

  #copy(piece: Uint8Array): void {
    const buffer = spare.pop() ?? Buffer.allocUnsafeSlow(READ_BUFFER_BYTES)
    buffer.set(piece)
    this.bytesWritten += piece.length
    this.#socket.write(piece.length === READ_BUFFER_BYTES ? buffer : buffer.subarray(0, piece.length), () => {
      if (spare.length < MAX_SPARE_BUFFERS) spare.push(buffer)
    })
  }

  /** Writes what was collected. */
  flush(): void {
    if (this.#text === '') return
    const text = this.#text
    this.#text = ''
    this.bytesWritten += text.length
    this.#socket.write(text, 'latin1')
  }

  /** False when the peer reads slower than we write: wait for the socket's `drain`. */
  get ready(): boolean {
    return !this.#socket.writableNeedDrain
  }

  get empty(): boolean {
    return this.#text === ''
  }
}
