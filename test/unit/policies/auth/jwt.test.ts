import { createHmac, createSign, generateKeyPairSync } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { CompactEncrypt, SignJWT } from 'jose'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { identityConfig } from '../../../../src/policies/auth/config.ts'
import { bearer, hs256, identity, keyPair, NOW_SEC, rawToken, request, SECRET, type TestKey } from './requests.ts'

const main = (more: object = {}) => identity({ jwt: 'main' }, { jwt: { main: { secret: SECRET, ...more } } })

describe('a valid token', () => {
  it('passes and says who it is', async () => {
    const { gate } = main()
    const x = bearer(await hs256({ sub: 'ada', name: 'Ada' }))
    expect(await gate(x)).toBeUndefined()
    expect(x.identity).toMatchObject({ subject: 'ada', claims: { sub: 'ada', name: 'Ada' } })
    expect(Object.getPrototypeOf(x.identity!.claims)).toBeNull()
  })

  it('is awaited the first time only', async () => {
    const { gate } = main()
    const token = await hs256()
    const first = gate(bearer(token))
    expect(first).toBeInstanceOf(Promise)
    await first
    const x = bearer(token)
    expect(gate(x)).toBeUndefined()
    expect(x.identity?.subject).toBe('ada')
  })

  it.each(['RS256', 'PS256', 'ES256', 'ES384', 'EdDSA', 'Ed25519'])('passes with %s', async (alg) => {
    const key = await keyPair('k', alg)
    const { gate } = identity({ jwt: 'main' }, { jwt: { main: { publicKey: JSON.stringify(key.jwk) } } })
    expect(await gate(bearer(await key.sign()))).toBeUndefined()
  })

  it('passes whatever the case of the scheme', async () => {
    const { gate } = main()
    const token = await hs256()
    for (const scheme of ['bearer', 'BEARER', 'Bearer ']) {
      expect(await gate(request([`Authorization: ${scheme} ${token}`]))).toBeUndefined()
    }
  })
})

describe('without a token', () => {
  it('a request is answered 401 JWT_MISSING, without an error code (RFC 6750 section 3.1)', () => {
    const reply = main().gate(request())
    expect(reply).toMatchObject({ code: 'JWT_MISSING', status: 401 })
    expect(reply).toHaveProperty('fields', 'WWW-Authenticate: Bearer realm="main"\r\n')
  })

  it('another scheme counts as none', () => {
    expect(main().gate(request(['Authorization: Basic YTpi']))).toMatchObject({ code: 'JWT_MISSING' })
  })

  it('a request passes where identity is optional', () => {
    const { gate } = identity({ jwt: 'main', auth: 'optional' }, { jwt: { main: { secret: SECRET } } })
    const x = request()
    expect(gate(x)).toBeUndefined()
    expect(x.identity).toBeUndefined()
  })

  it('but with a bad one it does not, even there', async () => {
    const { gate } = identity({ jwt: 'main', auth: 'optional' }, { jwt: { main: { secret: SECRET } } })
    expect(await gate(bearer('x.y.z'))).toMatchObject({ code: 'JWT_INVALID', status: 401 })
  })
})

