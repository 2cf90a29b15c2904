import type { AddressInfo } from 'node:net'
import { createServer, type Server } from 'node:net'
import { afterEach, beforeAll, describe, expect, it } from 'vitest'
import { MAX_JWKS_BYTES } from '../../../../src/policies/auth/jwks.ts'
import { usableKeys } from '../../../../src/policies/auth/public-keys.ts'
import { type Condition, within } from '../../../support/within.ts'
import {
  bearer,
  type Issuer,
  identity,
  keyPair,
  publishing,
  rawToken,
  type Setup,
  startIssuer,
  type TestKey,
} from './requests.ts'

let first: TestKey
let second: TestKey
beforeAll(async () => {
  ;[first, second] = await Promise.all([keyPair('first'), keyPair('second')])
})

const open: { close(): unknown }[] = []
afterEach(async () => {
  await Promise.all(open.splice(0).map((thing) => thing.close()))
})

function trusting(url: string, more: object = {}, options: object = {}): Setup {
  const setup = identity({ jwt: 'main' }, { jwt: { main: { jwks: { url, ...more } } } }, options)
  open.push(setup.keySets)
  return setup
}

async function issuerWith(...keys: TestKey[]): Promise<Issuer> {
  const issuer = await startIssuer(publishing(...keys))
  open.push(issuer)
  return issuer
}

const eventually = (done: Condition) => within(8000, done)

