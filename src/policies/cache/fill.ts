/**
 * One answer being fetched for all who wait for it. The fetch is an exchange of its own, so that it takes one admission
 * place whatever waits, and outlives the client that caused it. Seen from the upstream it is that exchange's client; the
 * real clients are its followers. It stores the answer while it passes it on, and falls apart at once into separate
 * requests when the answer turns out not to be for all.
 */

import {
  type BodySource,
  type ClientStream,
  Exchange,
  type ForwardedFields,
  type ListenerInfo,
  type ResponseSink,
} from '../../exchange.ts'
import { isNotModified } from '../../http/conditional.ts'
import { type FieldLine, fieldOf, splitFieldLines, withoutFields } from '../../http/field-lines.ts'
import { formatHttpDate, parseHttpDate } from '../../http/http-date.ts'
import { variantKey } from '../../http/vary.ts'
import { FIELD_ID, FIELD_NAME } from '../../http1/field-names.ts'
import { headFromText } from '../../http1/message-head.ts'
import { LocalReply } from '../../local-reply.ts'
import type { Cache } from './cache.ts'
import { BODY_FIELDS, type Entry, freshenedLines, makeEntry, storedFields, tagsOf } from './entry.ts'
import { assessFreshness, type Freshness, type FreshnessPolicy } from './freshness.ts'
import { namesUrl, type PurgeRequest } from './store.ts'

export type StoredOutcome = 'hit' | 'stale' | 'revalidated'

/** The cache of a route, as a fill sees it. */
export interface FillHost {
  readonly cache: Cache
  readonly policy: FreshnessPolicy
  /** Request fields by which the route tells answers apart whatever Vary says. */
  readonly varyNames: readonly string[]
  /** Admission and upstream for the fill's exchange. */
  forward(x: Exchange): void
  /** Begins an answer that is still on its way for this client. @returns where its body goes */
  begin(x: Exchange, source: BodySource, status: number, fields: string, length: number): ResponseSink
  refuse(x: Exchange, reply: LocalReply): void
  /** Answers from a stored answer. @param detail what Cache-Status says after the name of the cache */
  serve(x: Exchange, key: string, entry: Entry, nowMs: number, outcome: StoredOutcome, detail: string): void
  /** Looks again, from the start: the answer that was waited for is not for this client. */
  again(x: Exchange): void
}

export interface FillRequest {
  readonly key: string
  readonly url: string
  /** What is stored and has to be validated. */
  readonly stale: Entry | undefined
  /** The answers are divided by who asks; Authorization then says nothing new (RFC 9111 §3.5). */
  readonly divided: boolean
  /** `uri-miss`, `stale`, `request`, … (RFC 9211 §2.2) */
  readonly reason: string
  /** Nobody waits: stale-while-revalidate. */
  readonly background: boolean
  /** The client's own preconditions go along: this key's answers could not be shared so far. */
  readonly keepConditions: boolean
}

const WAITING = 0
const STREAMING = 1
/** The answer is of no interest any more: it is read to its end, so that the connection stays usable. */
const SWALLOWING = 2
const DONE = 3

const MAX_SWALLOWED_BYTES = 256 * 1024
const CONDITIONS = ['if-none-match', 'if-modified-since', 'if-range', 'range']

/** A client that waits for a fill, and the source of its sink. */
class Follower implements BodySource {
  readonly x: Exchange
  readonly fill: Fill
  sink: ResponseSink | null = null
  /** Index of the next piece. */
  at = 0
  blocked = false

  constructor(x: Exchange, fill: Fill) {
    this.x = x
    this.fill = fill
  }

  pause(): void {
    this.blocked = true
  }

  resume(): void {
    this.blocked = false
    this.fill.resumed(this)
  }

  cancel(): void {
    this.fill.leave(this)
  }
}

