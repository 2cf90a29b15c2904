/**
 * The cache against clients who want others to get what they choose (poisoning) or to get what is another's (deception):
 * what a request holds beyond the key must change neither the stored answer nor who is given it.
 */

import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startGateway, type TestGateway } from '../support/gateway.ts'
import { field } from '../support/messages.ts'
import { RawClient, send } from '../support/raw-client.ts'
import { sendH2 } from '../support/raw-h2.ts'
import { answer, type RawUpstream, type Script, startRawUpstream } from '../support/upstream.ts'

let upstream: RawUpstream
let gateway: TestGateway
beforeAll(async () => {
  upstream = await startRawUpstream()
  gateway = await startGateway({
    cache: { memory: { maxBytes: '8MiB' } },
    compression: { encodings: ['gzip'], minBytes: 64 },
    upstreams: { app: { endpoints: [{ url: upstream.url }] } },
    routes: [
      { match: { pathPrefix: '/ttl' }, upstream: 'app', cache: { ttl: '60s' } },
      { match: { pathPrefix: '/squeezed' }, upstream: 'app', cache: {}, compression: true },
      { match: { pathPrefix: '/' }, upstream: 'app', cache: {} },
    ],
  })
})
afterAll(async () => {
  await gateway?.close()
  await upstream?.close()
})

/** A page that shows everything of its request that a careless template would. */
const mirror: Script = (socket, request) =>
  answer(200, request.bytes.toString('latin1'), ['Cache-Control: max-age=60'])(socket, request)

const get = (target: string, fields = '', host = 'a.test') => `GET ${target} HTTP/1.1\r\nHost: ${host}\r\n${fields}\r\n`
async function ask(text: string) {
  const result = await send(gateway.port, text, { responses: 1 })
  const response = result.responses[0]!
  return { status: result.status, body: response?.body.toString('latin1') ?? '', response }
}
let n = 0
const fresh = (path = '/page') => `${path}-${n++}`

