import { createHash } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { identityConfig } from '../../../../src/policies/auth/config.ts'
import { createKeySets } from '../../../../src/policies/auth/key-sets.ts'
import { allForwardedNames } from '../../../../src/policies/auth/policy.ts'
import { bearer, hs256, identity, request, SECRET } from './requests.ts'

const sha256 = (key: string) => createHash('sha256').update(key).digest('hex')
const ACME = { name: 'acme', sha256: sha256('acme-key'), tier: 'premium', headers: { 'X-Plan': 'gold' } }
const keys = (more: object = {}, ...others: object[]) =>
  identity({ apiKey: 'main' }, { apiKeys: { main: { keys: [ACME, ...others] as never, ...more } } })

describe('an API key', () => {
  it('passes and says whose it is, without a promise', () => {
    const { gate, forwardedNames } = keys()
    const x = request(['X-API-Key: acme-key'])
    expect(gate(x)).toBeUndefined()
    expect(x.identity).toEqual({ subject: 'acme', claims: Object.create(null), apiKey: 'acme', tier: 'premium' })
    expect(x.requestFields).toBe('x-plan: gold\r\n')
    expect(x.requestDrop).toEqual(['x-plan', 'x-api-key'])
    expect(forwardedNames).toEqual(['x-plan'])
  })

  it('that is missing is 401 KEY_MISSING', () => {
    const reply = keys().gate(request())
    expect(reply).toMatchObject({
      code: 'KEY_MISSING',
      status: 401,
      fields: 'WWW-Authenticate: ApiKey realm="main"\r\n',
    })
    expect(keys().gate(request(['X-API-Key:']))).toMatchObject({ code: 'KEY_MISSING' })
  })

  it.each(['acme-ke', 'acme-keyx', 'ACME-KEY', sha256('acme-key'), '__proto__', 'x'.repeat(5000), 'é'])(
    'that is unknown is 401 KEY_UNKNOWN: %s',
    (key) => {
      const x = request([`X-API-Key: ${key}`])
      expect(keys().gate(x)).toMatchObject({ code: 'KEY_UNKNOWN', status: 401 })
      expect(x.identity).toBeUndefined()
    },
  )

  it('sent twice is refused', () => {
    const line = 'X-API-Key: acme-key'
    expect(keys().gate(request([line, line]))).toMatchObject({ code: 'KEY_UNKNOWN', reason: 'KEY_AMBIGUOUS' })
  })

  it('ends at its expiry', () => {
    const old = { name: 'old', sha256: sha256('old-key'), expires: '2027-01-15T08:00:10Z' }
    const { gate, clock } = keys({}, old)
    expect(gate(request(['X-API-Key: old-key']))).toBeUndefined()
    clock.elapsedMs = 9_999
    expect(gate(request(['X-API-Key: old-key']))).toBeUndefined()
    clock.elapsedMs = 10_000
    expect(gate(request(['X-API-Key: old-key']))).toMatchObject({ code: 'KEY_EXPIRED', status: 401 })
  })

  it('may be one of several of a consumer', () => {
    const { gate } = keys({}, { name: 'acme', sha256: sha256('acme-next') })
    const x = request(['X-API-Key: acme-next'])
    expect(gate(x)).toBeUndefined()
    expect(x.identity?.subject).toBe('acme')
  })

  it('comes by query or cookie where the set says so, and goes no further', () => {
    const { gate } = keys({ query: 'api_key', cookie: 'key' })
    const x = request(['Cookie: a=1; key=stale'], '?api_key=acme%2Dkey&q=1')
    expect(gate(x)).toBeUndefined()
    expect(x.query).toBe('?q=1')
    expect(x.requestFields).toBe('x-plan: gold\r\ncookie: a=1\r\n')
    expect(gate(request(['Cookie: key=acme-key']))).toBeUndefined()
    expect(gate(request(['X-API-Key: acme-key']))).toMatchObject({ code: 'KEY_MISSING' })
    expect(gate(request([], '?api_key=%E0%A4%A'))).toMatchObject({ code: 'KEY_UNKNOWN' })
    expect(gate(request([], '?api_key=acme-key&api_key=b'))).toMatchObject({ reason: 'KEY_AMBIGUOUS' })
  })

  it('may stand in Authorization, with or without a scheme', () => {
    const { gate } = keys({ header: 'Authorization' })
    for (const value of ['acme-key', 'Bearer acme-key', 'ApiKey acme-key']) {
      const x = request([`Authorization: ${value}`])
      expect(gate(x)).toBeUndefined()
      expect(x.requestDrop).toEqual(['x-plan', 'authorization'])
    }
  })

  it('goes upstream when the set does not strip it', () => {
    const x = request(['X-API-Key: acme-key'])
    expect(keys({ strip: false }).gate(x)).toBeUndefined()
    expect(x.requestDrop).toEqual(['x-plan'])
  })

  it('is not needed where identity is optional, but must be good when sent', () => {
    const { gate } = identity({ apiKey: 'main', auth: 'optional' }, { apiKeys: { main: { keys: [ACME] } } })
    expect(gate(request())).toBeUndefined()
    expect(gate(request(['X-API-Key: nope']))).toMatchObject({ code: 'KEY_UNKNOWN' })
  })
})

