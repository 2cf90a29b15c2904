/** However the network cuts the bytes: the same messages, the same errors, at the same places. */

import fc from 'fast-check'
import { expect, it } from 'vitest'
import { ChunkedDecoder } from '../../src/http1/chunked.ts'
import { HeadReader } from '../../src/http1/head-reader.ts'
import { MessageHead, NEED_MORE, PARSED, REFUSED } from '../../src/http1/message-head.ts'
import { chunkedStream, cuts, responseHead, split, stream } from './messages.ts'
import { LIMITS, readRequests } from './read-requests.ts'
import { FUZZ_TIMEOUT_MS, parameters } from './runs.ts'

it('requests on a connection', { timeout: FUZZ_TIMEOUT_MS }, () => {
  fc.assert(
    fc.property(stream, cuts, (text, at) => {
      expect(readRequests(split(text, at))).toEqual(readRequests([Buffer.from(text, 'latin1')]))
    }),
    parameters(1000),
  )
})

it('a head is refused at one byte: before it nothing is, from it on everything', { timeout: FUZZ_TIMEOUT_MS }, () => {
  const verdict = (bytes: Buffer, end: number) => {
    const head = new MessageHead('request')
    return [head.parse(bytes, 0, end, LIMITS), head.error?.kind]
  }
  fc.assert(
    fc.property(stream, fc.nat(300), (text, cut) => {
      const bytes = Buffer.from(text, 'latin1')
      let decisive = 0
      while (decisive <= bytes.length && verdict(bytes, decisive)[0] === NEED_MORE) decisive++
      const end = cut % (bytes.length + 1)
      expect(verdict(bytes, end)).toEqual(
        end < decisive ? [NEED_MORE, undefined] : verdict(bytes, Math.min(decisive, bytes.length)),
      )
    }),
    parameters(300, 0.3),
  )
})

it('answers', { timeout: FUZZ_TIMEOUT_MS }, () => {
  const read = (pieces: Buffer[]) => {
    const reader = new HeadReader('response')
    let offset = 0
    for (const piece of pieces) {
      const result = reader.read(piece, 0, piece.length, LIMITS)
      const { head } = reader
      if (result === REFUSED) return head.error
      if (result === PARSED) {
        const lines = head.fieldLines(new Uint8Array(256), false, null, null)
        return { status: head.status, minor: head.minorVersion, lines, end: offset + reader.consumedTo }
      }
      offset += piece.length
    }
    return undefined
  }
  fc.assert(
    fc.property(responseHead, cuts, (text, at) => {
      expect(read(split(text, at))).toEqual(read([Buffer.from(text, 'latin1')]))
    }),
    parameters(500),
  )
})

it('chunked bodies with trailers', { timeout: FUZZ_TIMEOUT_MS }, () => {
  const read = (pieces: Buffer[]) => {
    const decoder = new ChunkedDecoder()
    let body = ''
    let offset = 0
    for (const piece of pieces) {
      let pos = 0
      while (pos < piece.length && !decoder.done && decoder.error === '') {
        pos = decoder.next(piece, pos, piece.length)
        body += piece.toString('latin1', decoder.dataStart, decoder.dataEnd)
      }
      if (decoder.done || decoder.error !== '')
        return { body, at: offset + pos, error: decoder.error, trailers: decoder.done ? decoder.trailers : '' }
      offset += piece.length
    }
    return { body, at: offset, error: 'not complete' }
  }
  fc.assert(
    fc.property(chunkedStream, cuts, (text, at) => {
      expect(read(split(text, at))).toEqual(read([Buffer.from(text, 'latin1')]))
    }),
    parameters(1000),
  )
})
