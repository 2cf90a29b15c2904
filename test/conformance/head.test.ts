/** Request line, fields, Host, target and the limits of a head (RFC 9112 §2–§5, RFC 9110 §4, §5, §7.2). */

import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { field } from '../support/messages.ts'
import { expectForwarded, expectRefused, expectUntouchedUpstream, type Pair, startPair } from '../support/pair.ts'
import { send } from '../support/raw-client.ts'

let pair: Pair
beforeAll(async () => {
  pair = await startPair({
    routes: [{ match: { pathPrefix: '/private' }, respond: { status: 403, body: 'private' } }],
    server: { limits: { headerBytes: '16KiB', headers: 100, uriBytes: '8KiB' } },
  })
})
afterAll(() => pair?.close())

const get = (target: string, fields = '') => `GET ${target} HTTP/1.1\r\nHost: a.test\r\n${fields}\r\n`
const host = (lines: string) => `GET /p HTTP/1.1\r\n${lines}\r\n`

describe('a malformed head is refused', () => {
  it.each([
    ['a space before the colon', get('/', 'Foo : 1\r\n')],
    ['a tab before the colon', get('/', 'Foo\t: 1\r\n')],
    ['a space in a name', get('/', 'Fo o: 1\r\n')],
    ['no name', get('/', ': 1\r\n')],
    ['no colon', get('/', 'Foo\r\n')],
    ['a first line that begins with a space', 'GET / HTTP/1.1\r\n X: 1\r\nHost: a.test\r\n\r\n'],
    ['obs-fold', get('/', 'X: a\r\n b\r\n')],
    ['obs-fold with a tab', get('/', 'X: a\r\n\tb\r\n')],
    ['a bare CR in a value', get('/', 'X: a\rb\r\n')],
    ['a bare LF in a value', get('/', 'X: a\nY: b\r\n')],
    ['a NUL in a value', get('/', 'X: a\x00b\r\n')],
    ['DEL in a value', get('/', 'X: a\x7fb\r\n')],
    ['a bell in a value', get('/', 'X: a\x07b\r\n')],
    ['a NUL in a name', get('/', 'X\x00: a\r\n')],
    ['a byte beyond ASCII in a name', get('/', 'X\xe9: a\r\n')],
    ['a delimiter in a name', get('/', 'X(y): a\r\n')],
    ['lines that end in LF', 'GET / HTTP/1.1\nHost: a.test\n\n'],
    ['an LF behind the request line', 'GET / HTTP/1.1\nHost: a.test\r\n\r\n'],
    ['an LF for the empty line', 'GET / HTTP/1.1\r\nHost: a.test\r\n\nGET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n'],
    ['CR CR LF at the end', 'GET / HTTP/1.1\r\nHost: a.test\r\r\n\r\n'],
    ['CR X for the empty line', 'GET / HTTP/1.1\r\nHost: a.test\r\n\rXGET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n'],
    ['a small method', 'get / HTTP/1.1\r\nHost: a.test\r\n\r\n'],
    ['a method that is no token', 'G@T / HTTP/1.1\r\nHost: a.test\r\n\r\n'],
    ['a method of 33 bytes', `${'A'.repeat(33)} / HTTP/1.1\r\nHost: a.test\r\n\r\n`],
    ['no method', ' / HTTP/1.1\r\nHost: a.test\r\n\r\n'],
    ['two spaces behind the method', 'GET  / HTTP/1.1\r\nHost: a.test\r\n\r\n'],
    ['two spaces behind the target', 'GET /  HTTP/1.1\r\nHost: a.test\r\n\r\n'],
    ['a tab behind the method', 'GET\t/ HTTP/1.1\r\nHost: a.test\r\n\r\n'],
    ['HTTP/0.9', 'GET /\r\n\r\n'],
    ['a space behind the version', 'GET / HTTP/1.1 \r\nHost: a.test\r\n\r\n'],
    ['a version in small letters', 'GET / http/1.1\r\nHost: a.test\r\n\r\n'],
    ['a version without a dot', 'GET / HTTP/11\r\nHost: a.test\r\n\r\n'],
    ['another protocol', 'GET / ICAP/1.0\r\nHost: a.test\r\n\r\n'],
    ['no target', 'GET HTTP/1.1\r\nHost: a.test\r\n\r\n'],
    ['TLS on a plain port', '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03'],
    ['an answer instead of a request', 'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n'],
  ])('%s', async (_title, text) => {
    await expectRefused(pair, text, 400)
  })

  it.each(['HTTP/2.0', 'HTTP/1.2', 'HTTP/3.0', 'HTTP/0.9', 'HTTP/1.10'])('the version %s', async (version) => {
    await expectRefused(pair, `GET / ${version}\r\nHost: a.test\r\n\r\n`, 400, 505)
  })
})

