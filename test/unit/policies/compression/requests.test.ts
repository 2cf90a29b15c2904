import { gzipSync } from 'node:zlib'
import { afterEach, describe, expect, it } from 'vitest'
import { type BodySink, Exchange, type RequestBodySource } from '../../../../src/exchange.ts'
import { headFromText } from '../../../../src/http1/message-head.ts'
import type { LocalReply } from '../../../../src/local-reply.ts'
import { compressionConfig, compressionRouteConfig } from '../../../../src/policies/compression/config.ts'
import { compileRequestDecoding } from '../../../../src/policies/compression/requests.ts'
import { FakeClient } from '../cache/harness.ts'

/** Each may hold one of the places that all share. */
const begun: Exchange[] = []
afterEach(() => {
  for (const x of begun.splice(0)) x.finish('completed')
})

const ON = { requests: { decompress: true } }

/** A request's body, which the test sends. */
class Body implements RequestBodySource {
  sink: BodySink | null = null
  readonly length = -1
  received = 0
  demand = ''
  pause(): void {
    this.demand = 'paused'
  }
  resume(): void {
    this.demand = 'resumed'
  }
  cancel(): void {
    this.demand = 'cancelled'
  }
}

class Client extends FakeClient {
  override readonly body: null
  constructor(body: Body | null) {
    super()
    this.body = body as null // the one without a body is what others test with
  }
}

function gate(route: unknown = ON, global: object = {}) {
  const refused: LocalReply[] = []
  const decode = compileRequestDecoding(
    compressionRouteConfig.parse(route),
    compressionConfig.parse(global),
    (_x, reply) => refused.push(reply),
  )
  const request = (coding: string | undefined, body: Body | null = new Body()) => {
    const client = new Client(body)
    const lines = coding === undefined ? '' : coding.replaceAll(/^/gm, 'Content-Encoding: ').replaceAll('\n', '\r\n')
    const head = `POST / HTTP/1.1\r\nHost: a\r\n${lines}${lines === '' ? '' : '\r\n'}\r\n`
    const x = new Exchange(headFromText('request', head), client, 0)
    client.x = x
    begun.push(x)
    const reply = decode?.(x)
    const decoded = x.client !== client
    return { x, client, body: body!, reply, decoded, said: reply && `${reply.status} ${reply.code} ${reply.reason}` }
  }
  return { request, refused, off: decode === undefined }
}

/** What an upstream gets. */
class Upstream implements BodySink {
  text = ''
  ended: string | undefined
  aborted = false
  write(chunk: Uint8Array): boolean {
    this.text += Buffer.from(chunk).toString()
    return true
  }
  end(trailers: string): void {
    this.ended = trailers
  }
  abort(): void {
    this.aborted = true
  }
  flush(): void {}
}

const until = async (done: () => boolean) => {
  while (!done()) await new Promise((resolve) => setImmediate(resolve))
}

