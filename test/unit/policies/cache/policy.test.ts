import { describe, expect, it } from 'vitest'
import { LocalReply } from '../../../../src/local-reply.ts'
import { Bench } from './harness.ts'

const FRESH = { 'Cache-Control': 'max-age=60' }

describe('a fresh answer', () => {
  it('is given again without asking the origin, with its age and Cache-Status', () => {
    const bench = new Bench()
    const first = bench.fetch({}, 200, { ...FRESH, ETag: '"a"', 'X-A': '1' }, 'hello')
    expect(first.text).toBe('hello')
    expect(first.get('cache-status')).toBe('fluxor; fwd=uri-miss; fwd-status=200; stored')
    bench.pass(10)
    const again = bench.ask()
    expect(bench.origin).toHaveLength(1)
    expect([again.status, again.text, again.length, again.ended]).toEqual([200, 'hello', 5, true])
    expect(again.get('x-a')).toBe('1')
    expect(again.get('age')).toBe('10')
    expect(again.get('cache-status')).toBe('fluxor; hit; ttl=50')
    expect(again.x.cacheStatus).toBe('hit')
  })

  it('is not given once it is stale', () => {
    const bench = new Bench()
    bench.fetch({}, 200, FRESH)
    bench.pass(60)
    bench.ask()
    expect(bench.origin).toHaveLength(2)
  })

  it('answers HEAD, without the body but with its length', () => {
    const bench = new Bench()
    bench.fetch({}, 200, FRESH, 'hello')
    const head = bench.ask({ method: 'HEAD' })
    expect([head.status, head.length, head.text, head.ended]).toEqual([200, 5, '', true])
    expect(bench.origin).toHaveLength(1)
  })

  it('is kept apart by path, query and host', () => {
    const bench = new Bench()
    bench.fetch({ path: '/a?x=1' }, 200, FRESH)
    for (const path of ['/a', '/a?x=2', '/b?x=1']) bench.ask({ path })
    expect(bench.origin).toHaveLength(4)
    bench.ask({ path: '/a?x=1' })
    expect(bench.origin).toHaveLength(4)
  })

  it('loses what the route replaces and what belongs to one connection', () => {
    const bench = new Bench({}, { responseDrop: new Set(['server']) })
    bench.fetch({}, 200, { ...FRESH, Server: 'x', 'Proxy-Authenticate': 'Basic', Age: '5' })
    const hit = bench.ask()
    expect(hit.get('server')).toBeUndefined()
    expect(hit.get('proxy-authenticate')).toBeUndefined()
    expect(hit.get('age')).toBe('5')
  })

  it('has a Date, the time of its receipt, when the origin gave none', () => {
    const bench = new Bench()
    const client = bench.ask()
    bench.last.reply(200, FRESH, 'x')
    const date = bench.date
    expect(client.get('date')).toBe(date)
    bench.pass(5)
    expect(bench.ask().get('date')).toBe(date)
  })

  it('is given in pieces to a client that reads slowly', () => {
    const bench = new Bench({}, { maxObjectBytes: 1_000_000 })
    bench.fetch({}, 200, FRESH, 'x'.repeat(900_000))
    const client = bench.ask({ slow: true })
    expect([client.writes, client.ended]).toEqual([1, false])
    for (let i = 0; i < 4; i++) client.source!.resume()
    expect(client.text).toHaveLength(900_000)
    expect(client.ended).toBe(true)
  })
})

