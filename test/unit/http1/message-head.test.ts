/** The head parser, rule by rule (RFC 9112 §2–§5, RFC 9110 §5). The same rules over sockets: test/conformance/head.test.ts. */

import { describe, expect, it } from 'vitest'
import { FIELD_ID } from '../../../src/http1/field-names.ts'
import {
  type HeadLimits,
  headFromText,
  MessageHead,
  NEED_MORE,
  PARSED,
  REFUSED,
} from '../../../src/http1/message-head.ts'

const LIMITS: HeadLimits = { headBytes: 4096, fields: 20, targetBytes: 1024 }

function parse(text: string, kind: 'request' | 'response' = 'request', limits = LIMITS) {
  const head = new MessageHead(kind)
  const bytes = Buffer.from(text, 'latin1')
  return { result: head.parse(bytes, 0, bytes.length, limits), head }
}

function fields(head: MessageHead): [string, string][] {
  return Array.from({ length: head.fieldCount }, (_, i) => [head.nameAt(i), head.valueAt(i)])
}

function refusal(text: string, kind: 'request' | 'response' = 'request', limits = LIMITS): string {
  const { result, head } = parse(text, kind, limits)
  expect(result, JSON.stringify(text)).toBe(REFUSED)
  return head.error!.kind
}

const withLine = (line: string) => `GET / HTTP/1.1\r\nHost: a.test\r\n${line}\r\n\r\n`

describe('a request head', () => {
  it('gives method, target, version and fields', () => {
    const text = 'PATCH /a?b=c HTTP/1.1\r\nHost: a.test\r\nX-Own: 1\r\nx-own:2 \r\nEmpty:\r\n\r\n'
    const { result, head } = parse(`${text}rest`)
    expect(result).toBe(PARSED)
    expect([head.method, head.target, head.minorVersion]).toEqual(['PATCH', '/a?b=c', 1])
    expect(fields(head)).toEqual([['host', 'a.test'], ['x-own', '1'], ['x-own', '2'], ['empty', '']]) // biome-ignore format: a table
    expect(head.byteLength).toBe(text.length)
    expect(head.rawNameAt(1)).toBe('X-Own')
  })

  it('without fields is complete', () => {
    const { result, head } = parse('GET / HTTP/1.0\r\n\r\n')
    expect([result, head.fieldCount, head.minorVersion]).toEqual([PARSED, 0, 0])
  })

  it.each([
    '',
    'G',
    'GET ',
    'GET / HTTP/1.1',
    'GET / HTTP/1.1\r',
    'GET / HTTP/1.1\r\nA',
    'GET / HTTP/1.1\r\nA:',
    'GET / HTTP/1.1\r\nA: b\r\n\r',
  ])('%j needs more', (text) => expect(parse(text).result).toBe(NEED_MORE))

  it('is read from the middle of a buffer', () => {
    const head = new MessageHead('request')
    const bytes = Buffer.from('junkGET /x HTTP/1.1\r\nHost: a.test\r\n\r\njunk')
    expect(head.parse(bytes, 4, bytes.length, LIMITS)).toBe(PARSED)
    expect([head.target, head.valueAt(0), head.byteLength]).toEqual(['/x', 'a.test', bytes.length - 8])
  })

  it('leaves nothing behind for the next one', () => {
    const head = new MessageHead('request')
    const read = (text: string) => head.parse(Buffer.from(text), 0, text.length, LIMITS)
    expect(read('POST /long HTTP/1.0\r\nHost: a\r\nCookie: secret\r\n\r\n')).toBe(PARSED)
    head.reset()
    expect(read('GET / HTTP/1.1\r\nHost: b\r\n\r\n')).toBe(PARSED)
    expect([head.method, head.target, head.minorVersion, head.fieldCount]).toEqual(['GET', '/', 1, 1])
    expect(head.value(FIELD_ID.cookie)).toBeUndefined()
    head.reset()
    expect(read('@')).toBe(REFUSED)
    expect([head.minorVersion, head.fieldCount, head.error?.kind]).toEqual([1, 0, 'bad'])
  })
})

describe('every byte', () => {
  const all = Array.from({ length: 256 }, (_, c) => String.fromCharCode(c))
  const token = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]$/
  const accepted = (text: (char: string) => string) => all.filter((char) => parse(text(char)).result === PARSED)

  it('of a method: tokens without small letters', () => {
    expect(accepted((c) => `A${c}A / HTTP/1.1\r\n\r\n`)).toEqual(all.filter((c) => token.test(c) && !/[a-z]/.test(c)))
  })

  it('of a target: visible ASCII but #', () => {
    // A space ends the target and spoils what follows.
    expect(accepted((c) => `GET /${c}A HTTP/1.1\r\n\r\n`)).toEqual(all.filter((c) => /^[!-~]$/.test(c) && c !== '#'))
  })

  it('of a name: tokens', () => {
    // A colon ends the name.
    expect(accepted((c) => `GET / HTTP/1.1\r\nX${c}Y: 1\r\n\r\n`)).toEqual(
      all.filter((c) => token.test(c) || c === ':'),
    )
  })

  it('of a value: HTAB, SP, visible ASCII and bytes beyond', () => {
    expect(accepted((c) => `GET / HTTP/1.1\r\nX: a${c}b\r\n\r\n`)).toEqual(
      all.filter((c) => /^[\t -~\x80-\xff]$/.test(c)),
    )
  })

  it('of a reason: the same as of a value', () => {
    const ok = all.filter((c) => parse(`HTTP/1.1 200 a${c}b\r\n\r\n`, 'response').result === PARSED)
    expect(ok).toEqual(all.filter((c) => /^[\t -~\x80-\xff]$/.test(c)))
  })
})