describe('poisoning by what is not in the key', () => {
  it.each([
    ['X-Forwarded-Host', 'X-Forwarded-Host: evil.test\r\n'],
    ['X-Forwarded-Proto', 'X-Forwarded-Proto: evil\r\n'],
    ['X-Forwarded-Port', 'X-Forwarded-Port: 666\r\n'],
    ['X-Forwarded-For', 'X-Forwarded-For: 6.6.6.6\r\n'],
    ['X-Real-IP', 'X-Real-IP: 6.6.6.6\r\n'],
    ['Forwarded', 'Forwarded: host=evil.test\r\n'],
    ['a name with an underscore', 'X_Forwarded_Host: evil.test\r\n'],
    ['what Connection nominates', 'X-Evil: evil.test\r\nConnection: x-evil, x-forwarded-host, host\r\n'],
  ])('%s of a stranger shows in no stored page', async (_title, fields) => {
    const path = fresh()
    upstream.on(path, mirror)
    await ask(get(path, fields))
    const { body, response } = await ask(get(path))
    expect(field(response, 'cache-status')).toContain('hit')
    expect(body).not.toMatch(/evil|6\.6\.6\.6|666/)
  })

  it.each([
    [
      'GET with a body (fat GET)',
      (path: string) => `GET ${path} HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\n\r\nevil`,
    ],
    [
      'GET with chunks',
      (path: string) =>
        `GET ${path} HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n`,
    ],
    ['POST', (path: string) => `POST ${path} HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\n\r\nevil`],
    ['X-HTTP-Method-Override', (path: string) => get(path, 'X-HTTP-Method-Override: POST\r\nX-Evil: evil\r\n')],
  ])('%s puts nothing of its own into the store', async (_title, request) => {
    const path = fresh()
    let body = ''
    upstream.on(path, (socket, received) => {
      body = received.body.toString('latin1')
      answer(200, `body=${body} method=${received.method}`, ['Cache-Control: max-age=60'])(socket, received)
    })
    await ask(request(path))
    const { body: page } = await ask(get(path))
    expect(page).toBe('body= method=GET')
  })

  it('the target’s authority counts, not the Host beside it', async () => {
    const path = fresh()
    upstream.on(path, mirror)
    await ask(get(`http://evil.test${path}`, '', 'a.test'))
    const { response, body } = await ask(get(path, '', 'a.test'))
    expect(field(response, 'cache-status')).not.toContain('hit')
    expect(body).not.toContain('evil')
  })

  it.each(['a.test:80', 'A.TEST', 'a.test:8080', 'b.test', 'a.test.'])(
    'the Host %s is its own or the same, never mixed',
    async (host) => {
      const path = fresh()
      upstream.on(path, mirror)
      await ask(get(path, '', host))
      const { body, response } = await ask(get(path))
      if (field(response, 'cache-status')?.includes('hit')) expect(body.toLowerCase()).toContain('host: a.test\r\n')
      else expect(body).toContain('Host: a.test\r\n')
    },
  )

  it.each([400, 401, 403, 404, 405, 413, 414, 431, 500, 501, 503])(
    'a %i that a request provoked is stored only when the service says so',
    async (status) => {
      // Absence is what a ttl may keep, too: who gives one lets a 404 be stored.
      for (const path of status === 404 ? [fresh()] : [fresh(), fresh('/ttl/page')]) {
        upstream.on(path, (socket, request) => {
          const bad = field(request, 'x-bad') !== undefined
          answer(bad ? status : 200, bad ? 'evil' : 'fine')(socket, request)
        })
        await ask(get(path, 'X-Bad: 1\r\n'))
        expect((await ask(get(path))).body).toBe('fine')
      }
    },
  )

  it('one who asks for a range fills the store with no part', async () => {
    const path = fresh()
    upstream.on(path, (socket, request) => {
      if (field(request, 'range') === undefined)
        answer(200, 'whole page', ['Cache-Control: max-age=60'])(socket, request)
      else answer(206, 'part', ['Content-Range: bytes 0-3/10', 'Cache-Control: max-age=60'])(socket, request)
    })
    await ask(get(path, 'Range: bytes=0-3\r\n'))
    const { status, body } = await ask(get(path))
    expect([status, body]).toEqual([200, 'whole page'])
  })

  it('HEAD fills it with no empty page', async () => {
    const path = fresh()
    upstream.on(path, answer(200, 'page', ['Cache-Control: max-age=60']))
    await send(gateway.port, get(path).replace('GET', 'HEAD'), { responses: 1 })
    expect((await ask(get(path))).body).toBe('page')
  })

  it('a page of one coding is not given to who cannot read it', async () => {
    const path = fresh('/squeezed/page')
    upstream.on(path, answer(200, 'page '.repeat(100), ['Cache-Control: max-age=60', 'Content-Type: text/plain']))
    const squeezed = await ask(get(path, 'Accept-Encoding: gzip\r\n'))
    expect(field(squeezed.response, 'content-encoding')).toBe('gzip')
    const plain = await ask(get(path))
    expect([field(plain.response, 'content-encoding'), plain.body]).toEqual([undefined, 'page '.repeat(100)])
  })

  it('Vary on Origin keeps what CORS says apart', async () => {
    const path = fresh()
    upstream.on(path, (socket, request) =>
      answer(200, 'page', [
        'Cache-Control: max-age=60',
        'Vary: Origin',
        `Access-Control-Allow-Origin: ${field(request, 'origin') ?? 'null'}`,
      ])(socket, request),
    )
    await ask(get(path, 'Origin: https://evil.test\r\n'))
    const { response } = await ask(get(path, 'Origin: https://good.test\r\n'))
    expect(field(response, 'access-control-allow-origin')).toBe('https://good.test')
  })

  it('an answer that the service splits or lies about is stored for nobody', async () => {
    const path = fresh()
    upstream.on(path, (socket) => {
      socket.write(
        'HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 2\r\n\r\nok' +
          'HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nContent-Length: 4\r\n\r\nevil',
      )
    })
    const other = fresh()
    upstream.on(other, answer(200, 'other', ['Cache-Control: max-age=60']))
    await ask(get(path))
    expect((await ask(get(other))).body).toBe('other')
    expect((await ask(get(path))).body).toBe('ok')
  })

  it('many variants stay within bounds: the page that all want is still there', async () => {
    const path = fresh()
    upstream.on(path, (socket, request) =>
      answer(200, `for ${field(request, 'accept-language') ?? 'all'}`, [
        'Cache-Control: max-age=60',
        'Vary: Accept-Language',
      ])(socket, request),
    )
    const client = new RawClient(gateway.port)
    await client.send(Array.from({ length: 300 }, (_, i) => get(path, `Accept-Language: x${i}\r\n`)).join(''))
    await client.answers(300)
    client.close()
    expect((await ask(get(path, 'Accept-Language: de\r\n'))).body).toBe('for de')
  })
})

