/**
 * Undoes one content coding of a body that comes in pieces, at the pace of whoever takes the result, and no further than its
 * limits: what a few bytes can be blown up to is the sender's choice. In libuv's threads, one piece at a time. No HTTP.
 *
 * Whole means whole: a body that breaks off, or that has bytes behind its end, is broken. gzip may have several members
 * (RFC 1952 §2.2), zstd several frames (RFC 8878 §3.1).
 */

import type zlib from 'node:zlib'

export const DECODABLE = ['gzip', 'deflate', 'br', 'zstd'] as const
export type Decodable = (typeof DECODABLE)[number]

export interface DecoderLimits {
  readonly maxBytes: number
  /** Of what came out to what went in; 0: not looked at. */
  readonly maxRatio: number
}

/** Takes what comes out. After `broken` or `ended` nothing more comes. */
export interface DecoderHost {
  /** False: no more until `resume()`. The memory is the host's. */
  decoded(chunk: Buffer): boolean
  /** After `write` returned false: more may come. */
  drained(): void
  ended(): void
  broken(why: DecoderFault, detail: string): void
}

/** `size` and `ratio` are the limits. */
export type DecoderFault = 'format' | 'size' | 'ratio'

/** Below so much the ratio says nothing: a short body of one letter is no attack. */
const RATIO_FROM_BYTES = 1024 * 1024
/** What waits for its turn. */
const MAX_WAITING_BYTES = 64 * 1024
const CHUNK_BYTES = 64 * 1024
/** RFC 9659 §3: no sender may need a larger window than 8 MiB. */
const ZSTD_WINDOW_LOG = 23
/** Each is a stream of its own where a piece holds the end of one and the beginning of the next. */
const MAX_FRAMES = 1000

type Inflater = zlib.Gunzip | zlib.Inflate | zlib.BrotliDecompress | zlib.ZstdDecompress

function open(coding: Decodable): Inflater {
  const zlib = process.getBuiltinModule('node:zlib')
  switch (coding) {
    case 'gzip':
      return zlib.createGunzip({ chunkSize: CHUNK_BYTES })
    case 'deflate':
      return zlib.createInflate({ chunkSize: CHUNK_BYTES })
    case 'br':
      return zlib.createBrotliDecompress({ chunkSize: CHUNK_BYTES })
    case 'zstd':
      return zlib.createZstdDecompress({
        chunkSize: CHUNK_BYTES,
        params: { [zlib.constants.ZSTD_d_windowLogMax]: ZSTD_WINDOW_LOG },
      })
  }
}

export class Decoder {
  readonly #coding: Decodable
  readonly #limits: DecoderLimits
  readonly #host: DecoderHost
  #stream: Inflater
  #frames = 1
  #waiting: Buffer[] = []
  #waitingBytes = 0
  /** The host was told to wait. */
  #full = false
  /** What the stream works on, and what it had taken before that. */
  #current: Buffer | null = null
  #before = 0
  #inputBytes = 0
  #outputBytes = 0
  #inputEnded = false
  #paused = false
  #closed = false

  constructor(coding: Decodable, limits: DecoderLimits, host: DecoderHost) {
    this.#coding = coding
    this.#limits = limits
    this.#host = host
    this.#stream = this.#open()
  }

  /** False when enough waits: `drained` says when to go on. The piece is copied. */
  write(piece: Uint8Array): boolean {
    if (this.#closed || piece.length === 0) return true
    this.#inputBytes += piece.length
    this.#waiting.push(Buffer.from(piece))
    this.#waitingBytes += piece.length
    this.#next()
    this.#full = this.#waitingBytes >= MAX_WAITING_BYTES
    return !this.#full
  }

  /** All has been written. */
  end(): void {
    if (this.#closed || this.#inputEnded) return
    this.#inputEnded = true
    this.#next()
  }

  pause(): void {
    this.#paused = true
    this.#stream.pause()
  }

  resume(): void {
    this.#paused = false
    if (!this.#closed) this.#stream.resume()
  }

  /** Lets go; the host hears nothing more. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#waiting = []
    this.#stream.destroy()
  }

  #open(): Inflater {
    const stream = open(this.#coding)
    this.#before = 0
    stream.on('data', (chunk: Buffer) => {
      if (!this.#closed) this.#decoded(chunk)
    })
    stream.on('end', () => {
      if (!this.#closed) this.#frameEnded()
    })
    stream.on('error', (error) => this.#break('format', error.message))
    if (this.#paused) stream.pause()
    return stream
  }

  /** Gives the stream all that waits, in one piece. */
  #next(): void {
    if (this.#current !== null || this.#closed) return
    const { length } = this.#waiting
    if (length === 0) {
      if (this.#inputEnded) this.#stream.end()
      return
    }
    const piece = length === 1 ? this.#waiting[0]! : Buffer.concat(this.#waiting, this.#waitingBytes)
    this.#waiting = []
    this.#waitingBytes = 0
    this.#feed(piece)
    if (!this.#full) return
    this.#full = false
    this.#host.drained()
  }

  #feed(piece: Buffer): void {
    this.#current = piece
    this.#before = this.#stream.bytesWritten
    this.#stream.write(piece, () => {
      if (this.#current !== piece) return
      this.#current = null
      this.#next()
    })
  }

  #decoded(chunk: Buffer): void {
    const { maxBytes, maxRatio } = this.#limits
    this.#outputBytes += chunk.length
    if (this.#outputBytes > maxBytes) {
      this.#break('size', `the decoded body is larger than ${maxBytes} bytes`)
    } else if (
      maxRatio > 0 &&
      this.#outputBytes > RATIO_FROM_BYTES &&
      this.#outputBytes > maxRatio * this.#inputBytes
    ) {
      this.#break('ratio', `the body decodes to more than ${maxRatio} times its size`)
    } else if (!this.#host.decoded(chunk)) this.pause()
  }

  /** The coding says that it ends here. With input left Node ends the stream where it stands. */
  #frameEnded(): void {
    const rest = this.#current?.subarray(this.#stream.bytesWritten - this.#before)
    if (rest === undefined || rest.length === 0) {
      this.#closed = true
      this.#host.ended()
      return
    }
    if (this.#coding !== 'zstd') this.#break('format', 'there is more behind the end of the compressed data')
    else if (++this.#frames > MAX_FRAMES) this.#break('format', `there are more than ${MAX_FRAMES} frames`)
    else this.#openNext(rest)
  }

  #openNext(rest: Buffer): void {
    this.#stream.destroy()
    try {
      this.#stream = this.#open()
    } catch (error) {
      this.#break('format', (error as Error).message) // no memory for it, in an event that nobody else looks after
      return
    }
    this.#feed(rest)
  }

  #break(why: DecoderFault, detail: string): void {
    if (this.#closed) return
    this.close()
    this.#host.broken(why, detail)
  }
}
