/** Keys of a route that admit or refuse by client address. */

import { z } from 'zod'
import { parseCidr } from '../../http/client-address.ts'

/** `10.0.0.0/8`, `2001:db8::/32`, or one address. */
export const cidr = () =>
  z.string().refine((text) => parseCidr(text) !== undefined, {
    error: 'expected an address or a CIDR such as 10.0.0.0/8 or 2001:db8::/32',
  })

export const ipRouteConfig = {
  ipAllow: z.array(cidr()).default([]).describe('Only these client addresses may pass; empty: all.'),
  ipDeny: z.array(cidr()).default([]).describe('These client addresses may not pass, even when `ipAllow` names them.'),
}
export type IpRouteConfig = z.output<z.ZodObject<typeof ipRouteConfig>>
