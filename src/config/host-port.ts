/** Host and port as text. Apart from address.ts, so that what runs often and briefly does not load the schema library. */

import { isIP } from 'node:net'

export interface Address {
  readonly host: string
  readonly port: number
}

/** `127.0.0.1:9901`, `[::1]:9901`, `localhost:9901`, `:8080` (every IPv4 address) or `8080`. Undefined when it is not one. */
export function parseAddress(text: string | number): Address | undefined {
  const match = /^(?:(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]*):)?(\d{1,5})$/.exec(String(text))
  if (match === null) return undefined
  const port = Number(match[2])
  if (port > 65_535) return undefined
  const host = (match[1] ?? '').replace(/^\[|\]$/g, '')
  if (match[1]?.startsWith('[') && isIP(host) !== 6) return undefined
  if (/^[\d.]+$/.test(host) && isIP(host) !== 4) return undefined
  return { host: host === '' ? '0.0.0.0' : host, port }
}

/** True for an address that only this machine can reach. */
export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127\.\d+\.\d+\.\d+$/.test(host) || host === '::ffff:127.0.0.1'
}