describe('a request head is refused', () => {
  it.each([
    ['a bare LF ends the request line', 'GET / HTTP/1.1\nHost: a\r\n\r\n'],
    ['a bare LF ends a field', 'GET / HTTP/1.1\r\nHost: a\n\r\n'],
    ['a bare LF ends the head', 'GET / HTTP/1.1\r\nHost: a\r\n\n'],
    ['a bare CR ends the request line', 'GET / HTTP/1.1\rHost: a\r\n\r\n'],
    ['a bare CR ends a field', 'GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n'],
    ['CR x ends the head', 'GET / HTTP/1.1\r\nHost: a\r\n\rx'],
    ['CR CR LF', 'GET / HTTP/1.1\r\nHost: a\r\r\n\r\n'],
    ['an empty line in front', '\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n'],
    ['obs-fold by a space', withLine('X: a\r\n b')],
    ['obs-fold by a tab', withLine('X: a\r\n\tb')],
    ['white space in front of the first field', 'GET / HTTP/1.1\r\n Host: a\r\n\r\n'],
    ['a space before the colon', withLine('X : a')],
    ['a tab before the colon', withLine('X\t: a')],
    ['no colon', withLine('X')],
    ['no name', withLine(': a')],
    ['no method', ' / HTTP/1.1\r\n\r\n'],
    ['a method of small letters', 'get / HTTP/1.1\r\n\r\n'],
    ['a method of 33 bytes', `${'M'.repeat(33)} / HTTP/1.1\r\n\r\n`],
    ['no target', 'GET  HTTP/1.1\r\n\r\n'],
    ['two spaces behind the target', 'GET /  HTTP/1.1\r\n\r\n'],
    ['HTTP/0.9', 'GET /\r\n\r\n'],
    ['a version in small letters', 'GET / http/1.1\r\n\r\n'],
    ['bytes behind the version', 'GET / HTTP/1.1 \r\n\r\n'],
    ['two digits behind the dot', 'GET / HTTP/1.10\r\n\r\n'],
    ['a response', 'HTTP/1.1 200 OK\r\n\r\n'],
  ])('%s', (_title, text) => expect(refusal(text)).toBe('bad'))

  it.each(['HTTP/2.0', 'HTTP/1.2', 'HTTP/0.9', 'HTTP/3', 'HTTP/11'])('version %s is told apart', (version) => {
    expect(refusal(`GET / ${version}\r\n\r\n`)).toBe('version')
  })

  it('a method of 32 bytes passes', () => {
    expect(parse(`${'M'.repeat(32)} / HTTP/1.1\r\n\r\n`).result).toBe(PARSED)
  })
})

describe('limits', () => {
  const ofBytes = (bytes: number) => {
    const start = 'GET / HTTP/1.1\r\nX: '
    return `${start}${'a'.repeat(bytes - start.length - 4)}\r\n\r\n`
  }
  const ofFields = (n: number) => `GET / HTTP/1.1\r\n${'X: a\r\n'.repeat(n)}\r\n`
  const ofTarget = (bytes: number) => `GET /${'a'.repeat(bytes - 1)} HTTP/1.1\r\n\r\n`

  it('of the head: exactly passes, one more is refused', () => {
    expect(ofBytes(4096)).toHaveLength(4096)
    expect(parse(ofBytes(4096)).result).toBe(PARSED)
    expect(refusal(ofBytes(4097))).toBe('headTooLarge')
  })

  it('of the head: refused as soon as it cannot end any more', () => {
    expect(parse(ofBytes(5000).slice(0, 4095)).result).toBe(NEED_MORE)
    expect(refusal(ofBytes(5000).slice(0, 4096))).toBe('headTooLarge')
  })

  it('of the fields: exactly passes, one more is refused', () => {
    expect(parse(ofFields(20)).result).toBe(PARSED)
    expect(refusal(ofFields(21))).toBe('headTooLarge')
  })

  it('of the target: exactly passes, one more is refused', () => {
    expect(parse(ofTarget(1024)).result).toBe(PARSED)
    expect(refusal(ofTarget(1025))).toBe('targetTooLong')
    expect(refusal(ofTarget(1025).slice(0, 4 + 1025))).toBe('targetTooLong')
  })

  it('of the target may be larger than the head', () => {
    expect(refusal(ofTarget(5000), 'request', { ...LIMITS, targetBytes: 1 << 20 })).toBe('targetTooLong')
  })

  it('many fields make room', () => {
    const { result, head } = parse(ofFields(500), 'request', { ...LIMITS, fields: 500 })
    expect([result, head.fieldCount, head.valueAt(499)]).toEqual([PARSED, 500, 'a'])
  })
})