describe('what is stored', () => {
  it.each([
    ['no-store', { 'Cache-Control': 'max-age=60, no-store' }],
    ['private', { 'Cache-Control': 'private, max-age=60' }],
    ['Vary: *', { ...FRESH, Vary: 'Foo, *' }],
    ['nothing said', {}],
    ['only a validator', { ETag: '"a"' }],
    ['CDN-Cache-Control: no-store', { ...FRESH, 'CDN-Cache-Control': 'no-store' }],
    ['an unknown status under must-understand', { 'Cache-Control': 'max-age=60, must-understand' }, 599],
    ['a part', FRESH, 206],
  ])('not: %s', (_what, fields, status = 200) => {
    const bench = new Bench()
    bench.fetch({}, status, fields as Record<string, string>)
    bench.ask()
    expect(bench.origin).toHaveLength(2)
  })

  it.each([
    ['s-maxage over max-age', { 'Cache-Control': 'max-age=0, s-maxage=60' }],
    ['Expires', { Expires: 'Thu, 01 Jan 2026 12:01:00 GMT' }],
    ['CDN-Cache-Control over no-store', { 'Cache-Control': 'no-store', 'CDN-Cache-Control': 'max-age=60' }],
    ['no-store with must-understand and a known status', { 'Cache-Control': 'max-age=60, no-store, must-understand' }],
    ['an error with explicit freshness', FRESH, 503],
    ['Set-Cookie with explicit freshness', { ...FRESH, 'Set-Cookie': 'a=b' }],
  ])('yes: %s', (_what, fields, status = 200) => {
    const bench = new Bench()
    bench.fetch({}, status, fields as Record<string, string>)
    bench.ask()
    expect(bench.origin).toHaveLength(1)
  })

  it('under ttl: what the origin says nothing about, but no cookies and no errors', () => {
    for (const [status, fields, stored] of [
      [200, {}, true],
      [404, {}, true],
      [500, {}, false],
      [302, {}, false],
      [200, { 'Set-Cookie': 'a=b' }, false],
      [200, { 'Cache-Control': 'private' }, false],
      [200, { 'Cache-Control': 'no-cache' }, false],
      [200, { 'Cache-Control': 'max-age=0' }, false],
    ] as const) {
      const bench = new Bench({ ttl: '60s' })
      bench.fetch({}, status, fields)
      bench.ask()
      expect([status, fields, bench.origin.length === 1]).toEqual([status, fields, stored])
    }
  })

  it('under respectOrigin: false the ttl replaces what the origin says, but private stays private', () => {
    const bench = new Bench({ ttl: '60s', respectOrigin: false })
    bench.fetch({ path: '/a' }, 200, { 'Cache-Control': 'no-cache, max-age=0' })
    bench.fetch({ path: '/b' }, 200, { 'Cache-Control': 'private' })
    bench.ask({ path: '/a' })
    bench.ask({ path: '/b' })
    expect(bench.origin).toHaveLength(3)
  })

  it('guesses from Last-Modified only when told to', () => {
    const fields = { 'Last-Modified': 'Wed, 31 Dec 2025 12:00:00 GMT' }
    const off = new Bench()
    off.fetch({}, 200, fields)
    off.ask()
    expect(off.origin).toHaveLength(2)
    const on = new Bench({ heuristic: '10%' })
    on.fetch({}, 200, fields)
    on.pass(8639)
    on.ask()
    expect(on.origin).toHaveLength(1)
    on.pass(1)
    on.ask()
    expect(on.origin).toHaveLength(2)
  })

  it('never an event stream, and its listeners get one each', () => {
    const bench = new Bench({ ttl: '60s' })
    const clients = [bench.ask(), bench.ask()]
    bench.last.head(200, { 'Content-Type': 'text/event-stream' })
    bench.origin[0]!.body('data: 1')
    expect(bench.origin).toHaveLength(2)
    expect(clients.map((client) => client.text)).toEqual(['data: 1', ''])
  })

  it('never a WebSocket handshake', () => {
    const bench = new Bench({ ttl: '60s' })
    const client = bench.ask({ fields: { Connection: 'upgrade', Upgrade: 'WebSocket' } })
    expect([client.x.cacheStatus, bench.last.x]).toEqual(['bypass', client.x])
  })

  it('never a body that broke off', () => {
    const bench = new Bench()
    const client = bench.ask()
    bench.last.head(200, FRESH, 10)
    bench.last.body('half')
    bench.last.x.client.abort()
    expect([client.aborted, client.ended]).toEqual([true, false])
    bench.ask()
    expect(bench.origin).toHaveLength(2)
  })

  it('never a body that ended before its length', () => {
    const bench = new Bench()
    bench.ask()
    bench.last.head(200, FRESH, 10)
    bench.last.body('half')
    bench.last.x.client.end('')
    bench.ask()
    expect(bench.origin).toHaveLength(2)
  })

  it('never a body larger than maxObjectBytes, announced or not', () => {
    const bench = new Bench({}, { maxObjectBytes: 10 })
    expect(bench.fetch({}, 200, FRESH, 'x'.repeat(11)).text).toHaveLength(11)
    const client = bench.ask()
    bench.last.head(200, FRESH)
    for (let i = 0; i < 3; i++) bench.last.body('12345')
    bench.last.x.client.end('')
    expect(client.text).toBe('123451234512345')
    bench.ask()
    expect(bench.origin).toHaveLength(3)
    expect(bench.cache.collectingBytes).toBe(0)
  })

  it('without the fields that no-cache and private list', () => {
    const bench = new Bench()
    const first = bench.fetch({}, 200, { 'Cache-Control': ['no-cache="a, b"', 'max-age=60'], A: '1', B: '2', C: '3' })
    expect(first.get('a')).toBe('1')
    const hit = bench.ask()
    expect([hit.get('a'), hit.get('b'), hit.get('c')]).toEqual([undefined, undefined, '3'])
  })
})

