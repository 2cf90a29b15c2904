/**
 * The PURGE method on cached routes, as Varnish and Squid know it: an order of the operator's, by address instead of a
 * token, for systems that publish content and know its URLs. A gate after the address rules, before limits and identity.
 */

import type { Exchange } from '../../exchange.ts'
import { Networks } from '../../http/client-address.ts'
import { LocalReply } from '../../local-reply.ts'

export interface PurgeMethodHost {
  /** The URL under which answers to this request are kept, as the route keys it. */
  urlOf(x: Exchange): string
  /** All threads, and the fleet. @returns how many answers were removed */
  purge(url: string): Promise<number>
  answer(x: Exchange, purged: number): void
  fail(x: Exchange, error: unknown): void
}

/** `taken`: answered, or about to be. */
export type PurgeGate = (x: Exchange) => 'taken' | LocalReply | undefined

/** @param methods those that the route names; a route that names PURGE itself hands it to its upstream */
export function compilePurgeMethod(
  purgeFrom: readonly string[] | undefined,
  methods: readonly string[] | undefined,
  host: PurgeMethodHost,
): PurgeGate | undefined {
  if (methods?.includes('PURGE')) return undefined
  const allow = (methods ?? ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']).join(', ')
  const refused =
    purgeFrom === undefined
      ? new LocalReply('METHOD', { fields: `Allow: ${allow}\r\n`, detail: 'cache.purgeFrom allows PURGE' })
      : new LocalReply('IP_DENIED', { detail: 'PURGE is for the addresses of cache.purgeFrom' })
  const allowed = new Networks(purgeFrom ?? [])
  return (x) => {
    if (x.request.method !== 'PURGE') return undefined
    if (!allowed.has(x.clientAddress)) return refused
    host.purge(host.urlOf(x)).then(
      (purged) => {
        if (!x.finished) host.answer(x, purged)
      },
      (error: unknown) => host.fail(x, error),
    )
    return 'taken'
  }
}
