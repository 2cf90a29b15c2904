/** Generators of what comes over a connection: sound requests, requests with one rule bent, and bytes that are neither. */

import fc from 'fast-check'

const TOKEN_CHARS = [..."!#$%&'*+-.^_`|~0123456789ABCXYZabcxyz"]

const oneOf = <T>(...values: T[]) => fc.constantFrom(...values)
const often = <T>(weight: number, usual: fc.Arbitrary<T>, other: fc.Arbitrary<T>) =>
  fc.oneof({ weight, arbitrary: usual }, { weight: 1, arbitrary: other })

export const token = fc.string({ unit: fc.constantFrom(...TOKEN_CHARS), minLength: 1, maxLength: 12 })

/** What is allowed in a value, as latin1. */
export const fieldValue = fc
  .string({ unit: often(6, oneOf(...'abc019 ,;="/'), oneOf('\t', '\x80', '\xa0', '\xff', '\\', '~')), maxLength: 24 })
  .map((value) => value.replace(/^[ \t]+|[ \t]+$/g, ''))

const ows = often(6, oneOf(' '), oneOf('', '\t', '  ', ' \t '))
const method = often(
  8,
  oneOf('GET', 'POST', 'HEAD', 'PUT', 'DELETE', 'OPTIONS', 'PATCH'),
  oneOf('get', 'M-SEARCH', 'CONNECT', 'G\0T', 'G@T', ''),
)
const target = often(
  8,
  fc.string({ unit: oneOf(...'/abc.%20?&=;~'), maxLength: 20 }).map((rest) => `/${rest}`),
  oneOf(
    '*',
    'http://x.test/p',
    'http://x.test',
    'http://u@x/',
    'a',
    '/a#b',
    '/a b',
    '/\xe4',
    '',
    '//',
    `/${'t'.repeat(63)}`,
    `/${'t'.repeat(64)}`,
  ),
)
const version = often(
  12,
  oneOf('HTTP/1.1'),
  oneOf('HTTP/1.0', 'HTTP/1.2', 'HTTP/2.0', 'HTTP/0.9', 'http/1.1', 'HTTP/1.1 ', ''),
)

const known = oneOf(
  'Host', 'Connection', 'Content-Length', 'Transfer-Encoding', 'Expect', 'Accept', 'Cookie', 'TE', 'Trailer', 'Via', 'x_y', '__proto__',
) // biome-ignore format: a list
const line = fc
  .tuple(often(2, token, known), ows, fieldValue, oneOf('', '', '', ' ', '\t'))
  .map(([name, before, value, after]) => `${name}:${before}${value}${after}`)

const oddLine = oneOf(
  'Host: a.test', 'Host: b.test', 'Host:', 'Host: a b', 'Content-Length: 0', 'Content-Length: 5', 'Content-Length: +5', 'Content-Length: 5, 5',
  'Transfer-Encoding: chunked', 'Transfer-Encoding: gzip, chunked', 'Transfer-Encoding:\x0bchunked', 'Connection: close',
  'Connection: keep-alive', 'Connection: Content-Length, x', 'Expect: 100-continue', 'X : a', ' X: a', 'X', ': a', 'X: a\rb', 'X: a\nb', 'X: a\0b', `X: ${'v'.repeat(700)}`,
) // biome-ignore format: a list

const hex = (bytes: number) =>
  fc.tuple(oneOf('', '', '', '0', '000'), fc.boolean()).map(([zeros, upper]) => {
    const digits = bytes.toString(16)
    return zeros + (upper ? digits.toUpperCase() : digits)
  })

const data = fc.string({ unit: often(6, oneOf(...'abc'), oneOf('\r', '\n', '\0', '\xff', '0')), maxLength: 40 })

const chunk = data
  .filter((text) => text !== '')
  .chain((text) => fc.tuple(hex(text.length), oneOf('', '', '', ';a', ';a=b', ';a="b c"'), fc.constant(text)))
  .map(([size, extension, text]) => `${size}${extension}\r\n${text}\r\n`)

/** A chunked body with its trailers. */
export const chunkedBody = fc
  .tuple(fc.array(chunk, { maxLength: 5 }), oneOf('0', '0', '000', '0;x'), fc.array(line, { maxLength: 3 }))
  .map(
    ([chunks, last, trailers]) => `${chunks.join('')}${last}\r\n${trailers.map((text) => `${text}\r\n`).join('')}\r\n`,
  )

