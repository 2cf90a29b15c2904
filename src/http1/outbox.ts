/**
 * What one side writes, merged: text and small pieces are collected and leave in one `write`, because the system call is
 * what a request costs most. All that a turn of the event loop has to write leaves at its end, one socket after another:
 * a write that wakes its reader at once costs more than one whose reader is awake from the write before, and the code of
 * both sides of a request stays in the processor's caches. Latin1 strings up to 16 KiB are written by Node from the
 * stack, without an allocation. Large pieces are copied into recycled buffers: the read buffer that they came from is used
 * again at once. Those that last, as stored bodies do, are not copied.
 */

import type { Socket } from 'node:net'
import { latin1 } from './bytes.ts'

/** Up to here a piece is merged as text. */
const MERGE_BYTES = 16 * 1024
export const READ_BUFFER_BYTES = 64 * 1024
const MAX_SPARE_BUFFERS = 64
/** So many sockets' writes leave before the turn has ended: a long turn must not keep them all waiting. */
const MAX_DUE = 64
/**
 * So many may leave before the turn has ended, then all wait for its end. libuv (`uv__io_poll`) asks the kernel again, up
 * to 48 times, while it gets 1024 events at once, and only then come timers, new connections and what was closed: with
 * thousands of busy connections that is a second. Peers that have no answer yet send nothing, so that the turn ends.
 */
const MAX_EARLY = 1024

const spare: Buffer[] = []
/** The first `dueCount` of them. */
const due: Outbox[] = []
let dueCount = 0
/** The end of this turn is awaited; so many left before it. */
let ending = false
let early = 0

function endTurn(): void {
  ending = false
  early = 0
  sendDue()
  if (due.length > MAX_DUE) due.length = MAX_DUE // who is gone must not be kept by a place in a long list
}

function sendDue(): void {
  const count = dueCount
  dueCount = 0
  for (let i = 0; i < count; i++) due[i]!.sendDue()
}

export class Outbox {
  readonly #socket: Socket
  #text = ''
  /** A large piece that follows the text. */
  #lasting: Uint8Array | null = null
  #due = false
  /** Bytes taken so far, those that have not left yet among them. */
  bytesTaken = 0

  constructor(socket: Socket) {
    this.#socket = socket
  }

  /** @param piece latin1 */
  text(piece: string): void {
    if (this.#lasting !== null) this.send()
    this.#text += piece
    this.bytesTaken += piece.length
  }

  /** @param lasting nobody changes the piece any more */
  bytes(piece: Uint8Array, lasting = false): void {
    if (this.#lasting !== null) this.send()
    this.bytesTaken += piece.length
    if (piece.length + this.#text.length <= MERGE_BYTES) {
      this.#text += latin1(piece, 0, piece.length)
      return
    }
    if (lasting) {
      this.#lasting = piece
      this.flush()
      return
    }
    this.send()
    if (piece.length <= MERGE_BYTES) {
      this.#text = latin1(piece, 0, piece.length)
      return
    }
    for (let at = 0; at < piece.length; at += READ_BUFFER_BYTES) this.#copy(piece.subarray(at, at + READ_BUFFER_BYTES))
  }

  #copy(piece: Uint8Array): void {
    const buffer = spare.pop() ?? Buffer.allocUnsafeSlow(READ_BUFFER_BYTES)
    buffer.set(piece)
    this.#socket.write(piece.length === READ_BUFFER_BYTES ? buffer : buffer.subarray(0, piece.length), () => {
      if (spare.length < MAX_SPARE_BUFFERS) spare.push(buffer)
    })
  }

  /** What was collected leaves by the end of this turn of the event loop. */
  flush(): void {
    if (this.#text.length > MERGE_BYTES) this.send()
    if (this.#due || (this.#text === '' && this.#lasting === null)) return
    this.#due = true
    due[dueCount++] = this
    if (!ending) {
      ending = true
      setImmediate(endTurn)
    }
    if (dueCount === MAX_DUE && early < MAX_EARLY) {
      early += MAX_DUE
      sendDue()
    }
  }

  sendDue(): void {
    this.#due = false
    this.send()
  }

  /** What was collected leaves now: nothing else may come before it. */
  send(): void {
    const text = this.#text
    const lasting = this.#lasting
    this.#text = ''
    this.#lasting = null
    if (this.#socket.destroyed) return
    if (lasting === null) {
      if (text !== '') this.#socket.write(text, 'latin1')
      return
    }
    this.#socket.cork() // one system call for both
    if (text !== '') this.#socket.write(text, 'latin1')
    this.#socket.write(lasting)
    this.#socket.uncork()
  }

  /** Half-closes, after all that was collected. */
  end(done?: () => void): void {
    this.send()
    this.#socket.end(done)
  }

  /** False when the peer reads slower than we write: wait for the socket's `drain`. */
  get ready(): boolean {
    return !this.#socket.writableNeedDrain
  }
}
