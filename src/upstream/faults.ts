/** `faults`: delays and failures on purpose, in place of an upstream's own. Asked just before an exchange is sent there. */

import type { Exchange } from '../exchange.ts'
import { LocalReply } from '../local-reply.ts'
import type { FaultsConfig } from './config.ts'

/** Lets the exchange on by `next` or `refuse`, at once or after the delay. A client that leaves meanwhile ends it. */
export function compileFaults(
  { delay, abort, percent }: FaultsConfig,
  random: () => number = Math.random,
): (x: Exchange, next: (x: Exchange) => void, refuse: (x: Exchange, reply: LocalReply) => void) => void {
  const reply =
    abort === undefined
      ? undefined
      : new LocalReply('UP_CONNECT', { status: abort, reason: 'FAULT', detail: 'failed on purpose by "faults"' })
  return (x, next, refuse) => {
    if (percent < 100 && random() * 100 >= percent) {
      next(x)
      return
    }
    const go = () => (reply === undefined ? next(x) : refuse(x, reply))
    if (delay === 0) {
      go()
      return
    }
    const timer = setTimeout(() => {
      x.onAbort = null
      if (!x.finished) go()
    }, delay)
    x.onAbort = () => clearTimeout(timer)
  }
}
