/** The index of the router changes how fast a route is found, never which. */

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { headFromText } from '../../../src/http1/message-head.ts'
import { type MatchConfig, matchConfig } from '../../../src/routing/config.ts'
import { Matcher, type MatchInput } from '../../../src/routing/matcher.ts'
import { Router, sortBySpecificity } from '../../../src/routing/router.ts'

interface TestRoute {
  name: string
  match: MatchConfig
}

function routes(...matches: object[]): TestRoute[] {
  return matches.map((match) => ({ name: JSON.stringify(match), match: matchConfig.parse(match) }))
}

function input(path: string, method = 'GET', authority = 'a.test', fields = ''): MatchInput {
  return {
    path,
    query: '',
    method,
    authority,
    head: headFromText('request', `${method} / HTTP/1.1\r\nHost: a\r\n${fields}\r\n`),
  }
}

/** One after the other, without an index. */
function findByHand(all: readonly TestRoute[], wanted: MatchInput): { route: TestRoute | undefined; allow: string[] } {
  const allow = new Set<string>()
  for (const route of sortBySpecificity(all)) {
    const matcher = new Matcher(route.match)
    if (matcher.mismatch(wanted) === '') return { route, allow: [] }
    if (matcher.mismatchButMethod(wanted) === '') for (const method of matcher.methods ?? []) allow.add(method)
  }
  return { route: undefined, allow: [...allow] }
}

describe('whatever the routes and the request', () => {
  const segment = fc.constantFrom('a', 'b', 'api', '{x}', '%7e', 'A')
  const literal = fc
    .array(
      segment.filter((text) => !text.startsWith('{')),
      { maxLength: 3 },
    )
    .map((parts) => `/${parts.join('/')}`)
  const template = fc
    .uniqueArray(segment, { minLength: 1, maxLength: 3 })
    .chain((parts) => fc.constantFrom('', '/{rest...}').map((rest) => `/${parts.join('/')}${rest}`))
  const match = fc
    .record(
      {
        path: fc.oneof(
          literal.map((path) => ({ path })),
          fc
            .tuple(literal, fc.constantFrom('', '/'))
            .map(([path, slash]) => ({ pathPrefix: path === '/' ? path : path + slash })),
          template.map((pathTemplate) => ({ pathTemplate })),
          fc.constantFrom({ pathRegex: '/a.*' }, { pathRegex: '.*' }, {}),
        ),
        host: fc.constantFrom('a.test', '*.test', ['a.test', 'b.test'], '*'),
        methods: fc.constantFrom(['GET'], ['POST', 'PUT'], ['DELETE']),
        headers: fc.constantFrom({ x: '1' }, { y: { present: true } }),
      },
      { requiredKeys: ['path'] },
    )
    .map(({ path, ...rest }) => ({ ...path, ...rest }))
  const path = fc
    .array(fc.constantFrom('a', 'b', 'api', 'c', '~', '', 'a;x', ';'), { maxLength: 4 })
    .map((parts) => `/${parts.join('/')}`.replaceAll(/\/+/g, '/'))
  const wanted = fc
    .tuple(
      path,
      fc.constantFrom('GET', 'HEAD', 'POST', 'OPTIONS'),
      fc.constantFrom('a.test', 'b.test', 'x.test', 'c'),
      fc.constantFrom('', 'x: 1\r\n', 'y: 2\r\n'),
    )
    .map(([at, method, host, fields]) => input(at, method, host, fields))

  it('the same route is found as one after the other', () => {
    let found = 0
    let refused = 0
    fc.assert(
      fc.property(
        fc.array(match, { maxLength: 12 }),
        fc.array(wanted, { minLength: 1, maxLength: 5 }),
        (matches, requests) => {
          const all = routes(...matches)
          const router = new Router(all)
          for (const request of requests) {
            const { route, allow } = router.find(request)
            const expected = findByHand(all, request)
            expect(route).toBe(expected.route)
            expect([...(allow ?? [])].sort()).toEqual(expected.allow.sort())
            if (route !== undefined) found++
            else if (allow !== null) refused++
          }
        },
      ),
      { numRuns: 500 },
    )
    expect(Math.min(found, refused), 'requests of both kinds').toBeGreaterThan(20)
  })
})

describe('the router', () => {
  const names = (router: Router<TestRoute>, ...requests: MatchInput[]) =>
    requests.map((request) => router.find(request).route?.match)

  it('prefers the exact path, then the template, the longer prefix, the regex, the rest', () => {
    const all = routes(
      { pathPrefix: '/' },
      { pathRegex: '/api/.*' },
      { pathPrefix: '/api' },
      { pathPrefix: '/api/orders' },
      { pathTemplate: '/api/{name}' },
      { path: '/api/orders' },
    )
    const found = names(
      new Router(all),
      ...['/api/orders', '/api/x', '/api/orders/1', '/api/x/y', '/x'].map((path) => input(path)),
    )
    expect(found).toEqual([all[5], all[4], all[3], all[2], all[0]].map((route) => route!.match))
  })

  it('a regex is tried before the route for all the rest', () => {
    const all = routes({ pathPrefix: '/' }, { pathRegex: '/v\\d+/.*' })
    expect(names(new Router(all), input('/v1/x'), input('/x'))).toEqual([all[1]!.match, all[0]!.match])
  })

  it('answers 404 where nothing matches', () => {
    expect(new Router(routes({ path: '/a' })).find(input('/b'))).toEqual({ route: undefined, allow: null })
    expect(new Router([]).find(input('/'))).toEqual({ route: undefined, allow: null })
  })

  it('answers 405 with all that is allowed there, on this host', () => {
    const router = new Router(
      routes(
        { path: '/a', methods: ['GET'] },
        { pathPrefix: '/a', methods: ['POST', 'GET'] },
        { pathTemplate: '/{x}', methods: 'DELETE', host: 'b.test' },
        { path: '/b', methods: 'PATCH' },
      ),
    )
    expect(router.find(input('/a', 'PUT')).allow).toEqual(['GET', 'HEAD', 'POST'])
    expect(router.find(input('/a', 'PUT', 'b.test')).allow).toEqual(['DELETE', 'GET', 'HEAD', 'POST'])
    expect(router.find(input('/a', 'HEAD')).route).toBeDefined()
  })

  it('another route may take the method', () => {
    const all = routes({ path: '/a', methods: 'GET' }, { pathPrefix: '/' })
    expect(names(new Router(all), input('/a', 'POST'))).toEqual([all[1]!.match])
  })

  it.each(['/__proto__', '/constructor', '/toString'])('%s is a path like others', (path) => {
    const all = routes({ path: '/__proto__' }, { pathPrefix: '/constructor' }, { pathTemplate: '/toString' })
    expect(new Router(all).find(input(path)).route).toBeDefined()
    expect(new Router(routes({ path: '/a' })).find(input(path)).route).toBeUndefined()
  })
})
