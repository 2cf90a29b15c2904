/**
 * The three content codings over node:zlib, with one scale of effort: 1 (fast) to 9, as in gzip. For brotli and zstd the
 * level is mapped to what costs about as much: a proxy compresses while somebody waits, so brotli stays below 6.
 */

import type zlib from 'node:zlib'

export type Coding = 'zstd' | 'br' | 'gzip'

const BROTLI_QUALITY = [0, 1, 1, 2, 3, 4, 4, 5, 6, 7]
const ZSTD_LEVEL = [0, 1, 1, 2, 2, 3, 3, 4, 6, 9]

interface Encoder {
  now(body: Uint8Array): Buffer
  later(body: Uint8Array, done: (error: Error | null, encoded: Buffer) => void): void
  /** @param sizeHint bytes to come, 0: not known */
  stream(sizeHint: number): zlib.Gzip | zlib.BrotliCompress | zlib.ZstdCompress
}

/** Prepared once a route. */
export function compileEncoder(coding: Coding, level: number): Encoder {
  const zlib = process.getBuiltinModule('node:zlib')
  switch (coding) {
    case 'gzip': {
      const options = { level }
      return {
        now: (body) => zlib.gzipSync(body, options),
        later: (body, done) => zlib.gzip(body, options, done),
        stream: () => zlib.createGzip(options),
      }
    }
    case 'br': {
      const params = { [zlib.constants.BROTLI_PARAM_QUALITY]: BROTLI_QUALITY[level]! }
      const sized = (size: number) => ({
        params: size > 0 ? { ...params, [zlib.constants.BROTLI_PARAM_SIZE_HINT]: size } : params,
      })
      return {
        now: (body) => zlib.brotliCompressSync(body, sized(body.length)),
        later: (body, done) => zlib.brotliCompress(body, sized(body.length), done),
        stream: (size) => zlib.createBrotliCompress(sized(size)),
      }
    }
    case 'zstd': {
      const options = { params: { [zlib.constants.ZSTD_c_compressionLevel]: ZSTD_LEVEL[level]! } }
      return {
        now: (body) => zlib.zstdCompressSync(body, options),
        later: (body, done) => zlib.zstdCompress(body, options, done),
        stream: () => zlib.createZstdCompress(options),
      }
    }
  }
}

export type { Encoder }
