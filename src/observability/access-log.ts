/**
 * The access log: one line an exchange, written when it has ended. What is logged is decided when the config is loaded;
 * a line is put together by hand, because nothing general is fast enough to stand on every request's way.
 */

import type { Exchange, Outcome } from '../exchange.ts'
import { FIELD_ID } from '../http1/field-names.ts'
import { wallOriginMs } from '../shared/clock.ts'
import { isSecretName, jsonText, plainText, redactQuery, redactUrl } from './log-text.ts'

export interface AccessLogOptions {
  readonly format: 'json' | 'common' | 'combined'
  /** Share of the exchanges, 0 to 1; errors are always logged. */
  readonly sample: number
  readonly only: 'all' | 'errors' | 'slow' | 'none'
  /** Milliseconds; with `only: slow`. */
  readonly slowerThan: number
  /** Lower-case names of request fields that are logged besides (json). */
  readonly headers?: readonly string[]
}

/** Writes the line of an exchange that has ended. @param nowMs `performance.now()` at its end */
export type AccessLog = (x: Exchange, outcome: Outcome, nowMs: number) => void

/** The status as logged and counted: 499 when the client left before an answer was begun. */
export function finalStatus(x: Exchange, outcome: Outcome): number {
  return outcome === 'aborted' && !x.client.headSent ? 499 : x.status
}

/** @returns undefined when nothing is logged */
export function compileAccessLog(
  options: AccessLogOptions,
  write: (line: string) => void,
  origin: () => number = wallOriginMs,
): AccessLog | undefined {
  const { only, sample, slowerThan } = options
  if (only === 'none') return undefined
  const format = FORMATS[options.format](options, origin)
  let owed = 0
  return (x, outcome, nowMs) => {
    const status = finalStatus(x, outcome)
    if (status < 500 && outcome === 'completed') {
      if (only === 'errors' || (only === 'slow' && nowMs - x.startedMs <= slowerThan)) return
      // Every n-th rather than by chance: the share is exact
      if (sample < 1) {
        owed += sample
        if (owed < 1) return
        owed -= 1
      }
    }
    write(format(x, outcome, status, nowMs))
  }
}

type Format = (x: Exchange, outcome: Outcome, status: number, nowMs: number) => string

const FORMATS: Record<AccessLogOptions['format'], (options: AccessLogOptions, origin: () => number) => Format> = {
  json: (options, origin) => {
    const timestamp = isoClock(origin)
    const name = keptText()
    const headers = (options.headers ?? []).filter((name) => name !== 'cookie' && !isSecretName(name))
    return (x, outcome, status, nowMs) => {
      const { request, client } = x
      let line = `{"@timestamp":"${timestamp(nowMs)}","http.request.method":${name(request.method)},"url.path":${jsonText(x.path)}`
      if (x.query !== '') line += `,"url.query":${jsonText(redactQuery(x.query).slice(1))}`
      const host = request.value(FIELD_ID.host)
      if (host !== undefined) line += `,"url.domain":${jsonText(host)}`
      line += `,"http.response.status_code":${status},"http.response.bytes":${client.bytesSent},"client.address":${jsonText(x.clientAddress)}`
      if (x.route !== undefined) line += `,"route":${name(x.route.name)}`
      line += `,"duration_ms":${millis(nowMs - x.startedMs)}`
      if (x.queuedMs > 0) line += `,"queue_ms":${millis(x.queuedMs)}`
      if (x.upstream !== '') line += `,"upstream":${name(x.upstream)},"endpoint":${name(x.endpoint)}`
      // From the place in the queue to the head of the answer
      if (x.upstreamHeadMs > 0) line += `,"upstream_ms":${millis(x.upstreamHeadMs - x.startedMs - x.queuedMs)}`
      if (x.attempts > 1) line += `,"attempts":${x.attempts}`
      if (x.cacheStatus !== '') line += `,"cache":"${x.cacheStatus}"`
      if (x.tier !== '') line += `,"tier":${name(x.tier)}`
      if (x.identity !== undefined) line += `,"user.id":${jsonText(x.identity.subject)}`
      if (x.reply !== undefined) {
        line += `,"code":"${x.reply.code}"`
        if (x.reply.reason !== undefined) line += `,"reason":${jsonText(x.reply.reason)}`
      }
      if (outcome === 'aborted') line += ',"outcome":"aborted"'
      if (x.requestId !== '') line += `,"request_id":${jsonText(x.requestId)}`
      const trace = traceId(x)
      if (trace !== '') line += `,"trace_id":"${trace}"`
      const agent = request.value(FIELD_ID['user-agent'])
      if (agent !== undefined) line += `,"user_agent":${jsonText(agent, 512)}`
      for (const field of headers) {
        const value = request.get(field)
        if (value !== undefined) line += `,"http.request.header.${field}":${jsonText(value)}`
      }
      return `${line}}\n`
    }
  },

  common: (_, origin) => {
    const clock = apacheClock(origin)
    return (x, _outcome, status, nowMs) => `${common(x, status, clock(nowMs))}\n`
  },

  combined: (_, origin) => {
    const clock = apacheClock(origin)
    return (x, _outcome, status, nowMs) => {
      const referer = x.request.value(FIELD_ID.referer)
      const agent = x.request.value(FIELD_ID['user-agent'])
      const from = referer === undefined ? '-' : plainText(redactUrl(referer))
      return `${common(x, status, clock(nowMs))} "${from}" "${agent === undefined ? '-' : plainText(agent, 512)}"\n`
    }
  },
}

