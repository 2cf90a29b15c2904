/** http-proxy-3 the way its manual shows it, with a keep-alive agent. */

import { Agent, createServer } from 'node:http'
import { createProxyServer } from 'http-proxy-3'

const proxy = createProxyServer({
  target: `http://127.0.0.1:${process.env['UPSTREAM_PORT']}`,
  agent: new Agent({ keepAlive: true, maxSockets: 1000 }),
  xfwd: true,
})
proxy.on('error', (_error, _request, response) => response.destroy())

const server = createServer((request, response) => proxy.web(request, response))
server.listen({ port: Number(process.env['PORT']), host: '127.0.0.1', backlog: 4096 })