describe('a key file', () => {
  it('adds keys, is read again on request, and keeps its last good content', () => {
    const dir = mkdtempSync(join(tmpdir(), 'fluxor-keys-'))
    try {
      const file = join(dir, 'keys.json')
      const write = (list: unknown) => writeFileSync(file, JSON.stringify(list))
      write([{ name: 'one', sha256: sha256('one') }])
      const config = { apiKeys: { main: { file: 'keys.json', keys: [ACME] } } }
      const { gate, keySets } = identity({ apiKey: 'main' }, config, { baseDir: dir })
      expect(gate(request(['X-API-Key: one']))).toBeUndefined()
      expect(gate(request(['X-API-Key: acme-key']))).toBeUndefined()
      expect(keySets.files()).toEqual([file])

      write([{ name: 'two', sha256: sha256('two'), headers: { 'X-New': '1' } }])
      expect(keySets.reload()).toMatchObject({ changed: true, errors: [] })
      const two = request(['X-API-Key: two', 'X-New: mine'])
      expect(gate(two)).toBeUndefined()
      // Also where the route's own names were put together before: nobody else says it.
      expect(two.requestDrop).toContain('x-new')
      expect(gate(request(['X-API-Key: one']))).toMatchObject({ code: 'KEY_UNKNOWN' })
      expect(allForwardedNames(identityConfig.parse(config), keySets)).toEqual(['x-plan', 'x-new'])

      write([{ name: 'three', sha256: sha256('three') }])
      keySets.reload().undo()
      expect(gate(request(['X-API-Key: two']))).toBeUndefined()
      expect(gate(request(['X-API-Key: three']))).toMatchObject({ code: 'KEY_UNKNOWN' })

      for (const bad of [{ a: 1 }, [{ name: 'x', sha256: 'short' }], [ACME], [{ name: 'x', key: 'plain' }]]) {
        write(bad)
        expect(keySets.reload()).toMatchObject({ changed: false, errors: [expect.stringContaining(file)] })
      }
      expect(gate(request(['X-API-Key: two']))).toBeUndefined()
    } finally {
      rmSync(dir, { recursive: true })
    }
  })

  it('is read by the YAML reader that is given', () => {
    const dir = mkdtempSync(join(tmpdir(), 'fluxor-keys-'))
    try {
      writeFileSync(join(dir, 'keys.yaml'), `- yaml`)
      const parseYaml = (text: string) => [{ name: text, sha256: sha256('one') }]
      const { gate } = identity(
        { apiKey: 'main' },
        { apiKeys: { main: { file: 'keys.yaml' } } },
        { baseDir: dir, parseYaml },
      )
      const x = request(['X-API-Key: one'])
      expect(gate(x)).toBeUndefined()
      expect(x.identity?.subject).toBe('- yaml')
    } finally {
      rmSync(dir, { recursive: true })
    }
  })

  it('that is missing is an error at load', () => {
    expect(() => identity({ apiKey: 'main' }, { apiKeys: { main: { file: '/nowhere/keys.json' } } })).toThrow(
      /no such file/,
    )
  })
})

