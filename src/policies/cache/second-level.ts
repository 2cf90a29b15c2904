/**
 * The level behind memory, shared by all threads and gateways of a fleet. Memory asks it on a miss and tells it what was
 * stored; a purge goes through it to everybody. It may be slow or down: every call settles by itself, within the
 * timeouts of its connection, and a failure is a miss.
 */

import type { StoredAnswer } from './entry.ts'
import type { PurgeRequest } from './store.ts'

export interface SecondLevel {
  /**
   * The stored answer for a key, in the variant that `variantOf` makes of its Vary names. Never rejects.
   * @returns undefined: none, or not reachable
   */
  get(key: string, variantOf: (varyNames: readonly string[]) => string): Promise<StoredAnswer | undefined>
  /** Stores in the background; `keepMs` bounds how long it can be of use. */
  set(key: string, url: string, answer: StoredAnswer, keepMs: number): void
  /**
   * Removes here and tells every other gateway; a soft purge removes here too, since only memory knows staleness. Never
   * rejects. @returns how many keys were removed here; undefined: not reachable, the others were not told
   */
  purge(request: PurgeRequest): Promise<number | undefined>
  /** Drops the URL whoever its answers are divided by, and tells every other gateway; in the background. */
  invalidate(url: string): void
  /** Resolves once purges of others arrive, at the latest after `timeoutMs`. For the start of the gateway. */
  ready?(timeoutMs: number): Promise<void>
  /** What other gateways purge. */
  onPurge(listener: (request: PurgeRequest) => void): void
  close(): void
}