describe('who may share', () => {
  it('a request with Authorization is answered from the store only where the origin says so', () => {
    for (const [control, shared] of [
      ['max-age=60', false],
      ['max-age=60, public', true],
      ['max-age=60, must-revalidate', true],
      ['s-maxage=60', true],
    ] as const) {
      const bench = new Bench()
      bench.fetch({ fields: { Authorization: 'x' } }, 200, { 'Cache-Control': control })
      bench.ask()
      expect([control, bench.origin.length === 1]).toEqual([control, shared])
    }
  })

  it('an answer that is fresh by ttl alone is not given to a request with Authorization', () => {
    const bench = new Bench({ ttl: '60s' })
    bench.fetch({}, 200, {})
    bench.ask({ fields: { Authorization: 'x' } })
    expect(bench.origin).toHaveLength(2)
  })

  it('a route with identity stores for each subject apart', () => {
    const bench = new Bench({ ttl: '60s' }, { identified: true })
    const as = (subject: string) => ({ subject, fields: { Authorization: `Bearer ${subject}` } })
    bench.fetch(as('ann'), 200, {}, 'of ann')
    bench.fetch(as('bob'), 200, {}, 'of bob')
    expect(bench.origin).toHaveLength(2)
    expect(bench.ask(as('ann')).text).toBe('of ann')
    expect(bench.ask(as('bob')).text).toBe('of bob')
    expect(bench.origin).toHaveLength(2)
  })

  it('or for each value of a claim', () => {
    const bench = new Bench({ ttl: '60s', key: { claim: 'tenant' } }, { identified: true })
    bench.fetch({ subject: 'ann', claims: { tenant: 1 } }, 200, {}, 'one')
    expect(bench.ask({ subject: 'bob', claims: { tenant: 1 } }).text).toBe('one')
    bench.ask({ subject: 'eve', claims: { tenant: '1' } })
    bench.ask({ subject: 'joe' })
    expect(bench.origin).toHaveLength(3)
  })
})

describe('variants', () => {
  it('are kept side by side, chosen by what Vary names', () => {
    const bench = new Bench()
    const of = (foo: string) => ({ fields: { Foo: foo, Other: String(Math.random()) } })
    bench.fetch(of('1'), 200, { ...FRESH, Vary: 'Foo' }, 'one')
    bench.fetch(of('2'), 200, { ...FRESH, Vary: 'Foo' }, 'two')
    expect(bench.origin).toHaveLength(2)
    expect(bench.ask(of('1')).text).toBe('one')
    expect(bench.ask(of('2')).text).toBe('two')
    expect(bench.ask().get('cache-status')).toBeUndefined() // waits for the origin
    expect(bench.origin).toHaveLength(3)
  })

  it('share one answer for what means the same', () => {
    const bench = new Bench()
    bench.fetch({ fields: { 'Accept-Encoding': 'gzip, br' } }, 200, { ...FRESH, Vary: 'Accept-Encoding' })
    bench.ask({ fields: { 'Accept-Encoding': 'br,gzip;q=1.0' } })
    expect(bench.origin).toHaveLength(1)
  })

  it('follow the fields that the route names, without a Vary from the origin', () => {
    const bench = new Bench({ vary: 'Accept-Language' })
    bench.fetch({ fields: { 'Accept-Language': 'de' } }, 200, FRESH)
    bench.ask({ fields: { 'Accept-Language': 'en' } })
    expect(bench.origin).toHaveLength(2)
  })
})

describe('key control', () => {
  it('leaves query parameters out', () => {
    const bench = new Bench({ key: { query: { exclude: ['utm_*', 'fbclid'] } } })
    bench.fetch({ path: '/a?x=1&utm_source=z' }, 200, FRESH)
    bench.ask({ path: '/a?fbclid=2&x=1' })
    expect(bench.origin).toHaveLength(1)
    bench.ask({ path: '/a?x=2' })
    expect(bench.origin).toHaveLength(2)
  })
  it('takes only some', () => {
    const bench = new Bench({ key: { query: { include: ['x'] }, headers: 'X-Device' } })
    bench.fetch({ path: '/a?x=1&y=1' }, 200, FRESH)
    bench.ask({ path: '/a?y=2&x=1' })
    expect(bench.origin).toHaveLength(1)
    bench.ask({ path: '/a?x=1', fields: { 'X-Device': 'phone' } })
    expect(bench.origin).toHaveLength(2)
  })
})

