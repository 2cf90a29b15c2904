/** The gates of a request: admission, limits, tokens, the cache; each as the pipeline calls it. Also by itself. */

import { createHmac } from 'node:crypto'
import { createPlacesMemory, ENTERED, Places } from '../../src/policies/admission/places.ts'
import { identityConfig } from '../../src/policies/auth/config.ts'
import { createKeySets } from '../../src/policies/auth/key-sets.ts'
import { compileIdentity } from '../../src/policies/auth/policy.ts'
import { createCache } from '../../src/policies/cache/cache.ts'
import { cacheConfig, cacheRouteConfig } from '../../src/policies/cache/config.ts'
import { compileCache } from '../../src/policies/cache/policy.ts'
import { rateLimitsConfig } from '../../src/policies/rate-limit/config.ts'
import { compileRateLimits } from '../../src/policies/rate-limit/policy.ts'
import { LimiterTable } from '../../src/shared/limiter-table.ts'
import { makeExchange } from '../../test/support/exchanges.ts'
import { printSuites, type Suite, type Timing, time } from './timing.ts'

const SECRET = 'a-secret-for-the-bench-only-32-bytes!'

function admission(): Timing[] {
  const limits = { maxCCU: 5000, workers: 3350, maxQueue: 1650, order: [0], guarantees: [0] }
  const places = new Places(createPlacesMemory(1), 1, 0, limits)
  const full = new Places(createPlacesMemory(1), 1, 0, { ...limits, maxCCU: 0 })
  return [
    time('admit: take a place and give it back', () => {
      const entry = places.enterAndStart(0)
      if (entry !== ENTERED) throw new Error('it is full')
      places.finish(0, true)
      return entry
    }),
    time('admit: refused, full', () => {
      const entry = full.enterAndStart(0)
      if (entry === ENTERED) throw new Error('it is not full')
      return entry
    }),
  ]
}

function limits(): Timing[] {
  const addresses = Array.from({ length: 1024 }, (_, i) => {
    return makeExchange('GET / HTTP/1.1', { remoteAddress: `192.0.${i >> 8}.${i & 255}` })
  })
  return (['gcra', 'slidingWindow', 'fixedWindow'] as const).map((algorithm) => {
    const rule = { key: 'ip', limit: 1_000_000_000, window: '60s', algorithm }
    const gates = compileRateLimits(['perIp'], rateLimitsConfig.parse({ perIp: rule }), {
      table: LimiterTable.create(4096),
      routeName: 'bench',
    })
    const gate = gates!.beforeIdentity!
    return time(`limit: ${algorithm} by IP, of 1024`, (i) => {
      const x = addresses[i & 1023]!
      x.responseFields = ''
      if (gate(x) !== undefined) throw new Error('it was limited')
      return x
    })
  })
}

async function tokens(): Promise<Timing[]> {
  const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const exp = Math.floor(Date.now() / 1000) + 3600
  const requests = Array.from({ length: 64 }, (_, i) => {
    const input = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ sub: `user-${i}`, exp })}`
    const signature = createHmac('sha256', SECRET).update(input).digest('base64url')
    return makeExchange(`GET / HTTP/1.1\nAuthorization: Bearer ${input}.${signature}`)
  })
  const config = identityConfig.parse({ jwt: { main: { secret: SECRET, algorithms: ['HS256'] } } })
  const { gate } = compileIdentity({ jwt: ['main'], auth: 'required' }, config, createKeySets())!
  for (const x of requests) if ((await gate(x)) !== undefined) throw new Error('the token was refused')
  return [
    time('token: seen before, of 64', (i) => {
      const x = requests[i & 63]!
      x.requestFields = ''
      if (gate(x) !== undefined) throw new Error('the token was not found')
      return x.identity
    }),
  ]
}

function cache(): Timing[] {
  const cache = createCache(cacheConfig.parse({ memory: { maxBytes: '16MiB' } }))
  const body = Buffer.alloc(1024, 0x61)
  const route = compileCache(cacheRouteConfig.parse({ ttl: '1h' }), cache, {
    identified: false,
    encoder: undefined,
    host: {
      // the origin: answers at once, for the cache to store
      forward(x) {
        x.client.head(200, 'Content-Type: text/plain\r\n', body.length)
        x.client.write(body)
        x.client.end('')
      },
      refuse() {
        throw new Error('refused')
      },
      ownFields: (x) => x.responseFields,
      responseDrop: null,
    },
  })
  const pages = Array.from({ length: 1024 }, (_, i) => makeExchange(`GET /page-${i} HTTP/1.1`))
  for (const page of pages) route.gate(page)
  const keys = [...pages.keys()].map((i) => `http://a.test/page-${i}`)
  return [
    time('cache: look-up alone, of 1024', (i) => {
      const resource = cache.store.get(keys[i & 1023]!)
      if (resource === undefined) throw new Error('it is not in the cache')
      return resource
    }),
    time('cache: a hit of 1 KB, up to the write', (i) => {
      const x = pages[i & 1023]!
      x.responseFields = ''
      const verdict = route.gate(x)
      if (verdict !== 'taken' || x.cacheStatus !== 'hit') throw new Error(`no hit: ${x.cacheStatus}`)
      return verdict
    }),
  ]
}

export async function measurePolicies(): Promise<Suite> {
  const timings = [...admission(), ...limits(), ...(await tokens()), ...cache()]
  return { name: 'policies', timings, notes: [] }
}

if (import.meta.main) printSuites([await measurePolicies()])
