/**
 * Every parser of a field or a header that clients, proxies and services write: none throws, each result is sound, and
 * sixteen kilobytes of the worst that its own alphabet can do cost little (no backtracking, nothing quadratic).
 */

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { normaliseAcceptEncoding, pickEncoding } from '../../src/http/accept-encoding.ts'
import { type CacheControl, parseCacheControl, parseTargetedCacheControl } from '../../src/http/cache-control.ts'
import { compileTrustedProxies, normalizeAddress, parseCidr } from '../../src/http/client-address.ts'
import { ifRangeHolds, matchesEntityTag } from '../../src/http/conditional.ts'
import type { FieldLine } from '../../src/http/field-lines.ts'
import { parseHttpDate } from '../../src/http/http-date.ts'
import { normalisePath } from '../../src/http/path.ts'
import { parseRange } from '../../src/http/range.ts'
import { parseDictionary } from '../../src/http/structured-fields.ts'
import { normaliseField, parseVary, variantKey } from '../../src/http/vary.ts'
import { isAuthority, listTokens, parseLength } from '../../src/http1/framing.ts'
import { parseProxyHeader } from '../../src/listener/proxy-protocol.ts'
import { jsonText, plainText, redactQuery, redactUrl } from '../../src/observability/log-text.ts'
import { parseDeadline, parseGrpcTimeout } from '../../src/policies/admission/deadline.ts'
import { withoutParameters } from '../../src/policies/auth/credentials.ts'
import { tagsOf } from '../../src/policies/cache/entry.ts'
import { proxyHeader } from '../../src/upstream/proxy-header.ts'
import { parseRetryAfter } from '../../src/upstream/retry.ts'
import { FUZZ_TIMEOUT_MS, parameters } from './runs.ts'

const HOSTILE_BYTES = 16 * 1024
const MAX_CPU_MS = 50
const OFFERED = ['zstd', 'br', 'gzip']
const trusted = compileTrustedProxies(['10.0.0.0/8', '::1'])

/** Text of these pieces and some that belong to nobody. */
const textOf = (...pieces: string[]) =>
  fc.oneof(
    { weight: 4, arbitrary: fc.array(fc.constantFrom(...pieces), { maxLength: 24 }).map((list) => list.join('')) },
    { weight: 1, arbitrary: fc.string({ unit: 'binary', maxLength: 40 }) },
  )

