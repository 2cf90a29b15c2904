/** The answers that need no upstream. */

import { createHmac } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { compileBuiltin } from '../../../src/builtin/builtin.ts'
import { routeConfig } from '../../../src/config/schema.ts'
import type { BodySink, RequestBodySource } from '../../../src/exchange.ts'
import type { Services } from '../../../src/services.ts'
import { type ExchangeOptions, makeExchange } from '../../support/exchanges.ts'

const jwt = { main: { secret: 'a-secret-of-at-least-32-bytes-xxxx', issuer: ['fluxor', 'other'], audience: 'api' } }

const services = (more: object = {}) => ({ config: { routes: [], identity: { jwt } }, ...more }) as unknown as Services

function run(action: object, text = 'GET / HTTP/1.1', options: ExchangeOptions = {}, own = services()) {
  const route = routeConfig.parse({ name: 'r', match: {}, ...action }) as Parameters<typeof compileBuiltin>[0]
  const x = makeExchange(text, options)
  compileBuiltin(route, own)(x)
  return { x, answers: x.client.answers, answer: x.client.answers[0]! }
}

/** A request body that comes in these pieces once it is wanted. */
function bodyOf(pieces: (string | Buffer)[], length = -1): RequestBodySource & { wanted: number } {
  const bytes = pieces.map((piece) => Buffer.from(piece))
  const body = {
    sink: null as BodySink | null,
    length,
    received: 0,
    wanted: 0,
    pause() {},
    cancel() {
      body.sink = null
    },
    resume() {
      for (const piece of bytes) {
        body.wanted += piece.length
        const shared = Buffer.from(piece)
        body.sink?.write(shared)
        shared.fill(0) // the memory is used again
      }
      body.sink?.end('')
    },
  }
  return body
}

describe('respond', () => {
  it('gives status, fields and body as configured', () => {
    const { answer } = run({
      respond: { status: 418, headers: { 'X-Own': 'a', 'Content-Type': 'text/html' }, body: '<p>' },
    })
    expect(answer.status).toBe(418)
    expect(answer.fields).toBe('x-own: a\r\ncontent-type: text/html\r\nX-Request-ID: id-1\r\n')
    expect(answer.body).toBe('<p>')
  })

  it('is text unless it says otherwise, in UTF-8', () => {
    const { answer } = run({ respond: { body: 'größer \u{1f600}' } })
    expect(answer.fields).toContain('Content-Type: text/plain; charset=utf-8\r\n')
    expect(answer.body).toBe('größer \u{1f600}')
  })

  it('without a body has no type', () => {
    expect(run({ respond: { status: 204 } }).answer.fields).toBe('X-Request-ID: id-1\r\n')
  })
})

describe('home', () => {
  it('says what is here', () => {
    const routes = [
      { match: { path: '/', methods: ['GET'] } },
      { match: { path: '/größe' } },
      { match: { pathPrefix: '/api' } },
      { match: { path: '__proto__', methods: ['POST', 'PUT'] } },
    ]
    const own = { config: { routes } } as unknown as Services
    const { answer } = run({ home: {} }, 'GET / HTTP/1.1', {}, own)
    expect(JSON.parse(answer.body)).toMatchObject({
      name: 'Fluxor Gateway',
      version: expect.stringMatching(/^\d+\.\d+\.\d+/),
      status: 'running',
    })
    expect(Object.entries(JSON.parse(answer.body).endpoints)).toEqual([
      ['/', 'GET'],
      ['/größe', '*'],
      ['__proto__', 'POST, PUT'],
    ])
  })
})

describe('health and ready', () => {
  it('health is what the seed says, never stored', () => {
    const { answer } = run({ health: {} })
    expect([answer.status, answer.body]).toEqual([200, '{"status":"healthy"}\n'])
    expect(answer.fields).toContain('Cache-Control: no-store\r\n')
  })

  it.each([
    [true, '', 200],
    [false, 'draining', 503],
  ])('ready %s %j is %i', (ready, reason, status) => {
    const { answer } = run({ ready: {} }, undefined, {}, services({ readiness: () => ({ ready, reason }) }))
    expect([answer.status, JSON.parse(answer.body)]).toEqual([status, { ready, reason }])
  })
})