describe('deception: a page of one client under a name that looks static', () => {
  const account: Script = (socket, request) =>
    answer(200, `secret of ${field(request, 'cookie') ?? 'nobody'}`, ['Content-Type: text/html'])(socket, request)
  it.each([
    '/account/x.css',
    '/account/x.js?v=1',
    '/account;x.css',
    '/account%3Fx.css',
    '/account%23x.css',
    '/account/..%2Fstatic/x.css',
    '/static/../account/x.css',
    '/static/%2e%2e/account/x.css',
    '/account/%0ax.css',
    '/account%00.css',
    '/account\\x.css',
    '/robots.txt/account',
  ])('%s is kept by what its answer says, not by its name', async (target) => {
    upstream.otherwise(account)
    await ask(get(target, 'Cookie: victim\r\n'))
    const { body, response } = await ask(get(target))
    expect(body).not.toContain('victim')
    if (response !== undefined) expect(field(response, 'cache-status') ?? '').not.toContain('hit')
  })

  it.each([
    ['private', ['Cache-Control: private, max-age=60']],
    ['no-store', ['Cache-Control: no-store']],
    ['nothing at all', []],
    ['a cookie it sets, without a word on caching', ['Set-Cookie: id=victim']],
    ['a cookie and private', ['Set-Cookie: id=victim', 'Cache-Control: private']],
    ['Vary: *', ['Vary: *', 'Cache-Control: max-age=60']],
    ['Vary: Cookie', ['Vary: Cookie', 'Cache-Control: max-age=60']],
  ])('what the answer says is enough: %s', async (_title, fields) => {
    for (const base of ['/page', '/ttl/page']) {
      if (base === '/ttl/page' && fields.length === 0) continue // a ttl is the operator's word for such answers
      const path = fresh(base)
      upstream.on(path, (socket, request) =>
        answer(200, `secret of ${field(request, 'cookie') ?? 'nobody'}`, fields)(socket, request),
      )
      await ask(get(path, 'Cookie: victim\r\n'))
      const { body, response } = await ask(get(path))
      expect(body).toBe('secret of nobody')
      if (!fields.some((line) => line.startsWith('Set-Cookie'))) expect(field(response, 'set-cookie')).toBeUndefined()
    }
  })

  it('what came for credentials is for who has them (RFC 9111 §3.5)', async () => {
    const path = fresh()
    upstream.on(path, (socket, request) =>
      answer(200, `for ${field(request, 'authorization') ?? 'nobody'}`, ['Cache-Control: max-age=60'])(socket, request),
    )
    await ask(get(path, 'Authorization: Bearer victim\r\n'))
    expect((await ask(get(path))).body).toBe('for nobody')
  })

  it('nor does HTTP/2 change whose page it is', async () => {
    const path = fresh()
    upstream.on(path, mirror)
    await sendH2(gateway.port, {
      fields: [
        [':method', 'GET'],
        [':scheme', 'https'],
        [':path', path],
        [':authority', 'evil.test'],
        ['x-forwarded-host', 'evil.test'],
      ],
    })
    expect((await ask(get(path))).body).not.toContain('evil')
  })
})
