/**
 * What the caches of one process tell each other: each thread has a memory of its own, and what one of them drops is stale
 * in all. URLs that unsafe requests have changed travel together once a turn; a purge is answered by every thread.
 */

import { BroadcastChannel } from 'node:worker_threads'
import type { PurgeRequest } from './store.ts'

/** A thread that has not answered by then is busy or gone: its purge still happens, only uncounted. */
const ANSWER_MS = 1000

export interface SiblingsHost {
  purge(request: PurgeRequest): number
  invalidateHere(url: string): void
}

type Message =
  | { readonly urls: readonly string[] }
  | { readonly ask: string; readonly request: PurgeRequest }
  | { readonly answer: string; readonly count: number }

export class Siblings {
  readonly #host: SiblingsHost
  readonly #others: number
  readonly #channel: BroadcastChannel
  readonly #id: string
  readonly #asked = new Map<string, { left: number; count: number; done: () => void }>()
  #asks = 0
  #changed = new Set<string>()

  /** @param thread this one of `threads` */
  constructor(host: SiblingsHost, thread: number, threads: number) {
    this.#host = host
    this.#others = threads - 1
    this.#id = `${thread}:`
    this.#channel = new BroadcastChannel('fluxor-gateway-cache')
    this.#channel.onmessage = (event) => this.#received((event as { data: Message }).data)
    this.#channel.unref()
  }

  /** How many answers the other threads have removed. */
  purge(request: PurgeRequest): Promise<number> {
    const ask = `${this.#id}${this.#asks++}`
    return new Promise((resolve) => {
      const asked = {
        left: this.#others,
        count: 0,
        done: () => {
          clearTimeout(timer)
          this.#asked.delete(ask)
          resolve(asked.count)
        },
      }
      const timer = setTimeout(asked.done, ANSWER_MS)
      this.#asked.set(ask, asked)
      this.#send({ ask, request })
    })
  }

  invalidate(url: string): void {
    if (this.#changed.size === 0) {
      setImmediate(() => {
        const urls = [...this.#changed]
        this.#changed = new Set()
        this.#send({ urls })
      })
    }
    this.#changed.add(url)
  }

  close(): void {
    this.#channel.close()
    for (const { done } of [...this.#asked.values()]) done()
  }

  #send(message: Message): void {
    try {
      this.#channel.postMessage(message)
    } catch {
      // Closed meanwhile: there is nothing left to drop.
    }
  }

  #received(message: Message): void {
    if ('urls' in message) for (const url of message.urls) this.#host.invalidateHere(url)
    else if ('ask' in message) this.#send({ answer: message.ask, count: this.#host.purge(message.request) })
    else {
      const asked = this.#asked.get(message.answer)
      if (asked === undefined) return
      asked.count += message.count
      if (--asked.left === 0) asked.done()
    }
  }
}
