import { request as httpRequest } from 'node:http'
import { afterEach, describe, expect, it } from 'vitest'
import { type AdminListener, type AdminOptions, createAdmin } from '../../../src/listener/admin.ts'
import { hasSession, safeNext, sessionCookie } from '../../../src/listener/admin-auth.ts'

let admin: AdminListener | undefined
afterEach(() => admin?.close())

const routes: AdminOptions['routes'] = {
  'GET /livez': (_, response) => response.text('ok\n'),
  'GET /metrics': (_, response) => response.text('up 1\n'),
  'GET /config': (_, response) => response.json({ a: 1 }),
  'POST /purge': async (request, response) => response.json({ got: await request.json() }),
  'GET /broken': () => {
    throw new Error('boom')
  },
}

interface Answer {
  status: number
  headers: Record<string, string | string[] | undefined>
  body: string
}

async function start(options: Partial<AdminOptions> = {}) {
  admin = createAdmin({ routes, ...options })
  const { port } = await admin.listen('127.0.0.1', 0)
  return (method: string, path: string, headers: Record<string, string> = {}, body?: string) =>
    new Promise<Answer>((resolve, reject) => {
      const req = httpRequest({ port, host: '127.0.0.1', method, path, headers, agent: false }, (res) => {
        let text = ''
        res.setEncoding('utf8').on('data', (chunk) => (text += chunk))
        res.on('end', () => resolve({ status: res.statusCode!, headers: res.headers, body: text }))
      })
      req.on('error', reject)
      req.end(body)
    })
}

describe('the admin listener without a token', () => {
  it('serves its table, with strict headers', async () => {
    const ask = await start()
    const { status, headers, body } = await ask('GET', '/config?x=1')
    expect([status, body]).toEqual([200, '{"a":1}\n'])
    expect(headers['content-security-policy']).toMatch(/^default-src 'none'; script-src 'self';/)
    expect(headers['cache-control']).toBe('no-store')
    expect((await ask('HEAD', '/config')).body).toBe('')
  })

  it('answers problem documents for what is not there, not allowed, not JSON, too large or broken', async () => {
    const errors: unknown[] = []
    const ask = await start({ onError: (error) => errors.push(error) })
    const missing = await ask('GET', '/__proto__')
    expect([missing.status, missing.headers['content-type']]).toEqual([404, 'application/problem+json'])
    expect(JSON.parse(missing.body)).toMatchObject({ status: 404 })
    const wrong = await ask('DELETE', '/config')
    expect([wrong.status, wrong.headers['allow']]).toEqual([405, 'GET, HEAD'])
    expect((await ask('POST', '/purge', {}, '{')).status).toBe(400)
    expect((await ask('POST', '/purge', {}, JSON.stringify('x'.repeat(70_000)))).status).toBe(413)
    expect((await ask('POST', '/purge', {}, '{"urls":[]}')).body).toBe('{"got":{"urls":[]}}\n')
    const broken = await ask('GET', '/broken')
    expect([broken.status, broken.body.includes('boom'), errors.length]).toEqual([500, false, 1])
  })

  it('refuses pages of other sites, and names that were bound to it', async () => {
    const ask = await start()
    const status = async (method: string, path: string, headers: Record<string, string>) =>
      (await ask(method, path, headers, method === 'POST' ? '{}' : undefined)).status
    expect(await status('POST', '/purge', { Origin: 'https://evil.example' })).toBe(403)
    expect(await status('POST', '/purge', { 'Sec-Fetch-Site': 'cross-site' })).toBe(403)
    expect(
      await status('POST', '/purge', {
        Host: 'localhost:1',
        Origin: 'http://localhost:1',
        'Sec-Fetch-Site': 'same-origin',
      }),
    ).toBe(200)
    expect(await status('GET', '/config', { Host: 'evil.example' })).toBe(403)
    expect(await status('GET', '/config', { 'Sec-Fetch-Site': 'cross-site', 'Sec-Fetch-Mode': 'no-cors' })).toBe(403)
    expect(await status('GET', '/config', { 'Sec-Fetch-Site': 'cross-site', 'Sec-Fetch-Mode': 'navigate' })).toBe(200)
    expect(await status('GET', '/config', { Host: '[::1]:9901' })).toBe(200)
    expect(await status('GET', '/metrics', { Host: 'gateway.monitoring.svc:9902' })).toBe(200)
  })
})

