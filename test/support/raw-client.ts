/**
 * A client that sends exactly the bytes it is given, in exactly the pieces, and takes apart what comes back. For what no
 * HTTP library would send.
 */

import { connect, type Socket } from 'node:net'
import { type Field, field, type Message, readMessage } from './messages.ts'

export interface RawResponse extends Message {
  status: number
}

/** A piece to send; a number is a pause in milliseconds. */
export type Piece = string | Uint8Array | number

export interface RawClientOptions {
  /** The answers to await; then the result is given. Without it: until the other side closes. */
  responses?: number
  /** Methods of the requests in order, for answers without a body. Default: read from the pieces' first line. */
  methods?: string[]
  /** Longest wait for the next byte or the end. */
  timeoutMs?: number
}

export interface RawResult {
  /** Final answers, in order. */
  responses: RawResponse[]
  informational: RawResponse[]
  /** Every byte received. */
  bytes: Buffer
  /** Bytes behind the last whole answer: of one that was cut, or of nothing. */
  rest: Buffer
  /** How the other side ended the connection; '' when it did not within the time given. */
  ended: '' | 'fin' | 'reset'
  status: number
}

/** Shows both halves of a connection to a test that acts step by step. */
export class RawClient {
  readonly socket: Socket
  #received: Buffer[] = []
  #bytes = Buffer.alloc(0)
  #ended: '' | 'fin' | 'reset' = ''
  #wake: (() => void) | null = null
  readonly #methods: string[]

  constructor(port: number, methods: string[] = []) {
    this.#methods = methods
    this.socket = connect({ port, host: '127.0.0.1', noDelay: true, allowHalfOpen: true })
    this.socket.on('data', (chunk) => {
      this.#received.push(chunk)
      this.#notify()
    })
    this.socket.on('end', () => {
      this.#ended ||= 'fin'
      this.#notify()
    })
    this.socket.on('error', () => {
      this.#ended ||= 'reset'
      this.#notify()
    })
    this.socket.on('close', () => {
      this.#ended ||= 'fin'
      this.#notify()
    })
  }

  get ended(): '' | 'fin' | 'reset' {
    return this.#ended
  }

  get bytes(): Buffer {
    if (this.#received.length > 0) {
      this.#bytes = Buffer.concat([this.#bytes, ...this.#received])
      this.#received = []
    }
    return this.#bytes
  }

  async send(...pieces: Piece[]): Promise<void> {
    for (const piece of pieces) {
      if (typeof piece === 'number') {
        await new Promise((resolve) => setTimeout(resolve, piece))
        continue
      }
      if (this.socket.destroyed) return
      await new Promise<void>((resolve) => {
        const done = () => {
          this.socket.removeListener('close', done)
          resolve()
        }
        this.socket.write(typeof piece === 'string' ? Buffer.from(piece, 'latin1') : piece, done)
        this.socket.once('close', done)
      })
    }
  }

  /** What has come so far, taken apart. */
  result(): RawResult {
    const responses: RawResponse[] = []
    const informational: RawResponse[] = []
    let rest = this.bytes
    while (rest.length > 0) {
      const status = Number(/^HTTP\/1\.[01] (\d{3})/.exec(rest.toString('latin1', 0, 12))?.[1] ?? 0)
      const bodyless = status < 200 || status === 204 || status === 304 || this.#methods[responses.length] === 'HEAD'
      const message = readMessage(rest, bodyless, this.#ended === 'fin')
      if (message === undefined) break
      const list = status >= 100 && status < 200 && status !== 101 ? informational : responses
      list.push({ ...message, status })
      rest = rest.subarray(message.byteLength)
    }
    return { responses, informational, bytes: this.bytes, rest, ended: this.#ended, status: responses[0]?.status ?? 0 }
  }

  /** Waits until `done`, until the other side ends, or `timeoutMs`; gives what has come. */
  async until(done: (result: RawResult) => boolean, timeoutMs = 5000): Promise<RawResult> {
    const deadline = performance.now() + timeoutMs
    for (;;) {
      const result = this.result()
      const left = deadline - performance.now()
      if (done(result) || result.ended !== '' || left <= 0) return result
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left)
        this.#wake = () => {
          clearTimeout(timer)
          resolve()
        }
      })
      this.#wake = null
    }
  }

  /** Waits for the n-th final answer. */
  answers(n: number, timeoutMs?: number): Promise<RawResult> {
    return this.until((result) => result.responses.length >= n, timeoutMs)
  }

  /** Waits for the other side to end the connection. */
  end(timeoutMs?: number): Promise<RawResult> {
    return this.until(() => false, timeoutMs)
  }

  /** Ends the connection the hard way, as a client that crashed. */
  reset(): void {
    this.socket.resetAndDestroy()
  }

  close(): void {
    this.socket.destroy()
  }

  #notify(): void {
    this.#wake?.()
  }
}

/** Opens a connection, sends the pieces and gives what came back; see `RawClientOptions` for how long it waits. */
export async function send(port: number, pieces: Piece | Piece[], options: RawClientOptions = {}): Promise<RawResult> {
  const list = Array.isArray(pieces) ? pieces : [pieces]
  const first = list.find((piece) => typeof piece !== 'number') ?? ''
  const methods = options.methods ?? [String(first).startsWith('HEAD ') ? 'HEAD' : '']
  const client = new RawClient(port, methods)
  try {
    const sending = client.send(...list)
    const wanted = options.responses
    const result =
      wanted === undefined ? await client.end(options.timeoutMs) : await client.answers(wanted, options.timeoutMs)
    if (result.ended === '') await sending
    return result
  } finally {
    client.close()
  }
}

/** The problem document of an answer the gateway wrote itself. */
export function problem(response: { fields: Field[]; body: Buffer }): Record<string, unknown> {
  const type = field(response, 'content-type')
  if (type !== 'application/problem+json') throw new Error(`not a problem document: ${type} ${response.body}`)
  return JSON.parse(response.body.toString()) as Record<string, unknown>
}
