/** The keys of compression: `compression` at the top of the file sets how, `compression` of a route switches it on. */

import { z } from 'zod'
import { bytes } from '../../config/types.ts'

export const ENCODINGS = ['zstd', 'br', 'gzip'] as const

const level = () => z.int().min(1).max(9)
const encodings = () => z.array(z.enum(ENCODINGS)).min(1)
const types = () =>
  z.array(z.string().regex(/^[^\s;/]+\/[^\s;/]+$/, { error: 'expected a media type such as text/html or text/*' }))

const LEVEL = 'Effort as in gzip, 1 (fast) to 9; mapped for br and zstd (6 is br 4, zstd 3).'
const ORDER = 'Order of preference among those that the client accepts equally.'
const MIN_BYTES = 'A body known to be smaller stays as it is.'
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
})
export type CompressionConfig = z.output<typeof compressionConfig>

/** What a route leaves out it takes from the global block. */
export const compressionRouteConfig = z.union([
  z.boolean(),
  z.strictObject({
    level: level().optional().describe(LEVEL),
    encodings: encodings().optional().describe(ORDER),
    minBytes: bytes().optional().describe(MIN_BYTES),
    types: types().optional().describe(TYPES),
  }),
])
export type CompressionRouteConfig = z.output<typeof compressionRouteConfig>
