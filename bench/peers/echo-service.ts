/** A service that answers a request with its body, once it has read it whole. */

import { createServer } from 'node:http'

const server = createServer({ keepAliveTimeout: 75_000 }, (request, response) => {
  const chunks: Buffer[] = []
  request.on('data', (chunk: Buffer) => chunks.push(chunk))
  request.on('end', () => {
    const body = chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks)
    response.writeHead(200, { 'Content-Type': 'application/octet-stream', 'Content-Length': body.length })
    response.end(body)
  })
})
server.listen({ port: Number(process.env['PORT']), host: '127.0.0.1', backlog: 4096 })
