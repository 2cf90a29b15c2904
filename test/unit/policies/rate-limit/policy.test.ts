/** Rate limits as a client meets them: who is counted together, what a refusal says, which fields every answer carries. */

import { describe, expect, it } from 'vitest'
import { type ClientStream, Exchange, type Identity } from '../../../../src/exchange.ts'
import { headFromText } from '../../../../src/http1/message-head.ts'
import type { LocalReply } from '../../../../src/local-reply.ts'
import { rateLimitsConfig } from '../../../../src/policies/rate-limit/config.ts'
import { compileRateLimits, type RateLimitDeps } from '../../../../src/policies/rate-limit/policy.ts'
import { LimiterTable } from '../../../../src/shared/limiter-table.ts'

interface Request {
  ip?: string
  apiKey?: string
  claims?: Record<string, unknown>
  tier?: string
  fields?: string
}

function exchange({ ip = '192.0.2.1', apiKey, claims, tier, fields = '' }: Request = {}): Exchange {
  const head = headFromText('request', `GET / HTTP/1.1\r\nHost: a\r\n${fields}\r\n`)
  const x = new Exchange(head, {} as ClientStream, 0)
  x.clientAddress = ip
  if (apiKey !== undefined || claims !== undefined || tier !== undefined) {
    const identity: Identity = {
      subject: apiKey ?? 'someone',
      claims: Object.assign(Object.create(null), claims),
      apiKey,
      tier,
    }
    x.identity = identity
  }
  return x
}

/** Both gates of a route, on a clock that stands until it is moved. */
function limits(rules: unknown, names?: string[], deps: Partial<RateLimitDeps> = {}) {
  const config = rateLimitsConfig.parse(rules)
  const clock = { nowMs: 1_000_000 }
  const counts: Record<string, number> = {}
  const table = deps.table ?? LimiterTable.create(1024)
  const gates = compileRateLimits(names ?? Object.keys(config), config, {
    table,
    routeName: 'orders',
    now: () => clock.nowMs,
    count: (rule, event) => {
      counts[`${rule} ${event}`] = (counts[`${rule} ${event}`] ?? 0) + 1
    },
    ...deps,
  })
  const ask = (request: Request = {}) => {
    const x = exchange(request)
    const reply = (gates?.beforeIdentity?.(x) ?? gates?.afterIdentity?.(x)) as LocalReply | undefined
    expect(reply).not.toBeInstanceOf(Promise)
    return { x, reply, fields: x.responseFields }
  }
  const passes = (request: Request = {}, most = 100) => {
    let n = 0
    while (n < most && ask(request).reply === undefined) n++
    return n
  }
  return { ask, passes, clock, counts, gates, table }
}

