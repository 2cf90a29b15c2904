/**
 * `k6/http` for the shim. In k6 a request is a plain call that returns the answer. Here a worker does the asking while
 * this thread waits on shared memory.
 */

import { MessageChannel, receiveMessageOnPort, Worker } from 'node:worker_threads'
import type { ShimAnswer, ShimRequest } from './http-worker.ts'
import { Counter, Rate, Trend } from './metrics.ts'

const requests = new Counter('http_reqs')
const duration = new Trend('http_req_duration')
const failed = new Rate('http_req_failed')

const signal = new Int32Array(new SharedArrayBuffer(4))
const { port1, port2 } = new MessageChannel()
const worker = new Worker(new URL('./http-worker.ts', import.meta.url), {
  workerData: { port: port2, signal },
  transferList: [port2],
})
worker.unref()

interface Range {
  min: number
  max: number
}
let expected: (number | Range)[] = [{ min: 200, max: 399 }]

interface Params {
  headers?: Record<string, string>
  tags?: Record<string, string>
  responseType?: string
}

function ask(method: string, url: string, body: unknown, params: Params = {}) {
  const headers = { ...params.headers }
  const text = body === null || body === undefined ? null : typeof body === 'string' ? body : JSON.stringify(body)
  if (text !== null) headers['content-length'] = String(Buffer.byteLength(text))
  Atomics.store(signal, 0, 0)
  port1.postMessage({ method, url, headers, body: text } satisfies ShimRequest)
  if (Atomics.wait(signal, 0, 0, 15_000) === 'timed-out') throw new Error(`${method} ${url} was not answered`)
  // The message is posted before the signal is given.
  const {
    status,
    headers: fields,
    body: answer,
    durationMs,
    error,
  } = receiveMessageOnPort(port1)!.message as ShimAnswer
  const fine = expected.some((one) =>
    typeof one === 'number' ? one === status : status >= one.min && status <= one.max,
  )
  requests.add(1)
  duration.add(durationMs)
  failed.add(!fine)
  return {
    status,
    headers: fields,
    body: params.responseType === 'none' ? null : answer,
    error,
    url,
    timings: { duration: durationMs },
    json: () => JSON.parse(answer) as unknown,
  }
}

const http = {
  get: (url: string, params?: Params) => ask('GET', url, null, params),
  head: (url: string, params?: Params) => ask('HEAD', url, null, params),
  post: (url: string, body?: unknown, params?: Params) => ask('POST', url, body, params),
  put: (url: string, body?: unknown, params?: Params) => ask('PUT', url, body, params),
  del: (url: string, body?: unknown, params?: Params) => ask('DELETE', url, body, params),
  request: ask,
  expectedStatuses: (...statuses: (number | Range)[]) => statuses,
  setResponseCallback: (statuses: (number | Range)[]) => {
    expected = statuses
  },
}

export const { get, head, post, put, del, request, expectedStatuses, setResponseCallback } = http
export default http
