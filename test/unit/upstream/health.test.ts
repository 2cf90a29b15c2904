import { createServer, type RequestListener, type Server } from 'node:http'
import { type AddressInfo, createServer as createTcpServer } from 'node:net'
import fc from 'fast-check'
import { afterEach, describe, expect, it } from 'vitest'
import { Endpoint } from '../../../src/upstream/endpoint.ts'
import {
  type Check,
  HealthProber,
  HealthState,
  httpCheck,
  type ProberOptions,
  statusTable,
  tcpCheck,
} from '../../../src/upstream/health.ts'
import { endpoint } from './support.ts'

const TIMING = { intervalMs: 5000, rise: 2, fall: 3 }

describe('health state', () => {
  it('the first check alone decides about an endpoint that is new', () => {
    const state = new HealthState(TIMING)
    expect([state.healthy, state.onCheck(false), state.healthy]).toEqual([true, true, false])
  })

  it('then it takes three failures in a row to lose it and two successes to get it back', () => {
    const state = new HealthState(TIMING)
    const results = [true, false, false, true, false, false, false, true, false, true, true]
    const states = results.map((ok) => {
      state.onCheck(ok)
      return state.healthy
    })
    expect(states).toEqual([...Array(6).fill(true), ...Array(4).fill(false), true])
  })

  it('checks every interval with 10 % of jitter, five times as fast while a change is in the making', () => {
    const state = new HealthState(TIMING)
    state.onCheck(true)
    expect([0, 0.5, 1].map((r) => Math.round(state.nextDelayMs(r)))).toEqual([4500, 5000, 5500])
    state.onCheck(false)
    expect(state.nextDelayMs(0.5)).toBe(1000)
    state.onCheck(false)
    state.onCheck(false)
    expect(state.nextDelayMs(0.5)).toBe(5000)
  })

  it('never turns on fewer than rise or fall results in a row', () => {
    fc.assert(
      fc.property(fc.array(fc.boolean(), { minLength: 1 }), (results) => {
        const state = new HealthState(TIMING)
        state.onCheck(true)
        let row = 0
        let last = true
        for (const ok of results) {
          row = ok === last ? row + 1 : 1
          last = ok
          if (state.onCheck(ok)) expect(row).toBeGreaterThanOrEqual(ok ? 2 : 3)
          if (row >= 3) expect(state.healthy).toBe(ok)
        }
      }),
    )
  })
})

describe('expected statuses', () => {
  it('takes single statuses and ranges', () => {
    const table = statusTable([204, '300-302', 'x', '700'])
    expect([200, 204, 299, 300, 302, 303].map((s) => table[s])).toEqual([0, 1, 0, 1, 1, 0])
  })
})

const cleanups: (() => void)[] = []
afterEach(() => {
  for (const cleanup of cleanups.splice(0)) cleanup()
})

async function serve(listener: RequestListener): Promise<Endpoint> {
  const server: Server = createServer(listener).listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  cleanups.push(() => {
    server.close()
    server.closeAllConnections()
  })
  return new Endpoint({ host: '127.0.0.1', port: (server.address() as AddressInfo).port, secure: false })
}

const never = new AbortController().signal

describe('HTTP check', () => {
  it('asks the path with a Host of its own and takes 2xx and 3xx for good', async () => {
    let seen: unknown
    const e = await serve((req, res) => {
      seen = [req.method, req.url, req.headers.host, req.headers['user-agent']]
      res.writeHead(302, { location: '/elsewhere' }).end()
    })
    const result = await httpCheck({ path: '/health?deep=1', host: 'app.internal' })(e, never)
    expect(result).toEqual({ ok: true, reason: 'GET /health?deep=1 answered 302' })
    expect(seen).toEqual(['GET', '/health?deep=1', 'app.internal', 'fluxor-health'])
  })

  it('names the status that was not expected', async () => {
    const e = await serve((_, res) => res.writeHead(503).end())
    expect(await httpCheck({ path: '/' })(e, never)).toEqual({ ok: false, reason: 'GET / answered 503' })
    expect((await httpCheck({ path: '/', statuses: ['503'] })(e, never)).ok).toBe(true)
  })

  it('looks for a text in the first 64 KiB of the body and reads no further', async () => {
    const e = await serve((req, res) => {
      if (req.url === '/good') res.end('{"status":"healthy"}')
      else if (req.url === '/late') res.end(`${'x'.repeat(100_000)}healthy`)
      else {
        const timer = setInterval(() => res.write('y'.repeat(16_384)), 1)
        res.on('close', () => clearInterval(timer))
      }
    })
    const check = (path: string) => httpCheck({ path, bodyContains: 'healthy' })(e, never)
    expect((await check('/good')).ok).toBe(true)
    expect(await check('/late')).toEqual({ ok: false, reason: 'GET /late answered 200 without the expected text' })
    expect((await check('/endless')).ok).toBe(false)
  })
})

describe('TCP check', () => {
  it('is good when a connection is accepted', async () => {
    const server = createTcpServer().listen(0, '127.0.0.1')
    await new Promise((resolve) => server.once('listening', resolve))
    const { port } = server.address() as AddressInfo
    const e = new Endpoint({ host: '127.0.0.1', port, secure: false })
    expect((await tcpCheck()(e, never)).ok).toBe(true)
    await new Promise((resolve) => server.close(resolve))
    await expect(tcpCheck()(e, never)).rejects.toThrow('ECONNREFUSED')
  })
})

