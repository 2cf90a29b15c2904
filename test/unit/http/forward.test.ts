/** What a message loses and gains between client and upstream (RFC 9110 §7.6, RFC 7239). */

import { describe, expect, it } from 'vitest'
import { addLineNames, type ForwardOptions, requestHead, responseFields, setsOwn } from '../../../src/http/forward.ts'
import { headFromText } from '../../../src/http1/message-head.ts'
import { makeExchange } from '../../support/exchanges.ts'

const OPTIONS: ForwardOptions = {
  host: '',
  dropUnderscores: true,
  names: null,
  setsOwn: false,
  forwarded: false,
  startTrace: false,
}

type Exchange = ReturnType<typeof makeExchange>

/** The lines that go upstream, by lower-case name; several lines of one name as a list. */
function forward(x: Exchange, options: Partial<ForwardOptions> = {}): Record<string, string | string[]> {
  const text = requestHead(x, x.path, 'endpoint:3000', { ...OPTIONS, ...options })
  expect(text.endsWith('\r\n')).toBe(true)
  const [, ...lines] = text.slice(0, -2).split('\r\n')
  const fields: Record<string, string | string[]> = Object.create(null)
  for (const line of lines) {
    const colon = line.indexOf(': ')
    const name = line.slice(0, colon).toLowerCase()
    const value = line.slice(colon + 2)
    const earlier = fields[name]
    fields[name] = earlier === undefined ? value : [earlier, value].flat()
  }
  return fields
}

const OWN = [
  'host',
  'via',
  'x-forwarded-for',
  'x-forwarded-host',
  'x-forwarded-port',
  'x-forwarded-proto',
  'x-real-ip',
  'x-request-id',
]

describe('the start line and Host', () => {
  it('are those of the request', () => {
    const x = makeExchange('PUT /a?b=%2f HTTP/1.0\nHost: a.test:81')
    expect(requestHead(x, '/new', 'e', OPTIONS)).toMatch(/^PUT \/new\?b=%2f HTTP\/1\.1\r\nHost: a\.test:81\r\n/)
  })

  it('Host may be replaced; what the client asked for is told', () => {
    expect(forward(makeExchange('GET / HTTP/1.1'), { host: 'inner' })).toMatchObject({
      host: 'inner',
      'x-forwarded-host': 'a.test',
    })
  })

  it('HTTP/1.0 without Host gets the endpoint', () => {
    const fields = forward(makeExchange('GET / HTTP/1.0'))
    expect(fields['host']).toBe('endpoint:3000')
    expect(fields).not.toHaveProperty('x-forwarded-host')
  })
})

describe('a field of the request stays behind', () => {
  it.each([
    'Connection: keep-alive',
    'Keep-Alive: timeout=5',
    'Proxy-Connection: keep-alive',
    'Proxy-Authorization: Basic eDp5',
    'Proxy-Authenticate: Basic',
    'TE: trailers',
    'Trailer: X-A',
    'Upgrade: h2c',
    'HTTP2-Settings: AAMAAABkAAQAAP__',
    'Expect: 100-continue',
    'Content-Length: 0',
    'Forwarded: for=1.2.3.4',
    'X_Forwarded_For: 1.2.3.4',
    'X_y: 1',
  ])('%s', (line) => {
    expect(Object.keys(forward(makeExchange(`GET / HTTP/1.1\n${line}`))).sort()).toEqual(OWN)
  })

  it('underscores may be let through', () => {
    expect(forward(makeExchange('GET / HTTP/1.1\nX_y: 1'), { dropUnderscores: false })).toMatchObject({ x_y: '1' })
  })

  it.each([
    ['Connection: foo\nFoo: 1'],
    ['Connection: close, FOO ,bar\nfoo: 1\nBar: 2'],
    ['Foo: 1\nConnection: foo\nConnection: bar\nBar: 2'],
    ['Connection: foo\nfoo: 1\nFOO: 2'],
    ['Connection: cookie\nCookie: a=b'],
  ])('named by Connection: %j', (lines) => {
    expect(Object.keys(forward(makeExchange(`GET / HTTP/1.1\n${lines}`))).sort()).toEqual(OWN)
  })

  it('reserved names, whoever sends them, in any case', () => {
    const x = makeExchange('GET / HTTP/1.1\nX-User-Id: admin\nX-USER-ID: root\nX-Other: 1')
    const fields = forward(x, { names: new Set(['x-user-id']) })
    expect(fields).toMatchObject({ 'x-other': '1' })
    expect(fields).not.toHaveProperty('x-user-id')
  })

  it('reserved names are what the gateway says, when it says something', () => {
    const x = makeExchange('GET / HTTP/1.1\nX-User-Id: admin')
    x.requestFields = 'x-user-id: ann\r\n'
    expect(forward(x, { names: new Set(['x-user-id']) })['x-user-id']).toBe('ann')
  })

  it('names the route takes out or sets', () => {
    const x = makeExchange('GET / HTTP/1.1\nA: client\nB: client\nC: client')
    x.requestDrop = ['a']
    x.requestFields = 'B: own\r\n'
    const fields = forward(x, { names: new Set(['b']) })
    expect([fields['a'], fields['b'], fields['c']]).toEqual([undefined, 'own', 'client'])
  })
})

