/** The wall clock is set: tokens follow it at once, whether they were seen before or not; keys are as old as they are. */

import { afterEach, expect, it } from 'vitest'
import { bearer, hs256, identity, keyPair, NOW_SEC, publishing, SECRET, startIssuer, TestClock } from './requests.ts'

class SetClock extends TestClock {
  setMs = 0
  override wallMs(): number {
    return super.wallMs() + this.setMs
  }
}

let cleanup: (() => unknown)[] = []
afterEach(async () => {
  for (const close of cleanup.reverse()) await close()
  cleanup = []
})

const HOUR_MS = 3_600_000

it('a token that was seen ends when the clock is set past its end, and counts again when that was a mistake', async () => {
  const clock = new SetClock()
  const { gate } = identity({ jwt: 'main' }, { jwt: { main: { secret: SECRET } } }, { clock })
  const [seen, other] = [await hs256({ exp: NOW_SEC + 600 }), await hs256({ exp: NOW_SEC + 600, n: 1 })]
  expect(await gate(bearer(seen))).toBeUndefined()
  clock.setMs = HOUR_MS
  for (const token of [seen, other]) expect(await gate(bearer(token))).toMatchObject({ code: 'JWT_EXPIRED' })
  clock.setMs = 0
  for (const token of [seen, other]) expect(await gate(bearer(token))).toBeUndefined()
})

it('a token that is not valid yet is not, when the clock is set back, however often it was refused or seen', async () => {
  const clock = new SetClock()
  const { gate } = identity({ jwt: 'main' }, { jwt: { main: { secret: SECRET } } }, { clock })
  const token = await hs256({ nbf: NOW_SEC - 60, exp: NOW_SEC + 600 })
  clock.setMs = -HOUR_MS
  expect(await gate(bearer(token))).toMatchObject({ reason: 'JWT_NBF' })
  clock.setMs = 0
  expect(await gate(bearer(token))).toBeUndefined()
})

it('keys of an issuer neither grow old nor young by it, and are not fetched again', async () => {
  const key = await keyPair('k')
  const issuer = await startIssuer(publishing(key))
  const clock = new SetClock()
  const { gate, keySets } = identity({ jwt: 'main' }, { jwt: { main: { jwks: { url: issuer.url } } } }, { clock })
  cleanup.push(
    () => keySets.close(),
    () => issuer.close(),
  )
  await keySets.ready()
  for (const setMs of [10 * 24 * HOUR_MS, -10 * 24 * HOUR_MS, 0]) {
    clock.setMs = setMs
    const nowSec = NOW_SEC + setMs / 1000
    expect(await gate(bearer(await key.sign({ exp: nowSec + 60 })))).toBeUndefined()
    expect(keySets.status()[0]).toMatchObject({ ageMs: 0, lastError: undefined })
  }
  expect(issuer.hits).toBe(1)
})
