import { randomBytes } from 'node:crypto'
import zlib from 'node:zlib'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { DECODABLE, type Decodable, Decoder, type DecoderLimits } from '../../../../src/policies/compression/decoder.ts'

const ENCODE: Record<Decodable, (body: Uint8Array) => Buffer> = {
  gzip: (body) => zlib.gzipSync(body),
  deflate: (body) => zlib.deflateSync(body),
  br: (body) => zlib.brotliCompressSync(body, { params: { [zlib.constants.BROTLI_PARAM_QUALITY]: 4 } }),
  zstd: (body) => zlib.zstdCompressSync(body),
}
const NO_LIMITS: DecoderLimits = { maxBytes: 2 ** 40, maxRatio: 0 }

/** A decoder, and what became of its input. */
class Decoding {
  readonly decoder: Decoder
  readonly chunks: Buffer[] = []
  /** `ended`, or why it is broken. */
  outcome = ''
  detail = ''
  drains = 0
  bytes = 0
  /** What the one who takes it says. */
  more = true
  readonly #done = Promise.withResolvers<void>()

  constructor(coding: Decodable, limits = NO_LIMITS) {
    this.decoder = new Decoder(coding, limits, {
      decoded: (chunk) => {
        if (this.outcome !== '') throw new Error('bytes behind the end')
        this.chunks.push(chunk)
        this.bytes += chunk.length
        return this.more
      },
      drained: () => this.drains++,
      ended: () => this.#end('ended'),
      broken: (why, detail) => this.#end(why, detail),
    })
  }

  #end(outcome: string, detail = ''): void {
    if (this.outcome !== '') throw new Error('a second end')
    this.outcome = outcome
    this.detail = detail
    this.#done.resolve()
  }

  get body(): Buffer {
    return Buffer.concat(this.chunks)
  }

  /** In pieces of these sizes, over and over. */
  async all(input: Uint8Array, sizes: readonly number[] = [input.length || 1]): Promise<this> {
    for (let at = 0, i = 0; at < input.length; i++) {
      const piece = Buffer.from(input.subarray(at, (at += sizes[i % sizes.length]!)))
      this.decoder.write(piece)
      piece.fill(0) // the memory is the caller's again
    }
    this.decoder.end()
    await this.#done.promise
    return this
  }
}

const until = async (done: () => boolean) => {
  while (!done()) await new Promise((resolve) => setImmediate(resolve))
}
/** A turn of the loop, and of libuv's threads. */
const aWhile = async () => {
  for (let i = 0; i < 20; i++) await new Promise((resolve) => zlib.deflate(Buffer.alloc(1000), resolve))
}

const TEXT = Buffer.from('the quick brown fox jumps over the lazy dog\n'.repeat(500))
const NOISE = randomBytes(200_000)