export class Fill implements ClientStream {
  readonly listener: ListenerInfo
  readonly remoteAddress: string
  readonly body = null
  forwarded: ForwardedFields | null
  readonly bytesSent = 0
  readonly key: string
  readonly url: string
  readonly x: Exchange
  source: BodySource | null = null
  headSent = false
  readonly #host: FillHost
  readonly #cache: Cache
  readonly #request: FillRequest
  readonly #authorized: boolean
  readonly #requestMs: number
  /** Known Vary names and the leader's values of them: who differs is not worth waiting for. */
  #names: readonly string[]
  #variant: string
  #stale: Entry | undefined
  #state = WAITING
  #followers: Follower[] = []
  #leader: Follower | undefined
  /** New requests may wait for this answer. */
  #open: boolean
  #keep = true
  #purgedTags: readonly string[] = []
  #status = 0
  #lines: FieldLine[] = []
  #fields = ''
  #length = -1
  #freshness: Freshness | undefined
  #collecting = false
  #collected = 0
  #whole: Buffer | undefined
  #pieces: Uint8Array[] = []
  /** Index of `#pieces[0]`: pieces that everybody has are let go when they are not collected. */
  #base = 0
  #received = 0
  #ended = false
  #trailers = ''

  constructor(host: FillHost, request: FillRequest, from: Exchange, open: boolean) {
    this.#host = host
    this.#cache = host.cache
    this.#request = request
    this.#open = open
    this.key = request.key
    this.url = request.url
    this.listener = from.client.listener
    this.remoteAddress = from.client.remoteAddress
    this.forwarded = from.client.forwarded
    this.#stale = request.stale
    this.#requestMs = host.cache.clock()
    this.#authorized = from.request.indexOf(FIELD_ID.authorization) >= 0
    this.#names = mergeNames(host.varyNames, request.stale?.varyNames ?? [])
    this.#variant = variantOf(this.#names, from)
    this.x = detachedExchange(from, this)
    this.#condition(request.stale)
  }

  get #sharing(): string {
    return sharingKey(this.key, this.#authorized)
  }

  /** Makes the request unconditional, or conditional on what is stored (RFC 9111 §4.3.1). */
  #condition(stale: Entry | undefined): void {
    const { x } = this
    if (stale === undefined && this.#request.keepConditions) return
    x.requestDrop = [...(x.requestDrop ?? []), ...CONDITIONS]
    if (stale?.etag !== undefined) x.requestFields += `If-None-Match: ${stale.etag}\r\n`
    if (stale?.lastModified !== undefined) x.requestFields += `If-Modified-Since: ${stale.lastModified}\r\n`
  }

