/**
 * Clients that always have a request under way on a kept connection, and count what became of each: for reloads, drains
 * and crashes behind the gateway, where the question is whether any was lost.
 */

import { connect, type Socket } from 'node:net'
import { field, readMessage } from './messages.ts'

export interface LoadCounts {
  sent: number
  /** Answers by status. */
  statuses: Record<string, number>
  /** Requests that were sent and never answered. */
  lost: number
  /** Connections that could not be made. */
  refused: number
}

export class SteadyLoad {
  readonly counts: LoadCounts = { sent: 0, statuses: {}, lost: 0, refused: 0 }
  /** Made so far. */
  connections = 0
  /** When a connection last had its first answer: the last client that joined is served from then on. */
  joinedMs = 0
  /** The longest that an answer took. */
  slowestMs = 0
  readonly #port: number
  readonly #request: Buffer
  readonly #reconnect: boolean
  #stopping = false
  readonly #clients: Promise<void>[] = []

  /** @param reconnect false: a client ends with its first connection */
  constructor(
    port: number,
    clients: number,
    { reconnect = true, text = 'GET /load HTTP/1.1\r\nHost: a.test\r\n\r\n' } = {},
  ) {
    this.#port = port
    this.#reconnect = reconnect
    this.#request = Buffer.from(text, 'latin1')
    for (let i = 0; i < clients; i++) this.#clients.push(this.#run())
  }

  get answered(): number {
    return Object.values(this.counts.statuses).reduce((sum, n) => sum + n, 0)
  }

  /** Waits until so many more have been answered, at most 10 s. */
  async progress(more: number): Promise<void> {
    const target = this.answered + more
    const deadline = performance.now() + 10_000
    while (this.answered < target) {
      if (performance.now() > deadline) throw new Error(`the load stands still: ${JSON.stringify(this.counts)}`)
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
  }

  /** No new requests; resolves when those under way have ended. */
  async stop(): Promise<LoadCounts> {
    this.#stopping = true
    return this.finished()
  }

  /** Resolves when every client has ended: by `stop()`, or because nobody listens any more. */
  async finished(): Promise<LoadCounts> {
    await Promise.all(this.#clients)
    return this.counts
  }

  async #run(): Promise<void> {
    while (!this.#stopping) {
      if (!(await this.#connection()) || !this.#reconnect) return
    }
  }

  /** One connection, until the other side closes it or the load stops. False when nobody listened. */
  #connection(): Promise<boolean> {
    return new Promise((resolve) => {
      let buffer = Buffer.alloc(0)
      let waiting = false
      let connected = false
      let joining = true
      let sentMs = 0
      const socket: Socket = connect({ port: this.#port, host: '127.0.0.1', noDelay: true }, () => {
        connected = true
        this.connections++
        send()
      })
      const send = () => {
        waiting = true
        this.counts.sent++
        sentMs = performance.now()
        socket.write(this.#request)
      }
      socket.on('data', (chunk) => {
        buffer = Buffer.concat([buffer, chunk])
        const answer = readMessage(buffer, false, false)
        if (answer === undefined) return
        buffer = buffer.subarray(answer.byteLength)
        waiting = false
        const nowMs = performance.now()
        this.slowestMs = Math.max(this.slowestMs, nowMs - sentMs)
        if (joining) this.joinedMs = nowMs
        joining = false
        const status = answer.startLine.slice(9, 12)
        this.counts.statuses[status] = (this.counts.statuses[status] ?? 0) + 1
        if (this.#stopping || field(answer, 'connection') === 'close') socket.end()
        else send()
      })
      socket.on('error', () => {})
      socket.on('close', () => {
        if (waiting) this.counts.lost++
        if (!connected) this.counts.refused++
        resolve(connected)
      })
    })
  }
}