describe('a token and a key on one route', () => {
  const config = {
    jwt: { main: { secret: SECRET, forward: { 'x-user': 'sub' }, tierClaim: 'plan', strip: true } },
    apiKeys: { main: { keys: [ACME, { name: 'plain', sha256: sha256('plain') }] } },
  }
  const both = (auth?: 'any' | 'optional') => identity({ jwt: 'main', apiKey: 'main', auth }, config)
  const line = async (claims = {}) => `Authorization: Bearer ${await hs256(claims)}`

  it('are both required by default', async () => {
    const { gate, forwardedNames } = both()
    expect(gate(request())).toMatchObject({ code: 'JWT_MISSING' })
    expect(gate(request(['X-API-Key: acme-key']))).toMatchObject({ code: 'JWT_MISSING' })
    expect(gate(request([await line()]))).toMatchObject({ code: 'KEY_MISSING' })
    expect(gate(request([await line(), 'X-API-Key: x']))).toMatchObject({ code: 'KEY_UNKNOWN' })
    expect(await gate(request(['Authorization: Bearer x', 'X-API-Key: acme-key']))).toMatchObject({
      code: 'JWT_INVALID',
    })
    expect(forwardedNames).toEqual(['x-user', 'x-plan'])
  })

  it('are merged: who by the token, the consumer and its tier by the key', async () => {
    const { gate } = both()
    const x = request([await line({ plan: 'free' }), 'X-API-Key: acme-key'])
    expect(await gate(x)).toBeUndefined()
    expect(x.identity).toMatchObject({ subject: 'ada', apiKey: 'acme', tier: 'premium', claims: { plan: 'free' } })
    expect(x.requestFields).toBe('x-user: ada\r\nx-plan: gold\r\n')
    expect(x.requestDrop).toEqual(['x-plan', 'authorization', 'x-api-key'])
    const y = request([await line({ plan: 'free' }), 'X-API-Key: plain'])
    await gate(y)
    expect(y.identity?.tier).toBe('free')
  })

  it('with auth any either is enough', async () => {
    const { gate } = both('any')
    const nothing = gate(request())
    expect(nothing).toMatchObject({ code: 'JWT_MISSING', status: 401 })
    expect(nothing).toHaveProperty(
      'fields',
      'WWW-Authenticate: Bearer realm="main"\r\nWWW-Authenticate: ApiKey realm="main"\r\n',
    )

    const byKey = request(['X-API-Key: acme-key'])
    expect(gate(byKey)).toBeUndefined()
    expect(byKey.identity?.subject).toBe('acme')
    const byToken = request([await line()])
    expect(await gate(byToken)).toBeUndefined()
    expect(byToken.identity).toMatchObject({ subject: 'ada', apiKey: undefined })
    const byBoth = request([await line(), 'X-API-Key: acme-key'])
    expect(await gate(byBoth)).toBeUndefined()
    expect(byBoth.identity).toMatchObject({ subject: 'ada', apiKey: 'acme' })
  })

  it('with auth any a bad one does not harm a good one, nor help', async () => {
    const { gate } = both('any')
    const badToken = request(['Authorization: Bearer x', 'X-API-Key: acme-key'])
    expect(await gate(badToken)).toBeUndefined()
    expect(badToken.identity).toMatchObject({ subject: 'acme' })
    expect(badToken.requestFields).toBe('x-plan: gold\r\n')
    const badKey = request([await line(), 'X-API-Key: x'])
    expect(await gate(badKey)).toBeUndefined()
    expect(badKey.identity).toMatchObject({ subject: 'ada', apiKey: undefined })
    expect(await gate(request(['Authorization: Bearer x', 'X-API-Key: x']))).toMatchObject({ code: 'JWT_INVALID' })
    expect(gate(request(['X-API-Key: x']))).toMatchObject({ code: 'KEY_UNKNOWN' })
    const twice = request([await line(), await line()])
    expect(gate(twice)).toMatchObject({ code: 'JWT_INVALID' })
  })

  it('with auth optional none is needed', async () => {
    const { gate } = both('optional')
    expect(gate(request())).toBeUndefined()
    expect(await gate(request([await line()]))).toBeUndefined()
    expect(gate(request(['X-API-Key: x', await line()]))).toMatchObject({ code: 'KEY_UNKNOWN' })
    expect(await gate(bearer('x'))).toMatchObject({ code: 'JWT_INVALID' })
  })

  it('may not set the same header', () => {
    const jwt = { main: { secret: SECRET, forward: { 'X-Plan': 'plan' } } }
    expect(() => identity({ jwt: 'main', apiKey: 'main' }, { ...config, jwt })).toThrow(
      /x-plan is set by claims and by API keys/,
    )
  })
})

describe('at load', () => {
  it.each([
    [{ keys: [] }],
    [{ keys: [{ name: 'a', sha256: 'xyz' }] }],
    [{ keys: [{ name: 'a', key: 'plain' }] }],
    [{ keys: [ACME, { ...ACME, name: 'other' }] }],
    [{ keys: [{ ...ACME, expires: 'soon' }] }],
    [{ keys: [{ ...ACME, headers: { Connection: 'x' } }] }],
    [{ keys: [{ ...ACME, headers: { 'x-a': 'a\r\nb: c' } }] }],
    [{ keys: [ACME], query: 'a&b' }],
  ])('%j is refused', (set) => {
    expect(identityConfig.safeParse({ apiKeys: { main: set } }).success).toBe(false)
  })

  it('every forwarded header of the config is known, whatever the routes', () => {
    const config = identityConfig.parse({
      jwt: { a: { secret: 'x', forward: { 'X-A': 'a' } }, b: { secret: 'x', forward: { 'X-A': 'b', 'X-B': 'b' } } },
      apiKeys: { main: { keys: [ACME] } },
    })
    expect(allForwardedNames(config)).toEqual(['x-a', 'x-b', 'x-plan'])
    expect(allForwardedNames(config, createKeySets())).toEqual(['x-a', 'x-b', 'x-plan'])
  })
})
