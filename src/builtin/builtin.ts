/**
 * The answers that need no upstream. Fixed ones are made when the config is loaded; a request only hands them out. They
 * take no admission place.
 */

import { isUtf8 } from 'node:buffer'
import { answer, type RouteHandler, refuse } from '../answer.ts'
import type { RouteConfig } from '../config/schema.ts'
import type { Exchange } from '../exchange.ts'
import { LocalReply } from '../local-reply.ts'
import { metricsJson } from '../observability/metrics-json.ts'
import type { Services } from '../services.ts'
import { MetricsReader } from '../shared/metrics-reader.ts'
import { VERSION } from '../version.ts'
import type { RedirectConfig, RespondConfig } from './config.ts'
import { readBody } from './read-body.ts'
import { compileToken } from './token.ts'

const JSON_TYPE = 'Content-Type: application/json\r\n'
const NO_HOST = new LocalReply('BAD_REQUEST', { detail: 'the redirection needs the Host field' })
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
  const bytes = utf8(body)
  return (x) => void answer(x, status, fields, bytes)
}

/** A text's UTF-8 bytes, one a character: the form in which answers are written fastest. */
function utf8(text: string): string {
  return Buffer.from(text).toString('latin1')
}

function answerJson(x: Exchange, status: number, value: object): void {
  answer(x, status, `${JSON_TYPE}Cache-Control: no-store\r\n`, utf8(`${JSON.stringify(value)}\n`))
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
    answerJson(x, ready ? 200 : 503, { ready, reason })
  }
}

function compileMetrics(services: Services): RouteHandler {
  const reader = new MetricsReader(services.memory.metrics)
  const startedMs = performance.timeOrigin
  return (x) => {
    const nowMs = startedMs + performance.now()
    answerJson(x, 200, metricsJson(reader, services.admissionFigures(), nowMs, startedMs))
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
  if (!isUtf8(body)) return JSON.stringify(body.toString('base64'))
  const text = body.toString('utf8')
  return JSON_MEDIA_TYPE.test(type) && isJson(text) ? text : JSON.stringify(text)
}

const JSON_MEDIA_TYPE = /^application\/(?:[a-z0-9.-]+\+)?json\b/i

function isJson(text: string): boolean {
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}

function compileRespond({ status, headers, body }: RespondConfig): RouteHandler {
  const typed = 'content-type' in headers || body === ''
  const fields = Object.entries(headers)
    .map(([name, value]) => `${name}: ${value}\r\n`)
    .join('')
  return fixed(status, (typed ? '' : 'Content-Type: text/plain; charset=utf-8\r\n') + fields, body)
}

function compileRedirect({ to, status }: RedirectConfig): RouteHandler {
  if (!to.includes('{')) return fixed(status, `Location: ${to}\r\n`, '')
  const needsHost = to.includes('{host}')
  return (x) => {
    if (needsHost && x.authority === '') {
      refuse(x, NO_HOST)
      return
    }
    const parts: Record<string, string> = {
      scheme: x.client.listener.secure ? 'https' : 'http',
      host: x.authority.replace(/:\d+$/, ''),
      path: x.path,
      query: x.query,
    }
    const location = to.replaceAll(/\{(scheme|host|path|query)\}/g, (_, name: string) => parts[name]!)
    answer(x, status, `Location: ${location}\r\n`, '')
  }
}