describe('a refused token', () => {
  let rsa: { publicKey: string; privateKey: string }
  let ec: TestKey
  beforeAll(async () => {
    rsa = generateKeyPairSync('rsa', {
      modulusLength: 2048,
      publicKeyEncoding: { type: 'spki', format: 'pem' },
      privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
    })
    ec = await keyPair('here')
  })

  const policy = { issuer: 'https://idp', audience: ['api', 'web'] }
  const good = { iss: 'https://idp', aud: 'api' }
  const b64 = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const hmac = (head: string, key: string) => `${head}.${createHmac('sha256', key).update(head).digest('base64url')}`
  const signed = (payloadText: string) =>
    hmac(`${b64({ alg: 'HS256' })}.${Buffer.from(payloadText).toString('base64url')}`, SECRET)
  const exp = NOW_SEC + 600

  const cases: [string, () => string | Promise<string>, code: string, reason?: string][] = [
    ['signed with another secret', () => hs256(good, {}, 'another-secret-of-more-than-32-bytes!'), 'JWT_INVALID', 'JWT_SIGNATURE'],
    ['with a changed payload', async () => (await hs256(good)).replace(/\.[^.]+\./, `.${b64({ ...good, sub: 'root', exp })}.`), 'JWT_INVALID', 'JWT_SIGNATURE'],
    ['without a signature', async () => (await hs256(good)).replace(/[^.]+$/, ''), 'JWT_INVALID', 'JWT_SIGNATURE'],
    ['expired', () => hs256({ ...good, exp: NOW_SEC - 6 }), 'JWT_EXPIRED'],
    ['without exp', () => hs256({ ...good, exp: undefined }), 'JWT_INVALID', 'JWT_EXP'],
    ['with exp as a text', () => signed(JSON.stringify({ ...good, exp: String(exp) })), 'JWT_INVALID', 'JWT_EXP'],
    ['with exp null', () => signed(JSON.stringify({ ...good, exp: null })), 'JWT_INVALID', 'JWT_EXP'],
    ['not valid yet', () => hs256({ ...good, nbf: NOW_SEC + 6 }), 'JWT_INVALID', 'JWT_NBF'],
    ['with nbf as a text', () => signed(JSON.stringify({ ...good, exp, nbf: 'now' })), 'JWT_INVALID', 'JWT_NBF'],
    ['of another issuer', () => hs256({ ...good, iss: 'https://evil' }), 'JWT_INVALID', 'JWT_ISS'],
    ['without an issuer', () => hs256({ aud: 'api' }), 'JWT_INVALID', 'JWT_ISS'],
    ['with a list as issuer', () => signed(JSON.stringify({ aud: 'api', iss: ['https://idp'], exp })), 'JWT_INVALID', 'JWT_ISS'],
    ['for another audience', () => hs256({ ...good, aud: 'other' }), 'JWT_INVALID', 'JWT_AUD'],
    ['for other audiences', () => hs256({ ...good, aud: ['other', 'apiapi'] }), 'JWT_INVALID', 'JWT_AUD'],
    ['without an audience', () => hs256({ iss: 'https://idp' }), 'JWT_INVALID', 'JWT_AUD'],
    ['with an object as audience', () => signed(JSON.stringify({ iss: 'https://idp', aud: { api: 1 }, exp })), 'JWT_INVALID', 'JWT_AUD'],
    ['with alg none', () => rawToken({ alg: 'none' }, { ...good, exp }, ''), 'JWT_INVALID', 'JWT_ALG'],
    ['with alg NoNe', () => rawToken({ alg: 'NoNe' }, { ...good, exp }, ''), 'JWT_INVALID', 'JWT_ALG'],
    ['with an algorithm that is not on the list', () => hmac(`${b64({ alg: 'HS384' })}.${b64({ ...good, exp })}`, SECRET), 'JWT_INVALID', 'JWT_ALG'],
    ['without alg', () => rawToken({}, { ...good, exp }), 'JWT_INVALID', 'JWT_MALFORMED'],
    ['with an unknown crit', () => hmac(`${b64({ alg: 'HS256', crit: ['x'], x: 1 })}.${b64({ ...good, exp })}`, SECRET), 'JWT_INVALID', 'JWT_MALFORMED'],
    ['with b64 false', () => hmac(`${b64({ alg: 'HS256', crit: ['b64'], b64: false })}.${b64({ ...good, exp })}`, SECRET), 'JWT_INVALID', 'JWT_MALFORMED'],
    ['of two parts', () => 'a.b', 'JWT_INVALID', 'JWT_MALFORMED'],
    ['of bytes that are not base64url', () => 'e30=.e30=.!!!!', 'JWT_INVALID', 'JWT_MALFORMED'],
    ['with a header that is not JSON', () => rawToken('{', { ...good, exp }), 'JWT_INVALID', 'JWT_MALFORMED'],
    ['with a payload that is not JSON', () => signed('{"sub":'), 'JWT_INVALID', 'JWT_MALFORMED'],
    ['with a list as payload', () => signed('[]'), 'JWT_INVALID', 'JWT_MALFORMED'],
    ['with null as payload', () => signed('null'), 'JWT_INVALID', 'JWT_MALFORMED'],
    ['with a payload of invalid UTF-8', () => hmac(`${b64({ alg: 'HS256' })}.${Buffer.from([0x7b, 0xff, 0x7d]).toString('base64url')}`, SECRET), 'JWT_INVALID', 'JWT_MALFORMED'],
    ['nested two thousand deep', () => signed(`${'['.repeat(2000)}${']'.repeat(2000)}`), 'JWT_INVALID', 'JWT_MALFORMED'],
    ['larger than 8 KiB', () => hs256({ ...good, pad: 'x'.repeat(8192) }), 'JWT_INVALID', 'JWT_TOO_LARGE'],
    ['that is empty', () => '', 'JWT_INVALID', 'JWT_MALFORMED'],
    ['that is two in one line', async () => `${await hs256(good)}, Bearer ${await hs256(good)}`, 'JWT_INVALID', 'JWT_MALFORMED'],
    ['that is encrypted', () => new CompactEncrypt(Buffer.from('{}')).setProtectedHeader({ alg: 'dir', enc: 'A128CBC-HS256' }).encrypt(Buffer.from(SECRET.slice(0, 32))), 'JWT_INVALID', 'JWT_MALFORMED'],
    ['with PBES2 and many rounds', () => rawToken({ alg: 'PBES2-HS256+A128KW', p2c: 1e9, p2s: 'a', enc: 'A128GCM' }, good), 'JWT_INVALID', 'JWT_ALG'],
    ['with issued-at as a text', () => signed(JSON.stringify({ ...good, exp, iat: 'x' })), 'JWT_INVALID', 'JWT_IAT'],
  ] // biome-ignore format: a table

  it.each(cases)('%s', async (_, make, code, reason) => {
    const { gate } = identity({ jwt: 'main' }, { jwt: { main: { secret: SECRET, ...policy } } })
    const x = bearer(await make())
    const reply = await gate(x)
    expect(reply).toMatchObject({ code, status: 401, reason })
    expect(reply!.fields).toMatch(
      /^WWW-Authenticate: Bearer realm="main", error="invalid_token", error_description="[^"\\]+"\r\n$/,
    )
    expect(x.identity).toBeUndefined()
    expect(x.requestFields).toBe('')
  })

  it('does not spoil the good one', async () => {
    const { gate } = identity({ jwt: 'main' }, { jwt: { main: { secret: SECRET, ...policy } } })
    for (const [, make] of cases) await gate(bearer(await make()))
    expect(await gate(bearer(await hs256(good)))).toBeUndefined()
    expect(await gate(bearer(await hs256({ ...good, aud: ['x', 'web'] })))).toBeUndefined()
  })

  it('HS256 over the public key as a secret', async () => {
    const head = `${b64({ alg: 'HS256' })}.${b64({ exp })}`
    for (const config of [{ publicKey: rsa.publicKey }, { publicKey: rsa.publicKey, algorithms: ['RS256' as const] }]) {
      const { gate } = identity({ jwt: 'main' }, { jwt: { main: config } })
      for (const key of [rsa.publicKey, rsa.publicKey.trim()]) {
        expect(await gate(bearer(hmac(head, key)))).toMatchObject({ code: 'JWT_INVALID', reason: 'JWT_ALG' })
      }
      const signer = `${b64({ alg: 'RS256' })}.${b64({ exp })}`
      const genuine = createSign('RSA-SHA256').update(signer).sign(rsa.privateKey, 'base64url')
      expect(await gate(bearer(`${signer}.${genuine}`))).toBeUndefined()
    }
  })

  it('of an unknown key id, or one that brings its own key', async () => {
    const other = await keyPair('there')
    const { gate } = identity({ jwt: 'main' }, { jwt: { main: { publicKey: JSON.stringify({ keys: [ec.jwk] }) } } })
    expect(await gate(bearer(await ec.sign()))).toBeUndefined()
    expect(await gate(bearer(await other.sign()))).toMatchObject({ code: 'JWT_INVALID', reason: 'JWT_KID' })
    const lures = { kid: 'here', jwk: other.jwk, jku: 'http://127.0.0.1:1/', x5u: 'http://127.0.0.1:1/' }
    expect(await gate(bearer(await other.sign({}, lures)))).toMatchObject({
      code: 'JWT_INVALID',
      reason: 'JWT_SIGNATURE',
    })
    expect(await gate(bearer(await ec.sign({}, { kid: '__proto__' })))).toMatchObject({ reason: 'JWT_KID' })
    expect(await gate(bearer(rawToken({ alg: 'ES256', kid: { a: 1 } }, { exp })))).toMatchObject({
      code: 'JWT_INVALID',
    })
  })

  it('ECDSA with an all-zero or a DER signature', async () => {
    const { gate } = identity({ jwt: 'main' }, { jwt: { main: { publicKey: JSON.stringify(ec.jwk) } } })
    const zero = rawToken({ alg: 'ES256', kid: 'here' }, { exp }, Buffer.alloc(64).toString('base64url'))
    expect(await gate(bearer(zero))).toMatchObject({ code: 'JWT_INVALID' })
    const der = rawToken(
      { alg: 'ES256', kid: 'here' },
      { exp },
      Buffer.from('3006020101020101', 'hex').toString('base64url'),
    )
    expect(await gate(bearer(der))).toMatchObject({ code: 'JWT_INVALID' })
  })

  it('in two Authorization headers, even when both are good', async () => {
    const { gate } = main()
    const line = `Authorization: Bearer ${await hs256()}`
    expect(await gate(request([line]))).toBeUndefined()
    expect(await gate(request([line, line]))).toMatchObject({ code: 'JWT_INVALID', reason: 'JWT_AMBIGUOUS' })
    expect(await gate(request(['Authorization: Basic YTpi', line]))).toMatchObject({ code: 'JWT_INVALID' })
  })

  it('of any bytes: the gate never throws', async () => {
    const { gate } = main({ forward: { 'x-a': 'a.b' } })
    await fc.assert(
      fc.asyncProperty(fc.string(), fc.json(), fc.string(), async (header, payload, text) => {
        for (const token of [rawToken(header, payload), signed(payload), text.replace(/[^\x20-\x7e]/g, '')]) {
          const reply = await gate(bearer(token))
          expect(reply?.status).toBe(401)
        }
      }),
    )
  })
})

