/**
 * Value types of the config file that name places on a network: listen addresses, CIDR blocks, URLs, names of things.
 * Beside types.ts, which knows durations and sizes.
 */

import { isIP } from 'node:net'
import { z } from 'zod'
import { parseAddress } from './host-port.ts'

/** True for `10.0.0.0/8`, `::1/128` or a bare address. */
export function isCidr(text: string): boolean {
  const slash = text.indexOf('/')
  const version = isIP(slash < 0 ? text : text.slice(0, slash))
  if (version === 0) return false
  if (slash < 0) return true
  const bits = text.slice(slash + 1)
  return /^\d{1,3}$/.test(bits) && Number(bits) <= (version === 4 ? 32 : 128)
}

/** Host and port to listen on. */
export const address = () =>
  z
    .union([z.string(), z.int()], { error: 'expected an address such as 0.0.0.0:8080' })
    .refine((text) => parseAddress(text) !== undefined, {
      error: 'expected an address such as 127.0.0.1:9901, [::1]:9901 or :8080, with a port from 0 to 65535',
    })
    .transform((text) => parseAddress(text)!)

/** A block of addresses, or one address. */
export const cidr = () =>
  z.string().refine(isCidr, { error: 'expected an address block such as 10.0.0.0/8, fd00::/8 or one address' })

/** An absolute http or https URL. */
export const httpUrl = () =>
  z.string().refine((text) => /^https?:\/\//i.test(text) && URL.canParse(text), {
    error: 'expected a URL such as http://127.0.0.1:3000',
  })

/** The name by which other parts of the file refer to a thing. It becomes a metric label. */
export const nameOf = (what: string) =>
  z.string().regex(/^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/, {
    error: `expected a name for the ${what}: letters, digits, "_", "." and "-", at most 64`,
  })
