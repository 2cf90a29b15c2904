/**
 * Services behind the gateway, for tests. `startRawUpstream` is a plain socket: it keeps every byte that came and answers
 * with whatever a script writes, valid or not. `startHttpUpstream` is an ordinary node:http server that counts who is inside.
 */

import { createServer as createHttpServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { createServer, type Socket } from 'node:net'
import { type Message, readMessage } from './messages.ts'

export interface UpstreamRequest extends Message {
  method: string
  /** The request-target as received. */
  target: string
  /** The head and the body, byte for byte. */
  bytes: Buffer
  /** Which connection it came on, counted from 1. */
  connection: number
  /** What came behind it already; a script that takes the socket over (an upgrade) begins with it. */
  rest: Buffer
}

/** Answers one request. A script that does nothing leaves the gateway waiting. */
export type Script = (socket: Socket, request: UpstreamRequest) => void

interface Rule {
  script: Script
  /** Run the script when the head is complete, before the body: early answers. */
  early?: boolean
  /** Runs when the head is complete, besides the script: interim answers. */
  onHead?: Script
}

export class RawUpstream {
  port = 0
  /** Whole requests, in the order in which they were complete. */
  requests: UpstreamRequest[] = []
  /** Connections accepted so far. */
  connections = 0
  readonly open = new Set<Socket>()
  #bytes: Buffer[] = []
  readonly #rules = new Map<string, Rule>()
  #fallback: Rule = { script: answer(200, 'ok') }
  readonly #server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => this.#serve(socket))

  get url(): string {
    return `http://127.0.0.1:${this.port}`
  }

  /** What the script answers for this path (query aside). */
  on(path: string, script: Script, options: Omit<Rule, 'script'> = {}): this {
    this.#rules.set(path, { script, ...options })
    return this
  }

  /** For every path without a script of its own. Default: `200 ok`. */
  otherwise(script: Script): this {
    this.#fallback = { script }
    return this
  }

  /** Every byte received since the last `clear()`, whole requests or not. */
  received(): Buffer {
    return Buffer.concat(this.#bytes)
  }

  clear(): void {
    this.requests = []
    this.#bytes = []
  }

  /** Closes the connections that the gateway keeps; it does not know until it looks. */
  dropConnections(): void {
    for (const socket of this.open) socket.destroy()
  }

  listen(port = 0): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#server.once('error', reject)
      this.#server.listen(port, '127.0.0.1', () => {
        this.#server.removeListener('error', reject)
        this.port = (this.#server.address() as { port: number }).port
        resolve()
      })
    })
  }

  async close(): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve))
    this.dropConnections()
    await closed
  }

  #serve(socket: Socket): void {
    const connection = ++this.connections
    this.open.add(socket)
    socket.on('close', () => this.open.delete(socket))
    socket.on('error', () => {})
    socket.on('end', () => socket.end())
    let buffer = Buffer.alloc(0)
    let headSeen = false
    const read = (chunk: Buffer) => {
      this.#bytes.push(chunk)
      buffer = Buffer.concat([buffer, chunk])
      for (;;) {
        const headEnd = buffer.indexOf('\r\n\r\n')
        if (headEnd < 0) return
        const [method = '', target = ''] = buffer.toString('latin1', 0, buffer.indexOf('\r\n')).split(' ')
        const rule = this.#rules.get(target.split('?')[0]!) ?? this.#fallback
        if (!headSeen) {
          headSeen = true
          const onHead = rule.early ? rule.script : rule.onHead
          const head = buffer.subarray(0, headEnd + 4)
          const rest = buffer.subarray(headEnd + 4)
          onHead?.(socket, { ...readMessage(head, true, false)!, method, target, bytes: head, connection, rest })
        }
        const message = readMessage(buffer, false, false)
        if (message === undefined) return
        const bytes = buffer.subarray(0, message.byteLength)
        buffer = buffer.subarray(message.byteLength)
        const request = { ...message, method, target, bytes, connection, rest: buffer }
        this.requests.push(request)
        if (!rule.early) rule.script(socket, request)
        headSeen = false
        if (!socket.listeners('data').includes(read)) return
      }
    }
    socket.on('data', read)
  }
}