describe('times', () => {
  it('may differ by the tolerance', async () => {
    const { gate } = main({ clockTolerance: '5s' })
    expect(await gate(bearer(await hs256({ exp: NOW_SEC - 4 })))).toBeUndefined()
    expect(await gate(bearer(await hs256({ exp: NOW_SEC - 5 })))).toMatchObject({ code: 'JWT_EXPIRED' })
    expect(await gate(bearer(await hs256({ nbf: NOW_SEC + 5 })))).toBeUndefined()
    expect(await gate(bearer(await hs256({ nbf: NOW_SEC + 6 })))).toMatchObject({ code: 'JWT_INVALID' })
  })

  it('maxAge counts from iat, which is then required', async () => {
    const { gate, clock } = main({ maxAge: '1m' })
    expect(await gate(bearer(await hs256()))).toMatchObject({ code: 'JWT_INVALID', reason: 'JWT_IAT' })
    expect(await gate(bearer(await hs256({ iat: NOW_SEC - 66 })))).toMatchObject({ code: 'JWT_EXPIRED' })
    expect(await gate(bearer(await hs256({ iat: NOW_SEC + 60 })))).toMatchObject({
      code: 'JWT_INVALID',
      reason: 'JWT_IAT',
    })
    const token = await hs256({ iat: NOW_SEC - 30 })
    expect(await gate(bearer(token))).toBeUndefined()
    clock.elapsedMs = 34_000
    expect(gate(bearer(token))).toBeUndefined()
    clock.elapsedMs = 36_000
    expect(gate(bearer(token))).toMatchObject({ code: 'JWT_EXPIRED' })
  })

  it('a remembered token ends with its exp, to the tolerance', async () => {
    const { gate, clock } = main()
    const token = await hs256({ exp: NOW_SEC + 10 })
    await gate(bearer(token))
    clock.elapsedMs = 14_999
    expect(gate(bearer(token))).toBeUndefined()
    clock.elapsedMs = 15_000
    expect(gate(bearer(token))).toMatchObject({ code: 'JWT_EXPIRED', status: 401 })
    expect(await gate(bearer(token))).toMatchObject({ code: 'JWT_EXPIRED' })
  })

  it('a refusal is remembered for a second and no longer', async () => {
    const { gate, clock } = main()
    const token = await hs256({ nbf: NOW_SEC + 6 })
    expect(await gate(bearer(token))).toMatchObject({ reason: 'JWT_NBF' })
    clock.elapsedMs = 999
    expect(gate(bearer(token))).toMatchObject({ reason: 'JWT_NBF' })
    clock.elapsedMs = 1000
    expect(await gate(bearer(token))).toBeUndefined()
  })
})