describe('health prober', () => {
  function prober(check: Check, over: Partial<ProberOptions> = {}): { prober: HealthProber; changes: Change[] } {
    const changes: Change[] = []
    const p = new HealthProber({
      intervalMs: 5,
      rise: 2,
      fall: 3,
      timeoutMs: 1000,
      check,
      onChange: (e, healthy, reason) => changes.push([e.host, healthy, reason]),
      ...over,
    })
    cleanups.push(() => p.close())
    return { prober: p, changes }
  }
  type Change = [host: string, healthy: boolean, reason: string]

  async function until(condition: () => boolean): Promise<void> {
    while (!condition()) await new Promise((resolve) => setTimeout(resolve, 2))
  }

  it('marks an endpoint unhealthy with the reason, and healthy again when it recovers', async () => {
    let status = 500
    const e = await serve((_, res) => res.writeHead(status).end())
    const { prober: p, changes } = prober(httpCheck({ path: '/h' }))
    p.update([e])
    await until(() => changes.length === 1)
    expect([e.state, e.reason]).toEqual(['unhealthy', 'GET /h answered 500'])
    status = 200
    await until(() => changes.length === 2)
    expect(e.state).toBe('healthy')
    expect(changes).toEqual([
      ['127.0.0.1', false, 'GET /h answered 500'],
      ['127.0.0.1', true, 'GET /h answered 200'],
    ])
  })

  it('says that nobody listens, or that no answer came in time', async () => {
    const refused = prober(async () => {
      throw Object.assign(new Error('connect'), { code: 'ECONNREFUSED' })
    })
    const e = endpoint()
    refused.prober.update([e])
    await until(() => refused.changes.length === 1)
    expect(e.reason).toBe('check failed: ECONNREFUSED')
    const hangs = await serve(() => {})
    const slow = prober(httpCheck({ path: '/' }), { timeoutMs: 30 })
    slow.prober.update([hangs])
    await until(() => slow.changes.length === 1)
    expect(hangs.reason).toBe('no answer within 30 ms')
  })

  it('goes on although a check ignores its signal or throws at once', async () => {
    let calls = 0
    const { prober: p } = prober(
      () => {
        if (++calls === 1) return new Promise(() => {})
        throw new Error('broken')
      },
      { timeoutMs: 5 },
    )
    p.update([endpoint()])
    await until(() => calls >= 3)
  })

  it('brings back an endpoint that was unhealthy before a reload, after rise good checks', async () => {
    const e = endpoint()
    e.markUnhealthy(0, 'GET / answered 500')
    e.proven = true
    let checks = 0
    const { prober: p, changes } = prober(async () => ({ ok: ++checks > 0, reason: 'fine' }))
    p.update([e])
    await until(() => changes.length === 1)
    expect([e.state, checks]).toEqual(['healthy', 2])
  })

  it('a reload does not let a single bad check take out an endpoint that is known', async () => {
    const e = endpoint()
    e.proven = true
    let checks = 0
    const { prober: p } = prober(async () => ({ ok: ++checks > 2, reason: '' }))
    p.update([e])
    await until(() => checks > 4)
    expect([e.state, e.sinceMs]).toEqual(['healthy', 0])
  })

  it('checks only what it watches, and nothing after close', async () => {
    const seen: string[] = []
    const aborted: string[] = []
    const { prober: p } = prober((e, signal) => {
      seen.push(e.host)
      signal.addEventListener('abort', () => aborted.push(e.host))
      return e.host === 'hangs' ? new Promise(() => {}) : Promise.resolve({ ok: true, reason: '' })
    })
    const a = endpoint('a')
    const b = endpoint('b')
    const hangs = endpoint('hangs')
    p.update([a, b, hangs])
    await until(() => new Set(seen).size === 3)
    p.update([a])
    expect(aborted).toEqual(['hangs'])
    seen.length = 0
    await until(() => seen.length >= 3)
    expect(new Set(seen)).toEqual(new Set(['a']))
    p.close()
    seen.length = 0
    p.update([b])
    await new Promise((resolve) => setTimeout(resolve, 30))
    expect(seen).toEqual([])
    expect(hangs.state).toBe('healthy')
  })
})

describe('a check of an HTTP/2 service', () => {
  it('speaks HTTP/2 by prior knowledge', async () => {
    const { createServer } = await import('node:http2')
    const server = createServer((request, response) => {
      response.statusCode = request.url === '/health' ? 200 : 404
      response.end('up')
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const { port } = server.address() as { port: number }
    const endpoint = new Endpoint({ host: '127.0.0.1', port, secure: false })
    const { signal } = new AbortController()
    const check = httpCheck({ path: '/health', h2: true, bodyContains: 'up' })
    expect(await check(endpoint, signal)).toEqual({ ok: true, reason: 'GET /health answered 200' })
    expect((await httpCheck({ path: '/other', h2: true })(endpoint, signal)).ok).toBe(false)
    await new Promise((resolve) => server.close(resolve))
  })
})
