import { describe, expect, it } from 'vitest'
import type { z } from 'zod'
import { Exchange } from '../../../../src/exchange.ts'
import { headFromText } from '../../../../src/http1/message-head.ts'
import { corsConfig } from '../../../../src/policies/cors/config.ts'
import { compileCors } from '../../../../src/policies/cors/policy.ts'

const cors = (config: z.input<typeof corsConfig>) => compileCors(corsConfig.parse(config))

function request(method: string, ...lines: string[]): Exchange {
  const head = ['Host: a', ...lines].join('\r\n')
  return new Exchange(headFromText('request', `${method} / HTTP/1.1\r\n${head}\r\n\r\n`), {} as never, 0)
}

const preflight = (origin: string, ...lines: string[]) =>
  request('OPTIONS', `Origin: ${origin}`, 'Access-Control-Request-Method: PUT', ...lines)

describe('a preflight', () => {
  it('is answered 204 with what the page may do', () => {
    const answer = cors({
      origins: ['https://app.example.com'],
      methods: ['GET', 'PUT'],
      headers: ['X-Token', 'content-type'],
      maxAge: '1h',
      credentials: true,
    }).preflight(preflight('https://app.example.com'))
    expect(answer).toEqual({
      status: 204,
      fields:
        'Access-Control-Allow-Origin: https://app.example.com\r\n' +
        'Access-Control-Allow-Credentials: true\r\n' +
        'Access-Control-Allow-Methods: GET, PUT\r\n' +
        'Access-Control-Allow-Headers: x-token, content-type\r\n' +
        'Access-Control-Max-Age: 3600\r\n' +
        'Vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers\r\n',
    })
  })

  it('allows the headers that are asked for by default', () => {
    const { preflight: answer } = cors({ origins: ['*'] })
    const asked = answer(preflight('https://a.b', 'Access-Control-Request-Headers: authorization, x-a'))
    expect(asked?.fields).toContain('Access-Control-Allow-Headers: authorization, x-a\r\n')
    expect(asked?.fields).toContain('Access-Control-Allow-Origin: *\r\n')
    expect(answer(preflight('https://a.b'))?.fields).not.toContain('Allow-Headers')
  })

  it('reflects no list that is not one of header names', () => {
    const { preflight: answer } = cors({ origins: ['*'] })
    for (const list of ['a b', 'x;y', `${'a,'.repeat(2000)}a`, '(']) {
      expect(answer(preflight('https://a.b', `Access-Control-Request-Headers: ${list}`))?.fields).not.toContain(
        'Allow-Headers',
      )
    }
  })

  it('from another origin is answered 204 with nothing allowed', () => {
    const answer = cors({ origins: ['https://app.example.com'] }).preflight(preflight('https://evil.example.com'))
    expect(answer?.status).toBe(204)
    expect(answer?.fields).toBe('Vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers\r\n')
  })

  it('is only OPTIONS with an origin and a method asked for', () => {
    const { preflight: answer } = cors({ origins: ['*'] })
    expect(answer(request('OPTIONS'))).toBeUndefined()
    expect(answer(request('OPTIONS', 'Origin: https://a.b'))).toBeUndefined()
    expect(answer(request('OPTIONS', 'Access-Control-Request-Method: PUT'))).toBeUndefined()
    expect(answer(request('PUT', 'Origin: https://a.b', 'Access-Control-Request-Method: PUT'))).toBeUndefined()
  })

  it('may be kept for no time at all', () => {
    expect(cors({ origins: ['*'], maxAge: 0 }).preflight(preflight('https://a.b'))?.fields).toContain('Max-Age: 0\r\n')
  })
})

describe('the origin', () => {
  const fields = (origins: string[], origin: string) => cors({ origins }).fields(request('GET', `Origin: ${origin}`))

  it.each([
    ['https://app.example.com', 'https://app.example.com', true],
    ['https://App.Example.com', 'https://app.example.com', true],
    ['https://app.example.com', 'http://app.example.com', false],
    ['https://app.example.com', 'https://app.example.com:8443', false],
    ['https://app.example.com', 'https://app.example.com.evil.com', false],
    ['https://*.example.com', 'https://a.example.com', true],
    ['https://*.example.com', 'https://a.b.example.com', true],
    ['https://*.example.com', 'https://example.com', false],
    ['https://*.example.com', 'https://.example.com', false],
    ['https://*.example.com', 'https://evilexample.com', false],
    ['https://*.example.com', 'https://evil.com/.example.com', false],
    ['https://*.example.com', 'https://evil.com#.example.com', false],
    ['https://*.example.com', 'https://user@a.example.com', false],
    ['https://*.example.com', 'https://a.example.com:8443', false],
    ['https://*.example.com:8443', 'https://a.example.com:8443', true],
    ['https://app.example.com', 'null', false],
    ['null', 'null', true],
  ])('%s, asked by %s: %s', (configured, origin, allowed) => {
    expect(fields([configured], origin).includes(`Access-Control-Allow-Origin: ${origin}\r\n`)).toBe(allowed)
    expect(fields([configured], origin)).toContain('Vary: Origin\r\n')
  })

  it('sent twice is none that is allowed', () => {
    const twice = request('GET', 'Origin: https://a.b', 'Origin: https://a.b')
    expect(cors({ origins: ['https://a.b'] }).fields(twice)).toBe('Vary: Origin\r\n')
  })
})

describe('an answer', () => {
  it('varies by origin also when the request has none', () => {
    expect(cors({ origins: ['https://a.b'] }).fields(request('GET'))).toBe('Vary: Origin\r\n')
    expect(cors({ origins: ['*'] }).fields(request('GET'))).toBe('')
  })

  it('tells which headers scripts may read', () => {
    const { fields } = cors({ origins: ['*'], exposeHeaders: ['X-Request-ID', 'etag'] })
    expect(fields(request('GET', 'Origin: https://a.b'))).toBe(
      'Access-Control-Allow-Origin: *\r\nAccess-Control-Expose-Headers: x-request-id, etag\r\n',
    )
  })

  it('loses what the upstream said about origins', () => {
    expect(cors({ origins: ['*'] }).responseDrop).toContain('access-control-allow-origin')
  })
})

describe('at load', () => {
  it.each([
    [{ origins: ['*'], credentials: true }, /any page/],
    [{ origins: ['https://a.b', 'null'], credentials: true }, /any page/],
    [{ origins: ['https://a.b'], credentials: true, exposeHeaders: ['*'] }, /list the headers/],
    [{ origins: [] }, /./],
    [{ origins: ['https://a.b/path'] }, /without a path/],
    [{ origins: ['a.b'] }, /origin/],
    [{ origins: ['https://a.*.b'] }, /origin/],
    [{ origins: ['*'], methods: ['get'] }, /capital/],
    [{ origins: ['*'], headers: ['x y'] }, /header field name/],
  ])('%j is refused', (config, message) => {
    expect(corsConfig.safeParse(config).error?.issues[0]?.message).toMatch(message)
  })
})
