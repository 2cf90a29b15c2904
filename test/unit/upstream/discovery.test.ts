import { describe, expect, it } from 'vitest'
import {
  DnsDiscovery,
  type DnsOptions,
  type DnsResolver,
  EndpointSet,
  type EndpointSpec,
} from '../../../src/upstream/discovery.ts'

function spec(host: string, over: Partial<EndpointSpec> = {}): EndpointSpec {
  return { address: { host, port: 80, secure: false }, ...over }
}

describe('endpoint set', () => {
  it('keeps an endpoint that stays, with its counts, and takes over its new weight', () => {
    const set = new EndpointSet()
    set.update([spec('a'), spec('b')], 0)
    const a = set.endpoints[0]!
    a.inFlight = 3
    a.markUnhealthy(0, 'x')
    const change = set.update([spec('c'), spec('a', { weight: 5, backup: true })], 10)
    expect(set.endpoints[1]).toBe(a)
    expect([a.weight, a.backup, a.inFlight, a.state]).toEqual([5, true, 3, 'unhealthy'])
    expect(change.added.map((e) => e.host)).toEqual(['c'])
    expect(change.removed.map((e) => [e.host, e.state])).toEqual([['b', 'draining']])
  })

  it('gives a slow start to what joins later, not to a whole set that starts together', () => {
    const set = new EndpointSet()
    set.update([spec('a')], 5)
    set.update([spec('a'), spec('b')], 10)
    expect(set.endpoints.map((e) => e.slowStartFromMs)).toEqual([-Infinity, 10])
  })

  it('remembers what leaves until its exchanges end, and takes it back as it was', () => {
    const set = new EndpointSet()
    set.update([spec('a'), spec('b')], 0)
    const b = set.endpoints[1]!
    b.inFlight = 1
    set.update([spec('a')], 10)
    expect(set.leaving).toEqual([b])
    set.update([spec('a'), spec('b')], 20)
    expect(set.endpoints[1]).toBe(b)
    expect([b.state, set.leaving.length]).toEqual(['healthy', 0])
    set.update([spec('a')], 30)
    b.inFlight = 0
    set.sweep()
    expect(set.leaving).toEqual([])
  })

  it('does not undo the drain of an operator', () => {
    const set = new EndpointSet()
    set.update([spec('a')], 0)
    set.endpoints[0]!.drain(1, 'by an operator')
    set.update([spec('a'), spec('b')], 2)
    expect(set.endpoints[0]!.state).toBe('draining')
  })

  it('takes an address given twice once', () => {
    const set = new EndpointSet()
    set.update([spec('a', { weight: 2 }), spec('a', { weight: 9 })], 0)
    expect(set.endpoints.map((e) => e.weight)).toEqual([2])
  })

  it('makes a new endpoint when the certificate must be for another name', () => {
    const set = new EndpointSet()
    const address = { host: '10.0.0.1', port: 443, secure: true }
    set.update([spec('', { address: { ...address, serverName: 'old.example' } })], 0)
    const change = set.update([spec('', { address: { ...address, serverName: 'new.example' } })], 1)
    expect([change.added.length, change.removed.length]).toEqual([1, 1])
    expect(set.endpoints[0]!.state).toBe('healthy')
  })
})

type Record4 = { address: string; ttl: number }
const no = (code: string) => Object.assign(new Error(code), { code })

/** A resolver that answers from tables; an Error is thrown, a missing name is ENOTFOUND. */
function zone(tables: {
  a?: Record<string, Record4[] | Error>
  aaaa?: Record<string, Record4[] | Error>
  srv?: Record<string, { name: string; port: number; priority: number; weight: number }[] | Error>
}): DnsResolver {
  async function answer<T>(table: Record<string, T[] | Error> | undefined, name: string): Promise<T[]> {
    const found = table?.[name] ?? no('ENOTFOUND')
    if (found instanceof Error) throw found
    return found
  }
  return {
    resolve4: (name) => answer(tables.a, name),
    resolve6: (name) => answer(tables.aaaa, name),
    resolveSrv: (name) => answer(tables.srv, name),
    cancel: () => {},
  }
}

function discover(resolver: DnsResolver, over: Partial<DnsOptions> = {}) {
  const updates: string[][] = []
  const specs: EndpointSpec[][] = []
  const errors: [string, number][] = []
  const discovery = new DnsDiscovery({
    name: 'app',
    port: 8080,
    secure: false,
    refreshMs: 30_000,
    resolver,
    lookup: async () => {
      throw no('ENOTFOUND')
    },
    random: () => 0,
    onUpdate: (all) => {
      specs.push(all)
      updates.push(all.map((s) => `${s.address.host}:${s.address.port}`))
    },
    onError: (error, kept) => errors.push([(error as NodeJS.ErrnoException).code ?? error.message, kept]),
    ...over,
  })
  return { discovery, updates, specs, errors }
}