describe('Host', () => {
  it.each([
    ['none', ''],
    ['two', 'Host: a.test\r\nHost: b.test\r\n'],
    ['the same twice', 'Host: a.test\r\nHost: a.test\r\n'],
    ['two, differently written', 'Host: a.test\r\nhOST: b.test\r\n'],
    ['empty', 'Host:\r\n'],
    ['with a space', 'Host: a b\r\n'],
    ['with userinfo', 'Host: u@a.test\r\n'],
    ['with userinfo and password', 'Host: u:p@a.test\r\n'],
    ['a list', 'Host: a.test, b.test\r\n'],
    ['with a path', 'Host: a.test/x\r\n'],
    ['with a query', 'Host: a.test?x\r\n'],
    ['with a fragment', 'Host: a.test#x\r\n'],
    ['with a backslash', 'Host: a.test\\x\r\n'],
    ['with a port that is no number', 'Host: a.test:x\r\n'],
    ['with two ports', 'Host: a.test:80:80\r\n'],
    ['with half an IPv6 address', 'Host: [::1\r\n'],
    ['with a byte beyond ASCII', 'Host: \xe9.test\r\n'],
    ['with a scheme', 'Host: http://a.test\r\n'],
  ])('%s: refused', async (_title, lines) => {
    await expectRefused(pair, host(lines), 400)
  })

  it.each(['a.test', 'a.test:8080', 'A.Test', '127.0.0.1:80', '[::1]:8080', 'a-b.test', 'xn--bcher-kva.test'])(
    '%s is kept for the upstream',
    async (value) => {
      const request = await expectForwarded(pair, host(`Host: ${value}\r\n`))
      expect(request.fields.filter(([name]) => name.toLowerCase() === 'host')).toHaveLength(1)
      expect(field(request, 'host')?.toLowerCase()).toBe(value.toLowerCase())
    },
  )

  it('may be missing in HTTP/1.0; the upstream gets one all the same', async () => {
    const request = await expectForwarded(pair, 'GET /p HTTP/1.0\r\n\r\n')
    expect(request.startLine).toBe('GET /p HTTP/1.1')
    expect(request.fields.filter(([name]) => name.toLowerCase() === 'host')).toHaveLength(1)
  })
})

describe('the request-target', () => {
  it.each([
    ['http://x.test/p', '/p', 'x.test'],
    ['http://x.test:81/p?q=1', '/p?q=1', 'x.test:81'],
    ['http://x.test', '/', 'x.test'],
    ['http://x.test?q', '/?q', 'x.test'],
    ['HTTP://x.test/p', '/p', 'x.test'],
  ])('%s counts, not the Host field (RFC 9112 §3.2.2)', async (target, path, authority) => {
    const request = await expectForwarded(pair, get(target))
    expect([request.target, field(request, 'host')]).toEqual([path, authority])
  })

  it.each([
    '*',
    'p',
    '?q',
    '/a b',
    '/a\tb',
    '/a\x80',
    '/caf\xe9',
    '/a#frag',
    '#',
    'http:///p',
    'http://u@x.test/p',
    'http://x.test:x/p',
    'http:/x.test/p',
    'ftp://x.test/p',
    'javascript:alert(1)',
    'x.test:443',
  ])('%j is refused', async (target) => {
    await expectRefused(pair, get(target), 400)
  })
})

