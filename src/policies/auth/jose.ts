/**
 * The one door to jose. Loaded by the first route that checks tokens: it brings WebCrypto with it, 15 MB that a gateway
 * without tokens does not carry.
 */

import { createRequire } from 'node:module'

type Jose = typeof import('jose')

let loaded: Jose | undefined

export function jose(): Jose {
  loaded ??= createRequire(import.meta.url)('jose') as Jose
  return loaded
}
