/**
 * The chunked transfer coding (RFC 9112 §7.1), incremental. Only CRLF ends a line, sizes are up to 13 hex digits,
 * extensions are dropped and bounded, trailers are read by the same tables as head fields. Any split of the bytes gives
 * the same data.
 */

import { latin1, trimOws } from './bytes.ts'
import { TOKEN, VALUE } from './field-names.ts'
import { mayBeTrailer } from './trailers.ts'

const SIZE = 0
const EXTENSION = 1
const SIZE_LF = 2
const DATA = 3
const DATA_CR = 4
const DATA_LF = 5
const TRAILER_LINE = 6
const TRAILER_NAME = 7
const TRAILER_VALUE = 8
const TRAILER_LF = 9
const END_LF = 10
const DONE = 11

const CR = 13
const LF = 10
const MAX_SIZE_DIGITS = 13
const MAX_EXTENSION_BYTES = 1024
/** Extension bytes beyond what the data itself weighs: many tiny chunks with long extensions cost more than they carry. */
const MAX_OVERHEAD_BYTES = 16 * 1024
const MAX_TRAILER_BYTES = 8 * 1024
/** A line's colon, CRLF and the space it leaves with: counted, so that empty trailers are bounded too. */
const TRAILER_LINE_BYTES = 4

export class ChunkedDecoder {
  #phase = SIZE
  #left = 0
  #digits = 0
  #extension = 0
  #overhead = 0
  #line = ''
  #trailerBytes = 0
  #trailers = ''
  /** Set when the bytes are not valid: what is wrong. */
  error = ''
  /** Where the last `next()` found data. */
  dataStart = 0
  dataEnd = 0

  reset(): void {
    this.#phase = SIZE
    this.#left = 0
    this.#digits = 0
    this.#extension = 0
    this.#overhead = 0
    this.#trailerBytes = 0
    this.#trailers = ''
    this.#line = ''
    this.error = ''
  }

  get done(): boolean {
    return this.#phase === DONE
  }

  /** Valid when done: field lines, each ending in CRLF, or ''. Fields that may not be trailers are left out. */
  get trailers(): string {
    return this.#trailers
  }

  /**
   * Reads from `pos`; returns where it stopped. It stops with data in `[dataStart, dataEnd)`, at the end of the bytes,
   * when done, or with `error` set. Call again while the returned position is before `end` and it is neither done nor failed.
   */
  next(bytes: Uint8Array, from: number, end: number): number {
    let pos = from
    this.dataStart = this.dataEnd = 0
    while (pos < end) {
      const b = bytes[pos]!
      switch (this.#phase) {
        case SIZE: {
          const digit = hexDigit(b)
          if (digit >= 0) {
            if (++this.#digits > MAX_SIZE_DIGITS) return this.#fail('a chunk size is too large', pos)
            this.#left = this.#left * 16 + digit
          } else if (this.#digits === 0) return this.#fail('a chunk has no size', pos)
          else if (b === CR) this.#phase = SIZE_LF
          else if (b === 59 /* ; */) this.#phase = EXTENSION
          else return this.#fail('a chunk size is not hexadecimal', pos)
          pos++
          break
        }
        case EXTENSION:
          if (b === CR) this.#phase = SIZE_LF
          else if (VALUE[b] !== 1) return this.#fail('a chunk extension has a byte that is not allowed', pos)
          else if (++this.#extension > MAX_EXTENSION_BYTES) return this.#fail('chunk extensions are too long', pos)
          pos++
          break
        case SIZE_LF:
          if (b !== LF) return this.#fail('a chunk line does not end in CRLF', pos)
          pos++
          this.#overhead = Math.max(0, this.#overhead + this.#extension - this.#left)
          if (this.#overhead > MAX_OVERHEAD_BYTES) return this.#fail('chunk extensions are too long', pos)
          this.#extension = 0
          this.#digits = 0
          this.#phase = this.#left === 0 ? TRAILER_LINE : DATA
          break
        case DATA: {
          const take = Math.min(this.#left, end - pos)
          this.dataStart = pos
          this.dataEnd = pos + take
          this.#left -= take
          if (this.#left === 0) this.#phase = DATA_CR
          return pos + take
        }
        case DATA_CR:
          if (b !== CR) return this.#fail('a chunk is longer than its size', pos)
          this.#phase = DATA_LF
          pos++
          break
        case DATA_LF:
          if (b !== LF) return this.#fail('a chunk does not end in CRLF', pos)
          this.#phase = SIZE
          pos++
          break
        case TRAILER_LINE:
          this.#line = ''
          if (b === CR) {
            this.#phase = END_LF
            pos++
            break
          }
          this.#trailerBytes += TRAILER_LINE_BYTES
          if (this.#trailerBytes > MAX_TRAILER_BYTES) return this.#fail('the trailers are too large', pos)
          this.#phase = TRAILER_NAME
          break
        case TRAILER_NAME: {
          const start = pos
          while (pos < end && TOKEN[bytes[pos]!] !== 0) pos++
          if (!this.#addToLine(bytes, start, pos)) return this.#trailersTooLarge(pos)
          if (pos === end) break
          if (bytes[pos] !== 58 /* : */ || this.#line === '') return this.#fail('a trailer has no valid name', pos)
          this.#line += ':'
          this.#phase = TRAILER_VALUE
          pos++
          break
        }
        case TRAILER_VALUE: {
          const start = pos
          while (pos < end && VALUE[bytes[pos]!] === 1) pos++
          if (!this.#addToLine(bytes, start, pos)) return this.#trailersTooLarge(pos)
          if (pos === end) break
          if (bytes[pos] !== CR) return this.#fail('a trailer has a byte that is not allowed', pos)
          this.#phase = TRAILER_LF
          pos++
          break
        }
        case TRAILER_LF:
          if (b !== LF) return this.#fail('a trailer does not end in CRLF', pos)
          this.#keepTrailer()
          this.#phase = TRAILER_LINE
          pos++
          break
        case END_LF:
          if (b !== LF) return this.#fail('the body does not end in CRLF', pos)
          this.#phase = DONE
          return pos + 1
        default:
          return pos
      }
    }
    return pos
  }

  #addToLine(bytes: Uint8Array, start: number, end: number): boolean {
    this.#trailerBytes += end - start
    if (this.#trailerBytes > MAX_TRAILER_BYTES) return false
    this.#line += latin1(bytes, start, end)
    return true
  }

  /** Stops at the first byte that was too many, wherever the pieces end. */
  #trailersTooLarge(pos: number): number {
    return this.#fail('the trailers are too large', pos - (this.#trailerBytes - MAX_TRAILER_BYTES))
  }

  #keepTrailer(): void {
    const colon = this.#line.indexOf(':')
    const name = this.#line.slice(0, colon)
    if (mayBeTrailer(name)) this.#trailers += `${name}: ${trimOws(this.#line.slice(colon + 1))}\r\n`
  }

  #fail(what: string, pos: number): number {
    this.error = what
    return pos
  }
}

function hexDigit(b: number): number {
  if (b >= 48 && b <= 57) return b - 48
  const lower = b | 0x20
  return lower >= 97 && lower <= 102 ? lower - 87 : -1
}
