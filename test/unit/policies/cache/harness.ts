/** Drives the cache of a route without sockets: clients and an origin that the test answers for, on a clock of its own. */

import { type BodySource, type ClientStream, Exchange } from '../../../../src/exchange.ts'
import { getField } from '../../../../src/http/field-lines.ts'
import { formatHttpDate } from '../../../../src/http/http-date.ts'
import { headFromText } from '../../../../src/http1/message-head.ts'
import { LocalReply } from '../../../../src/local-reply.ts'
import type { BodyEncoder } from '../../../../src/policies/cache/body-encoder.ts'
import { type Cache, createCache } from '../../../../src/policies/cache/cache.ts'
import { cacheConfig, cacheRouteConfig } from '../../../../src/policies/cache/config.ts'
import { fillOf } from '../../../../src/policies/cache/fill.ts'
import { compileCache, type RouteCache } from '../../../../src/policies/cache/policy.ts'
import type { SecondLevel } from '../../../../src/policies/cache/second-level.ts'

export class FakeClient implements ClientStream {
  readonly listener = { name: 'test', secure: false, port: 80 }
  readonly remoteAddress = '192.0.2.1'
  forwarded = null
  readonly body = null
  readonly bytesSent = 0
  source: BodySource | null = null
  x!: Exchange
  status = 0
  fields = ''
  length = -2
  text = ''
  interim: number[] = []
  ended = false
  aborted = false
  /** write() answers false, as a slow client's does. */
  slow = false
  /** Pieces written so far. */
  writes = 0

  get headSent(): boolean {
    return this.status !== 0
  }
  informational(status: number): void {
    this.interim.push(status)
  }
  head(status: number, fields: string, length: number): void {
    if (this.status !== 0) throw new Error('a second head')
    this.status = status
    this.fields = fields
    this.length = length
  }
  write(chunk: Uint8Array): boolean {
    if (this.ended || this.status === 0) throw new Error('a body out of turn')
    this.text += Buffer.from(chunk).toString('latin1')
    this.writes++
    return !this.slow
  }
  end(): void {
    if (this.ended) throw new Error('a second end')
    this.ended = true
    this.x.finish('completed')
  }
  flush(): void {}
  abort(): void {
    this.aborted = true
    this.x.finish('aborted')
  }
  respond(status: number, fields: string, body: Uint8Array | string): void {
    this.head(status, fields, body.length)
    if (body.length > 0) this.write(typeof body === 'string' ? Buffer.from(body, 'latin1') : body)
    this.end()
  }
  destroy(): void {
    this.abort()
  }
  closeAfter(): void {}
  /** The client goes away, as its listener tells it. */
  leave(): void {
    this.x.abort()
    this.x.finish('aborted')
  }
  get(name: string): string | undefined {
    return getField(this.fields, name)
  }
}

/** A request as the origin would get it. */
export class Forwarded {
  readonly x: Exchange
  aborted = false
  constructor(x: Exchange) {
    this.x = x
    x.onAbort = () => {
      this.aborted = true
    }
  }
  /** A field of the request as it leaves: what was added replaces the client's, what was dropped is gone. */
  get(name: string): string | undefined {
    const added = getField(this.x.requestFields, name)
    if (added !== undefined) return added
    return this.x.requestDrop?.includes(name) ? undefined : this.x.request.get(name)
  }
  head(status: number, fields: Record<string, string | string[]>, length = -1): this {
    let lines = ''
    for (const [name, value] of Object.entries(fields)) {
      for (const one of Array.isArray(value) ? value : [value]) lines += `${name}: ${one}\r\n`
    }
    this.x.client.head(status, lines, length)
    return this
  }
  body(text: string): boolean {
    const memory = Buffer.from(text, 'latin1')
    const wanted = this.x.client.write(memory)
    memory.fill(0x21) // the chunk's memory is used again
    return wanted
  }
  reply(status: number, fields: Record<string, string | string[]>, body = ''): void {
    this.head(status, fields, body.length)
    if (body !== '') this.body(body)
    this.x.client.end('')
  }
}