it('end-to-end fields go on as they came, in their order', () => {
  const lines =
    'Accept: a\r\nX-A: 1\r\naccept: b\r\nCookie: c=d\r\nAuthorization: Bearer x\r\n__proto__x: 1\r\nContent-Type: a/b\r\n'
  const x = makeExchange(`GET / HTTP/1.1\n${lines}`)
  expect(requestHead(x, '/', 'e', { ...OPTIONS, dropUnderscores: false })).toContain(`Host: a.test\r\n${lines}`)
})

describe('nobody but the gateway says who the client is', () => {
  const spoofed =
    'X-Forwarded-For: 1.2.3.4\nX-Forwarded-Proto: https\nX-Forwarded-Host: evil\nX-Forwarded-Port: 1\nX-Real-IP: 1.2.3.4\nX-Request-ID: spoofed\nForwarded: for=1.2.3.4'
  const own = {
    'x-forwarded-for': '192.0.2.1',
    'x-forwarded-proto': 'http',
    'x-forwarded-host': 'a.test',
    'x-forwarded-port': '8080',
    'x-real-ip': '192.0.2.1',
    'x-request-id': 'id-1',
  }

  it('what an untrusted client says of itself is replaced', () => {
    const fields = forward(makeExchange(`GET / HTTP/1.1\n${spoofed}`))
    expect(fields).toMatchObject(own)
    expect(fields).not.toHaveProperty('forwarded')
  })

  it('Connection cannot take our fields away (CVE-2024-45410)', () => {
    const names =
      'X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host, X-Forwarded-Port, X-Real-IP, X-Request-ID, Via, Host, x-user-id'
    const x = makeExchange(`GET / HTTP/1.1\nConnection: ${names}\n${spoofed}`)
    x.requestFields = 'x-user-id: ann\r\n'
    expect(forward(x)).toMatchObject({ ...own, host: 'a.test', via: '1.1 fluxor', 'x-user-id': 'ann' })
  })

  it('TLS and the port that clients see are told', () => {
    const fields = forward(makeExchange('GET / HTTP/1.1', { secure: true, port: 443 }))
    expect(fields).toMatchObject({ 'x-forwarded-proto': 'https', 'x-forwarded-port': '443' })
  })

  it('the lines are made once a connection, not kept across hosts', () => {
    const x = makeExchange('GET / HTTP/1.1')
    forward(x)
    x.authority = 'b.test'
    expect(forward(x)).toMatchObject({ ...own, 'x-forwarded-host': 'b.test' })
  })

  it('a route may set them itself: then there is one of each', () => {
    const x = makeExchange(`GET / HTTP/1.1\n${spoofed}`)
    x.requestFields = 'x-forwarded-proto: https\r\nX-Real-IP: 9.9.9.9\r\n'
    const names = new Set(['x-forwarded-proto', 'x-real-ip'])
    expect(forward(x, { names, setsOwn: setsOwn(names) })).toMatchObject({
      ...own,
      'x-forwarded-proto': 'https',
      'x-real-ip': '9.9.9.9',
    })
  })
})

describe('a trusted proxy is believed', () => {
  const trusted = (lines: string, options?: Partial<ForwardOptions>) => {
    const x = makeExchange(`GET / HTTP/1.1\n${lines}`)
    x.peerTrusted = true
    x.clientAddress = '1.2.3.4'
    return forward(x, options)
  }

  it('what it said is kept, the chain goes on', () => {
    const fields = trusted(
      'X-Forwarded-For: 1.2.3.4\nX-Forwarded-For: 5.6.7.8\nX-Forwarded-Proto: https\nX-Forwarded-Host: shop.test\nX-Forwarded-Port: 443\nX-Real-IP: 6.6.6.6\nForwarded: for=1.2.3.4',
    )
    expect(fields).toMatchObject({
      'x-forwarded-for': '1.2.3.4, 5.6.7.8, 192.0.2.1',
      'x-forwarded-proto': 'https',
      'x-forwarded-host': 'shop.test',
      'x-forwarded-port': '443',
      'x-real-ip': '1.2.3.4',
      forwarded: 'for=1.2.3.4',
    })
  })

  it('what it did not say is ours', () => {
    expect(trusted('X-A: 1')).toMatchObject({
      'x-forwarded-for': '192.0.2.1',
      'x-forwarded-proto': 'http',
      'x-forwarded-host': 'a.test',
      'x-forwarded-port': '8080',
      'x-real-ip': '1.2.3.4',
    })
  })

  it('an empty chain is none', () => {
    expect(trusted('X-Forwarded-For:')['x-forwarded-for']).toBe('192.0.2.1')
  })

  it('Forwarded is kept and added to', () => {
    const { forwarded } = trusted('Forwarded: for=1.2.3.4', { forwarded: true })
    expect(forwarded).toEqual(['for=1.2.3.4', 'for=192.0.2.1;host="a.test";proto=http'])
  })
})

