/**
 * A stored answer and its resource. All that a hit needs is worked out when the answer is stored: the lines to send, the
 * validators, the numbers of its freshness. Ages and Cache-Status change by the second and are added when it is served.
 */

import type { Validators } from '../../http/conditional.ts'
import { type FieldLine, fieldOf, withoutFields } from '../../http/field-lines.ts'
import { formatHttpDate, parseHttpDate } from '../../http/http-date.ts'
import { latin1, trimOws } from '../../http1/bytes.ts'
import type { Freshness } from './freshness.ts'

/** One body under one content coding, as it is sent. */
export class Representation {
  readonly fields: string
  readonly body: Uint8Array
  readonly etag: string | undefined
  #notModifiedFields: string | undefined
  #droppedBy: ReadonlySet<string> | undefined
  #dropped = ''

  constructor(fields: string, body: Uint8Array, etag: string | undefined) {
    this.fields = flat(fields)
    this.body = body
    this.etag = etag
  }

  /** The lines without those that a route replaces by its own; worked out once a set. */
  fieldsWithout(drop: ReadonlySet<string> | null): string {
    if (drop === null) return this.fields
    if (this.#droppedBy !== drop) {
      this.#droppedBy = drop
      this.#dropped = flat(withoutFields(this.fields, (name) => drop.has(name)))
    }
    return this.#dropped
  }

  /** What a 304 carries: all but the description of the body (RFC 9110 §15.4.5). */
  get notModifiedFields(): string {
    this.#notModifiedFields ??= flat(withoutFields(this.fields, (name) => BODY_FIELDS.has(name)))
    return this.#notModifiedFields
  }
}

/**
 * One piece of memory of its own: a text put together from slices would keep the heads it was cut from, and be put
 * together again for every answer.
 */
function flat(text: string): string {
  return latin1(Buffer.from(text, 'latin1'), 0, text.length)
}

export const BODY_FIELDS: ReadonlySet<string> = new Set([
  'content-type',
  'content-encoding',
  'content-language',
  'content-range',
  'content-md5',
])

/** What is kept of an answer; plain values, so that a second level can hold them. */
export interface StoredAnswer {
  readonly status: number
  /** Without Age, hop-by-hop fields, and those that the origin forbids to store. */
  readonly fields: string
  readonly body: Uint8Array
  readonly etag: string | undefined
  readonly lastModified: string | undefined
  readonly modifiedMs: number
  readonly freshness: Freshness
  readonly variantKey: string
  /** Those of Vary and of the route's `vary`, sorted. */
  readonly varyNames: readonly string[]
  readonly tags: readonly string[]
}

export class Entry extends Representation implements Validators, StoredAnswer {
  readonly status: number
  readonly lastModified: string | undefined
  readonly modifiedMs: number
  readonly freshness: Freshness
  readonly variantKey: string
  readonly varyNames: readonly string[]
  readonly tags: readonly string[]
  /** Set by a soft purge: from here on the answer counts as stale. */
  staleFromMs = Number.POSITIVE_INFINITY
  /** By content coding, made once; null: being made. */
  encoded: Map<string, Representation | null> | undefined = undefined
  /** Who last said whether this answer may be encoded, and what was said. */
  judgedBy: unknown = undefined
  encodable = false
  /** Background revalidation asks once at a time. */
  revalidating = false
  #ageSec = -1
  #ageLine = ''
  #ttlSec = Number.NaN
  #hitAge = ''
  #hitLines = ''

  constructor(from: StoredAnswer) {
    super(from.fields, from.body, from.etag)
    this.status = from.status
    this.lastModified = from.lastModified
    this.modifiedMs = from.modifiedMs
    this.freshness = from.freshness
    this.variantKey = from.variantKey
    this.varyNames = from.varyNames
    this.tags = from.tags
  }

  /** Bytes that the store accounts for: strings are held as latin1. */
  get size(): number {
    let size = this.body.length + this.fields.length + this.variantKey.length + OVERHEAD_BYTES
    if (this.encoded !== undefined) {
      for (const one of this.encoded.values())
        if (one !== null) size += (one.body === this.body ? 0 : one.body.length) + one.fields.length
    }
    return size
  }

  /** Milliseconds of freshness left; 0 or less: stale. */
  freshMs(nowMs: number): number {
    const { bornMs, lifetimeMs } = this.freshness
    const leftMs = Math.min(bornMs + lifetimeMs, this.staleFromMs) - nowMs
    // A clock that was set back makes nothing fresh again, nor for longer: how old the answer is nobody knows then.
    const unsure = this.staleFromMs !== Number.POSITIVE_INFINITY || bornMs - nowMs > MAX_SKEW_MS
    return unsure ? Math.min(0, leftMs) : leftMs
  }

  ageMs(nowMs: number): number {
    return Math.max(0, nowMs - this.freshness.bornMs)
  }

  /** `Age: n CRLF` (RFC 9111 §5.1). */
  ageLine(nowMs: number): string {
    const sec = Math.floor(this.ageMs(nowMs) / 1000)
    if (sec !== this.#ageSec) {
      this.#ageSec = sec
      this.#ageLine = `Age: ${sec}\r\n`
    }
    return this.#ageLine
  }

