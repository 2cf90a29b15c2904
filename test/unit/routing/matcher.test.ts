/** Which requests a route takes, condition by condition. */

import { describe, expect, it } from 'vitest'
import { headFromText } from '../../../src/http1/message-head.ts'
import { matchConfig } from '../../../src/routing/config.ts'
import { Matcher, type MatchInput, specificity, splitAuthority } from '../../../src/routing/matcher.ts'
import { sortBySpecificity } from '../../../src/routing/router.ts'

function request(target: string, host = 'a.test', method = 'GET', fields = ''): MatchInput {
  const question = target.indexOf('?')
  return {
    path: question < 0 ? target : target.slice(0, question),
    query: question < 0 ? '' : target.slice(question),
    method,
    authority: host.toLowerCase(),
    head: headFromText('request', `${method} ${target} HTTP/1.1\r\nHost: ${host}\r\n${fields}\r\n`),
  }
}

const matcher = (config: object) => new Matcher(matchConfig.parse(config))
const takes = (config: object, input: MatchInput) => matcher(config).mismatch(input)

describe('path', () => {
  it.each([
    [{ path: '/a' }, ['/a'], ['/', '/a/', '/ab', '/A', '/a/b']],
    [{ path: '/' }, ['/'], ['/a']],
    [{ path: '/a/b' }, ['/a/b;x', '/a;x=1/b', '/;x/a/b', '/a;/;/b'], ['/a;x/c', '/a/b;x/c', '/a/;b', '/ab;']],
    [{ path: '/a;x=1' }, ['/a;x=1'], ['/a', '/a;x=2']],
    [{ pathPrefix: '/a/b' }, ['/a/b;x', '/a/b;x/c;y', '/a;x/b/c', '/;/a/b'], ['/a;x', '/a/bc;x', '/;a/b']],
    [{ pathTemplate: '/u/{id}' }, ['/u/1;x', '/u;x/1'], ['/u;x', '/v;x/1']],
    [{ pathRegex: '/r/\\d+' }, ['/r/1;x', '/r;x/1'], ['/r/a;1']],
    [{ path: '/café' }, ['/caf%C3%A9'], ['/cafe']],
    [{ path: '/x/../%7e' }, ['/~'], ['/x/../%7e']],
    [{ pathPrefix: '/a' }, ['/a', '/a/', '/a/b/c'], ['/', '/ab', '/A', '/b/a']],
    [{ pathPrefix: '/a/' }, ['/a', '/a/', '/a/b'], ['/ab']],
    [{ pathPrefix: '/' }, ['/', '/a', '/a/b'], []],
    [{ pathPrefix: '/a%2fb' }, ['/a%2Fb', '/a%2Fb/c'], ['/a/b']],
    [
      { pathTemplate: '/users/{id}' },
      ['/users/1', '/users/a.b'],
      ['/users', '/users/', '/users/1/', '/users/1/x', '/x/users/1'],
    ],
    [
      { pathTemplate: '/users/{id}/files/{rest...}' },
      ['/users/1/files/', '/users/1/files/a/b'],
      ['/users/1/files', '/users/1/x/a'],
    ],
    [{ pathTemplate: '/{all...}' }, ['/', '/a/b'], []],
    [{ pathTemplate: '/a.b/{c}' }, ['/a.b/x'], ['/aXb/x']],
    [{ pathTemplate: '/a(b)+/{c}' }, ['/a(b)+/x'], ['/ab/x', '/abb/x']],
    [{ pathRegex: '/v[12]/.*' }, ['/v1/', '/v2/x'], ['/v3/', '/x/v1/', '/v1']],
    [{ pathRegex: '/a|/b' }, ['/a', '/b'], ['/ab', '/a/b', '/xx/b']],
    [{}, ['/', '/a', '/a/b'], []],
  ])('%j', (config, taken, left) => {
    expect(taken.filter((path) => takes(config, request(path)) !== '')).toEqual([])
    expect(left.filter((path) => takes(config, request(path)) !== 'path')).toEqual([])
  })

  it.each([
    { path: 'a' },
    { path: '/a?b' },
    { path: '/a#b' },
    { path: '/a\\b' },
    { path: '/..;/x' },
    { path: '/100%' },
    { pathPrefix: '/a b' },
    { pathTemplate: '/{a}/{a}' },
    { pathTemplate: '/x{a}' },
    { pathTemplate: '/{rest...}/x' },
    { pathTemplate: '/{}' },
    { pathRegex: '(' },
    { path: '/a', pathPrefix: '/b' },
    { method: 'GET' },
    { methods: 'get' },
    { host: 'a b' },
    { host: '*.' },
    { host: 'a.*' },
  ])('%j is refused in the file', (config) => expect(matchConfig.safeParse(config).success).toBe(false))
})

