/**
 * What a service may send, over real sockets, against Node's own client: an answer that the gateway passes on as whole is
 * the one that Node reads, byte for byte; all else is a 502 or a cut connection, and the gateway goes on. Not among the
 * cases: what we take and Node refuses, a list of equal lengths (RFC 9112 §6.3), white space before a colon, which a proxy is to
 * remove (§5.1), and fields of framing among trailers, which are left out.
 */

import { once } from 'node:events'
import http from 'node:http'
import net from 'node:net'
import fc from 'fast-check'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { expectAtRest, measure } from '../support/at-rest.ts'
import { startGateway, type TestGateway } from '../support/gateway.ts'
import { send } from '../support/raw-client.ts'
import { FUZZ_TIMEOUT_MS, parameters } from './runs.ts'

let service: net.Server
let gateway: TestGateway
const answers = new Map<string, { pieces: Buffer[] }>()

beforeAll(async () => {
  service = net.createServer((socket) => {
    socket.on('error', () => {})
    socket.on('data', async (chunk) => {
      const { pieces } = answers.get(/^GET \/(\d+)/.exec(chunk.toString('latin1'))?.[1] ?? '')!
      for (const piece of pieces) {
        if (socket.destroyed) return
        socket.write(piece)
        await new Promise((resolve) => setImmediate(resolve))
      }
      socket.end()
    })
  })
  service.listen(0, '127.0.0.1')
  await once(service, 'listening')
  gateway = await startGateway({
    upstreams: { app: { endpoints: [{ url: `http://127.0.0.1:${servicePort()}` }], retry: { attempts: 0 } } },
    routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
  })
})
afterAll(async () => {
  await gateway?.close()
  service?.close()
})

const servicePort = () => (service.address() as net.AddressInfo).port
const oneOf = <T>(...values: T[]) => fc.constantFrom(...values)
const usually = <T>(usual: T, ...others: T[]) =>
  fc.oneof({ weight: 6, arbitrary: fc.constant(usual) }, { weight: 1, arbitrary: oneOf(...others) })

const data = fc.string({ unit: oneOf(...'abc\r\n0 :'), maxLength: 30 })
const chunk = fc
  .tuple(data, usually('', ';x', ';x=y', ' ', ';x\ny', ';x="\r\n"'), usually('\r\n', '\n', '\r', ''), usually(0, 1, -1))
  .map(([text, extension, end, off]) => {
    const size = Math.max(0, text.length + (text.length > 0 ? off : 0))
    return size === 0 ? '' : `${size.toString(16)}${extension}${end}${text}\r\n`
  })
const body = fc
  .tuple(
    fc.array(chunk, { maxLength: 4 }),
    usually('0\r\n', '0\n', '00\r\n', '', '-0\r\n', '0;x\r\n'),
    usually('', 'X: y\r\n', 'X : y\r\n'),
    usually('\r\n', '', '\n', 'x\r\n'),
  )
  .map((parts) => parts.flat().join(''))
const framed = fc.oneof(
  body.map((text) => ['Transfer-Encoding: chunked', text] as const),
  data.map((text) => [`Content-Length: ${text.length}`, text] as const),
  fc.tuple(fc.nat(40), data).map(([length, text]) => [`Content-Length: ${length}`, text] as const),
  data.map((text) => ['X-None: 1', text] as const),
  fc
    .tuple(
      oneOf(
        'Transfer-Encoding: gzip, chunked',
        'Transfer-Encoding: chunked, chunked',
        'Content-Length: +3',
        'Content-Length: 3\r\nTransfer-Encoding: chunked',
        'Content-Length: 3\r\nContent-Length: 4',
        'Content-Length: 0x3',
        'Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked',
      ),
      body,
    )
    .map(([line, text]) => [line, text] as const),
)
const status = usually(
  'HTTP/1.1 200 OK',
  'HTTP/1.1 204 No Content',
  'HTTP/1.1 304 X',
  'HTTP/1.0 200 OK',
  'HTTP/1.1 404 ',
  'HTTP/1.1 500',
  'HTTP/1.1 99 X',
  'HTTP/2 200 OK',
  'http/1.1 200 OK',
)
const field = usually('X-A: 1', ' X-A: 1', 'X-A: a\rb', 'X-A: a\nb', 'X-A: a\0b', 'X(A): 1', 'X-A', ': 1', 'X-A: \xff')
const answer = fc
  .tuple(
    usually('', 'HTTP/1.1 103 X\r\nLink: <x>\r\n\r\n', 'HTTP/1.1 100 Continue\r\n\r\n', '\r\n'),
    status,
    field,
    framed,
    usually('', 'surplus', 'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil'),
  )
  .map(([interim, start, line, [framing, text], surplus]) => ({
    text: `${interim}${start}\r\n${line}\r\n${framing}\r\n\r\n${text}${surplus}`,
    sound: surplus === '' && !/^Content-Length/.test(framing),
  }))

interface Read {
  status: number
  body: string
  /** Read to its end. */
  whole: boolean
}

function byNode(path: string): Promise<Read> {
  return new Promise((resolve) => {
    const failed = () => resolve({ status: 0, body: '', whole: false })
    const request = http.get({ port: servicePort(), host: '127.0.0.1', path, agent: false }, (response) => {
      const chunks: Buffer[] = []
      response.on('data', (piece: Buffer) => chunks.push(piece))
      response.on('error', () => {})
      response.on('close', () =>
        resolve({
          status: response.statusCode!,
          body: Buffer.concat(chunks).toString('latin1'),
          whole: response.complete,
        }),
      )
    })
    request.on('error', failed)
    request.on('upgrade', (_response, socket) => {
      socket.destroy()
      failed()
    })
  })
}

it('is passed on as it is, or not as a whole answer', { timeout: FUZZ_TIMEOUT_MS }, async () => {
  let n = 0
  let passed = 0
  await fc.assert(
    fc.asyncProperty(answer, fc.array(fc.nat(200), { maxLength: 4 }), async ({ text, sound }, cuts) => {
      const bytes = Buffer.from(text, 'latin1')
      const at = [0, ...cuts.filter((cut) => cut < bytes.length).toSorted((a, b) => a - b), bytes.length]
      const path = `${n++}`
      answers.set(path, { pieces: at.slice(1).map((end, i) => bytes.subarray(at[i], end)) })
      const theirs = await byNode(`/${path}`)
      const request = `GET /${path} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n`
      const ours = await send(gateway.port, request)
      answers.delete(path)
      const [first, ...more] = ours.responses
      expect(more, 'one answer to one request').toEqual([])
      if (first !== undefined) expect(ours.rest.length, 'and no byte behind it').toBe(0)
      if (first === undefined || first.status === 502) return
      passed++
      if (first.status === 204 || first.status === 304) {
        expect(first.body.length, 'there is no body, whatever the fields say (RFC 9112 §6.3)').toBe(0)
        return
      }
      // Node has nothing to say of what is whole once bytes follow that belong to nobody; we close that connection.
      if (sound) expect(theirs.whole, 'Node sees a whole answer, too').toBe(true)
      if (theirs.status === 0) return
      expect([first.status, first.body.toString('latin1')]).toEqual([theirs.status, theirs.body])
    }),
    parameters(150, 0.02),
  )
  expect(passed, 'sound answers are among them').toBeGreaterThan(0)
  await expectAtRest(gateway, { ...(await measure(gateway)), descriptors: Number.POSITIVE_INFINITY })
  expect(gateway.running).toBe(true)
})
