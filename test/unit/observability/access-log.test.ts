import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type ClientStream, Exchange, type Outcome } from '../../../src/exchange.ts'
import { headFromText } from '../../../src/http1/message-head.ts'
import { LocalReply } from '../../../src/local-reply.ts'
import { type AccessLogOptions, compileAccessLog } from '../../../src/observability/access-log.ts'
import { isSecretName, jsonText, redactQuery, redactUrl } from '../../../src/observability/log-text.ts'

const ORIGIN = Date.UTC(2026, 0, 31, 23, 59, 50)
const ALL: AccessLogOptions = { format: 'json', sample: 1, only: 'all', slowerThan: 1000 }

function exchange(
  fields: Partial<Exchange> = {},
  head = 'GET /orders HTTP/1.1\r\nHost: api.example.com\r\n\r\n',
  headSent = true,
) {
  const client = { bytesSent: 321, headSent } as ClientStream
  const x = new Exchange(headFromText('request', head), client, 9000)
  return Object.assign(x, { path: '/orders', clientAddress: '192.0.2.1', status: 200, requestId: 'abc' }, fields)
}

function logged(
  options: Partial<AccessLogOptions>,
  x: Exchange,
  outcome: Outcome = 'completed',
  nowMs = 9012.345,
): string {
  const lines: string[] = []
  compileAccessLog(
    { ...ALL, ...options },
    (line) => lines.push(line),
    () => ORIGIN,
  )?.(x, outcome, nowMs)
  expect(lines.length).toBeLessThanOrEqual(1)
  return lines[0] ?? ''
}

it.each(['json', 'combined'] as const)('a clock that is set, to and fro, is followed (%s)', (format) => {
  let origin = ORIGIN
  const lines: string[] = []
  const log = compileAccessLog({ ...ALL, format }, (line) => lines.push(line), () => origin)! // biome-ignore format: short
  const at = (nowMs: number) => {
    log(exchange(), 'completed', nowMs)
    return /\d\d:\d\d:\d\d(?=[. ])/.exec(lines.at(-1)!)![0]
  }
  expect(at(1000)).toBe('23:59:51')
  origin -= 3_600_000
  expect(at(2000)).toBe('22:59:52')
  origin += 7_200_000
  expect(at(3000)).toBe('00:59:53')
})

describe('a JSON line', () => {
  it('tells the whole story of an exchange', () => {
    const head = [
      'GET /orders?id=7&access_token=s3cret HTTP/1.1', 'Host: api.example.com', 'User-Agent: curl/8',
      'traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01', 'X-Canary: 1', 'Authorization: Bearer s3cret', '', '',
    ].join('\r\n') // biome-ignore format: rows
    const x = exchange(
      {
        query: '?id=7&access_token=s3cret',
        route: { name: 'orders' } as Exchange['route'],
        identity: { subject: 'ann', claims: {} },
        tier: 'premium', queuedMs: 2.5, upstream: 'app', endpoint: 'http://10.0.0.1:80', upstreamHeadMs: 9010,
        attempts: 2, cacheStatus: 'miss',
      },
      head,
    ) // biome-ignore format: rows
    expect(JSON.parse(logged({ headers: ['x-canary', 'authorization'] }, x))).toEqual({
      '@timestamp': '2026-01-31T23:59:59.012Z',
      'http.request.method': 'GET',
      'url.path': '/orders',
      'url.query': 'id=7&access_token=***',
      'url.domain': 'api.example.com',
      'http.response.status_code': 200,
      'http.response.bytes': 321,
      'client.address': '192.0.2.1',
      route: 'orders',
      duration_ms: 12.345,
      queue_ms: 2.5,
      upstream: 'app',
      endpoint: 'http://10.0.0.1:80',
      upstream_ms: 7.5,
      attempts: 2,
      cache: 'miss',
      tier: 'premium',
      'user.id': 'ann',
      request_id: 'abc',
      trace_id: '0af7651916cd43dd8448eb211c80319c',
      user_agent: 'curl/8',
      'http.request.header.x-canary': '1',
    })
  })

  it('names the code and reason of a refusal, and who left', () => {
    const refused = exchange({ status: 503, reply: new LocalReply('BACKPRESSURE', { reason: 'CCU_FULL' }) })
    expect(JSON.parse(logged({}, refused))).toMatchObject({
      code: 'BACKPRESSURE',
      reason: 'CCU_FULL',
      'http.response.status_code': 503,
    })
    expect(JSON.parse(logged({}, exchange({}, undefined, false), 'aborted'))).toMatchObject({
      outcome: 'aborted',
      'http.response.status_code': 499,
    })
  })

  it('cannot be forged or broken by what a client sends', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), fc.string({ unit: 'binary' }), (path, subject) => {
        const line = logged({}, exchange({ path, identity: { subject, claims: {} } }))
        expect(line.indexOf('\n')).toBe(line.length - 1)
        expect(line.slice(0, -1)).not.toMatch(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]/)
        expect(JSON.parse(line)['user.id']).toBe(subject)
      }),
    )
  })
})

