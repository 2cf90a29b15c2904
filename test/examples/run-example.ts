/** Starts a file of examples/ as it stands, but on ports that the system chooses; and services to stand behind it. */

import { readFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parse } from 'yaml'
import { startGateway, type TestGateway } from '../support/gateway.ts'

export const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))))

const opened: { close(): Promise<void> | void }[] = []

/** Ends everything that the functions here have started. For `afterEach`. */
export async function closeAll(): Promise<void> {
  for (const thing of opened.splice(0).reverse()) await thing.close()
}

export function closeLater<T extends { close(): Promise<void> | void }>(thing: T): T {
  opened.push(thing)
  return thing
}

/** @param env values of the `${NAME}` in the file */
export async function runExample(name: string, env: Record<string, string> = {}): Promise<TestGateway> {
  const config = parse(readFileSync(join(root, 'examples', `${name}.yaml`), 'utf8')) as {
    server?: { listen?: { address: string }[]; probes?: object }
  }
  const { listen = [{ address: '' }], probes, ...server } = config.server ?? {}
  const gateway = await startGateway(
    {
      ...config,
      server: {
        ...server,
        listen: listen.map((listener) => ({ ...listener, address: '127.0.0.1:0' })),
        admin: { address: '127.0.0.1:0' },
        ...(probes !== undefined && { probes: { address: '127.0.0.1:0' } }),
      },
    },
    { env },
  )
  return closeLater(gateway)
}

export interface Received {
  readonly method: string
  readonly url: string
  readonly headers: IncomingMessage['headers']
}

export interface Service {
  readonly port: string
  readonly url: string
  readonly host: string
  readonly server: Server
  readonly received: Received[]
  close(): Promise<void>
}

type Answer = (request: IncomingMessage, response: ServerResponse) => void

/** A service that says its name, or what `answer` says, and remembers what it was asked. */
export async function service(name = 'service', answer?: Answer): Promise<Service> {
  const received: Received[] = []
  const sockets = new Set<Socket>()
  const server = createServer((request, response) => {
    received.push({ method: request.method!, url: request.url!, headers: request.headers })
    if (answer !== undefined) answer(request, response)
    else response.setHeader('content-type', 'text/plain').end(name)
  })
  server.on('connection', (socket) => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  return closeLater({
    port: String(port),
    url: `http://127.0.0.1:${port}`,
    host: `127.0.0.1:${port}`,
    server,
    received,
    close: () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve())
        for (const socket of sockets) socket.destroy()
      }),
  })
}
