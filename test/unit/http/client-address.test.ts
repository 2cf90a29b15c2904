import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  addressKey,
  compileTrustedProxies,
  Networks,
  normalizeAddress,
  parseCidr,
} from '../../../src/http/client-address.ts'
import { collectGarbage } from '../../support/collect-garbage.ts'

describe('the client address', () => {
  const trusted = compileTrustedProxies(['10.0.0.0/8', '192.168.1.1', 'fd00::/8'])

  it.each([
    ['the peer, when it is not trusted', '203.0.113.9', '1.2.3.4', '203.0.113.9'],
    ['the peer, when a trusted one says nothing', '10.0.0.1', undefined, '10.0.0.1'],
    ['the peer, when a trusted one says nothing at all', '10.0.0.1', '', '10.0.0.1'],
    ['what a trusted peer reports', '10.0.0.1', '203.0.113.9', '203.0.113.9'],
    ['the first untrusted hop from the right', '10.0.0.1', '1.1.1.1, 203.0.113.9, 10.2.3.4', '203.0.113.9'],
    ['the leftmost hop, when all are trusted', '10.0.0.1', '10.9.9.9, 192.168.1.1', '10.9.9.9'],
    ['the last known hop, when an entry is malformed', '10.0.0.1', '1.1.1.1, unknown, 10.2.3.4', '10.2.3.4'],
    ['the peer, when the nearest entry is malformed', '10.0.0.1', '1.1.1.1, evil<script>', '10.0.0.1'],
    ['the last known hop, when an entry is empty', '10.0.0.1', '1.1.1.1,, 10.2.3.4', '10.2.3.4'],
    ['the last known hop, when the list starts with a comma', '10.0.0.1', ', 10.2.3.4', '10.2.3.4'],
    ['a mapped peer as IPv4', '::ffff:10.0.0.1', '203.0.113.9', '203.0.113.9'],
    ['a mapped untrusted peer as IPv4', '::ffff:203.0.113.9', '1.1.1.1', '203.0.113.9'],
    ['a mapped entry as IPv4', '10.0.0.1', '::ffff:203.0.113.9', '203.0.113.9'],
    ['an entry with a port', '10.0.0.1', '203.0.113.9:4711', '203.0.113.9'],
    ['IPv6 in brackets with a port', 'fd00::1', '[2001:DB8::1]:443', '2001:db8::1'],
    ['IPv6 in one spelling', 'fd00::1', '2001:0db8:0:0:0:0:0:1', '2001:db8::1'],
    ['the last known hop, when octets have leading zeros', '10.0.0.1', '1.1.1.1, 010.0.0.1', '10.0.0.1'],
  ])('is %s', (_, peer, forwardedFor, client) => {
    expect(trusted.clientAddress(peer, forwardedFor)).toBe(client)
  })

  it('is the peer when nobody is trusted', () => {
    const nobody = compileTrustedProxies([])
    expect(nobody.clientAddress('10.0.0.1', '1.2.3.4')).toBe('10.0.0.1')
    expect(nobody.isTrusted('10.0.0.1')).toBe(false)
    expect(nobody.clientAddress('::ffff:1.2.3.4', undefined)).toBe('1.2.3.4')
  })

  it('is found in bounded time in a list of thousands of trusted hops', () => {
    const list = Array.from({ length: 5000 }, () => '10.0.0.1').join(',')
    expect(trusted.clientAddress('10.0.0.1', `6.6.6.6,${list}`)).toBe('10.0.0.1')
  })

  it('is never made of bytes that a client wrote left of an untrusted hop', () => {
    fc.assert(
      fc.property(fc.string(), (garbage) => {
        expect(trusted.clientAddress('10.0.0.1', `${garbage}, 203.0.113.9`)).toBe('203.0.113.9')
      }),
    )
  })

  it('is always an address, whatever a trusted peer sends', () => {
    fc.assert(
      fc.property(fc.string(), (value) => {
        expect(normalizeAddress(trusted.clientAddress('10.0.0.1', value))).toBeDefined()
      }),
    )
  })
})