describe('claims', () => {
  it.each([
    [{ role: 'admin' }, { role: 'admin' }, true],
    [{ role: 'admin' }, { role: 'user' }, false],
    [{ role: 'admin' }, {}, false],
    [{ role: 'admin' }, { role: ['admin'] }, false],
    [{ level: 1 }, { level: '1' }, false],
    [{ level: 1 }, { level: 1 }, true],
    [{ ok: true }, { ok: true }, true],
    [{ scope: { contains: 'read' } }, { scope: 'write read' }, true],
    [{ scope: { contains: 'read' } }, { scope: 'readonly' }, false],
    [{ scope: { contains: 'read' } }, { scope: ['read'] }, true],
    [{ scope: { contains: 'read' } }, { scope: { read: 1 } }, false],
    [{ plan: { oneOf: ['pro', 'max'] } }, { plan: 'pro' }, true],
    [{ plan: { oneOf: ['pro', 'max'] } }, { plan: ['free', 'max'] }, true],
    [{ plan: { oneOf: ['pro', 'max'] } }, { plan: 'free' }, false],
    [{ 'realm_access.roles': { contains: 'a' } }, { realm_access: { roles: ['a'] } }, true],
    [{ 'https://x.y/roles': { contains: 'a' } }, { 'https://x.y/roles': ['a'] }, true],
    [{ 'constructor.name': 'Object' }, {}, false],
    [{ toString: { oneOf: ['x'] } }, {}, false],
  ])('%j with %j pass: %s', async (requiredClaims, claims, passes) => {
    const reply = await main({ requiredClaims }).gate(bearer(await hs256(claims as never)))
    if (passes) expect(reply).toBeUndefined()
    else {
      expect(reply).toMatchObject({ code: 'JWT_CLAIM', status: 403 })
      expect(reply!.fields).toContain('error="insufficient_scope"')
    }
  })

  it('become headers of the upstream request', async () => {
    const forward = {
      'X-User-Id': 'sub',
      'X-Roles': 'realm.roles',
      'X-Level': 'level',
      'X-Staff': 'staff',
      'X-None': 'none',
      'X-City': 'city',
    }
    const { gate, forwardedNames } = main({ forward })
    const x = bearer(await hs256({ realm: { roles: ['a', 'b'] }, level: 7, staff: false, city: 'Zürich' }))
    expect(await gate(x)).toBeUndefined()
    expect(x.requestFields).toBe('x-user-id: ada\r\nx-roles: a,b\r\nx-level: 7\r\nx-staff: false\r\nx-city: Zürich\r\n')
    expect(forwardedNames).toEqual(['x-user-id', 'x-roles', 'x-level', 'x-staff', 'x-none', 'x-city'])
  })

  it.each([
    'a\r\nx-admin: 1',
    'a\nb',
    'a\0b',
    '\u007f',
    'Łódź',
    '😀',
    '',
    ' a',
    'a\u0085b',
    'x'.repeat(4097),
    { a: 1 },
    null,
    [],
    ['a,b'],
    ['a', ['b']],
    ['a', 'b\r\nc'],
    [null],
  ])('%j become no header', async (value) => {
    const { gate } = main({ forward: { 'x-a': 'a' } })
    const x = bearer(await hs256({ a: value }))
    expect(await gate(x)).toBeUndefined()
    expect(x.requestFields).toBe('')
  })

  it('never break out of their header line', async () => {
    const { gate } = main({ forward: { 'x-a': 'a' } })
    await fc.assert(
      fc.asyncProperty(fc.jsonValue(), fc.integer(), async (value, n) => {
        const x = bearer(await hs256({ a: value as never, jti: String(n) }))
        expect(await gate(x)).toBeUndefined()
        expect(x.requestFields).toMatch(/^(?:x-a: [\x20-\x7e\xa0-\xff]+\r\n)?$/)
      }),
      { numRuns: 60 },
    )
  })

  it('name the tier', async () => {
    const { gate } = main({ tierClaim: 'app.plan' })
    for (const [plan, tier] of [
      ['gold', 'gold'],
      [7, undefined],
      [undefined, undefined],
    ] as const) {
      const x = bearer(await hs256({ app: { plan } }))
      await gate(x)
      expect(x.identity?.tier).toBe(tier)
    }
  })

  it('with the names of prototypes are plain data', async () => {
    const { gate } = main({ forward: { 'x-a': '__proto__.polluted' } })
    const token = `${Buffer.from('{"alg":"HS256"}').toString('base64url')}.${Buffer.from(`{"exp":${NOW_SEC + 9},"sub":42,"__proto__":{"polluted":"yes"}}`).toString('base64url')}`
    const x = bearer(`${token}.${createHmac('sha256', SECRET).update(token).digest('base64url')}`)
    expect(await gate(x)).toBeUndefined()
    expect(x.identity?.subject).toBe('42')
    expect(({} as { polluted?: string }).polluted).toBeUndefined()
    expect(Object.getPrototypeOf(x.identity!.claims)).toBeNull()
  })
})