describe('preconditions of the client', () => {
  const stored = {
    ...FRESH,
    ETag: '"a"',
    'Last-Modified': 'Wed, 31 Dec 2025 00:00:00 GMT',
    'Content-Type': 'text/plain',
  }

  it('are answered 304 from the store', () => {
    const bench = new Bench()
    bench.fetch({}, 200, stored)
    for (const fields of [
      { 'If-None-Match': '"x", W/"a"' },
      { 'If-Modified-Since': 'Wed, 31 Dec 2025 00:00:00 GMT' },
      { 'If-None-Match': '"a"', 'If-Modified-Since': 'Mon, 01 Jan 2001 00:00:00 GMT' },
    ] as Record<string, string>[]) {
      const client = bench.ask({ fields })
      expect([client.status, client.text, client.length]).toEqual([304, '', -1])
      expect([client.get('etag'), client.get('content-type')]).toEqual(['"a"', undefined])
    }
    expect(bench.ask({ fields: { 'If-None-Match': '"b"' } }).status).toBe(200)
    expect(bench.origin).toHaveLength(1)
  })

  it('do not keep a missing answer from being fetched whole', () => {
    const bench = new Bench()
    const client = bench.ask({ fields: { 'If-None-Match': '"a"' } })
    expect(bench.last.get('if-none-match')).toBeUndefined()
    bench.last.reply(200, stored, 'hello')
    expect([client.status, client.text]).toEqual([304, ''])
    expect(bench.ask().text).toBe('hello')
    expect(bench.origin).toHaveLength(1)
  })

  it('If-Match goes to the origin', () => {
    const bench = new Bench()
    bench.fetch({}, 200, stored)
    expect(bench.ask({ fields: { 'If-Match': '"a"' } }).x.cacheStatus).toBe('bypass')
    expect(bench.origin).toHaveLength(2)
  })
})

describe('ranges', () => {
  const bench = () => {
    const made = new Bench()
    made.fetch({}, 200, { ...FRESH, ETag: '"a"' }, '0123456789')
    return made
  }
  it('are cut from a stored whole', () => {
    const client = bench().ask({ fields: { Range: 'bytes=2-4' } })
    expect([client.status, client.text, client.length]).toEqual([206, '234', 3])
    expect(client.get('content-range')).toBe('bytes 2-4/10')
  })
  it('beyond the end are 416', () => {
    const client = bench().ask({ fields: { Range: 'bytes=10-' } })
    expect([client.status, client.get('content-range')]).toEqual([416, 'bytes */10'])
  })
  it('hold only while If-Range does', () => {
    expect(bench().ask({ fields: { Range: 'bytes=0-0', 'If-Range': '"a"' } }).status).toBe(206)
    expect(bench().ask({ fields: { Range: 'bytes=0-0', 'If-Range': '"b"' } }).status).toBe(200)
  })
  it('of what is not stored pass through', () => {
    const made = new Bench()
    const client = made.ask({ fields: { Range: 'bytes=0-1' } })
    expect(made.last.get('range')).toBe('bytes=0-1')
    made.last.reply(206, { ...FRESH, 'Content-Range': 'bytes 0-1/9' }, 'ab')
    expect([client.status, client.text]).toEqual([206, 'ab'])
    made.ask()
    expect(made.origin).toHaveLength(2)
  })
})

describe('validation', () => {
  it('asks with the stored validators, and takes the fields of the 304', () => {
    const bench = new Bench()
    bench.fetch(
      {},
      200,
      { ...FRESH, ETag: '"a"', 'Last-Modified': 'Wed, 31 Dec 2025 00:00:00 GMT', 'X-A': '1', 'X-B': '1' },
      'hello',
    )
    bench.pass(61)
    const client = bench.ask({ fields: { 'If-None-Match': '"other"' } })
    expect(bench.last.get('if-none-match')).toBe('"a"')
    expect(bench.last.get('if-modified-since')).toBe('Wed, 31 Dec 2025 00:00:00 GMT')
    bench.last.reply(304, {
      Date: bench.date,
      ETag: '"a"',
      'X-A': '2',
      'Content-Length': '9',
      'Cache-Control': 'max-age=30',
    })
    expect([client.status, client.text, client.get('x-a'), client.get('x-b')]).toEqual([200, 'hello', '2', '1'])
    expect(client.get('cache-status')).toBe('fluxor; fwd=stale; fwd-status=304; ttl=30')
    expect(client.x.cacheStatus).toBe('revalidated')
    bench.pass(29)
    expect(bench.ask().get('x-a')).toBe('2')
    expect(bench.origin).toHaveLength(2)
  })

  it('gives 304 to a client whose copy was confirmed', () => {
    const bench = new Bench()
    bench.fetch({}, 200, { ...FRESH, ETag: '"a"' })
    bench.pass(61)
    const client = bench.ask({ fields: { 'If-None-Match': '"a"' } })
    bench.last.reply(304, { ETag: '"a"' })
    expect(client.status).toBe(304)
  })

  it('replaces the answer when the origin sends another', () => {
    const bench = new Bench()
    bench.fetch({}, 200, { ...FRESH, ETag: '"a"' }, 'old')
    bench.pass(61)
    expect(bench.fetch({}, 200, { ...FRESH, ETag: '"b"' }, 'new').text).toBe('new')
    expect(bench.ask().text).toBe('new')
  })

  it('comes before each use of no-cache, also when it is fresh', () => {
    const bench = new Bench()
    bench.fetch({}, 200, { 'Cache-Control': 'no-cache, max-age=60', ETag: '"a"' })
    const client = bench.ask()
    expect(bench.last.get('if-none-match')).toBe('"a"')
    bench.last.reply(304, { ETag: '"a"' })
    expect([client.status, client.text]).toEqual([200, 'body'])
  })

  it('drops the answer when the 304 speaks of another', () => {
    const bench = new Bench()
    bench.fetch({}, 200, { ...FRESH, ETag: '"a"' })
    bench.pass(61)
    const client = bench.ask()
    bench.last.reply(304, { ...FRESH, ETag: '"b"' })
    expect(client.text).toBe('body')
    bench.ask()
    expect(bench.origin).toHaveLength(3)
    expect(bench.last.get('if-none-match')).toBeUndefined()
  })
})

