import { describe, expect, it } from 'vitest'
import { Sticky, type StickyOptions } from '../../../src/upstream/sticky.ts'
import { endpoint } from './support.ts'

function sticky(options: Partial<StickyOptions> = {}): Sticky {
  return new Sticky({ upstream: 'app', cookie: 'srv', secret: 's3cret', ...options })
}

function cookieOf(setCookie: string): string {
  return /^Set-Cookie: srv=([^;]+)/.exec(setCookie)![1]!
}

describe('sticky cookie', () => {
  const a = endpoint('10.0.0.1')
  const b = endpoint('10.0.0.2')

  it('brings a client back to its endpoint, and is set once', () => {
    const s = sticky()
    s.update([a, b])
    const line = s.bind(undefined, b)
    const cookies = `x=1; srv=${cookieOf(line)}; y=2`
    expect(s.find(cookies, 0)).toBe(b)
    expect(s.bind(cookies, b)).toBe('')
    expect(s.bind(cookies, a)).not.toBe('')
  })

  it('says nothing of the address and ends in CRLF', () => {
    const s = sticky()
    s.update([a])
    expect(s.bind(undefined, a)).toMatch(/^Set-Cookie: srv=[A-Za-z0-9_-]{22}; Path=\/; HttpOnly; SameSite=Lax\r\n$/)
  })

  it('means the same after a reload and in another gateway with the same secret', () => {
    const before = sticky()
    before.update([a, b])
    const after = sticky()
    after.update([endpoint('10.0.0.3'), endpoint('10.0.0.2')])
    expect(after.find(`srv=${cookieOf(before.bind(undefined, b))}`, 0)?.key).toBe(b.key)
  })

  it('cannot be made without the secret, nor carried to another upstream', () => {
    const s = sticky()
    s.update([a])
    for (const other of [sticky({ secret: 'guess' }), sticky({ upstream: 'next' })]) {
      other.update([a])
      expect(s.find(`srv=${cookieOf(other.bind(undefined, a))}`, 0)).toBeUndefined()
    }
  })

  it.each(['', 'srv=', 'srv=__proto__', 'xsrv=1', 'srv', ';;;=;', `srv=${'x'.repeat(5000)}`])(
    'ignores "%s"',
    (cookies) => {
      const s = sticky()
      s.update([a])
      expect(s.find(cookies, 0)).toBeUndefined()
    },
  )

  it('lets a client go when its endpoint is gone, failing or drained, but not at weight 0', () => {
    const gone = endpoint('10.0.0.9')
    const s = sticky()
    s.update([a, gone])
    const cookies = `srv=${cookieOf(s.bind(undefined, gone))}`
    gone.weight = 0
    expect(s.find(cookies, 0)).toBe(gone)
    gone.markUnhealthy(0, 'x')
    expect(s.find(cookies, 0)).toBeUndefined()
    gone.markHealthy(0)
    gone.drain(0, 'x')
    expect(s.find(cookies, 0)).toBeUndefined()
    s.update([a])
    expect(s.find(cookies, 0)).toBeUndefined()
    expect(s.bind(cookies, a)).not.toBe('')
  })

  it('carries its attributes; SameSite=None is always Secure', () => {
    const s = sticky({ maxAgeSec: 60, domain: 'example.com', path: '/api', sameSite: 'None', httpOnly: false })
    s.update([a])
    expect(s.bind(undefined, a)).toContain('; Path=/api; Domain=example.com; Max-Age=60; Secure; SameSite=None\r\n')
  })
})