describe('host', () => {
  it.each([
    [
      { host: 'a.test' },
      ['a.test', 'A.TEST', 'a.test:80', 'a.test:8080', 'a.test.', 'a.test.:80'],
      ['b.test', 'x.a.test', 'a.test.b', 'ba.test'],
    ],
    [{ host: 'A.Test' }, ['a.test'], []],
    [{ host: 'a.test:8080' }, ['a.test:8080'], ['a.test', 'a.test:80']],
    [{ host: '*.a.test' }, ['x.a.test', 'x.y.a.test', 'x.a.test:80'], ['a.test', 'xa.test', '.a.test', 'x.a.test.b']],
    [{ host: '*.a.test:8080' }, ['x.a.test:8080'], ['x.a.test']],
    [{ host: ['a.test', '*.b.test'] }, ['a.test', 'x.b.test'], ['x.a.test', 'b.test']],
    [{ host: '[::1]' }, ['[::1]', '[::1]:80'], ['[::2]']],
    [{ host: '[::1]:80' }, ['[::1]:80'], ['[::1]']],
    [{ host: '*' }, ['a.test', '[::1]:80'], []],
    [{ host: ['a.test', '*'] }, ['b.test'], []],
  ])('%j', (config, taken, left) => {
    expect(taken.filter((host) => takes(config, request('/', host)) !== '')).toEqual([])
    expect(left.filter((host) => takes(config, request('/', host)) !== 'host')).toEqual([])
  })

  it('of a request that has none is no host', () => {
    const input = { ...request('/'), authority: '' }
    expect(takes({ host: 'a.test' }, input)).toBe('host')
    expect(takes({ host: '*.a.test' }, input)).toBe('host')
    expect(takes({}, input)).toBe('')
  })

  it.each([
    ['a', 'a', ''],
    ['a:1', 'a', '1'],
    ['a.:1', 'a', '1'],
    ['[::1]', '[::1]', ''],
    ['[::1]:1', '[::1]', '1'],
    ['', '', ''],
  ])('%j is name %j and port %j', (authority, name, port) => {
    expect(splitAuthority(authority)).toEqual({ name, port })
  })
})

describe('methods', () => {
  it.each([
    [undefined, ['GET', 'HEAD', 'POST', 'M-SEARCH'], []],
    ['GET', ['GET', 'HEAD'], ['POST', 'OPTIONS']],
    ['HEAD', ['HEAD'], ['GET']],
    [
      ['POST', 'M-SEARCH'],
      ['POST', 'M-SEARCH'],
      ['GET', 'HEAD'],
    ],
  ])('%j', (methods, taken, left) => {
    expect(taken.filter((method) => takes({ methods }, request('/', 'a', method)) !== '')).toEqual([])
    expect(left.filter((method) => takes({ methods }, request('/', 'a', method)) !== 'method')).toEqual([])
  })
})

describe('header fields', () => {
  it.each([
    ['1', 'X-A: 1', ''],
    ['1', 'x-a:1 ', ''],
    ['1', 'X-A: 2', 'header'],
    ['1', 'X-B: 1', 'header'],
    ['1, 2', 'X-A: 1\r\nX-A: 2', ''],
    [1, 'X-A: 1', ''],
    [{ present: true }, 'X-A:', ''],
    [{ present: true }, 'X-B: 1', 'header'],
    [{ present: false }, 'X-B: 1', ''],
    [{ present: false }, 'X-A: 1', 'header'],
    [{ regex: 'a+' }, 'X-A: aa', ''],
    [{ regex: 'a+' }, 'X-A: aab', 'header'],
    [{ regex: 'a|b' }, 'X-A: ab', 'header'],
    [{ regex: '.*' }, 'X-B: 1', 'header'],
  ])('X-A %j with %j', (condition, field, mismatch) => {
    expect(takes({ headers: { 'X-A': condition } }, request('/', 'a', 'GET', `${field}\r\n`))).toBe(mismatch)
  })

  it('must all be there; known ones too', () => {
    const config = { headers: { accept: 'x', __proto__x: '1' } }
    expect(takes(config, request('/', 'a', 'GET', 'Accept: x\r\n__proto__x: 1\r\n'))).toBe('')
    expect(takes(config, request('/', 'a', 'GET', 'Accept: x\r\n'))).toBe('header')
  })
})