describe('a remote key set', () => {
  it('is fetched once, before a token asks for it', async () => {
    const issuer = await issuerWith(first)
    const { gate, keySets } = trusting(issuer.url)
    await keySets.ready()
    expect(issuer.hits).toBe(1)
    for (let i = 0; i < 5; i++) expect(await gate(bearer(await first.sign({ jti: String(i) })))).toBeUndefined()
    expect(issuer.hits).toBe(1)
    expect(keySets.status()).toEqual([
      {
        url: issuer.url,
        kids: ['first'],
        ageMs: 0,
        lastError: undefined,
        staleUntil: 1_800_000_000_000 + 600_000 + 86_400_000,
      },
    ])
  })

  it('is waited for by a token that comes first', async () => {
    const issuer = await issuerWith(first)
    const { gate } = trusting(issuer.url)
    const token = await first.sign()
    const replies = await Promise.all([gate(bearer(token)), gate(bearer(await first.sign({ n: 1 })))])
    expect(replies).toEqual([undefined, undefined])
    expect(issuer.hits).toBe(1)
  })

  it('is fetched again for an unknown key id: a rotated key works at once', async () => {
    const issuer = await issuerWith(first)
    const { gate, keySets } = trusting(issuer.url)
    await keySets.ready()
    issuer.answer = publishing(first, second)
    const tokens = await Promise.all([1, 2, 3, 4].map((n) => second.sign({ n })))
    expect(await Promise.all(tokens.map((token) => gate(bearer(token))))).toEqual([
      undefined,
      undefined,
      undefined,
      undefined,
    ])
    expect(issuer.hits).toBe(2)
    expect(keySets.status()[0]?.kids).toEqual(['first', 'second'])
  })

  it('drops remembered tokens of a key that was withdrawn', async () => {
    const issuer = await issuerWith(first)
    const { gate } = trusting(issuer.url)
    const token = await first.sign()
    expect(await gate(bearer(token))).toBeUndefined()
    expect(gate(bearer(token))).toBeUndefined()
    issuer.answer = publishing(second)
    expect(await gate(bearer(await second.sign()))).toBeUndefined()
    expect(await gate(bearer(token))).toMatchObject({ code: 'JWT_INVALID', reason: 'JWT_KID' })
  })

  it('is fetched at most once in a cooldown, however many key ids are made up', async () => {
    const issuer = await issuerWith(first)
    const { gate, keySets, clock } = trusting(issuer.url, { cooldown: '30s' })
    await keySets.ready()
    const flood = async () => {
      const tokens = await Promise.all(
        Array.from({ length: 20 }, (_, i) => second.sign({}, { kid: `made-up-${i}-${clock.elapsedMs}` })),
      )
      for (const token of tokens)
        expect(await gate(bearer(token))).toMatchObject({ code: 'JWT_INVALID', reason: 'JWT_KID' })
    }
    await flood()
    expect(issuer.hits).toBe(2)
    clock.elapsedMs = 29_000
    await flood()
    expect(issuer.hits).toBe(2)
    clock.elapsedMs = 30_000
    await flood()
    expect(issuer.hits).toBe(3)
  })

  it('is fetched at most once in a cooldown also while the endpoint fails', async () => {
    const issuer = await issuerWith(first)
    const { gate, keySets } = trusting(issuer.url)
    await keySets.ready()
    issuer.answer = (_, res) => res.writeHead(500).end()
    for (let i = 0; i < 10; i++) {
      expect(await gate(bearer(await second.sign({}, { kid: `k${i}` })))).toMatchObject({ reason: 'JWT_KID' })
    }
    expect(issuer.hits).toBe(2)
    expect(keySets.status()[0]?.lastError).toBe('the endpoint answered 500')
    expect(await gate(bearer(await first.sign()))).toBeUndefined()
  })

  it('never makes a known key id wait for a fetch', async () => {
    const issuer = await issuerWith(first)
    const { gate, keySets, clock } = trusting(issuer.url)
    await keySets.ready()
    issuer.answer = () => {} // never answers
    const stuck = gate(bearer(await second.sign()))
    clock.elapsedMs = 20 * 60_000 // twice the age at which they should have been renewed
    const reply = await Promise.race([
      gate(bearer(await first.sign({ exp: 1_800_086_400 }))),
      new Promise((r) => setTimeout(r, 1000, 'waited')),
    ])
    expect(reply).toBeUndefined()
    expect(await stuck).toMatchObject({ code: 'JWT_INVALID', reason: 'JWT_KID' })
  })

  it('is renewed ahead of time', async () => {
    const issuer = await issuerWith(first)
    const { keySets } = trusting(issuer.url, { cacheMaxAge: '1s' })
    await keySets.ready()
    issuer.answer = publishing(second)
    await eventually(() => keySets.status()[0]!.kids[0] === 'second')
    expect(issuer.hits).toBe(2)
  })

  it('stays good past its age while the endpoint is down, to the end of staleFor', async () => {
    const issuer = await issuerWith(first)
    const { gate, keySets, clock } = trusting(issuer.url, { cacheMaxAge: '10m', staleFor: '1h' })
    const token = await first.sign({ exp: 1_800_000_000 + 86_400 })
    await keySets.ready()
    await gate(bearer(token))
    await issuer.close()

    clock.elapsedMs = 69 * 60_000
    expect(gate(bearer(token))).toBeUndefined()
    expect(await gate(bearer(await first.sign({ n: 1, exp: 1_800_086_400 })))).toBeUndefined()
    clock.elapsedMs = 70 * 60_000
    const reply = await gate(bearer(token))
    expect(reply).toMatchObject({ code: 'JWT_KEY', status: 503 })
    expect(reply!.fields).toMatch(/^Retry-After: [1-5]\r\n$/)
    expect(keySets.status()[0]?.staleUntil).toBe(1_800_000_000_000 + 70 * 60_000)
  })

  it('that is down at the start is 503, then found without a restart', async () => {
    const issuer = await issuerWith(first)
    issuer.answer = (_, res) => res.writeHead(503).end()
    const { gate, keySets } = trusting(issuer.url)
    await keySets.ready()
    const started = performance.now()
    expect(await gate(bearer(await first.sign()))).toMatchObject({ code: 'JWT_KEY', status: 503 })
    expect(performance.now() - started).toBeLessThan(1000)
    expect(keySets.status()[0]).toMatchObject({ kids: [], ageMs: undefined, staleUntil: undefined })
    issuer.answer = publishing(first)
    await eventually(() => keySets.status()[0]!.kids.length > 0) // by its own timer: no token asks
    expect(await gate(bearer(await first.sign()))).toBeUndefined()
  })

  it('that nobody listens for is 503', async () => {
    const { gate, keySets } = trusting('http://127.0.0.1:1/jwks')
    await keySets.ready()
    expect(await gate(bearer(await first.sign()))).toMatchObject({ code: 'JWT_KEY' })
    expect(keySets.status()[0]?.lastError).toMatch(/ECONNREFUSED/)
  })

  it('outlives a reload of the config, and ends when no policy uses it', async () => {
    const issuer = await issuerWith(first)
    const { keySets } = trusting(issuer.url)
    await keySets.ready()
    const { identityConfig } = await import('../../../../src/policies/auth/config.ts')
    const { compileIdentity } = await import('../../../../src/policies/auth/policy.ts')
    const config = identityConfig.parse({ jwt: { other: { jwks: { url: issuer.url }, audience: 'api' } } })
    const { gate } = compileIdentity({ jwt: ['other'], auth: 'required' }, config, keySets)!
    keySets.retain(config)
    expect(await gate(bearer(await first.sign({ aud: 'api' })))).toBeUndefined()
    expect(issuer.hits).toBe(1)
    keySets.retain(identityConfig.parse({}))
    expect(keySets.status()).toEqual([])
    // An exchange of the old snapshot still ends well
    expect(await gate(bearer(await first.sign({ aud: 'api', n: 2 })))).toBeUndefined()
    expect(await gate(bearer(await second.sign({ aud: 'api' })))).toMatchObject({ reason: 'JWT_KID' })
    expect(issuer.hits).toBe(1)
  })

  it('keeps its keys when only its times change, also while the issuer is down', async () => {
    const issuer = await issuerWith(first)
    const { keySets } = trusting(issuer.url)
    await keySets.ready()
    await issuer.close()
    const { identityConfig } = await import('../../../../src/policies/auth/config.ts')
    const { compileIdentity } = await import('../../../../src/policies/auth/policy.ts')
    const config = identityConfig.parse({ jwt: { main: { jwks: { url: issuer.url, cooldown: '1s' } } } })
    const { gate } = compileIdentity({ jwt: ['main'], auth: 'required' }, config, keySets)!
    keySets.retain(config)
    expect(await gate(bearer(await first.sign()))).toBeUndefined()
    await keySets.ready()
    expect(await gate(bearer(await first.sign({ n: 1 })))).toBeUndefined()
    expect(keySets.status()).toMatchObject([{ kids: ['first'], lastError: expect.stringContaining('ECONNREFUSED') }])
  })

  it('is not fetched offline', async () => {
    const issuer = await issuerWith(first)
    const { gate, keySets } = trusting(issuer.url, {}, { offline: true })
    await keySets.ready()
    expect(await gate(bearer(await first.sign()))).toMatchObject({ code: 'JWT_KEY' })
    expect(issuer.hits).toBe(0)
  })

  it('tells about failures and changes, and shows no secret of its address', async () => {
    const issuer = await issuerWith(first)
    const told: { lastError: string | undefined; kids: readonly string[] }[] = []
    const report = (status: (typeof told)[number]) => {
      told.push(status)
      throw new Error('the log is full')
    }
    const { gate, keySets } = trusting(`${issuer.url}?key=hidden`, {}, { report })
    await keySets.ready()
    issuer.answer = (_, res) => res.end('{}')
    await gate(bearer(await second.sign()))
    expect(told.map(({ lastError, kids }) => [lastError, kids])).toEqual([
      [undefined, ['first']],
      ['not a JWKS: there is no list of keys', ['first']],
    ])
    expect(JSON.stringify(told)).not.toContain('hidden')
    expect(await gate(bearer(await first.sign()))).toBeUndefined()
  })

  it('is asked for nothing by a token that names other addresses', async () => {
    const issuer = await issuerWith(first)
    const lure = await issuerWith(second)
    const { gate } = trusting(issuer.url)
    const header = { jku: lure.url, x5u: lure.url, jwk: second.jwk, kid: 'first' }
    expect(await gate(bearer(await second.sign({}, header)))).toMatchObject({ reason: 'JWT_SIGNATURE' })
    expect(await gate(bearer(rawToken({ alg: 'HS256', kid: 'first' }, { exp: 1_800_000_600 })))).toMatchObject({
      reason: 'JWT_ALG',
    })
    expect(lure.hits).toBe(0)
  })
})

