import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { parseProxyHeader } from '../../../src/listener/proxy-protocol.ts'
import { proxyHeader } from '../../../src/upstream/proxy-header.ts'

const text = (line: string) => Buffer.from(line, 'latin1')

describe('version 1', () => {
  it.each([
    ['PROXY TCP4 192.0.2.1 198.51.100.7 4711 443\r\n', '192.0.2.1', 4711],
    ['PROXY TCP6 2001:db8::1 2001:DB8::2 1 65535\r\n', '2001:db8::1', 1],
    ['PROXY TCP6 ::ffff:192.0.2.1 ::1 9 9\r\n', '192.0.2.1', 9],
    ['PROXY UNKNOWN\r\n', '', 0],
    ['PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n', '', 0],
  ])('%j', (line, address, port) => {
    expect(parseProxyHeader(text(`${line}GET /`))).toEqual({ length: line.length, address, port })
  })

  it.each([
    'PROXY TCP4 192.0.2.1 198.51.100.7 4711 65536\r\n',
    'PROXY TCP4 192.0.2.256 198.51.100.7 1 2\r\n',
    'PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n',
    'PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n',
    'PROXY TCP4  192.0.2.1 198.51.100.7 1 2\r\n',
    'PROXY TCP4 192.0.2.1 198.51.100.7 1\r\n',
    'PROXY UDP4 192.0.2.1 198.51.100.7 1 2\r\n',
    'PROXY \r\n',
    `PROXY UNKNOWN ${'x'.repeat(200)}`,
    'GET / HTTP/1.1\r\n',
    'PROXX',
  ])('%j is none', (line) => {
    expect(parseProxyHeader(text(line))).toBeNull()
  })
})

describe('version 2', () => {
  const v2 = (command: number, family: number, body: number[]) =>
    Buffer.from([
      13,
      10,
      13,
      10,
      0,
      13,
      10,
      81,
      85,
      73,
      84,
      10,
      command,
      family,
      body.length >> 8,
      body.length & 255,
      ...body,
    ])

  it('LOCAL and unknown families speak for the socket', () => {
    for (const [command, family] of [[0x20, 0], [0x21, 0], [0x21, 0x31]] as const)
      expect(parseProxyHeader(v2(command, family, [1, 2, 3]))).toEqual({ length: 19, address: '', port: 0 }) // biome-ignore format: a table
  })

  it('TLVs behind the addresses belong to it', () => {
    const body = [192, 0, 2, 1, 198, 51, 100, 7, 0x12, 0x67, 1, 187, 3, 0, 4, 1, 2, 3, 4]
    expect(parseProxyHeader(v2(0x21, 0x11, body))).toEqual({
      length: 16 + body.length,
      address: '192.0.2.1',
      port: 0x1267,
    })
  })

  it('another version, an unknown command, addresses that are cut, or an endless header are none', () => {
    expect(parseProxyHeader(v2(0x31, 0x11, Array(12).fill(0)))).toBeNull()
    expect(parseProxyHeader(v2(0x22, 0x11, Array(12).fill(0)))).toBeNull()
    expect(parseProxyHeader(v2(0x21, 0x11, Array(11).fill(0)))).toBeNull()
    expect(parseProxyHeader(v2(0x21, 0x21, Array(35).fill(0)))).toBeNull()
    expect(parseProxyHeader(v2(0x21, 0x11, Array(5000).fill(0)))).toBeNull()
  })
})

const address = fc.oneof(fc.ipV4(), fc.ipV6())
const port = fc.integer({ min: 0, max: 65_535 })

describe('what is written is read', () => {
  it.each(['v1', 'v2'] as const)('%s, whole and never before its last byte', (version) => {
    fc.assert(
      fc.property(address, address, port, port, (source, destination, sourcePort, destinationPort) => {
        const header = proxyHeader(version, { source, sourcePort, destination, destinationPort })
        const read = parseProxyHeader(Buffer.concat([header, text('GET / ')]))
        const plain = parseProxyHeader(text(`PROXY TCP${source.includes(':') ? 6 : 4} ${source} ${source} 1 1\r\n`))
        expect(read).toEqual({ length: header.length, address: plain!.address, port: sourcePort })
        for (let cut = 0; cut < header.length; cut++) expect(parseProxyHeader(header.subarray(0, cut))).toBeUndefined()
      }),
    )
  })

  it('an address that is not known', () => {
    const nobody = { source: '', sourcePort: 0, destination: '', destinationPort: 0 }
    expect(proxyHeader('v1', nobody).toString()).toBe('PROXY UNKNOWN\r\n')
    expect(parseProxyHeader(proxyHeader('v2', nobody))).toMatchObject({ address: '' })
  })

  it('any bytes whatever are taken, refused or waited for, never an error', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 80 }), (bytes) => void parseProxyHeader(Buffer.from(bytes))))
  })
})
