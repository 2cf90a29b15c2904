/**
 * A service in a process of its own, which can be stopped like one: killed, frozen by SIGSTOP, told to fail. It answers
 * with its name, counts what it was asked, and comes back on the same port.
 */

import { type ChildProcess, fork } from 'node:child_process'
import { createServer } from 'node:net'
import { fileURLToPath } from 'node:url'
import { freePort } from './free-port.ts'

/** `ok`, a status for every request, a reset in the middle of the head, or one in the middle of the body. */
export type Mode = 'ok' | number | 'resetInHead' | 'resetInBody'

const BODY_BYTES = 2000

export class ServiceProcess {
  readonly name: string
  readonly port: number
  #child: ChildProcess | undefined

  constructor(name: string, port: number) {
    this.name = name
    this.port = port
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`
  }

  get pid(): number {
    return this.#child!.pid!
  }

  /** Resolves when it listens. */
  async start(): Promise<void> {
    const child = fork(fileURLToPath(import.meta.url), [this.name, String(this.port)], { stdio: 'inherit' })
    this.#child = child
    await new Promise<void>((resolve, reject) => {
      child.once('message', () => resolve())
      child.once('exit', (code) => reject(new Error(`the service ended with ${code}`)))
    })
  }

  /** Ends at once, with all its connections. */
  async kill(): Promise<void> {
    const child = this.#child
    if (child === undefined) return
    this.#child = undefined
    const gone = new Promise((resolve) => child.once('exit', resolve))
    child.kill('SIGKILL')
    await gone
  }

  /** Takes connections (the kernel does) and answers nothing. */
  freeze(): void {
    this.#child!.kill('SIGSTOP')
  }

  thaw(): void {
    this.#child!.kill('SIGCONT')
  }

  async become(mode: Mode): Promise<void> {
    await this.#ask({ mode })
  }

  /** Requests so far, health checks apart. */
  async requests(): Promise<number> {
    return this.#ask({})
  }

  #ask(message: { mode?: Mode }): Promise<number> {
    const child = this.#child!
    return new Promise((resolve) => {
      child.once('message', (answer) => resolve((answer as { requests: number }).requests))
      child.send(message)
    })
  }
}

export async function startServices(...names: string[]): Promise<ServiceProcess[]> {
  const services: ServiceProcess[] = []
  for (const name of names) {
    const service = new ServiceProcess(name, await freePort())
    await service.start()
    services.push(service)
  }
  return services
}

/** The child's side: one request at a time on each connection, which is all that a gateway sends. */
function serve(name: string, port: number): void {
  let mode: Mode = 'ok'
  let requests = 0
  const body = name.padEnd(BODY_BYTES, '.')
  const server = createServer({ noDelay: true }, (socket) => {
    let buffer = ''
    socket.on('error', () => {})
    socket.on('data', (chunk) => {
      buffer += chunk.toString('latin1')
      const end = buffer.indexOf('\r\n\r\n')
      if (end < 0) return
      const isHealth = buffer.startsWith('GET /health')
      buffer = buffer.slice(end + 4)
      if (!isHealth) requests++
      const status = typeof mode === 'number' ? mode : 200
      const head = `HTTP/1.1 ${status} X\r\nContent-Length: ${BODY_BYTES}\r\nX-Service: ${name}\r\n\r\n`
      if (mode === 'resetInHead') socket.write(head.slice(0, 20), () => socket.resetAndDestroy())
      else if (mode === 'resetInBody' && !isHealth) {
        socket.write(head + body.slice(0, 100))
        setTimeout(() => socket.resetAndDestroy(), 10)
      } else socket.write(head + body)
    })
  })
  server.listen(port, '127.0.0.1', () => process.send!({ requests }))
  process.on('message', (message: { mode?: Mode }) => {
    if (message.mode !== undefined) mode = message.mode
    process.send!({ requests })
  })
  process.on('disconnect', () => process.exit())
}

if (process.send !== undefined && process.argv[1] === fileURLToPath(import.meta.url)) {
  serve(process.argv[2]!, Number(process.argv[3]))
}