describe('one path is matched and forwarded', () => {
  it.each([
    ['/a/../b', '/b'],
    ['/a/./b', '/a/b'],
    ['/a//b', '/a/b'],
    ['//a', '/a'],
    ['//evil.test/x', '/evil.test/x'],
    ['/a///b//', '/a/b/'],
    ['/%61%2D%7e', '/a-~'],
    ['/a/%2e%2E/b', '/b'],
    ['/a/.%2e/b', '/b'],
    ['/a/%2e/b', '/a/b'],
    ['/..', '/'],
    ['/../../x', '/x'],
    ['/a/..', '/'],
    ['/a/.', '/a/'],
    ['/a/b/../', '/a/'],
    ['/a;v=1', '/a;v=1'],
    ['/a%20b', '/a%20b'],
    ['/a%3Fb', '/a%3Fb'],
    ['/a%23b', '/a%23b'],
    ['/a%25b', '/a%25b'],
    ['/a%252fb', '/a%252fb'],
    ['/a?x=/../%2f%5c%00//', '/a?x=/../%2f%5c%00//'],
    ['/a??', '/a??'],
    ['/a?', '/a?'],
    ['/...', '/...'],
    ['/.a/..b/c..', '/.a/..b/c..'],
  ])('%s → %s', async (target, forwarded) => {
    expect((await expectForwarded(pair, get(target))).target).toBe(forwarded)
  })

  it.each([
    '/a%2fb',
    '/a%2Fb',
    '/a%5cb',
    '/a%5Cb',
    '/a\\b',
    '/a%00b',
    '/a/..;/b',
    '/a/.;/b',
    '/a/..;x=1/b',
    '/a/%2e%2e;/b',
    '/a/..%2fb',
    '/%2e%2e%2fb',
    '/a/..;',
  ])('%s is refused', async (target) => {
    await expectRefused(pair, get(target), 400)
  })

  it.each([
    '/private',
    '/public/%2e%2e/private',
    '/public/../private',
    '//private',
    '/./private',
    '/%70rivate',
    '/private/',
    '/private/x',
    '/public/x/../../private/y',
    'http://a.test/private',
    'http://a.test//private',
  ])('%s reaches the route of /private, not the upstream', async (target) => {
    pair.upstream.clear()
    const result = await send(pair.gateway.port, get(target), { responses: 1 })
    expect(result.status).toBe(403)
    await expectUntouchedUpstream(pair)
  })

  it.each([
    '/private%2f',
    '/public/..;/private',
    '/public/..%2fprivate',
    '/public%2f..%2fprivate',
    '\\private',
    '/public\\..\\private',
  ])('%s reaches nothing', async (target) => {
    await expectRefused(pair, get(target), 400)
  })
})

describe('methods', () => {
  it.each(['PUT', 'PATCH', 'DELETE', 'PROPFIND', 'M-SEARCH', 'PURGE', 'A'.repeat(32)])(
    '%s is forwarded',
    async (method) => {
      expect((await expectForwarded(pair, `${method} /p HTTP/1.1\r\nHost: a.test\r\n\r\n`)).method).toBe(method)
    },
  )

  it('TRACE is 405', async () => {
    pair.upstream.clear()
    const result = await send(pair.gateway.port, 'TRACE / HTTP/1.1\r\nHost: a.test\r\nCookie: secret\r\n\r\n', {
      responses: 1,
    })
    expect(result.status).toBe(405)
    expect(result.bytes.toString('latin1')).not.toContain('secret')
    await expectUntouchedUpstream(pair)
  })

  it.each(['a.test:443', '/', 'a.test'])('CONNECT %s is 501', async (target) => {
    pair.upstream.clear()
    const result = await send(
      pair.gateway.port,
      `CONNECT ${target} HTTP/1.1\r\nHost: a.test\r\n\r\nGET /tunnelled HTTP/1.1\r\nHost: a.test\r\n\r\n`,
    )
    expect([400, 405, 501]).toContain(result.status)
    await expectUntouchedUpstream(pair)
  })

  it('OPTIONS * is answered by the gateway', async () => {
    pair.upstream.clear()
    const result = await send(pair.gateway.port, 'OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n', { responses: 1 })
    expect(result.status).toBe(204)
    await expectUntouchedUpstream(pair)
  })
})

describe('limits of a head', () => {
  const LIMIT = 16 * 1024
  const ofLength = (bytes: number) => {
    const start = 'GET /p HTTP/1.1\r\nHost: a.test\r\nX: '
    return `${start}${'a'.repeat(bytes - start.length - 4)}\r\n\r\n`
  }

  it('exactly the limit passes', async () => {
    expect(ofLength(LIMIT)).toHaveLength(LIMIT)
    await expectForwarded(pair, ofLength(LIMIT))
  })

  it('one byte more is 431', async () => {
    await expectRefused(pair, ofLength(LIMIT + 1), 431)
  })

  it('a head that never ends is 431 as soon as it is too large', async () => {
    await expectRefused(pair, [ofLength(8 * LIMIT).slice(0, LIMIT), 'a'.repeat(100)], 431)
  })

  it('a hundred fields pass, one more is 431', async () => {
    const fields = (n: number) => Array.from({ length: n - 1 }, (_, i) => `X-${i}: ${i}\r\n`).join('')
    const request = await expectForwarded(pair, get('/p', fields(100)))
    expect(field(request, 'x-98')).toBe('98')
    await expectRefused(pair, get('/p', fields(101)), 431)
  })

  it('a target of 8 KiB passes, one byte more is 414', async () => {
    const target = (bytes: number) => `/${'a'.repeat(bytes - 1)}`
    expect((await expectForwarded(pair, get(target(8192)))).target).toHaveLength(8192)
    await expectRefused(pair, get(target(8193)), 414)
  })

  it('a target that never ends is 414', async () => {
    await expectRefused(pair, `GET /${'a'.repeat(30_000)}`, 414)
  })
})
