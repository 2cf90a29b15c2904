import { describe, expect, it } from 'vitest'
import type { Exchange } from '../../../../src/exchange.ts'
import { compileHashKey } from '../../../../src/upstream/balancers/hash-key.ts'

function exchange(over: object = {}): Exchange {
  const fields: Record<string, string> = { 'x-tenant': 'acme', cookie: 'a=1; sid=abc; b=2' }
  return {
    clientAddress: '203.0.113.7',
    path: '/a/b',
    query: '?tenantx=2&tenant=t%201&tenant=3',
    identity: { subject: 'u1', claims: { org: 'o1', level: 3, tags: [] }, apiKey: 'k1' },
    request: { get: (name: string) => fields[name] },
    ...over,
  } as unknown as Exchange
}

describe('hash key', () => {
  it.each([
    ['ip', '203.0.113.7'],
    ['subject', 'u1'],
    ['apiKey', 'k1'],
    ['path', '/a/b'],
    ['uri', '/a/b?tenantx=2&tenant=t%201&tenant=3'],
    ['header:X-Tenant', 'acme'],
    ['header:X-Other', ''],
    ['cookie:sid', 'abc'],
    ['query:tenant', 't%201'],
    ['query:none', ''],
    ['claim:org', 'o1'],
    ['claim:level', '3'],
    ['claim:tags', ''],
    ['claim:__proto__', ''],
    ['claim:toString', ''],
  ])('%s', (text, expected) => {
    expect(compileHashKey(text)!(exchange())).toBe(expected)
  })

  it.each(['subject', 'apiKey', 'claim:org'])('%s of nobody is no key', (text) => {
    expect(compileHashKey(text)!(exchange({ identity: undefined }))).toBe('')
  })

  it.each(['', 'IP', 'header:', 'body:x', 'cookie'])('"%s" is no key function', (text) => {
    expect(compileHashKey(text)).toBeUndefined()
  })
})
