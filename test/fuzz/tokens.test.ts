/**
 * Tokens of any shape against the gate: it answers, never throws, takes nothing that was not signed with the key of the config,
 * and agrees with jose wherever it says yes.
 */

import { createHmac } from 'node:crypto'
import fc from 'fast-check'
import { jwtVerify } from 'jose'
import { expect, it } from 'vitest'
import { bearer, identity, NOW_SEC, request, SECRET } from '../unit/policies/auth/requests.ts'
import { FUZZ_TIMEOUT_MS, parameters } from './runs.ts'

const encode = (text: string) => Buffer.from(text, 'latin1').toString('base64url')
const oneOf = <T>(...values: T[]) => fc.constantFrom(...values)
const { gate } = identity(
  { jwt: 'main' },
  { jwt: { main: { secret: SECRET, issuer: 'us', audience: 'api', forward: { 'x-user': 'sub' } } } },
)

const json = fc.oneof(
  fc.jsonValue({ maxDepth: 3 }),
  oneOf<unknown>('us', 'api', ['api'], NOW_SEC + 100, NOW_SEC - 100, '9'.repeat(20), 1e308, -1, null, {}, []),
)
const claims = fc.array(fc.tuple(oneOf('sub', 'iss', 'aud', 'exp', 'nbf', 'iat', 'jti', '__proto__', 'x'), json), {
  maxLength: 6,
})
const headers = fc.array(
  fc.tuple(
    oneOf('alg', 'typ', 'kid', 'crit', 'b64', 'jku', 'jwk', 'x5c', 'zip', 'enc', 'p2c', '__proto__'),
    fc.oneof(oneOf<unknown>('HS256', 'none', 'None', 'RS256', 'HS512', 'DEF', ['b64'], false), json),
  ),
  { maxLength: 4 },
)
const text = (pairs: [string, unknown][]) =>
  `{${pairs.map(([name, value]) => `${JSON.stringify(name)}:${JSON.stringify(value)}`).join(',')}}`
const sign = (signed: string) => createHmac('sha256', SECRET).update(signed, 'latin1').digest('base64url')

const likely: [string, unknown][] = [
  ['iss', 'us'],
  ['aud', 'api'],
  ['exp', NOW_SEC + 600],
  ['sub', 'ada'],
]

it('what passes passes jose as well; everything else is a 401', { timeout: FUZZ_TIMEOUT_MS }, async () => {
  let passed = 0
  await fc.assert(
    fc.asyncProperty(
      fc.tuple(fc.boolean(), headers),
      fc.tuple(fc.boolean(), claims),
      fc.oneof(
        { weight: 3, arbitrary: fc.constant('good') },
        { weight: 1, arbitrary: oneOf('', 'none', 'cut', 'other') },
      ),
      async ([soundHead, moreHead], [soundBody, moreBody], signing) => {
        const head = text(soundHead ? [['alg', 'HS256']] : [['alg', 'HS256'], ...moreHead])
        const body = text(soundBody ? likely : [...likely, ...moreBody])
        const signed = `${encode(head)}.${encode(body)}`
        const signature = {
          good: sign(signed),
          '': '',
          none: 'AAAA',
          cut: sign(signed).slice(0, -2),
          other: sign(`${signed}x`),
        }[signing]!
        const token = `${signed}.${signature}`
        const x = bearer(token)
        const refused = await gate(x)
        if (refused !== undefined) {
          expect(refused.status).toBe(401)
          expect(x.identity).toBeUndefined()
          return
        }
        passed++
        expect(signing).toBe('good')
        expect(x.requestFields).not.toMatch(/[^\r]\n|\r[^\n]|\0/)
        await jwtVerify(token, Buffer.from(SECRET), {
          issuer: 'us',
          audience: 'api',
          algorithms: ['HS256'],
          currentDate: new Date(NOW_SEC * 1000),
          clockTolerance: 5,
        })
      },
    ),
    parameters(300, 0.2),
  )
  expect(passed, 'sound tokens are among them').toBeGreaterThan(0)
})

it('any bytes in any field that may hold one', { timeout: FUZZ_TIMEOUT_MS }, async () => {
  const places = identity(
    { jwt: 'main' },
    { jwt: { main: { secret: SECRET, from: ['header', 'header:X-Token', 'cookie:session', 'query:access_token'] } } },
  )
  const piece = oneOf(
    'Bearer',
    'bearer',
    ' ',
    '.',
    'eyJhbGciOiJIUzI1NiJ9',
    'e30',
    'AAAA',
    ',',
    '=',
    ';',
    '"',
    '%2e',
    '%',
    'session',
    '\xff',
    '\t',
    '~',
  )
  const value = fc.array(piece, { maxLength: 12 }).map((list) => list.join('').trim())
  await fc.assert(
    fc.asyncProperty(value, value, value, async (one, two, three) => {
      const query = encodeURI(three).replace(/#/g, '')
      const x = request(
        [`Authorization: ${one}`, `Cookie: session=${two}`, `X-Token: ${two}`],
        `?access_token=${query}`,
      )
      const refused = await places.gate(x)
      expect(refused?.status).toBe(401)
    }),
    parameters(300, 0.2),
  )
})