describe('the place of a token', () => {
  const from = ['header', 'header:X-Token', 'cookie:session', 'query:access_token']

  it('is any of the list, the first that has one', async () => {
    const { gate } = main({ from })
    const token = await hs256()
    const bad = `${token}x`
    expect(await gate(request([`X-Token: ${token}`]))).toBeUndefined()
    expect(await gate(request([`X-Token: Bearer ${token}`]))).toBeUndefined()
    expect(await gate(request([`Cookie: a=1; session=${token}; b=2`]))).toBeUndefined()
    expect(await gate(request([`Cookie: a=1`, `Cookie: session="${token}"`]))).toBeUndefined()
    expect(await gate(request([], `?a=1&access_token=${token}&b=2`))).toBeUndefined()
    expect(await gate(request([`Authorization: Basic eA==`, `X-Token: ${token}`]))).toBeUndefined()
    expect(await gate(request([`Authorization: Bearer ${bad}`, `X-Token: ${token}`]))).toMatchObject({
      code: 'JWT_INVALID',
    })
  })

  it('is none that is not on the list', async () => {
    const { gate } = main({ from: ['cookie:session'] })
    const token = await hs256()
    expect(gate(bearer(token))).toMatchObject({ code: 'JWT_MISSING' })
    expect(gate(request([], `?session=${token}`))).toMatchObject({ code: 'JWT_MISSING' })
    expect(gate(request([`Cookie: xsession=${token}; session2=${token}; session=`]))).toMatchObject({
      code: 'JWT_MISSING',
    })
  })

  it('must hold one token', async () => {
    const { gate } = main({ from })
    const token = await hs256()
    expect(gate(request([`X-Token: ${token}`, `X-Token: ${token}`]))).toMatchObject({ reason: 'JWT_AMBIGUOUS' })
    expect(gate(request([], `?access_token=${token}&access_token=${token}`))).toMatchObject({ reason: 'JWT_AMBIGUOUS' })
  })

  it('is cleared before the upstream sees it, when asked for', async () => {
    const { gate } = main({ from, strip: true })
    const token = await hs256()
    const x = request(
      [`Authorization: Bearer ${token}`, 'X-Token: old', `Cookie: a=1; session=${token}; b="2"`],
      `?a=1&access_token=${token}&b=%20`,
    )
    expect(await gate(x)).toBeUndefined()
    expect(x.requestDrop).toEqual(['authorization', 'x-token', 'cookie'])
    expect(x.requestFields).toBe('cookie: a=1; b="2"\r\n')
    expect(x.query).toBe('?a=1&b=%20')
  })

  it('leaves nothing empty behind, and other credentials alone', async () => {
    const { gate } = main({ from, strip: true })
    const token = await hs256()
    const x = request(['Authorization: Basic eA==', `Cookie: session=${token}`], `?access_token=`)
    expect(await gate(x)).toBeUndefined()
    expect(x.requestDrop).toEqual(['x-token', 'cookie'])
    expect(x.query).toBe('')
  })

  it('stays as it is otherwise', async () => {
    const { gate } = main({ from })
    const x = request([], `?access_token=${await hs256()}`)
    expect(await gate(x)).toBeUndefined()
    expect(x.query).toContain('access_token')
    expect(x.requestDrop).toBeNull()
  })
})