export async function startRawUpstream(): Promise<RawUpstream> {
  const upstream = new RawUpstream()
  await upstream.listen()
  return upstream
}

/** A plain, valid answer with a Content-Length. `fields` are lines without their CRLF. */
export function answer(status: number, body: string | Buffer = '', fields: string[] = []): Script {
  const bytes = Buffer.from(body)
  return (socket, request) => {
    const lines = [`HTTP/1.1 ${status} X`, `Content-Length: ${bytes.length}`, ...fields, '', '']
    const head = Buffer.from(lines.join('\r\n'), 'latin1')
    socket.write(request.method === 'HEAD' ? head : Buffer.concat([head, bytes]))
  }
}

/** Exactly these bytes; the connection stays open. `|` is not special here: write the CRLFs. */
export function bytes(text: string | Buffer): Script {
  return (socket) => void socket.write(typeof text === 'string' ? Buffer.from(text, 'latin1') : text)
}

/** Exactly these bytes, then an orderly end. */
export function bytesThenClose(text: string | Buffer = ''): Script {
  return (socket) => void socket.end(typeof text === 'string' ? Buffer.from(text, 'latin1') : text)
}

/** Exactly these bytes, then a reset once they are on their way. */
export function bytesThenReset(text: string | Buffer = ''): Script {
  return (socket) => {
    if (text.length === 0) {
      socket.resetAndDestroy()
      return
    }
    // The pause lets the other side read the bytes: a reset discards what lies unread in its receive buffer.
    socket.write(typeof text === 'string' ? Buffer.from(text, 'latin1') : text, () => {
      setTimeout(() => socket.resetAndDestroy(), 50)
    })
  }
}

/** These pieces with a pause before each but the first. */
export function slowly(pieces: (string | Buffer)[], pauseMs: number): Script {
  return (socket) => {
    let i = 0
    const next = () => {
      if (socket.destroyed || i >= pieces.length) return
      const piece = pieces[i++]!
      socket.write(typeof piece === 'string' ? Buffer.from(piece, 'latin1') : piece)
      setTimeout(next, pauseMs)
    }
    next()
  }
}

/** Reads the request and never answers. */
export const hang: Script = () => {}

/** A chunked answer; `trailers` are lines without their CRLF. */
export function chunked(parts: (string | Buffer)[], trailers: string[] = [], fields: string[] = []): Script {
  return (socket) => {
    socket.write(['HTTP/1.1 200 OK', 'Transfer-Encoding: chunked', ...fields, '', ''].join('\r\n'))
    for (const part of parts) {
      const data = Buffer.from(part)
      socket.write(Buffer.concat([Buffer.from(`${data.length.toString(16)}\r\n`), data, Buffer.from('\r\n')]))
    }
    socket.write(['0', ...trailers, '', ''].join('\r\n'))
  }
}

export interface HttpUpstream {
  readonly port: number
  readonly url: string
  readonly server: Server
  /** Requests being handled now, the most there ever were at once, and all so far. */
  readonly inside: number
  readonly mostInside: number
  readonly total: number
  close(): Promise<void>
}

/** An ordinary node:http service. A request is inside until its answer ended or its connection is gone. */
export async function startHttpUpstream(
  handler: (request: IncomingMessage, response: ServerResponse) => void,
): Promise<HttpUpstream> {
  let inside = 0
  let mostInside = 0
  let total = 0
  const server = createHttpServer({ keepAliveTimeout: 60_000 }, (request, response) => {
    total++
    mostInside = Math.max(mostInside, ++inside)
    response.on('close', () => inside--)
    handler(request, response)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as { port: number }
  return {
    port,
    url: `http://127.0.0.1:${port}`,
    server,
    get inside() {
      return inside
    },
    get mostInside() {
      return mostInside
    },
    get total() {
      return total
    },
    async close() {
      const closed = new Promise((resolve) => server.close(resolve))
      server.closeAllConnections()
      await closed
    },
  }
}
