/**
 * Who the client is when proxies stand in front: addresses, CIDRs and the walk through X-Forwarded-For. Pure; the
 * listener asks once for each request, and what it answers is what limits, address rules, logs and the forwarded fields use.
 */

import { isIPv4, isIPv6, SocketAddress } from 'node:net'

export interface Cidr {
  readonly address: string
  readonly bits: number
  readonly family: 'ipv4' | 'ipv6'
}

/** `a.b.c.d`, `a.b.c.d/n`, `x:y::z`, `x:y::z/n`. An IPv4-mapped network is its IPv4 one. Undefined when it is none of these. */
export function parseCidr(text: string): Cidr | undefined {
  const match = /^([0-9A-Fa-f:.]+)(?:\/(\d{1,3}))?$/.exec(text)
  if (match === null) return undefined
  const given = match[1]!
  const bits = match[2] === undefined ? undefined : Number(match[2])
  const mapped = isIPv6(given) ? unmapped(given) : undefined
  if (mapped !== undefined) {
    if (bits === undefined) return { address: mapped, bits: 32, family: 'ipv4' }
    return bits >= 96 && bits <= 128 ? { address: mapped, bits: bits - 96, family: 'ipv4' } : undefined
  }
  const family = isIPv4(given) ? 'ipv4' : isIPv6(given) ? 'ipv6' : undefined
  if (family === undefined) return undefined
  const most = family === 'ipv4' ? 32 : 128
  return bits !== undefined && bits > most ? undefined : { address: given, bits: bits ?? most, family }
}

/** The IPv4 address inside `::ffff:a.b.c.d` in any of its spellings; undefined for every other address. */
function unmapped(ipv6: string): string | undefined {
  if (!/ffff:/i.test(ipv6)) return undefined
  const dotted = new SocketAddress({ family: 'ipv6', address: ipv6 }).address
  return dotted.startsWith('::ffff:') && dotted.includes('.') ? dotted.slice(7) : undefined
}