describe('a rate limit', () => {
  it('is nothing for a route that names none', () => {
    expect(compileRateLimits(undefined, {}, { table: LimiterTable.create(64), routeName: 'r' })).toBeUndefined()
    expect(compileRateLimits([], {}, { table: LimiterTable.create(64), routeName: 'r' })).toBeUndefined()
  })

  it('does not find a rule called __proto__ or constructor', () => {
    const deps = { table: LimiterTable.create(64), routeName: 'r' }
    expect(() => compileRateLimits(['constructor'], {}, deps)).toThrow('there is no rate limit constructor')
    expect(() => compileRateLimits(['__proto__'], {}, deps)).toThrow('there is no rate limit')
  })

  it('answers 429 with Retry-After and the names of the limits that are over', () => {
    const { ask, clock } = limits({ perIp: { key: 'ip', limit: 2, window: '10s' } })
    ask()
    ask()
    const { reply } = ask()
    expect(reply).toMatchObject({ status: 429, code: 'RATE_LIMITED', fields: 'Retry-After: 5\r\n', close: false })
    const body = JSON.parse(reply!.body('id'))
    expect(body).toMatchObject({
      type: 'https://iana.org/assignments/http-problem-types#quota-exceeded',
      status: 429,
      code: 'RATE_LIMITED',
      'violated-policies': ['perIp'],
      requestId: 'id',
    })
    clock.nowMs += 4999
    expect(ask().reply?.fields).toBe('Retry-After: 1\r\n')
    clock.nowMs += 1
    expect(ask().reply).toBeUndefined()
  })

  it('tells every answer the current fields, refusals included', () => {
    const { ask } = limits({
      perIp: { key: 'ip', requestsPerMinute: 3 },
      all: { key: 'route', limit: 2, window: '1s' },
    })
    expect(ask().fields).toBe(
      'RateLimit-Policy: "perIp";q=3;w=60, "all";q=2;w=1\r\nRateLimit: "perIp";r=2;t=20, "all";r=1;t=1\r\n',
    )
    ask()
    const refused = ask()
    expect(refused.reply?.status).toBe(429)
    expect(refused.fields).toBe(
      'RateLimit-Policy: "perIp";q=3;w=60, "all";q=2;w=1\r\nRateLimit: "perIp";r=1;t=40, "all";r=0;t=1\r\n',
    )
  })

  it('leaves w out of the policy where the window is no whole number of seconds', () => {
    const { ask } = limits({ fast: { key: 'ip', limit: 3, window: '1500ms' } })
    expect(ask().fields).toContain('RateLimit-Policy: "fast";q=3\r\n')
  })

  it('tells the legacy fields of the strictest rule, also across the two gates', () => {
    const { ask } = limits(
      {
        a: { key: 'ip', limit: 9, window: '9s' },
        b: { key: 'apiKey', limit: 5, window: '5s' },
        c: { key: 'claim:sub', limit: 7, window: '7s' },
      },
      ['a', 'b', 'c'],
      { headers: 'legacy' },
    )
    expect(ask({ apiKey: 'acme', claims: { sub: 'x' } }).fields).toBe(
      'X-RateLimit-Limit: 5\r\nX-RateLimit-Remaining: 4\r\nX-RateLimit-Reset: 1\r\n',
    )
  })

  it('tells both, or nothing, as the rule asks', () => {
    const rule = { key: 'ip', limit: 9, window: '9s' }
    expect(limits({ a: { ...rule, headers: 'both' } }).ask().fields).toMatch(
      /^RateLimit-Policy.*\r\nRateLimit: .*\r\nX-RateLimit-Limit: 9\r\n/,
    )
    expect(limits({ a: { ...rule, headers: 'off' } }).ask().fields).toBe('')
    const { ask } = limits({ a: { ...rule, headers: 'off' }, b: rule }, ['a', 'b'])
    expect(ask().fields).toBe('RateLimit-Policy: "b";q=9;w=9\r\nRateLimit: "b";r=8;t=1\r\n')
  })

  it('counts each client address apart, IPv6 by its /64', () => {
    const { passes } = limits({ perIp: { key: 'ip', limit: 2, window: '1s' } })
    expect(passes({ ip: '192.0.2.1' })).toBe(2)
    expect(passes({ ip: '192.0.2.2' })).toBe(2)
    expect(passes({ ip: '2001:db8::1' })).toBe(2)
    expect(passes({ ip: '2001:db8::2:3' })).toBe(0)
    expect(passes({ ip: '2001:db8:0:1::2' })).toBe(2)
  })

  it('does not share a counter between two rules of the same numbers', () => {
    const rule = { key: 'ip', limit: 3, window: '1s' }
    const { ask, passes } = limits({ a: rule, b: rule }, ['a'])
    expect(passes()).toBe(3)
    const both = limits({ a: rule, b: rule }, ['b'])
    expect(both.passes()).toBe(3)
    expect(ask().reply).toBeDefined()
    const same = limits({ a: rule, b: rule }, ['a', 'b'])
    expect(same.passes()).toBe(3)
    expect(same.ask().reply?.extra).toEqual({ 'violated-policies': ['a', 'b'] })
  })

  it('is one counter for all routes that name it, and one for each with route in its key', () => {
    const table = LimiterTable.create(1024)
    const rules = {
      shared: { key: 'ip', limit: 3, window: '1s' },
      apart: { key: ['ip', 'route'], limit: 3, window: '1s' },
    }
    const on = (routeName: string, name: string) => limits(rules, [name], { table, routeName })
    expect(on('a', 'shared').passes() + on('b', 'shared').passes()).toBe(3)
    expect(on('a', 'apart').passes() + on('b', 'apart').passes()).toBe(6)
  })

  it('keeps its counts over a reload, and starts anew when the window changed', () => {
    const table = LimiterTable.create(1024)
    expect(limits({ r: { key: 'ip', limit: 3, window: '10s' } }, ['r'], { table }).passes()).toBe(3)
    expect(limits({ r: { key: 'ip', limit: 5, window: '10s' } }, ['r'], { table }).passes()).toBe(2)
    expect(limits({ r: { key: 'ip', limit: 3, window: '20s' } }, ['r'], { table }).passes()).toBe(3)
  })

  it('counts by API key, claim and header after identity, and by address where a part is absent', () => {
    const rule = { limit: 2, window: '1s' }
    const key = limits({ k: { key: 'apiKey', ...rule } })
    expect(key.gates?.beforeIdentity).toBeUndefined()
    expect(key.passes({ apiKey: 'acme', ip: '192.0.2.1' })).toBe(2)
    expect(key.passes({ apiKey: 'acme', ip: '192.0.2.2' })).toBe(0)
    expect(key.passes({ apiKey: 'other' })).toBe(2)
    expect(key.passes({ ip: '192.0.2.3' })).toBe(2)
    expect(key.passes({ ip: '192.0.2.3' })).toBe(0)

    const claim = limits({ c: { key: 'claim:sub', ...rule } })
    expect(claim.passes({ claims: { sub: 'u1' } })).toBe(2)
    expect(claim.passes({ claims: { sub: 'u1' }, ip: '192.0.2.9' })).toBe(0)
    expect(claim.passes({ claims: { sub: 7 } })).toBe(2)
    expect(claim.passes({ claims: { sub: ['a list names nobody'] } })).toBe(2)
    expect(claim.passes({ claims: {} })).toBe(0)

    const header = limits({ h: { key: 'header:X-Tenant', ...rule } })
    expect(header.gates?.afterIdentity).toBeUndefined()
    expect(header.passes({ fields: 'X-Tenant: a\r\n' })).toBe(2)
    expect(header.passes({ fields: 'x-tenant: a\r\n', ip: '192.0.2.8' })).toBe(0)
    expect(header.passes({ fields: 'X-Tenant: b\r\n' })).toBe(2)
    expect(header.passes({ ip: '192.0.2.1' })).toBe(2)
    expect(header.passes({ fields: 'X-Tenant: 192.0.2.1\r\n' })).toBe(2)
  })

  it('counts each combination of a list apart', () => {
    const { passes } = limits({ r: { key: ['apiKey', 'header:x-t'], limit: 1, window: '1s' } })
    expect(passes({ apiKey: 'a', fields: 'X-T: bc\r\n' })).toBe(1)
    expect(passes({ apiKey: 'ab', fields: 'X-T: c\r\n' })).toBe(1)
    expect(passes({ apiKey: 'a', fields: 'X-T: bc\r\n' })).toBe(0)
  })

  it('gives a tier its own limit and tells it', () => {
    const { ask, passes, gates } = limits({ r: { key: 'apiKey', limit: 2, window: '1s', tiers: { premium: 5 } } })
    expect(gates?.beforeIdentity).toBeUndefined()
    expect(passes({ apiKey: 'a' })).toBe(2)
    expect(passes({ apiKey: 'b', tier: 'premium' })).toBe(5)
    expect(passes({ apiKey: 'c', tier: 'constructor' })).toBe(2)
    expect(ask({ apiKey: 'd', tier: 'premium' }).fields).toContain('RateLimit-Policy: "r";q=5;w=1')
    expect(ask({ apiKey: 'e' }).fields).toContain('RateLimit-Policy: "r";q=2;w=1')
  })

  it('charges the cost of a rule', () => {
    const { passes, ask } = limits({ r: { key: 'ip', limit: 10, window: '10s', cost: 3 } })
    expect(passes()).toBe(3)
    expect(ask().fields).toContain('"r";r=1;')
  })

  it('charges no rule for a request that another one refuses, and waits for the strictest', () => {
    const { ask, passes, clock } = limits(
      {
        a: { key: 'ip', limit: 10, window: '10s' },
        b: { key: 'ip', limit: 2, window: '60s', algorithm: 'fixedWindow' },
        c: { key: 'ip', limit: 10, window: '10s' },
      },
      ['a', 'b', 'c'],
    )
    expect(passes()).toBe(2)
    for (let i = 0; i < 50; i++) expect(ask().reply?.extra).toEqual({ 'violated-policies': ['b'] })
    const { reply, fields } = ask()
    expect(reply?.fields).toBe('Retry-After: 60\r\n')
    expect(fields).toContain('"a";r=8;t=2, "b";r=0;t=60, "c";r=8;t=2')
    clock.nowMs += 59_999
    expect(ask().reply?.fields).toBe('Retry-After: 1\r\n')
  })

  it('counts what a shadow rule would refuse, refuses nothing and tells nothing', () => {
    const { passes, counts, ask } = limits({
      s: { key: 'ip', limit: 2, window: '1s', mode: 'shadow' },
      real: { key: 'ip', limit: 5, window: '1s' },
    })
    expect(passes()).toBe(5)
    expect(counts).toEqual({ 's allowed': 2, 's shadow': 3, 'real allowed': 5, 'real limited': 1 })
    expect(ask({ ip: '192.0.2.77' }).fields).toBe('RateLimit-Policy: "real";q=5;w=1\r\nRateLimit: "real";r=4;t=1\r\n')
    expect(limits({ s: { key: 'ip', limit: 1, window: '1s', mode: 'shadow' } }).passes()).toBe(100)
  })

  it('without its Redis does what onStoreError says, at once', () => {
    const rule = { key: 'ip', limit: 2, window: '10s', store: 'redis' }
    const local = limits({ r: { ...rule, onStoreError: 'local' } })
    expect(local.passes()).toBe(2)
    expect(local.counts['r storeErrors']).toBe(3)
    expect(local.ask({ ip: '192.0.2.5' }).fields).toContain('RateLimit: "r";r=1;t=5')
    const allow = limits({ r: { ...rule, onStoreError: 'allow' } })
    expect(allow.passes()).toBe(100)
    expect(allow.ask().fields).toBe('')
    const deny = limits({ r: { ...rule, onStoreError: 'deny' } })
    expect(deny.ask().reply).toMatchObject({ status: 429, reason: 'LIMIT_STORE', fields: 'Retry-After: 1\r\n' })
  })
})
