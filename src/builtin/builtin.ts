/**
 * The answers that need no upstream. Fixed ones are made when the config is loaded; a request only hands them out. They
 * take no admission place.
 */

import { answer, type RouteHandler } from '../answer.ts'
import type { RouteConfig } from '../config/schema.ts'
import type { Exchange } from '../exchange.ts'
import { metricsJson } from '../observability/metrics-json.ts'
import type { Services } from '../services.ts'
import { MetricsReader } from '../shared/metrics-reader.ts'
import { VERSION } from '../version.ts'
import type { RedirectConfig, RespondConfig } from './config.ts'
import { readBody } from './read-body.ts'
import { compileToken } from './token.ts'

const JSON_TYPE = 'Content-Type: application/json\r\n'
/** An echo is held in memory. */
const MAX_ECHO_BYTES = 1024 * 1024

export function compileBuiltin(config: RouteConfig, services: Services): RouteHandler {
  if (config.home) return fixed(200, JSON_TYPE, home(services))
  if (config.health) return fixed(200, `${JSON_TYPE}Cache-Control: no-store\r\n`, '{"status":"healthy"}\n')
  if (config.ready) return compileReady(services)
  if (config.metrics) return compileMetrics(services)
  if (config.echo) return echo
  if (config.token) return compileToken(config.token, services)
  if (config.respond) return compileRespond(config.respond)
  return compileRedirect(config.redirect!)
}

function fixed(status: number, fields: string, body: string): RouteHandler {
  return (x) => void answer(x, status, fields, body)
}

function home(services: Services): string {
  const { routes } = services.config
  const endpoints = Object.fromEntries(
    routes
      .filter(({ match }) => match.path !== undefined)
      .map(({ match }) => [match.path!, (match.methods ?? ['*']).join(', ')]),
  )
  return `${JSON.stringify({ name: 'Fluxor Gateway', version: VERSION, status: 'running', endpoints })}\n`
}

function compileReady(services: Services): RouteHandler {
  return (x) => {
    const { ready, reason } = services.readiness()
    answer(x, ready ? 200 : 503, `${JSON_TYPE}Cache-Control: no-store\r\n`, `${JSON.stringify({ ready, reason })}\n`)
  }
}

function compileMetrics(services: Services): RouteHandler {
  const reader = new MetricsReader(services.memory.metrics)
  const startedMs = performance.timeOrigin
  return (x) => {
    const json = metricsJson(reader, services.admissionFigures(), performance.timeOrigin + performance.now(), startedMs)
    answer(x, 200, `${JSON_TYPE}Cache-Control: no-store\r\n`, `${JSON.stringify(json)}\n`)
  }
}

/** `{"echo":<body>}`: JSON as JSON, text as a string, other bytes as base64. */
const echo: RouteHandler = (x: Exchange) => {
  readBody(x, MAX_ECHO_BYTES, (body) => {
    answer(x, 200, JSON_TYPE, Buffer.from(`{"echo":${echoed(body, x.request.get('content-type') ?? '')}}\n`))
  })
}

function echoed(body: Buffer, type: string): string {
  if (body.length === 0) return '""'
  const text = body.toString('utf8')
  if (/^application\/(?:[a-z0-9.+-]*\+)?json\b/i.test(type)) {
    try {
      return JSON.stringify(JSON.parse(text))
    } catch {
      // not JSON after all: as text
    }
  }
  return JSON.stringify(text.includes('\ufffd') ? body.toString('base64') : text)
}

function compileRespond({ status, headers, body }: RespondConfig): RouteHandler {
  const typed = 'content-type' in headers || body === ''
  const fields = Object.entries(headers)
    .map(([name, value]) => `${name}: ${value}\r\n`)
    .join('')
  const bytes = Buffer.from(body)
  return (x) => void answer(x, status, (typed ? '' : 'Content-Type: text/plain; charset=utf-8\r\n') + fields, bytes)
}

function compileRedirect({ to, status }: RedirectConfig): RouteHandler {
  if (!to.includes('{')) return fixed(status, `Location: ${to}\r\n`, '')
  return (x) => {
    const parts: Record<string, string> = {
      scheme: x.client.listener.secure ? 'https' : 'http',
      host: x.authority.replace(/:\d+$/, ''),
      path: x.path,
      query: x.query,
    }
    if (x.authority === '' && to.includes('{host}')) {
      x.client.closeAfter()
      answer(x, 400, '', '')
      return
    }
    answer(
      x,
      status,
      `Location: ${to.replaceAll(/\{(scheme|host|path|query)\}/g, (_, name: string) => parts[name]!)}\r\n`,
      '',
    )
  }
}
