/** Where the body of an answer goes that nobody reads: of a try that is made again elsewhere, of a mirrored request. */

import type { ResponseSink } from '../exchange.ts'

export const NOWHERE: ResponseSink = {
  source: null,
  head() {},
  informational() {},
  write: () => true,
  end() {},
  abort() {},
  flush() {},
}