describe('several issuers on one route', () => {
  const OTHER = 'the-other-issuer-has-another-secret!!'
  const config = {
    jwt: {
      one: { secret: SECRET, issuer: 'one', forward: { 'x-one': 'sub' } },
      two: { secret: OTHER, issuer: ['two', 'zwei'], forward: { 'x-two': 'sub' } },
    },
  }

  it('are told apart by iss', async () => {
    const { gate, forwardedNames } = identity({ jwt: ['one', 'two'] }, config)
    const x = bearer(await hs256({ iss: 'zwei' }, {}, OTHER))
    expect(await gate(x)).toBeUndefined()
    expect(x.requestFields).toBe('x-two: ada\r\n')
    const again = bearer(await hs256({ iss: 'zwei' }, {}, OTHER))
    expect(gate(again)).toBeUndefined()
    expect(again.requestFields).toBe('x-two: ada\r\n')
    expect(await gate(bearer(await hs256({ iss: 'one' })))).toBeUndefined()
    expect(forwardedNames).toEqual(['x-one', 'x-two'])
  })

  it('do not vouch for each other', async () => {
    const { gate } = identity({ jwt: ['one', 'two'] }, config)
    expect(await gate(bearer(await hs256({ iss: 'two' })))).toMatchObject({ reason: 'JWT_SIGNATURE' })
    expect(await gate(bearer(await hs256({ iss: 'three' })))).toMatchObject({ reason: 'JWT_ISS' })
    expect(await gate(bearer(await hs256()))).toMatchObject({ reason: 'JWT_ISS' })
    expect(await gate(bearer('x'))).toMatchObject({ reason: 'JWT_MALFORMED' })
  })

  it('must differ', () => {
    const two = (more: object) => () =>
      identity({ jwt: ['one', 'two'] }, { jwt: { ...config.jwt, two: { secret: OTHER, ...more } } })
    expect(two({ issuer: 'one' })).toThrow('one and two have the same issuer one')
    expect(two({ issuer: 'two', from: ['cookie:a'] })).toThrow(/other places/)
    expect(two({})).not.toThrow()
    expect(() => identity({ jwt: ['a', 'b'] }, { jwt: { a: { secret: 'x' }, b: { secret: 'y' } } })).toThrow(
      /no issuer/,
    )
  })
})

