/** Bytes that an upstream sends beyond its answer must not become the answer to somebody else's request. */

import net from 'node:net'
import { expect, it } from 'vitest'
import { startGateway } from '../support/gateway.ts'
import { RawClient, send } from '../support/raw-client.ts'
import { answer, startRawUpstream } from '../support/upstream.ts'

it('bytes behind an answer that has no body answer nobody', async () => {
  const surplus = 'HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged'
  const server = net.createServer((socket) => {
    socket.on('error', () => {})
    socket.on('data', (data) => {
      const head = data.toString().startsWith('HEAD')
      socket.write(
        head
          ? `HTTP/1.1 200 OK\r\nContent-Length: ${surplus.length}\r\n\r\n${surplus}`
          : 'HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhonest',
      )
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const gateway = await startGateway({
    upstreams: { app: { endpoints: [{ url: `http://127.0.0.1:${(server.address() as net.AddressInfo).port}` }] } },
    routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
  })
  const client = new RawClient(gateway.port, ['HEAD', 'GET'])
  await client.send('HEAD /a HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n')
  expect((await client.answers(2, 3000)).responses.at(-1)?.body.toString()).toBe('honest')
  client.close()
  await gateway.close()
  server.close()
})

it('a trailer cannot bring a header that only the gateway may set', async () => {
  const upstream = await startRawUpstream()
  upstream.otherwise(answer(200, 'ok'))
  const gateway = await startGateway({
    identity: {
      jwt: {
        main: {
          secret: 'a-secret-of-more-than-thirty-two-bytes',
          algorithms: ['HS256'],
          forward: { 'x-user-id': 'sub' },
        },
      },
    },
    upstreams: { app: { endpoints: [{ url: upstream.url }] } },
    routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
  })
  const body = '3\r\nabc\r\n0\r\nX-User-Id: admin\r\nX-Other: 1\r\n\r\n'
  await send(
    gateway.port,
    `POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n${body}`,
  )
  const received = upstream.received().toString('latin1').toLowerCase()
  expect(received).toContain('x-other: 1')
  expect(received).not.toContain('x-user-id')
  await gateway.close()
  await upstream.close()
})