describe.each(DECODABLE)('%s', (coding) => {
  const encode = ENCODE[coding]

  it.each([0, 1, 65_535, 65_536, 65_537, 131_072, 3_000_000])('%i bytes are what was encoded', async (size) => {
    const body = Buffer.alloc(size, NOISE.subarray(0, 10_000))
    const { outcome, body: got } = await new Decoding(coding).all(encode(body))
    expect([outcome, got.equals(body)]).toEqual(['ended', true])
  })

  it('is the same whatever the pieces', async () => {
    const body = Buffer.concat([TEXT, NOISE.subarray(0, 3000), TEXT])
    const encoded = encode(body)
    await fc.assert(
      fc.asyncProperty(fc.array(fc.integer({ min: 1, max: 2000 }), { minLength: 1 }), async (sizes) => {
        const { outcome, body: got } = await new Decoding(coding).all(encoded, sizes)
        expect([outcome, got.equals(body)]).toEqual(['ended', true])
      }),
      { numRuns: 30 },
    )
    const byteByByte = await new Decoding(coding).all(encoded, [1])
    expect([byteByByte.outcome, byteByByte.body.equals(body)]).toEqual(['ended', true])
  })

  it.each([[[1]], [[7]], [[100_000]]])('that breaks off is broken, in pieces of %j', async (sizes) => {
    const encoded = encode(TEXT)
    for (const length of [0, 1, 3, encoded.length >> 1, encoded.length - 1]) {
      const { outcome, detail } = await new Decoding(coding).all(encoded.subarray(0, length), sizes)
      expect([length, outcome, detail]).toEqual([length, 'format', 'unexpected end of file'])
    }
  })

  it.each([[[1]], [[7]], [[100_000]]])(
    'with something else behind its end is broken, in pieces of %j',
    async (sizes) => {
      for (const rest of ['\0', '\0\0garbage', 'garbage', 'GET / HTTP/1.1\r\n\r\n']) {
        const { outcome } = await new Decoding(coding).all(Buffer.concat([encode(TEXT), Buffer.from(rest)]), sizes)
        expect([rest, outcome]).toEqual([rest, 'format'])
      }
    },
  )

  it('with any bytes at all ends, well or not, once', async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 300 }), fc.integer({ min: 1, max: 50 }), async (bytes, size) => {
        const encoded = encode(TEXT)
        expect((await new Decoding(coding).all(bytes, [size])).outcome).toMatch(/^(?:ended|format)$/)
        const spoilt = Buffer.from(encoded)
        for (const [i, byte] of bytes.entries()) spoilt[(i * 7) % spoilt.length]! ^= byte
        expect((await new Decoding(coding).all(spoilt, [size])).outcome).toMatch(/^(?:ended|format)$/)
      }),
      { numRuns: 50 },
    )
  })

  it('stops at the limit of bytes, and lets exactly so many pass', async () => {
    const bomb = encode(Buffer.alloc(50_000_000))
    const stopped = await new Decoding(coding, { maxBytes: 1_000_000, maxRatio: 0 }).all(bomb, [1000])
    expect([stopped.outcome, stopped.bytes <= 1_000_000]).toEqual(['size', true])
    const passed = await new Decoding(coding, { maxBytes: 1_000_000, maxRatio: 0 }).all(encode(Buffer.alloc(1_000_000)))
    expect([passed.outcome, passed.bytes]).toEqual(['ended', 1_000_000])
  })

  it('stops at the limit of the ratio, but for the first MiB', async () => {
    const limits = { maxBytes: 2 ** 40, maxRatio: 50 }
    const bomb = await new Decoding(coding, limits).all(encode(Buffer.alloc(50_000_000)))
    expect([bomb.outcome, bomb.detail]).toEqual(['ratio', 'the body decodes to more than 50 times its size'])
    expect(bomb.bytes).toBeLessThanOrEqual(1024 * 1024 + 50 * encode(Buffer.alloc(50_000_000)).length)
    expect((await new Decoding(coding, limits).all(encode(Buffer.alloc(1024 * 1024)))).outcome).toBe('ended')
    const noise = await new Decoding(coding, limits).all(encode(Buffer.alloc(5_000_000, NOISE)))
    expect(noise.outcome).toBe('ended')
  })

  it('waits for whoever takes it, holds little meanwhile, and goes on', async () => {
    const body = Buffer.alloc(20_000_000, TEXT)
    const encoded = Buffer.concat([encode(body)])
    const decoding = new Decoding(coding)
    decoding.more = false
    let at = 0
    const give = () => {
      while (at < encoded.length && decoding.decoder.write(encoded.subarray(at, (at += 1000)))) {}
    }
    give()
    await until(() => decoding.bytes > 0)
    await aWhile()
    expect(decoding.bytes).toBeLessThanOrEqual(65_536)
    decoding.more = true
    decoding.decoder.resume()
    for (let drains = 0; at < encoded.length; drains = decoding.drains) {
      await until(() => decoding.drains > drains)
      give()
    }
    decoding.decoder.end()
    await until(() => decoding.outcome !== '')
    expect([decoding.outcome, decoding.body.equals(body)]).toEqual(['ended', true])
  })

  it('says nothing more once it is closed', async () => {
    const decoding = new Decoding(coding)
    decoding.decoder.write(encode(Buffer.alloc(20_000_000)))
    await until(() => decoding.bytes > 0)
    const { bytes } = decoding
    decoding.decoder.close()
    decoding.decoder.close()
    expect(decoding.decoder.write(Buffer.from('x'))).toBe(true)
    decoding.decoder.end()
    decoding.decoder.resume()
    await aWhile()
    expect([decoding.outcome, decoding.bytes]).toEqual(['', bytes])
  })
})

describe('several in a row', () => {
  it.each(['gzip', 'zstd'] as const)('are one body in %s, wherever the pieces end', async (coding) => {
    const parts = [TEXT, NOISE.subarray(0, 100), Buffer.alloc(0), Buffer.alloc(65_536), TEXT]
    const encoded = Buffer.concat(parts.map(ENCODE[coding]))
    for (const sizes of [[encoded.length], [1], [ENCODE[coding](TEXT).length], [5, 300]]) {
      const { outcome, body } = await new Decoding(coding).all(encoded, sizes)
      expect([sizes, outcome, body.equals(Buffer.concat(parts))]).toEqual([sizes, 'ended', true])
    }
    const cut = await new Decoding(coding).all(encoded.subarray(0, -2))
    expect(cut.outcome).toBe('format')
  })

  it.each(['deflate', 'br'] as const)('are broken in %s, which ends but once', async (coding) => {
    const encoded = ENCODE[coding](TEXT)
    for (const sizes of [[2 * encoded.length], [encoded.length], [1]])
      expect((await new Decoding(coding).all(Buffer.concat([encoded, encoded]), sizes)).outcome).toBe('format')
  })

  it('are bounded together, and in number where each costs', async () => {
    const many = Buffer.concat(Array.from({ length: 1001 }, () => zlib.zstdCompressSync(Buffer.alloc(0))))
    expect((await new Decoding('zstd').all(many)).detail).toBe('there are more than 1000 frames')
    const limits = { maxBytes: 1_000_000, maxRatio: 0 }
    for (const coding of ['gzip', 'zstd'] as const) {
      const encoded = ENCODE[coding](Buffer.alloc(400_000))
      expect((await new Decoding(coding, limits).all(Buffer.concat([encoded, encoded]))).outcome).toBe('ended')
      expect((await new Decoding(coding, limits).all(Buffer.concat([encoded, encoded, encoded]))).outcome).toBe('size')
    }
  })
})

it('a zstd frame that wants a larger window than any sender may need is broken', async () => {
  const encoded = zlib.zstdCompressSync(NOISE, { params: { [zlib.constants.ZSTD_c_contentSizeFlag]: 0 } })
  // Magic, descriptor, then the window: exponent in the upper five bits, from 2^10 (RFC 8878 §3.1.1.1.2).
  const wide = (log: number) => {
    const frame = Buffer.from(encoded)
    expect(frame[4]! & 0x20).toBe(0) // no single segment: there is a window
    frame[5] = (log - 10) << 3
    return frame
  }
  expect((await new Decoding('zstd').all(wide(23))).outcome).toBe('ended')
  expect((await new Decoding('zstd').all(wide(24))).outcome).toBe('format')
})
