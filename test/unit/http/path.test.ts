/** One form of the path: no spelling opens a door that another closed. */

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { literalPath, normalisePath } from '../../../src/http/path.ts'

describe('spellings of /private are /private', () => {
  it.each([
    '/private', '//private', '///private', '/./private', '/././private', '/x/../private', '/x/y/../../private', '/../private',
    '/../../private', '/%70rivate', '/%70%72%69%76%61%74%65', '/privat%65', '/x/%2e%2e/private', '/x/%2E%2e/private', '/x/.%2e/private',
    '/x/%2e./private', '/%2e/private', '/x//../private', '/x/./../private', '/.//private', '/x/y/%2e%2e/../private',
  ])('%s', (path) => expect(normalisePath(path)).toBe('/private')) // biome-ignore format: a list
})

describe('a path that is read differently is refused', () => {
  it.each([
    '/private%2f', '/private%2F', '/x%2f..%2fprivate', '/x/..%2fprivate', '/..%2f', '/%2e%2e%2fprivate', '/x%5cprivate', '/x%5Cprivate',
    '/x\\..\\private', '\\private', '/\\private', '/x/..;/private', '/x/.;/private', '/x/..;a=b/private', '/..;', '/.;', '/x/%2e%2e;/private',
    '/x/..%3b/private', '/x/.%3B', '/x%00', '/%00', '/x%', '/x%2', '/x%zz', '/x%2g', '/%', '/%%41', '/%u0041', '/x% 1',
  ])('%s', (path) => expect(normalisePath(path)).toBeUndefined()) // biome-ignore format: a list
})

describe('other paths', () => {
  it.each([
    ['/', '/'],
    ['//', '/'],
    ['/.', '/'],
    ['/..', '/'],
    ['/a', '/a'],
    ['/a/', '/a/'],
    ['/a//', '/a/'],
    ['/a/.', '/a/'],
    ['/a/./', '/a/'],
    ['/a/..', '/'],
    ['/a/../', '/'],
    ['/a/b/..', '/a/'],
    ['/a//b', '/a/b'],
    ['/...', '/...'],
    ['/.a', '/.a'],
    ['/..a/b..', '/..a/b..'],
    ['/a./b', '/a./b'],
    ['/a;v=1/b', '/a;v=1/b'],
    ['/;/a', '/;/a'],
    ['/a;..', '/a;..'],
    ['/.well-known/x', '/.well-known/x'],
    ['/~user', '/~user'],
    ['/%7Euser', '/~user'],
    ['/%7e%2D%5f%2E1', '/~-_.1'],
    ['/%41%5a%61%7a%30', '/AZaz0'],
    ['/caf%c3%a9', '/caf%C3%A9'],
    ['/a%20b', '/a%20b'],
    ['/a%3f%23', '/a%3F%23'],
    ['/a%25', '/a%25'],
    ['/a%252f%252e', '/a%252f%252e'],
    ['/a%0d%0aX:b', '/a%0D%0AX:b'],
    ['/a+b', '/a+b'],
    ['/A/b', '/A/b'],
    ['/"<>^`{|}', '/"<>^`{|}'],
  ])('%s → %s', (path, normal) => expect(normalisePath(path)).toBe(normal))
})

describe('with escaped slashes kept', () => {
  it.each([
    ['/a%2fb', '/a%2Fb'],
    ['/a%5cb/../c', '/c'],
    ['/https%3A%2f%2Fx.test%2Fy', '/https%3A%2F%2Fx.test%2Fy'],
    ['/a%2f.b', '/a%2F.b'],
    ['/a%2f...', '/a%2F...'],
  ])('%s → %s', (path, normal) => expect(normalisePath(path, true)).toBe(normal))

  it.each([
    '/a%2f..', '/a%2f..%2fprivate', '/..%2fprivate', '/.%5c', '/a%5c%2e%2e%5cb', '/a%2f.%2fb', '/a%2f..;x', '/a\\b', '/a%00', '/..;/b',
  ])('%s is refused all the same', (path) => expect(normalisePath(path, true)).toBeUndefined()) // biome-ignore format: a list
})

describe('whatever comes', () => {
  const path = fc
    .array(
      fc.constantFrom(
        '/',
        '/',
        '.',
        '..',
        '%2e',
        '%2E',
        '%2f',
        '%5C',
        '%',
        '%41',
        '%7e',
        '%25',
        ';',
        '\\',
        'a',
        'B',
        '-',
        '%c3',
        '//',
        '%3b',
      ),
      {
        maxLength: 14,
      },
    )
    .map((parts) => `/${parts.join('')}`)

  it('the form is stable, and has no dot segment, empty segment or escape of what needs none', () => {
    let accepted = 0
    fc.assert(
      fc.property(path, fc.boolean(), (text, keepSlashes) => {
        const normal = normalisePath(text, keepSlashes)
        if (normal === undefined) return
        accepted++
        expect(normalisePath(normal, keepSlashes)).toBe(normal)
        expect(normal.startsWith('/')).toBe(true)
        expect(normal).not.toContain('//')
        expect(normal).not.toContain('\\')
        const segments = normal.split('/')
        expect(segments).not.toContain('.')
        expect(segments).not.toContain('..')
        for (const octet of normal.match(/%.{0,2}/g) ?? []) {
          expect(octet).toMatch(/^%[0-9A-F]{2}$/)
          expect(String.fromCharCode(Number.parseInt(octet.slice(1), 16))).not.toMatch(/[A-Za-z0-9\-._~]/)
        }
        // Whoever decodes all that is escaped, once more, does not climb either.
        if (!keepSlashes) expect(normal.replaceAll(/%2E/gi, '.').split('/')).not.toContain('..')
      }),
      { numRuns: 2000 },
    )
    expect(accepted).toBeGreaterThan(100)
  })

  it('it says the same as the URL standard, where that is as strict', () => {
    fc.assert(
      fc.property(
        fc.array(fc.constantFrom('/', 'a', 'b', '.', '..', '%2e', '/', 'c%20'), { maxLength: 10 }),
        (parts) => {
          const text = `/${parts.join('')}`.replaceAll(/\/{2,}/g, '/')
          expect(normalisePath(text)).toBe(new URL(text, 'http://a').pathname.replaceAll(/%2e/gi, '.'))
        },
      ),
    )
  })
})

it.each([
  ['/café', '/caf%C3%A9'],
  ['/caf%c3%a9', '/caf%C3%A9'],
  ['/a b', '/a%20b'],
  ['/%7euser/', '/~user/'],
  ['/a/../b', '/b'],
  ['/users/{id}/{rest...}', '/users/{id}/{rest...}'],
  ['/a%2fb', '/a%2Fb'],
  ['/\u{1f600}', '/%F0%9F%98%80'],
  ['/a\\b', undefined],
  ['/100%', undefined],
])('%s in the file is %s in requests', (text, path) => expect(literalPath(text)).toBe(path))
