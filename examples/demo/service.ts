/**
 * A small service to stand behind the gateway: plain node:http, no dependencies. It has the endpoints that show what a
 * gateway does: quick ones, slow ones, large answers, cacheable answers.
 *
 *   node examples/demo/service.ts            listens on DEMO_PORT, else 3000
 */

import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'

const USERS = [
  { id: 1, name: 'Ada', email: 'ada@example.com' },
  { id: 2, name: 'Grace', email: 'grace@example.com' },
  { id: 3, name: 'Edsger', email: 'edsger@example.com' },
]
const MAX_SLOW_MS = 60_000
const MAX_LARGE_BYTES = 256 * 1024 * 1024
const LARGE_PIECE = Buffer.alloc(64 * 1024, 'fluxor gateway ')

type Handler = (request: IncomingMessage, response: ServerResponse, url: URL) => void

const HANDLERS: [pathPrefix: string, handler: Handler][] = [
  ['/health', (_request, response) => json(response, 200, { status: 'healthy' })],
  ['/api/users', (_request, response) => json(response, 200, { users: USERS })],
  ['/api/orders', order],
  ['/api/slow', slow],
  ['/api/echo', echo],
  ['/api/large', large],
  ['/api/cacheable', cacheable],
  ['/api/fail', (_request, response, url) => json(response, number(url, 'status', 500, 599), { error: 'as asked' })],
]

/** The service, not yet listening. */
export function createDemoService(): Server {
  // Longer than the gateway keeps idle connections, so that it is the gateway that closes them.
  return createServer({ keepAliveTimeout: 75_000 }, (request, response) => {
    const url = new URL(request.url ?? '/', 'http://demo')
    const handler = HANDLERS.find(([prefix]) => url.pathname === prefix || url.pathname.startsWith(`${prefix}/`))?.[1]
    if (handler === undefined) json(response, 404, { error: 'not found', path: url.pathname })
    else handler(request, response, url)
  })
}

function order(_request: IncomingMessage, response: ServerResponse, url: URL): void {
  const id = Number(url.pathname.slice('/api/orders/'.length))
  if (!Number.isSafeInteger(id) || id < 1) json(response, 404, { error: 'no such order' })
  else json(response, 200, { id, item: `item-${id % 10}`, quantity: (id % 5) + 1, status: 'shipped' })
}

/** `?ms=500`: answers after that time; a client that leaves stops the timer. */
function slow(_request: IncomingMessage, response: ServerResponse, url: URL): void {
  const ms = number(url, 'ms', 1000, MAX_SLOW_MS)
  const timer = setTimeout(() => json(response, 200, { sleptMs: ms }), ms)
  response.on('close', () => clearTimeout(timer))
}

/** Streams the body back; a GET is told what arrived of its request instead. */
function echo(request: IncomingMessage, response: ServerResponse, url: URL): void {
  if (request.method === 'GET') {
    json(response, 200, { method: request.method, path: url.pathname, query: url.search, headers: request.headers })
    return
  }
  const type = request.headers['content-type'] ?? 'application/octet-stream'
  response.writeHead(200, { 'content-type': type })
  request.pipe(response)
}

/** `?bytes=1000000`: that many bytes, written as fast as they are read. */
function large(_request: IncomingMessage, response: ServerResponse, url: URL): void {
  let left = number(url, 'bytes', 1024 * 1024, MAX_LARGE_BYTES)
  response.writeHead(200, { 'content-type': 'text/plain', 'content-length': left })
  const write = () => {
    while (left > 0 && !response.destroyed) {
      const piece = left >= LARGE_PIECE.length ? LARGE_PIECE : LARGE_PIECE.subarray(0, left)
      left -= piece.length
      if (!response.write(piece) && left > 0) {
        response.once('drain', write)
        return
      }
    }
    response.end()
  }
  write()
}

/** `?maxAge=10`: the time of the origin in a cacheable answer; from a cache it stands still. */
function cacheable(request: IncomingMessage, response: ServerResponse, url: URL): void {
  const maxAge = number(url, 'maxAge', 10, 86_400)
  const etag = `"v${Math.floor(Date.now() / (maxAge * 1000 || 1))}"`
  response.setHeader('cache-control', `public, max-age=${maxAge}`)
  response.setHeader('etag', etag)
  if (request.headers['if-none-match'] === etag) response.writeHead(304).end()
  else json(response, 200, { madeAt: new Date().toISOString(), path: url.pathname })
}

function json(response: ServerResponse, status: number, value: unknown): void {
  const body = `${JSON.stringify(value)}\n`
  response.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) })
  response.end(body)
}

/** A whole number from the query, between 0 and `most`; `otherwise` when it is absent or not one. */
function number(url: URL, name: string, otherwise: number, most: number): number {
  const value = Number(url.searchParams.get(name) ?? otherwise)
  return Number.isSafeInteger(value) && value >= 0 ? Math.min(value, most) : otherwise
}

if (import.meta.main) {
  const port = Number(process.env['DEMO_PORT'] ?? 3000)
  createDemoService().listen(port, '127.0.0.1', () => console.log(`demo service on http://127.0.0.1:${port}`))
}
