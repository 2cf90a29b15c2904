/**
 * The admin listener and the probes listener: a small node:http server beside the data path, for people, Prometheus and
 * the kubelet. What it serves is a table, given by the gateway; who may ask is decided here, once for all of it.
 */

import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { bearerToken, ENDED_SESSION, hasSession, isCrossSite, isLocalHost, safeNext, sameSecret, sessionCookie } from './admin-auth.ts' // biome-ignore format: one line
import { LOGIN_CSS, loginPage } from './admin-login.ts'

// An import would read every export, the getter of WebSocket among them, and so load an HTTP client: 11 MB, 50 ms.
const { createServer } = process.getBuiltinModule('node:http')

const MAX_BODY_BYTES = 64 * 1024
const MAX_CONNECTIONS = 512

export class AdminRequest {
  readonly method: string
  readonly url: URL
  readonly raw: IncomingMessage

  constructor(raw: IncomingMessage, url: URL) {
    this.method = raw.method ?? 'GET'
    this.url = url
    this.raw = raw
  }

  get path(): string {
    return this.url.pathname
  }

  /** The body as text. Throws an `AdminError` 413 beyond 64 KiB. */
  async text(): Promise<string> {
    const chunks: Buffer[] = []
    let bytes = 0
    for await (const chunk of this.raw as AsyncIterable<Buffer>) {
      bytes += chunk.length
      if (bytes > MAX_BODY_BYTES) throw new AdminError(413, 'The request body is too large')
      chunks.push(chunk)
    }
    return Buffer.concat(chunks).toString('utf8')
  }

  /** The body as JSON. Throws an `AdminError` 400 or 413. */
  async json(): Promise<unknown> {
    const text = await this.text()
    try {
      return JSON.parse(text)
    } catch {
      throw new AdminError(400, 'The request body is not JSON')
    }
  }
}

/** An answer as a problem document; may be thrown by a handler. */
export class AdminError extends Error {
  readonly status: number

  constructor(status: number, title: string) {
    super(title)
    this.status = status
  }
}

export class AdminResponse {
  readonly raw: ServerResponse

  constructor(raw: ServerResponse) {
    this.raw = raw
  }

  json(value: unknown, status = 200): void {
    this.send(status, 'application/json', `${JSON.stringify(value)}\n`)
  }

  text(text: string, contentType = 'text/plain; charset=utf-8', status = 200): void {
    this.send(status, contentType, text)
  }

  problem(status: number, title: string, headers: Record<string, string> = {}): void {
    for (const [name, value] of Object.entries(headers)) this.raw.setHeader(name, value)
    this.send(status, 'application/problem+json', `${JSON.stringify({ type: 'about:blank', title, status })}\n`)
  }

  redirect(location: string): void {
    this.raw.setHeader('Location', location)
    this.raw.writeHead(303).end()
  }

  send(status: number, contentType: string, body: string | Uint8Array): void {
    const { raw } = this
    if (raw.headersSent) {
      raw.destroy()
      return
    }
    raw.writeHead(status, { 'Content-Type': contentType, 'Content-Length': Buffer.byteLength(body) }).end(body)
  }
}

export type AdminHandler = (request: AdminRequest, response: AdminResponse) => void | Promise<void>

/** `GET /metrics`, `POST /purge`. HEAD is served by GET. */
export type AdminRoutes = Readonly<Record<`${'GET' | 'POST' | 'PUT' | 'DELETE'} /${string}`, AdminHandler>>

export interface AdminOptions {
  readonly routes: AdminRoutes
  /** Without it everything is open to the machine: for loopback and the probes listener alone. */
  readonly token?: string
  /** Without it `/metrics` is open. */
  readonly metricsToken?: string
  /** A handler broke; the client got 500. */
  readonly onError?: (error: unknown, path: string) => void
}

export interface AdminListener {
  /** Rejects with the error of `listen` (EADDRINUSE, EACCES). */
  listen(host: string, port: number): Promise<AddressInfo>
  /** Takes another table or tokens at a reload. */
  update(options: AdminOptions): void
  /** Stops listening and cuts what is open; streams included. */
  close(): Promise<void>
}

const HEADERS: Readonly<Record<string, string>> = {
  'Content-Security-Policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
  'X-Content-Type-Options': 'nosniff',
  'X-Frame-Options': 'DENY',
  // Not no-referrer: the login form would be sent with `Origin: null`
  'Referrer-Policy': 'same-origin',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cache-Control': 'no-store',
}

