/** What the file may say about rate limits and Redis, and what it means when a key is left out. */

import { describe, expect, it } from 'vitest'
import {
  rateLimitProblems,
  rateLimitRouteConfig,
  rateLimitsConfig,
  redisConfig,
} from '../../../../src/policies/rate-limit/config.ts'
import { redisNameOf } from '../../../../src/policies/rate-limit/terms.ts'

const problems = (rule: object) => {
  const result = rateLimitsConfig.safeParse({ r: rule })
  return result.success ? [] : result.error.issues.map((issue) => `${issue.path.slice(1).join('.')}: ${issue.message}`)
}

describe('rateLimits', () => {
  it('reads requestsPerMinute as limit and window', () => {
    expect(rateLimitsConfig.parse({ perIp: { key: 'ip', requestsPerMinute: 1000 } }).perIp).toEqual({
      key: ['ip'],
      limit: 1000,
      window: 60_000,
      algorithm: 'gcra',
      cost: 1,
      mode: 'enforce',
      store: 'memory',
      onStoreError: 'local',
    })
  })

  it('takes every other key with either form', () => {
    expect(
      problems({
        key: ['apiKey', 'header:X-T'],
        requestsPerMinute: 50,
        burst: 5,
        tiers: { premium: 9 },
        mode: 'shadow',
        store: 'redis:main',
      }),
    ).toEqual([])
    expect(rateLimitsConfig.parse({ r: { key: 'header:X-T', limit: 1, window: '1s' } }).r?.key).toEqual(['header:x-t'])
  })

  it('refuses a rule that no request could ever pass', () => {
    expect(problems({ key: 'ip', limit: 10, window: '1s', cost: 11 })).toEqual([
      'cost: no request could ever pass: at most 10 pass at once',
    ])
    expect(problems({ key: 'ip', limit: 10, window: '1s', burst: 3, cost: 4 })).toEqual([
      'cost: no request could ever pass: at most 3 pass at once',
    ])
    expect(problems({ key: 'ip', limit: 10, window: '1s', cost: 5, tiers: { low: 4 } })).toEqual([
      'cost: no request could ever pass: at most 4 pass at once',
    ])
    expect(problems({ key: 'ip', limit: 10, window: '1s', burst: 20, cost: 15 })).toEqual([])
  })

  it('names what is missing, double or out of place', () => {
    expect(problems({ key: 'ip', limit: 10 })).toEqual(['window: a rule needs limit and window, or requestsPerMinute'])
    expect(problems({ key: 'ip' })).toEqual(['limit: a rule needs limit and window, or requestsPerMinute'])
    expect(problems({ key: 'ip', limit: 1, window: '1s', requestsPerMinute: 1 })[0]).toContain('one or the other')
    expect(problems({ key: 'ip', limit: 1, window: '1s', burst: 1, algorithm: 'fixedWindow' })).toEqual([
      'burst: goes with algorithm gcra only',
    ])
    expect(problems({ key: 'ip', limit: 1, window: 0 })).toEqual(['window: expected 1ms to 366d'])
    expect(problems({ key: [], limit: 1, window: '1s' })).toHaveLength(1)
    expect(problems({ key: ['ip', 'ip'], limit: 1, window: '1s' })).toEqual(['key: names the same part twice'])
    expect(problems({ key: 'cookie:x', limit: 1, window: '1s' })).toHaveLength(1)
    expect(problems({ key: 'ip', limit: 1, window: '1s', stroe: 'redis' })).toHaveLength(1)
    expect(rateLimitsConfig.safeParse({ 'a"b': { key: 'ip', requestsPerMinute: 1 } }).success).toBe(false)
  })

  it('takes one name or a list on a route, none twice', () => {
    expect(rateLimitRouteConfig.parse('perIp')).toEqual(['perIp'])
    expect(rateLimitRouteConfig.parse(['a', 'b'])).toEqual(['a', 'b'])
    expect(rateLimitRouteConfig.safeParse(['a', 'a']).success).toBe(false)
  })
})

describe('redis', () => {
  const one = redisConfig.parse({ main: { url: 'redis://127.0.0.1:6379' } }).main!

  it('waits 50 ms for a reply unless told otherwise', () => {
    expect(one).toMatchObject({ commandTimeout: 50, connectTimeout: 1000, keyPrefix: 'fluxor:' })
  })

  it('is one of a server, sentinels, a cluster', () => {
    const fails = (server: object) => !redisConfig.safeParse({ main: server }).success
    expect(fails({})).toBe(true)
    expect(fails({ url: 'redis://a', cluster: ['a:1'] })).toBe(true)
    expect(fails({ sentinels: ['a:1'] })).toBe(true)
    expect(fails({ sentinels: ['a:1'], name: 'mymaster' })).toBe(false)
    expect(fails({ cluster: ['[::1]:7000', 'b:7001'] })).toBe(false)
    expect(fails({ url: 'http://a' })).toBe(true)
    expect(fails({ url: 'redis://a', keyPrefix: '{x}' })).toBe(true)
    expect(fails({ url: 'redis://a', commandTimeout: 0 })).toBe(true)
  })

  it('is found by the store of a rule: by name, main, or the only one', () => {
    expect(redisNameOf('memory', { main: one })).toBeUndefined()
    expect(redisNameOf('redis', { other: one })).toBe('other')
    expect(redisNameOf('redis', { other: one, main: one })).toBe('main')
    expect(redisNameOf('redis:other', { other: one, main: one })).toBe('other')
    const rateLimits = rateLimitsConfig.parse({
      a: { key: 'ip', requestsPerMinute: 1, store: 'redis' },
      b: { key: 'ip', requestsPerMinute: 1, store: 'redis:x' },
    })
    expect(rateLimitProblems({ rateLimits })).toEqual([
      { path: ['rateLimits', 'a', 'store'], message: 'there is no redis block' },
      { path: ['rateLimits', 'b', 'store'], message: 'there is no redis block' },
    ])
    expect(rateLimitProblems({ rateLimits, redis: { x: one, y: one } }).map((p) => p.path[1])).toEqual(['a'])
    expect(rateLimitProblems({ rateLimits, redis: { x: one } })).toEqual([])
  })
})
