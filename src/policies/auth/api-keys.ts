/**
 * API keys by their SHA-256. The keys themselves are never stored, so neither the config nor a dump of memory gives one
 * away. A mechanism: it knows no HTTP.
 */

import { hash, timingSafeEqual } from 'node:crypto'
import type { Identity } from '../../exchange.ts'
import type { ApiKeyEntry } from './config.ts'

export interface ApiKey {
  readonly identity: Identity
  /** Wall clock milliseconds from which it is refused; Infinity: never. */
  readonly expiresMs: number
  /** Field lines set upstream. */
  readonly fields: string
  /** Lower-case names of these. */
  readonly names: readonly string[]
  readonly digest: Buffer
}

const NO_CLAIMS: Identity['claims'] = Object.freeze(Object.create(null))
/** Longer ones are not hashed. */
const MAX_KEY_LENGTH = 1024

export class ApiKeyTable {
  #byDigest = new Map<string, ApiKey>()
  #headerNames: ReadonlySet<string> = new Set()
  readonly #scratch = Buffer.alloc(32)

  /**
   * Returns what takes it back.
   * @throws when one key stands twice: which entry counts must not depend on the order of a file
   */
  replace(entries: readonly ApiKeyEntry[]): () => void {
    const byDigest = new Map<string, ApiKey>()
    const headerNames = new Set<string>()
    for (const { name, sha256, tier, expires, headers } of entries) {
      if (byDigest.has(sha256)) throw new Error(`the key ${sha256.slice(0, 8)}… of ${name} stands here twice`)
      let fields = ''
      for (const [header, value] of Object.entries(headers)) {
        fields += `${header}: ${value}\r\n`
        headerNames.add(header)
      }
      const identity: Identity = Object.freeze({ subject: name, claims: NO_CLAIMS, apiKey: name, tier })
      const names = Object.keys(headers)
      const digest = Buffer.from(sha256, 'hex')
      byDigest.set(sha256, { identity, expiresMs: expires ?? Infinity, fields, names, digest })
    }
    const [keysBefore, namesBefore] = [this.#byDigest, this.#headerNames]
    this.#byDigest = byDigest
    this.#headerNames = headerNames
    return () => {
      this.#byDigest = keysBefore
      this.#headerNames = namesBefore
    }
  }

  /** Lower-case names of the headers that keys set. */
  get headerNames(): ReadonlySet<string> {
    return this.#headerNames
  }

  get size(): number {
    return this.#byDigest.size
  }

  /**
   * Undefined when unknown. The map is asked for the digest, so its timing tells about a hash that nobody can steer; the
   * digests are then compared in constant time all the same.
   */
  find(key: string): ApiKey | undefined {
    if (key.length > MAX_KEY_LENGTH) return undefined
    const digest = hash('sha256', key, 'hex')
    const found = this.#byDigest.get(digest)
    if (found === undefined) return undefined
    this.#scratch.write(digest, 'hex')
    return timingSafeEqual(found.digest, this.#scratch) ? found : undefined
  }
}
