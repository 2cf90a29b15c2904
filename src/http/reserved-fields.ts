/**
 * Field names that no configuration may set, add or remove: framing (RFC 9112 §6), hop-by-hop (RFC 9110 §7.6.1) and the
 * fields that name the request itself. The codec writes these; a second hand there is request smuggling.
 */

const RESERVED = new Set([
  'connection',
  'content-length',
  'expect',
  'http2-settings',
  'keep-alive',
  'proxy-authenticate',
  'proxy-authentication-info',
  'proxy-authorization',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
])

/** @param name lower case. `host` is reserved too: `upstreams.X.host` is the one place that changes it. */
export function isReservedField(name: string): boolean {
  return RESERVED.has(name) || name === 'host'
}
