/**
 * Who the client is when proxies stand in front: addresses, CIDRs and the walk through X-Forwarded-For. Pure; asked once
 * for each request, and what it answers is what limits, address rules, logs and the forwarded fields use.
 */

import { BlockList, isIPv4, isIPv6, SocketAddress } from 'node:net'

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
  const canonical = canonicalIPv6(ipv6)
  return canonical.startsWith('::ffff:') && canonical.includes('.') ? canonical.slice(7) : undefined
}

/** One spelling for each address (RFC 5952), so that a client has one limit however its proxy writes it. */
function canonicalIPv6(ipv6: string): string {
  return new SocketAddress({ family: 'ipv6', address: ipv6 }).address
}

/** One spelling for each address; IPv4-mapped IPv6 as IPv4, a zone (`%eth0`) is left out. Undefined when it is no address. */
export function normalizeAddress(text: string): string | undefined {
  if (isIPv4(text)) return text
  const zone = text.indexOf('%')
  const address = zone < 0 ? text : text.slice(0, zone)
  if (!isIPv6(address)) return undefined
  const canonical = canonicalIPv6(address)
  return canonical.startsWith('::ffff:') && canonical.includes('.') ? canonical.slice(7) : canonical
}

/** An entry of X-Forwarded-For as proxies write them: an address, `[v6]`, or either with a port. */
function parseForwardedAddress(entry: string): string | undefined {
  if (entry.startsWith('[')) {
    const end = entry.indexOf(']')
    return end > 0 && /^(?::\d{1,5})?$/.test(entry.slice(end + 1)) && isIPv6(entry.slice(1, end))
      ? normalizeAddress(entry.slice(1, end))
      : undefined
  }
  const colon = entry.indexOf(':')
  if (colon > 0 && entry.indexOf(':', colon + 1) < 0) {
    return /^\d{1,5}$/.test(entry.slice(colon + 1)) && isIPv4(entry.slice(0, colon)) ? entry.slice(0, colon) : undefined
  }
  return normalizeAddress(entry)
}

/** Answers remembered: a check of a `BlockList` takes 0.1–0.3 µs, and a gateway sees the same peers again and again. */
const REMEMBERED = 4096

/** A piece of a request is a view of its head, and would keep all of it for as long as it is remembered: 16 KiB each. */
function ownText(address: string): string {
  return Buffer.from(address, 'latin1').toString('latin1')
}

/** A set of networks. `has` never throws: what is no address is in no network. */
export class Networks {
  readonly #list = new BlockList()
  readonly #known = new Map<string, boolean>()

  /** Throws on what `parseCidr` does not take. */
  constructor(cidrs: readonly string[]) {
    for (const text of cidrs) {
      const cidr = parseCidr(text)
      if (cidr === undefined) throw new Error(`${text} is no address or CIDR`)
      this.#list.addSubnet(cidr.address, cidr.bits, cidr.family)
    }
  }

  has(address: string): boolean {
    const known = this.#known.get(address)
    if (known !== undefined) return known
    const normal = normalizeAddress(address)
    const inside = normal !== undefined && this.#list.check(normal, normal.includes(':') ? 'ipv6' : 'ipv4')
    if (this.#known.size >= REMEMBERED) this.#known.clear()
    this.#known.set(ownText(address), inside)
    return inside
  }
}

export interface TrustedProxies {
  isTrusted(address: string): boolean
  /**
   * The client's address: the peer, or, while the one that reports is trusted, what it reports.
   * @param forwardedFor all lines of X-Forwarded-For joined by commas; undefined when there is none
   */
  clientAddress(peer: string, forwardedFor: string | undefined): string
}

/** No chain of proxies is longer; a longer list is an attempt to keep the walk busy. */
const MAX_HOPS = 64

/** @param cidrs as checked by `parseCidr`; empty: nobody is believed */
export function compileTrustedProxies(cidrs: readonly string[]): TrustedProxies {
  if (cidrs.length === 0) return { isTrusted: () => false, clientAddress: plainAddress }
  const networks = new Networks(cidrs)
  return {
    isTrusted: (address) => networks.has(address),
    clientAddress(peer, forwardedFor) {
      if (forwardedFor === undefined || !networks.has(peer)) return plainAddress(peer)
      return walk(peer, forwardedFor, networks)
    },
  }
}

/**
 * From right to left: each proxy appended the address of its own peer, so an entry is as good as the hop that wrote it.
 * The first address that is not trusted is the client. An entry that is no address stops the walk at the last hop that
 * is known: what stands left of it was written by nobody who can be believed.
 */
function walk(peer: string, forwardedFor: string, networks: Networks): string {
  let client = plainAddress(peer)
  let end = forwardedFor.length
  for (let hop = 0; hop < MAX_HOPS && end >= 0; hop++) {
    const comma = end === 0 ? -1 : forwardedFor.lastIndexOf(',', end - 1)
    const address = parseForwardedAddress(forwardedFor.slice(comma + 1, end).trim())
    if (address === undefined) return client
    client = address
    if (!networks.has(address)) return client
    end = comma
  }
  return client
}

function plainAddress(peer: string): string {
  return peer.startsWith('::ffff:') ? (normalizeAddress(peer) ?? peer) : peer
}

const keys = new Map<string, string>()

/**
 * What limits count by: an IPv4 address itself; of IPv6 the /64, because one subscriber has at least that many addresses
 * (RFC 6177) and could otherwise be a new client with every request.
 */
export function addressKey(address: string): string {
  if (!address.includes(':')) return address
  const known = keys.get(address)
  if (known !== undefined) return known
  const key = networkOf(address)
  if (keys.size >= REMEMBERED) keys.clear()
  keys.set(ownText(address), key)
  return key
}

function networkOf(address: string): string {
  const normal = normalizeAddress(address)
  if (normal === undefined || !normal.includes(':')) return normal ?? address
  const [left = '', right] = normal.split('::')
  const groups = left === '' ? [] : left.split(':')
  if (right !== undefined) {
    const tail = right === '' ? 0 : right.split(':').length + (right.includes('.') ? 1 : 0)
    while (groups.length + tail < 8) groups.push('0')
    if (right !== '') groups.push(...right.split(':'))
  }
  return canonicalIPv6(`${groups.slice(0, 4).join(':')}::`) + '/64'
}
