/**
 * Ways for a thread of the gateway to die, from outside: loaded into its process (`node --import`, which its threads take over),
 * it listens on a socket of the file system for `KIND THREAD` and does it in that thread. The other half asks.
 */

import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import { fileURLToPath } from 'node:url'
import { BroadcastChannel, isMainThread, workerData } from 'node:worker_threads'

/** Throws outside of everything, takes all the memory that it may have, or stands still. */
export type ThreadFault = 'throw' | 'memory' | 'stall'

const SOCKET = 'FLUXOR_TEST_FAULTS'

/** For `startGateway`'s `env`. The heap is small, so that it is used up at once. */
export function faultsEnv(socketPath: string): Record<string, string> {
  return { [SOCKET]: socketPath, NODE_OPTIONS: `--import=${fileURLToPath(import.meta.url)} --max-old-space-size=128` }
}

export async function breakThread(socketPath: string, fault: ThreadFault, thread: number): Promise<void> {
  const socket = connect(socketPath)
  await once(socket, 'connect')
  socket.end(`${fault} ${thread}`)
  await once(socket, 'close')
}

const FAULTS: Record<ThreadFault, () => void> = {
  throw() {
    setImmediate(() => {
      throw new Error('a fault of a test')
    })
  },
  memory() {
    const kept: number[][] = []
    for (;;) kept.push(new Array<number>(100_000).fill(kept.length))
  },
  stall() {
    for (;;);
  },
}

const path = process.env[SOCKET]
if (path !== undefined) {
  const channel = new BroadcastChannel(SOCKET)
  channel.unref()
  if (isMainThread) {
    const server = createServer((socket) => {
      socket.on('data', (order) => channel.postMessage(order.toString()))
      socket.on('end', () => socket.end())
    })
    server.listen(path).unref()
  } else {
    channel.onmessage = (event) => {
      const [fault, thread] = String((event as MessageEvent).data).split(' ')
      const { info } = workerData as { info?: { thread: number } }
      if (info?.thread === Number(thread)) FAULTS[fault as ThreadFault]()
    }
  }
}