describe('query parameters', () => {
  it.each([
    ['?a=1', ''],
    ['?b=2&a=1', ''],
    ['?a=%31', ''],
    ['?a=1&a=2', ''],
    ['?a=2&a=1', 'query'],
    ['?a=2', 'query'],
    ['?a', 'query'],
    ['?A=1', 'query'],
    ['', 'query'],
  ])('a=1 with %j', (query, mismatch) => {
    expect(takes({ query: { a: '1' } }, request(`/${query}`))).toBe(mismatch)
  })

  it('may be asked for whatever their value, or not to be there', () => {
    expect(takes({ query: { a: { present: true } } }, request('/?a'))).toBe('')
    expect(takes({ query: { a: { present: false } } }, request('/?a'))).toBe('query')
    expect(takes({ query: { a: { present: false } } }, request('/?b'))).toBe('')
  })
})

it('the first condition that fails is told: path, host, header, query, method', () => {
  const config = { path: '/a', host: 'a.test', headers: { x: '1' }, query: { q: '1' }, methods: 'GET' }
  const tell = (target: string, host: string, fields: string, method: string) =>
    takes(config, request(target, host, method, fields))
  expect(tell('/b', 'b.test', '', 'PUT')).toBe('path')
  expect(tell('/a', 'b.test', '', 'PUT')).toBe('host')
  expect(tell('/a', 'a.test', '', 'PUT')).toBe('header')
  expect(tell('/a', 'a.test', 'x: 1\r\n', 'PUT')).toBe('query')
  expect(tell('/a?q=1', 'a.test', 'x: 1\r\n', 'PUT')).toBe('method')
  expect(tell('/a?q=1', 'a.test', 'x: 1\r\n', 'GET')).toBe('')
})

it('the more specific comes first, whatever the order of the file', () => {
  const inOrder = [
    { host: 'a.test', path: '/a', methods: 'GET' },
    { host: 'a.test', path: '/a' },
    { host: ['a.test', '*.test'], methods: 'GET' },
    { host: 'a.test' },
    { host: '*.long.a.test', path: '/a' },
    { host: '*.a.test', path: '/a/b/c' },
    { host: '*.a.test' },
    { path: '/a/b' },
    { path: '/a', headers: { x: '1' }, query: { y: '1' } },
    { path: '/a', headers: { x: '1' } },
    { path: '/a', methods: 'GET' },
    { path: '/a' },
    { pathTemplate: '/users/{id}/files' },
    { pathTemplate: '/users/{id}' },
    { pathTemplate: '/{a}/{b}' },
    { pathPrefix: '/api/orders' },
    { pathPrefix: '/api', query: { x: '1' } },
    { pathPrefix: '/api' },
    { pathRegex: '/.*' },
    { host: ['*', 'a.test'], pathPrefix: '/', headers: { x: '1' } },
    { pathPrefix: '/', methods: 'GET' },
    { pathPrefix: '/' },
    { headers: { x: '1' } },
    { host: '*' },
  ].map((config) => ({ match: matchConfig.parse(config) }))
  const weights = inOrder.map(({ match }) => specificity(match))
  const shuffled = inOrder.map((_, i) => inOrder[(i * 7 + 3) % inOrder.length]!)
  expect(new Set(shuffled).size).toBe(inOrder.length)
  // Equal ones may change places; what they weigh may not.
  expect(sortBySpecificity(shuffled).map(({ match }) => specificity(match))).toEqual(weights)
})

it('ties go by the order of the file', () => {
  const routes = ['a', 'b', 'c'].map((name) => ({ name, match: matchConfig.parse({ pathPrefix: '/x' }) }))
  expect(sortBySpecificity(routes).map(({ name }) => name)).toEqual(['a', 'b', 'c'])
})