export function createAdmin(initial: AdminOptions): AdminListener {
  let options = initial
  let table = compileTable(initial)
  const server = createServer(
    { requestTimeout: 30_000, headersTimeout: 10_000, keepAliveTimeout: 20_000 },
    (req, res) => {
      for (const name in HEADERS) res.setHeader(name, HEADERS[name]!)
      const response = new AdminResponse(res)
      const url = URL.parse(req.url ?? '', 'http://admin')
      if (url === null || !req.url!.startsWith('/')) {
        response.problem(400, 'The request target is not a path')
        return
      }
      const request = new AdminRequest(req, url)
      serve(table, options, request, response).catch((error: unknown) => {
        if (error instanceof AdminError) {
          // What is left of the body is not read
          if (error.status === 413) res.setHeader('Connection', 'close')
          response.problem(error.status, error.message)
        } else if (!req.destroyed || !res.writableEnded) {
          options.onError?.(error, url.pathname)
          response.problem(500, 'The gateway failed')
        }
      })
    },
  )
  server.maxConnections = MAX_CONNECTIONS

  return {
    listen: (host, port) => listen(server, host, port),
    update(next) {
      table = compileTable(next)
      options = next
    },
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}

function listen(server: Server, host: string, port: number): Promise<AddressInfo> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen({ host, port }, () => {
      server.off('error', reject)
      resolve(server.address() as AddressInfo)
    })
  })
}

/** Path → method → handler. */
type Table = ReadonlyMap<string, ReadonlyMap<string, AdminHandler>>

function compileTable(options: AdminOptions): Table {
  const table = new Map<string, Map<string, AdminHandler>>()
  const add = (key: string, handler: AdminHandler) => {
    const [method, path] = key.split(' ') as [string, string]
    const methods = table.get(path) ?? new Map<string, AdminHandler>()
    table.set(path, methods.set(method, handler))
    if (method === 'GET') methods.set('HEAD', handler)
  }
  const { token } = options
  if (token !== undefined) {
    add('GET /login', (request, response) => {
      response.text(loginPage(safeNext(request.url.searchParams.get('next')), false), 'text/html; charset=utf-8')
    })
    add('GET /login.css', (_, response) => response.text(LOGIN_CSS, 'text/css; charset=utf-8'))
    add('POST /login', (request, response) => logIn(token, request, response))
    add('POST /logout', (_, response) => {
      response.raw.setHeader('Set-Cookie', ENDED_SESSION)
      response.redirect('/login')
    })
  }
  for (const [key, handler] of Object.entries(options.routes)) add(key, handler)
  return table
}

async function logIn(token: string, request: AdminRequest, response: AdminResponse): Promise<void> {
  const form = new URLSearchParams(await request.text())
  const next = safeNext(form.get('next'))
  if (!sameSecret(form.get('token') ?? '', token)) {
    response.text(loginPage(next, true), 'text/html; charset=utf-8', 401)
    return
  }
  response.raw.setHeader('Set-Cookie', sessionCookie(token, Date.now()))
  response.redirect(next)
}

async function serve(
  table: Table,
  options: AdminOptions,
  request: AdminRequest,
  response: AdminResponse,
): Promise<void> {
  if (!mayAsk(options, request, response)) return
  const methods = table.get(request.path)
  if (methods === undefined) {
    response.problem(404, 'There is nothing here')
    return
  }
  const handler = methods.get(request.method)
  if (handler === undefined)
    response.problem(405, 'The method is not allowed here', { Allow: [...methods.keys()].join(', ') })
  else await handler(request, response)
}

/** True when the request may go on; else it has been answered. */
function mayAsk(options: AdminOptions, request: AdminRequest, response: AdminResponse): boolean {
  const { path, method } = request
  const { headers } = request.raw
  const { token, metricsToken } = options
  if (path === '/livez' || path === '/readyz') return true
  const bearer = bearerToken(headers)
  if (path === '/metrics') {
    if (metricsToken === undefined) return true
    if (bearer !== undefined && sameSecret(bearer, metricsToken)) return true
  }
  if (token !== undefined && bearer !== undefined && sameSecret(bearer, token)) return true

  // From here on a browser may be asking on behalf of a page of another site
  const changes = method !== 'GET' && method !== 'HEAD'
  if (changes && isCrossSite(headers)) {
    response.problem(403, 'Requests from other sites are refused')
    return false
  }
  if (token === undefined) {
    if (path === '/metrics') {
      response.problem(401, 'A token is required', { 'WWW-Authenticate': 'Bearer realm="fluxor metrics"' })
      return false
    }
    const opensPage = headers['sec-fetch-mode'] === 'navigate' // a link on another page may lead here
    if (isLocalHost(headers) && (opensPage || !isCrossSite(headers))) return true
    response.problem(403, 'Without a token only local names and addresses are served')
    return false
  }
  if (path === '/login' || path === '/login.css') return true
  if (hasSession(headers, token, Date.now())) return true
  if (!changes && /\btext\/html\b/.test(headers.accept ?? '')) {
    response.redirect(`/login?next=${encodeURIComponent(request.path + request.url.search)}`)
  } else response.problem(401, 'A token is required', { 'WWW-Authenticate': 'Bearer realm="fluxor admin"' })
  return false
}
