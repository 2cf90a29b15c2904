/**
 * Structured fields (RFC 9651): reading a dictionary. Parsing is all or nothing: one bad member makes the whole field
 * invalid (§4.2), which is why a lenient split on commas will not do. Parameters are checked and left out.
 */

/** A token, told from a string. */
export class Token {
  readonly text: string
  constructor(text: string) {
    this.text = text
  }
}

export type BareItem = number | string | boolean | Token | Uint8Array
export type SfMember = BareItem | BareItem[]

const KEY = /[a-z*][a-z0-9_\-.*]*/y
const NUMBER = /-?(\d{1,12}\.\d{1,3}|\d{1,15})(?![\d.])/y
const STRING = /"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"/y
const TOKEN = /[A-Za-z*][!#$%&'*+\-.^_`|~:/0-9A-Za-z]*/y
const BYTES = /:([A-Za-z0-9+/]*={0,2}):/y
const DATE = /@(-?\d{1,15})(?![\d.])/y
const DISPLAY = /%"((?:[\x20-\x21\x23\x24\x26-\x7e]|%[0-9a-f]{2})*)"/y

class Reader {
  readonly text: string
  pos = 0
  constructor(text: string) {
    this.text = text
  }

  match(pattern: RegExp): RegExpExecArray | null {
    pattern.lastIndex = this.pos
    const found = pattern.exec(this.text)
    if (found !== null) this.pos = pattern.lastIndex
    return found
  }

  eat(char: string): boolean {
    if (this.text[this.pos] !== char) return false
    this.pos++
    return true
  }

  skip(chars: string): void {
    while (this.pos < this.text.length && chars.includes(this.text[this.pos]!)) this.pos++
  }
}

/** Undefined when the field is not a dictionary; an empty field is an empty one. */
export function parseDictionary(text: string): Map<string, SfMember> | undefined {
  const members = new Map<string, SfMember>()
  const r = new Reader(text.trim())
  if (r.text === '') return members
  for (;;) {
    const key = r.match(KEY)
    if (key === null) return undefined
    let value: SfMember | undefined = true
    if (r.eat('=')) value = r.text[r.pos] === '(' ? innerList(r) : bareItem(r)
    if (value === undefined || !parameters(r)) return undefined
    members.delete(key[0]) // the last one counts, in its place
    members.set(key[0], value)
    r.skip(' \t')
    if (r.pos >= r.text.length) return members
    if (!r.eat(',')) return undefined
    r.skip(' \t')
  }
}

function innerList(r: Reader): BareItem[] | undefined {
  const items: BareItem[] = []
  r.eat('(')
  for (;;) {
    r.skip(' ')
    if (r.eat(')')) return items
    const item = bareItem(r)
    if (item === undefined || !parameters(r)) return undefined
    items.push(item)
    const next = r.text[r.pos]
    if (next !== ' ' && next !== ')') return undefined
  }
}

function parameters(r: Reader): boolean {
  while (r.eat(';')) {
    r.skip(' ')
    if (r.match(KEY) === null) return false
    if (r.eat('=') && bareItem(r) === undefined) return false
  }
  return true
}

function bareItem(r: Reader): BareItem | undefined {
  let m = r.match(NUMBER)
  if (m !== null) return Number(m[0])
  m = r.match(STRING)
  if (m !== null) return m[1]!.replace(/\\(["\\])/g, '$1')
  m = r.match(TOKEN)
  if (m !== null) return new Token(m[0])
  if (r.eat('?')) return r.eat('1') ? true : r.eat('0') ? false : undefined
  m = r.match(BYTES)
  if (m !== null) return Buffer.from(m[1]!, 'base64')
  m = r.match(DATE)
  if (m !== null) return Number(m[1])
  m = r.match(DISPLAY)
  return m === null ? undefined : m[1]!
}
