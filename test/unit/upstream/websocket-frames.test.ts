import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { FrameCursor } from '../../../src/upstream/websocket-frames.ts'

function frame(payload: number, masked: boolean): Buffer {
  const mask = masked ? 128 : 0
  const head =
    payload < 126
      ? [0x82, mask | payload]
      : payload < 65_536
        ? [0x82, mask | 126, payload >> 8, payload & 255]
        : [0x82, mask | 127, 0, 0, 0, 0, 0, (payload >> 16) & 255, (payload >> 8) & 255, payload & 255]
  return Buffer.concat([Buffer.from(head), Buffer.alloc(masked ? 4 : 0, 9), Buffer.alloc(payload, 0x88)])
}

describe('where frames of a WebSocket end', () => {
  it('is known however the bytes are split', () => {
    const sizes = fc.array(
      fc.tuple(
        fc.oneof(fc.integer({ min: 0, max: 300 }), fc.constantFrom(125, 126, 65_535, 65_536, 70_000)),
        fc.boolean(),
      ),
      { minLength: 1, maxLength: 4 },
    )
    fc.assert(
      fc.property(sizes, fc.array(fc.integer({ min: 1, max: 5000 }), { maxLength: 20 }), (frames, cuts) => {
        const all = frames.map(([size, masked]) => frame(size, masked))
        const ends = new Set<number>([0])
        let length = 0
        for (const one of all) ends.add((length += one.length))
        const bytes = Buffer.concat(all)
        const cursor = new FrameCursor()
        let at = 0
        for (const cut of [...cuts, bytes.length]) {
          const piece = bytes.subarray(at, at + cut)
          cursor.see(piece)
          at += piece.length
          expect(cursor.between).toBe(ends.has(at))
        }
      }),
    )
  })
})
