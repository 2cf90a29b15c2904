/**
 * Admits or refuses by client address: the first gate of a route, before anything that costs more than a look-up. It
 * sees the address after the trusted-proxies walk.
 */

import type { Exchange } from '../../exchange.ts'
import { Networks } from '../../http/client-address.ts'
import { LocalReply } from '../../local-reply.ts'
import type { IpRouteConfig } from './config.ts'

export type IpGate = (x: Exchange) => LocalReply | undefined

/** Undefined when the route names no address. `ipDeny` wins over `ipAllow`; an address that cannot be read is in neither. */
export function compileIp({ ipAllow, ipDeny }: IpRouteConfig): IpGate | undefined {
  if (ipAllow.length === 0 && ipDeny.length === 0) return undefined
  const denied = new LocalReply('IP_DENIED')
  const deny = ipDeny.length > 0 ? new Networks(ipDeny) : undefined
  const allow = ipAllow.length > 0 ? new Networks(ipAllow) : undefined
  return (x) => {
    if (deny?.has(x.clientAddress)) return denied
    return allow === undefined || allow.has(x.clientAddress) ? undefined : denied
  }
}