describe('the Apache formats', () => {
  it('look as Apache writes them', () => {
    const head = 'GET / HTTP/1.0\r\nReferer: https://u:p@x.example/a?token=1\r\nUser-Agent: a"b\\\x80\r\n\r\n'
    const x = exchange({ query: '?key=1' }, head)
    const common = '192.0.2.1 - - [31/Jan/2026:23:59:59 +0000] "GET /orders?key=*** HTTP/1.0" 200 321'
    expect(logged({ format: 'common' }, x)).toBe(`${common}\n`)
    expect(logged({ format: 'combined' }, x)).toBe(`${common} "https://***@x.example/a?token=***" "a\\"b\\\\\\x80"\n`)
    const user = exchange({ identity: { subject: 'a b\n"', claims: {} } })
    expect(logged({ format: 'common' }, user)).toContain(' - a\\x20b\\x0a\\" [')
  })
})

describe('what is logged', () => {
  it.each([
    ['all', [true, true, true, true]],
    ['errors', [false, false, true, true]],
    ['slow', [false, true, true, true]],
    ['none', [false, false, false, false]],
  ] as const)('only: %s', (only, [quick, slow, error, aborted]) => {
    expect(logged({ only }, exchange()) !== '').toBe(quick)
    expect(logged({ only }, exchange(), 'completed', 10_001) !== '').toBe(slow)
    expect(logged({ only }, exchange({ status: 502 })) !== '').toBe(error)
    expect(logged({ only }, exchange(), 'aborted') !== '').toBe(aborted)
  })

  it('is a share of the exchanges when sampled, and every error', () => {
    let lines = 0
    const log = compileAccessLog(
      { ...ALL, sample: 0.25 },
      () => lines++,
      () => ORIGIN,
    )!
    for (let i = 0; i < 100; i++) log(exchange(), 'completed', 9001)
    expect(lines).toBe(25)
    for (let i = 0; i < 10; i++) log(exchange({ status: 500 }), 'completed', 9001)
    expect(lines).toBe(35)
  })
})

describe('secrets in a query', () => {
  it.each([
    ['?a=1&b=2', '?a=1&b=2'],
    ['?Token=x&monkey=1', '?Token=***&monkey=1'],
    ['?access_token=x;id_token=y', '?access_token=***;id_token=***'],
    ['?%74oken=x', '?%74oken=***'],
    ['?%zz=x', '?%zz=***'],
    ['?api-key=x&key=y&user[password]=z', '?api-key=***&key=***&user[password]=***'],
    ['?X-Amz-Signature=abc&X-Amz-Credential=c&sig=d', '?X-Amz-Signature=***&X-Amz-Credential=***&sig=***'],
    ['?token=a=b', '?token=***'],
    ['?token=&client_secret', '?token=&client_secret'],
    ['?code=1&zipcode=2', '?code=***&zipcode=2'],
  ])('%s is written as %s', (query, expected) => {
    expect(redactQuery(query)).toBe(expected)
  })

  it('never survive, however the name is written', () => {
    const names = fc.constantFrom('token', 'key', 'secret', 'password', 'signature', 'access_token')
    const disguise = (name: string, mask: boolean[]) =>
      [...name].map((c, i) => (mask[i] ? `%${c.charCodeAt(0).toString(16)}` : i % 2 ? c.toUpperCase() : c)).join('')
    fc.assert(
      fc.property(names, fc.array(fc.boolean(), { maxLength: 12 }), (name, mask) => {
        expect(redactQuery(`?x=1&${disguise(name, mask)}=hidden&y=2`)).not.toContain('hidden')
      }),
    )
  })

  it('are known by name, also in URLs', () => {
    expect(isSecretName('x-api-key')).toBe(true)
    expect(isSecretName('keyboard')).toBe(false)
    expect(redactUrl('http://a/b?c=d')).toBe('http://a/b?c=d')
    expect(jsonText('x'.repeat(10), 3)).toBe('"xxx…"')
  })
})