/** Name, what it is made of, and what must hold of what it gives. */
const parsers: [name: string, pieces: string[], check: (text: string) => void][] = [
  [
    'Cache-Control',
    [
      'max-age',
      's-maxage',
      'no-cache',
      'private',
      'stale-if-error',
      '=',
      '"',
      '\\',
      ',',
      ' ',
      '\t',
      '60',
      '-1',
      '1e9',
      '9'.repeat(30),
      'a',
      ';',
    ],
    (text) => {
      const cc = parseCacheControl(text)
      for (const name of [
        'maxAge',
        'sMaxAge',
        'minFresh',
        'maxStale',
        'staleIfError',
      ] satisfies (keyof CacheControl)[]) {
        const value = cc[name]
        if (value !== undefined) expect(value).toBeGreaterThanOrEqual(0)
      }
    },
  ],
  [
    'CDN-Cache-Control',
    [
      'max-age',
      'private',
      'a',
      '*',
      '=',
      '?1',
      '?0',
      '"',
      '\\',
      '(',
      ')',
      ':',
      'YQ==',
      ';',
      ',',
      ' ',
      '1.5',
      '-1',
      '9'.repeat(20),
      '@1',
      '%"',
    ],
    (text) => {
      const members = parseDictionary(text)
      if (members === undefined) expect(parseTargetedCacheControl(text)).toBeUndefined()
      else parseTargetedCacheControl(text)
    },
  ],
  [
    'Vary and tags',
    ['accept', 'Accept-Language', '\t'.repeat(50), '*', ',', ' ', '\t', ';', '__proto__', '"', 'x'],
    (text) => {
      const names = parseVary(text)
      if (names === '*') return
      expect(new Set(names).size).toBe(names.length)
      expect(parseVary(names.join(','))).toEqual(names)
      variantKey(names, () => text)
      for (const name of ['accept-encoding', 'accept-language', 'x']) normaliseField(name, text)
      tagsOf([
        { name: 'cache-tag', value: text, line: '' },
        { name: 'surrogate-key', value: text, line: '' },
      ] as FieldLine[])
    },
  ],
  [
    'Accept-Encoding',
    ['gzip', 'br', 'zstd', 'x-gzip', 'identity', '*', ';', 'q', '=', '0', '1', '.5', '.000', ',', ' ', 'Q=', '\t', 'a'],
    (text) => {
      const picked = pickEncoding(text, OFFERED)
      expect([...OFFERED, 'identity']).toContain(picked)
      const normal = normaliseAcceptEncoding(text)
      expect(normaliseAcceptEncoding(normal)).toBe(normal)
    },
  ],
  [
    'Range',
    ['bytes', '=', '-', '0', '5', '99', ',', ' ', '9'.repeat(16), 'x', '\t'],
    (text) => {
      for (const length of [0, 1, 100]) {
        const range = parseRange(text, length)
        if (range === undefined || range === 'unsatisfiable') continue
        expect(range.start).toBeLessThanOrEqual(range.end)
        expect(range.start).toBeGreaterThanOrEqual(0)
        expect(range.end).toBeLessThan(length)
      }
    },
  ],
  [
    'a path',
    ['/', '.', '..', '%2e', '%2E', '%2f', '%5c', '\\', ';', '%', '%00', '%zz', 'a', '%61', '%25', '%252e', '//'],
    (text) => {
      const path = normalisePath(`/${text}`)
      if (path === undefined) return
      expect(path.startsWith('/')).toBe(true)
      expect(path).not.toMatch(/\/\/|\/\.\.?(?:\/|$)|%2f|%5c|%2e|%00|\\/i)
      expect(normalisePath(path), 'normal stays as it is').toBe(path)
    },
  ],
  [
    'addresses',
    ['10.0.0.1', '1', '.', ':', '::', 'ffff', '%', '/', '8', '129', ',', ' ', '[', ']', '999', '0x1', '"'],
    (text) => {
      const address = normalizeAddress(text)
      if (address !== undefined) expect(normalizeAddress(address)).toBe(address)
      parseCidr(text)
      normalizeAddress(trusted.clientAddress('10.0.0.1', text))
      trusted.isTrusted(text)
    },
  ],
  [
    'entity tags',
    ['"', 'W/', 'w/', 'a', ',', ' ', '*', '\\', '""'],
    (text) => {
      matchesEntityTag(text, '"a"')
      ifRangeHolds(text, { etag: '"a"', lastModified: undefined, modifiedMs: 0 })
    },
  ],
  [
    'dates',
    ['Sun', 'Sunday', ',', ' ', '06', '-', 'Nov', '1994', '94', ':', '08:49:37', 'GMT', '99', '\t'],
    (text) => {
      const ms = parseHttpDate(text, Date.UTC(2026, 0, 1))
      expect(Number.isNaN(ms) || Number.isFinite(ms)).toBe(true)
      expect(parseRetryAfter(text, 0)).toBeGreaterThanOrEqual(-1)
    },
  ],
  [
    'lengths, lists and authorities',
    ['0', '5', '+', '-', ',', ' ', 'x', '\t', '9'.repeat(17), 'a.test', ':', '[::1]', '@', '80', 'close', '"'],
    (text) => {
      const length = parseLength(text)
      if (length >= 0) expect(text.trim()).toMatch(/^\d+$/)
      listTokens(text)
      isAuthority(text)
      parseGrpcTimeout(text)
      parseDeadline(text)
    },
  ],
  [
    'queries in a log',
    ['token', 'a', '=', '&', ';', '%', '%74', '?', '[', ']', '+', 'password', 'secret-value', '#'],
    (text) => {
      redactQuery(`?${text}`)
      redactUrl(text)
      withoutParameters(`?${text}`, new Set(['token']))
      expect(redactQuery(`?token=canary&${text}`)).not.toContain('canary')
    },
  ],
  [
    'text in a log',
    ['a', '"', '\\', '\n', '\r', '\0', '\x1b', '\x7f', '\x9b', '\u2028', 'é', '\ud800', '{', '}'],
    (text) => {
      const json = jsonText(text)
      if (text.length <= 2048) expect(JSON.parse(json)).toBe(text)
      for (const one of [json, plainText(text)]) {
        for (const char of one) {
          const code = char.codePointAt(0)!
          if (code < 32 || (code > 126 && code < 160)) expect(code, 'a control character in a line').toBe(32)
        }
      }
    },
  ],
]