describe('the admin listener with a token', () => {
  it('lets probes and Prometheus in, and everybody else with the token', async () => {
    const ask = await start({ token: 'correct horse' })
    expect((await ask('GET', '/livez')).status).toBe(200)
    expect((await ask('GET', '/metrics')).status).toBe(200)
    const refused = await ask('GET', '/config', { Host: 'localhost' })
    expect([refused.status, refused.headers['www-authenticate']]).toEqual([401, 'Bearer realm="fluxor admin"'])
    expect((await ask('GET', '/nothing')).status).toBe(401)
    admin!.update({ routes, token: 't0ken' })
    expect((await ask('GET', '/config', { Authorization: 'Bearer t0ken' })).status).toBe(200)
    expect((await ask('GET', '/config', { Authorization: 'Bearer t0ke' })).status).toBe(401)
    expect((await ask('GET', '/config', { Authorization: 'Basic t0ken' })).status).toBe(401)
  })

  it('asks for a token on /metrics when there is one for it', async () => {
    const ask = await start({ token: 'a', metricsToken: 'm' })
    expect((await ask('GET', '/metrics')).status).toBe(401)
    expect((await ask('GET', '/metrics', { Authorization: 'Bearer m' })).status).toBe(200)
    expect((await ask('GET', '/metrics', { Authorization: 'Bearer a' })).status).toBe(200)
    expect((await ask('GET', '/config', { Authorization: 'Bearer m' })).status).toBe(401)
    admin!.update({ routes, metricsToken: 'm' })
    expect((await ask('GET', '/metrics')).status).toBe(401)
  })

  it('logs a browser in by a form, with a cookie that is not the token', async () => {
    const ask = await start({ token: 's3cret' })
    const sent = await ask('GET', '/config?a="<b>', { Accept: 'text/html' })
    expect([sent.status, sent.headers['location']]).toEqual([303, '/login?next=%2Fconfig%3Fa%3D%2522%253Cb%253E'])
    const page = await ask('GET', '/login?next=/config')
    expect(page.body).toContain('name="next" value="/config"')
    expect((await ask('GET', '/login?next=https://evil.example')).body).toContain('value="/dashboard"')
    expect((await ask('GET', '/login?next=/"><script>')).body).not.toContain('"><script>')
    const failed = await ask('POST', '/login', {}, 'token=wrong&next=/config')
    expect([failed.status, failed.headers['set-cookie']]).toEqual([401, undefined])
    const done = await ask('POST', '/login', {}, 'token=s3cret&next=/config')
    expect([done.status, done.headers['location']]).toEqual([303, '/config'])
    const cookie = String(done.headers['set-cookie'])
    expect(cookie).toMatch(/; HttpOnly; SameSite=Strict$/)
    expect(cookie).not.toContain('s3cret')
    const session = { Cookie: `other=1; ${cookie.split(';')[0]}` }
    expect((await ask('GET', '/config', session)).status).toBe(200)
    expect((await ask('POST', '/purge', { ...session, Origin: 'https://evil.example' }, '{}')).status).toBe(403)
    expect((await ask('GET', '/config', { Cookie: `${session.Cookie}0` })).status).toBe(401)
    expect((await ask('POST', '/logout', session)).headers['set-cookie']?.[0]).toContain('Max-Age=0')
    admin!.update({ routes, token: 'another' })
    expect((await ask('GET', '/config', session)).status).toBe(401)
  })

  it('ends sessions after twelve hours, and takes none from the future', () => {
    const headers = { cookie: sessionCookie('t', 0).split(';')[0]! }
    const hours = 3_600_000
    expect(hasSession(headers, 't', 11 * hours)).toBe(true)
    expect(hasSession(headers, 't', 13 * hours)).toBe(false)
    expect(hasSession(headers, 't', -1 * hours)).toBe(false)
    expect(hasSession({ cookie: 'fluxor_session=NaN.x; fluxor_session=' }, 't', 0)).toBe(false)
  })

  it.each([
    ['/x?y=1', '/x?y=1'],
    ['//evil.example', '/dashboard'],
    ['/\\evil.example', '/dashboard'],
    ['/a\r\nSet-Cookie: x', '/dashboard'],
    [null, '/dashboard'],
  ])('after the login %s leads to %s', (next, expected) => {
    expect(safeNext(next)).toBe(expected)
  })
})

describe('a taken port', () => {
  it('is an error the caller gets', async () => {
    admin = createAdmin({ routes })
    const { port } = await admin.listen('127.0.0.1', 0)
    const second = createAdmin({ routes })
    await expect(second.listen('127.0.0.1', port)).rejects.toMatchObject({ code: 'EADDRINUSE' })
  })
})