describe('Via', () => {
  it.each([
    ['GET / HTTP/1.1', '1.1 fluxor'],
    ['GET / HTTP/1.0', '1.0 fluxor'],
    ['GET / HTTP/1.1\nVia: 1.0 a, 2 b', '1.0 a, 2 b, 1.1 fluxor'],
    ['GET / HTTP/1.1\nVia: 1.0 a\nVia: 1.1 b', '1.0 a, 1.1 b, 1.1 fluxor'],
    ['GET / HTTP/1.1\nVia:', '1.1 fluxor'],
  ])('%j', (text, via) => expect(forward(makeExchange(text))['via']).toBe(via))
})

describe('Forwarded (RFC 7239)', () => {
  it.each([
    ['192.0.2.1', 'a.test', false, 'for=192.0.2.1;host="a.test";proto=http'],
    ['2001:db8::1', 'a.test:81', true, 'for="[2001:db8::1]";host="a.test:81";proto=https'],
  ])('from %s', (remoteAddress, host, secure, forwarded) => {
    const x = makeExchange(`GET / HTTP/1.1\nHost: ${host}\nForwarded: for=evil`, { remoteAddress, secure })
    expect(forward(x, { forwarded: true })['forwarded']).toBe(forwarded)
  })
})

describe('a trace', () => {
  it('is begun where there is none, each with ids of its own', () => {
    const ids = Array.from(
      { length: 50 },
      () => forward(makeExchange('GET / HTTP/1.1'), { startTrace: true })['traceparent'],
    )
    for (const id of ids) expect(id).toMatch(/^00-[0-9a-f]{32}-[0-9a-f]{16}-01$/)
    expect(new Set(ids).size).toBe(50)
  })

  it('that is there goes on', () => {
    const traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
    const x = makeExchange(`GET / HTTP/1.1\ntraceparent: ${traceparent}\ntracestate: a=b`)
    expect(forward(x, { startTrace: true })).toMatchObject({ traceparent, tracestate: 'a=b' })
  })
})

describe('an answer', () => {
  const fields = (text: string, drop: ReadonlySet<string> | null = null) =>
    responseFields(headFromText('response', `HTTP/1.1 200 OK\r\n${text.replaceAll('\n', '\r\n')}\r\n\r\n`), drop)

  it.each([
    'Connection: close', 'Connection: Keep-Alive', 'Keep-Alive: timeout=5', 'Proxy-Connection: x', 'Proxy-Authenticate: Basic',
    'Proxy-Authentication-Info: x', 'Transfer-Encoding: chunked', 'Trailer: X', 'Upgrade: h2c', 'Content-Length: 5', 'X-Request-ID: theirs',
    'Fluxor-Slots: 5', 'Connection: bar\nBar: 1', 'Connection: close, Bar\nbar: 1\nBAR: 2', 'Connection: bar\nConnection: foo\nBar: 1\nFoo: 2',
  ])('%j stays behind', (text) => expect(fields(text)).toBe('')) // biome-ignore format: a list

  it.each([
    'Set-Cookie: a=b\nSet-Cookie: c=d', 'x_y: 1', 'WWW-Authenticate: Basic', 'Via: 1.1 x', 'Server: x', 'Date: today', 'Content-Encoding: br',
    'X: \xfc', 'Location: /x', '__proto__: 1',
  ])('%j goes on', (text) => expect(fields(text)).toBe(`${text.replaceAll('\n', '\r\n')}\r\n`)) // biome-ignore format: a list

  it('loses what the route takes out, and what Connection names', () => {
    const drop = new Set(['server'])
    expect(fields('Server: x\nConnection: bar\nBar: 1\nX: 1', drop)).toBe('X: 1\r\n')
    expect([...drop], 'the set is the route’s').toEqual(['server'])
  })
})

describe('names of field lines', () => {
  it.each([
    ['A: 1\r\nb-C:2\r\n', ['a', 'b-c']],
    ['A: x:y\r\n', ['a']],
    ['', []],
    ['A: 1', ['a']],
    ['A: 1\r\nbroken', ['a']],
    ['broken', []],
  ])('%j', (lines, expected) => {
    const names = new Set<string>()
    addLineNames(names, lines)
    expect([...names]).toEqual(expected)
  })
})