describe('a 304 that takes the answer back', () => {
  it('serves the one who asked, with the cookie it sets, and nobody else', () => {
    const bench = new Bench()
    bench.fetch({}, 200, { ...FRESH, ETag: '"a"' })
    bench.pass(61)
    const asked = bench.ask()
    const waiting = bench.ask()
    bench.last.reply(304, { ETag: '"a"', 'Cache-Control': 'private', 'Set-Cookie': 's=1' })
    expect([asked.text, asked.get('set-cookie')]).toEqual(['body', 's=1'])
    expect([waiting.status, bench.origin.length]).toEqual([0, 3])
    expect(bench.last.get('if-none-match')).toBeUndefined()
  })
})

describe('the directives of a request', () => {
  const asked = (control: string, age: number, stored: Record<string, string> = FRESH) => {
    const bench = new Bench()
    bench.fetch({}, 200, stored)
    bench.pass(age)
    const client = bench.ask({ fields: { 'Cache-Control': control } })
    return { client, hit: bench.origin.length === 1, bench }
  }
  it.each([
    ['no-cache', 0, false],
    ['no-store', 0, false],
    ['max-age=0', 1, false],
    ['max-age=10', 11, false],
    ['max-age=10', 10, true],
    ['min-fresh=30', 31, false],
    ['min-fresh=30', 30, true],
    ['max-stale', 100, true],
    ['max-stale=10', 70, true],
    ['max-stale=10', 71, false],
    ['nothing-to-see-here', 10, true],
  ])('%s at age %i', (control, age, hit) => expect(asked(control, age).hit).toBe(hit))

  it('max-stale does not reach what must be revalidated', () => {
    for (const directive of ['must-revalidate', 'proxy-revalidate', 's-maxage=60']) {
      expect(asked('max-stale', 61, { 'Cache-Control': `max-age=60, ${directive}` }).hit).toBe(false)
    }
  })

  it('only-if-cached is answered 504 when nothing is stored', () => {
    const bench = new Bench()
    const client = bench.ask({ fields: { 'Cache-Control': 'only-if-cached' } })
    expect([client.status, client.text]).toEqual([504, 'ONLY_IF_CACHED'])
    expect(bench.origin).toHaveLength(0)
  })
})

