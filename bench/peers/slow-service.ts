/** A service whose every answer takes DELAY_MS, however many ask at once: what admission keeps from drowning. */

import { createServer } from 'node:http'

const delayMs = Number(process.env['DELAY_MS'])
const body = process.env['BODY'] ?? 'ok'

const server = createServer({ keepAliveTimeout: 75_000 }, (_request, response) => {
  setTimeout(() => response.end(body), delayMs)
})
server.listen({ port: Number(process.env['PORT']), host: '127.0.0.1', backlog: 4096 })