describe('bodies of requests', () => {
  it.each([[true], [false], [{}], [{ requests: {} }], [{ requests: { maxBytes: '1MiB' } }]])(
    'stay as they are on a route with compression: %j',
    (route) => expect(gate(route).off).toBe(true),
  )

  it('are decoded where the global block says so, unless the route says no', () => {
    const global = { requests: { decompress: true } }
    expect(gate(true, global).off).toBe(false)
    expect(gate({ requests: { maxBytes: 5 } }, global).off).toBe(false)
    expect(gate({ requests: { decompress: false } }, global).off).toBe(true)
    expect(gate(false, global).off).toBe(true)
  })

  it.each(['gzip', 'GZIP', 'x-gzip', 'deflate', 'br', 'zstd', ' gzip ,', 'identity, gzip', 'gzip\nidentity'])(
    'in %j are decoded',
    (coding) => {
      const { x, reply, decoded } = gate().request(coding)
      expect([reply, decoded]).toEqual([undefined, true])
      expect(x.client.body!.length).toBe(-1)
      expect(x.requestDrop).toEqual(['content-encoding', 'content-md5', 'content-digest', 'repr-digest', 'digest'])
    },
  )

  it.each([[undefined], [''], ['identity'], [' , ']])('of the coding %j are left alone', (coding) => {
    const { x, reply, decoded } = gate().request(coding)
    expect([reply, decoded, x.requestDrop]).toEqual([undefined, false, null])
  })

  it('that are not there need no decoding', () => {
    expect(gate().request('gzip', null)).toMatchObject({ reply: undefined, decoded: false })
  })

  it.each(['compress', 'gzipped', '__proto__', 'constructor', 'g zip', '"gzip"', 'gzip;q=1'])(
    'in %j are refused with what is understood, or pass where that is wanted',
    (coding) => {
      const { reply, said, decoded } = gate().request(coding)
      expect([said, decoded]).toEqual(['415 CONTENT_CODING UNKNOWN_CODING', false])
      expect(reply!.fields).toBe('Accept-Encoding: gzip, deflate, br, zstd\r\n')
      const passing = gate({ requests: { decompress: true, others: 'pass' } }).request(coding)
      expect([passing.reply, passing.decoded, passing.x.requestDrop]).toEqual([undefined, false, null])
    },
  )

  it.each(['gzip, gzip', 'gzip\ngzip', 'br,gzip', 'gzip, other', 'gzip,,identity,zstd'])(
    'encoded as %j are refused, also where others pass',
    (coding) => {
      for (const others of ['refuse', 'pass']) {
        const { said, decoded } = gate({ requests: { decompress: true, others } }).request(coding)
        expect([said, decoded]).toEqual(['415 CONTENT_CODING STACKED_CODINGS', false])
      }
    },
  )

  it('reach the upstream decoded, with their trailers', async () => {
    const { x, body } = gate().request('gzip')
    const upstream = new Upstream()
    x.client.body!.sink = upstream
    x.client.body!.resume()
    expect([body.demand, body.sink !== null]).toEqual(['resumed', true])
    body.sink!.write(gzipSync('hello'))
    body.sink!.end('A: b\r\n')
    await until(() => upstream.ended !== undefined)
    expect([upstream.text, upstream.ended]).toEqual(['hello', 'A: b\r\n'])
  })

  it('that cannot be decoded end the work and are refused, without an end for the upstream', async () => {
    const { request, refused } = gate()
    const { x, body } = request('gzip')
    const upstream = new Upstream()
    let stopped = false
    x.onAbort = () => {
      stopped = true
    }
    x.client.body!.sink = upstream
    x.client.body!.resume()
    body.sink!.write(Buffer.from('no gzip at all'))
    await until(() => refused.length > 0)
    expect(refused).toMatchObject([{ code: 'CONTENT_CODING', status: 400, reason: 'BROKEN_CODING' }])
    expect([stopped, body.demand, upstream.ended, upstream.text]).toEqual([true, 'cancelled', undefined, ''])
  })

  it('that break off at the client break off at the upstream', () => {
    const { x, body } = gate().request('gzip')
    const upstream = new Upstream()
    x.client.body!.sink = upstream
    x.client.body!.resume()
    body.sink!.write(gzipSync('hello').subarray(0, 8))
    body.sink!.abort()
    expect([upstream.aborted, upstream.ended]).toEqual([true, undefined])
  })

  it('are decoded for so many at once; the next is told to come again, until one has ended', () => {
    const { request } = gate()
    const running = Array.from({ length: 256 }, () => request('gzip'))
    const refused = request('gzip')
    expect(refused.said).toBe('503 BACKPRESSURE DECODERS_FULL')
    expect(refused.reply!.fields).toContain('Retry-After')
    running.pop()!.x.finish('aborted')
    expect(request('gzip').decoded).toBe(true)
    expect(request('gzip').decoded).toBe(false)
  })
})