describe('networks', () => {
  it('hold both spellings of a mapped address, and take networks in both', () => {
    const networks = new Networks(['127.0.0.0/8', '::ffff:10.1.0.0/112', '2001:db8::/32'])
    expect(networks.has('::ffff:127.0.0.1')).toBe(true)
    expect(networks.has('10.1.200.3')).toBe(true)
    expect(networks.has('10.2.0.1')).toBe(false)
    expect(networks.has('2001:db8:ffff::1')).toBe(true)
    expect(networks.has('2001:db9::1')).toBe(false)
    expect(networks.has('fe80::1%eth0')).toBe(false)
  })

  it('hold nothing that is no address', () => {
    const all = new Networks(['0.0.0.0/0', '::/0'])
    expect(all.has('1.2.3.4')).toBe(true)
    expect(all.has('::1')).toBe(true)
    for (const text of ['', 'localhost', '1.2.3', '1.2.3.4.5', ':::', '__proto__']) expect(all.has(text)).toBe(false)
  })

  it('give the same answer twice, and after thousands of others', () => {
    const networks = new Networks(['10.0.0.0/8'])
    for (let i = 0; i < 10_000; i++) networks.has(`11.0.${i >> 8}.${i & 255}`)
    expect(networks.has('10.0.0.1')).toBe(true)
    expect(networks.has('10.0.0.1')).toBe(true)
  })

  it.each(['10.0.0.0/33', '::/129', '10.0.0.0/', '10.0.0', 'a', '', '1.2.3.4/-1', '::ffff:1.2.3.4/64', ' 1.2.3.4'])(
    'are not made of %j',
    (text) => {
      expect(parseCidr(text)).toBeUndefined()
      expect(() => new Networks([text])).toThrow(/address or CIDR/)
    },
  )
})

describe('the key of an address', () => {
  it.each([
    ['203.0.113.9', '203.0.113.9'],
    ['::ffff:203.0.113.9', '203.0.113.9'],
    ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2::/64'],
    ['2001:db8:1:2::9', '2001:db8:1:2::/64'],
    ['2001:db8::1', '2001:db8::/64'],
    ['::1', '::/64'],
    ['fe80::1%eth0', 'fe80::/64'],
    ['64:ff9b::1.2.3.4', '64:ff9b::/64'],
    ['1:2:3:4::', '1:2:3:4::/64'],
    ['1::2:3:4:5:6', '1:0:0:2::/64'],
    ['not an address', 'not an address'],
  ])('of %s is %s', (address, key) => {
    expect(addressKey(address)).toBe(key)
  })

  it('is the same for two IPv6 addresses exactly when their first 64 bits are', () => {
    const group = fc.integer({ min: 0, max: 0xffff })
    const half = fc.tuple(group, group, group, group)
    const text = (groups: number[]) => groups.map((g) => g.toString(16)).join(':')
    fc.assert(
      fc.property(half, half, half, half, (a, b, c, d) => {
        fc.pre(a.some((g) => g !== 0) && b.some((g) => g !== 0))
        const same = text(a) === text(b)
        expect(addressKey(text([...a, ...c])) === addressKey(text([...b, ...d]))).toBe(same)
        expect(addressKey(text([...a, ...c]))).toBe(addressKey(text([...a, ...d])))
      }),
    )
  })
})

describe('what is remembered of addresses', () => {
  const heapMib = () => {
    collectGarbage()
    return process.memoryUsage().heapUsed / 2 ** 20
  }
  /** As from a request: a piece of a head of 16 KiB. */
  const fromHead = (address: string) => {
    const head = Buffer.from(`X-Forwarded-For: ${address}\r\nCookie: ${'a'.repeat(16_000)}`).toString('latin1')
    return head.slice(17, 17 + address.length)
  }

  it.each([
    ['a set of networks', (i: number) => `120.100.${100 + (i >> 8)}.${i & 255}`],
    ['the key of a limit', (i: number) => `2001:db8:${(i + 0x1000).toString(16)}::1`],
  ])('%s keeps no more of a request than the address', (which, address) => {
    const networks = new Networks(['10.0.0.0/8'])
    const remember = which === 'a set of networks' ? (text: string) => networks.has(text) : addressKey
    const before = heapMib()
    for (let i = 0; i < 3000; i++) remember(fromHead(address(i)))
    expect(heapMib() - before).toBeLessThan(12)
    expect(networks.has('10.1.2.3')).toBe(true)
  })
})
