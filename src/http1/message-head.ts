/**
 * The head of an HTTP/1.x message: a strict, incremental parser (RFC 9112 §2–§5) and the parsed form in one object,
 * because a head is read once and asked many times. Bytes are checked against tables in one pass; strings are sliced
 * from one latin1 string when somebody asks. Objects are reused: `reset()` before every message.
 *
 * Stricter than the RFC where leniency has been an attack: only CRLF ends a line, no obs-fold, no space before a
 * request's colon, no empty lines before the request line, methods are tokens of capital letters up to 32 bytes.
 */

import { latin1 } from './bytes.ts'
import { FIELD_ID, FIELD_NAME, fieldId, findField, nextHash, TARGET, TOKEN, VALUE } from './field-names.ts'

export interface HeadLimits {
  /** Bytes from the first byte of the start line to the last of the empty line. */
  readonly headBytes: number
  readonly fields: number
  /** Bytes of the request-target. */
  readonly targetBytes: number
}

/** Why a head was refused. `kind` says which answer it deserves; the listener maps it to a local reply. */
export interface HeadError {
  readonly kind: 'bad' | 'targetTooLong' | 'headTooLarge' | 'unsupported' | 'expectation' | 'version'
  readonly detail: string
}

/** What `parse()` returns: the head is complete, more bytes are needed, or it is refused (see `error`). */
export const PARSED = 1
export const NEED_MORE = 0
export const REFUSED = -1
export type ParseResult = typeof PARSED | typeof NEED_MORE | typeof REFUSED

const START = 0
const METHOD = 1
const TARGET_PHASE = 2
const VERSION = 3
const STATUS = 4
const REASON = 5
const START_LF = 6
const LINE = 7
const NAME = 8
const COLON = 9
const OWS = 10
const FIELD_VALUE = 11
const FIELD_LF = 12
const END_LF = 13

const CR = 13
const LF = 10
const SP = 32
const HTAB = 9
const COLON_BYTE = 58
const MAX_METHOD_BYTES = 32
/** Token bytes without the small letters. */
const METHOD_BYTE = new Uint8Array(256)
for (let c = 0; c < 256; c++) if (TOKEN[c] !== 0 && (c < 97 || c > 122)) METHOD_BYTE[c] = 1
/** Ints a field: name start, name end, value start, value end, id with flags (CANONICAL: the line is exactly `Name: value`). */
const STRIDE = 5
const CANONICAL = 0x1000
/** An unknown name with `_` in it. */
const UNDERSCORE = 0x2000
const ID_MASK = 0xfff

const VERSION_1_1 = [...'HTTP/1.1'].map((c) => c.charCodeAt(0))

export class MessageHead {
  readonly #isRequest: boolean
  #fields = new Int32Array(16 * STRIDE)
  #count = 0
  #text = ''
  #phase = START
  #pos = 0
  #mark = 0
  #hash = 0
  #nameEnd = 0
  #valueEnd = 0
  #methodEnd = 0
  #targetStart = 0
  #targetEnd = 0
  #minor = 1
  #status = 0
  error: HeadError | null = null
  /** Bytes of the whole head, the empty line included. Valid once parsed. */
  byteLength = 0
  method = ''
  /** The request-target as received. */
  target = ''

  constructor(kind: 'request' | 'response') {
    this.#isRequest = kind === 'request'
  }

  /** 0 for HTTP/1.0, 1 for HTTP/1.1. */
  get minorVersion(): number {
    return this.#minor
  }

  get status(): number {
    return this.#status
  }

  get fieldCount(): number {
    return this.#count
  }

  reset(): void {
    this.#count = 0
    this.#text = ''
    this.#phase = START
    this.#pos = 0
    this.#minor = 1 // until it is read: a head refused before that is answered as HTTP/1.1
    this.#status = 0
    this.error = null
    this.method = ''
    this.target = ''
  }