describe('a bad answer keeps the last good keys', () => {
  const bad: [string, Issuer['answer'], RegExp][] = [
    ['an empty set', (_, res) => res.end('{"keys":[]}'), /no usable public key/],
    ['garbage', (_, res) => res.end('<html>'), /not JSON/],
    ['nothing', (_, res) => res.end(), /not JSON/],
    ['null', (_, res) => res.end('null'), /not a JWKS/],
    ['keys that are no keys', (_, res) => res.end('{"keys":[null,1,"a",{},{"kty":"EC"}]}'), /no usable public key/],
    ['a shared secret', (_, res) => res.end('{"keys":[{"kty":"oct","k":"AAAA","kid":"first"}]}'), /no usable public key/],
    ['a thousand keys', (_, res) => res.end(JSON.stringify({ keys: Array(1000).fill({ kty: 'RSA' }) })), /more than 100/],
    ['an error', (_, res) => res.writeHead(500).end('{"keys":[]}'), /answered 500/],
    ['a redirect', (_, res) => res.writeHead(302, { location: '/elsewhere' }).end(), /answered 302/],
    ['204', (_, res) => res.writeHead(204).end(), /answered 204/],
    ['a huge answer', (_, res) => res.end(' '.repeat(MAX_JWKS_BYTES + 1)), /larger than 1048576/],
    ['an endless answer', (_, res) => {
      const chunk = ' '.repeat(65536)
      const more = () => { while (!res.destroyed && res.write(chunk)); }
      res.on('drain', more)
      more()
    }, /larger than 1048576/],
    ['an answer that is cut', (_, res) => {
      res.writeHead(200, { 'content-length': 100 })
      res.write('{"keys":[')
      setTimeout(() => res.destroy(), 20)
    }, /./],
  ] // biome-ignore format: a table

  it.each(bad)('%s', async (_, answer, message) => {
    const issuer = await issuerWith(first)
    const { gate, keySets } = trusting(issuer.url)
    await keySets.ready()
    issuer.answer = answer
    expect(await gate(bearer(await second.sign()))).toMatchObject({ code: 'JWT_INVALID', reason: 'JWT_KID' })
    expect(issuer.hits).toBe(2) // a redirect is not followed
    expect(keySets.status()[0]).toMatchObject({ kids: ['first'], lastError: expect.stringMatching(message) })
    expect(await gate(bearer(await first.sign()))).toBeUndefined()
  })

  it.each([
    ['no answer', ''],
    ['an answer that drips', 'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{'],
  ])('%s: a request waits a few seconds at most, the fetch ends after five', async (_, begin) => {
    const server: Server = createServer((socket) => {
      socket.on('error', () => {}).resume()
      socket.write(begin)
      const drip = setInterval(() => socket.write(' '), 200)
      if (begin === '') clearInterval(drip)
      socket.on('close', () => clearInterval(drip))
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    open.push({ close: () => new Promise((resolve) => server.close(resolve)) })
    const { gate, keySets } = trusting(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`)
    const started = performance.now()
    expect(await gate(bearer(await first.sign()))).toMatchObject({ code: 'JWT_KEY', status: 503 })
    expect(performance.now() - started).toBeLessThan(4000)
    await keySets.ready()
    expect(performance.now() - started).toBeLessThan(7000)
    expect(keySets.status()[0]?.lastError).toBe('the endpoint did not answer within 5 s')
  })
})

describe('usable keys', () => {
  it('leave private parts and foreign members behind', async () => {
    const { jwk } = await keyPair('k')
    const [kept] = usableKeys({
      keys: [{ ...jwk, d: 'AAAA', x5u: 'http://evil', x5c: ['a'], key_ops: ['verify'] }],
    }).keys
    expect(Object.keys(kept!).sort()).toEqual(['alg', 'crv', 'key_ops', 'kid', 'kty', 'use', 'x', 'y'])
  })

  it('are those for signatures', async () => {
    const { jwk } = await keyPair('k')
    for (const other of [
      { use: 'enc' },
      { key_ops: ['sign'] },
      { alg: 'ECDH-ES' },
      { kid: 7 },
      { crv: 'P-384' },
      { x: '' },
    ]) {
      expect(() => usableKeys({ keys: [{ ...jwk, ...other }] })).toThrow(/no usable/)
      expect(usableKeys({ keys: [{ ...jwk, ...other }, jwk] }).keys).toHaveLength(1)
    }
  })
})