describe('echo', () => {
  const echo = (type: string, ...pieces: (string | Buffer)[]) =>
    run({ echo: {} }, `POST / HTTP/1.1\nContent-Type: ${type}`, { body: bodyOf(pieces) }).answer

  it.each([
    ['application/json', '{"a":[1,null]}', '{"a":[1,null]}'],
    ['application/json; charset=utf-8', '12345678901234567890', '12345678901234567890'],
    ['application/problem+json', '{"__proto__":1,"a":1,"a":2}', '{"__proto__":1,"a":1,"a":2}'],
    ['Application/JSON', ' "größe" ', ' "größe" '],
    ['application/json', '{"a":', '"{\\"a\\":"'],
    ['application/jsonp', '{"a":1}', '"{\\"a\\":1}"'],
    ['text/plain', '{"a":1}', '"{\\"a\\":1}"'],
    ['text/plain', 'größe \ufffd', '"größe \ufffd"'],
  ])('%s %s', (type, body, echoed) => {
    const { status, body: answer } = echo(type, body)
    expect([status, answer]).toEqual([200, `{"echo":${echoed}}\n`])
  })

  it('puts the pieces together', () => {
    expect(JSON.parse(echo('text/plain', 'gr', Buffer.from([0xc3]), Buffer.from([0xb6]), 'ße').body).echo).toBe('größe')
  })

  it('other bytes are base64', () => {
    expect(JSON.parse(echo('application/octet-stream', Buffer.from([0, 255, 254])).body).echo).toBe('AP/+')
    expect(JSON.parse(echo('application/json', Buffer.from([34, 255, 34])).body).echo).toBe('Iv8i')
  })

  it('nothing is an empty text', () => {
    expect(run({ echo: {} }).answer.body).toBe('{"echo":""}\n')
    expect(echo('application/json').body).toBe('{"echo":""}\n')
  })

  it('JSON nested however deep costs nothing but its bytes', () => {
    const deep = '['.repeat(200_000) + ']'.repeat(200_000)
    expect(echo('application/json', deep).body).toHaveLength(deep.length + 10)
  })

  it('more than a mebibyte is refused: by its length at once, else when it is reached', () => {
    const declared = bodyOf(['x'], 1024 * 1024 + 1)
    const { answers } = run({ echo: {} }, 'POST / HTTP/1.1', { body: declared })
    expect(answers.map(({ status }) => status)).toEqual([413])
    expect(declared.wanted).toBe(0)

    const chunked = bodyOf(['x'.repeat(1024 * 1024), 'y', 'z'])
    const late = run({ echo: {} }, 'POST / HTTP/1.1', { body: chunked })
    expect(late.answers.map(({ status }) => status)).toEqual([413])
    expect(late.x.client.closing).toBe(true)

    const most = run({ echo: {} }, 'POST / HTTP/1.1', { body: bodyOf(['x'.repeat(1024 * 1024)], 1024 * 1024) })
    expect(most.answer.status).toBe(200)
  })
})

describe('redirect', () => {
  it.each([
    ['/new', 'GET /old HTTP/1.1', '/new'],
    ['https://{host}{path}{query}', 'GET /a/b?c=%2f HTTP/1.1\nHost: a.test:8080', 'https://a.test/a/b?c=%2f'],
    ['{scheme}://www.{host}/', 'GET / HTTP/1.1\nHost: [::1]:80', 'http://www.[::1]/'],
    ['/x{path}', 'GET / HTTP/1.1', '/x/'],
    ['/{other}', 'GET / HTTP/1.1', '/{other}'],
    ['/$&{query}', 'GET /?$1 HTTP/1.1', '/$&?$1'],
  ])('%s for %j', (to, text, location) => {
    const { answer } = run({ redirect: { to } }, text)
    expect([answer.status, answer.fields, answer.body]).toEqual([
      308,
      `Location: ${location}\r\nX-Request-ID: id-1\r\n`,
      '',
    ])
  })

  it('keeps the scheme of the client', () => {
    expect(run({ redirect: { to: '{scheme}://x/', status: 301 } }, undefined, { secure: true }).answer).toMatchObject({
      status: 301,
      fields: expect.stringContaining('Location: https://x/\r\n'),
    })
  })

  it('that needs the host of a request without one is refused', () => {
    const { answer, x } = run({ redirect: { to: 'https://{host}/' } }, 'GET / HTTP/1.0')
    expect([answer.status, JSON.parse(answer.body).code]).toEqual([400, 'BAD_REQUEST'])
    expect(x.client.closing).toBe(true)
    expect(run({ redirect: { to: '/x{path}' } }, 'GET / HTTP/1.0').answer.status).toBe(308)
  })
})

describe('token', () => {
  const token = (action: object = {}, options: ExchangeOptions = {}) =>
    run({ token: { jwt: 'main', ...action } }, 'POST / HTTP/1.1', options)

  it('is signed, with the policy’s first issuer and audience', () => {
    const { answer } = token({ claims: { sub: 'größe', iat: 1, exp: 1, n: [1] }, expiresIn: '10m' })
    expect(answer.status).toBe(200)
    expect(answer.fields).toContain('Cache-Control: no-store\r\n')
    const { token: jws, expires_in } = JSON.parse(answer.body)
    const [header, payload, signature] = jws.split('.')
    expect(createHmac('sha256', jwt.main.secret).update(`${header}.${payload}`).digest('base64url')).toBe(signature)
    const decode = (part: string) => JSON.parse(Buffer.from(part, 'base64url').toString())
    expect(decode(header)).toEqual({ alg: 'HS256', typ: 'JWT' })
    const claims = decode(payload)
    expect(claims).toEqual({ iss: 'fluxor', aud: 'api', sub: 'größe', n: [1], iat: claims.iat, exp: claims.iat + 600 })
    expect(Math.abs(claims.iat - Date.now() / 1000)).toBeLessThan(5)
    expect(expires_in).toBe(600)
  })

  it('goes to listed addresses alone', () => {
    const allow = ['192.0.2.0/24']
    expect(token({ allow }, { remoteAddress: '192.0.2.9' }).answer.status).toBe(200)
    const { answer } = token({ allow }, { remoteAddress: '198.51.100.1' })
    expect([answer.status, JSON.parse(answer.body).code]).toEqual([403, 'IP_DENIED'])
  })
})
