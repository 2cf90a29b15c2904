/**
 * Lines of a log on their way to a file or standard output. Whoever writes a line only appends to a string; batches leave
 * by size or time through Node's thread pool, so that a slow disk or a stuck pipe costs lines and never requests. What is
 * lost is counted.
 */

import fs from 'node:fs'
import { dirname } from 'node:path'

const FLUSH_CHARS = 64 * 1024
const FLUSH_AFTER_MS = 200
const MAX_BUFFERED_BYTES = 1024 * 1024
const RETRY_AFTER_MS = 10
const LONGEST_CLOSE_MS = 1000
/** Threads take turns on a pipe; one that died in its turn is passed over after this. */
const LONGEST_TURN_MS = 1000

export interface LineWriterOptions {
  /** Absent: standard output. The folder is made when it is missing. */
  readonly file?: string
  /** Called with how many lines left, and how many were lost. */
  readonly onWritten?: (lines: number) => void
  readonly onDropped?: (lines: number) => void
  /**
   * One place in shared memory, for threads that write to the same pipe: a write above 4 KiB is not atomic there, and
   * lines would be cut by each other.
   */
  readonly turn?: Int32Array
  /** Who this is in `turn`; not 0. */
  readonly id?: number
}

/** One 32-bit place that orders the writes of threads. */
export function createTurn(): Int32Array {
  return new Int32Array(new SharedArrayBuffer(4))
}

export class LineWriter {
  readonly #options: LineWriterOptions
  #fd: number
  #pending = ''
  #pendingLines = 0
  #writing: Uint8Array | null = null
  #writingLines = 0
  #timer: NodeJS.Timeout | null = null
  #waitedMs = 0
  #idle: (() => void)[] = []
  #closed = false
  #written = 0
  #dropped = 0

  /** Throws when the file cannot be opened. */
  constructor(options: LineWriterOptions = {}) {
    this.#options = options
    this.#fd = open(options.file)
  }

  get written(): number {
    return this.#written
  }

  /** Lines lost: the buffer was full, or the file or pipe refused them. */
  get dropped(): number {
    return this.#dropped
  }

  /** Takes one line, its line feed included. Never blocks, never throws. */
  write(line: string): void {
    if (this.#closed || this.#pending.length + line.length > MAX_BUFFERED_BYTES - (this.#writing?.length ?? 0)) {
      this.#drop(1)
      return
    }
    this.#pending += line
    this.#pendingLines++
    if (this.#writing !== null) return // the end of that write starts the next
    if (this.#pending.length >= FLUSH_CHARS) this.#start()
    else this.#timer ??= setTimeout(this.#start, FLUSH_AFTER_MS).unref()
  }

  /** Resolves when everything taken so far has left, or is lost. */
  flush(): Promise<void> {
    if (this.#writing === null && this.#pending === '') return Promise.resolve()
    const done = new Promise<void>((resolve) => this.#idle.push(resolve))
    if (this.#writing === null) this.#start()
    else this.#timer?.ref()
    return done
  }

  /** The last resort, at a crash: writes what is left, waiting for nothing. */
  flushSync(): void {
    let bytes = Buffer.from(this.#pending)
    this.#pending = ''
    this.#pendingLines = 0
    try {
      while (bytes.length > 0) bytes = bytes.subarray(fs.writeSync(this.#fd, bytes))
    } catch {
      // a pipe that is full or gone: the process ends, there is nobody to tell
    }
  }

  /** Opens the file anew, for a log that was renamed. The old one is kept when that fails, and the error is thrown. */
  async reopen(): Promise<void> {
    if (this.#options.file === undefined || this.#closed) return
    const next = open(this.#options.file)
    await this.flush()
    const old = this.#fd
    this.#fd = next
    fs.close(old, () => {})
  }

  /** Writes what is left, for at most a second, and closes the file. Lines that come later are counted as lost. */
  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    let timer: NodeJS.Timeout | undefined
    const stuck = new Promise<void>((resolve) => (timer = setTimeout(resolve, LONGEST_CLOSE_MS)))
    await Promise.race([this.flush(), stuck])
    clearTimeout(timer)
    if (this.#options.file !== undefined) fs.close(this.#fd, () => {})
  }

  readonly #start = (): void => {
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#timer = null
    if (this.#pending === '') {
      for (const resolve of this.#idle.splice(0)) resolve()
      return
    }
    this.#writing = Buffer.from(this.#pending)
    this.#writingLines = this.#pendingLines
    this.#pending = ''
    this.#pendingLines = 0
    this.#waitedMs = 0
    this.#writeSome()
  }

  readonly #writeSome = (): void => {
    this.#timer = null
    if (this.#takeTurn()) fs.write(this.#fd, this.#writing!, this.#afterWrite)
    else this.#retry()
  }

  readonly #afterWrite = (error: NodeJS.ErrnoException | null, bytes: number): void => {
    if (error === null && bytes < this.#writing!.length) {
      this.#writing = this.#writing!.subarray(bytes)
      this.#writeSome() // the turn is kept: the line goes on
      return
    }
    if (error?.code === 'EAGAIN' || error?.code === 'EINTR') {
      this.#retry()
      return
    }
    this.#endTurn()
    // ENOSPC, EPIPE, EIO: the next batch tries again
    if (error !== null) this.#drop(this.#writingLines)
    else {
      this.#written += this.#writingLines
      this.#options.onWritten?.(this.#writingLines)
    }
    this.#writing = null
    this.#start()
  }

  #retry(): void {
    this.#timer = setTimeout(this.#writeSome, RETRY_AFTER_MS)
    if (this.#idle.length === 0) this.#timer.unref() // nobody waits for the end
  }

  #takeTurn(): boolean {
    const { turn, id = 1 } = this.#options
    if (turn === undefined) return true
    const holder = Atomics.compareExchange(turn, 0, 0, id)
    if (holder === 0 || holder === id) return true
    this.#waitedMs += RETRY_AFTER_MS
    return this.#waitedMs >= LONGEST_TURN_MS && Atomics.compareExchange(turn, 0, holder, id) === holder
  }

  #endTurn(): void {
    const { turn, id = 1 } = this.#options
    if (turn !== undefined) Atomics.compareExchange(turn, 0, id, 0)
  }

  #drop(lines: number): void {
    this.#dropped += lines
    this.#options.onDropped?.(lines)
  }
}

function open(file: string | undefined): number {
  if (file === undefined) return 1
  fs.mkdirSync(dirname(file), { recursive: true })
  return fs.openSync(file, 'a', 0o640)
}
