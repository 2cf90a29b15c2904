/**
 * Tokens and key sets made to cost: nested deep, with claims and key ids as large as they may be, compressed, with keys
 * that are slow. Each is answered, by a refusal unless it is sound, within a small bound of CPU.
 */

import { deflateRawSync, gzipSync } from 'node:zlib'
import { afterEach, describe, expect, it } from 'vitest'
import { signedToken, tokenPart } from '../support/tokens.ts'
import {
  bearer,
  identity,
  keyPair,
  NOW_SEC,
  publishing,
  rawToken,
  SECRET,
  startIssuer,
} from '../unit/policies/auth/requests.ts'

const MAX_CPU_MS = 50
/** Of a token: 8 KiB, three quarters of that when decoded. */
const PAYLOAD_BYTES = 5900

let cleanup: (() => unknown)[] = []
afterEach(async () => {
  for (const close of cleanup.reverse()) await close()
  cleanup = []
})

/** CPU time of the process, the least of a few. */
async function cpuMs(work: (round: number) => Promise<unknown>): Promise<number> {
  let least = Number.POSITIVE_INFINITY
  for (let i = 0; i < 5 && least >= MAX_CPU_MS; i++) {
    const before = process.cpuUsage()
    await work(i)
    const { user, system } = process.cpuUsage(before)
    least = Math.min(least, (user + system) / 1000)
  }
  return least
}

/** Signed with the right secret, whatever it says. */
const signed = (header: unknown, payload: unknown) => signedToken(payload, SECRET, header)
const HEAD = { alg: 'HS256' }
const around = (inner: string) => `{"sub":"ada","exp":${NOW_SEC + 600},"x":${inner}}`
const nested = (open: string, close: string, bytes: number) => {
  const depth = Math.floor(bytes / (open.length + close.length))
  return `${open.repeat(depth)}1${close.repeat(depth)}`
}
const big = (piece: string, bytes = PAYLOAD_BYTES - 100) => piece.repeat(Math.floor(bytes / piece.length))

describe('a token', () => {
  const cases: [title: string, token: (round: number) => string, status: 200 | 401][] = [
    ['with lists nested deep', () => signed(HEAD, around(nested('[', ']', PAYLOAD_BYTES - 100))), 200],
    ['with objects nested deep', () => signed(HEAD, around(nested('{"x":', '}', PAYLOAD_BYTES - 100))), 200],
    ['nested deep and never closed', () => signed(HEAD, '['.repeat(PAYLOAD_BYTES)), 401],
    ['whose header is nested deep', () => signed(`{"alg":"HS256","x":${nested('[', ']', 5000)}}`, '{}'), 401],
    ['whose header is nested and never closed', () => rawToken('['.repeat(PAYLOAD_BYTES), '{}'), 401],
    ['of one large claim', () => signed(HEAD, around(JSON.stringify(big('é', 2800)))), 200],
    ['of many claims', () => signed(HEAD, around(`1${Array.from({ length: 550 }, (_, i) => `,"c${i}":1`).join('')}`)), 200],
    ['of one claim, many times', () => signed(HEAD, around(`1${big(',"x":1')}`)), 200],
    ['of escapes', () => signed(HEAD, around(`"${big('\\u0000')}"`)), 200],
    ['of a number of thousands of digits', () => signed(HEAD, around(big('9'))), 200],
    ['that never ends, as its issuer says', () => signed(HEAD, `{"sub":"a","exp":1e999}`), 200],
    ['of claims that integers index', () => signed(HEAD, around(`1${Array.from({ length: 380 }, (_, i) => `,"${i * 65_536}":1`).join('')}`)), 200],
    ['of a huge key id', (round) => rawToken({ alg: 'HS256', kid: big('k', 5500) + round }, { exp: NOW_SEC + 60 }), 401],
    ['of a huge list of critical extensions', () => signed({ ...HEAD, crit: Array(1000).fill('exp') }, '{}'), 401],
    ['that says it is compressed', () => signed({ ...HEAD, zip: 'DEF' }, deflateRawSync(Buffer.alloc(1_000_000)).toString('base64')), 401],
    ['that is encrypted, to be inflated to much', () => [tokenPart({ alg: 'dir', enc: 'A256GCM', zip: 'DEF' }), '', 'AAAA', deflateRawSync(Buffer.alloc(1_000_000)).toString('base64url'), 'AAAA'].join('.'), 401],
    ['with a password hashed a billion times', () => [tokenPart({ alg: 'PBES2-HS512+A256KW', enc: 'A256GCM', p2c: 1e9, p2s: 'AAAA' }), 'AAAA', 'AAAA', 'AAAA', 'AAAA'].join('.'), 401],
    ['of dots', () => '.'.repeat(8000), 401],
    ['of one character too many', () => 'a'.repeat(8193), 401],
  ] // biome-ignore format: a table

  const config = {
    secret: SECRET,
    forward: { 'X-Claim': 'x', 'X-Deep': 'x.x.x.x' },
    tierClaim: 'x',
  }
  it.each(cases)('%s', async (_title, token, status) => {
    const { gate } = identity({ jwt: 'main' }, { jwt: { main: config } })
    const replies: (number | undefined)[] = []
    const spent = await cpuMs(async (round) => {
      const x = bearer(token(round))
      const refused = await gate(x)
      replies.push(refused?.status ?? 200)
      expect(x.requestFields.length).toBeLessThan(8192)
      expect(x.requestFields).not.toMatch(/[^\r]\n|\r[^\n]|\0/)
    })
    expect(new Set(replies)).toEqual(new Set([status]))
    expect(spent).toBeLessThan(MAX_CPU_MS)
  })
})