function common(x: Exchange, status: number, time: string): string {
  const { request, client, identity } = x
  // A subject with white space would shift the columns
  const user = identity === undefined ? '-' : plainText(identity.subject).replaceAll(' ', '\\x20')
  const target = plainText(x.path + redactQuery(x.query))
  const line = `${plainText(request.method)} ${target} HTTP/1.${request.minorVersion}`
  return `${x.clientAddress} - ${user} [${time}] "${line}" ${status} ${client.bytesSent}`
}

/** `0` … `999` with a leading point, as in `.042`: formatting a fraction takes longer than the rest of a line's numbers. */
const DECIMALS = Array.from({ length: 1000 }, (_, i) => (i === 0 ? '' : `.${String(i).padStart(3, '0')}`))

/** Milliseconds with three decimals. */
function millis(ms: number): string {
  const us = ms > 0 ? Math.round(ms * 1000) : 0
  const whole = Math.floor(us / 1000)
  return whole + DECIMALS[us - whole * 1000]!
}

/** `jsonText` of names from the config, which are the same for every request. */
function keptText(): (name: string) => string {
  const kept = new Map<string, string>()
  return (name) => {
    let text = kept.get(name)
    if (text === undefined) {
      text = jsonText(name)
      // Endpoints come and go with DNS
      if (kept.size >= 4096) kept.clear()
      kept.set(name, text)
    }
    return text
  }
}

const TRACEPARENT = /^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}/
const TRACE_FIELD = 'traceparent: '

/** Of the trace that went upstream, or else that came. */
function traceId(x: Exchange): string {
  const at = x.requestFields === '' ? -1 : x.requestFields.indexOf(TRACE_FIELD)
  if (at >= 0) {
    const sent = x.requestFields.slice(at + TRACE_FIELD.length, at + TRACE_FIELD.length + 55)
    return TRACEPARENT.exec(sent)?.[1] ?? ''
  }
  const received = x.request.value(FIELD_ID.traceparent)
  return received === undefined ? '' : (TRACEPARENT.exec(received)?.[1] ?? '')
}

/** `2026-01-31T23:59:59.123Z`; everything up to the second is kept for the second. */
function isoClock(origin: () => number): (nowMs: number) => string {
  let originMs = origin()
  let second = Number.NaN
  let prefix = ''
  return (nowMs) => {
    let wallMs = Math.floor(originMs + nowMs)
    if (Math.floor(wallMs / 1000) !== second) {
      originMs = origin() // once a second: the clock may have been set
      wallMs = Math.floor(originMs + nowMs)
      second = Math.floor(wallMs / 1000)
      prefix = new Date(wallMs).toISOString().slice(0, 20)
    }
    const ms = wallMs - second * 1000
    return `${prefix}${ms < 10 ? '00' : ms < 100 ? '0' : ''}${ms}Z`
  }
}

const MONTHS = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec']

/** `31/Jan/2026:23:59:59 +0000` */
function apacheClock(origin: () => number): (nowMs: number) => string {
  let originMs = origin()
  let second = Number.NaN
  let text = ''
  return (nowMs) => {
    if (Math.floor((originMs + nowMs) / 1000) !== second) {
      originMs = origin()
      second = Math.floor((originMs + nowMs) / 1000)
      const iso = new Date(second * 1000).toISOString()
      text = `${iso.slice(8, 10)}/${MONTHS[Number(iso.slice(5, 7)) - 1]}/${iso.slice(0, 4)}:${iso.slice(11, 19)} +0000`
    }
    return text
  }
}
