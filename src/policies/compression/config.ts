/**
 * The keys of compression: `compression` at the top of the file sets how, `compression` of a route switches it on. Bodies of
 * requests are decoded only where `requests.decompress` says so.
 */

import { z } from 'zod'
import { bytes } from '../../config/types.ts'

export const ENCODINGS = ['zstd', 'br', 'gzip'] as const

const level = () => z.int().min(1).max(9)
const encodings = () => z.array(z.enum(ENCODINGS)).min(1)
const types = () =>
  z.array(z.string().regex(/^[^\s;/]+\/[^\s;/]+$/, { error: 'expected a media type such as text/html or text/*' }))

const maxRatio = () => z.int().min(0)

const LEVEL = 'Effort as in gzip, 1 (fast) to 9; mapped for br and zstd (6 is br 4, zstd 3).'
const ORDER = 'Order of preference among those that the client accepts equally.'
const MIN_BYTES = 'A body known to be smaller stays as it is.'
const DECOMPRESS =
  'Requests whose body is encoded (gzip, deflate, br, zstd) go upstream decoded and chunked, without Content-Encoding and ' +
  'the digests of the encoded bytes. A body that breaks off or is none of the kind is answered 400, one encoded twice 415.'
const MAX_BYTES =
  'A body that decodes to more is answered 413. `server.limits.bodyBytes` counts the bytes as they come.'
const MAX_RATIO =
  'A body that has decoded to more than 1 MiB and to more than so many times what came is answered 413; 0: off.'
const OTHERS =
  'A body in another coding is answered 415 with the codings that are understood, or goes upstream as it is (pass).'
const REQUESTS = 'Decoding of request bodies, for services that take plain ones. Off by default.'
const TYPES =
  'Media types that are compressed; `text/*` and `*/*+json` style patterns are understood. Event streams only when ' +
  '`text/event-stream` is named; each event then leaves at once.'

export const compressionConfig = z.strictObject({
  level: level().default(6).describe(LEVEL),
  encodings: encodings()
    .default([...ENCODINGS])
    .describe(ORDER),
  minBytes: bytes().default(1024).describe(MIN_BYTES),
  types: types()
    .default([
      'text/*',
      'application/json',
      'application/javascript',
      'application/xml',
      'application/wasm',
      'application/graphql',
      'application/x-ndjson',
      'application/manifest+json',
      '*/*+json',
      '*/*+xml',
      'image/svg+xml',
      'image/bmp',
      'image/x-icon',
      'font/ttf',
      'font/otf',
    ])
    .describe(TYPES),
  requests: z
    .strictObject({
      decompress: z.boolean().default(false).describe(DECOMPRESS),
      maxBytes: bytes()
        .default(10 * 1024 * 1024)
        .describe(MAX_BYTES),
      maxRatio: maxRatio().default(200).describe(MAX_RATIO),
      others: z.enum(['refuse', 'pass']).default('refuse').describe(OTHERS),
    })
    .prefault({})
    .describe(REQUESTS),
})
export type RequestDecodingConfig = CompressionConfig['requests']
export type CompressionConfig = z.output<typeof compressionConfig>

/** What a route leaves out it takes from the global block. */
export const compressionRouteConfig = z.union([
  z.boolean(),
  z.strictObject({
    level: level().optional().describe(LEVEL),
    encodings: encodings().optional().describe(ORDER),
    minBytes: bytes().optional().describe(MIN_BYTES),
    types: types().optional().describe(TYPES),
    requests: z
      .strictObject({
        decompress: z.boolean().optional().describe(DECOMPRESS),
        maxBytes: bytes().optional().describe(MAX_BYTES),
        maxRatio: maxRatio().optional().describe(MAX_RATIO),
        others: z.enum(['refuse', 'pass']).optional().describe(OTHERS),
      })
      .optional()
      .describe(REQUESTS),
  }),
])
export type CompressionRouteConfig = z.output<typeof compressionRouteConfig>
