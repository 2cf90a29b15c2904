import { describe, expect, it } from 'vitest'
import { routeConfig } from '../../../src/config/schema.ts'
import { compileRewrite } from '../../../src/routing/rewrite.ts'

function rewritten(match: object, rewrite: object | undefined, path: string): string | undefined {
  const route = routeConfig.parse({ name: 'r', match, rewrite, upstream: 'u' })
  return compileRewrite(route as Parameters<typeof compileRewrite>[0])?.(path)
}

it('no rewrite costs nothing', () => {
  expect(rewritten({ path: '/a' }, undefined, '/a')).toBeUndefined()
})

describe('a prefix takes the place of what was matched', () => {
  it.each([
    ['/api', '/', '/api', '/'],
    ['/api', '/', '/api/', '/'],
    ['/api', '/', '/api/x/', '/x/'],
    ['/api', '/orders', '/api', '/orders'],
    ['/api', '/orders', '/api/', '/orders/'],
    ['/api', '/orders', '/api/x', '/orders/x'],
    ['/api', '/orders/', '/api/x', '/orders/x'],
    ['/api/', '/orders', '/api', '/orders'],
    ['/api/', '/orders', '/api/x', '/orders/x'],
    ['/', '/v1', '/', '/v1/'],
    ['/', '/v1', '/x', '/v1/x'],
    ['/api', '/%7e/é', '/api/x', '/~/%C3%A9/x'],
    ['/%7e', '/x', '/~/y', '/x/y'],
    ['/api', '/', '/api;v=1', '/'],
    ['/api', '/', '/api;v=1/x', '/x'],
    ['/api', '/orders', '/api/x;v=1', '/orders/x;v=1'],
    ['/api/v1', '/orders', '/api;a/v1;b/x', '/orders/x'],
  ])('%s → %s: %s becomes %s', (pathPrefix, prefix, path, expected) => {
    expect(rewritten({ pathPrefix }, { prefix }, path)).toBe(expected)
  })
})

describe('a path is made of what the match took', () => {
  it.each([
    [{ path: '/a' }, '/b', '/a', '/b'],
    [{ pathPrefix: '/a' }, '/b', '/a/x', '/b'],
    [{}, '/é', '/x', '/%C3%A9'],
    [{ pathTemplate: '/users/{id}' }, '/u/{id}', '/users/7', '/u/7'],
    [{ pathTemplate: '/users/{id}/{rest...}' }, '/{rest}/of/{id}', '/users/7/a/b', '/a/b/of/7'],
    [{ pathTemplate: '/files/{rest...}' }, '/f/{rest}', '/files/', '/f/'],
    [{ pathTemplate: '/a/{x}' }, '/b/{x}{x}', '/a/%2520', '/b/%2520%2520'],
    [{ pathTemplate: '/a/{x}' }, '/$1/$&/{x}', '/a/$`', '/$1/$&/$`'],
    [{ pathRegex: '/v(?<n>\\d+)(?<rest>/.*)?' }, '/{n}{rest}', '/v2/x', '/2/x'],
    [{ pathRegex: '/v(?<n>\\d+)(?<rest>/.*)?' }, '/{n}{rest}', '/v2', '/2'],
    [{ pathRegex: '/v(?<rest>.*)' }, '/w/{rest}', '/v/x', '/w/x'],
    [{ pathRegex: '/v(?<dots>\\.\\.)w' }, '/a/b/{dots}', '/v..w', '/a/'],
  ])('%j → %s: %s becomes %s', (match, path, from, expected) => {
    expect(rewritten(match, { path }, from)).toBe(expected)
  })
})