  /**
   * Reads on. `bytes[start]` is the first byte of the head at every call; the position already reached is remembered.
   * After PARSED, `byteLength` says where the head ends.
   */
  parse(bytes: Uint8Array, start: number, end: number, limits: HeadLimits): ParseResult {
    let pos = start + this.#pos
    let phase = this.#phase
    let mark = start + this.#mark
    let hash = this.#hash
    const limit = start + limits.headBytes
    const stop = Math.min(end, limit)

    for (;;) {
      if (pos >= stop) {
        if (stop === limit && end >= limit) {
          // The limit may fall inside the target: the better-known answer is 414, when that is what is too long.
          if (phase === TARGET_PHASE) return this.#refuse('targetTooLong', 'request-target')
          return this.#refuse('headTooLarge', `the head is larger than ${limits.headBytes} bytes`)
        }
        this.#phase = phase
        this.#pos = pos - start
        this.#mark = mark - start
        this.#hash = hash
        return NEED_MORE
      }
      switch (phase) {
        case START:
          mark = pos
          phase = this.#isRequest ? METHOD : VERSION
          break

        case METHOD: {
          while (pos < stop && METHOD_BYTE[bytes[pos]!] === 1) pos++
          if (pos - mark > MAX_METHOD_BYTES) return this.#refuse('bad', 'the method is too long')
          if (pos >= stop) break
          if (bytes[pos] !== SP || pos === mark)
            return this.#refuse('bad', 'the method is not a token of capital letters')
          this.#methodEnd = pos - start
          this.#targetStart = ++pos - start
          mark = pos
          phase = TARGET_PHASE
          break
        }

        case TARGET_PHASE: {
          while (pos < stop && TARGET[bytes[pos]!] === 1) pos++
          if (pos - mark > limits.targetBytes) return this.#refuse('targetTooLong', 'request-target')
          if (pos >= stop) break
          if (bytes[pos] !== SP || pos === mark)
            return this.#refuse('bad', 'the request-target has a byte that is not allowed')
          this.#targetEnd = pos - start
          mark = ++pos
          phase = VERSION
          break
        }

        case VERSION: {
          // `HTTP/1.` and one digit, byte by byte so that any split of the input gives the same verdict
          let i = pos - mark
          while (i < 8 && pos < stop) {
            const b = bytes[pos]!
            if (i === 7 ? b !== 48 && b !== 49 : b !== VERSION_1_1[i]) {
              return i > 4
                ? this.#refuse('version', 'only HTTP/1.0 and HTTP/1.1 are spoken here')
                : this.#refuse('bad', 'the start line has no HTTP version')
            }
            i++
            pos++
          }
          if (i < 8) break
          this.#minor = bytes[pos - 1]! - 48
          phase = this.#isRequest ? REASON : STATUS
          mark = pos
          break
        }

        case STATUS: {
          // SP and three digits; then SP reason, or the end of the line
          let i = pos - mark
          while (i < 4 && pos < stop) {
            const b = bytes[pos]!
            if (i === 0 ? b !== SP : b < 48 || b > 57) return this.#refuse('bad', 'the status is not three digits')
            if (i > 0) this.#status = this.#status * 10 + b - 48
            i++
            pos++
          }
          if (i < 4) break
          if (this.#status < 100 || this.#status > 599) return this.#refuse('bad', 'the status is out of range')
          phase = REASON
          mark = pos
          break
        }

        case REASON: {
          if (!this.#isRequest) {
            if (pos === mark && bytes[pos] !== SP && bytes[pos] !== CR)
              return this.#refuse('bad', 'the status is not three digits')
            while (pos < stop && VALUE[bytes[pos]!] === 1) pos++
            if (pos >= stop) break
          }
          if (bytes[pos] !== CR) return this.#refuse('bad', 'the start line does not end in CRLF')
          pos++
          phase = START_LF
          break
        }

        case START_LF:
          if (bytes[pos] !== LF) return this.#refuse('bad', 'the start line does not end in CRLF')
          pos++
          phase = LINE
          break

        case LINE:
          if (bytes[pos] === CR) {
            pos++
            phase = END_LF
            break
          }
          if (this.#count >= limits.fields) return this.#refuse('headTooLarge', `more than ${limits.fields} fields`)
          mark = pos
          hash = 0
          phase = NAME
          break

        case NAME: {
          let b = bytes[pos]!
          let lower = TOKEN[b]!
          while (lower !== 0) {
            hash = nextHash(hash, lower)
            if (++pos >= stop) break
            b = bytes[pos]!
            lower = TOKEN[b]!
          }
          if (pos >= stop) break
          if (pos === mark)
            return this.#refuse(
              'bad',
              b === SP || b === HTAB ? 'a line begins with white space (obs-fold)' : 'a field has no name',
            )
          this.#nameEnd = pos - start
          if (b === COLON_BYTE) {
            pos++
            phase = OWS
          } else if (!this.#isRequest && (b === SP || b === HTAB)) {
            phase = COLON // RFC 9112 §5.1: a proxy removes this white space from a response
          } else return this.#refuse('bad', 'a field name has a byte that is not allowed')
          break
        }

        case COLON: {
          const b = bytes[pos]!
          if (b !== SP && b !== HTAB && b !== COLON_BYTE)
            return this.#refuse('bad', 'a field name has a byte that is not allowed')
          pos++
          if (b === COLON_BYTE) phase = OWS
          break
        }

        case OWS: {
          while (pos < stop && (bytes[pos] === SP || bytes[pos] === HTAB)) pos++
          if (pos >= stop) break
          this.#push(bytes, mark, start + this.#nameEnd, pos, hash, start)
          mark = pos
          phase = FIELD_VALUE
          break
        }

        case FIELD_VALUE: {
          while (pos < stop && VALUE[bytes[pos]!] === 1) pos++
          if (pos >= stop) break
          if (bytes[pos] !== CR) return this.#refuse('bad', 'a field value has a byte that is not allowed')
          let valueEnd = pos
          while (valueEnd > mark && (bytes[valueEnd - 1] === SP || bytes[valueEnd - 1] === HTAB)) valueEnd--
          this.#valueEnd = valueEnd - start
          if (valueEnd !== pos) this.#fields[this.#count * STRIDE + 4]! &= ~CANONICAL
          pos++
          phase = FIELD_LF
          break
        }

        case FIELD_LF:
          if (bytes[pos] !== LF) return this.#refuse('bad', 'a field line does not end in CRLF')
          pos++
          this.#fields[this.#count * STRIDE + 3] = this.#valueEnd
          this.#count++
          phase = LINE
          break

        default: // END_LF
          if (bytes[pos] !== LF) return this.#refuse('bad', 'the head does not end in CRLF')
          pos++
          this.byteLength = pos - start
          this.#phase = phase
          this.#text = latin1(bytes, start, pos)
          if (this.#isRequest) {
            this.method = this.#text.slice(0, this.#methodEnd)
            this.target = this.#text.slice(this.#targetStart, this.#targetEnd)
          }
          return PARSED
      }
    }
  }

  #push(bytes: Uint8Array, nameStart: number, nameEnd: number, valueStart: number, hash: number, start: number): void {
    const at = this.#count * STRIDE
    if (at + STRIDE > this.#fields.length) {
      const larger = new Int32Array(this.#fields.length * 2)
      larger.set(this.#fields)
      this.#fields = larger
    }
    const fields = this.#fields
    fields[at] = nameStart - start
    fields[at + 1] = nameEnd - start
    fields[at + 2] = valueStart - start
    const canonical = valueStart === nameEnd + 2 && bytes[nameEnd + 1] === SP
    const id = findField(bytes, nameStart, nameEnd, hash)
    fields[at + 4] =
      id | (canonical ? CANONICAL : 0) | (id === 0 && hasUnderscore(bytes, nameStart, nameEnd) ? UNDERSCORE : 0)
  }

  #refuse(kind: HeadError['kind'], detail: string): typeof REFUSED {
    this.error = { kind, detail }
    return REFUSED
  }

  /** The id of field `i` in the order received (see field-names.ts); 0 when unknown. */
  idAt(i: number): number {
    return this.#fields[i * STRIDE + 4]! & ID_MASK
  }

  /** Lower case. */
  nameAt(i: number): string {
    const at = i * STRIDE
    const id = this.#fields[at + 4]! & ID_MASK
    return id !== 0 ? FIELD_NAME[id]! : this.#text.slice(this.#fields[at], this.#fields[at + 1]).toLowerCase()
  }

  /** As received. */
  rawNameAt(i: number): string {
    return this.#text.slice(this.#fields[i * STRIDE], this.#fields[i * STRIDE + 1])
  }

  /** Without the white space around it; bytes beyond ASCII as latin1. */
  valueAt(i: number): string {
    return this.#text.slice(this.#fields[i * STRIDE + 2], this.#fields[i * STRIDE + 3])
  }

  /** Whether field `i` has just this value: without making a string of it. */
  valueIs(i: number, value: string): boolean {
    const from = this.#fields[i * STRIDE + 2]!
    if (this.#fields[i * STRIDE + 3]! - from !== value.length) return false
    const text = this.#text
    for (let k = 0; k < value.length; k++) if (text.charCodeAt(from + k) !== value.charCodeAt(k)) return false
    return true
  }

  /** Index of the first field with this id at or after `from`; -1 when there is none. */
  indexOf(id: number, from = 0): number {
    const fields = this.#fields
    for (let i = from; i < this.#count; i++) if ((fields[i * STRIDE + 4]! & ID_MASK) === id) return i
    return -1
  }

  /** The value of a known field by id, several lines joined as RFC 9110 §5.2 says; undefined when absent. */
  value(id: number): string | undefined {
    const i = this.indexOf(id)
    if (i < 0) return undefined
    let value = this.valueAt(i)
    for (let j = this.indexOf(id, i + 1); j >= 0; j = this.indexOf(id, j + 1)) {
      value += (id === FIELD_ID.cookie ? '; ' : ', ') + this.valueAt(j)
    }
    return value
  }

  /** The value of a field by its lower-case name, several lines joined; undefined when absent. */
  get(lowerCaseName: string): string | undefined {
    const id = fieldId(lowerCaseName)
    if (id !== 0) return this.value(id)
    let value: string | undefined
    for (let i = 0; i < this.#count; i++) {
      if (this.#isNamed(i, lowerCaseName))
        value = value === undefined ? this.valueAt(i) : `${value}, ${this.valueAt(i)}`
    }
    return value
  }

  /** Whether the first line of a known field begins with this, whatever its case. @param prefix lower case, ASCII */
  beginsWith(id: number, prefix: string): boolean {
    const i = this.indexOf(id)
    if (i < 0) return false
    const from = this.#fields[i * STRIDE + 2]!
    if (this.#fields[i * STRIDE + 3]! - from < prefix.length) return false
    for (let k = 0; k < prefix.length; k++) {
      const code = this.#text.charCodeAt(from + k)
      if ((code >= 65 && code <= 90 ? code | 32 : code) !== prefix.charCodeAt(k)) return false
    }
    return true
  }

  /** Each line's value of a field by its lower-case name (Set-Cookie must never be joined). */
  getAll(lowerCaseName: string): string[] {
    const values: string[] = []
    for (let i = 0; i < this.#count; i++) if (this.#isNamed(i, lowerCaseName)) values.push(this.valueAt(i))
    return values
  }

  #isNamed(i: number, lowerCaseName: string): boolean {
    const at = i * STRIDE
    if (this.#fields[at + 1]! - this.#fields[at]! !== lowerCaseName.length) return false
    return this.nameAt(i) === lowerCaseName
  }

  /**
   * The field lines that may go on, re-serialised as `Name: value CRLF`. Neighbouring lines that were received in just
   * that form leave as one slice: every byte of them has been checked by the parser.
   * @param drop 1 at the id of each known field that stays behind
   * @param dropUnderscores unknown names with `_` stay behind
   * @param names lower-case names that stay behind beside; null: none
   * @param more a few more of them; null: none
   */
  fieldLines(
    drop: Uint8Array,
    dropUnderscores: boolean,
    names: ReadonlySet<string> | null,
    more: readonly string[] | null,
  ): string {
    const fields = this.#fields
    const text = this.#text
    let out = ''
    let runStart = -1
    let runEnd = 0
    for (let i = 0; i < this.#count; i++) {
      const at = i * STRIDE
      const flags = fields[at + 4]!
      const kept =
        drop[flags & ID_MASK] === 0 &&
        !(dropUnderscores && (flags & UNDERSCORE) !== 0) &&
        (names === null || !names.has(this.nameAt(i))) &&
        (more === null || !more.includes(this.nameAt(i)))
      if (kept && (flags & CANONICAL) !== 0) {
        if (runStart < 0) runStart = fields[at]!
        runEnd = fields[at + 3]! + 2
        continue
      }
      if (runStart >= 0) {
        out += text.slice(runStart, runEnd)
        runStart = -1
      }
      if (kept) out += `${this.rawNameAt(i)}: ${this.valueAt(i)}\r\n`
    }
    return runStart >= 0 ? out + text.slice(runStart, runEnd) : out
  }
}

function hasUnderscore(bytes: Uint8Array, start: number, end: number): boolean {
  for (let i = start; i < end; i++) if (bytes[i] === 95) return true
  return false
}

/** A head from text, for messages that did not arrive as HTTP/1.x bytes (HTTP/2) and for tests. Throws on a refused head. */
export function headFromText(kind: 'request' | 'response', text: string, limits: HeadLimits = NO_LIMITS): MessageHead {
  const head = new MessageHead(kind)
  const bytes = Buffer.from(text, 'latin1')
  const result = head.parse(bytes, 0, bytes.length, limits)
  if (result !== PARSED) throw new Error(head.error?.detail ?? 'the head is incomplete')
  return head
}

const NO_LIMITS: HeadLimits = { headBytes: 1 << 20, fields: 1000, targetBytes: 1 << 20 }
