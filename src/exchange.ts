/**
 * One request and its answer, from the last byte of the request head until the last byte of the answer has been
 * handed to the kernel. Listeners make exchanges, the pipeline decides on them, upstreams serve them. It is the one
 * meeting point: policies know exchanges, never sockets.
 *
 * `finish()` runs exactly once however an exchange ends; whatever a part took (a place, a connection, a timer) is given
 * back by a `onFinish` hook.
 */

import type { MessageHead } from './http1/message-head.ts'
import type { LocalReply } from './local-reply.ts'
import type { Route } from './snapshot.ts'

/** How an exchange ended. `completed`: an answer was sent whole, whatever its status. */
export type Outcome = 'completed' | 'aborted'

/** Gets the exchange too, so that one function made at load serves every request. */
export type FinishHook = (outcome: Outcome, x: Exchange) => void

/** Hooks of one exchange, the newest first. */
interface Hook {
  readonly run: FinishHook
  readonly before: Hook | null
}

/** The result of identification; what limits, tiers, cache keys and logs read. */
export interface Identity {
  /** Who, stable over tokens and rotated keys: the JWT's `sub`, or the API key's consumer name. */
  readonly subject: string
  /** Verified claims, null prototype. Empty for API keys alone. */
  readonly claims: Readonly<Record<string, unknown>>
  /** The consumer name of the API key, when one was given. */
  readonly apiKey?: string
  /** Tier by key or by `tierClaim`. */
  readonly tier?: string
}

/**
 * Takes a body piece by piece. The memory of a chunk belongs to the caller again as soon as `write` returns: a sink
 * copies what it keeps. After `write` returned false the source pauses until the `BodySource.resume()` that the sink calls.
 */
export interface BodySink {
  write(chunk: Uint8Array): boolean
  /** @param trailers field lines, each ending in CRLF, or '' */
  end(trailers: string): void
  /** The body was cut: its length or its last chunk never came. */
  abort(): void
  /** The source has no more for now: what was held back to merge writes leaves. */
  flush(): void
}

/** Gives a body to the sink that was attached to it. Pieces come only after `resume()`. */
export interface BodySource {
  pause(): void
  resume(): void
  /** Nobody wants the rest. */
  cancel(): void
}

/** Takes an answer: one head, then the body. The client's side of an exchange, or a stage before it (cache, compression). */
export interface ResponseSink extends BodySink {
  /**
   * @param fields end-to-end field lines, each ending in CRLF, without framing and hop-by-hop fields
   * @param length body bytes as in Content-Length; -1: not known, the framing is the sink's matter
   */
  head(status: number, fields: string, length: number): void
  /** @param lasting nobody changes this memory any more: it is written from where it lies, without a copy */
  write(chunk: Uint8Array, lasting?: boolean): boolean
  /** An interim answer (1xx but 101), to be passed on at once. */
  informational(status: number, fields: string): void
  /** Where this sink's demand goes: the upstream's body, told when the client is slow or gone. */
  source: BodySource | null
}

/** The body of a request as its listener offers it. */
export interface RequestBodySource extends BodySource {
  sink: BodySink | null
  /** Content-Length, or -1: not known in advance. */
  readonly length: number
  /** Body bytes read so far. */
  readonly received: number
}

/** The other end of an upgraded connection: takes what the client sends. */
export interface Tunnel extends BodySink {
  /** The gateway stops: says goodbye in the tunnel's own words, both ways. */
  goAway(): void
}

export interface ListenerInfo {
  readonly name: string
  readonly secure: boolean
  /** The port that clients see, for X-Forwarded-Port. */
  readonly port: number
  /** Field lines about the client's certificate, added to each request; absent or '' without one. */
  readonly clientFields?: string
  /** Port of the client in a PROXY header. */
  readonly clientPort?: number
}

/** What a proxy says of a client's connection, in field lines that depend on nothing else of a request. */
export interface ForwardedFields {
  readonly authority: string
  readonly fields: string
}

