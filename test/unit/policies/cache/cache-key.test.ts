import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { Exchange } from '../../../../src/exchange.ts'
import { compileUrl } from '../../../../src/policies/cache/cache-key.ts'
import { cacheRouteConfig } from '../../../../src/policies/cache/config.ts'

interface Asked {
  secure: boolean
  authority: string
  path: string
  query: string
}
const of = ({ secure, ...rest }: Asked) => ({ ...rest, client: { listener: { secure } } }) as unknown as Exchange
const plain = ({ secure, authority, path, query }: Asked) =>
  `${secure ? 'https' : 'http'}://${authority.toLowerCase()}${path}${query}`

describe('the URL under which an answer is kept', () => {
  const urlOf = compileUrl(cacheRouteConfig.parse({}))

  it('is that of the request, whatever was asked before it', () => {
    // Few letters, so that many requests share their lengths and their ends.
    const word = fc.string({ unit: fc.constantFrom('a', 'b', '/', 'A', 'é'), maxLength: 6 })
    const asked = fc.record({
      secure: fc.boolean(),
      authority: fc.constantFrom('a', 'A', 'a.test', 'b.test', 'a.test:80', 'a.testa', ''),
      path: word.map((text) => `/${text}`),
      query: fc.oneof(
        fc.constant(''),
        fc.constant('?'),
        word.map((text) => `?${text}`),
      ),
    })
    fc.assert(
      fc.property(fc.array(asked, { minLength: 2, maxLength: 200 }), (list) => {
        for (const one of list) expect(urlOf(of(one))).toBe(plain(one))
        for (const one of list) expect(urlOf(of(one))).toBe(plain(one))
      }),
    )
  })

  it('is not one that ends in the same way and is as long', () => {
    const pairs: [Asked, Asked][] = [
      [
        { secure: false, authority: 'a.test', path: '/b/xyz', query: '' },
        { secure: false, authority: 'a.test', path: '/c/xyz', query: '' },
      ],
      [
        { secure: false, authority: 'a.test', path: '/xyz', query: '?abc' },
        { secure: false, authority: 'a.tes1', path: '/xyz', query: '?abc' },
      ],
      [
        { secure: true, authority: 'a', path: '/xyz', query: '' },
        { secure: false, authority: 'ab', path: '/xyz', query: '' },
      ],
      [
        { secure: false, authority: 'a', path: '/xyz', query: '?1bc' },
        { secure: false, authority: 'a', path: '/xyz', query: '?2bc' },
      ],
    ]
    for (const pair of pairs) for (const one of [...pair, ...pair]) expect(urlOf(of(one))).toBe(plain(one))
  })

  it('is of any length', () => {
    for (const length of [1, 255, 8000]) {
      const one = { secure: false, authority: 'a.test', path: `/${'x'.repeat(length)}`, query: '' }
      for (let i = 0; i < 2; i++) expect(urlOf(of(one))).toBe(plain(one))
    }
  })

  it('has of the query what the route keys by', () => {
    const keyed = compileUrl(cacheRouteConfig.parse({ key: { query: { exclude: ['utm_*'] } } }))
    const one = { secure: false, authority: 'a.test', path: '/p' }
    for (let i = 0; i < 2; i++) {
      expect(keyed(of({ ...one, query: '?a=1&utm_source=x' }))).toBe('http://a.test/p?a=1')
      expect(keyed(of({ ...one, query: '?utm_source=x' }))).toBe('http://a.test/p')
      expect(keyed(of({ ...one, query: '?a=2' }))).toBe('http://a.test/p?a=2')
      expect(urlOf(of({ ...one, query: '?utm_source=x' }))).toBe('http://a.test/p?utm_source=x')
    }
  })
})
