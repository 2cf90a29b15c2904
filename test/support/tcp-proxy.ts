/**
 * A wire between the gateway and a service that a test can make slow, cut or lead elsewhere: as a network, or an address
 * that moves in a failover. Counts what passes, for tests of who still asks.
 */

import { connect, createServer, type Server, type Socket } from 'node:net'

export class TcpProxy {
  /** Milliseconds that every piece takes, each way. */
  delayMs = 0
  /** How often this went towards the service. */
  count: { of: RegExp; seen: number } = { of: /$^/g, seen: 0 }
  #target: number
  readonly #server: Server
  readonly #sockets = new Set<Socket>()

  constructor(target: number) {
    this.#target = target
    this.#server = createServer((client) => this.#pair(client))
  }

  get port(): number {
    return (this.#server.address() as { port: number }).port
  }

  listen(): Promise<void> {
    return new Promise((resolve) => this.#server.listen(0, '127.0.0.1', resolve))
  }

  /** New connections go there; those that are open are cut. */
  leadTo(target: number): void {
    this.#target = target
    this.cut()
  }

  cut(): void {
    for (const socket of this.#sockets) socket.destroy()
  }

  async close(): Promise<void> {
    this.cut()
    await new Promise((closed) => this.#server.close(closed))
  }

  #pair(client: Socket): void {
    const service = connect(this.#target, '127.0.0.1')
    for (const [from, to] of [
      [client, service],
      [service, client],
    ] as const) {
      this.#sockets.add(from)
      from.setNoDelay(true)
      from.on('error', () => {})
      from.on('data', (chunk) => {
        if (from === client) this.count.seen += chunk.toString('latin1').match(this.count.of)?.length ?? 0
        if (this.delayMs === 0) to.write(chunk)
        else setTimeout(() => to.write(chunk), this.delayMs / 2)
      })
      from.on('close', () => {
        this.#sockets.delete(from)
        to.destroy()
      })
    }
  }
}

export async function startTcpProxy(target: number): Promise<TcpProxy> {
  const proxy = new TcpProxy(target)
  await proxy.listen()
  return proxy
}
