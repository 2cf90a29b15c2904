/** The half of the shim's HTTP that may wait: one request at a time over a kept-alive connection. */

import { Agent, request } from 'node:http'
import { type MessagePort, workerData } from 'node:worker_threads'

export interface ShimRequest {
  readonly method: string
  readonly url: string
  readonly headers: Record<string, string>
  readonly body: string | null
}

export interface ShimAnswer {
  readonly status: number
  readonly headers: Record<string, string>
  readonly body: string
  readonly durationMs: number
  readonly error: string
}

const { port, signal } = workerData as { port: MessagePort; signal: Int32Array<SharedArrayBuffer> }
const agent = new Agent({ keepAlive: true, maxSockets: 1 })

port.on('message', (asked: ShimRequest) => {
  const beganMs = performance.now()
  const done = (answer: Partial<ShimAnswer>) => {
    const durationMs = performance.now() - beganMs
    port.postMessage({ status: 0, headers: {}, body: '', error: '', durationMs, ...answer })
    Atomics.store(signal, 0, 1)
    Atomics.notify(signal, 0)
  }
  const { method, url, headers, body } = asked
  const sent = request(url, { method, headers, agent, timeout: 10_000 }, (response) => {
    let text = ''
    response.setEncoding('utf8')
    response.on('data', (chunk: string) => {
      text += chunk
    })
    response.on('end', () => {
      const fields = Object.entries(response.headers).map(([name, value]) => [name, String(value)])
      done({ status: response.statusCode ?? 0, headers: Object.fromEntries(fields), body: text })
    })
    response.on('error', (error) => done({ error: error.message }))
  })
  sent.on('timeout', () => sent.destroy(new Error('request timeout')))
  sent.on('error', (error) => done({ error: error.message }))
  sent.end(body ?? undefined)
})