/** What the exchange's listener must offer. One implementation for HTTP/1.1, one for HTTP/2. */
export interface ClientStream extends ResponseSink {
  readonly listener: ListenerInfo
  /** The peer of the socket, or what a trusted PROXY header said; IPv4-mapped IPv6 is unmapped. */
  readonly remoteAddress: string
  /** Port of that peer, and the address that it came to, where they are known. */
  readonly remotePort?: number
  readonly localAddress?: string
  /** Kept by whoever writes forwarded requests: the lines of the connection's last request, which the next one may share. */
  forwarded: ForwardedFields | null
  /** Null when the request has no body. Attach the sink first, then `resume()`. */
  readonly body: RequestBodySource | null
  /** Bytes of the answer handed to the kernel so far, head included. */
  readonly bytesSent: number
  /** A whole answer at once: head, body and end leave in one write. A string holds latin1 bytes. */
  respond(status: number, fields: string, body: Uint8Array | string): void
  /** True once a final head was sent: no local reply can be written any more. */
  readonly headSent: boolean
  /** Takes a refusal in place of an answer: a fetch of the cache's own, whose readers may be helped otherwise. */
  refused?(reply: LocalReply): void
  /** Ends the client's side abruptly: the one honest sign of a broken answer. */
  destroy(): void
  /** The connection closes after this answer. */
  closeAfter(): void
  /**
   * Answers 101 to a WebSocket handshake; what the client sends from then on goes to the tunnel, what is written here
   * goes to the client as it is. Absent where it cannot be (HTTP/2, the cache's own requests).
   */
  upgrade?(fields: string, tunnel: Tunnel): void
}

export class Exchange {
  readonly request: MessageHead
  readonly client: ClientStream
  /** `performance.now()` when the head was complete. */
  readonly startedMs: number
  /** The normalised path: what is matched, authorised and forwarded. */
  path = '/'
  /** With its `?`, or ''. Never touched. */
  query = ''
  /** As to forward in Host; '' in HTTP/1.0 without one. */
  authority = ''
  /** Lower-case names that the request's Connection field lists beyond close and keep-alive. */
  connectionNames: string[] | null = null
  route: Route | undefined = undefined
  /** From X-Request-ID when well-formed, else made. */
  requestId = ''
  /** The client's address after the trusted-proxies walk. */
  clientAddress = ''
  /** The peer is one of `trustedProxies`: what it says of the client is believed and passed on. */
  peerTrusted = false
  identity: Identity | undefined = undefined
  /** The admission tier; '' without tiers. */
  tier = ''
  /** Field lines to add to the request that goes upstream, in place of the client's own of these names. */
  requestFields = ''
  /** Lower-case names of client fields that must not go upstream. */
  requestDrop: string[] | null = null
  /** Field lines to add to whatever answer is sent (also to local replies). */
  responseFields = ''
  /** Outcome of the cache for Cache-Status and logs: hit, miss, stale, bypass, revalidated; '' without a cache. */
  cacheStatus = ''
  /** Set when the gateway answered itself with a refusal. */
  reply: LocalReply | undefined = undefined
  status = 0
  /** `performance.now()` at which the exchange is given up; Infinity: never. Checked by the listener's tick. */
  deadlineMs = Number.POSITIVE_INFINITY
  /** Milliseconds waited for an admission place. */
  queuedMs = 0
  /** Upstream and endpoint that answered, for the log. */
  upstream = ''
  endpoint = ''
  /** `performance.now()` when the upstream's head was complete; 0: never asked. */
  upstreamHeadMs = 0
  /** Requests sent upstream, retries included. */
  attempts = 0
  #outcome: Outcome | undefined = undefined
  #hooks: Hook | null = null
  /** Set while something waits: called once when the client goes away. */
  #onAbort: (() => void) | null = null

  constructor(request: MessageHead, client: ClientStream, nowMs: number) {
    this.request = request
    this.client = client
    this.startedMs = nowMs
  }

  get finished(): boolean {
    return this.#outcome !== undefined
  }

  /**
   * Runs `hook` when the exchange ends; at once when it has ended already, so that nothing taken late is kept.
   * Hooks run in reverse order, the last taken is the first given back.
   */
  onFinish(hook: FinishHook): void {
    if (this.#outcome !== undefined) hook(this.#outcome, this)
    else this.#hooks = { run: hook, before: this.#hooks }
  }

  /** What to do when the client leaves before the answer is complete; the newest one counts, null clears it. */
  set onAbort(callback: (() => void) | null) {
    this.#onAbort = callback
  }

  /** The client is gone (or its time is up): stop the work. The listener calls `finish('aborted')` right after. */
  abort(): void {
    const callback = this.#onAbort
    this.#onAbort = null
    callback?.()
  }

  /** Every hook runs, even when one throws; the first error is thrown then. */
  finish(outcome: Outcome): void {
    if (this.#outcome !== undefined) return
    this.#outcome = outcome
    this.#onAbort = null
    let hook = this.#hooks
    this.#hooks = null
    let failure: { error: unknown } | undefined
    for (; hook !== null; hook = hook.before) {
      try {
        hook.run(outcome, this)
      } catch (error) {
        failure ??= { error }
      }
    }
    if (failure !== undefined) throw failure.error
  }
}