describe('a key set', () => {
  const nest = (n: number) => '['.repeat(n) + ']'.repeat(n)
  it.each<[title: string, body: string | Buffer, fields: Record<string, string>]>([
    ['nested deep', `{"keys":${nest(500_000)}}`, {}],
    ['of keys nested deep', `{"keys":[{"kty":"EC","crv":"P-256","x":${nest(200_000)},"y":"AA"}]}`, {}],
    ['that is compressed', gzipSync(`{"keys":[]}${' '.repeat(50_000_000)}`), { 'Content-Encoding': 'gzip' }],
    ['of a key of a million bits', `{"keys":[{"kty":"RSA","e":"AQAB","n":"${'v'.repeat(170_000)}"}]}`, {}],
    ['of a large exponent', `{"keys":[{"kty":"RSA","e":"${'v'.repeat(340)}","n":"${'v'.repeat(342)}"}]}`, {}],
    ['of one member many times', `{"keys":[{${'"kty":"RSA",'.repeat(80_000)}"a":1}]}`, {}],
    ['of a prototype', '{"__proto__":{"keys":[]},"keys":[{"__proto__":{"kty":"EC"}}]}', {}],
  ])('%s leaves the good keys in use', async (_title, body, fields) => {
    const [good, other] = [await keyPair('good'), await keyPair('other')]
    const issuer = await startIssuer(publishing(good))
    const { gate, keySets } = identity({ jwt: 'main' }, { jwt: { main: { jwks: { url: issuer.url } } } })
    cleanup.push(
      () => keySets.close(),
      () => issuer.close(),
    )
    await keySets.ready()
    issuer.answer = (_, res) => res.writeHead(200, fields).end(body)
    // What is not known is looked for: the bad set is fetched, and not taken, or has no key that fits.
    expect(await gate(bearer(await other.sign()))).toMatchObject({ status: 401 })
    expect(issuer.hits).toBe(2)
    expect(({} as { kty?: string }).kty).toBeUndefined()
    if (keySets.status()[0]!.lastError === undefined) return
    expect(await gate(bearer(await good.sign()))).toBeUndefined()
  })
})