/** What was found once: a text that cost much, as first, repeated and last. */
const KEPT = [
  // Quoted strings that nothing ends, one behind the other.
  ['', ',\\"', ''],
  ['', '\\",max-age', ''],
  // Names that cannot be decoded.
  ['', '=&%=', ''],
  ['', '&%ff=', ''],
] as const

describe.each(parsers)('%s', (_name, pieces, check) => {
  it('is read without a fault, whatever it holds', { timeout: FUZZ_TIMEOUT_MS }, () => {
    fc.assert(fc.property(textOf(...pieces), check), parameters(300))
  })

  it('costs little, however long', { timeout: FUZZ_TIMEOUT_MS }, () => {
    const cost = (first: string, repeated: string, last: string) => {
      const text = first + repeated.repeat(Math.ceil(HOSTILE_BYTES / repeated.length)) + last
      expect(
        cpuMs(() => check(text)),
        JSON.stringify([first, repeated, last]),
      ).toBeLessThan(MAX_CPU_MS)
    }
    // A run of one piece is what backtracking meets most often.
    for (const piece of new Set([...pieces, ' ', '\t', 'a'])) cost('a', piece, 'a')
    for (const [first, repeated, last] of KEPT) cost(first, repeated, last)
    const pattern = fc.tuple(
      fc.array(fc.constantFrom(...pieces), { maxLength: 3 }).map((list) => list.join('')),
      fc.array(fc.constantFrom(...pieces), { minLength: 1, maxLength: 4 }).map((list) => list.join('')),
      fc.array(fc.constantFrom(...pieces, '\x01'), { maxLength: 3 }).map((list) => list.join('')),
    )
    fc.assert(
      fc.property(pattern, ([first, repeated, last]) => cost(first, repeated, last)),
      parameters(15, 0.02),
    )
  })
})

/** CPU time of the process, the least of a few: what else runs on the machine does not count. */
function cpuMs(work: () => void): number {
  let least = Number.POSITIVE_INFINITY
  for (let i = 0; i < 3 && least >= MAX_CPU_MS; i++) {
    const before = process.cpuUsage()
    work()
    const { user, system } = process.cpuUsage(before)
    least = Math.min(least, (user + system) / 1000)
  }
  return least
}

describe('a PROXY header', () => {
  const address = fc.oneof(fc.ipV4(), fc.constantFrom('::1', '2001:db8::5', 'fe80::1'))
  const port = fc.integer({ min: 0, max: 65_535 })
  const sound = fc
    .tuple(fc.constantFrom<'v1' | 'v2'>('v1', 'v2'), address, port, address, port)
    .map(([version, source, sourcePort, destination, destinationPort]) => ({
      header: proxyHeader(version, { source, sourcePort, destination, destinationPort }),
      same: source.includes(':') === destination.includes(':'),
      source,
      sourcePort,
    }))
  const bent = fc
    .tuple(sound, fc.array(fc.tuple(fc.nat(60), fc.nat(255)), { maxLength: 3 }), fc.uint8Array({ maxLength: 20 }))
    .map(([{ header }, changes, more]) => {
      const bytes = Buffer.concat([header, more])
      for (const [at, value] of changes) if (at < bytes.length) bytes[at] = value
      return bytes
    })

  it('as we write it is read as it was meant, and what follows is left alone', { timeout: FUZZ_TIMEOUT_MS }, () => {
    fc.assert(
      fc.property(sound, fc.uint8Array({ maxLength: 20 }), ({ header, same, source, sourcePort }, more) => {
        const read = parseProxyHeader(Buffer.concat([header, more]))
        expect(read?.length).toBe(header.length)
        if (same) expect([read?.address, read?.port]).toEqual([normalizeAddress(source), sourcePort])
      }),
      parameters(300),
    )
  })

  it('gives the same however its bytes arrive, and never reads beyond its end', { timeout: FUZZ_TIMEOUT_MS }, () => {
    fc.assert(
      fc.property(
        fc.oneof(
          bent,
          fc.uint8Array({ maxLength: 120 }).map((bytes) => Buffer.from(bytes)),
        ),
        (bytes) => {
          const whole = parseProxyHeader(bytes)
          for (let n = 0; n <= bytes.length; n++) {
            const part = parseProxyHeader(bytes.subarray(0, n))
            if (part !== undefined) expect(part).toEqual(whole)
          }
          if (whole) expect(whole.length).toBeLessThanOrEqual(bytes.length)
        },
      ),
      parameters(300),
    )
  })
})