  start(leader: Exchange | undefined): void {
    const { fills, second } = this.#cache
    const others = fills.get(this.key)
    if (others === undefined) fills.set(this.key, [this])
    else others.push(this)
    if (this.#stale !== undefined) this.#stale.revalidating = true
    if (leader !== undefined) this.#leader = this.#follow(leader)
    if (second === undefined || this.#stale !== undefined || this.#request.reason !== 'uri-miss') {
      this.#host.forward(this.x)
      return
    }
    const variantOfLeader = (names: readonly string[]) => variantOf(mergeNames(this.#host.varyNames, names), this.x)
    second.get(this.key, variantOfLeader).then((found) => {
      if (this.#state !== WAITING) return
      const nowMs = this.#cache.clock()
      // Purged while it was read: what the second level held then is what the purge meant.
      const purged = !this.#keep || found?.tags.some((tag) => this.#purgedTags.includes(tag))
      const entry = found === undefined || purged ? undefined : this.#cache.adopt(this.key, this.url, found)
      if (entry !== undefined && entry.freshMs(nowMs) > 0 && !entry.freshness.noCache) {
        this.#serveAll(entry, nowMs, 'hit', '')
        return
      }
      if (entry?.hasValidator) {
        this.#stale = entry
        this.#condition(entry)
      }
      this.#host.forward(this.x)
    })
  }

  /** True when the request waits for this answer from now on. */
  join(x: Exchange): boolean {
    if (!this.#open || x.request.indexOf(FIELD_ID.authorization) >= 0 !== this.#authorized) return false
    if (variantOf(this.#names, x) !== this.#variant) return false
    this.#cache.stats.collapsed++
    const follower = this.#follow(x)
    if (this.#state === STREAMING) this.#deliver(follower)
    return true
  }

  #follow(x: Exchange): Follower {
    const follower = new Follower(x, this)
    this.#followers.push(follower)
    x.onAbort = () => this.leave(follower)
    return follower
  }

  /** The client is gone. Without anybody left there is nothing to fetch for. */
  leave(follower: Follower): void {
    const at = this.#followers.indexOf(follower)
    if (at < 0) return
    this.#followers.splice(at, 1)
    if (this.#state === DONE) return
    if (this.#followers.length === 0 && !this.#request.background) this.cancel()
    else this.#demand()
  }

  /** Stops the fetch; whoever still waits sees a broken answer. */
  cancel(): void {
    if (this.#state === DONE) return
    const followers = this.#take()
    this.#finish('aborted')
    for (const { sink } of followers) sink?.abort()
  }

  /** What is being fetched is out of date before it has come: it must not be stored. */
  forget(): void {
    this.#keep = false
    this.#close()
  }

  /** A purge that may mean what is being fetched. Its tags are known only when it has come. */
  purge(request: PurgeRequest): void {
    if (namesUrl(request, this.url)) this.forget()
    else if (request.tags !== undefined && request.tags.length > 0) {
      this.#purgedTags = [...this.#purgedTags, ...request.tags]
      if (this.#state === STREAMING && this.#isPurged(this.#lines)) this.forget()
    }
  }

  #isPurged(lines: readonly FieldLine[]): boolean {
    return this.#purgedTags.length > 0 && tagsOf(lines).some((tag) => this.#purgedTags.includes(tag))
  }

  /** @param nowMs `performance.now()` */
  checkDeadline(nowMs: number): void {
    if (nowMs < this.x.deadlineMs || this.#state === DONE) return
    if (this.#state === WAITING) {
      this.x.abort()
      this.refused(new LocalReply('TIMEOUT'))
    } else this.cancel()
  }

  // What the upstream sends.

  informational(status: number, fields: string): void {
    if (this.#state === WAITING) for (const { x } of this.#followers) x.client.informational(status, fields)
  }

  head(status: number, fields: string, length: number): void {
    if (this.#state !== WAITING) return
    this.headSent = true
    const nowMs = this.#cache.clock()
    const lines = splitFieldLines(fields)
    const stale = this.#stale
    if (stale !== undefined) {
      if (status === 304 && stale.hasValidator) {
        this.#freshen(stale, lines, nowMs)
        return
      }
      if (isServerError(status) && stale.isUsableStale(stale.freshness.staleIfErrorMs, nowMs)) {
        this.#serveAll(stale, nowMs, 'stale', `fwd=stale; fwd-status=${status}; detail=stale-if-error`, SWALLOWING)
        return
      }
    }
    const verdict = assessFreshness(
      {
        status,
        lines,
        authorized: this.#authorized && !this.#request.divided,
        requestMs: this.#requestMs,
        responseMs: nowMs,
      },
      this.#host.policy,
    )
    this.#state = STREAMING
    this.#status = status
    this.#length = length
    this.#lines = lines
    if (this.#isPurged(lines)) this.forget()
    if (fieldOf(lines, 'date') === undefined) fields = `Date: ${formatHttpDate(nowMs)}\r\n${fields}`
    if (typeof verdict === 'string') this.#notForAll(fields, verdict, nowMs)
    else this.#forAll(fields, verdict, nowMs)
  }

  #notForAll(fields: string, why: string, nowMs: number): void {
    this.#close()
    // A failure says nothing about the resource; anything else does.
    if (!isServerError(this.#status)) {
      if (why !== 'status') this.#cache.markUnshared(this.#sharing, nowMs)
      if (this.#stale !== undefined) this.#cache.store.remove(this.key, this.#stale)
    }
    const others = this.#followers.filter((follower) => follower !== this.#leader)
    this.#followers = this.#followers.filter((follower) => follower === this.#leader)
    this.#fields = fields
    const leader = this.#leader
    if (leader !== undefined && this.#followers.length > 0) this.#giveHead(leader, fields, `; detail=${why}`)
    for (const { x } of others) {
      x.onAbort = null
      this.#host.again(x)
    }
  }

  #forAll(fields: string, freshness: Freshness, nowMs: number): void {
    const { varyNames } = this.#host
    this.#freshness = freshness
    this.#names = mergeNames(varyNames, freshness.varyNames)
    this.#variant = variantOf(this.#names, this.x)
    // An answer that has to be validated before each use cannot be given to those who only waited (§4).
    const reusable = !freshness.noCache && freshness.bornMs + freshness.lifetimeMs > nowMs
    const useful =
      reusable ||
      this.#hasValidator ||
      freshness.staleIfErrorMs + freshness.staleIfShedMs + freshness.staleWhileRevalidateMs > 0
    const { maxObjectBytes, collectingBytes, store } = this.#cache
    this.#collecting =
      this.#keep &&
      useful &&
      this.#length <= Math.min(maxObjectBytes, store.maxBytes) &&
      collectingBytes < store.maxBytes
    if (reusable) this.#cache.markShared(this.#sharing)
    else this.#cache.markUnshared(this.#sharing, nowMs)
    if (!this.#collecting || !reusable) this.#close()
    if (!this.#collecting && this.#stale !== undefined && this.#keep) this.#cache.store.remove(this.key, this.#stale)
    if (this.#collecting && this.#length > 0) this.#whole = Buffer.allocUnsafeSlow(this.#length)
    this.#fields = storedFields(this.#lines, freshness.dropFields, nowMs)
    const apart: Follower[] = []
    for (const follower of [...this.#followers]) {
      if (follower === this.#leader) this.#giveHead(follower, fields, this.#collecting ? '; stored' : '')
      else if (reusable && variantOf(this.#names, follower.x) === this.#variant) this.#deliver(follower)
      else apart.push(follower)
    }
    if (apart.length === 0) return
    this.#followers = this.#followers.filter((follower) => !apart.includes(follower))
    for (const { x } of apart) {
      x.onAbort = null
      this.#host.again(x)
    }
  }

  get #hasValidator(): boolean {
    return fieldOf(this.#lines, 'etag') !== undefined || fieldOf(this.#lines, 'last-modified') !== undefined
  }

  /** Head, and what has come of the body, to one who waited. */
  #deliver(follower: Follower): void {
    const ageSec = Math.floor(Math.max(0, this.#cache.clock() - this.#freshness!.bornMs) / 1000)
    this.#giveHead(follower, `${this.#fields}Age: ${ageSec}\r\n`, '; collapsed')
    this.#pump(follower)
  }

  #giveHead(follower: Follower, fields: string, detail: string): void {
    const { x } = follower
    const { reason } = this.#request
    const status = this.#status
    x.cacheStatus = 'miss'
    this.#cache.stats.misses++
    if (follower === this.#leader) copyUpstreamFacts(this.x, x)
    const line = `Cache-Status: fluxor; fwd=${reason}; fwd-status=${status}${detail}\r\n`
    if (this.x.deadlineMs === Number.POSITIVE_INFINITY) x.deadlineMs = Number.POSITIVE_INFINITY // an event stream
    if (status >= 200 && status < 300 && !this.#request.keepConditions && this.#unchangedFor(x)) {
      this.#drop(follower)
      const unchanged = withoutFields(fields, (name) => BODY_FIELDS.has(name)) + line
      this.#host.begin(x, follower, 304, unchanged, -1).end('')
      return
    }
    follower.sink = this.#host.begin(x, follower, status, fields + line, this.#length)
  }

  /** The request went out without the client's preconditions: they are looked at here. */
  #unchangedFor(x: Exchange): boolean {
    const ifNoneMatch = x.request.value(FIELD_ID['if-none-match'])
    const ifModifiedSince = x.request.value(FIELD_ID['if-modified-since'])
    if (ifNoneMatch === undefined && ifModifiedSince === undefined) return false
    const nowMs = this.#cache.clock()
    const lastModified = fieldOf(this.#lines, 'last-modified')
    const modifiedMs = parseHttpDate(lastModified ?? fieldOf(this.#lines, 'date') ?? '', nowMs)
    const stored = { etag: fieldOf(this.#lines, 'etag'), lastModified, modifiedMs }
    return isNotModified(ifNoneMatch, ifModifiedSince, stored, nowMs)
  }

  /** §4.3.4: the stored answer with the fields of the 304. */
  #freshen(stale: Entry, lines: FieldLine[], nowMs: number): void {
    const etag = fieldOf(lines, 'etag')
    if (fieldOf(lines, 'date') === undefined) lines.push(...splitFieldLines(`Date: ${formatHttpDate(nowMs)}\r\n`))
    const merged = freshenedLines(splitFieldLines(stale.fields), lines)
    const freshness = assessFreshness(
      {
        status: stale.status,
        lines: merged,
        authorized: this.#authorized && !this.#request.divided,
        requestMs: this.#requestMs,
        responseMs: nowMs,
      },
      this.#host.policy,
    )
    let entry = stale
    this.#cache.store.remove(this.key, stale)
    if (typeof freshness === 'string') {
      // From now on it is for the one who asked; what the 304 sets for them goes with it.
      const leader = this.#leader
      const others = this.#followers.filter((follower) => follower !== leader)
      this.#followers = this.#followers.filter((follower) => follower === leader)
      if (leader !== undefined)
        for (const { name, line } of lines) if (name === 'set-cookie') leader.x.responseFields += line
      this.#serveAll(stale, nowMs, 'revalidated', 'fwd=stale; fwd-status=304', SWALLOWING)
      for (const { x } of others) {
        x.onAbort = null
        this.#host.again(x)
      }
      return
    }
    // Another tag than the one asked about belongs to an answer that we do not have.
    if (etag === undefined || etag === stale.etag) {
      const names = mergeNames(this.#host.varyNames, freshness.varyNames)
      entry = makeEntry(stale.status, merged, stale.body, freshness, variantOf(names, this.x), names, nowMs)
      if (this.#keep && !this.#isPurged(merged)) this.#cache.keep(this.key, this.url, entry)
    }
    this.#serveAll(entry, nowMs, 'revalidated', 'fwd=stale; fwd-status=304', SWALLOWING)
  }

  #serveAll(
    entry: Entry,
    nowMs: number,
    outcome: StoredOutcome,
    detail: string,
    state: typeof DONE | typeof SWALLOWING = DONE,
  ): void {
    const followers = this.#take()
    this.#close()
    if (state === DONE) this.#finish('completed')
    else this.#state = state
    for (const follower of followers) {
      const { x } = follower
      x.onAbort = null
      if (follower === this.#leader) copyUpstreamFacts(this.x, x)
      if (variantOf(entry.varyNames, x) === entry.variantKey)
        this.#host.serve(x, this.key, entry, nowMs, outcome, detail)
      else this.#host.again(x)
    }
  }

  write(chunk: Uint8Array): boolean {
    if (this.#state === STREAMING && !this.#collecting && this.#followers.length === 0) this.#state = SWALLOWING
    if (this.#state === SWALLOWING) {
      this.#received += chunk.length
      if (this.#received > MAX_SWALLOWED_BYTES) this.cancel()
      return true
    }
    if (this.#state !== STREAMING) return true
    this.#received += chunk.length
    if (!this.#collecting && this.#pieces.length === 0 && this.#followers.length === 1) {
      const follower = this.#followers[0]!
      if (!follower.blocked) {
        if (!follower.sink!.write(chunk)) follower.blocked = true
        return !follower.blocked
      }
    }
    this.#pieces.push(this.#copy(chunk))
    if (this.#collecting) {
      this.#collected += chunk.length
      this.#cache.collectingBytes += chunk.length
      if (this.#received > this.#cache.maxObjectBytes) this.#stopCollecting()
    }
    for (const follower of [...this.#followers]) this.#pump(follower)
    this.#trim()
    return this.#collecting || !this.#followers.some((follower) => follower.blocked)
  }

  #copy(chunk: Uint8Array): Uint8Array {
    const whole = this.#whole
    if (whole === undefined || !this.#collecting || this.#received > whole.length) {
      const copy = Buffer.allocUnsafeSlow(chunk.length)
      copy.set(chunk)
      return copy
    }
    whole.set(chunk, this.#received - chunk.length)
    return whole.subarray(this.#received - chunk.length, this.#received)
  }

  #stopCollecting(): void {
    this.#cache.collectingBytes -= this.#collected
    this.#collected = 0
    this.#collecting = false
    this.#close()
    if (this.#stale !== undefined) this.#cache.store.remove(this.key, this.#stale)
  }

  #pump(follower: Follower): void {
    const { sink } = follower
    if (sink === null) return
    while (!follower.blocked && follower.at - this.#base < this.#pieces.length) {
      const piece = this.#pieces[follower.at - this.#base]!
      follower.at++
      if (!sink.write(piece)) follower.blocked = true
    }
    if (this.#ended && !follower.blocked) {
      this.#drop(follower)
      sink.end(this.#trailers)
    }
  }

  resumed(follower: Follower): void {
    if (follower.sink === null || !this.#followers.includes(follower)) return
    this.#pump(follower)
    if (this.#ended) return
    follower.sink.flush()
    this.#demand()
  }

  /** Lets go what everybody has, and asks for more when nobody is behind. */
  #demand(): void {
    if (this.#collecting || this.#state !== STREAMING) return
    this.#trim()
    if (!this.#followers.some((follower) => follower.blocked)) this.source?.resume()
  }

  #trim(): void {
    if (this.#collecting || this.#pieces.length === 0) return
    let least = Number.POSITIVE_INFINITY
    for (const follower of this.#followers) if (follower.at < least) least = follower.at
    const gone = Math.min(least - this.#base, this.#pieces.length)
    if (gone <= 0) return
    this.#pieces.splice(0, gone)
    this.#base += gone
  }

  flush(): void {
    for (const { sink, blocked } of this.#followers) if (!blocked) sink?.flush()
  }

  end(trailers: string): void {
    if (this.#state === DONE) return
    const streaming = this.#state === STREAMING
    if (streaming) {
      this.#ended = true
      this.#trailers = trailers
      if (this.#collecting && this.#keep && (this.#length < 0 || this.#received === this.#length)) this.#store()
    }
    // Out of the way first: whose turn comes now must find the stored answer, not this fill.
    this.#finish('completed')
    if (streaming) for (const follower of [...this.#followers]) this.#pump(follower)
  }

  #store(): void {
    const body = this.#whole ?? joined(this.#pieces, this.#received)
    const stale = this.#stale
    if (stale !== undefined) this.#cache.store.remove(this.key, stale)
    const entry = makeEntry(
      this.#status,
      this.#lines,
      body,
      this.#freshness!,
      this.#variant,
      this.#names,
      this.#cache.clock(),
    )
    this.#cache.keep(this.key, this.url, entry)
  }

  /** The upstream's answer was cut: nothing is stored, and nobody may take what they have for whole. */
  abort(): void {
    if (this.#state === WAITING) {
      this.refused(new LocalReply('UP_RESET'))
      return
    }
    this.cancel()
  }

  /** No answer could be had: refused by admission, or the upstream failed. */
  refused(reply: LocalReply): void {
    if (this.#state !== WAITING) {
      this.cancel()
      return
    }
    const nowMs = this.#cache.clock()
    const stale = this.#stale
    const shed = reply.code === 'BACKPRESSURE'
    if (stale !== undefined && reply.status >= 500) {
      const { staleIfErrorMs, staleIfShedMs } = stale.freshness
      if (stale.isUsableStale(shed ? staleIfShedMs : staleIfErrorMs, nowMs)) {
        const detail = shed ? 'hit; detail=stale-if-shed' : 'fwd=stale; detail=stale-if-error'
        this.#serveAll(stale, nowMs, 'stale', detail)
        return
      }
    }
    const followers = this.#take()
    this.#finish('aborted')
    for (const follower of followers) {
      const { x } = follower
      x.onAbort = null
      // A place that one could not have another may: the tiers differ. What is broken is broken for all.
      if (shed && follower !== this.#leader) this.#host.again(x)
      else {
        if (follower === this.#leader) copyUpstreamFacts(this.x, x)
        x.cacheStatus = 'miss'
        this.#cache.stats.misses++
        x.responseFields += `Cache-Status: fluxor; fwd=${this.#request.reason}\r\n`
        this.#host.refuse(x, reply)
      }
    }
  }

  respond(status: number, fields: string, body: Uint8Array | string): void {
    const bytes = typeof body === 'string' ? Buffer.from(body, 'latin1') : body
    this.head(status, fields, bytes.length)
    this.write(bytes)
    this.end('')
  }

  closeAfter(): void {}

  destroy(): void {
    this.cancel()
  }

  #drop(follower: Follower): void {
    follower.x.onAbort = null
    const at = this.#followers.indexOf(follower)
    if (at >= 0) this.#followers.splice(at, 1)
  }

  #take(): Follower[] {
    const followers = this.#followers
    this.#followers = []
    return followers
  }

  /** Nobody new may wait. */
  #close(): void {
    this.#open = false
  }

  #finish(outcome: 'completed' | 'aborted'): void {
    this.#state = DONE
    this.#close()
    if (this.#collected > 0) this.#cache.collectingBytes -= this.#collected
    this.#collected = 0
    if (this.#stale !== undefined) this.#stale.revalidating = false
    const others = this.#cache.fills.get(this.key)
    if (others !== undefined) {
      const at = others.indexOf(this)
      if (at >= 0) others.splice(at, 1)
      if (others.length === 0) this.#cache.fills.delete(this.key)
    }
    if (outcome === 'aborted') this.x.abort()
    this.x.finish(outcome)
  }
}

/**
 * Under what "cannot be shared" is remembered. Requests with Authorization apart: otherwise one header would let anybody
 * switch off the waiting for all.
 */
export function sharingKey(key: string, authorized: boolean): string {
  return authorized ? `${key}\0a` : key
}

/** The fill whose fetch this exchange is; undefined for a client's own exchange. */
export function fillOf(x: Exchange): Fill | undefined {
  return x.client instanceof Fill ? x.client : undefined
}

/** RFC 5861 §4. */
function isServerError(status: number): boolean {
  return status === 500 || (status >= 502 && status <= 504)
}

export function variantOf(names: readonly string[], x: Exchange): string {
  return names.length === 0 ? '' : variantKey(names, (name) => x.request.get(name))
}

function mergeNames(a: readonly string[], b: readonly string[]): readonly string[] {
  if (a.length === 0) return b
  if (b.length === 0) return a
  return [...new Set([...a, ...b])].sort()
}

function joined(pieces: readonly Uint8Array[], length: number): Uint8Array {
  if (pieces.length === 1) return pieces[0]!
  const body = Buffer.allocUnsafeSlow(length)
  let at = 0
  for (const piece of pieces) {
    body.set(piece, at)
    at += piece.length
  }
  return body
}

const KEEP_ALL = new Uint8Array(FIELD_NAME.length)

/** An exchange that asks what `from` asks, and does not end with it. Its head is a copy: heads are reused. */
function detachedExchange(from: Exchange, client: ClientStream): Exchange {
  const { request } = from
  const head = headFromText(
    'request',
    `GET ${request.target} HTTP/1.1\r\n${request.fieldLines(KEEP_ALL, false, null, null)}\r\n`,
  )
  const x = new Exchange(head, client, from.startedMs)
  x.path = from.path
  x.query = from.query
  x.authority = from.authority
  x.connectionNames = from.connectionNames
  x.peerTrusted = from.peerTrusted
  x.route = from.route
  x.requestId = from.requestId
  x.clientAddress = from.clientAddress
  x.identity = from.identity
  x.tier = from.tier
  x.requestFields = from.requestFields
  x.requestDrop = from.requestDrop
  x.deadlineMs = from.deadlineMs
  return x
}

/** What the log of the client's exchange says about the upstream. */
function copyUpstreamFacts(from: Exchange, to: Exchange): void {
  to.upstream = from.upstream
  to.endpoint = from.endpoint
  to.upstreamHeadMs = from.upstreamHeadMs
  to.attempts = from.attempts
  to.queuedMs = from.queuedMs
}