describe('DNS discovery', () => {
  it('makes an endpoint of each address and asks again after the TTL', async () => {
    const a = { app: [{ address: '10.0.0.2', ttl: 20 }, { address: '10.0.0.1', ttl: 5 }] } // biome-ignore format: short
    const { discovery, updates, specs } = discover(zone({ a }))
    expect(await discovery.refresh()).toBe(5000)
    expect(updates).toEqual([['10.0.0.1:8080', '10.0.0.2:8080']])
    expect(specs[0]![0]!.address.serverName).toBe('app')
  })

  it.each([
    [0, 1000],
    [3600, 30_000],
  ])('a TTL of %i s means %i ms', async (ttl, expected) => {
    const { discovery } = discover(zone({ a: { app: [{ address: '10.0.0.1', ttl }] } }))
    expect(await discovery.refresh()).toBe(expected)
  })

  it('tells of changes alone, not of another order', async () => {
    const a: Record<string, Record4[]> = { app: [{ address: '10.0.0.1', ttl: 9 }, { address: '10.0.0.2', ttl: 9 }] } // biome-ignore format: short
    const { discovery, updates } = discover(zone({ a }))
    await discovery.refresh()
    a.app!.reverse()
    await discovery.refresh()
    expect(updates).toHaveLength(1)
    a.app!.pop()
    await discovery.refresh()
    expect(updates[1]).toEqual(['10.0.0.2:8080'])
  })

  it('uses IPv6 when there is no IPv4, not both of one host', async () => {
    const aaaa = { app: [{ address: 'fd00::1', ttl: 9 }] }
    const both = discover(zone({ a: { app: [{ address: '10.0.0.1', ttl: 9 }] }, aaaa }))
    await both.discovery.refresh()
    expect(both.updates).toEqual([['10.0.0.1:8080']])
    const six = discover(zone({ aaaa }))
    await six.discovery.refresh()
    expect(six.updates).toEqual([['fd00::1:8080']])
  })

  it('does not switch to IPv6 because the IPv4 question failed', async () => {
    const { discovery, updates, errors } = discover(
      zone({ a: { app: no('ESERVFAIL') }, aaaa: { app: [{ address: 'fd00::1', ttl: 9 }] } }),
    )
    await discovery.refresh()
    expect([updates, errors]).toEqual([[], [['ESERVFAIL', 0]]])
  })

  it.each([['ETIMEOUT'], ['ENOTFOUND'], ['ESERVFAIL']])(
    'keeps the last good answer on %s and asks again sooner',
    async (code) => {
      const a: Record<string, Record4[] | Error> = { app: [{ address: '10.0.0.1', ttl: 60 }] }
      const { discovery, updates, errors } = discover(zone({ a }))
      await discovery.refresh()
      a.app = no(code)
      expect([await discovery.refresh(), await discovery.refresh(), await discovery.refresh()]).toEqual([
        1000, 2000, 4000,
      ])
      expect(updates).toHaveLength(1)
      expect(errors[0]).toEqual([code, 1])
      a.app = [{ address: '10.0.0.1', ttl: 60 }]
      expect(await discovery.refresh()).toBe(30_000)
      expect(updates).toHaveLength(1)
    },
  )

  it('keeps the last good answer when the new one is empty', async () => {
    const a: Record<string, Record4[]> = { app: [{ address: '10.0.0.1', ttl: 60 }] }
    const { discovery, updates, errors } = discover(zone({ a }), { lookup: async () => [] })
    await discovery.refresh()
    a.app = []
    await discovery.refresh()
    expect([updates.length, errors]).toEqual([1, [['app has no address', 1]]])
  })

  it('finds names that only the hosts file knows', async () => {
    const { discovery, updates } = discover(zone({}), { name: 'localhost', lookup: async () => ['::1', '127.0.0.1'] })
    await discovery.refresh()
    expect(updates).toEqual([['127.0.0.1:8080']])
  })

  it('SRV: takes ports and weights, lower priorities as backups', async () => {
    const { discovery, specs } = discover(
      zone({
        srv: {
          app: [
            { name: 'one', port: 81, priority: 10, weight: 3 },
            { name: 'two', port: 82, priority: 20, weight: 0 },
          ],
        },
        a: { one: [{ address: '10.0.0.1', ttl: 9 }], two: [{ address: '10.0.0.2', ttl: 7 }] },
      }),
      { type: 'SRV' },
    )
    expect(await discovery.refresh()).toBe(7000)
    expect(specs[0]).toEqual([
      { address: { host: '10.0.0.1', port: 81, secure: false, serverName: 'one' }, weight: 3, backup: false },
      { address: { host: '10.0.0.2', port: 82, secure: false, serverName: 'two' }, weight: 1, backup: true },
    ])
  })

  it('SRV: a target that is gone leaves, one that could not be asked does not', async () => {
    const a: Record<string, Record4[] | Error> = {
      one: [{ address: '10.0.0.1', ttl: 9 }],
      two: [{ address: '10.0.0.2', ttl: 9 }],
    }
    const records = ['one', 'two'].map((name) => ({ name, port: 80, priority: 0, weight: 1 }))
    const { discovery, updates, errors } = discover(zone({ srv: { app: records }, a }), { type: 'SRV' })
    await discovery.refresh()
    a.two = no('ETIMEOUT')
    await discovery.refresh()
    expect([updates.length, errors]).toEqual([1, [['ETIMEOUT', 2]]])
    a.two = no('ENOTFOUND')
    await discovery.refresh()
    expect(updates[1]).toEqual(['10.0.0.1:80'])
  })

  it('SRV: takes a part at the start, when the whole is not to be had', async () => {
    const records = ['one', 'two'].map((name) => ({ name, port: 80, priority: 0, weight: 1 }))
    const a = { one: [{ address: '10.0.0.1', ttl: 9 }], two: no('ETIMEOUT') }
    const { discovery, updates } = discover(zone({ srv: { app: records }, a }), { type: 'SRV' })
    await discovery.refresh()
    expect(updates).toEqual([['10.0.0.1:80']])
  })

  it('never rejects, and is silent after close', async () => {
    let answer: (all: Record4[]) => void = () => {}
    const resolver = { ...zone({}), resolve4: () => new Promise<Record4[]>((resolve) => (answer = resolve)) }
    const { discovery, updates } = discover(resolver)
    const started = discovery.start()
    discovery.close()
    answer([{ address: '10.0.0.1', ttl: 1 }])
    await started
    expect(updates).toEqual([])
  })
})