export interface Ask {
  method?: string
  path?: string
  fields?: Record<string, string | string[]>
  subject?: string
  claims?: Record<string, unknown>
  slow?: boolean
}

export interface BenchOptions {
  identified?: boolean
  encoder?: BodyEncoder
  responseDrop?: ReadonlySet<string>
  second?: SecondLevel
  maxObjectBytes?: number
  maxBytes?: number
  cache?: Cache
}

export class Bench {
  nowMs = Date.UTC(2026, 0, 1, 12)
  readonly cache: Cache
  readonly route: RouteCache
  /** What reached the origin, in order. */
  readonly origin: Forwarded[] = []
  /** Set: whatever would go to the origin is refused with this instead. */
  refuseWith: LocalReply | undefined

  constructor(config: Record<string, unknown> = {}, options: BenchOptions = {}) {
    this.cache =
      options.cache ??
      createCache(
        cacheConfig.parse({
          memory: { maxBytes: options.maxBytes ?? 1_000_000 },
          maxObjectBytes: options.maxObjectBytes ?? 100_000,
        }),
        { clock: () => this.nowMs, second: options.second },
      )
    this.route = compileCache(cacheRouteConfig.parse(config), this.cache, {
      identified: options.identified ?? false,
      encoder: options.encoder,
      host: {
        forward: (x) => this.#forward(x),
        refuse: (x, reply) => this.#refuse(x, reply),
        ownFields: (x) => x.responseFields,
        responseDrop: options.responseDrop ?? null,
      },
    })
  }

  get date(): string {
    return formatHttpDate(this.nowMs)
  }

  pass(seconds: number): void {
    this.nowMs += seconds * 1000
  }

  ask({ method = 'GET', path = '/', fields = {}, subject, claims, slow = false }: Ask = {}): FakeClient {
    let lines = 'Host: example.com\r\n'
    for (const [name, value] of Object.entries(fields)) {
      for (const one of Array.isArray(value) ? value : [value]) lines += `${name}: ${one}\r\n`
    }
    const client = new FakeClient()
    client.slow = slow
    const x = new Exchange(headFromText('request', `${method} ${path} HTTP/1.1\r\n${lines}\r\n`), client, 0)
    client.x = x
    const query = path.indexOf('?')
    x.path = query < 0 ? path : path.slice(0, query)
    x.query = query < 0 ? '' : path.slice(query)
    x.authority = 'example.com'
    if (subject !== undefined) x.identity = { subject, claims: claims ?? {} }
    const verdict = this.route.gate(x)
    if (verdict instanceof LocalReply) this.#refuse(x, verdict)
    else if (verdict === 'pass') this.#forward(x)
    return client
  }

  /** The last request that reached the origin. */
  get last(): Forwarded {
    return this.origin.at(-1)!
  }

  /** Asks, and lets the origin answer at once if the request reaches it. */
  fetch(ask: Ask, status: number, fields: Record<string, string | string[]>, body = 'body'): FakeClient {
    const before = this.origin.length
    const client = this.ask(ask)
    if (this.origin.length > before) this.last.reply(status, { Date: this.date, ...fields }, body)
    return client
  }

  #forward(x: Exchange): void {
    if (this.refuseWith !== undefined) {
      this.#refuse(x, this.refuseWith)
      return
    }
    if (fillOf(x) === undefined) {
      const { client } = x
      const passed = this.route.passed
      const head = client.head.bind(client)
      client.head = (status, fields, length) => {
        passed(x, status, fields)
        head(status, fields + x.responseFields, length)
      }
    }
    this.origin.push(new Forwarded(x))
  }

  #refuse(x: Exchange, reply: LocalReply): void {
    const fill = fillOf(x)
    if (fill !== undefined) {
      fill.refused(reply)
      return
    }
    x.client.respond(reply.status, reply.fields + x.responseFields, reply.code)
  }
}
