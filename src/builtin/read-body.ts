/** Collects the body of a request for an answer that needs it whole. Bounded; beyond it 413. */

import { refuse } from '../answer.ts'
import type { Exchange } from '../exchange.ts'
import { LocalReply } from '../local-reply.ts'

/** Calls back when the body is whole, at once when there is none; never when the client leaves before. */
export function readBody(x: Exchange, maxBytes: number, done: (body: Buffer) => void): void {
  const { body } = x.client
  if (body === null) {
    done(Buffer.alloc(0))
    return
  }
  const tooLarge = () => {
    body.cancel()
    refuse(x, new LocalReply('TOO_LARGE', { detail: `the body is larger than ${maxBytes} bytes`, close: true }))
  }
  if (body.length > maxBytes) {
    tooLarge()
    return
  }
  const chunks: Buffer[] = []
  let length = 0
  body.sink = {
    write(chunk) {
      length += chunk.length
      if (length <= maxBytes) chunks.push(Buffer.from(chunk))
      else tooLarge()
      return true
    },
    end: () => done(Buffer.concat(chunks)),
    abort() {},
    flush() {},
  }
  body.resume()
}
