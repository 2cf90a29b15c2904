/**
 * The least that Node can do: a socket that finds the end of a head and writes a fixed answer. No parsing, no HTTP; what
 * anything built on Node's sockets is measured against.
 */

import { createServer } from 'node:net'

const body = process.env['BODY'] ?? ''
const answer = Buffer.from(
  `HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
)

createServer({ noDelay: true }, (socket) => {
  let matched = 0
  socket.on('error', () => socket.destroy())
  socket.on('data', (chunk) => {
    for (const byte of chunk) {
      // CR LF CR LF: even positions expect CR, odd ones LF
      if (byte === (matched % 2 === 0 ? 13 : 10)) matched++
      else matched = byte === 13 ? 1 : 0
      if (matched === 4) {
        matched = 0
        socket.write(answer)
      }
    }
  })
}).listen({ port: Number(process.env['PORT']), host: '127.0.0.1', backlog: 4096 })