describe('at load', () => {
  let dir: string
  beforeAll(() => {
    dir = mkdtempSync(join(tmpdir(), 'fluxor-auth-'))
  })
  afterAll(() => rmSync(dir, { recursive: true }))

  it.each([
    [{ secret: 'x', algorithms: ['none'] }],
    [{ secret: 'x', algorithms: ['RS256'] }],
    [{ secret: 'x', algorithms: [] }],
    [{ publicKey: 'x.pem', algorithms: ['HS256'] }],
    [{ jwks: { url: 'https://a/b' }, algorithms: ['ES256', 'HS512'] }],
    [{ jwks: { url: 'file:///etc/passwd' } }],
    [{ jwks: { url: 'https://user:pass@a/b' } }],
    [{ secret: 'x', publicKey: 'y' }],
    [{}],
    [{ secret: 'x', forward: { 'Content-Length': 'sub' } }],
    [{ secret: 'x', forward: { Host: 'sub' } }],
    [{ secret: 'x', from: ['body'] }],
    [{ secret: 'x', clockTolerance: 5 }],
  ])('%j is refused', (jwt) => {
    expect(identityConfig.safeParse({ jwt: { main: jwt } }).success).toBe(false)
  })

  it.each([
    ['a missing file', undefined, /no such file/],
    ['a file without a key', 'hello', /neither PEM nor JSON/],
    [
      'a private key',
      generateKeyPairSync('ed25519').privateKey.export({ type: 'pkcs8', format: 'pem' }) as string,
      /private key/,
    ],
    ['a shared secret as JWK', '{"kty":"oct","k":"AAAA"}', /secret/],
    ['a set without a usable key', '{"keys":[]}', /no usable public key/],
    [
      'a short RSA key',
      JSON.stringify(generateKeyPairSync('rsa', { modulusLength: 1024 }).publicKey.export({ format: 'jwk' })),
      /no usable/,
    ],
  ])('%s is refused, with the file named', (_, content, message) => {
    const file = 'key.file'
    rmSync(join(dir, file), { force: true })
    if (content !== undefined) writeFileSync(join(dir, file), content)
    const load = () => identity({ jwt: 'main' }, { jwt: { main: { publicKey: file } } }, { baseDir: dir })
    expect(load).toThrow(message)
    expect(load).toThrow(join(dir, file))
  })

  it('a key that fits none of the algorithms is refused', async () => {
    const { jwk } = await keyPair('k')
    expect(() =>
      identity({ jwt: 'main' }, { jwt: { main: { publicKey: JSON.stringify(jwk), algorithms: ['RS256'] } } }),
    ).toThrow(/no key fits the algorithms RS256/)
  })

  it('a name that is not in identity is refused', () => {
    expect(() => identity({ jwt: 'other' }, { jwt: { main: { secret: 'x' } } })).toThrow('identity.jwt has no other')
    expect(() => identity({ jwt: 'constructor' }, { jwt: {} })).toThrow('identity.jwt has no constructor')
    expect(() => identity({ auth: 'optional' }, {})).toThrow(/needs jwt or apiKey/)
  })
})

