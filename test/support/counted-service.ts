/**
 * A service in a process of its own that counts who is inside, for loads under which one in the test's own process would be
 * late to see who has left. `/reset` breaks off; any other request takes the milliseconds that its path begins with.
 * It counts when it has read all that had come: on a busy machine a request and the end of another, sent long before it, are
 * read in one go and in any order.
 */

import { type ChildProcess, fork } from 'node:child_process'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { fileURLToPath } from 'node:url'

export interface ServiceCounts {
  inside: number
  mostInside: number
  total: number
}

export class CountedService {
  readonly url: string
  readonly #child: ChildProcess

  constructor(child: ChildProcess, url: string) {
    this.#child = child
    this.url = url
  }

  counts(): Promise<ServiceCounts> {
    return new Promise((resolve) => {
      this.#child.once('message', (message) => resolve(message as ServiceCounts))
      this.#child.send('counts')
    })
  }

  async close(): Promise<void> {
    const gone = new Promise((resolve) => this.#child.once('exit', resolve))
    this.#child.kill('SIGKILL')
    await gone
  }
}

export async function startCountedService(): Promise<CountedService> {
  const child = fork(fileURLToPath(import.meta.url), ['serve'], { stdio: 'inherit' })
  const url = await new Promise<string>((resolve, reject) => {
    child.once('message', (message) => resolve(String(message)))
    child.once('exit', (code) => reject(new Error(`the service ended with ${code}`)))
  })
  return new CountedService(child, url)
}

function serve(): void {
  const inside = new Set<object>()
  let mostInside = 0
  let total = 0
  const count = () => {
    mostInside = Math.max(mostInside, inside.size)
  }
  const server = createServer({ keepAliveTimeout: 60_000 }, (request, response) => {
    total++
    inside.add(request)
    const gone = () => inside.delete(request)
    // Before the connection is closed on this side too: the other has left.
    request.once('error', gone)
    response.once('close', gone)
    setImmediate(count)
    if (request.url === '/reset') setTimeout(() => request.socket.resetAndDestroy(), 10)
    else setTimeout(() => response.end('ok'), Number.parseInt(request.url!.slice(1), 10) || 0)
  })
  server.listen(0, '127.0.0.1', () => {
    process.send!(`http://127.0.0.1:${(server.address() as AddressInfo).port}`)
  })
  process.on('message', () => {
    process.send!({ inside: inside.size, mostInside, total } satisfies ServiceCounts)
  })
  process.on('disconnect', () => process.exit())
}

if (process.send !== undefined && process.argv[1] === fileURLToPath(import.meta.url)) serve()