describe('stale use', () => {
  it('while revalidating: at once, with one fetch behind it', () => {
    const bench = new Bench({ staleWhileRevalidate: '30s' })
    bench.fetch({}, 200, { ...FRESH, ETag: '"a"' }, 'old')
    bench.pass(65)
    const stale = bench.ask()
    expect([stale.text, stale.get('cache-status')]).toEqual([
      'old',
      'fluxor; hit; ttl=-5; detail=stale-while-revalidate',
    ])
    bench.ask()
    expect(bench.origin).toHaveLength(2)
    expect(bench.last.get('if-none-match')).toBe('"a"')
    bench.last.reply(200, { ...FRESH, ETag: '"b"' }, 'new')
    expect(bench.ask().text).toBe('new')
    expect(bench.origin).toHaveLength(2)
  })

  it('tries again after a background fetch that failed, until the window is over', () => {
    const bench = new Bench()
    bench.fetch({}, 200, { 'Cache-Control': 'max-age=60, stale-while-revalidate=30' }, 'old')
    bench.pass(65)
    bench.ask()
    bench.last.x.client.head(503, '', 0)
    bench.last.x.client.end('')
    expect(bench.ask().text).toBe('old')
    expect(bench.origin).toHaveLength(3)
    bench.last.x.client.abort()
    bench.pass(25)
    expect(bench.ask().status).toBe(0)
  })

  it('instead of an error of the origin, and of its absence', () => {
    for (const outcome of ['503', 'UP_CONNECT', 'reset'] as const) {
      const bench = new Bench({ staleIfError: '1m' })
      bench.fetch({}, 200, FRESH, 'old')
      bench.pass(100)
      if (outcome === 'UP_CONNECT') bench.refuseWith = new LocalReply('UP_CONNECT')
      const client = bench.ask()
      if (outcome === '503') bench.last.reply(503, {}, 'sorry')
      if (outcome === 'reset') bench.last.x.client.abort()
      expect([outcome, client.status, client.text, client.x.cacheStatus]).toEqual([outcome, 200, 'old', 'stale'])
      expect(client.get('cache-status')).toContain('detail=stale-if-error')
      bench.pass(20)
      bench.refuseWith = new LocalReply('UP_CONNECT')
      expect(bench.ask().status).toBe(502)
    }
  })

  it('never of what must be revalidated', () => {
    for (const directive of ['must-revalidate', 'proxy-revalidate', 'no-cache', 's-maxage=60']) {
      const bench = new Bench({ staleIfError: '1h', staleIfShed: '1h', staleWhileRevalidate: '1h' })
      bench.fetch({}, 200, { 'Cache-Control': `max-age=60, ${directive}`, ETag: '"a"' })
      bench.pass(61)
      bench.refuseWith = new LocalReply('UP_RESET')
      expect([directive, bench.ask().status]).toEqual([directive, 502])
      bench.refuseWith = new LocalReply('BACKPRESSURE')
      expect([directive, bench.ask().status]).toEqual([directive, 503])
    }
  })

  it('not even of a fresh one, when the client wants it validated and the origin forbids stale use', () => {
    const bench = new Bench({ staleIfError: '1h' })
    bench.fetch({}, 200, { 'Cache-Control': 'max-age=60, must-revalidate' })
    const client = bench.ask({ fields: { 'Cache-Control': 'no-cache' } })
    bench.last.reply(503, {}, 'sorry')
    expect([client.status, client.text]).toEqual([503, 'sorry'])
  })

  it('instead of a 503 for want of capacity, and says so', () => {
    const bench = new Bench({ staleIfShed: '10m' })
    bench.fetch({}, 200, FRESH, 'old')
    bench.pass(100)
    bench.refuseWith = new LocalReply('BACKPRESSURE')
    const client = bench.ask()
    expect([client.status, client.text]).toEqual([200, 'old'])
    expect(client.get('cache-status')).toBe('fluxor; hit; ttl=-40; detail=stale-if-shed')
    bench.refuseWith = new LocalReply('UP_RESET')
    expect(bench.ask().status).toBe(502)
  })
})

