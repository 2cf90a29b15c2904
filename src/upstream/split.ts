/**
 * `split`: one of several upstreams by weight, as for a canary. A request field may name the part, for tests of it; a
 * cookie keeps a client on the part it got. Asked once an exchange, before anything is sent.
 *
 * The cookie's value is an HMAC over the route and the part, as that of sticky endpoints: it tells no names, and a part
 * whose weight is 0 loses its clients.
 */

import { createHmac } from 'node:crypto'
import type { Exchange } from '../exchange.ts'
import { cookieValue } from '../http/cookie.ts'
import type { SplitByConfig } from './config.ts'

export interface SplitPart<T> {
  readonly name: string
  readonly weight: number
  readonly target: T
}

/** @param route its name, so that cookies of two routes differ */
export function compileSplit<T>(
  parts: readonly SplitPart<T>[],
  by: SplitByConfig | undefined,
  route: string,
  random: () => number = Math.random,
): (x: Exchange) => T {
  const byWeight = chooseByWeight(parts, random)
  if (by === undefined) return parts.length === 1 ? () => parts[0]!.target : () => byWeight().target
  const byName = new Map(parts.map((part) => [part.name, part]))
  const cookieOf = new Map(parts.map((part) => [part, sign(route, part.name)]))
  const byCookie = new Map(parts.filter(({ weight }) => weight > 0).map((part) => [cookieOf.get(part)!, part]))
  const attributes = `; Path=/${by.ttl > 0 ? `; Max-Age=${Math.floor(by.ttl / 1000)}` : ''}; HttpOnly; SameSite=Lax\r\n`
  const { cookie, header } = by
  return (x) => {
    const named = header === undefined ? undefined : byName.get(x.request.get(header) ?? '')
    if (named !== undefined) return named.target
    if (cookie === undefined) return byWeight().target
    const known = byCookie.get(cookieValue(x.request.get('cookie'), cookie))
    if (known !== undefined) return known.target
    const part = byWeight()
    x.responseFields += `Set-Cookie: ${cookie}=${cookieOf.get(part)}${attributes}`
    return part.target
  }
}

function chooseByWeight<T>(parts: readonly SplitPart<T>[], random: () => number): () => SplitPart<T> {
  const total = parts.reduce((sum, { weight }) => sum + weight, 0)
  const last = parts.findLast(({ weight }) => weight > 0)!
  return () => {
    let at = random() * total
    for (const part of parts) if ((at -= part.weight) < 0) return part
    return last
  }
}

function sign(route: string, part: string): string {
  return createHmac('sha256', '').update(`split\n${route}\n${part}`).digest('base64url').slice(0, 22)
}
