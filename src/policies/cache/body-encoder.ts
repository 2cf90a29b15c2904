/** What the cache asks of compression: codings of a stored body, made once. Compression implements it; neither imports the other. */

import type { Exchange, ResponseSink } from '../../exchange.ts'

export interface BodyEncoder {
  /** May this answer be sent in several codings? A question of status, fields and length alone. */
  isEncodable(status: number, fields: string, length: number): boolean
  /** The coding for this client; `identity` for none. */
  pick(x: Exchange): string
  /** The answer's fields under a coding: Content-Encoding, a weak ETag, Vary. For `identity` Vary alone. */
  fieldsFor(fields: string, coding: string): string
  /** At once when that is quick, else undefined: `encode` then. */
  encodeNow(body: Uint8Array, coding: string): Uint8Array | undefined
  /** In another thread. `done(undefined)`: not possible now. */
  encode(body: Uint8Array, coding: string, done: (encoded: Uint8Array | undefined) => void): void
  /** Compresses on the way to the client, if this answer and this client are for it. The head has not been given yet. */
  wrap(x: Exchange, sink: ResponseSink): ResponseSink
}