/** A request that is sound, framing included. */
export const soundRequest = fc
  .tuple(
    oneOf('GET', 'POST', 'PUT', 'DELETE', 'OPTIONS', 'PATCH'),
    fc.string({ unit: oneOf(...'/abc.%20?&=;~'), maxLength: 20 }).map((rest) => `/${rest}`),
    fc.array(
      fc.tuple(
        token.filter((name) => !FRAMING.test(name)),
        ows,
        fieldValue,
      ),
      { maxLength: 6 },
    ),
    fc.oneof(
      fc.constant({ framing: '', body: '' }),
      data.map((body) => ({ framing: `Content-Length: ${body.length}\r\n`, body })),
      chunkedBody.map((body) => ({ framing: 'Transfer-Encoding: chunked\r\n', body })),
    ),
    oneOf('', '', 'Connection: keep-alive\r\n', 'Connection: foo\r\n', 'Connection: close\r\n'),
  )
  .map(([verb, path, fields, { framing, body }, connection]) => {
    const lines = fields.map(([name, before, value]) => `${name}:${before}${value}\r\n`).join('')
    return `${verb} ${path} HTTP/1.1\r\nHost: a.test\r\n${lines}${connection}${framing}\r\n${body}`
  })
const FRAMING = /^(?:host|connection|content-length|transfer-encoding|expect|upgrade|te|trailer)$/i

/** A request in which anything may be odd. */
export const oddRequest = fc
  .tuple(
    method,
    target,
    version,
    often(8, oneOf('Host: a.test\r\n'), oneOf('')),
    fc.array(often(3, line, oddLine), { maxLength: 14 }),
    often(10, oneOf('\r\n'), oneOf('\n', '\r', '\r\r\n', '')),
    fc.oneof(fc.constant(''), data, chunkedBody),
  )
  .map(([verb, path, ver, host, lines, lineEnd, body]) => {
    return `${verb} ${path} ${ver}\r\n${host}${lines.map((text) => text + lineEnd).join('')}\r\n${body}`
  })

const INTERESTING = [
  '\r',
  '\n',
  '\r\n',
  '\0',
  ' ',
  '\t',
  ':',
  ',',
  ';',
  '0',
  'a',
  '\x7f',
  '\x80',
  '\xff',
  '\r\n\r\n',
  '\r\n ',
]

/** One place of the text is replaced, removed or added to. */
function bent(text: string, at: number, kind: number, what: string): string {
  const i = text.length === 0 ? 0 : at % text.length
  if (kind === 0) return text.slice(0, i) + what + text.slice(i + 1)
  return kind === 1 ? text.slice(0, i) + text.slice(i + 1) : text.slice(0, i) + what + text.slice(i)
}

const bend = fc.tuple(fc.nat(2000), fc.nat(2), fc.constantFrom(...INTERESTING))

/** What a connection carries: some requests, perhaps with a byte changed here and there. */
export const stream = fc
  .tuple(
    fc.array(often(3, soundRequest, oddRequest), { minLength: 1, maxLength: 3 }),
    often<[number, number, string][]>(1, fc.constant([]), fc.array(bend, { minLength: 1, maxLength: 2 })),
  )
  .map(([requests, bends]) => bends.reduce((text, [at, kind, what]) => bent(text, at, kind, what), requests.join('')))

/** A chunked body, perhaps with a byte changed here and there, and what follows it. */
export const chunkedStream = fc
  .tuple(chunkedBody, fc.array(bend, { maxLength: 2 }), oneOf('', 'GET / HTTP/1.1\r\n'))
  .map(([body, bends, rest]) => bends.reduce((text, [at, kind, what]) => bent(text, at, kind, what), body + rest))

/** The head of an answer, perhaps odd. */
export const responseHead = fc
  .tuple(
    often(
      8,
      oneOf('HTTP/1.1 200 OK', 'HTTP/1.0 404 Not Found', 'HTTP/1.1 204'),
      oneOf('HTTP/1.1 99 x', 'HTTP/1.1 2000', 'HTTP/2 200', 'HTTP/1.1  200'),
    ),
    fc.array(often(3, line, oneOf('X : a', 'Content-Length \t: 5', 'Content-Length: 5', ' X: a', 'X: a\rb')), {
      maxLength: 6,
    }),
    fc.array(bend, { maxLength: 1 }),
  )
  .map(([start, lines, bends]) =>
    bends.reduce(
      (text, [at, kind, what]) => bent(text, at, kind, what),
      `${start}\r\n${lines.map((text) => `${text}\r\n`).join('')}\r\n`,
    ),
  )

/** Where to cut; each at the given byte of the text, if it has it. */
export const cuts = fc.oneof(fc.constant('bytewise' as const), fc.array(fc.nat(400), { maxLength: 8 }))

/** The text in pieces. */
export function split(text: string, at: 'bytewise' | readonly number[]): Buffer[] {
  const bytes = Buffer.from(text, 'latin1')
  const ends = at === 'bytewise' ? bytes.keys().map((i) => i + 1) : [...at, bytes.length].sort((a, b) => a - b)
  const pieces: Buffer[] = []
  let start = 0
  for (const end of ends) {
    if (end <= start || end > bytes.length) continue
    pieces.push(bytes.subarray(start, end))
    start = end
  }
  return pieces
}