  /** What is added to a fresh answer: its lines change once a second, not with each request. */
  hitLines(nowMs: number): string {
    const ttlSec = Math.floor(this.freshMs(nowMs) / 1000)
    const age = this.ageLine(nowMs)
    if (ttlSec !== this.#ttlSec || age !== this.#hitAge) {
      this.#ttlSec = ttlSec
      this.#hitAge = age
      this.#hitLines = `${age}Cache-Status: fluxor; hit; ttl=${ttlSec}\r\n`
    }
    return this.#hitLines
  }

  /** May be used for so long beyond its freshness. */
  isUsableStale(windowMs: number, nowMs: number): boolean {
    return windowMs > 0 && -this.freshMs(nowMs) < windowMs
  }

  get hasValidator(): boolean {
    return this.etag !== undefined || this.lastModified !== undefined
  }

  /** Until when it may be of any use. */
  get uselessFromMs(): number {
    if (this.hasValidator) return Number.POSITIVE_INFINITY
    const { bornMs, lifetimeMs, staleIfErrorMs, staleIfShedMs, staleWhileRevalidateMs } = this.freshness
    return bornMs + lifetimeMs + Math.max(staleIfErrorMs, staleIfShedMs, staleWhileRevalidateMs)
  }
}

/** @param lines what the origin sent; the body's memory becomes the entry's */
export function makeEntry(
  status: number,
  lines: readonly FieldLine[],
  body: Uint8Array,
  freshness: Freshness,
  variantKey: string,
  varyNames: readonly string[],
  responseMs: number,
): Entry {
  const etag = fieldOf(lines, 'etag')
  const lastModified = fieldOf(lines, 'last-modified')
  const modifiedMs = parseHttpDate(lastModified ?? fieldOf(lines, 'date') ?? '', responseMs)
  return new Entry({
    status,
    fields: storedFields(lines, freshness.dropFields, responseMs),
    body,
    etag: etag === undefined ? undefined : flat(etag),
    lastModified: lastModified === undefined ? undefined : flat(lastModified),
    modifiedMs: Number.isNaN(modifiedMs) && lastModified === undefined ? responseMs : modifiedMs,
    freshness,
    variantKey,
    varyNames,
    tags: tagsOf(lines).map(flat),
  })
}

/** The clocks of a fleet that shares answers differ by less. */
const MAX_SKEW_MS = 5000
const OVERHEAD_BYTES = 512

/** RFC 9111 §3.1: not stored. Age is told anew, length and framing follow from the body. */
const NEVER_STORED = new Set([
  'age', 'connection', 'content-length', 'keep-alive', 'proxy-authenticate', 'proxy-authentication-info',
  'proxy-authorization', 'proxy-connection', 'te', 'trailer', 'transfer-encoding', 'upgrade',
]) // biome-ignore format: a table

/** RFC 9110 §6.6.1: an answer that is stored has a Date; one without gets the time of its receipt. */
export function storedFields(lines: readonly FieldLine[], drop: readonly string[], responseMs: number): string {
  let out = ''
  let dated = false
  for (const { name, line } of lines) {
    if (NEVER_STORED.has(name) || drop.includes(name)) continue
    if (name === 'date') dated = true
    out += line
  }
  return dated ? out : `Date: ${formatHttpDate(responseMs)}\r\n${out}`
}

const MAX_TAGS = 100

/** Surrogate-Key (white space between) and Cache-Tag (commas between). */
export function tagsOf(lines: readonly FieldLine[]): string[] {
  const tags = new Set<string>()
  for (const { name, value } of lines) {
    if (name !== 'surrogate-key' && name !== 'cache-tag') continue
    for (const part of value.split(name === 'cache-tag' ? ',' : /[ \t]+/)) {
      const tag = trimOws(part)
      if (tag !== '' && tags.size < MAX_TAGS) tags.add(tag)
    }
  }
  return [...tags]
}

/** Fields of a 304 that must not replace stored ones: they describe the stored bytes (RFC 9111 §3.2). */
const KEPT_ON_304 = new Set(['content-encoding', 'content-range', 'content-length', 'content-md5'])

/** The stored lines with those of a 304 in place of the same names (§4.3.4). */
export function freshenedLines(stored: readonly FieldLine[], received: readonly FieldLine[]): FieldLine[] {
  const update = received.filter((line) => !KEPT_ON_304.has(line.name) && !NEVER_STORED.has(line.name))
  const names = new Set(update.map((line) => line.name))
  // Age is never stored, but counts when freshness is worked out anew.
  const age = received.filter((line) => line.name === 'age')
  return [...stored.filter((line) => !names.has(line.name)), ...update, ...age]
}

/** The answers under one key that differ by what Vary names, newest first. */
export class Resource {
  /** `scheme://authority/path?query` as keyed, without the parts that divide the store. */
  readonly url: string
  variants: Entry[] = []
  /** All tags under which the resource is indexed, also those of variants that have been replaced. */
  readonly tags = new Set<string>()

  constructor(url: string) {
    this.url = url
  }

  get size(): number {
    let size = this.url.length * 2
    for (const entry of this.variants) size += entry.size
    return size
  }
}