describe('a response head', () => {
  it.each([
    ['HTTP/1.1 200 OK', 200],
    ['HTTP/1.0 404 Not Found', 404],
    ['HTTP/1.1 204 ', 204],
    ['HTTP/1.1 204', 204],
    ['HTTP/1.1 599 \xfcber', 599],
    ['HTTP/1.1 100 Continue', 100],
  ])('%j has status %i', (line, status) => {
    const { result, head } = parse(`${line}\r\n\r\n`, 'response')
    expect([result, head.status]).toEqual([PARSED, status])
  })

  it.each([
    'HTTP/1.1 99 x',
    'HTTP/1.1 600 x',
    'HTTP/1.1 099 x',
    'HTTP/1.1 2000 x',
    'HTTP/1.1 20 x',
    'HTTP/1.1 200OK',
    'HTTP/1.1 +20 x',
    'HTTP/1.1  200 x',
    'HTTP/1.1\t200 x',
    'HTTP/1.1 200 a\rb',
    'HTTP/1.1 200 a\nb',
    'HTTP 200 OK',
    'ICY 200 OK',
  ])('%j is refused', (line) => expect(refusal(`${line}\r\n\r\n`, 'response')).toBe('bad'))

  it('may have white space before the colon, which goes (RFC 9112 §5.1)', () => {
    const { result, head } = parse('HTTP/1.1 200 OK\r\nContent-Length \t: 5\r\nX :a\r\n\r\n', 'response')
    expect(result).toBe(PARSED)
    expect(head.value(FIELD_ID['content-length'])).toBe('5')
    expect(head.fieldLines(new Uint8Array(256), false, null, null)).toBe('Content-Length: 5\r\nX: a\r\n')
    expect(refusal('HTTP/1.1 200 OK\r\nX y: 5\r\n\r\n', 'response')).toBe('bad')
  })

  it('has no limit of the target', () => {
    expect(parse('HTTP/1.1 200 OK\r\n\r\n', 'response', { ...LIMITS, targetBytes: 0 }).result).toBe(PARSED)
  })
})

describe('fields', () => {
  const head = headFromText(
    'request',
    'GET / HTTP/1.1\r\nHOST: a\r\nAccept: x\r\nX-Two: 1\r\naccept:  y \r\nCookie: a=1\r\nx_y: u\r\nx-two: 2\r\ncookie: b=2\r\n__proto__: p\r\n\r\n',
  )

  it('are found by id in any case; several lines are one list, cookies one cookie string', () => {
    expect(head.value(FIELD_ID.host)).toBe('a')
    expect(head.value(FIELD_ID.accept)).toBe('x, y')
    expect(head.value(FIELD_ID.cookie)).toBe('a=1; b=2')
    expect(head.value(FIELD_ID.range)).toBeUndefined()
    expect(head.indexOf(FIELD_ID.accept)).toBe(1)
    expect(head.indexOf(FIELD_ID.accept, 2)).toBe(3)
    expect(head.indexOf(FIELD_ID.accept, 4)).toBe(-1)
  })

  it('are found by name, known or not', () => {
    expect(head.get('x-two')).toBe('1, 2')
    expect(head.get('accept')).toBe('x, y')
    expect(head.get('__proto__')).toBe('p')
    expect(head.get('constructor')).toBeUndefined()
    expect(head.getAll('x-two')).toEqual(['1', '2'])
    expect(head.getAll('cookie')).toEqual(['a=1', 'b=2'])
    expect(head.getAll('x-three')).toEqual([])
  })

  it('go on as they are meant, but for what stays behind', () => {
    const drop = new Uint8Array(256)
    drop[FIELD_ID.host] = drop[FIELD_ID.cookie] = 1
    expect(head.fieldLines(drop, true, null, null)).toBe('Accept: x\r\nX-Two: 1\r\naccept: y\r\nx-two: 2\r\n')
    expect(head.fieldLines(drop, false, new Set(['x-two', 'accept']), null)).toBe('x_y: u\r\n__proto__: p\r\n')
    expect(head.fieldLines(new Uint8Array(256).fill(1, 1), true, new Set(['x-two']), null)).toBe('')
  })

  it('keep the bytes beyond ASCII', () => {
    const own = headFromText('request', 'GET / HTTP/1.1\r\nX: \xfc\xff\r\n\r\n')
    expect(own.valueAt(0)).toBe('\xfc\xff')
  })

  it('lose spaces and tabs around the value, nothing else', () => {
    const own = headFromText('request', 'GET / HTTP/1.1\r\nX: \t \xa0a b\xa0 \t\r\n\r\n')
    expect(own.valueAt(0)).toBe('\xa0a b\xa0')
    expect(own.fieldLines(new Uint8Array(256), false, null, null)).toBe('X: \xa0a b\xa0\r\n')
  })
})
