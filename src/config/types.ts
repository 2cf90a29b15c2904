/**
 * The value types of the config file that zod does not have: durations, sizes, rates, percentages, secrets. Inside the
 * gateway a duration is a number of milliseconds and a size a number of bytes; in the file each carries its unit.
 */

import { z } from 'zod'

/** RFC 9110 §5.6.2. */
const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/
const DURATION = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)$/
const DURATION_UNIT_MS: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 }
const BYTES = /^(\d+(?:\.\d+)?)(B|KiB|MiB|GiB|KB|MB|GB)$/
const BYTES_UNIT: Record<string, number> = {
  B: 1, KB: 1e3, MB: 1e6, GB: 1e9, KiB: 1024, MiB: 1024 ** 2, GiB: 1024 ** 3,
} // biome-ignore format: a table

/** `500ms`, `30s`, `5m`, `1h`, `1d`, or 0 for off. Milliseconds inside. Throws nothing: undefined when it is not one. */
export function parseDuration(text: string | number): number | undefined {
  if (text === 0) return 0
  const match = DURATION.exec(String(text))
  return match ? Math.round(Number(match[1]) * DURATION_UNIT_MS[match[2]!]!) : undefined
}

/** `64KiB`, `10MB`, `512B`, or a plain integer of bytes. Undefined when it is not one. */
export function parseBytes(text: string | number): number | undefined {
  if (typeof text === 'number') return Number.isSafeInteger(text) && text >= 0 ? text : undefined
  const match = BYTES.exec(text)
  return match ? Math.round(Number(match[1]) * BYTES_UNIT[match[2]!]!) : undefined
}

/** Milliseconds. In the file `500ms`, `30s`, `5m`, `1h`, `1d`; `0` means off. */
export const duration = () =>
  z
    .union([z.string().regex(DURATION), z.literal(0)], {
      error: 'expected a duration with its unit, such as 500ms, 30s, 5m or 1h (0 means off)',
    })
    .transform((text) => parseDuration(text)!)

/** Bytes. In the file `64KiB`, `10MB`, or a plain integer; `0` means off where a limit may be off. */
export const bytes = () =>
  z
    .union([z.string().regex(BYTES), z.int().min(0)], {
      error: 'expected a size such as 64KiB, 10MB or a whole number of bytes',
    })
    .transform((text) => parseBytes(text)!)

/** A share as a number 0…100. In the file `50%`, or the number. */
export const percent = () =>
  z
    .union([z.string().regex(/^\d+(?:\.\d+)?%$/), z.number().min(0).max(100)], {
      error: 'expected a percentage such as 50%',
    })
    .transform((text) => (typeof text === 'number' ? text : Number(text.slice(0, -1))))
    .refine((value) => value <= 100, { error: 'expected at most 100%' })

/** A text that must never be shown: dumps print `***` for it. */
export const secret = () => z.string().min(1).meta({ secret: true })

/** One value or a list of them; always a list inside. */
export const oneOrMore = <T extends z.ZodType>(item: T) =>
  z.union([item, z.array(item)]).transform((value) => (Array.isArray(value) ? value : [value]) as z.output<T>[])

/** An HTTP field name (RFC 9110 §5.1), lower case inside. */
export const fieldName = () =>
  z
    .string()
    .regex(TOKEN, { error: 'expected a header field name' })
    .transform((name) => name.toLowerCase())

/** The name of a cookie (RFC 6265 §4.1.1). */
export const cookieName = () => z.string().regex(TOKEN, { error: 'expected a cookie name' })

/** A field value that cannot break out of its line. */
export const fieldValue = () =>
  z.string().regex(/^[\t\x20-\x7e\x80-\xff]*$/, { error: 'expected a header value without control characters' })
