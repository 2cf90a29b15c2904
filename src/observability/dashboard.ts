/**
 * The dashboard's side of the admin listener: the page, its data, and a stream with one sample a second. Nothing is
 * fetched from elsewhere; uPlot comes from its npm package.
 */

import { readFile } from 'node:fs/promises'
import type { ServerResponse } from 'node:http'
import { createRequire } from 'node:module'
import type { DashboardSample, History } from './history.ts'

const MAX_VIEWERS = 64
/** A viewer that is this far behind is let go; the browser comes back and reads the history anew. */
const MAX_BEHIND_BYTES = 1024 * 1024

const require = createRequire(import.meta.url)
const own = (name: string) => () => new URL(`./dashboard/${name}`, import.meta.url)
const ofPackage = (name: string) => () => require.resolve(name)

const FILES: readonly [path: `/${string}`, type: string, file: () => string | URL][] = [
  ['/dashboard', 'text/html; charset=utf-8', own('index.html')],
  ['/dashboard/style.css', 'text/css; charset=utf-8', own('style.css')],
  ['/dashboard/app.js', 'text/javascript; charset=utf-8', own('app.js')],
  ['/dashboard/charts.js', 'text/javascript; charset=utf-8', own('charts.js')],
  ['/dashboard/format.js', 'text/javascript; charset=utf-8', own('format.js')],
  ['/dashboard/tables.js', 'text/javascript; charset=utf-8', own('tables.js')],
  ['/dashboard/icon.svg', 'image/svg+xml', own('icon.svg')],
  ['/dashboard/uplot.js', 'text/javascript; charset=utf-8', ofPackage('uplot/dist/uPlot.iife.min.js')],
  ['/dashboard/uplot.css', 'text/css; charset=utf-8', ofPackage('uplot/dist/uPlot.min.css')],
]

/** What is needed of the admin listener's requests and answers. */
interface Asked {
  readonly method: string
}
interface Answer {
  readonly raw: ServerResponse
  json(value: unknown): void
  send(status: number, contentType: string, body: string | Uint8Array): void
  problem(status: number, title: string, headers?: Record<string, string>): void
}
type Handler = (request: Asked, response: Answer) => void | Promise<void>

/** Routes for the admin table. `close` ends the streams. */
export function createDashboard(history: Pick<History, 'history' | 'subscribe' | 'latest'>): {
  routes: Readonly<Record<`GET /${string}`, Handler>>
  close(): void
} {
  const routes: Record<`GET /${string}`, Handler> = {
    'GET /dashboard/history': (_, response) => response.json(history.history()),
  }
  for (const [path, type, file] of FILES) routes[`GET ${path}`] = serveFile(type, file)
  const viewers = new Set<ServerResponse>()
  const unsubscribe = history.subscribe((sample) => {
    if (viewers.size === 0) return
    const event = eventOf(sample)
    for (const viewer of viewers) {
      if (viewer.writableLength > MAX_BEHIND_BYTES) viewer.destroy()
      else viewer.write(event)
    }
  })
  routes['GET /dashboard/events'] = (request, response) => {
    if (request.method === 'HEAD' || viewers.size >= MAX_VIEWERS) {
      response.problem(503, 'Too many viewers', { 'Retry-After': '10' })
      return
    }
    const viewer = response.raw
    viewer.writeHead(200, { 'Content-Type': 'text/event-stream', 'X-Accel-Buffering': 'no' })
    viewer.write(history.latest === null ? 'retry: 2000\n\n' : `retry: 2000\n${eventOf(history.latest)}`)
    viewers.add(viewer)
    viewer.once('close', () => viewers.delete(viewer))
  }
  return {
    routes,
    close() {
      unsubscribe()
      for (const viewer of viewers) viewer.end()
    },
  }
}

function eventOf(sample: DashboardSample): string {
  return `data: ${JSON.stringify(sample, (_, value) => (typeof value === 'number' && !Number.isInteger(value) ? Number(value.toPrecision(6)) : value))}\n\n`
}

function serveFile(type: string, file: () => string | URL): Handler {
  let content: Promise<Buffer> | undefined
  return async (_, response) => {
    content ??= readFile(file())
    // A file that could not be read is tried again
    content.catch(() => (content = undefined))
    response.send(200, type, await content)
  }
}