describe('requests for one missing answer', () => {
  it('wait for one fetch and get the same', () => {
    const bench = new Bench()
    const clients = [bench.ask(), bench.ask(), bench.ask()]
    expect(bench.origin).toHaveLength(1)
    bench.last.head(200, FRESH, 10)
    bench.last.body('01234')
    clients.push(bench.ask())
    bench.last.body('56789')
    bench.last.x.client.end('')
    expect(clients.map((client) => client.text)).toEqual(Array(4).fill('0123456789'))
    expect(clients.every((client) => client.ended)).toBe(true)
    expect(clients[1]!.get('cache-status')).toBe('fluxor; fwd=uri-miss; fwd-status=200; collapsed')
    expect(bench.origin).toHaveLength(1)
    expect(bench.cache.fills.size).toBe(0)
    expect(bench.cache.collectingBytes).toBe(0)
  })

  it('do not fail when the first client leaves', () => {
    const bench = new Bench()
    const first = bench.ask()
    const second = bench.ask()
    bench.last.head(200, FRESH, 4)
    first.leave()
    expect(bench.last.aborted).toBe(false)
    bench.last.body('body')
    bench.last.x.client.end('')
    expect([second.text, second.ended]).toEqual(['body', true])
  })

  it('are given up when all have left', () => {
    const bench = new Bench()
    bench.ask().leave()
    expect(bench.last.aborted).toBe(true)
    expect(bench.last.x.finished).toBe(true)
    expect(bench.cache.fills.size).toBe(0)
  })

  it('go their own way at once when the answer is private, and do not wait again', () => {
    const bench = new Bench()
    const clients = [bench.ask(), bench.ask(), bench.ask()]
    bench.last.head(200, { 'Cache-Control': 'private' }, 3)
    expect(bench.origin).toHaveLength(3)
    for (const [i, forwarded] of bench.origin.entries()) {
      if (i > 0) forwarded.head(200, { 'Cache-Control': 'private' }, 3)
      forwarded.body(`no${i}`)
      forwarded.x.client.end('')
    }
    expect(clients.map((client) => client.text)).toEqual(['no0', 'no1', 'no2'])
    bench.ask()
    bench.ask()
    expect(bench.origin).toHaveLength(5)
  })

  it('still wait for one fetch after somebody has sent credentials of their own', () => {
    const bench = new Bench()
    bench.fetch({ fields: { Authorization: 'junk' } }, 200, FRESH)
    bench.ask()
    bench.ask()
    expect(bench.origin).toHaveLength(2)
  })

  it('do not wait with others when they bring credentials', () => {
    const bench = new Bench({ ttl: '60s' })
    const [plain, known] = [bench.ask(), bench.ask({ fields: { Authorization: 'x' } })]
    expect(bench.origin).toHaveLength(2)
    bench.origin[0]!.reply(200, {}, 'for all')
    expect([plain.text, known.text]).toEqual(['for all', ''])
  })

  it('go apart when the answer has to be validated before each use', () => {
    const bench = new Bench()
    const clients = [bench.ask(), bench.ask(), bench.ask()]
    bench.last.reply(200, { 'Cache-Control': 'max-age=60, no-cache', ETag: '"a"' }, 'one')
    expect(clients.map((client) => client.text)).toEqual(['one', '', ''])
    expect(bench.origin).toHaveLength(3)
  })

  it('go apart when Vary turns out to tell them apart', () => {
    const bench = new Bench()
    const a = bench.ask({ fields: { Foo: '1' } })
    const b = bench.ask({ fields: { Foo: '2' } })
    bench.last.reply(200, { ...FRESH, Vary: 'Foo' }, 'one')
    expect([a.text, b.text]).toEqual(['one', ''])
    bench.last.reply(200, { ...FRESH, Vary: 'Foo' }, 'two')
    expect(b.text).toBe('two')
  })

  it('get the refusal of the upstream all, and places each its own', () => {
    const bench = new Bench()
    const clients = [bench.ask(), bench.ask()]
    bench.last.x.client.abort()
    expect(clients.map((client) => client.status)).toEqual([502, 502])
    const more = [bench.ask(), bench.ask()]
    const { x } = bench.last
    const fill = x.client as unknown as { refused(reply: LocalReply): void }
    fill.refused(new LocalReply('BACKPRESSURE'))
    expect(more[0]!.status).toBe(503)
    expect(bench.origin).toHaveLength(3)
    bench.last.reply(200, FRESH)
    expect(more[1]!.status).toBe(200)
  })

  it('are not held back by a slow one, unless the body is too large to be kept', () => {
    const bench = new Bench({}, { maxObjectBytes: 10 })
    const slow = bench.ask({ slow: true })
    const quick = bench.ask()
    bench.last.head(200, FRESH)
    expect(bench.last.body('12345')).toBe(true)
    expect(bench.last.body('67890')).toBe(true)
    expect(bench.last.body('abcde')).toBe(false)
    expect([slow.text, quick.text]).toEqual(['12345', '1234567890abcde'])
    let resumed = 0
    bench.last.x.client.source = { pause() {}, resume: () => resumed++, cancel() {} }
    slow.slow = false
    slow.source!.resume()
    expect([slow.text, resumed]).toEqual(['1234567890abcde', 1])
    bench.last.x.client.end('')
    expect([slow.ended, quick.ended]).toEqual([true, true])
  })

  it('pass interim answers on', () => {
    const bench = new Bench()
    const client = bench.ask()
    bench.last.x.client.informational(103, 'Link: </a>\r\n')
    bench.last.reply(200, FRESH)
    expect(client.interim).toEqual([103])
    expect(bench.ask().interim).toEqual([])
  })

  it('are answered 504 when the fetch takes longer than the route allows', () => {
    const bench = new Bench()
    const client = bench.ask()
    bench.last.x.deadlineMs = 100
    bench.cache.tick(99)
    expect(client.status).toBe(0)
    bench.cache.tick(100)
    expect([client.status, bench.last.aborted]).toEqual([504, true])
  })
})

