/**
 * Against the parser of `node:http`, over real sockets: whatever our codec takes for a request, Node takes for the same one,
 * method, target, fields, body and trailers. What Node takes and we refuse is not counted: being stricter is the point.
 *
 * Deliberate differences, all of them places where we accept more than Node or tell less:
 * - any method of capital letters is a method; Node knows a list;
 * - trailers that have no place there are left out (RFC 9110 §6.5.1); Node frames the body by a Content-Length or
 *   Transfer-Encoding found among them, and refuses;
 * - what stands in a chunk extension is not looked at, it is dropped (RFC 9112 §7.1.1); Node wants its grammar.
 */

import { once } from 'node:events'
import http from 'node:http'
import net from 'node:net'
import fc from 'fast-check'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { stream } from './messages.ts'
import { type ReadRequest, readRequests } from './read-requests.ts'
import { FUZZ_TIMEOUT_MS, parameters } from './runs.ts'

interface NodeRequest {
  method: string
  target: string
  minorVersion: number
  fields: [string, string][]
  body: string
  trailers: [string, string][]
}

interface NodeResult {
  requests: NodeRequest[]
  error: string
}

let server: http.Server
const results = new Map<number, NodeResult>()

beforeAll(async () => {
  server = http.createServer({ keepAlive: true }, (request, response) => {
    const result = results.get(request.socket.remotePort!)!
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      result.requests.push({
        method: request.method!,
        target: request.url!,
        minorVersion: request.httpVersionMinor,
        fields: pairs(request.rawHeaders),
        body: Buffer.concat(chunks).toString('latin1'),
        trailers: pairs(request.rawTrailers),
      })
      response.end()
    })
  })
  server.on('connection', (socket) => results.set(socket.remotePort!, { requests: [], error: '' }))
  server.on('clientError', (error: NodeJS.ErrnoException, socket) => {
    const result = results.get((socket as net.Socket).remotePort!)
    if (result !== undefined) result.error = error.code ?? error.message
    socket.destroy()
  })
  server.on('checkExpectation', (request: http.IncomingMessage, response: http.ServerResponse) => {
    server.emit('request', request, response)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
})
afterAll(() => server.close())

function pairs(flat: readonly string[]): [string, string][] {
  return Array.from({ length: flat.length / 2 }, (_, i) => [flat[2 * i]!, flat[2 * i + 1]!])
}

async function readByNode(bytes: Buffer): Promise<NodeResult> {
  const socket = net.connect({ port: (server.address() as net.AddressInfo).port, host: '127.0.0.1' })
  await once(socket, 'connect')
  const port = socket.localPort!
  socket.on('error', () => {})
  socket.resume()
  socket.end(bytes)
  await new Promise((resolve) => socket.once('close', resolve))
  const result = results.get(port) ?? { requests: [], error: 'no connection' }
  results.delete(port)
  return result
}

function sameForm({ method, target, minorVersion, fields, body }: ReadRequest | NodeRequest) {
  return { method, target, minorVersion, fields, body }
}

function expectSubset(ours: string, theirs: [string, string][]): void {
  const lines = theirs.map(([name, value]) => `${name}: ${value}`)
  let at = 0
  for (const line of ours.split('\r\n').slice(0, -1)) {
    at = lines.indexOf(line, at) + 1
    expect(at, `${line} among ${JSON.stringify(lines)}`).toBeGreaterThan(0)
  }
}

/** Is that Node refuses it one of the deliberate differences? */
function explain({ method }: ReadRequest, text: string, error: string): boolean {
  if (error === 'HPE_INVALID_METHOD') return !http.METHODS.includes(method)
  const body = text.slice(text.indexOf('\r\n\r\n') + 4)
  if (CHUNK_ERROR.test(error))
    return body.split('\r\n').some((line) => EXTENSION.test(line) && !SOUND_EXTENSION.test(line))
  return FRAMING_ERROR.test(error) && FRAMING_TRAILER.test(body)
}

const CHUNK_ERROR = /^HPE_(?:STRICT|INVALID_CHUNK_SIZE)$/
const EXTENSION = /^[0-9a-f]+;/i
const TOKEN = "[!#$%&'*+\\-.^_`|~0-9A-Za-z]+"
const SOUND_EXTENSION = new RegExp(`^[0-9a-f]+(?:;${TOKEN}(?:=(?:${TOKEN}|"[^"\\\\]*"))?)+$`, 'i')

const FRAMING_ERROR = /^HPE_(?:INVALID|UNEXPECTED)_(?:CONTENT_LENGTH|TRANSFER_ENCODING)$/
const FRAMING_TRAILER = /^(?:content-length|transfer-encoding):/im

let compared = 0

it('Node reads every request that we accept, and reads it alike', { timeout: FUZZ_TIMEOUT_MS }, async () => {
  await fc.assert(
    fc.asyncProperty(stream, async (text) => {
      const bytes = Buffer.from(text, 'latin1')
      const ours = readRequests([bytes])
      if (ours.requests.length === 0) return
      // Only what we accepted: what we refused behind it may be anything to Node.
      const accepted = bytes.subarray(0, ours.requests.at(-1)!.end)
      const theirs = await readByNode(accepted)
      for (const [i, request] of ours.requests.entries()) {
        if (theirs.requests[i] === undefined) {
          const start = ours.requests[i - 1]?.end ?? 0
          const known = explain(request, bytes.toString('latin1', start, request.end), theirs.error)
          expect(known, `${theirs.error} for ${JSON.stringify(text)}`).toBe(true)
          return
        }
        compared++
        expect(sameForm(request)).toEqual(sameForm(theirs.requests[i]))
        expectSubset(request.trailers, theirs.requests[i].trailers)
      }
      expect(theirs.requests.length, 'Node reads no more requests').toBe(ours.requests.length)
    }),
    parameters(400, 0.1),
  )
  expect(compared, 'the generator makes requests that both accept').toBeGreaterThan(100)
})

it('a method that Node does not know is the one thing that we take and it refuses', async () => {
  const text = 'FLUXOR / HTTP/1.1\r\nHost: a.test\r\n\r\n'
  expect(readRequests([Buffer.from(text)]).requests).toHaveLength(1)
  expect(await readByNode(Buffer.from(text))).toEqual({ requests: [], error: 'HPE_INVALID_METHOD' })
})

it.each([
  ['two Host fields', 'GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n'],
  ['a Host with a path', 'GET / HTTP/1.1\r\nHost: a/b\r\n\r\n'],
  ['the asterisk with GET', 'GET * HTTP/1.1\r\nHost: a\r\n\r\n'],
  ['a coding before chunked', 'POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n'],
  ['an empty line in front', '\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n'],
])('we are stricter: %s', async (_title, text) => {
  const bytes = Buffer.from(text, 'latin1')
  expect(readRequests([bytes])).toMatchObject({ requests: [], error: expect.stringMatching(/./) })
  expect((await readByNode(bytes)).requests, 'if Node refuses it too, the line can go').toHaveLength(1)
})
