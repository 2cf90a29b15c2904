/**
 * The least that Node can do between two sockets: each client has a connection of its own to the service, and what comes
 * on one leaves on the other. No parsing, no HTTP, no pool.
 */

import { connect, createServer, type Socket } from 'node:net'

const PORT = Number(process.env['PORT'])
const UPSTREAM_PORT = Number(process.env['UPSTREAM_PORT'])

function join(from: Socket, to: Socket): void {
  from.on('data', (chunk) => to.write(chunk))
  from.on('error', () => to.destroy())
  from.on('close', () => to.destroy())
}

function serve(client: Socket): void {
  const upstream = connect({ port: UPSTREAM_PORT, host: '127.0.0.1', noDelay: true })
  join(client, upstream)
  join(upstream, client)
}

// libuv takes one connection from each listening socket in a turn: with one, thousands would come in for minutes.
for (let queue = 0; queue < 64; queue++) {
  createServer({ noDelay: true }, serve).listen({ port: PORT, host: '127.0.0.1', backlog: 4096, reusePort: true })
}
