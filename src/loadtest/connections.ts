/**
 * The sockets of the load test: one undici `Client` a connection, kept alive, with one request on it at a time. Never a
 * bounded `Pool`: that would queue inside, where no one counts the wait.
 *
 * A user keeps a connection of its own; arrivals without a user, and a user who asks again before the answer, share the
 * idle ones, last used first.
 */

import { Client, type Dispatcher } from 'undici'
import type { Sent, Transport } from './generator.ts'
import type { Outcome } from './recording.ts'

export interface RequestPlan {
  /** `http://host:port` */
  readonly origin: string
  readonly path: string
  readonly method: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: string | null
}

export interface ConnectionOptions {
  readonly requests: readonly RequestPlan[]
  readonly maxConnections: number
  readonly timeoutMs: number
  /** Statuses that are ok beside 2xx and 3xx. */
  readonly expect: readonly number[]
  /** Accepts any certificate. */
  readonly insecure: boolean
  /** The clock of the run, in milliseconds from its beginning. */
  readonly now: () => number
}

export type OnEnd = (request: Sent, endMs: number, status: number, outcome: Outcome, error?: string) => void

/** Faults of the machine that makes the load: out of descriptors, ports or buffers. */
const EXHAUSTED = new Set(['EMFILE', 'ENFILE', 'EADDRNOTAVAIL', 'ENOBUFS'])
export const isExhaustion = (error: string): boolean => EXHAUSTED.has(error)

/** The problem document of a refusal is short: more is not read for its code. */
const MAX_PROBLEM_BYTES = 4096

export class Connections implements Transport {
  readonly options: ConnectionOptions
  readonly #onEnd: OnEnd
  /** By origin, when the targets have several. */
  readonly #idle = new Map<string, Connection[]>()
  readonly #ofUser = new Map<number, Connection>()
  readonly #busy = new Set<Connection>()
  #open = 0

  constructor(options: ConnectionOptions, onEnd: OnEnd) {
    this.options = options
    this.#onEnd = onEnd
    for (const { origin } of options.requests) this.#idle.set(origin, [])
  }

  send(request: Sent, user: number, nowMs: number): boolean {
    const plan = this.options.requests[request.target]!
    const connection = this.#connectionFor(plan.origin, user)
    if (connection === null) return false
    this.#busy.add(connection)
    connection.begin(request, plan, nowMs)
    return true
  }

