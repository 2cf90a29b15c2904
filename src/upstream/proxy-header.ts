/** The PROXY protocol (versions 1 and 2) on its way out: tells a service behind plain TCP where the client is. */

import net from 'node:net'

export type ProxyVersion = 'v1' | 'v2'

/** Addresses without brackets; '' where one is not known. */
export interface ProxyAddresses {
  readonly source: string
  readonly sourcePort: number
  readonly destination: string
  readonly destinationPort: number
}

const V2_SIGNATURE = [13, 10, 13, 10, 0, 13, 10, 81, 85, 73, 84, 10]
const V2_PROXY = 0x21
const V2_LOCAL = 0x20
const TCP4 = 0x11
const TCP6 = 0x21

/** The header that opens a connection. Addresses of different families are both written as IPv6. */
export function proxyHeader(version: ProxyVersion, addresses: ProxyAddresses): Buffer {
  const { source, sourcePort, destination, destinationPort } = addresses
  if (net.isIP(source) === 0) {
    return version === 'v1' ? Buffer.from('PROXY UNKNOWN\r\n') : Buffer.from([...V2_SIGNATURE, V2_LOCAL, 0, 0, 0])
  }
  const four = net.isIPv4(source) && (destination === '' || net.isIPv4(destination))
  const to = destination === '' ? (four ? '0.0.0.0' : '::') : destination
  if (version === 'v1') {
    const [a, b] = four ? [source, to] : [asIPv6(source), asIPv6(to)]
    return Buffer.from(`PROXY TCP${four ? 4 : 6} ${a} ${b} ${sourcePort} ${destinationPort}\r\n`)
  }
  const body = four ? [...bytesOf4(source), ...bytesOf4(to)] : [...bytesOf6(asIPv6(source)), ...bytesOf6(asIPv6(to))]
  body.push(sourcePort >> 8, sourcePort & 255, destinationPort >> 8, destinationPort & 255)
  return Buffer.from([...V2_SIGNATURE, V2_PROXY, four ? TCP4 : TCP6, 0, body.length, ...body])
}

function asIPv6(address: string): string {
  return net.isIPv4(address) ? `::ffff:${address}` : address
}

function bytesOf4(address: string): number[] {
  return address.split('.').map(Number)
}

function bytesOf6(address: string): number[] {
  const dotted = /^(.*:)(\d+)\.(\d+)\.(\d+)\.(\d+)$/.exec(address)
  const text =
    dotted === null
      ? address
      : `${dotted[1]}${((Number(dotted[2]) << 8) | Number(dotted[3])).toString(16)}:${((Number(dotted[4]) << 8) | Number(dotted[5])).toString(16)}`
  const [front = '', back] = text.split('::')
  const groups = (part: string) => (part === '' ? [] : part.split(':').map((group) => Number.parseInt(group, 16)))
  const head = groups(front)
  const tail = back === undefined ? [] : groups(back)
  const all = [...head, ...Array.from({ length: 8 - head.length - tail.length }, () => 0), ...tail]
  return all.flatMap((group) => [group >> 8, group & 255])
}
