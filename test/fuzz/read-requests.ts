/** Reads a connection's bytes by the codec alone, as a listener does: head, framing, body, and the next one. */

import { ChunkedDecoder } from '../../src/http1/chunked.ts'
import { CHUNKED, frameRequest, newFrame } from '../../src/http1/framing.ts'
import { HeadReader } from '../../src/http1/head-reader.ts'
import { type HeadLimits, NEED_MORE, PARSED } from '../../src/http1/message-head.ts'

export interface ReadRequest {
  method: string
  target: string
  authority: string
  minorVersion: number
  fields: [name: string, value: string][]
  body: string
  trailers: string
  /** Where it ends in all the bytes. */
  end: number
}

export interface ReadResult {
  requests: ReadRequest[]
  /** Why the rest was refused; '' when nothing was. */
  error: string
  /** The byte of the body at which it was refused, or where the head began that was; -1 without an error. */
  errorAt: number
  /** The connection was to close after the last request: nothing behind it was read. */
  closed: boolean
}

export const LIMITS: HeadLimits = { headBytes: 2048, fields: 12, targetBytes: 64 }

export function readRequests(pieces: readonly Uint8Array[], limits: HeadLimits = LIMITS): ReadResult {
  const reader = new HeadReader('request')
  const decoder = new ChunkedDecoder()
  const frame = newFrame()
  const result: ReadResult = { requests: [], error: '', errorAt: -1, closed: false }
  let current: ReadRequest | undefined
  let left = 0
  let offset = 0
  let headStart = 0

  const fail = (error: string, at: number): ReadResult => ({ ...result, error, errorAt: at })
  const complete = (end: number) => {
    current!.end = end
    result.requests.push(current!)
    current = undefined
    headStart = end
    reader.reset()
    result.closed = !frame.keepAlive
  }

  for (const piece of pieces) {
    let pos = 0
    while (pos < piece.length && !result.closed) {
      if (current === undefined) {
        const outcome = reader.read(piece, pos, piece.length, limits)
        if (outcome === NEED_MORE) break
        const { head } = reader
        if (outcome !== PARSED) return fail(`${head.error!.kind}: ${head.error!.detail}`, headStart)
        pos = reader.consumedTo
        const error = frameRequest(head, frame)
        if (error !== null) return fail(`${error.kind}: ${error.detail}`, headStart)
        current = {
          method: head.method,
          target: head.target,
          authority: frame.authority,
          minorVersion: head.minorVersion,
          fields: Array.from({ length: head.fieldCount }, (_, i) => [head.rawNameAt(i), head.valueAt(i)]),
          body: '',
          trailers: '',
          end: 0,
        }
        left = frame.length
        if (left === CHUNKED) decoder.reset()
        else if (left === 0) complete(offset + pos)
      } else if (frame.length === CHUNKED) {
        pos = decoder.next(piece, pos, piece.length)
        if (decoder.error !== '') return fail(decoder.error, offset + pos)
        current.body += Buffer.from(piece.subarray(decoder.dataStart, decoder.dataEnd)).toString('latin1')
        if (decoder.done) {
          current.trailers = decoder.trailers
          complete(offset + pos)
        }
      } else {
        const stop = Math.min(piece.length, pos + left)
        current.body += Buffer.from(piece.subarray(pos, stop)).toString('latin1')
        left -= stop - pos
        pos = stop
        if (left === 0) complete(offset + pos)
      }
    }
    offset += piece.length
  }
  return result
}
