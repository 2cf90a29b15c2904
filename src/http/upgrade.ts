/** Which requests are WebSocket handshakes that are taken as such (RFC 6455 §4.2.1). Pure. */

import type { Exchange } from '../exchange.ts'
import { FIELD_ID } from '../http1/field-names.ts'

const KEY = /^[A-Za-z0-9+/]{22}==$/

/** Every other Upgrade is dropped, and the request served plainly. */
export function asksForWebSocket(x: Exchange): boolean {
  if (x.connectionNames === null || !x.connectionNames.includes('upgrade')) return false
  const { request, client } = x
  return (
    request.method === 'GET' &&
    request.minorVersion === 1 &&
    client.body === null &&
    client.upgrade !== undefined &&
    request.value(FIELD_ID.upgrade)?.toLowerCase() === 'websocket' &&
    KEY.test(request.value(FIELD_ID['sec-websocket-key']) ?? '')
  )
}
