/** The last answer of a connection reaches a client that is slow to take it: closing must not cut it off (RFC 9112 §9.6). */

import { once } from 'node:events'
import { connect } from 'node:net'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { startGateway, type TestGateway } from '../support/gateway.ts'
import { answer, type RawUpstream, startRawUpstream } from '../support/upstream.ts'

const BODY = 'x'.repeat(6 * 1024 * 1024)

let upstream: RawUpstream
let gateway: TestGateway

beforeAll(async () => {
  upstream = await startRawUpstream()
  upstream.on('/stored', answer(200, BODY, ['Cache-Control: max-age=60']))
  upstream.on('/passed', answer(200, BODY))
  gateway = await startGateway({
    cache: { maxObjectBytes: '16MiB' },
    upstreams: { app: { endpoints: [{ url: upstream.url }] } },
    routes: [
      { match: { pathPrefix: '/stored' }, upstream: 'app', cache: {} },
      { match: { pathPrefix: '/' }, upstream: 'app' },
    ],
  })
})
afterAll(async () => {
  await gateway?.close()
  await upstream?.close()
})

/** Takes 64 KiB at a time, so that much is under way when the answer ends. Returns how many bytes came, and how it ended. */
async function takeSlowly(path: string): Promise<{ bytes: number; error: string }> {
  const socket = connect({ port: gateway.port, host: '127.0.0.1', allowHalfOpen: true })
  let error = ''
  let bytes = 0
  socket.on('error', (failure: NodeJS.ErrnoException) => {
    error = failure.code ?? failure.message
  })
  const closed = once(socket, 'close')
  socket.on('data', (chunk: Buffer) => {
    bytes += chunk.length
    socket.pause()
    setTimeout(() => socket.resume(), 40)
  })
  socket.on('end', () => socket.end())
  socket.write(`GET ${path} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n`)
  await closed
  return { bytes, error }
}

it.each(['/stored', '/passed'])('%s: a client that takes it slowly has all of it', async (path) => {
  await (await fetch(`${gateway.url}${path}`)).arrayBuffer()
  const { bytes, error } = await takeSlowly(path)
  expect(error).toBe('')
  expect(bytes).toBeGreaterThan(BODY.length)
})
