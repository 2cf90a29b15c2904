/**
 * Between the text of a head, as the gateway writes it and its strict parser reads it, and the names and values that Node's
 * http and http2 take and give: for carriers that speak through one of these.
 */

import { MessageHead, PARSED } from '../http1/message-head.ts'
import { RESPONSE_LIMITS } from './carrier.ts'

/** @param lines fields without their CRLF @param each is given names in lower case */
export function eachField(lines: readonly string[], each: (name: string, value: string) => void): void {
  for (const line of lines) {
    const colon = line.indexOf(':')
    if (colon > 0) each(line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim())
  }
}

/** An answer's head that Node has read, through the one strict parser; undefined when that refuses. */
export function responseHead(status: number | string, fields: string): MessageHead | undefined {
  const bytes = Buffer.from(`HTTP/1.1 ${status} \r\n${fields}\r\n`, 'latin1')
  const head = new MessageHead('response')
  const whole = head.parse(bytes, 0, bytes.length, RESPONSE_LIMITS) === PARSED && head.byteLength === bytes.length
  return whole ? head : undefined
}