  #connectionFor(origin: string, user: number): Connection | null {
    const own = user < 0 ? undefined : this.#ofUser.get(user)
    if (own !== undefined && own.origin === origin && !this.#busy.has(own)) return own
    const spare = this.#idle.get(origin)!.pop()
    if (spare !== undefined) return spare
    if (this.#open >= this.options.maxConnections) return null
    this.#open++
    const connection = new Connection(origin, this)
    if (user >= 0 && own === undefined) {
      this.#ofUser.set(user, connection)
      connection.user = user
    }
    return connection
  }

  /** Called by a connection when its exchange is over. */
  ended(connection: Connection, status: number, outcome: Outcome, error?: string): void {
    this.#busy.delete(connection)
    if (connection.user < 0) this.#idle.get(connection.origin)!.push(connection)
    this.#onEnd(connection.request!, this.options.now(), status, outcome, error)
  }

  /** A connection that never came up is thrown away; whatever it still reports is ignored. */
  discard(connection: Connection): void {
    this.#busy.delete(connection)
    this.#open--
    if (connection.user >= 0) this.#ofUser.delete(connection.user)
    this.#onEnd(connection.request!, this.options.now(), 0, 'timedOut', 'timeout')
    void connection.client.destroy()
  }

  /** Gives up every exchange that has waited too long. One sweep, no timer per request. */
  sweep(nowMs: number): void {
    for (const connection of this.#busy) if (nowMs - connection.sentMs >= this.options.timeoutMs) connection.giveUp()
  }

  /** Gives up everything and closes the sockets. */
  async close(): Promise<void> {
    for (const connection of this.#busy) connection.giveUp()
    const all = [...this.#ofUser.values(), ...[...this.#idle.values()].flat()]
    await Promise.all(all.map((connection) => connection.client.destroy()))
  }
}

/** One socket, and the one exchange on it. It is its own undici handler, so that a request allocates little. */
class Connection implements Dispatcher.DispatchHandler {
  readonly origin: string
  readonly #connections: Connections
  readonly client: Client
  /** The user it belongs to; -1: whoever comes next. */
  user = -1
  request: Sent | null = null
  sentMs = 0
  #controller: Dispatcher.DispatchController | null = null
  #status = 0
  /** The first bytes of a 503, where its code is. */
  #problem = ''
  #active = false
  #gaveUp = false

  constructor(origin: string, connections: Connections) {
    this.origin = origin
    this.#connections = connections
    const { timeoutMs, insecure } = connections.options
    this.client = new Client(origin, {
      pipelining: 1,
      allowH2: false,
      // Ours is the sweep; these only have to be longer.
      headersTimeout: timeoutMs * 2 + 1000,
      bodyTimeout: timeoutMs * 2 + 1000,
      // As long as a think time may be. A shorter hint of the server (Keep-Alive: timeout=) is honoured.
      keepAliveTimeout: 60_000,
      connect: { timeout: timeoutMs * 2 + 1000, rejectUnauthorized: !insecure },
    })
  }

  begin(request: Sent, plan: RequestPlan, nowMs: number): void {
    this.request = request
    this.sentMs = nowMs
    this.#controller = null
    this.#status = 0
    this.#problem = ''
    this.#active = true
    this.#gaveUp = false
    const { path, headers, body } = plan
    this.client.dispatch({ path, method: plan.method as Dispatcher.HttpMethod, headers, body }, this)
  }

  giveUp(): void {
    this.#gaveUp = true
    if (this.#controller !== null) {
      this.#controller.abort(new Error('timed out'))
    } else {
      // Still connecting: undici has nothing to abort yet, so the whole connection goes.
      this.#active = false
      this.#connections.discard(this)
    }
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#controller = controller
  }

  onResponseStart(_controller: Dispatcher.DispatchController, status: number): void {
    this.#status = status
  }

  onResponseData(_controller: Dispatcher.DispatchController, chunk: Buffer): void {
    if (this.#status === 503 && this.#problem.length < MAX_PROBLEM_BYTES) this.#problem += chunk.toString('latin1')
  }

  onResponseEnd(): void {
    const status = this.#status
    if ((status >= 200 && status < 400) || this.#connections.options.expect.includes(status)) this.#end('ok')
    else if (status === 429) this.#end('limited')
    else if (status === 503 && isBackpressure(this.#problem)) this.#end('shed')
    else this.#end('failed', `status ${status}`)
  }

  onResponseError(_controller: Dispatcher.DispatchController, error: Error): void {
    if (this.#gaveUp) this.#end('timedOut', 'timeout')
    else this.#end('broken', nameOf(error))
  }

  #end(outcome: Outcome, error?: string): void {
    // A connection that was thrown away reports its end once more.
    if (!this.#active) return
    this.#active = false
    this.#connections.ended(this, outcome === 'broken' || outcome === 'timedOut' ? 0 : this.#status, outcome, error)
  }
}

/** Whether the body of a 503 says that the gateway was at its cap. */
export function isBackpressure(body: string): boolean {
  return /"code"\s*:\s*"BACKPRESSURE"/.test(body)
}

/** A stable word for a transport error: the system's code where there is one. */
function nameOf(error: Error & { code?: string; cause?: unknown }): string {
  const cause = error.cause as { code?: string } | undefined
  const inner = (error as { errors?: { code?: string }[] }).errors?.[0]?.code
  const code = cause?.code ?? inner ?? error.code
  if (code === 'UND_ERR_SOCKET')
    return error.message === 'other side closed' ? 'closed by the other side' : error.message
  return code ?? error.message
}