describe('a key file', () => {
  it('is read again on request; tokens of the old key end at once', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'fluxor-auth-'))
    try {
      const [before, after] = [await keyPair('k'), await keyPair('k')]
      const file = join(dir, 'keys.json')
      writeFileSync(file, JSON.stringify({ keys: [before.jwk] }))
      const { gate, keySets } = identity(
        { jwt: 'main' },
        { jwt: { main: { publicKey: 'keys.json' } } },
        { baseDir: dir },
      )
      const [old, young] = [await before.sign(), await after.sign()]
      expect(keySets.files()).toEqual([file])
      expect(await gate(bearer(old))).toBeUndefined()
      expect(await gate(bearer(young))).toMatchObject({ reason: 'JWT_SIGNATURE' })

      expect(keySets.reload()).toMatchObject({ changed: false, errors: [] })
      writeFileSync(file, 'half a fi')
      expect(keySets.reload()).toMatchObject({ changed: false, errors: [expect.stringContaining(file)] })
      expect(gate(bearer(old))).toBeUndefined()

      writeFileSync(file, JSON.stringify({ keys: [after.jwk] }))
      expect(keySets.reload()).toMatchObject({ changed: true, errors: [] })
      expect(await gate(bearer(old))).toMatchObject({ reason: 'JWT_SIGNATURE' }) // first: nothing else cleared the memory
      expect(await gate(bearer(young))).toBeUndefined()
    } finally {
      rmSync(dir, { recursive: true })
    }
  })

  it('may hold several keys without names', async () => {
    const keys = await Promise.all([keyPair(undefined), keyPair(undefined), keyPair(undefined, 'RS256')])
    const publicKey = JSON.stringify({ keys: keys.map(({ jwk }) => jwk) })
    const { gate } = identity({ jwt: 'main' }, { jwt: { main: { publicKey } } })
    for (const key of keys) expect(await gate(bearer(await key.sign()))).toBeUndefined()
    const stranger = await keyPair(undefined)
    expect(await gate(bearer(await stranger.sign()))).toMatchObject({ reason: 'JWT_SIGNATURE' })
  })
})

describe('a PEM', () => {
  it('verifies tokens that name a key, since it has no name of its own', async () => {
    const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
    const pem = publicKey.export({ type: 'spki', format: 'pem' }) as string
    const { gate } = identity({ jwt: 'main' }, { jwt: { main: { publicKey: pem, algorithms: ['ES256'] } } })
    for (const header of [{ alg: 'ES256' }, { alg: 'ES256', kid: 'any' }]) {
      const token = await new SignJWT({ exp: NOW_SEC + 9 }).setProtectedHeader(header).sign(privateKey)
      expect(await gate(bearer(token))).toBeUndefined()
    }
    const stranger = await keyPair('any')
    expect(await gate(bearer(await stranger.sign()))).toMatchObject({ reason: 'JWT_SIGNATURE' })
  })
})

describe('a reload', () => {
  it('forgets no verified token while the policy stays the same, and all when it changes', async () => {
    const { keySets, gate } = main()
    const token = await hs256()
    await gate(bearer(token))
    const { compileIdentity } = await import('../../../../src/policies/auth/policy.ts')
    const again = (more: object) => {
      const config = identityConfig.parse({ jwt: { main: { secret: SECRET, ...more } } })
      const compiled = compileIdentity({ jwt: ['main'], auth: 'required' }, config, keySets)!
      keySets.retain(config)
      return compiled.gate(bearer(token))
    }
    expect(again({})).toBeUndefined()
    expect(await again({ audience: 'other' })).toMatchObject({ reason: 'JWT_AUD' })
    expect(again({})).toBeInstanceOf(Promise)
  })
})
