/**
 * The PROXY protocol (HAProxy's, versions 1 and 2) on its way in: what a load balancer says before the first byte of the
 * client, about where the client is. Pure; the listener reads the bytes and believes only trusted peers.
 */

import { normalizeAddress } from '../http/client-address.ts'

/** `address` is '' when the peer speaks for itself (LOCAL, UNKNOWN): the socket's own address holds. */
export interface ProxyHeader {
  /** Bytes that the header takes. */
  readonly length: number
  readonly address: string
  readonly port: number
}

const V2_SIGNATURE = Buffer.from([13, 10, 13, 10, 0, 13, 10, 81, 85, 73, 84, 10])
const V1_PREFIX = Buffer.from('PROXY ')
const MAX_V1_BYTES = 107
/** Behind the 16 bytes that are always there: addresses and TLVs. More is nobody's honest header. */
const MAX_V2_BYTES = 4096
const V1_LINE = /^PROXY (?:UNKNOWN(?: [^\r\n]*)?|TCP([46]) (\S+) (\S+) (\d{1,5}) (\d{1,5}))$/

/** The header at the front of `bytes`; undefined: more bytes are needed; null: this is no PROXY header. */
export function parseProxyHeader(bytes: Buffer): ProxyHeader | null | undefined {
  if (bytes.length === 0) return undefined
  if (startsAs(bytes, V1_PREFIX)) return bytes.length < V1_PREFIX.length ? undefined : parseV1(bytes)
  if (startsAs(bytes, V2_SIGNATURE)) return bytes.length < 16 ? undefined : parseV2(bytes)
  return null
}

/** True when all bytes that both have are the same. */
function startsAs(bytes: Buffer, prefix: Buffer): boolean {
  const length = Math.min(bytes.length, prefix.length)
  return bytes.compare(prefix, 0, length, 0, length) === 0
}

function parseV1(bytes: Buffer): ProxyHeader | null | undefined {
  const end = bytes.subarray(0, MAX_V1_BYTES).indexOf('\r\n')
  if (end < 0) return bytes.length >= MAX_V1_BYTES ? null : undefined
  const match = V1_LINE.exec(bytes.toString('latin1', 0, end))
  if (match === null) return null
  const [, family, source, destination, sourcePort, destinationPort] = match
  if (family === undefined) return { length: end + 2, address: '', port: 0 }
  const address = normalizeAddress(source!)
  const port = Number(sourcePort)
  if (address === undefined || normalizeAddress(destination!) === undefined) return null
  if (source!.includes(':') !== (family === '6') || destination!.includes(':') !== (family === '6')) return null
  if (port > 65_535 || Number(destinationPort) > 65_535) return null
  return { length: end + 2, address, port }
}

function parseV2(bytes: Buffer): ProxyHeader | null | undefined {
  const versionAndCommand = bytes[12]!
  const length = bytes.readUInt16BE(14)
  if (versionAndCommand >> 4 !== 2 || length > MAX_V2_BYTES) return null
  const command = versionAndCommand & 15
  if (command > 1) return null
  if (bytes.length < 16 + length) return undefined
  const local: ProxyHeader = { length: 16 + length, address: '', port: 0 }
  if (command === 0) return local
  const family = bytes[13]!
  if (family === 0x11 || family === 0x12) {
    if (length < 12) return null
    return { length: 16 + length, address: [...bytes.subarray(16, 20)].join('.'), port: bytes.readUInt16BE(24) }
  }
  if (family === 0x21 || family === 0x22) {
    if (length < 36) return null
    const groups: string[] = []
    for (let at = 16; at < 32; at += 2) groups.push(bytes.readUInt16BE(at).toString(16))
    const address = normalizeAddress(groups.join(':'))
    return address === undefined ? null : { length: 16 + length, address, port: bytes.readUInt16BE(48) }
  }
  return local // UNSPEC and UNIX sockets tell no address that we could use
}