describe('invalidation', () => {
  it('follows a successful unsafe request, of any method, and its Location', () => {
    for (const method of ['POST', 'PUT', 'DELETE', 'M-SEARCH']) {
      const bench = new Bench()
      bench.fetch({ path: '/a' }, 200, FRESH)
      bench.fetch({ path: '/b' }, 200, FRESH)
      bench.fetch({ path: '/c?d' }, 200, FRESH)
      bench.fetch({ path: '/a', method }, 500, {})
      bench.ask({ path: '/a' })
      expect(bench.origin).toHaveLength(4)
      bench.fetch({ path: '/a', method }, 201, { Location: '/b', 'Content-Location': 'http://example.com/c?d' })
      for (const path of ['/a', '/b', '/c?d']) bench.ask({ path })
      expect([method, bench.origin.length]).toEqual([method, 8])
    }
  })

  it('does not reach another origin', () => {
    const bench = new Bench()
    bench.fetch({ path: '/b' }, 200, FRESH)
    bench.fetch({ path: '/a', method: 'POST' }, 200, { Location: 'http://other.example/b' })
    bench.ask({ path: '/b' })
    expect(bench.origin).toHaveLength(2)
  })

  it('keeps an answer that was on its way out of the store', () => {
    const bench = new Bench()
    const client = bench.ask()
    const slow = bench.last
    bench.fetch({ method: 'POST' }, 200, {})
    slow.reply(200, FRESH, 'old')
    expect(client.text).toBe('old')
    bench.ask()
    expect(bench.origin).toHaveLength(3)
  })
})

describe('a purge while an answer is on its way', () => {
  it.each([
    [{ tags: ['x'] }, false],
    [{ tags: ['other'] }, true],
    [{ urls: ['/'] }, false],
    [{ urls: ['/other'] }, true],
    [{ prefixes: ['http://example.com'] }, false],
  ])('%j: stored %s', (request, stored) => {
    for (const when of ['before the head', 'after it']) {
      const bench = new Bench()
      const client = bench.ask()
      if (when === 'before the head') bench.cache.purge(request)
      bench.last.head(200, { ...FRESH, 'Cache-Tag': 'x' }, 4)
      if (when === 'after it') bench.cache.purge(request)
      bench.last.body('body')
      bench.last.x.client.end('')
      expect(client.text).toBe('body')
      bench.ask()
      expect([when, bench.origin.length === 1]).toEqual([when, stored])
    }
  })
})

describe('purging', () => {
  const filled = () => {
    const bench = new Bench({ staleIfError: '1h' })
    bench.fetch({ path: '/a/1' }, 200, { ...FRESH, 'Surrogate-Key': 'x y' })
    bench.fetch({ path: '/a/2?q' }, 200, { ...FRESH, 'Cache-Tag': 'y, z' })
    bench.fetch({ path: '/b' }, 200, FRESH)
    return bench
  }
  it.each([
    [{ urls: ['http://example.com/a/1'] }, 1],
    [{ urls: ['/a/2?q'] }, 1],
    [{ urls: ['/a/2'] }, 0],
    [{ prefixes: ['http://example.com/a/'] }, 2],
    [{ prefixes: ['/'] }, 3],
    [{ tags: ['y'] }, 2],
    [{ tags: ['x', 'z'] }, 2],
    [{ tags: ['__proto__'] }, 0],
  ])('%j removes %i', (request, count) => {
    const bench = filled()
    expect(bench.cache.purge(request)).toBe(count)
    expect(bench.cache.purge(request)).toBe(0)
    expect(bench.cache.store.size).toBe(3 - count)
  })

  it('soft keeps the answer for when the origin fails', () => {
    const bench = filled()
    expect(bench.cache.purge({ tags: ['x'], soft: true })).toBe(1)
    bench.refuseWith = new LocalReply('UP_CONNECT')
    expect(bench.ask({ path: '/a/1' }).status).toBe(200)
    bench.refuseWith = undefined
    bench.ask({ path: '/a/1' })
    expect(bench.origin).toHaveLength(4)
  })
})

describe('the store', () => {
  it('stays within its bytes, the least recently used going first', () => {
    const bench = new Bench({}, { maxBytes: 10_000 })
    for (let i = 0; i < 20; i++) {
      bench.fetch({ path: `/${i}` }, 200, { ...FRESH, 'Cache-Tag': `t${i}` }, 'x'.repeat(1000))
      bench.ask({ path: '/0' })
    }
    expect(bench.cache.store.bytes).toBeLessThanOrEqual(10_000)
    expect(bench.cache.store.size).toBeLessThan(10)
    expect(bench.origin).toHaveLength(20)
    expect(bench.cache.purge({ tags: ['t1'] })).toBe(0)
  })

  it('keeps what fits when a reload makes it smaller', () => {
    const bench = new Bench()
    for (let i = 0; i < 5; i++) bench.fetch({ path: `/${i}` }, 200, FRESH, 'x'.repeat(1000))
    bench.cache.store.resize(4000)
    bench.ask({ path: '/4' })
    expect(bench.origin).toHaveLength(5)
    bench.ask({ path: '/0' })
    expect(bench.origin).toHaveLength(6)
    expect(bench.cache.purge({ prefixes: ['/'] })).toBeGreaterThan(0)
  })
})
