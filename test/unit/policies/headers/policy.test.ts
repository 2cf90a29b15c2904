import { describe, expect, it } from 'vitest'
import type { z } from 'zod'
import { Exchange } from '../../../../src/exchange.ts'
import { headFromText } from '../../../../src/http1/message-head.ts'
import { headersConfig, securityHeadersConfig } from '../../../../src/policies/headers/config.ts'
import { compileHeaders, compileSecurityHeaders } from '../../../../src/policies/headers/policy.ts'

const rules = (config: z.input<typeof headersConfig>) => compileHeaders(headersConfig.parse(config))
const security = (config: z.input<typeof securityHeadersConfig>) =>
  compileSecurityHeaders(securityHeadersConfig.parse(config))

function request(...lines: string[]): Exchange {
  const head = ['Host: a', ...lines].join('\r\n')
  return new Exchange(headFromText('request', `GET / HTTP/1.1\r\n${head}\r\n\r\n`), {} as never, 0)
}

describe('header rules', () => {
  it('cost nothing when there are none', () => {
    expect(compileHeaders(undefined)).toBeUndefined()
    expect(rules({})).toBeUndefined()
    expect(rules({ response: { remove: ['server'] } })?.applyRequest).toBeUndefined()
  })

  it('set and remove on the request', () => {
    const compiled = rules({ request: { set: { 'X-Env': 'prod' }, remove: ['X-Debug'] } })!
    const x = request('X-Debug: 1')
    x.requestFields = 'x-user: 7\r\n'
    x.requestDrop = ['authorization']
    compiled.applyRequest!(x)
    expect(x.requestFields).toBe('x-user: 7\r\nx-env: prod\r\n')
    expect(x.requestDrop).toEqual(['authorization'])
    expect(compiled.requestDrop).toEqual(['x-debug', 'x-env'])
  })

  it('add a line beside those that the client sent', () => {
    const x = request('X-Tag: mine', 'X-Tag: too')
    rules({ request: { add: { 'X-Tag': ['a', 'b'] } } })!.applyRequest!(x)
    expect(x.requestFields).toBe('x-tag: mine\r\nx-tag: too\r\nx-tag: a\r\nx-tag: b\r\n')
  })

  it('keep no line of a name that clients may not send', () => {
    const x = request('X-User: spoofed')
    const config = headersConfig.parse({ request: { add: { 'X-User': 'route' } } })
    compileHeaders(config, new Set(['x-user']))!.applyRequest!(x)
    expect(x.requestFields).toBe('x-user: route\r\n')
  })

  it('replace, then add, when a name is in both', () => {
    const x = request('X-Tag: mine')
    rules({ request: { set: { 'x-tag': 'first' }, add: { 'x-tag': 'second' } } })!.applyRequest!(x)
    expect(x.requestFields).toBe('x-tag: first\r\nx-tag: second\r\n')
  })

  it('set, add and remove on the answer', () => {
    const compiled = rules({
      response: { set: { server: 'x' }, add: { 'Set-Cookie': ['a=1', 'b=2'] }, remove: ['Via'] },
    })!
    expect(compiled.responseFields).toBe('server: x\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n')
    expect(compiled.responseDrop).toEqual(['via', 'server'])
  })

  it.each([
    [{ request: { set: { 'Content-Length': '0' } } }],
    [{ request: { set: { 'transfer-encoding': 'chunked' } } }],
    [{ request: { add: { Connection: 'close' } } }],
    [{ request: { remove: ['Host'] } }],
    [{ response: { set: { Upgrade: 'h2c' } } }],
    [{ response: { remove: ['TE'] } }],
    [{ request: { set: { 'x-a': 'b\r\nx-evil: 1' } } }],
    [{ request: { set: { 'x a': 'b' } } }],
    [{ request: { set: { 'x-a': 'b' }, remove: ['X-A'] } }],
    [{ request: { replace: { 'x-a': 'b' } } }],
  ])('are refused at load: %j', (config) => {
    expect(headersConfig.safeParse(config).success).toBe(false)
  })
})

describe('security headers', () => {
  it('are off unless asked for', () => {
    expect(compileSecurityHeaders(undefined)).toBeUndefined()
    expect(security(false)).toBeUndefined()
  })

  it('hold HSTS on TLS only', () => {
    const { fields } = security(true)!
    expect(fields(false)).toContain('X-Content-Type-Options: nosniff\r\n')
    expect(fields(false)).toContain('X-Frame-Options: DENY\r\n')
    expect(fields(false)).toContain('Referrer-Policy: strict-origin-when-cross-origin\r\n')
    expect(fields(false)).not.toContain('Strict-Transport-Security')
    expect(fields(true)).toContain('Strict-Transport-Security: max-age=31536000; includeSubDomains\r\n')
  })

  it('take other values, and leave single ones out', () => {
    const { fields, responseDrop } = security({
      frameOptions: 'SAMEORIGIN',
      referrerPolicy: false,
      contentSecurityPolicy: "default-src 'self'",
      hsts: { maxAge: '1h', includeSubDomains: false, preload: true },
    })!
    expect(fields(true)).toContain('X-Frame-Options: SAMEORIGIN\r\n')
    expect(fields(true)).not.toContain('Referrer-Policy')
    expect(fields(true)).toContain("Content-Security-Policy: default-src 'self'\r\n")
    expect(fields(true)).toContain('max-age=3600; preload\r\n')
    expect(responseDrop).toContain('content-security-policy')
    expect(responseDrop).not.toContain('referrer-policy')
  })

  it('cannot break out of their line', () => {
    expect(securityHeadersConfig.safeParse({ contentSecurityPolicy: 'a\r\nb: c' }).success).toBe(false)
  })
})
